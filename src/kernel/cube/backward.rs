//! The gradients, from one read of the logits and the numbers that the forward kept of every row.
//!
//! ```text
//! dx[c]   = A p[c] - a[c]                                p[c] = exp(x[c] - m) / (1 + others)
//!         = sum_{other} a - A others / (1 + others)      at a class of more than half of p
//! dp[c]   = (1 - e) w[c] (lse - x[c])                    of target distributions
//! ```
//!
//! The second line is minus the sum of the other classes' gradients: where a row has been learned,
//! `A p` and `a` are nearly equal there, and their difference would have no digits left.
//!
//! Every class is computed by itself: no unit waits for another, and each element is written by the
//! unit that read it, so that a gradient may go over what it is the gradient of.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::elementary::{ln, ln_1p, tanh_slope};
use super::layout::{place_of_class, start_of_row};
use super::plan::Along;
use super::spec::{Extent, Numbers, Spec, Values, ZLoss, span};
use super::state::{ones, scale_of_scores, scores, times, zeros};
use super::targets::{Inputs, classes_of_lanes, first_class, share_of_target, target_of};

/// What the forward left and what came from above.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Given<A: Float> {
    /// `[statistics, rows]`.
    pub(crate) statistics: ComptimeOption<Box<[A]>>,
    /// What the losses and the z-losses were divided by.
    pub(crate) denominators: ComptimeOption<Box<[A]>>,
    /// One number, or where there are no denominators one per row.
    pub(crate) upstream: Box<[A]>,
}

/// What the kernel writes.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Gradients<F: Float, P: Float, N: Size> {
    pub(crate) logits: ComptimeOption<Box<[Vector<F, N>]>>,
    pub(crate) targets: ComptimeOption<Box<[Vector<P, N>]>>,
}

/// What the classes of a row have in common, in each lane.
#[derive(CubeType)]
struct Lanes<A: Float, N: Size> {
    maximum: Vector<A, N>,
    /// `lse - maximum`.
    above: Vector<A, N>,
    /// What the exponentials are multiplied by.
    factor: Vector<A, N>,
    /// What the spread shares are multiplied by.
    scale: Vector<A, N>,
    /// Whether a class has more than half the probability: 1 or 0.
    has_majority: Vector<A, N>,
    /// The gradient there if it is the target, and if it is not.
    majority_at_target: Vector<A, N>,
    majority_elsewhere: Vector<A, N>,
    /// What is subtracted at the target, or what it is over probabilities.
    at_target: Vector<A, N>,
    class: Vector<u32, N>,
    /// Whether the row counts, 1 or 0, and what takes the place of its gradient if it does not.
    counts: Vector<A, N>,
    dropped: Vector<A, N>,
    /// The factor of the target distributions' gradient.
    targets_scale: Vector<A, N>,
}

/// The same of one row.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Common<A: Float> {
    maximum: A,
    above: A,
    factor: A,
    scale: A,
    has_majority: A,
    majority_at_target: A,
    majority_elsewhere: A,
    at_target: A,
    class: u32,
    counts: A,
    dropped: A,
    targets_scale: A,
}

#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn gradients_of_rows<F: Float, A: Float, P: Float, I: Int, K: Int, N: Size>(
    logits: &[Vector<F, N>],
    inputs: Inputs<A, P, I, N>,
    mut gradients: Gradients<F, P, N>,
    given: Given<A>,
    numbers: Numbers,
    extent: Extent,
    #[comptime] spec: Spec,
    #[define(F, A, P, I, K)] _dtypes: [ElemType; 5],
) {
    let tile = comptime!(spec.tile);
    let span = span(&extent, tile);
    if !span.exists {
        terminate!();
    }
    let lanes =
        lanes_of_slot::<A, P, I, K, N>(&inputs, &given, span.slot, &numbers, &extent, spec.clone());
    let start = start_of_row(span.slot, extent.inner, &extent.logits, tile.has_positions);
    let targets_start = start_of_row(span.slot, extent.inner, &extent.targets, tile.has_positions);
    let gradient_start = start_of_row(
        span.slot,
        extent.inner,
        &extent.gradient,
        tile.has_positions,
    );
    let targets_gradient_start = start_of_row(
        span.slot,
        extent.inner,
        &extent.targets_gradient,
        tile.has_positions,
    );
    let scale = scale_of_scores::<A>(&numbers, comptime!(&spec));
    let units = comptime!(tile.units as usize);
    let mut base = span.begin;
    while base < span.end {
        // All loads before the first store, which the compiler could not move them across; those
        // beyond the last class from the last.
        let mut logits_of_block = Sequence::<Vector<F, N>>::new();
        let mut targets_of_block = Sequence::<Vector<P, N>>::new();
        #[unroll]
        for step in 0..comptime!(tile.unroll as usize) {
            let step = (base + span.unit + step * units).min(span.end - 1);
            logits_of_block.push(logits[place_of_class(start, step, &extent.logits)]);
            let place = place_of_class(targets_start, step, &extent.targets);
            targets_of_block.push(inputs.distribution(place));
        }
        #[unroll]
        for at in 0..comptime!(tile.unroll as usize) {
            let step = base + span.unit + at * units;
            if step < span.end {
                let logit = Vector::<A, N>::cast_from(logits_of_block[at]);
                let x = scores::<F, A, N>(logits_of_block[at], &numbers, spec.values);
                let mut shares = zeros::<A, N>();
                if comptime!(spec.is_spread) {
                    shares = inputs.shares(targets_of_block[at], step, &numbers, tile.along);
                }
                #[comptime]
                if let ComptimeOption::Some(gradient) = &mut gradients.logits {
                    let first_class = first_class::<N>(step, tile.along);
                    let mut slope = match comptime!(spec.values) {
                        Values::Probabilities => {
                            lanes.slope_of_probabilities(x, shares, first_class, tile.along)
                        }
                        Values::Logits | Values::Scaled | Values::Capped => {
                            lanes.slope(x, shares, first_class, scale, comptime!(&spec))
                        }
                    };
                    if comptime!(spec.values == Values::Capped) {
                        let bend = Vector::new(numbers.bend.get::<A>());
                        let scale = Vector::new(numbers.scale.get::<A>());
                        slope = slope * tanh_slope(logit * bend) * scale;
                    }
                    let place = place_of_class(gradient_start, step, &extent.gradient);
                    gradient[place] = Vector::cast_from(lanes.settled(slope));
                }
                #[comptime]
                if let ComptimeOption::Some(gradient) = &mut gradients.targets {
                    let surprisal = match comptime!(spec.values) {
                        Values::Probabilities => zeros::<A, N>() - ln(x),
                        Values::Logits | Values::Scaled | Values::Capped => {
                            let gap = (lanes.maximum - x) * Vector::new(scale);
                            let is_maximum = x.equal(&lanes.maximum);
                            select_many(is_maximum, zeros(), gap) + lanes.above
                        }
                    };
                    let first_class = first_class::<N>(step, tile.along);
                    let weights = inputs.weights(first_class, tile.along);
                    let factor = Vector::new(numbers.kept.get::<A>()) * weights;
                    let slope = times(factor, surprisal) * lanes.targets_scale;
                    let place =
                        place_of_class(targets_gradient_start, step, &extent.targets_gradient);
                    gradient[place] = Vector::cast_from(slope);
                }
            }
        }
        base += comptime!(units * tile.unroll as usize);
    }
}

#[cube]
impl<A: Float, N: Size> Lanes<A, N> {
    /// The gradient of logits with the scores `x`.
    fn slope(
        &self,
        x: Vector<A, N>,
        shares: Vector<A, N>,
        class: usize,
        scale: A,
        #[comptime] spec: &Spec,
    ) -> Vector<A, N> {
        let is_target = classes_of_lanes::<N>(class, spec.tile.along).equal(&self.class);
        let exponential = ((x - self.maximum) * Vector::new(scale)).exp();
        let mut slope = exponential * self.factor;
        if comptime!(spec.is_spread) {
            slope -= shares * self.scale;
        }
        let slope = slope - select_many(is_target, self.at_target, zeros());
        let majority = select_many(is_target, self.majority_at_target, self.majority_elsewhere);
        let is_majority = x
            .equal(&self.maximum)
            .vec_and(self.has_majority.equal(&ones()));
        select_many(is_majority, majority, slope)
    }

    /// The gradient of the probabilities `s`.
    fn slope_of_probabilities(
        &self,
        s: Vector<A, N>,
        shares: Vector<A, N>,
        class: usize,
        #[comptime] along: Along,
    ) -> Vector<A, N> {
        let is_target = classes_of_lanes::<N>(class, along).equal(&self.class);
        let shares = shares + select_many(is_target, self.at_target, zeros());
        let slope = (zeros::<A, N>() - shares) / s * self.scale;
        select_many(shares.equal(&zeros()), zeros(), slope)
    }

    /// By selection, never by multiplication, which would let the NaN of an ignored row through.
    fn settled(&self, slope: Vector<A, N>) -> Vector<A, N> {
        select_many(self.counts.equal(&ones()), slope, self.dropped)
    }
}

#[cube]
fn lanes_of_slot<A: Float, P: Float, I: Int, K: Int, N: Size>(
    inputs: &Inputs<A, P, I, N>,
    given: &Given<A>,
    slot: usize,
    numbers: &Numbers,
    extent: &Extent,
    #[comptime] spec: Spec,
) -> Lanes<A, N> {
    let rows = match comptime!(spec.tile.along) {
        Along::Classes => 1,
        Along::Positions => N::value().comptime(),
    };
    let first =
        common_of_row::<A, P, I, K, N>(inputs, given, slot * rows, numbers, extent, spec.clone());
    let mut lanes = Lanes::<A, N> {
        maximum: Vector::new(first.maximum),
        above: Vector::new(first.above),
        factor: Vector::new(first.factor),
        scale: Vector::new(first.scale),
        has_majority: Vector::new(first.has_majority),
        majority_at_target: Vector::new(first.majority_at_target),
        majority_elsewhere: Vector::new(first.majority_elsewhere),
        at_target: Vector::new(first.at_target),
        class: Vector::new(first.class),
        counts: Vector::new(first.counts),
        dropped: Vector::new(first.dropped),
        targets_scale: Vector::new(first.targets_scale),
    };
    #[unroll]
    for lane in 1..rows {
        let row = slot * rows + lane;
        let common =
            common_of_row::<A, P, I, K, N>(inputs, given, row, numbers, extent, spec.clone());
        lanes.maximum.insert(lane, common.maximum);
        lanes.above.insert(lane, common.above);
        lanes.factor.insert(lane, common.factor);
        lanes.scale.insert(lane, common.scale);
        lanes.has_majority.insert(lane, common.has_majority);
        lanes
            .majority_at_target
            .insert(lane, common.majority_at_target);
        lanes
            .majority_elsewhere
            .insert(lane, common.majority_elsewhere);
        lanes.at_target.insert(lane, common.at_target);
        lanes.class.insert(lane, common.class);
        lanes.counts.insert(lane, common.counts);
        lanes.dropped.insert(lane, common.dropped);
        lanes.targets_scale.insert(lane, common.targets_scale);
    }
    lanes
}

#[cube]
fn common_of_row<A: Float, P: Float, I: Int, K: Int, N: Size>(
    inputs: &Inputs<A, P, I, N>,
    given: &Given<A>,
    row: usize,
    numbers: &Numbers,
    extent: &Extent,
    #[comptime] spec: Spec,
) -> Common<A> {
    let zero = A::new(0.0);
    let one = A::new(1.0);
    let target = target_of::<A, P, I, K, N>(inputs, row, extent, spec.clone());
    let share = share_of_target::<A, P, I, N>(inputs, &target, numbers);
    let scale = given.scale_of_row(row, 0usize);
    let penalty_scale = given.scale_of_row(row, 1usize);
    let mut common = Common::<A> {
        maximum: zero,
        above: zero,
        factor: zero,
        scale,
        has_majority: zero,
        majority_at_target: zero,
        majority_elsewhere: zero,
        at_target: share,
        class: target.class,
        counts: select(target.counts, one, zero),
        dropped: select(target.is_bad, numbers.nan.get::<A>(), zero),
        targets_scale: scale,
    };
    #[comptime]
    if let ComptimeOption::Some(statistics) = &given.statistics {
        let maximum = statistics[row];
        let others = statistics[extent.rows + row];
        let mut at_maximum = zero;
        let mut elsewhere = zero;
        if comptime!(spec.is_spread) {
            at_maximum = statistics[2 * extent.rows + row];
            elsewhere = statistics[3 * extent.rows + row];
        }
        let scale_of_scores = scale_of_scores::<A>(numbers, comptime!(&spec));
        let above = ln_1p::<A>(others);
        let inverse = one / (one + others);
        let total = share + at_maximum + elsewhere;
        let mut pull = zero;
        if comptime!(spec.z_loss != ZLoss::Off) {
            let lse = maximum * scale_of_scores + above;
            pull = A::new(2.0) * numbers.z_loss.get::<A>() * lse * penalty_scale * inverse;
        }
        let rest = total * others * inverse;
        common.maximum = maximum;
        common.above = above;
        common.factor = (total * scale * inverse + pull) * scale_of_scores;
        common.has_majority = select(others < one, one, zero);
        common.majority_at_target = ((elsewhere - rest) * scale + pull) * scale_of_scores;
        common.majority_elsewhere = ((elsewhere + share - rest) * scale + pull) * scale_of_scores;
        common.at_target = share * scale * scale_of_scores;
        common.scale = scale * scale_of_scores;
    }
    common
}

#[cube]
impl<A: Float> Given<A> {
    /// What the gradient of a row's loss (0) or z-loss (1) is multiplied by: 0 where there was nothing
    /// to share the sum among.
    fn scale_of_row(&self, row: usize, #[comptime] term: usize) -> A {
        #[comptime]
        match &self.denominators {
            ComptimeOption::Some(denominators) => {
                let total = denominators[term];
                let mut scale = A::new(0.0);
                if total != A::new(0.0) {
                    scale = self.upstream[0] / total;
                }
                scale
            }
            ComptimeOption::None => self.upstream[row],
        }
    }
}
