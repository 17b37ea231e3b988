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
//! reason the maximum's 1 stays out of the sum: of rows in lanes from the beginning, of a row in all lanes
//! by adding up once more what shares a lane with it, where it would cost digits.
//!
//! Logits are read from memory once. While they are in cache, the exponentials replace them, and the
//! gradient replaces the exponentials.

use super::blocks::{
    Block, Blocks, LANES, RUN, Read, Replaced, Total, Visitor, Write, fold_maximum, fold_sum,
    of_lane, place,
};
use super::finish::{Finished, Sums};
use super::float::Float;
use super::logits::Softmax;
use super::row_loss::RowLoss;
use super::row_value::entropy_of;
use super::rows::Losses;
use super::shares::{Entries, Shares, share_slope};

impl<A: Float, const W: usize> RowLoss<A, W> for Softmax<'_, A, W> {
    fn with_distribution_alone(self) -> Option<Self> {
        let shares = Some(self.shares?.apart_from_distribution()?);
        Some(Self { shares, ..self })
    }

    #[inline(always)]
    fn losses<const FMA: bool>(self, x: &[A]) -> Losses<A, W> {
        self.losses_of::<FMA>(&mut Read::new(x, -A::INFINITY))
    }

    #[inline(always)]
    fn gradient_over<const FMA: bool>(self, x: &mut [A]) -> Losses<A, W> {
        self.gradient_in::<FMA>(&mut Write::new(x, -A::INFINITY))
    }

    /// `(1 - e) weight[c] (lse - x[c])`, 0 where the factor of the difference is 0.
    #[inline(always)]
    fn targets_gradient<const FMA: bool>(self, x: &[A], gradient: &mut [A]) {
        let shares = self.shares.expect("distributions have shares");
        let mut logits = Read::new(x, -A::INFINITY);
        let targets = self.target_logits(&logits);
        let sums = self.sums::<FMA>(&mut logits);
        let Finished { above, .. } = self.finished_losses::<FMA>(&sums, &targets);
        gradient.copy_from_slice(x);
        let mut gradient = Write::new(gradient, -A::INFINITY);
        let mut visitor = Slopes::<A, W, FMA> {
            softmax: &self,
            shares,
            offset: &self.offsets(&sums.maximum),
            above: &above,
        };
        gradient.visit(0..gradient.steps(), &mut visitor);
    }

    #[inline(always)]
    fn entropy<const FMA: bool>(self, x: &[A]) -> [A; W] {
        let (sums, spread) = self.sums_and_spread::<FMA>(x);
        entropy_of::<A, W, FMA>(&sums, spread)
    }
}

/// Adds up `exp(x - m) (m - x)`.
struct Gaps<'a, A, const W: usize, const FMA: bool> {
    softmax: &'a Softmax<'a, A, W>,
    /// See [`Scale::difference`].
    offset: &'a [A; W],
    run: Block<A>,
}

impl<A: Float, const W: usize, const FMA: bool> Visitor<A> for Gaps<'_, A, W, FMA> {
    #[inline(always)]
    fn visit(&mut self, _step: usize, block: &Block<A>) -> Block<A> {
        for lane in 0..LANES {
            let scale = self.softmax.scale;
            let gap = -scale.difference::<FMA>(block[lane], of_lane(self.offset, lane));
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

struct Slopes<'a, A, const W: usize, const FMA: bool> {
    softmax: &'a Softmax<'a, A, W>,
    shares: Shares<'a, A>,
    /// See [`Scale::difference`].
    offset: &'a [A; W],
    above: &'a [A; W],
}

impl<A: Float, const W: usize, const FMA: bool> Visitor<A> for Slopes<'_, A, W, FMA> {
    #[inline(always)]
    fn visit(&mut self, step: usize, block: &Block<A>) -> Block<A> {
        let factors = self.shares.slopes::<W>(step);
        let mut slopes = [A::ZERO; LANES];
        for lane in 0..LANES {
            let scale = self.softmax.scale;
            let gap = -scale.difference::<FMA>(block[lane], of_lane(self.offset, lane));
            let surprisal = gap + of_lane(self.above, lane);
            let scale = of_lane(&self.softmax.rows.scale, lane);
            slopes[lane] = share_slope(factors[lane], scale, surprisal);
        }
        slopes
    }
}

/// Sums of one run of blocks.
struct Run<A> {
    /// Exponentials; those of the maxima only where a row has all lanes.
    exponentials: Block<A>,
    /// Number of maxima, where a row has one lane.
    maxima: Block<A>,
    gaps: Block<A>,
    at_maximum: Block<A>,
    elsewhere: Block<A>,
}

impl<A: Float> Run<A> {
    #[inline(always)]
    fn new() -> Self {
        let zero = [A::ZERO; LANES];
        Self {
            exponentials: zero,
            maxima: zero,
            gaps: zero,
            at_maximum: zero,
            elsewhere: zero,
        }
    }
}

impl<A: Float, const W: usize> Softmax<'_, A, W> {
    #[inline(always)]
    pub(super) fn losses_of<const FMA: bool>(self, x: &mut impl Blocks<A>) -> Losses<A, W> {
        let targets = self.target_logits(x);
        let sums = self.sums_with_entries::<FMA>(x);
        self.finished::<_, FMA>(x, &sums, &targets).losses
    }

    /// Losses of the rows. The gradient replaces their logits.
    #[inline(always)]
    pub(super) fn gradient_in<const FMA: bool>(self, x: &mut impl Replaced<A>) -> Losses<A, W> {
        let targets = self.target_logits(x);
        let sums = self.sums_with_entries::<FMA>(x);
        let finished = self.finished::<_, FMA>(x, &sums, &targets);
        match (self.shares.is_some(), finished.has_dominant()) {
            (false, false) => self.gradient::<FMA, false, false>(x, &finished),
            (false, true) => self.gradient::<FMA, false, true>(x, &finished),
            (true, false) => self.gradient::<FMA, true, false>(x, &finished),
            (true, true) => self.gradient::<FMA, true, true>(x, &finished),
        }
        x.subtract(&self.rows.class, &finished.at_target);
        // Rows in lanes have no entries.
        if W == 1
            && let Some(entries) = self.entries
        {
            self.subtract_entries(x, entries, sums.maximum[0], &finished);
        }
        finished.losses
    }

    /// The sums, with the entries of a sparse distribution among the spread shares.
    #[inline(always)]
    fn sums_with_entries<const FMA: bool>(&self, x: &mut impl Blocks<A>) -> Sums<A, W> {
        let mut sums = self.sums::<FMA>(x);
        let Some(entries) = self.entries.filter(|_| W == 1) else {
            return sums;
        };
        let maximum = sums.maximum[0];
        let offset = self.scale.offset(maximum);
        for (&share, &logit) in entries.shares.iter().zip(entries.logits) {
            if share == A::ZERO {
                continue;
            }
            sums.gaps[0] += share * -self.scale.difference::<FMA>(logit, offset);
            match logit == maximum {
                true => sums.at_maximum[0] += share,
                false => sums.elsewhere[0] += share,
            }
        }
        sums
    }

    /// Subtracts the shares of the entries from the gradient. That at a dominant class has them.
    #[inline(always)]
    fn subtract_entries(
        &self,
        x: &mut impl Replaced<A>,
        entries: Entries<'_, A>,
        maximum: A,
        finished: &Finished<A, W>,
    ) {
        let slope = self.rows.scale[0] * self.scale.whole;
        let has_dominant = finished.has_dominant();
        for (at, &class) in entries.classes.iter().enumerate() {
            if !(has_dominant && entries.logits[at] == maximum) {
                x.subtract::<W>(&[class; W], &[entries.shares[at] * slope; W]);
            }
        }
    }

    /// Sums of the rows without shares, and `sum_c p[c] (m - x[c])`, to which a class of probability 0 adds 0.
    #[inline(always)]
    pub(super) fn sums_and_spread<const FMA: bool>(&self, x: &[A]) -> (Sums<A, W>, [A; W]) {
        let mut x = Read::new(x, -A::INFINITY);
        let plain = Self {
            shares: None,
            ..*self
        };
        let sums = plain.sums::<FMA>(&mut x);
        let offset = self.offsets(&sums.maximum);
        let mut gaps = Total::new();
        for first in (0..x.steps()).step_by(RUN) {
            let mut visitor = Gaps::<A, W, FMA> {
                softmax: self,
                offset: &offset,
                run: [A::ZERO; LANES],
            };
            x.visit(first..x.steps().min(first + RUN), &mut visitor);
            gaps.add(&visitor.run);
        }
        let mut spread = gaps.finish::<W>();
        for row in 0..W {
            spread[row] = spread[row] / (sums.others[row] + A::ONE);
        }
        (sums, spread)
    }

    /// Logit of each row's index target. Callers read it before they write over the logits.
    #[inline(always)]
    fn target_logits(&self, x: &impl Blocks<A>) -> [A; W] {
        let mut logits = [A::ZERO; W];
        for row in 0..W {
            let (step, lane) = place::<W>(self.rows.class[row], row);
            logits[row] = x.number(step, lane);
        }
        logits
    }

    #[inline(always)]
    fn finished<B: Blocks<A>, const FMA: bool>(
        &self,
        x: &B,
        sums: &Sums<A, W>,
        targets: &[A; W],
    ) -> Finished<A, W> {
        if !self.factor.is_some() {
            return self.finish::<FMA>(sums, targets);
        }
        let p = self.target_probabilities::<_, FMA>(x, sums, targets);
        self.finish_with_factor::<FMA>(sums, targets, &p)
    }

    /// Probability of each row's index target, and what it lacks of 1. Beside the maximum the others are what is
    /// missing; elsewhere the probability is at most a half.
    #[inline(always)]
    fn target_probabilities<B: Blocks<A>, const FMA: bool>(
        &self,
        x: &B,
        sums: &Sums<A, W>,
        targets: &[A; W],
    ) -> [[A; 2]; W] {
        let mut probabilities = [[A::ZERO; 2]; W];
        for row in 0..W {
            let (step, lane) = place::<W>(self.rows.class[row], row);
            let exponential = if B::REPLACED {
                x.number(step, lane)
            } else {
                let offset = self.scale.offset(sums.maximum[row]);
                self.scale
                    .difference::<FMA>(targets[row], offset)
                    .exp::<FMA>()
            };
            let others = sums.others[row];
            let inverse = A::ONE / (others + A::ONE);
            let p = exponential * inverse;
            let is_maximum = targets[row] == sums.maximum[row];
            let missing = if is_maximum {
                others * inverse
            } else {
                A::ONE - p
            };
            probabilities[row] = [p, missing];
        }
        probabilities
    }

    /// Offsets of the rows' maxima, see [`Scale::difference`].
    #[inline(always)]
    pub(super) fn offsets(&self, maximum: &[A; W]) -> [A; W] {
        let mut offsets = [A::ZERO; W];
        for row in 0..W {
            offsets[row] = self.scale.offset(maximum[row]);
        }
        offsets
    }

    #[inline(always)]
    pub(super) fn sums<const FMA: bool>(&self, x: &mut impl Blocks<A>) -> Sums<A, W> {
        let maximum = maxima_of::<A, W>(x);
        match self.shares {
            None => self.sums_below::<FMA, false>(x, maximum),
            Some(_) => self.sums_below::<FMA, true>(x, maximum),
        }
    }

    /// Sums of rows of which no class may be left: there the maximum is 0, and the others are -1, so that the sum with
    /// the maximum's own 1 is 0.
    #[inline(always)]
    pub(super) fn sums_of_rest<const FMA: bool>(&self, x: &mut impl Blocks<A>) -> Sums<A, W> {
        let mut maximum = maxima_of::<A, W>(x);
        for maximum in &mut maximum {
            if *maximum == -A::INFINITY {
                *maximum = A::ZERO;
            }
        }
        self.sums_below::<FMA, false>(x, maximum)
    }

    #[inline(always)]
    fn sums_below<const FMA: bool, const SHARES: bool>(
        &self,
        x: &mut impl Blocks<A>,
        maximum: [A; W],
    ) -> Sums<A, W> {
        let offset = self.offsets(&maximum);
        let [mut exponentials, mut maxima] = [Total::new(); 2];
        let [mut gaps, mut at_maximum, mut elsewhere] = [Total::new(); 3];
        let steps = x.steps();
        for first in (0..steps).step_by(RUN) {
            let mut run = Run::new();
            let mut visitor = Exponentials::<A, W, FMA, SHARES> {
                softmax: self,
                maximum: &maximum,
                offset: &offset,
                run: &mut run,
            };
            x.visit(first..steps.min(first + RUN), &mut visitor);
            exponentials.add(&run.exponentials);
            if W > 1 {
                maxima.add(&run.maxima);
            }
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
        let mut others = [A::ZERO; W];
        if W == 1 {
            others.fill(self.others_of_row::<FMA>(x, exponentials.lanes(), offset[0]));
        } else {
            let (sums, maxima) = (exponentials.finish::<W>(), maxima.finish::<W>());
            for row in 0..W {
                others[row] = sums[row] + (maxima[row] - A::ONE);
            }
        }
        Sums {
            maximum,
            others,
            gaps: all_gaps,
            at_maximum: shares_at_maximum,
            elsewhere: shares_elsewhere,
        }
    }

    /// Sum of the exponentials of a row without the maximum's own 1, from the sums of its lanes with it. Others
    /// of 1 or more have lost no digits to it. Else no other exponential is 1, and the largest lane, which has
    /// it, is added up once more.
    #[inline(always)]
    fn others_of_row<const FMA: bool>(
        &self,
        x: &impl Blocks<A>,
        mut lanes: Block<A>,
        offset: A,
    ) -> A {
        let [sum] = fold_sum::<A, 1>(lanes);
        let others = sum - A::ONE;
        if others < A::ONE {
            let lane = (0..LANES).fold(0, |best, lane| {
                if lanes[lane] > lanes[best] {
                    lane
                } else {
                    best
                }
            });
            lanes[lane] = self.others_of_lane::<_, FMA>(x, lane, offset);
            return fold_sum::<A, 1>(lanes)[0];
        }
        others
    }

    /// The part of the sum in the lane of the maximum, without its 1. Of further exponentials of 1 all count.
    #[inline(always)]
    fn others_of_lane<B: Blocks<A>, const FMA: bool>(&self, x: &B, lane: usize, offset: A) -> A {
        let (mut total, mut ones) = (Total::<A, 1>::new(), A::ZERO);
        for first in (0..x.steps()).step_by(RUN) {
            let mut run = A::ZERO;
            for step in first..x.steps().min(first + RUN) {
                let number = x.number(step, lane);
                let exponential = if B::REPLACED {
                    number
                } else {
                    self.scale.difference::<FMA>(number, offset).exp::<FMA>()
                };
                if exponential == A::ONE {
                    ones += A::ONE;
                } else {
                    run += exponential;
                }
            }
            total.add(&[run]);
        }
        total.lanes()[0] + (ones - A::ONE)
    }

    #[inline(always)]
    fn gradient<const FMA: bool, const SHARES: bool, const DOMINANT: bool>(
        &self,
        x: &mut impl Replaced<A>,
        finished: &Finished<A, W>,
    ) {
        let mut visitor = Gradient::<A, W, FMA, SHARES, DOMINANT> {
            softmax: self,
            finished,
        };
        x.finish(&mut visitor);
    }
}

/// Largest logit of each row.
#[inline(always)]
fn maxima_of<A: Float, const W: usize>(x: &impl Blocks<A>) -> [A; W] {
    let mut largest = Largest([-A::INFINITY; LANES]);
    x.show(&mut largest);
    fold_maximum::<A, W>(largest.0)
}

/// Largest logit of each lane.
struct Largest<A>(Block<A>);

impl<A: Float> Visitor<A> for Largest<A> {
    #[inline(always)]
    fn visit(&mut self, _step: usize, block: &Block<A>) -> Block<A> {
        for lane in 0..LANES {
            let (value, largest) = (block[lane], self.0[lane]);
            self.0[lane] = if value > largest { value } else { largest };
        }
        *block
    }
}

/// Turns logits into exponentials, and adds them up.
struct Exponentials<'a, A, const W: usize, const FMA: bool, const SHARES: bool> {
    softmax: &'a Softmax<'a, A, W>,
    maximum: &'a [A; W],
    /// See [`Scale::difference`].
    offset: &'a [A; W],
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
            offset,
            run,
        } = self;
        for ahead in softmax.ahead {
            ahead.fetch(step);
        }
        let mut exponentials = [A::ZERO; LANES];
        for lane in 0..LANES {
            let offset = of_lane(offset, lane);
            let gap = softmax.scale.difference::<FMA>(block[lane], offset);
            let exponential = gap.exp::<FMA>();
            if W == 1 {
                run.exponentials[lane] += exponential;
            } else {
                // The test is not `gap == 0`, because a small factor can make the gap of another logit
                // 0 too. The gap of the maximum is 0, or NaN where the maximum is infinite; then the
                // sums of the row become NaN.
                let is_maximum = block[lane] == of_lane(maximum, lane);
                run.exponentials[lane] += if is_maximum { gap } else { exponential };
                run.maxima[lane] += if is_maximum { A::ONE } else { A::ZERO };
            }
            exponentials[lane] = exponential;
        }
        if SHARES && let Some(shares) = &softmax.shares {
            let shares = shares.block::<W>(step);
            for lane in 0..LANES {
                let offset = of_lane(offset, lane);
                let gap = -softmax.scale.difference::<FMA>(block[lane], offset);
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
struct Gradient<'a, A, const W: usize, const FMA: bool, const SHARES: bool, const DOMINANT: bool> {
    softmax: &'a Softmax<'a, A, W>,
    finished: &'a Finished<A, W>,
}

impl<A: Float, const W: usize, const FMA: bool, const SHARES: bool, const DOMINANT: bool> Visitor<A>
    for Gradient<'_, A, W, FMA, SHARES, DOMINANT>
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
                let share = shares[lane] * of_lane(&finished.spread_scale, lane);
                slope = share.mul_add::<FMA>(-softmax.scale.whole, slope);
            }
            if DOMINANT {
                // Both numbers are loaded before the choice: a choice between two loads does not vectorise.
                let dominant = of_lane(&finished.dominant, lane);
                let is_dominant = exponential == of_lane(&finished.dominant_exponential, lane);
                slope = if is_dominant { dominant } else { slope };
            }
            gradient[lane] = slope;
        }
        gradient
    }
}
