//! Sums over the classes of a row, kept while the classes come in one vector after the other.
//!
//! The maximum grows on the way, and the sums under the old maximum are moved to the new one. For
//! confident rows some sums are kept apart, because their differences would have no digits left: the
//! exponentials below the maximum and all exponentials, the shares at the maximum and elsewhere.
//!
//! A vector holds `N` logits. Along positions they belong to `N` rows, along classes to one; the sums
//! have a lane for each of these rows, `M` of them (`N` or 1).

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::elementary::{ln, tanh};
use super::lanes::{for_every_logit, largest_of_rows, sum_of_rows};
use super::outputs::{BlockOutputs, OutputSums, RankedClass, RowOutputs};
use super::spec::{Numbers, Spec, Values};
use super::sum::{Sum, times, zeros};
use super::targets::{Inputs, RowShares};
use super::walk::{Block, Step, Walk};
use crate::operation::Outputs;

/// State of the rows of a slot, or of a part of them.
#[derive(CubeType)]
pub(crate) struct State<A: Float, N: Size, M: Size> {
    /// Largest score so far, at least the least finite number. A unit may have seen masked classes only, and
    /// the difference of two infinities would be NaN.
    pub(crate) maximum: Vector<A, M>,
    /// Sum of `exp((x - maximum) scale)` over the scores below the maximum.
    others: Sum<A, M>,
    /// Sum of `exp((x - maximum) scale)` over all scores; a score equal to the maximum adds 1. NaN where a
    /// score is NaN or infinite.
    all: Sum<A, M>,
    /// Logits: `sum a[c] (maximum - x[c]) scale`. Probabilities: `sum a[c] (-ln s[c])`.
    gaps: Sum<A, M>,
    /// Sum of the shares `a` at the maximum.
    at_maximum: Sum<A, M>,
    /// Sum of the shares `a` below the maximum.
    elsewhere: Sum<A, M>,
    pub(crate) shares: RowShares<A, N>,
    pub(crate) outputs: OutputSums<A, N, M>,
}

/// Sums of one row.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Row<A: Float> {
    pub(crate) maximum: A,
    pub(crate) others: A,
    pub(crate) all: A,
    pub(crate) gaps: A,
    pub(crate) at_maximum: A,
    pub(crate) elsewhere: A,
    pub(crate) outputs: RowOutputs<A>,
}

#[cube]
impl<A: Float, N: Size, M: Size> State<A, N, M> {
    /// State before the first class.
    pub(crate) fn new(numbers: &Numbers) -> State<A, N, M> {
        State::<A, N, M> {
            maximum: Vector::new(numbers.least_finite.get::<A>()),
            others: Sum::of(zeros()),
            all: Sum::of(zeros()),
            gaps: Sum::of(zeros()),
            at_maximum: Sum::of(zeros()),
            elsewhere: Sum::of(zeros()),
            shares: RowShares::new(),
            outputs: OutputSums::new(numbers.lowest.get::<A>()),
        }
    }

    /// Takes over the sums of a row from another group of units.
    pub(crate) fn of_row(row: Row<A>) -> State<A, N, M> {
        State::<A, N, M> {
            maximum: Vector::new(row.maximum),
            others: Sum::of(Vector::new(row.others)),
            all: Sum::of(Vector::new(row.all)),
            gaps: Sum::of(Vector::new(row.gaps)),
            at_maximum: Sum::of(Vector::new(row.at_maximum)),
            elsewhere: Sum::of(Vector::new(row.elsewhere)),
            shares: RowShares::new(),
            outputs: OutputSums::of_row(row.outputs),
        }
    }

    /// Moves all sums to a maximum that is at least the old one.
    pub(crate) fn rise_to(
        &mut self,
        maximum: Vector<A, M>,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) {
        let stays = self.maximum.equal(&maximum);
        let rise = scaled_difference(maximum, self.maximum, numbers, spec);
        let fall = (zeros::<A, M>() - rise).exp();
        let exponentials = self.all.value();
        self.outputs.rise(stays, exponentials, rise, fall, spec);
        let fallen = exponentials * fall;
        self.others.unless(stays, fallen);
        self.all.unless(stays, fallen);
        if comptime!(spec.is_spread) {
            let shares = self.at_maximum.value() + self.elsewhere.value();
            let gaps = self.gaps.value() + times(shares, rise);
            self.gaps.unless(stays, gaps);
            self.elsewhere.unless(stays, shares);
            self.at_maximum.unless(stays, zeros());
        }
        self.maximum = maximum;
    }

    /// Moves all sums to the largest of some scores, where it is above the maximum.
    fn rise_to_lanes(&mut self, scores: Vector<A, N>, numbers: &Numbers, #[comptime] spec: &Spec) {
        let largest = largest_of_rows::<A, N, M>(scores, spec.tile.along);
        let maximum = larger(self.maximum, largest);
        self.rise_to(maximum, numbers, spec);
    }

    /// Takes in another state of the same row.
    pub(crate) fn merge(
        &mut self,
        other: State<A, N, M>,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) {
        let mut other = other;
        let maximum = larger(self.maximum, other.maximum);
        self.rise_to(maximum, numbers, spec);
        other.rise_to(maximum, numbers, spec);
        self.others.add(other.others.value());
        self.all.add(other.all.value());
        self.gaps.add(other.gaps.value());
        self.at_maximum.add(other.at_maximum.value());
        self.elsewhere.add(other.elsewhere.value());
        if comptime!(spec.outputs != Outputs::None) {
            self.outputs.merge(other.outputs);
        }
    }

    /// Takes in the logits of a block.
    pub(crate) fn take<F: Float, P: Float, I: Int>(
        &mut self,
        block: &Block<F, P, N>,
        walk: &Walk,
        ranked: &RankedClass<A, N>,
        inputs: &Inputs<A, P, I, N>,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) {
        self.rise_to_block(block, numbers, spec);
        self.take_below(block, walk, ranked, inputs, numbers, spec);
    }

    /// Moves all sums to the largest score of a block, where it is above the maximum.
    pub(crate) fn rise_to_block<F: Float, P: Float>(
        &mut self,
        block: &Block<F, P, N>,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) {
        let unroll = comptime!(spec.tile.unroll as usize);
        let first = &block.steps[0];
        // Steps beyond the last repeat the last logits, which does not change the maximum.
        match comptime!(spec.values) {
            Values::Probabilities => {}
            Values::Capped => {
                let mut largest = scores::<F, A, N>(first.logits, numbers, spec.values);
                #[unroll]
                for nth in 1..unroll {
                    let step = &block.steps[nth];
                    largest = larger(
                        largest,
                        scores::<F, A, N>(step.logits, numbers, spec.values),
                    );
                }
                self.rise_to_lanes(largest, numbers, spec);
            }
            Values::Logits | Values::Scaled => {
                // Compares in the dtype of the logits: processors compare two halves at once.
                let mut largest = first.logits;
                #[unroll]
                for nth in 1..unroll {
                    let step = &block.steps[nth];
                    largest = larger(largest, step.logits);
                }
                self.rise_to_lanes(Vector::cast_from(largest), numbers, spec);
            }
        }
    }

    /// Takes in the logits of a block whose scores are at most the maximum.
    pub(crate) fn take_below<F: Float, P: Float, I: Int>(
        &mut self,
        block: &Block<F, P, N>,
        walk: &Walk,
        ranked: &RankedClass<A, N>,
        inputs: &Inputs<A, P, I, N>,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) {
        let tile = comptime!(spec.tile);
        let maximum = for_every_logit::<A, M, N>(self.maximum, tile.along);
        let mut sums = BlockSums::new(maximum);
        #[unroll]
        for nth in 0..tile.unroll as usize {
            let step = &block.steps[nth];
            let x = scores::<F, A, N>(step.logits, numbers, spec.values);
            // The first condition is known when the kernel is compiled, and leaves no branch.
            #[allow(clippy::if_same_then_else)]
            if comptime!(nth < block.certain as usize) {
                sums.take(x, step, inputs, &self.shares, numbers, spec);
                self.outputs.take(step, ranked, numbers, spec);
            } else if step.at < walk.end {
                sums.take(x, step, inputs, &self.shares, numbers, spec);
                self.outputs.take(step, ranked, numbers, spec);
            }
        }
        self.add(sums, spec);
    }

    /// Takes in the sums of a block under the same maximum.
    fn add(&mut self, block: BlockSums<A, N>, #[comptime] spec: &Spec) {
        let along = comptime!(spec.tile.along);
        self.others.add(sum_of_rows::<A, N, M>(block.others, along));
        self.all.add(sum_of_rows::<A, N, M>(block.all, along));
        if comptime!(spec.is_spread) {
            self.gaps.add(sum_of_rows::<A, N, M>(block.gaps, along));
            self.at_maximum
                .add(sum_of_rows::<A, N, M>(block.at_maximum, along));
            self.elsewhere
                .add(sum_of_rows::<A, N, M>(block.elsewhere, along));
        }
        self.outputs.add(block.outputs, spec);
    }

    /// Ends the current run of every sum. Callers do so before the runs get long.
    pub(crate) fn end_run(&mut self) {
        self.others.end_run();
        self.all.end_run();
        self.gaps.end_run();
        self.at_maximum.end_run();
        self.elsewhere.end_run();
        self.outputs.end_run();
    }

    /// Sums of one row of the slot.
    pub(crate) fn row(&self, #[comptime] lane: usize) -> Row<A> {
        Row::<A> {
            maximum: self.maximum.extract(lane),
            others: self.others.value().extract(lane),
            all: self.all.value().extract(lane),
            gaps: self.gaps.value().extract(lane),
            at_maximum: self.at_maximum.value().extract(lane),
            elsewhere: self.elsewhere.value().extract(lane),
            outputs: self.outputs.row(lane),
        }
    }

    /// Sums of a unit's row, in the order of [`Row`]'s fields.
    pub(crate) fn sums(&self, #[comptime] is_spread: bool) -> Sequence<A> {
        let mut sums = Sequence::<A>::new();
        sums.push(self.others.value().extract(0usize));
        sums.push(self.all.value().extract(0usize));
        if comptime!(is_spread) {
            sums.push(self.gaps.value().extract(0usize));
            sums.push(self.at_maximum.value().extract(0usize));
            sums.push(self.elsewhere.value().extract(0usize));
        }
        sums
    }
}

/// Sums over the logits of a block, each lane by itself, under one maximum for each row.
#[derive(CubeType)]
struct BlockSums<A: Float, N: Size> {
    maximum: Vector<A, N>,
    others: Vector<A, N>,
    all: Vector<A, N>,
    gaps: Vector<A, N>,
    at_maximum: Vector<A, N>,
    elsewhere: Vector<A, N>,
    outputs: BlockOutputs<A, N>,
}

#[cube]
impl<A: Float, N: Size> BlockSums<A, N> {
    fn new(maximum: Vector<A, N>) -> BlockSums<A, N> {
        BlockSums::<A, N> {
            maximum,
            others: zeros(),
            all: zeros(),
            gaps: zeros(),
            at_maximum: zeros(),
            elsewhere: zeros(),
            outputs: BlockOutputs::new(),
        }
    }

    /// Takes in the scores `x` of a step, which are at most the maximum.
    fn take<F: Float, P: Float, I: Int>(
        &mut self,
        x: Vector<A, N>,
        step: &Step<F, P, N>,
        inputs: &Inputs<A, P, I, N>,
        rows: &RowShares<A, N>,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) {
        let mut shares = zeros::<A, N>();
        let own_shares = inputs.own_shares(step.targets, rows, numbers);
        if comptime!(spec.is_spread) {
            let are_probabilities = comptime!(spec.values == Values::Probabilities);
            let even = inputs.even_shares(x, rows, numbers, are_probabilities);
            shares = inputs.shares(
                own_shares,
                even,
                step.classes(spec.tile),
                numbers,
                spec.tile,
            );
        }
        if comptime!(spec.values == Values::Probabilities) {
            let surprisal = surprisal(x);
            if comptime!(spec.is_spread) {
                self.gaps += times(shares, surprisal);
            }
            self.outputs.take(surprisal, own_shares, spec);
        } else {
            let is_below = x.less_than(&self.maximum);
            let exponential = scaled_difference(x, self.maximum, numbers, spec).exp();
            self.all += exponential;
            self.others += select_many(is_below, exponential, zeros());
            if comptime!(spec.is_spread || spec.outputs != Outputs::None) {
                // Equal infinities are not subtracted: the difference would be NaN.
                let gap = scaled_difference(self.maximum, x, numbers, spec);
                let gap = select_many(is_below, gap, zeros());
                if comptime!(spec.is_spread) {
                    self.gaps += times(shares, gap);
                    self.at_maximum += select_many(is_below, zeros(), shares);
                    self.elsewhere += select_many(is_below, shares, zeros());
                }
                self.outputs.take(gap, own_shares, spec);
            }
        }
    }
}

/// `-ln s` of probabilities.
#[cube]
fn surprisal<A: Float, N: Size>(s: Vector<A, N>) -> Vector<A, N> {
    zeros::<A, N>() - ln(s)
}

/// Scores of logits in the dtype of the arithmetic: the logits, or where there is a softcap the capped ones.
#[cube]
pub(crate) fn scores<F: Float, A: Float, N: Size>(
    logits: Vector<F, N>,
    numbers: &Numbers,
    #[comptime] values: Values,
) -> Vector<A, N> {
    let x = Vector::<A, N>::cast_from(logits);
    match comptime!(values) {
        Values::Logits | Values::Scaled | Values::Probabilities => x,
        Values::Capped => {
            let cap = Vector::new(numbers.cap.get::<A>());
            let capped = cap * tanh(x * Vector::new(numbers.bend.get::<A>()));
            // Infinite logits are masks, not numbers: they pass.
            let lowest = Vector::new(numbers.lowest.get::<A>());
            let is_infinite = x.equal(&lowest).or(x.equal(&(zeros::<A, N>() - lowest)));
            select_many(is_infinite, x, capped)
        }
    }
}

/// Factor of the differences of scores. The constant 1 without a factor, so that compilers leave it out.
#[cube]
pub(crate) fn scale_of_scores<A: Float>(numbers: &Numbers, #[comptime] spec: &Spec) -> A {
    match comptime!(spec.values) {
        Values::Scaled => numbers.scale.get::<A>(),
        Values::Logits | Values::Capped | Values::Probabilities => A::new(1.0),
    }
}

/// Sum of the exponentials of a row of logits beside its maximum, without the 1 of the maximum.
#[cube]
pub(crate) fn others_of<A: Float>(sums: &Row<A>, numbers: &Numbers) -> A {
    // A sum below 1.5 has the maximum once. A NaN sum takes the other branch and stays NaN.
    let others = select(sums.all < A::new(1.5), sums.others, sums.all - A::new(1.0));
    // A row of masked classes only has no distribution.
    select(sums.all == A::new(0.0), numbers.nan.get::<A>(), others)
}

/// `(a - b)` times the factor of the differences of scores, in two steps.
#[cube]
pub(crate) fn scaled_difference<A: Float, N: Size>(
    a: Vector<A, N>,
    b: Vector<A, N>,
    numbers: &Numbers,
    #[comptime] spec: &Spec,
) -> Vector<A, N> {
    match comptime!(spec.values) {
        Values::Scaled => {
            let before = Vector::new(numbers.before.get::<A>());
            (a * before - b * before) * Vector::new(numbers.after.get::<A>())
        }
        Values::Logits | Values::Capped | Values::Probabilities => a - b,
    }
}

/// Larger of two scores. The result for NaN does not matter: the row's sums become NaN elsewhere.
#[cube]
pub(crate) fn larger<A: Float, N: Size>(a: Vector<A, N>, b: Vector<A, N>) -> Vector<A, N> {
    max(a, b)
}
