//! Loss and gradients of logits.
//!
//! With `x` the scaled and capped logits of a row, `m` their maximum, and shares `a[c]`:
//!
//! ```text
//! others  = sum_c exp(x[c] - m), without the maximum's own 1
//! lse - m = ln(1 + others)
//! loss    = sum_c a[c] (m - x[c]) + A (lse - m)          A = sum_c a[c]
//! dx[c]   = A p[c] - a[c]                                p[c] = exp(x[c] - m) / (1 + others)
//!         = sum_{other} a - A others / (1 + others)      at a class of more than half of p
//! ```
//!
//! The last line is minus the sum of the other classes' gradients: where a row has been learned, `A
//! p` and `a` are nearly equal there, and their difference would have no digits left. For the same
//! reason the maximum's 1 stays out of the sum.
//!
//! Logits are read from memory once. While they are in cache, the exponentials replace them, and the
//! gradient replaces the exponentials.

use super::blocks::{
    Block, Blocks, LANES, RUN, Read, Total, Visitor, Write, fold_maximum, fold_sum, of_lane,
};
use super::float::Float;
use super::instructions::Task;
use super::rows::{Losses, Rows};
use super::shares::Shares;

/// `W` rows of logits, see [`blocks`](super::blocks).
#[derive(Clone, Copy)]
pub(crate) struct Softmax<'a, A, const W: usize> {
    pub(crate) rows: &'a Rows<A, W>,
    /// Absent where only the target's class has a share.
    pub(crate) shares: Option<Shares<'a, A>>,
    /// Factor of the logits.
    pub(crate) scale: A,
    /// Factor of the squared log-sum-exp.
    pub(crate) z_loss: A,
}

/// Task: losses of rows whose logits are `x`.
pub(crate) struct LossOf<'a, A, const W: usize> {
    pub(crate) softmax: Softmax<'a, A, W>,
    pub(crate) x: &'a [A],
}

impl<A: Float, const W: usize> Task for LossOf<'_, A, W> {
    type Output = Losses<A, W>;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> Losses<A, W> {
        let targets = self.softmax.target_logits(self.x);
        let mut x = Read::new(self.x, -A::INFINITY);
        let sums = self.softmax.sums::<FMA>(&mut x);
        self.softmax.finish::<FMA>(&sums, &targets).losses
    }
}

/// Task: losses of rows. The gradient replaces the logits `x`, or if it is not wanted, the exponentials
/// do.
pub(crate) struct GradientOver<'a, A, const W: usize> {
    pub(crate) softmax: Softmax<'a, A, W>,
    pub(crate) x: &'a mut [A],
    pub(crate) wanted: bool,
}

impl<A: Float, const W: usize> Task for GradientOver<'_, A, W> {
    type Output = Losses<A, W>;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> Losses<A, W> {
        let Self { softmax, x, wanted } = self;
        let targets = softmax.target_logits(x);
        let mut blocks = Write::new(x, -A::INFINITY);
        let sums = softmax.sums::<FMA>(&mut blocks);
        let finished = softmax.finish::<FMA>(&sums, &targets);
        if !wanted {
            return finished.losses;
        }
        match softmax.shares {
            None => blocks.visit(
                0..blocks.steps(),
                &mut Gradient::<A, W, FMA, false> {
                    softmax: &softmax,
                    finished: &finished,
                },
            ),
            Some(_) => blocks.visit(
                0..blocks.steps(),
                &mut Gradient::<A, W, FMA, true> {
                    softmax: &softmax,
                    finished: &finished,
                },
            ),
        }
        softmax.subtract_targets(x, &finished);
        finished.losses
    }
}

/// Task: gradient of the rows' distributions.
pub(crate) struct TargetsGradient<'a, A, const W: usize> {
    pub(crate) softmax: Softmax<'a, A, W>,
    pub(crate) x: &'a [A],
    pub(crate) gradient: &'a mut [A],
}

impl<A: Float, const W: usize> Task for TargetsGradient<'_, A, W> {
    type Output = ();

    /// `(1 - e) weight[c] (lse - x[c])`, 0 where the factor of the difference is 0.
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self {
            softmax,
            x,
            gradient,
        } = self;
        let shares = softmax.shares.expect("distributions have shares");
        let targets = softmax.target_logits(x);
        let sums = softmax.sums::<FMA>(&mut Read::new(x, -A::INFINITY));
        let Finished { above, .. } = softmax.finish::<FMA>(&sums, &targets);
        gradient.copy_from_slice(x);
        let mut gradient = Write::new(gradient, -A::INFINITY);
        let mut visitor = Slopes {
            softmax: &softmax,
            shares,
            maximum: &sums.maximum,
            above: &above,
        };
        gradient.visit(0..gradient.steps(), &mut visitor);
    }
}

/// Task: entropy of rows.
pub(crate) struct Entropy<'a, A, const W: usize> {
    pub(crate) softmax: Softmax<'a, A, W>,
    pub(crate) x: &'a [A],
}

impl<A: Float, const W: usize> Task for Entropy<'_, A, W> {
    type Output = [A; W];

    /// `sum_c p[c] (m - x[c]) + (lse - m)`; a class of probability 0 adds 0 to the sum.
    #[inline(always)]
    fn run<const FMA: bool>(self) -> [A; W] {
        let Self { softmax, x } = self;
        let plain = Softmax {
            shares: None,
            ..softmax
        };
        let mut x = Read::new(x, -A::INFINITY);
        let sums = plain.sums::<FMA>(&mut x);
        let mut gaps = Total::new();
        for first in (0..x.steps()).step_by(RUN) {
            let mut visitor = Gaps::<A, W, FMA> {
                softmax: &softmax,
                maximum: &sums.maximum,
                run: [A::ZERO; LANES],
            };
            x.visit(first..x.steps().min(first + RUN), &mut visitor);
            gaps.add(&visitor.run);
        }
        let mut entropy = gaps.finish::<W>();
        for row in 0..W {
            let others = sums.others[row];
            entropy[row] = entropy[row] / (others + A::ONE) + others.ln_1p::<FMA>();
        }
        entropy
    }
}

/// Adds up `exp(x - m) (m - x)`.
struct Gaps<'a, A, const W: usize, const FMA: bool> {
    softmax: &'a Softmax<'a, A, W>,
    maximum: &'a [A; W],
    run: Block<A>,
}

impl<A: Float, const W: usize, const FMA: bool> Visitor<A> for Gaps<'_, A, W, FMA> {
    #[inline(always)]
    fn visit(&mut self, _step: usize, block: &Block<A>) -> Block<A> {
        for lane in 0..LANES {
            let gap = (of_lane(self.maximum, lane) - block[lane]) * self.softmax.scale;
            let exponential = (-gap).exp::<FMA>();
            let term = exponential * gap;
            self.run[lane] += if exponential == A::ZERO {
                A::ZERO
            } else {
                term
            };
        }
        *block
    }
}

struct Slopes<'a, A, const W: usize> {
    softmax: &'a Softmax<'a, A, W>,
    shares: Shares<'a, A>,
    maximum: &'a [A; W],
    above: &'a [A; W],
}

impl<A: Float, const W: usize> Visitor<A> for Slopes<'_, A, W> {
    #[inline(always)]
    fn visit(&mut self, step: usize, block: &Block<A>) -> Block<A> {
        let factors = self.shares.slopes::<W>(step);
        let mut slopes = [A::ZERO; LANES];
        for lane in 0..LANES {
            let gap = (of_lane(self.maximum, lane) - block[lane]) * self.softmax.scale;
            let factor = factors[lane];
            let slope = factor * (gap + of_lane(self.above, lane));
            let slope = if factor == A::ZERO { A::ZERO } else { slope };
            slopes[lane] = slope * of_lane(&self.softmax.rows.scale, lane);
        }
        slopes
    }
}

/// Sums over the classes of each row.
struct Sums<A, const W: usize> {
    /// Largest logit of each row, before the factor.
    maximum: [A; W],
    others: [A; W],
    /// `sum_c a[c] (m - x[c])` of the spread shares.
    gaps: [A; W],
    /// Sum of the spread shares at the maximum.
    at_maximum: [A; W],
    /// Sum of the spread shares of the other classes.
    elsewhere: [A; W],
}

/// Losses of rows, and numbers for their gradients.
struct Finished<A, const W: usize> {
    losses: Losses<A, W>,
    /// `lse - m`.
    above: [A; W],
    /// Factor of the exponentials.
    factor: [A; W],
    /// Gradient at the majority class: a class of more than half the probability.
    majority: [A; W],
    /// Exponential of the majority class; in a row without one 2, which no exponential equals.
    majority_exponential: [A; W],
    /// Number to subtract from the gradient at the target.
    at_target: [A; W],
}

/// Sums of one run of blocks.
struct Run<A> {
    others: Block<A>,
    gaps: Block<A>,
    at_maximum: Block<A>,
    elsewhere: Block<A>,
}

impl<A: Float> Run<A> {
    #[inline(always)]
    fn new() -> Self {
        let zero = [A::ZERO; LANES];
        Self {
            others: zero,
            gaps: zero,
            at_maximum: zero,
            elsewhere: zero,
        }
    }
}

impl<A: Float, const W: usize> Softmax<'_, A, W> {
    /// Logit of each row's index target. Callers read it before they write over the logits.
    #[inline(always)]
    fn target_logits(&self, x: &[A]) -> [A; W] {
        let mut logits = [A::ZERO; W];
        for row in 0..W {
            logits[row] = x[at::<W>(self.rows.class[row], row)];
        }
        logits
    }

    #[inline(always)]
    fn sums<const FMA: bool>(&self, x: &mut impl Blocks<A>) -> Sums<A, W> {
        let (maximum, ties) = self.maximum(x);
        let mut sums = match self.shares {
            None => self.sums_below::<FMA, false>(x, maximum),
            Some(_) => self.sums_below::<FMA, true>(x, maximum),
        };
        for row in 0..W {
            sums.others[row] += ties[row] - A::ONE;
        }
        sums
    }

    /// Maximum of each row, and the number of classes that have it.
    #[inline(always)]
    fn maximum(&self, x: &mut impl Blocks<A>) -> ([A; W], [A; W]) {
        let mut largest = Largest {
            value: [-A::INFINITY; LANES],
            ties: [A::ZERO; LANES],
        };
        x.visit(0..x.steps(), &mut largest);
        let maximum = fold_maximum::<A, W>(largest.value);
        for lane in 0..LANES {
            let ties = largest.ties[lane];
            let is_maximum = largest.value[lane] == of_lane(&maximum, lane);
            largest.ties[lane] = if is_maximum { ties } else { A::ZERO };
        }
        (maximum, fold_sum::<A, W>(largest.ties))
    }

    #[inline(always)]
    fn sums_below<const FMA: bool, const SHARES: bool>(
        &self,
        x: &mut impl Blocks<A>,
        maximum: [A; W],
    ) -> Sums<A, W> {
        let mut others = Total::new();
        let [mut gaps, mut at_maximum, mut elsewhere] = [Total::new(); 3];
        let steps = x.steps();
        for first in (0..steps).step_by(RUN) {
            let mut run = Run::new();
            let mut visitor = Exponentials::<A, W, FMA, SHARES> {
                softmax: self,
                maximum: &maximum,
                run: &mut run,
            };
            x.visit(first..steps.min(first + RUN), &mut visitor);
            others.add(&run.others);
            if SHARES {
                gaps.add(&run.gaps);
                at_maximum.add(&run.at_maximum);
                elsewhere.add(&run.elsewhere);
            }
        }
        let [mut all_gaps, mut shares_at_maximum, mut shares_elsewhere] = [[A::ZERO; W]; 3];
        if SHARES {
            all_gaps = gaps.finish::<W>();
            shares_at_maximum = at_maximum.finish::<W>();
            shares_elsewhere = elsewhere.finish::<W>();
        }
        Sums {
            maximum,
            others: others.finish::<W>(),
            gaps: all_gaps,
            at_maximum: shares_at_maximum,
            elsewhere: shares_elsewhere,
        }
    }

    #[inline(always)]
    fn finish<const FMA: bool>(&self, sums: &Sums<A, W>, targets: &[A; W]) -> Finished<A, W> {
        let zero = [A::ZERO; W];
        let mut finished = Finished {
            losses: Losses {
                main: zero,
                penalty: zero,
                lse: zero,
                log_prob: zero,
            },
            above: zero,
            factor: zero,
            majority: zero,
            majority_exponential: zero,
            at_target: zero,
        };
        for row in 0..W {
            let share = self.rows.share[row];
            let maximum = sums.maximum[row];
            let others = sums.others[row];
            let gap = (maximum - targets[row]) * self.scale;
            let target_loss = if share == A::ZERO {
                A::ZERO
            } else {
                share * gap
            };
            let spread = sums.at_maximum[row] + sums.elsewhere[row];
            let total = share + spread;
            let above = others.ln_1p::<FMA>();
            let lse = maximum * self.scale + above;
            finished.above[row] = above;
            finished.losses.main[row] = sums.gaps[row] + target_loss + total * above;
            finished.losses.penalty[row] = self.z_loss * lse * lse;
            finished.losses.lse[row] = lse;
            finished.losses.log_prob[row] = -(gap + above);

            let inverse = A::ONE / (others + A::ONE);
            let scale = self.rows.scale[row];
            let pull = if self.z_loss == A::ZERO {
                A::ZERO
            } else {
                A::TWO * self.z_loss * lse * self.rows.penalty_scale[row] * inverse
            };
            let is_maximum = targets[row] == maximum;
            let elsewhere = sums.elsewhere[row] + if is_maximum { A::ZERO } else { share };
            let has_majority = others < A::ONE;
            // The factors include `self.scale`: the gradient is that of the logits before the scale.
            finished.factor[row] = (total * scale * inverse + pull) * self.scale;
            finished.majority[row] =
                ((elsewhere - total * others * inverse) * scale + pull) * self.scale;
            finished.majority_exponential[row] = if has_majority { A::ONE } else { A::TWO };
            finished.at_target[row] = if share == A::ZERO || (has_majority && is_maximum) {
                A::ZERO
            } else {
                share * scale * self.scale
            };
        }
        finished
    }

    #[inline(always)]
    fn subtract_targets(&self, gradient: &mut [A], finished: &Finished<A, W>) {
        for row in 0..W {
            let at = at::<W>(self.rows.class[row], row);
            gradient[at] = gradient[at] - finished.at_target[row];
        }
    }
}

/// Largest logit of each lane, and the number of blocks that have it.
struct Largest<A> {
    value: Block<A>,
    ties: Block<A>,
}

impl<A: Float> Visitor<A> for Largest<A> {
    #[inline(always)]
    fn visit(&mut self, _step: usize, block: &Block<A>) -> Block<A> {
        for lane in 0..LANES {
            let (value, largest) = (block[lane], self.value[lane]);
            let more = if value == largest { A::ONE } else { A::ZERO };
            let ties = self.ties[lane] + more;
            self.ties[lane] = if value > largest { A::ONE } else { ties };
            self.value[lane] = if value > largest { value } else { largest };
        }
        *block
    }
}

/// Turns logits into exponentials, and adds them up.
struct Exponentials<'a, A, const W: usize, const FMA: bool, const SHARES: bool> {
    softmax: &'a Softmax<'a, A, W>,
    maximum: &'a [A; W],
    run: &'a mut Run<A>,
}

impl<A: Float, const W: usize, const FMA: bool, const SHARES: bool> Visitor<A>
    for Exponentials<'_, A, W, FMA, SHARES>
{
    #[inline(always)]
    fn visit(&mut self, step: usize, block: &Block<A>) -> Block<A> {
        let Self {
            softmax,
            maximum,
            run,
        } = self;
        let mut exponentials = [A::ZERO; LANES];
        for lane in 0..LANES {
            let gap = (block[lane] - of_lane(maximum, lane)) * softmax.scale;
            let exponential = gap.exp::<FMA>();
            // The test is not `gap == 0`, because a small factor can make the gap of another logit
            // 0 too. The gap of the maximum is 0, or NaN where the maximum is infinite; then the
            // sums of the row become NaN.
            let is_maximum = block[lane] == of_lane(maximum, lane);
            run.others[lane] += if is_maximum { gap } else { exponential };
            exponentials[lane] = exponential;
        }
        if SHARES && let Some(shares) = &softmax.shares {
            let shares = shares.block::<W>(step);
            for lane in 0..LANES {
                let gap = (of_lane(maximum, lane) - block[lane]) * softmax.scale;
                let share = shares[lane];
                let term = share * gap;
                run.gaps[lane] += if share == A::ZERO { A::ZERO } else { term };
                let is_maximum = block[lane] == of_lane(maximum, lane);
                run.at_maximum[lane] += if is_maximum { share } else { A::ZERO };
                run.elsewhere[lane] += if is_maximum { A::ZERO } else { share };
            }
        }
        exponentials
    }
}

/// Turns exponentials into the gradient, before the subtraction at the targets.
struct Gradient<'a, A, const W: usize, const FMA: bool, const SHARES: bool> {
    softmax: &'a Softmax<'a, A, W>,
    finished: &'a Finished<A, W>,
}

impl<A: Float, const W: usize, const FMA: bool, const SHARES: bool> Visitor<A>
    for Gradient<'_, A, W, FMA, SHARES>
{
    #[inline(always)]
    fn visit(&mut self, step: usize, exponentials: &Block<A>) -> Block<A> {
        let Self { softmax, finished } = self;
        let mut shares = [A::ZERO; LANES];
        if SHARES && let Some(spread) = &softmax.shares {
            shares = spread.block::<W>(step);
        }
        let mut gradient = [A::ZERO; LANES];
        for lane in 0..LANES {
            let exponential = exponentials[lane];
            let mut slope = exponential * of_lane(&finished.factor, lane);
            if SHARES {
                let scale = of_lane(&softmax.rows.scale, lane) * softmax.scale;
                slope = shares[lane].mul_add::<FMA>(-scale, slope);
            }
            // Both numbers are loaded before the choice: a choice between two loads does not vectorise.
            let majority = of_lane(&finished.majority, lane);
            let is_majority = exponential == of_lane(&finished.majority_exponential, lane);
            gradient[lane] = if is_majority { majority } else { slope };
        }
        gradient
    }
}

/// Place of a class of a row in a unit's numbers.
#[inline(always)]
pub(crate) fn at<const W: usize>(class: usize, row: usize) -> usize {
    if W == 1 { class } else { class * LANES + row }
}

/// Softcap over scaled logits.
#[derive(Clone, Copy)]
pub(crate) struct Softcap<A> {
    pub(crate) scale: A,
    pub(crate) cap: A,
}

impl<A: Float> Softcap<A> {
    pub(crate) fn new(scale: f64, cap: f64) -> Self {
        Self {
            scale: A::of(scale),
            cap: A::of(cap),
        }
    }
}

/// Replaces logits by `cap tanh(scale logit / cap)`.
pub(crate) struct Bend<'a, A> {
    pub(crate) softcap: Softcap<A>,
    pub(crate) x: &'a mut [A],
}

impl<A: Float> Task for Bend<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Softcap { scale, cap } = self.softcap;
        for x in self.x {
            *x = cap * (*x * scale / cap).tanh::<FMA>();
        }
    }
}

/// Multiplies a gradient by the slope of [`Bend`] at the logits.
pub(crate) struct Unbend<'a, A> {
    pub(crate) softcap: Softcap<A>,
    pub(crate) logits: &'a [A],
    pub(crate) gradient: &'a mut [A],
}

impl<A: Float> Task for Unbend<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Softcap { scale, cap } = self.softcap;
        for (gradient, &logit) in self.gradient.iter_mut().zip(self.logits) {
            *gradient = *gradient * (logit * scale / cap).tanh_slope::<FMA>() * scale;
        }
    }
}
