//! Factor of a row's loss by the probability of its target, see [`RowFactor`].
//!
//! With `p` the probability, `l` the loss and `w` the weight of the target's class, the loss is `f l + g`, and the
//! gradient of the logits that of a row whose shares are `f a[c]`, and `k` more at the target:
//!
//! ```text
//!                       f              g               k
//! Focal                 (1 - p)^gamma  0               gamma p (1 - p)^(gamma - 1) l
//! Poly                  1              epsilon w (1 - p)   epsilon w p
//! TargetProbability     p              0               0
//! ```

use super::float::Float;
use crate::operation::RowFactor;

/// A factor with its number in the arithmetic's dtype.
#[derive(Clone, Copy)]
pub(crate) enum Factor<A> {
    None,
    Focal {
        gamma: A,
        /// See [`RowFactor::steps_of_power`].
        whole: u32,
        rest: A,
    },
    Poly(A),
    TargetProbability,
}

/// Numbers of a row with a factor.
#[derive(Clone, Copy)]
pub(crate) struct Factored<A> {
    pub(crate) loss: A,
    /// Factor of the shares.
    pub(crate) share: A,
    /// Further share of the target.
    pub(crate) at_target: A,
}

impl<A: Float> Factor<A> {
    pub(crate) fn new(factor: RowFactor) -> Self {
        match factor {
            RowFactor::None => Self::None,
            RowFactor::Focal { gamma } => {
                let (whole, rest) = RowFactor::steps_of_power(gamma);
                Self::Focal {
                    gamma: A::of(gamma),
                    whole,
                    rest: A::of(rest),
                }
            }
            RowFactor::Poly { epsilon } => Self::Poly(A::of(epsilon)),
            RowFactor::TargetProbability => Self::TargetProbability,
        }
    }

    pub(crate) fn is_some(self) -> bool {
        !matches!(self, Self::None)
    }

    /// Numbers of a row of this loss, whose target has the probability `p`, lacks `missing` of 1, and whose class
    /// has this weight.
    #[inline(always)]
    pub(crate) fn of<const FMA: bool>(
        self,
        loss: A,
        [p, missing]: [A; 2],
        weight: A,
    ) -> Factored<A> {
        let plain = Factored {
            loss,
            share: A::ONE,
            at_target: A::ZERO,
        };
        match self {
            Self::None => plain,
            Self::Focal { gamma, whole, rest } => {
                let power = power_of::<A, FMA>(missing, whole, rest);
                // `(1 - p)^(gamma - 1) l`, in an order in which only the result overflows or vanishes.
                let slope = if whole > 0 {
                    power_of::<A, FMA>(missing, whole - 1, rest) * loss
                } else if loss > A::ONE {
                    power * loss / missing
                } else {
                    power * (loss / missing)
                };
                // An infinite loss, that of a share at minus infinity, stays infinite, and pulls nothing through the
                // factor.
                let is_infinite = loss == A::INFINITY;
                let has_none = p == A::ZERO || missing == A::ZERO || is_infinite;
                Factored {
                    loss: if is_infinite { loss } else { power * loss },
                    share: power,
                    at_target: if has_none { A::ZERO } else { gamma * p * slope },
                }
            }
            Self::Poly(epsilon) => Factored {
                loss: loss + epsilon * weight * missing,
                at_target: epsilon * weight * p,
                ..plain
            },
            Self::TargetProbability => Factored {
                loss: if p == A::ZERO { A::ZERO } else { p * loss },
                share: p,
                ..plain
            },
        }
    }
}

/// `base^(whole + rest)` of a base from 0 to 1.
#[inline(always)]
fn power_of<A: Float, const FMA: bool>(base: A, whole: u32, rest: A) -> A {
    let mut power = A::ONE;
    for _ in 0..whole {
        power = power * base;
    }
    if rest == A::ZERO {
        return power;
    }
    power * (rest * base.ln::<FMA>()).exp::<FMA>()
}
