//! What the classes of a row add up to, kept while they come in one vector after the other.
//!
//! The maximum grows on the way; whatever was added up under the old one is carried over to the new
//! one. Three things stand apart from each other for the sake of confident rows: the exponentials
//! below the maximum, how often the maximum stands there, and the shares at the maximum and
//! elsewhere. Their differences would have no digits left.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::details::{Details, RowDetails};
use super::elementary::{ln, tanh};
use super::plan::Along;
use super::spec::{Numbers, Spec, Values};
use crate::operation::DetailsOf;

/// A sum of many terms, added up in runs: equal terms, one after the other, are rounded the same way
/// every time, and the rounding grows with the longest run. (What compensates for it, like Kahan's
/// sum, some drivers simplify away.)
#[derive(CubeType)]
pub(crate) struct Sum<A: Float, N: Size> {
    runs: Vector<A, N>,
    run: Vector<A, N>,
}

#[cube]
impl<A: Float, N: Size> Sum<A, N> {
    pub(crate) fn of(term: Vector<A, N>) -> Sum<A, N> {
        Sum::<A, N> {
            runs: term,
            run: zeros(),
        }
    }

    pub(crate) fn of_first_lane(term: A) -> Sum<A, N> {
        Sum::of(in_first_lane(term))
    }

    pub(crate) fn add(&mut self, term: Vector<A, N>) {
        self.run += term;
    }

    pub(crate) fn end_run(&mut self) {
        self.runs += self.run;
        self.run = zeros();
    }

    /// Keeps the lanes that stay, and makes the others `sum`.
    pub(crate) fn unless(&mut self, stays: Vector<bool, N>, sum: Vector<A, N>) {
        self.runs = select_many(stays, self.runs, sum);
        self.run = select_many(stays, self.run, zeros());
    }

    pub(crate) fn value(&self) -> Vector<A, N> {
        self.runs + self.run
    }
}

/// The state of each lane: a row's, or a part of one.
#[derive(CubeType)]
pub(crate) struct State<A: Float, N: Size> {
    /// The largest score so far, along classes the same in all lanes. It begins with one of the row's
    /// own, so that no unit holds a number that is not in its row.
    pub(crate) maximum: Vector<A, N>,
    /// The sum of `exp((x - maximum) scale)` over the scores below the maximum.
    others: Sum<A, N>,
    /// How many scores equal the maximum.
    ties: Vector<A, N>,
    /// The sum of `a (maximum - x) scale`; over probabilities that of `a (-ln s)`.
    gaps: Sum<A, N>,
    /// The sum of the shares `a` at the maximum.
    at_maximum: Sum<A, N>,
    /// The sum of the other shares.
    elsewhere: Sum<A, N>,
    pub(crate) details: Details<A, N>,
}

/// A row's sums.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Row<A: Float> {
    pub(crate) maximum: A,
    pub(crate) others: A,
    pub(crate) ties: A,
    pub(crate) gaps: A,
    pub(crate) at_maximum: A,
    pub(crate) elsewhere: A,
    pub(crate) details: RowDetails<A>,
}

#[cube]
impl<A: Float, N: Size> State<A, N> {
    /// Nothing has come in yet; `score` is any of the row's.
    pub(crate) fn new(score: Vector<A, N>, lowest: A) -> State<A, N> {
        State::<A, N> {
            maximum: score,
            others: Sum::of(zeros()),
            ties: zeros(),
            gaps: Sum::of(zeros()),
            at_maximum: Sum::of(zeros()),
            elsewhere: Sum::of(zeros()),
            details: Details::new(lowest),
        }
    }

    /// What another group of units has added up, as the state of one lane.
    pub(crate) fn of_row(row: Row<A>) -> State<A, N> {
        State::<A, N> {
            maximum: Vector::new(row.maximum),
            others: Sum::of_first_lane(row.others),
            ties: in_first_lane(row.ties),
            gaps: Sum::of_first_lane(row.gaps),
            at_maximum: Sum::of_first_lane(row.at_maximum),
            elsewhere: Sum::of_first_lane(row.elsewhere),
            details: Details::of_row(row.details),
        }
    }

    /// Carries everything over to a maximum that is no smaller.
    pub(crate) fn rise_to(&mut self, maximum: Vector<A, N>, scale: A, #[comptime] spec: &Spec) {
        let stays = self.maximum.equal(&maximum);
        // NaN between equal infinities, where it is not chosen.
        let rise = (maximum - self.maximum) * Vector::new(scale);
        let fall = match comptime!(spec.tile.along) {
            Along::Positions => (zeros::<A, N>() - rise).exp(),
            // The same in all lanes: one exponential for them.
            Along::Classes => Vector::new((A::new(0.0) - rise.extract(0usize)).exp()),
        };
        let exponentials = self.others.value() + self.ties;
        self.details.rise(stays, exponentials, rise, fall, spec);
        self.others.unless(stays, exponentials * fall);
        self.ties = select_many(stays, self.ties, zeros());
        if comptime!(spec.is_spread) {
            let shares = self.at_maximum.value() + self.elsewhere.value();
            let gaps = self.gaps.value() + times(shares, rise);
            self.gaps.unless(stays, gaps);
            self.elsewhere.unless(stays, shares);
            self.at_maximum.unless(stays, zeros());
        }
        self.maximum = maximum;
    }

    /// Takes in scores, none of them above the maximum.
    pub(crate) fn add_scores(&mut self, block: &Sequence<Vector<A, N>>, scale: A) {
        let mut others = zeros::<A, N>();
        #[unroll]
        for step in 0..block.len() {
            let x = block[step];
            let is_maximum = x.equal(&self.maximum);
            let exponentials = ((x - self.maximum) * Vector::new(scale)).exp();
            others += select_many(is_maximum, zeros(), exponentials);
            self.ties += select_many(is_maximum, ones(), zeros());
        }
        self.others.add(others);
    }

    /// Takes in the shares of scores.
    pub(crate) fn add_shares(
        &mut self,
        block: &Sequence<Vector<A, N>>,
        shares: &Sequence<Vector<A, N>>,
        scale: A,
    ) {
        let mut gaps = zeros::<A, N>();
        let mut at_maximum = zeros::<A, N>();
        let mut elsewhere = zeros::<A, N>();
        #[unroll]
        for step in 0..block.len() {
            let x = block[step];
            let share = shares[step];
            let is_maximum = x.equal(&self.maximum);
            let gap = (self.maximum - x) * Vector::new(scale);
            let gap = select_many(is_maximum, zeros(), gap);
            gaps += times(share, gap);
            at_maximum += select_many(is_maximum, share, zeros());
            elsewhere += select_many(is_maximum, zeros(), share);
        }
        self.gaps.add(gaps);
        self.at_maximum.add(at_maximum);
        self.elsewhere.add(elsewhere);
    }

    /// Takes in the scores of a block for the details; `shares` are those of the distributions alone.
    pub(crate) fn add_details(
        &mut self,
        block: &Sequence<Vector<A, N>>,
        shares: &Sequence<Vector<A, N>>,
        scale: A,
        lowest: A,
        #[comptime] spec: &Spec,
    ) {
        let mut gaps = Sequence::<Vector<A, N>>::new();
        #[unroll]
        for step in 0..block.len() {
            let x = block[step];
            if comptime!(spec.values == Values::Probabilities) {
                // What stands beyond the last class is as improbable as can be.
                let is_class = x.not_equal(&Vector::new(lowest));
                let most = Vector::new(A::new(0.0) - lowest);
                gaps.push(select_many(is_class, zeros::<A, N>() - ln(x), most));
            } else {
                let gap = (self.maximum - x) * Vector::new(scale);
                gaps.push(select_many(x.equal(&self.maximum), zeros(), gap));
            }
        }
        self.details.add_gaps(&gaps, shares, spec);
    }

    /// Takes in the shares of probabilities.
    pub(crate) fn add_surprisals(
        &mut self,
        block: &Sequence<Vector<A, N>>,
        shares: &Sequence<Vector<A, N>>,
    ) {
        let mut gaps = zeros::<A, N>();
        #[unroll]
        for step in 0..block.len() {
            gaps += times(shares[step], zeros::<A, N>() - ln(block[step]));
        }
        self.gaps.add(gaps);
    }

    /// To be called now and then, before the runs get long.
    pub(crate) fn end_run(&mut self) {
        self.others.end_run();
        self.gaps.end_run();
        self.at_maximum.end_run();
        self.elsewhere.end_run();
        self.details.end_run();
    }

    /// Takes in another state of the same row.
    pub(crate) fn merge(&mut self, other: State<A, N>, scale: A, #[comptime] spec: &Spec) {
        let mut other = other;
        let maximum = larger(self.maximum, other.maximum);
        self.rise_to(maximum, scale, spec);
        other.rise_to(maximum, scale, spec);
        self.others.add(other.others.value());
        self.ties += other.ties;
        self.gaps.add(other.gaps.value());
        self.at_maximum.add(other.at_maximum.value());
        self.elsewhere.add(other.elsewhere.value());
        if comptime!(spec.details != DetailsOf::Nothing) {
            self.details.merge(other.details);
        }
    }

    /// The sums of one lane.
    pub(crate) fn row(&self, #[comptime] lane: usize) -> Row<A> {
        Row::<A> {
            maximum: self.maximum.extract(lane),
            others: self.others.value().extract(lane),
            ties: self.ties.extract(lane),
            gaps: self.gaps.value().extract(lane),
            at_maximum: self.at_maximum.value().extract(lane),
            elsewhere: self.elsewhere.value().extract(lane),
            details: self.details.row(lane),
        }
    }

    /// The sums of all lanes, which have the same maximum, in the order of [`Row`]'s fields.
    pub(crate) fn sums(&self, #[comptime] is_spread: bool) -> Sequence<A> {
        let mut sums = Sequence::<A>::new();
        sums.push(self.others.value().vector_sum());
        sums.push(self.ties.vector_sum());
        if comptime!(is_spread) {
            sums.push(self.gaps.value().vector_sum());
            sums.push(self.at_maximum.value().vector_sum());
            sums.push(self.elsewhere.value().vector_sum());
        }
        sums
    }
}

/// The scores that the logits are bent to, in the dtype of the arithmetic.
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
            cap * tanh(x * Vector::new(numbers.bend.get::<A>()))
        }
    }
}

/// The factor that is left for the differences of scores; a constant where it is 1, which compilers
/// leave out.
#[cube]
pub(crate) fn scale_of_scores<A: Float>(numbers: &Numbers, #[comptime] spec: &Spec) -> A {
    match comptime!(spec.values) {
        Values::Scaled => numbers.scale.get::<A>(),
        Values::Logits | Values::Capped | Values::Probabilities => A::new(1.0),
    }
}

/// The larger of two scores; NaN has no place in an order and spoils its row elsewhere.
#[cube]
pub(crate) fn larger<A: Float, N: Size>(a: Vector<A, N>, b: Vector<A, N>) -> Vector<A, N> {
    max(a, b)
}

/// The largest score of a vector.
#[cube]
pub(crate) fn largest_lane<A: Float, N: Size>(x: Vector<A, N>) -> A {
    let mut largest = x.extract(0usize);
    #[unroll]
    for lane in 1..N::value().comptime() {
        largest = max(largest, x.extract(lane));
    }
    largest
}

/// A product in which 0 times infinity is 0.
#[cube]
pub(crate) fn times<A: Float, N: Size>(share: Vector<A, N>, x: Vector<A, N>) -> Vector<A, N> {
    select_many(share.equal(&zeros()), zeros(), share * x)
}

#[cube]
pub(crate) fn zeros<A: Float, N: Size>() -> Vector<A, N> {
    Vector::new(A::new(0.0))
}

#[cube]
pub(crate) fn ones<A: Float, N: Size>() -> Vector<A, N> {
    Vector::new(A::new(1.0))
}

#[cube]
fn in_first_lane<A: Float, N: Size>(value: A) -> Vector<A, N> {
    let mut vector = zeros::<A, N>();
    vector.insert(0usize, value);
    vector
}
