//! The loss and the gradients of probabilities `s`: `sum_c a[c] (-ln s[c])`, `-a[c] / s[c]`.

use super::blocks::{Blocks, LANES, RUN, Read, Total, Write, of_lane};
use super::float::Float;
use super::instructions::Task;
use super::rows::{Losses, Rows};
use super::shares::Shares;
use super::softmax::at;

/// `W` rows of probabilities, see [`blocks`](super::blocks).
#[derive(Clone, Copy)]
pub(crate) struct Probabilities<'a, A, const W: usize> {
    pub(crate) rows: &'a Rows<A, W>,
    /// Absent where only the target's class has a share.
    pub(crate) shares: Option<Shares<'a, A>>,
}

/// The losses of rows whose probabilities are `s`.
pub(crate) struct LossOf<'a, A, const W: usize> {
    pub(crate) probabilities: Probabilities<'a, A, W>,
    pub(crate) s: &'a [A],
}

impl<A: Float, const W: usize> Task for LossOf<'_, A, W> {
    type Output = Losses<A, W>;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> Losses<A, W> {
        self.probabilities.losses::<FMA>(self.s)
    }
}

/// The losses of rows, whose probabilities `s` the gradient replaces.
pub(crate) struct GradientOver<'a, A, const W: usize> {
    pub(crate) probabilities: Probabilities<'a, A, W>,
    pub(crate) s: &'a mut [A],
}

impl<A: Float, const W: usize> Task for GradientOver<'_, A, W> {
    type Output = Losses<A, W>;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> Losses<A, W> {
        let Self { probabilities, s } = self;
        let losses = probabilities.losses::<FMA>(s);
        let mut at_target = [A::ZERO; W];
        for row in 0..W {
            let share = probabilities.rows.share[row];
            if share != A::ZERO {
                let s = s[at::<W>(probabilities.rows.class[row], row)];
                at_target[row] = share / s * probabilities.rows.scale[row];
            }
        }
        match probabilities.shares {
            None => s.fill(A::ZERO),
            Some(shares) => probabilities.spread_gradient(&shares, s),
        }
        for row in 0..W {
            let at = at::<W>(probabilities.rows.class[row], row);
            s[at] = s[at] - at_target[row];
        }
        losses
    }
}

/// The gradient of the rows' distributions.
pub(crate) struct TargetsGradient<'a, A, const W: usize> {
    pub(crate) probabilities: Probabilities<'a, A, W>,
    pub(crate) s: &'a [A],
    pub(crate) gradient: &'a mut [A],
}

impl<A: Float, const W: usize> Task for TargetsGradient<'_, A, W> {
    type Output = ();

    /// `-(1 - e) weight[c] ln s[c]`, 0 where its factor is.
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self {
            probabilities,
            s,
            gradient,
        } = self;
        let shares = probabilities.shares.expect("distributions have shares");
        let s = Read::new(s, A::ONE);
        let mut gradient = Write::new(gradient, A::ZERO);
        for step in 0..s.steps() {
            let slopes = shares.slopes::<W>(step);
            let block = s.get(step);
            let mut result = [A::ZERO; LANES];
            for lane in 0..LANES {
                let slope = slopes[lane] * -block[lane].ln::<FMA>();
                let slope = if slopes[lane] == A::ZERO {
                    A::ZERO
                } else {
                    slope
                };
                result[lane] = slope * of_lane(&probabilities.rows.scale, lane);
            }
            gradient.put(step, result);
        }
    }
}

impl<A: Float, const W: usize> Probabilities<'_, A, W> {
    #[inline(always)]
    fn losses<const FMA: bool>(&self, s: &[A]) -> Losses<A, W> {
        let mut main = match self.shares {
            None => [A::ZERO; W],
            Some(shares) => spread_losses::<A, W, FMA>(&shares, s),
        };
        for row in 0..W {
            let share = self.rows.share[row];
            if share != A::ZERO {
                let s = s[at::<W>(self.rows.class[row], row)];
                main[row] += share * -s.ln::<FMA>();
            }
        }
        Losses {
            main,
            penalty: [A::ZERO; W],
        }
    }

    #[inline(always)]
    fn spread_gradient(&self, shares: &Shares<'_, A>, s: &mut [A]) {
        let mut s = Write::new(s, A::ONE);
        for step in 0..s.steps() {
            let share = shares.block::<W>(step);
            let mut gradient = *s.get(step);
            for lane in 0..LANES {
                let quotient = -share[lane] / gradient[lane] * of_lane(&self.rows.scale, lane);
                gradient[lane] = if share[lane] == A::ZERO {
                    A::ZERO
                } else {
                    quotient
                };
            }
            s.put(step, gradient);
        }
    }
}

#[inline(always)]
fn spread_losses<A: Float, const W: usize, const FMA: bool>(
    shares: &Shares<'_, A>,
    s: &[A],
) -> [A; W] {
    let s = Read::new(s, A::ONE);
    let mut losses = Total::new();
    for first in (0..s.steps()).step_by(RUN) {
        let mut run = [A::ZERO; LANES];
        for step in first..s.steps().min(first + RUN) {
            let share = shares.block::<W>(step);
            let block = s.get(step);
            for lane in 0..LANES {
                let loss = share[lane] * -block[lane].ln::<FMA>();
                run[lane] += if share[lane] == A::ZERO {
                    A::ZERO
                } else {
                    loss
                };
            }
        }
        losses.add(&run);
    }
    losses.finish::<W>()
}
