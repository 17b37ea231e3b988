//! Values of rows of logits that need no target, with their gradients: the log-sum-exp and the entropy; and the
//! probabilities of a teacher's logits, which are the gradient of their log-sum-exp.
//!
//! With `x` the scaled and capped logits of a row, `m` their maximum and `p` their probabilities:
//!
//! ```text
//! lse     = m + ln sum_c exp(x[c] - m)          d lse     / dx[c] = p[c]
//! spread  = sum_c p[c] (m - x[c])
//! entropy = spread + (lse - m)                  d entropy / dx[c] = p[c] ((m - x[c]) - spread)
//! ```
//!
//! The gradient of the entropy is that of its definition, `-p[c] (ln p[c] + entropy)`, without `lse - m`, which is in
//! both terms. A class of probability 0 has a gradient of 0.

use super::ahead::Ahead;
use super::blocks::{Block, Blocks, LANES, Read, Visitor, Write, of_lane};
use super::factor::Factor;
use super::finish::Sums;
use super::float::Float;
use super::instructions::Task;
use super::logits::{Scale, Softmax};
use super::row_loss::RowLoss;
use super::rows::{Losses, Rows};
use crate::operation::RowFactor;

/// Log-sum-exp of the rows.
#[derive(Clone, Copy)]
pub(super) struct LogSumExp<'a, A, const W: usize>(pub(super) Softmax<'a, A, W>);

/// Entropy of the rows' probabilities.
#[derive(Clone, Copy)]
pub(super) struct Entropy<'a, A, const W: usize>(pub(super) Softmax<'a, A, W>);

impl<A: Float, const W: usize> RowLoss<A, W> for LogSumExp<'_, A, W> {
    fn with_distribution_alone(self) -> Option<Self> {
        None
    }

    #[inline(always)]
    fn losses<const FMA: bool>(self, x: &[A]) -> Losses<A, W> {
        let sums = self.0.sums::<FMA>(&mut Read::new(x, -A::INFINITY));
        in_place_of_losses(self.0.lse::<FMA>(&sums))
    }

    #[inline(always)]
    fn gradient_over<const FMA: bool>(self, x: &mut [A]) -> Losses<A, W> {
        let mut x = Write::new(x, -A::INFINITY);
        let sums = self.0.sums::<FMA>(&mut x);
        let factor = self.0.factor_of_exponentials(&sums);
        x.visit(0..x.steps(), &mut Multiplied { factor: &factor });
        in_place_of_losses(self.0.lse::<FMA>(&sums))
    }

    fn targets_gradient<const FMA: bool>(self, _x: &[A], _gradient: &mut [A]) {
        unreachable!("a log-sum-exp has no targets")
    }

    #[inline(always)]
    fn entropy<const FMA: bool>(self, x: &[A]) -> [A; W] {
        self.0.entropy::<FMA>(x)
    }
}

impl<A: Float, const W: usize> RowLoss<A, W> for Entropy<'_, A, W> {
    fn with_distribution_alone(self) -> Option<Self> {
        None
    }

    #[inline(always)]
    fn losses<const FMA: bool>(self, x: &[A]) -> Losses<A, W> {
        in_place_of_losses(self.0.entropy::<FMA>(x))
    }

    #[inline(always)]
    fn gradient_over<const FMA: bool>(self, x: &mut [A]) -> Losses<A, W> {
        let (sums, spread) = self.0.sums_and_spread::<FMA>(x);
        let mut x = Write::new(x, -A::INFINITY);
        let mut visitor = EntropySlopes::<A, W, FMA> {
            softmax: &self.0,
            offset: &self.0.offsets(&sums.maximum),
            factor: &self.0.factor_of_exponentials(&sums),
            spread: &spread,
        };
        x.visit(0..x.steps(), &mut visitor);
        in_place_of_losses(entropy_of::<A, W, FMA>(&sums, spread))
    }

    fn targets_gradient<const FMA: bool>(self, _x: &[A], _gradient: &mut [A]) {
        unreachable!("an entropy has no targets")
    }

    #[inline(always)]
    fn entropy<const FMA: bool>(self, x: &[A]) -> [A; W] {
        self.0.entropy::<FMA>(x)
    }
}

/// `spread + (lse - m)`.
#[inline(always)]
pub(super) fn entropy_of<A: Float, const W: usize, const FMA: bool>(
    sums: &Sums<A, W>,
    mut spread: [A; W],
) -> [A; W] {
    for row in 0..W {
        spread[row] += sums.others[row].ln_1p::<FMA>();
    }
    spread
}

impl<A: Float, const W: usize> Softmax<'_, A, W> {
    #[inline(always)]
    fn lse<const FMA: bool>(&self, sums: &Sums<A, W>) -> [A; W] {
        let mut lse = [A::ZERO; W];
        for row in 0..W {
            lse[row] = sums.maximum[row] * self.scale.whole + sums.others[row].ln_1p::<FMA>();
        }
        lse
    }

    /// Factor that makes the gradient of the logits before their scale from exponentials.
    #[inline(always)]
    fn factor_of_exponentials(&self, sums: &Sums<A, W>) -> [A; W] {
        let mut factor = [A::ZERO; W];
        for row in 0..W {
            factor[row] = self.rows.scale[row] * self.scale.whole / (sums.others[row] + A::ONE);
        }
        factor
    }
}

/// Values in place of losses.
#[inline(always)]
fn in_place_of_losses<A: Float, const W: usize>(values: [A; W]) -> Losses<A, W> {
    let zero = [A::ZERO; W];
    Losses {
        main: values,
        penalty: zero,
        lse: zero,
        log_prob: zero,
        max_log_prob: zero,
    }
}

/// Task: probabilities of `W` rows of a teacher's logits, in place of these.
pub(super) struct TeacherShares<'a, A, const W: usize> {
    pub(super) scale: Scale<A>,
    pub(super) x: &'a mut [A],
}

impl<A: Float, const W: usize> Task for TeacherShares<'_, A, W> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let softmax = Softmax::<A, W> {
            rows: &Rows {
                class: [0; W],
                share: [A::ZERO; W],
                scale: [A::ONE; W],
                penalty_scale: [A::ZERO; W],
            },
            shares: None,
            scale: self.scale,
            z_loss: A::ZERO,
            factor: Factor::new(RowFactor::None),
            entries: None,
            weights: None,
            ahead: [Ahead::nothing(); 2],
        };
        let mut x = Write::new(self.x, -A::INFINITY);
        let sums = softmax.sums::<FMA>(&mut x);
        let factor = sums.others.map(|others| A::ONE / (others + A::ONE));
        x.visit(0..x.steps(), &mut Multiplied { factor: &factor });
    }
}

/// Multiplies exponentials by a factor of each row.
pub(super) struct Multiplied<'a, A, const W: usize> {
    pub(super) factor: &'a [A; W],
}

impl<A: Float, const W: usize> Visitor<A> for Multiplied<'_, A, W> {
    #[inline(always)]
    fn visit(&mut self, _step: usize, block: &Block<A>) -> Block<A> {
        let mut gradient = [A::ZERO; LANES];
        for lane in 0..LANES {
            gradient[lane] = block[lane] * of_lane(self.factor, lane);
        }
        gradient
    }
}

/// Turns logits into the gradient of the entropy.
struct EntropySlopes<'a, A, const W: usize, const FMA: bool> {
    softmax: &'a Softmax<'a, A, W>,
    /// See [`Scale::difference`](super::logits::Scale::difference).
    offset: &'a [A; W],
    /// Factor of the exponentials.
    factor: &'a [A; W],
    spread: &'a [A; W],
}

impl<A: Float, const W: usize, const FMA: bool> Visitor<A> for EntropySlopes<'_, A, W, FMA> {
    #[inline(always)]
    fn visit(&mut self, _step: usize, block: &Block<A>) -> Block<A> {
        let mut gradient = [A::ZERO; LANES];
        for lane in 0..LANES {
            let scale = self.softmax.scale;
            let gap = -scale.difference::<FMA>(block[lane], of_lane(self.offset, lane));
            let exponential = (-gap).exp::<FMA>();
            let slope =
                exponential * of_lane(self.factor, lane) * (gap - of_lane(self.spread, lane));
            gradient[lane] = if exponential == A::ZERO {
                A::ZERO
            } else {
                slope
            };
        }
        gradient
    }
}
