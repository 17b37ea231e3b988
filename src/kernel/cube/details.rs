//! What a row comes to besides its loss, kept while its classes come in: their order, the entropy,
//! and how likely a distribution is.
//!
//! The order of the classes is by their scores, the largest first, of equal ones the earlier first;
//! NaN is below all numbers.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::group::Group;
use super::spec::{Numbers, Spec};
use super::state::{Sum, sum_of_rows, times, zeros};
use super::targets::{Inputs, classes_of_lanes, first_class};
use crate::operation::DetailsOf;

/// A class's number, or a count of classes, as two numbers of the arithmetic that are exact.
const SPLIT: u32 = 4096;

/// The target of each lane's row.
#[derive(CubeType)]
pub(crate) struct Goal<A: Float, N: Size> {
    pub(crate) score: Vector<A, N>,
    pub(crate) class: Vector<u32, N>,
}

/// The details of the rows of a slot, or of a part of them: their order in each lane, the sums of each
/// row (see [`State`](super::state::State) on `N` and `M`).
#[derive(CubeType)]
pub(crate) struct Details<A: Float, N: Size, M: Size> {
    best: Vector<A, N>,
    /// The first class of the best score.
    class: Vector<u32, N>,
    /// The classes that stand before the target's.
    before: Vector<u32, N>,
    /// The sum of `exp((x - m) scale) (m - x) scale`; over probabilities that of `s (-ln s)`.
    mixing: Sum<A, M>,
    /// Of a distribution the sum of `p (m - x) scale`; over probabilities that of `p (-ln s)`.
    surprise: Sum<A, M>,
    /// The sum of `p`.
    mass: Sum<A, M>,
}

/// The same sums over the logits of a block, each lane by itself.
#[derive(CubeType)]
pub(crate) struct BlockDetails<A: Float, N: Size> {
    mixing: Vector<A, N>,
    surprise: Vector<A, N>,
    mass: Vector<A, N>,
}

#[cube]
impl<A: Float, N: Size> BlockDetails<A, N> {
    pub(crate) fn new() -> BlockDetails<A, N> {
        BlockDetails::<A, N> {
            mixing: zeros(),
            surprise: zeros(),
            mass: zeros(),
        }
    }

    /// Takes in `gap`, by how much the scores are below the maximum.
    pub(crate) fn take(
        &mut self,
        gap: Vector<A, N>,
        shares: Vector<A, N>,
        #[comptime] spec: &Spec,
    ) {
        if comptime!(spec.details == DetailsOf::TargetAndEntropy) {
            self.mixing += times((zeros::<A, N>() - gap).exp(), gap);
        }
        if comptime!(spec.details != DetailsOf::Nothing && spec.has_distributions) {
            self.surprise += times(shares, gap);
            self.mass += shares;
        }
    }
}

/// A row's details.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct RowDetails<A: Float> {
    best: A,
    pub(crate) class: u32,
    pub(crate) before: u32,
    pub(crate) mixing: A,
    pub(crate) surprise: A,
    pub(crate) mass: A,
}

/// Numbers of each part of a row that another kernel brings together.
pub(crate) fn fields_of_part(details: DetailsOf) -> usize {
    match details {
        DetailsOf::Nothing => 0,
        DetailsOf::Target | DetailsOf::TargetAndEntropy => 8,
    }
}

#[cube]
impl<A: Float, N: Size, M: Size> Details<A, N, M> {
    /// Nothing has come in yet.
    pub(crate) fn new(lowest: A) -> Details<A, N, M> {
        Details::<A, N, M> {
            best: Vector::new(lowest),
            class: Vector::new(0u32),
            before: Vector::new(0u32),
            mixing: Sum::of(zeros()),
            surprise: Sum::of(zeros()),
            mass: Sum::of(zeros()),
        }
    }

    /// What another group of units has found of a row.
    pub(crate) fn of_row(row: RowDetails<A>) -> Details<A, N, M> {
        Details::<A, N, M> {
            best: Vector::new(row.best),
            class: Vector::new(row.class),
            before: Vector::new(row.before),
            mixing: Sum::of(Vector::new(row.mixing)),
            surprise: Sum::of(Vector::new(row.surprise)),
            mass: Sum::of(Vector::new(row.mass)),
        }
    }

    /// Takes in the scores of a step.
    pub(crate) fn take(
        &mut self,
        x: Vector<A, N>,
        step: usize,
        goal: &Goal<A, N>,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) {
        if comptime!(spec.details != DetailsOf::Nothing) {
            let along = comptime!(spec.tile.along);
            let classes = classes_of_lanes::<N>(first_class::<N>(step, along), along);
            let x = or_lowest(x, numbers.lowest.get::<A>());
            let is_better = x.greater_than(&self.best);
            self.class = select_many(is_better, classes, self.class);
            self.best = select_many(is_better, x, self.best);
            let is_earlier = classes.less_than(&goal.class);
            let is_before = select_many(
                x.equal(&goal.score),
                select_many(is_earlier, Vector::new(1u32), Vector::new(0u32)),
                Vector::new(0u32),
            );
            let is_above = x.greater_than(&goal.score);
            self.before += select_many(is_above, Vector::new(1u32), is_before);
        }
    }

    /// Carries the sums over to a maximum that is larger by `rise`, where it is; `exponentials` is
    /// what they were below the old one, `fall` what they are multiplied by.
    pub(crate) fn rise(
        &mut self,
        stays: Vector<bool, M>,
        exponentials: Vector<A, M>,
        rise: Vector<A, M>,
        fall: Vector<A, M>,
        #[comptime] spec: &Spec,
    ) {
        if comptime!(spec.details == DetailsOf::TargetAndEntropy) {
            // Without exponentials, or where they fall to nothing, the rise may be infinite.
            let mixing = self.mixing.value() + times(exponentials, rise);
            self.mixing.unless(stays, times(fall, mixing));
        }
        if comptime!(spec.details != DetailsOf::Nothing && spec.has_distributions) {
            let surprise = self.surprise.value() + times(self.mass.value(), rise);
            self.surprise.unless(stays, surprise);
        }
    }

    /// Takes in what a block has added up under the same maximum.
    pub(crate) fn add(&mut self, block: BlockDetails<A, N>, #[comptime] spec: &Spec) {
        let along = comptime!(spec.tile.along);
        if comptime!(spec.details == DetailsOf::TargetAndEntropy) {
            self.mixing.add(sum_of_rows::<A, N, M>(block.mixing, along));
        }
        if comptime!(spec.details != DetailsOf::Nothing && spec.has_distributions) {
            self.surprise
                .add(sum_of_rows::<A, N, M>(block.surprise, along));
            self.mass.add(sum_of_rows::<A, N, M>(block.mass, along));
        }
    }

    pub(crate) fn end_run(&mut self) {
        self.mixing.end_run();
        self.surprise.end_run();
        self.mass.end_run();
    }

    /// Takes in the details of another part of the row, under the same maximum.
    pub(crate) fn merge(&mut self, other: Details<A, N, M>) {
        let is_better = other.best.greater_than(&self.best);
        let first = select_many(other.class.less_than(&self.class), other.class, self.class);
        let class = select_many(other.best.equal(&self.best), first, self.class);
        self.class = select_many(is_better, other.class, class);
        self.best = select_many(is_better, other.best, self.best);
        self.before += other.before;
        self.mixing.add(other.mixing.value());
        self.surprise.add(other.surprise.value());
        self.mass.add(other.mass.value());
    }

    /// The details of one lane.
    pub(crate) fn row(&self, #[comptime] lane: usize) -> RowDetails<A> {
        RowDetails::<A> {
            best: self.best.extract(lane),
            class: self.class.extract(lane),
            before: self.before.extract(lane),
            mixing: self.mixing.value().extract(lane),
            surprise: self.surprise.value().extract(lane),
            mass: self.mass.value().extract(lane),
        }
    }

    /// The details of all lanes of all units of a group, which share a row.
    pub(crate) fn of_group(&self, group: &mut Group<A>) -> RowDetails<A> {
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
        // The smallest of the classes that have it.
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
        sums.push(self.mixing.value().extract(0usize));
        sums.push(self.surprise.value().extract(0usize));
        sums.push(self.mass.value().extract(0usize));
        let sums = group.sums(sums);
        RowDetails::<A> {
            best: largest,
            class: joined::<A>(first_high, first_low),
            before: joined::<A>(sums[0], sums[1]),
            mixing: sums[2],
            surprise: sums[3],
            mass: sums[4],
        }
    }
}

#[cube]
impl<A: Float> RowDetails<A> {
    /// Of a row of which nothing is known.
    pub(crate) fn nothing() -> RowDetails<A> {
        RowDetails::<A> {
            best: A::new(0.0),
            class: 0u32.runtime(),
            before: 0u32.runtime(),
            mixing: A::new(0.0),
            surprise: A::new(0.0),
            mass: A::new(0.0),
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
        parts[at + 5 * field] = self.mixing;
        parts[at + 6 * field] = self.surprise;
        parts[at + 7 * field] = self.mass;
    }

    /// Reads what [`write`](Self::write) has written.
    pub(crate) fn read(parts: &[A], at: usize, field: usize) -> RowDetails<A> {
        RowDetails::<A> {
            best: parts[at],
            class: joined::<A>(parts[at + field], parts[at + 2 * field]),
            before: joined::<A>(parts[at + 3 * field], parts[at + 4 * field]),
            mixing: parts[at + 5 * field],
            surprise: parts[at + 6 * field],
            mass: parts[at + 7 * field],
        }
    }
}

/// The class that a row's rank is asked of.
#[cube]
pub(crate) fn class_of_goal<A: Float, P: Float, I: Int, N: Size>(
    inputs: &Inputs<A, P, I, N>,
    row: usize,
    class_of_index: u32,
) -> u32 {
    #[comptime]
    match &inputs.labels {
        ComptimeOption::Some(labels) => u32::cast_from(labels[row]),
        ComptimeOption::None => class_of_index,
    }
}

/// NaN made the lowest score. The bound is no constant, which a compiler might think that every
/// number is above.
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
