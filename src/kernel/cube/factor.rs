//! Factor of a row's loss by the probability of its target, see [`RowFactor`](crate::operation::RowFactor); the
//! formulas stand in [`cpu::factor`](crate::kernel::cpu).

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::spec::{Factor, Numbers, Spec};

/// Numbers of a row with a factor.
#[derive(CubeType)]
pub(crate) struct Factored<A: Float> {
    pub(crate) loss: A,
    /// Factor of the shares.
    pub(crate) share: A,
    /// Further share of the target.
    pub(crate) at_target: A,
}

/// Numbers of a row of this loss, whose target has the probability `p`, lacks `missing` of 1, and whose class has this
/// weight.
#[cube]
pub(crate) fn factored<A: Float>(
    loss: A,
    p: A,
    missing: A,
    class_weight: A,
    numbers: &Numbers,
    #[comptime] spec: &Spec,
) -> Factored<A> {
    let (zero, one) = (A::new(0.0), A::new(1.0));
    let number = numbers.factor.get::<A>();
    match comptime!(spec.factor) {
        Factor::None => Factored::<A> {
            loss,
            share: one,
            at_target: zero,
        },
        Factor::Focal { whole, has_rest } => {
            let mut rest = one;
            if has_rest {
                let exponent = numbers.rest_of_factor.get::<A>() * missing.ln();
                rest = select(missing == zero, zero, exponent.exp());
            }
            // `(1 - p)^(gamma - 1) l`, in an order in which only the result overflows or vanishes.
            let mut power = rest;
            let mut slope = select(loss > one, power * loss / missing, power * (loss / missing));
            if whole > 0 {
                #[unroll]
                for _ in 1..whole {
                    power *= missing;
                }
                slope = power * loss;
                power *= missing;
            }
            let pull = number * p * slope;
            // An infinite loss, that of a share at minus infinity, stays infinite, and pulls nothing through the
            // factor.
            let is_infinite = loss == zero - numbers.lowest.get::<A>();
            let has_none = p == zero || missing == zero || is_infinite;
            Factored::<A> {
                loss: select(is_infinite, loss, power * loss),
                share: power,
                at_target: select(has_none, zero, pull),
            }
        }
        Factor::Poly => Factored::<A> {
            loss: loss + number * class_weight * missing,
            share: one,
            at_target: number * class_weight * p,
        },
        Factor::TargetProbability => Factored::<A> {
            loss: select(p == zero, zero, p * loss),
            share: p,
            at_target: zero,
        },
    }
}
