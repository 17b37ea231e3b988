//! Outputs of a row besides its loss, kept while its classes come in: the order of the classes, the
//! entropy, and the log-likelihood of a distribution.
//!
//! Classes are ordered by their logits as they came in, the largest first: a softcap keeps the order, but
//! makes equal numbers of large ones. Of equal logits the earlier class is first. NaN is below all numbers.
//! Where targets lose ties, the target is ordered by a logit that is lower by its rounding.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::group::Group;
use super::lanes::sum_of_rows;
use super::spec::{Numbers, Spec};
use super::sum::{Sum, times, zeros};
use super::walk::Step;
use crate::operation::Outputs;

/// Base of the two digits of a class or a count of classes; each digit is exact in the arithmetic.
const SPLIT: u32 = 4096;

/// Target of each lane's row, with the score that orders it.
#[derive(CubeType)]
pub(crate) struct RankedClass<A: Float, N: Size> {
    pub(crate) score: Vector<A, N>,
    pub(crate) class: Vector<u32, N>,
}

/// Outputs of the rows of a slot, or of a part of them: the order of the classes in each lane, the sums
/// of each row (see [`State`](super::state::State) on `N` and `M`).
#[derive(CubeType)]
pub(crate) struct OutputSums<A: Float, N: Size, M: Size> {
    best: Vector<A, N>,
    /// First class of the best score.
    class: Vector<u32, N>,
    /// Number of classes before the target.
    before: Vector<u32, N>,
    /// Logits: `sum exp((x - m) scale) (m - x) scale`. Probabilities: `sum s (-ln s)`.
    entropy_sum: Sum<A, M>,
    /// Logits: `sum p[c] (m - x[c]) scale` of a distribution `p`. Probabilities: `sum p[c] (-ln s[c])`.
    surprisal_sum: Sum<A, M>,
    /// The sum of `p`.
    share_sum: Sum<A, M>,
}

/// Sums of [`OutputSums`] over the logits of a block, each lane by itself.
#[derive(CubeType)]
pub(crate) struct BlockOutputs<A: Float, N: Size> {
    entropy_sum: Vector<A, N>,
    surprisal_sum: Vector<A, N>,
    share_sum: Vector<A, N>,
}

#[cube]
impl<A: Float, N: Size> BlockOutputs<A, N> {
    pub(crate) fn new() -> BlockOutputs<A, N> {
        BlockOutputs::<A, N> {
            entropy_sum: zeros(),
            surprisal_sum: zeros(),
            share_sum: zeros(),
        }
    }

    /// Takes in `gap`, the distance of the scores below the maximum.
    pub(crate) fn take(
        &mut self,
        gap: Vector<A, N>,
        shares: Vector<A, N>,
        #[comptime] spec: &Spec,
    ) {
        if comptime!(spec.outputs == Outputs::RowsAndEntropy) {
            self.entropy_sum += times((zeros::<A, N>() - gap).exp(), gap);
        }
        if comptime!(spec.outputs != Outputs::None && spec.has_distributions) {
            self.surprisal_sum += times(shares, gap);
            self.share_sum += shares;
        }
    }
}

/// Outputs of one row.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct RowOutputs<A: Float> {
    pub(crate) best: A,
    pub(crate) class: u32,
    pub(crate) before: u32,
    pub(crate) entropy_sum: A,
    pub(crate) surprisal_sum: A,
    pub(crate) share_sum: A,
}

#[cube]
impl<A: Float, N: Size, M: Size> OutputSums<A, N, M> {
    /// Outputs before the first class.
    pub(crate) fn new(lowest: A) -> OutputSums<A, N, M> {
        OutputSums::<A, N, M> {
            best: Vector::new(lowest),
            class: Vector::new(0u32),
            before: Vector::new(0u32),
            entropy_sum: Sum::of(zeros()),
            surprisal_sum: Sum::of(zeros()),
            share_sum: Sum::of(zeros()),
        }
    }

    /// Takes over the outputs of a row from another group of units.
    pub(crate) fn of_row(row: RowOutputs<A>) -> OutputSums<A, N, M> {
        OutputSums::<A, N, M> {
            best: Vector::new(row.best),
            class: Vector::new(row.class),
            before: Vector::new(row.before),
            entropy_sum: Sum::of(Vector::new(row.entropy_sum)),
            surprisal_sum: Sum::of(Vector::new(row.surprisal_sum)),
            share_sum: Sum::of(Vector::new(row.share_sum)),
        }
    }

    /// Takes in the logits of a step.
    pub(crate) fn take<F: Float, P: Float>(
        &mut self,
        step: &Step<F, P, N>,
        ranked: &RankedClass<A, N>,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) {
        if comptime!(spec.outputs != Outputs::None) {
            let classes = step.classes(spec.tile).of_lanes::<N>(spec.tile.along);
            let x = Vector::<A, N>::cast_from(step.logits);
            let mut x = or_lowest(x, numbers.lowest.get::<A>());
            if comptime!(spec.target_loses) {
                x = select_many(classes.equal(&ranked.class), ranked.score, x);
            }
            let is_better = x.greater_than(&self.best);
            self.class = select_many(is_better, classes, self.class);
            self.best = select_many(is_better, x, self.best);
            let is_earlier = classes.less_than(&ranked.class);
            let is_before = select_many(
                x.equal(&ranked.score),
                select_many(is_earlier, Vector::new(1u32), Vector::new(0u32)),
                Vector::new(0u32),
            );
            let is_above = x.greater_than(&ranked.score);
            self.before += select_many(is_above, Vector::new(1u32), is_before);
        }
    }

    /// Moves the sums to a maximum that is larger by `rise`, except in lanes that stay. `exponentials` is
    /// the sum of the exponentials below the old maximum, `fall` their factor.
    pub(crate) fn rise(
        &mut self,
        stays: Vector<bool, M>,
        exponentials: Vector<A, M>,
        rise: Vector<A, M>,
        fall: Vector<A, M>,
        #[comptime] spec: &Spec,
    ) {
        if comptime!(spec.outputs == Outputs::RowsAndEntropy) {
            // Without exponentials, or where they fall to nothing, the rise may be infinite.
            let entropy_sum = self.entropy_sum.value() + times(exponentials, rise);
            self.entropy_sum.unless(stays, times(fall, entropy_sum));
        }
        if comptime!(spec.outputs != Outputs::None && spec.has_distributions) {
            let surprisal_sum = self.surprisal_sum.value() + times(self.share_sum.value(), rise);
            self.surprisal_sum.unless(stays, surprisal_sum);
        }
    }

    /// Takes in the sums of a block under the same maximum.
    pub(crate) fn add(&mut self, block: BlockOutputs<A, N>, #[comptime] spec: &Spec) {
        let along = comptime!(spec.tile.along);
        if comptime!(spec.outputs == Outputs::RowsAndEntropy) {
            self.entropy_sum
                .add(sum_of_rows::<A, N, M>(block.entropy_sum, along));
        }
        if comptime!(spec.outputs != Outputs::None && spec.has_distributions) {
            self.surprisal_sum
                .add(sum_of_rows::<A, N, M>(block.surprisal_sum, along));
            self.share_sum
                .add(sum_of_rows::<A, N, M>(block.share_sum, along));
        }
    }

    pub(crate) fn end_run(&mut self) {
        self.entropy_sum.end_run();
        self.surprisal_sum.end_run();
        self.share_sum.end_run();
    }

    /// Takes in the outputs of another part of the row, under the same maximum.
    pub(crate) fn merge(&mut self, other: OutputSums<A, N, M>) {
        let is_better = other.best.greater_than(&self.best);
        let first = select_many(other.class.less_than(&self.class), other.class, self.class);
        let class = select_many(other.best.equal(&self.best), first, self.class);
        self.class = select_many(is_better, other.class, class);
        self.best = select_many(is_better, other.best, self.best);
        self.before += other.before;
        self.entropy_sum.add(other.entropy_sum.value());
        self.surprisal_sum.add(other.surprisal_sum.value());
        self.share_sum.add(other.share_sum.value());
    }

    /// Outputs of one lane.
    pub(crate) fn row(&self, #[comptime] lane: usize) -> RowOutputs<A> {
        RowOutputs::<A> {
            best: self.best.extract(lane),
            class: self.class.extract(lane),
            before: self.before.extract(lane),
            entropy_sum: self.entropy_sum.value().extract(lane),
            surprisal_sum: self.surprisal_sum.value().extract(lane),
            share_sum: self.share_sum.value().extract(lane),
        }
    }

    /// Outputs of the row that all lanes of all units of a group share.
    pub(crate) fn of_group(&self, group: &mut Group<A>) -> RowOutputs<A> {
        let mut best = self.best.extract(0usize);
        let mut class = self.class.extract(0usize);
        let mut before = self.before.extract(0usize);
        #[unroll]
        for lane in 1..N::value().comptime() {
            let score = self.best.extract(lane);
            let other = self.class.extract(lane);
            let first = select(score == best, min(class, other), class);
            class = select(score > best, other, first);
            best = max(best, score);
            before += self.before.extract(lane);
        }
        let largest = group.maximum(best);
        let (high, low) = split::<A>(class);
        // The first of the classes that have the largest score.
        let none = A::new(-1e9);
        let has_it = best == largest;
        let zero = A::new(0.0);
        let first_high = zero - group.maximum(select(has_it, zero - high, none));
        let is_first = has_it && high == first_high;
        let first_low = zero - group.maximum(select(is_first, zero - low, none));
        let (before_high, before_low) = split::<A>(before);
        let mut sums = Sequence::<A>::new();
        sums.push(before_high);
        sums.push(before_low);
        sums.push(self.entropy_sum.value().extract(0usize));
        sums.push(self.surprisal_sum.value().extract(0usize));
        sums.push(self.share_sum.value().extract(0usize));
        let sums = group.sums(sums);
        RowOutputs::<A> {
            best: largest,
            class: joined::<A>(first_high, first_low),
            before: joined::<A>(sums[0], sums[1]),
            entropy_sum: sums[2],
            surprisal_sum: sums[3],
            share_sum: sums[4],
        }
    }
}

#[cube]
impl<A: Float> RowOutputs<A> {
    /// Placeholder where outputs are not wanted.
    pub(crate) fn nothing() -> RowOutputs<A> {
        RowOutputs::<A> {
            best: A::new(0.0),
            class: 0u32.runtime(),
            before: 0u32.runtime(),
            entropy_sum: A::new(0.0),
            surprisal_sum: A::new(0.0),
            share_sum: A::new(0.0),
        }
    }

    /// Writes the fields of a part, `field` numbers apart.
    pub(crate) fn write(&self, parts: &mut [A], at: usize, field: usize) {
        let (class_high, class_low) = split::<A>(self.class);
        let (before_high, before_low) = split::<A>(self.before);
        parts[at] = self.best;
        parts[at + field] = class_high;
        parts[at + 2 * field] = class_low;
        parts[at + 3 * field] = before_high;
        parts[at + 4 * field] = before_low;
        parts[at + 5 * field] = self.entropy_sum;
        parts[at + 6 * field] = self.surprisal_sum;
        parts[at + 7 * field] = self.share_sum;
    }

    /// Reads what [`write`](Self::write) has written.
    pub(crate) fn read(parts: &[A], at: usize, field: usize) -> RowOutputs<A> {
        RowOutputs::<A> {
            best: parts[at],
            class: joined::<A>(parts[at + field], parts[at + 2 * field]),
            before: joined::<A>(parts[at + 3 * field], parts[at + 4 * field]),
            entropy_sum: parts[at + 5 * field],
            surprisal_sum: parts[at + 6 * field],
            share_sum: parts[at + 7 * field],
        }
    }
}

/// Score of a target that loses ties: lower by the rounding of a product of two features.
#[cube]
pub(crate) fn lowered<A: Float, N: Size>(score: Vector<A, N>, numbers: &Numbers) -> Vector<A, N> {
    let zero = zeros::<A, N>();
    let size = select_many(score.less_than(&zero), zero - score, score);
    let slack = max(
        size * Vector::new(numbers.slack.get::<A>()),
        Vector::new(numbers.least_slack.get::<A>()),
    );
    score - slack
}

/// Replaces NaN by the lowest score. The bound is an argument: with a constant, a compiler might assume
/// that the comparison always holds.
#[cube]
pub(crate) fn or_lowest<A: Float, N: Size>(x: Vector<A, N>, lowest: A) -> Vector<A, N> {
    let lowest = Vector::new(lowest);
    select_many(x.greater_equal(&lowest), x, lowest)
}

#[cube]
fn split<A: Float>(number: u32) -> (A, A) {
    (A::cast_from(number / SPLIT), A::cast_from(number % SPLIT))
}

#[cube]
fn joined<A: Float>(high: A, low: A) -> u32 {
    u32::cast_from(high) * SPLIT + u32::cast_from(low)
}
