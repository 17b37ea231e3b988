//! The gradients, from one read of the logits and the numbers that the forward kept of every row.
//!
//! ```text
//! dx[c]   = A p[c] - a[c]                                p[c] = exp(x[c] - m) / (1 + others)
//!         = sum_{other} a - A others / (1 + others)      at a class of more than half of p
//! dp[c]   = (1 - e) w[c] (lse - x[c])                    of target distributions
//! ```
//!
//! The second line is minus the sum of the other classes' gradients: where a row has been learned,
//! `A p` and `a` are nearly equal there, and their difference would have no digits left. A class
//! without a share has no difference, so only the target takes it, or with spread shares every class.
//!
//! Every class is computed by itself: no unit waits for another, and each element is written by the
//! unit that read it, so that a gradient may replace the tensor that it is the gradient of.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::elementary::{ln, ln_1p, tanh_slope};
use super::plan::{Along, Tile};
use super::spec::{Extent, Numbers, Span, Spec, Values, ZLoss, span};
use super::state::{scale_of_scores, scores};
use super::sum::{ones, times, zeros};
use super::targets::{Inputs, classes_of_lanes, first_class, share_of_target, target_of};
use super::walk::{Block, RowPlace, Step, Walk, steps_of_block};

/// Inputs of the backward from the forward, and the upstream gradient.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct FromForward<A: Float> {
    /// `[statistics, rows]`.
    pub(crate) statistics: ComptimeOption<Box<[A]>>,
    /// Divisors of the losses and of the z-losses.
    pub(crate) divisors: ComptimeOption<Box<[A]>>,
    /// Upstream gradient: one number, or without divisors one per row.
    pub(crate) upstream: Box<[A]>,
}

/// Gradients that the kernel writes.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Gradients<F: Float, P: Float, N: Size> {
    pub(crate) logits: ComptimeOption<Box<[Vector<F, N>]>>,
    pub(crate) targets: ComptimeOption<Box<[Vector<P, N>]>>,
}

/// Numbers that the classes of a row share, in each lane.
#[derive(CubeType)]
struct Lanes<A: Float, N: Size> {
    maximum: Vector<A, N>,
    /// `lse - maximum`.
    above: Vector<A, N>,
    /// Factor of the exponentials.
    factor: Vector<A, N>,
    /// Factor of the spread shares.
    scale: Vector<A, N>,
    /// Whether a class has more than half the probability: 1 or 0.
    has_dominant: Vector<A, N>,
    /// Gradient at the dominant class if that is the target; `dominant_elsewhere`: if it is not.
    dominant_at_target: Vector<A, N>,
    dominant_elsewhere: Vector<A, N>,
    /// Number to subtract from the gradient at the target; over probabilities the target's share.
    at_target: Vector<A, N>,
    class: Vector<u32, N>,
    /// Whether the row counts, 1 or 0; `dropped` replaces its gradient if it does not.
    counts: Vector<A, N>,
    dropped: Vector<A, N>,
    /// The factor of the target distributions' gradient.
    targets_scale: Vector<A, N>,
    /// Places of the gradients.
    place: RowPlace,
    targets_place: RowPlace,
}

/// Numbers that the classes of one row share.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Common<A: Float> {
    maximum: A,
    above: A,
    factor: A,
    scale: A,
    has_dominant: A,
    dominant_at_target: A,
    dominant_elsewhere: A,
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
    from_forward: FromForward<A>,
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
    let lanes = lanes_of_slot::<A, P, I, K, N>(
        &inputs,
        &from_forward,
        span.slot,
        &numbers,
        &extent,
        spec.clone(),
    );
    let mut counts = true.runtime();
    if comptime!(tile.along == Along::Classes && !spec.has_distributions) {
        counts = lanes.counts.extract(0usize) == A::new(1.0);
        if !counts {
            lanes.drop_row(&mut gradients, &span, tile);
        }
    }
    let mut walk = Walk::new(&span, counts, &extent, tile);
    if comptime!(tile.is_single_block) {
        if walk.base < walk.end {
            let block = walk.load(logits, &inputs, comptime!(tile.unroll - 1), tile);
            lanes.write_block(
                &block,
                &walk,
                &inputs,
                &mut gradients,
                &numbers,
                comptime!(&spec),
            );
        }
    } else {
        let end_of_blocks = walk.end_of_blocks(tile);
        while walk.base < end_of_blocks {
            let block = walk.load(logits, &inputs, tile.unroll, tile);
            lanes.write_block(
                &block,
                &walk,
                &inputs,
                &mut gradients,
                &numbers,
                comptime!(&spec),
            );
            walk.base += comptime!(steps_of_block(tile));
        }
        if walk.base < walk.end {
            let block = walk.load(logits, &inputs, 0u32, tile);
            lanes.write_block(
                &block,
                &walk,
                &inputs,
                &mut gradients,
                &numbers,
                comptime!(&spec),
            );
        }
    }
}

#[cube]
impl<A: Float, N: Size> Lanes<A, N> {
    /// Writes the gradients of a block, whose loads come before the first store: the compiler could not
    /// move them across.
    fn write_block<F: Float, P: Float, I: Int>(
        &self,
        block: &Block<F, P, N>,
        walk: &Walk,
        inputs: &Inputs<A, P, I, N>,
        gradients: &mut Gradients<F, P, N>,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) {
        #[unroll]
        for nth in 0..comptime!(spec.tile.unroll as usize) {
            let step = &block.steps[nth];
            // The first condition is known when the kernel is compiled, and leaves no branch.
            #[allow(clippy::if_same_then_else)]
            if comptime!(nth < block.certain as usize) {
                self.write(step, inputs, gradients, numbers, spec);
            } else if step.at < walk.end {
                self.write(step, inputs, gradients, numbers, spec);
            }
        }
    }

    /// Writes the gradients of a step.
    fn write<F: Float, P: Float, I: Int>(
        &self,
        step: &Step<F, P, N>,
        inputs: &Inputs<A, P, I, N>,
        gradients: &mut Gradients<F, P, N>,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) {
        let along = comptime!(spec.tile.along);
        let x = scores::<F, A, N>(step.logits, numbers, spec.values);
        let mut shares = zeros::<A, N>();
        if comptime!(spec.is_spread) {
            shares = inputs.shares(step.targets, step.at, numbers, along);
        }
        #[comptime]
        if let ComptimeOption::Some(gradient) = &mut gradients.logits {
            let mut slope = match comptime!(spec.values) {
                Values::Probabilities => self.slope_of_probabilities(x, shares, step.at, along),
                Values::Logits | Values::Scaled | Values::Capped => {
                    self.slope(x, shares, step.at, numbers, spec)
                }
            };
            if comptime!(spec.values == Values::Capped) {
                let bend = Vector::new(numbers.bend.get::<A>());
                let scale = Vector::new(numbers.scale.get::<A>());
                slope = slope * tanh_slope(Vector::<A, N>::cast_from(step.logits) * bend) * scale;
            }
            if comptime!(along == Along::Positions) {
                slope = self.settled(slope);
            }
            gradient[self.place.of_step::<N>(step.at, along)] = Vector::cast_from(slope);
        }
        #[comptime]
        if let ComptimeOption::Some(gradient) = &mut gradients.targets {
            let surprisal = self.surprisal(x, numbers, spec);
            let weights = inputs.weights(first_class::<N>(step.at, along), along);
            let factor = Vector::new(numbers.remaining.get::<A>()) * weights;
            let slope = times(factor, surprisal) * self.targets_scale;
            gradient[self.targets_place.of_step::<N>(step.at, along)] = Vector::cast_from(slope);
        }
    }

    /// Writes `dropped` in place of the gradient of a row that does not count.
    fn drop_row<F: Float, P: Float>(
        &self,
        gradients: &mut Gradients<F, P, N>,
        span: &Span,
        #[comptime] tile: Tile,
    ) {
        #[comptime]
        if let ComptimeOption::Some(gradient) = &mut gradients.logits {
            let mut step = span.begin + span.unit;
            while step < span.end {
                gradient[self.place.of_step::<N>(step, tile.along)] =
                    Vector::cast_from(self.dropped);
                step += comptime!(tile.units as usize);
            }
        }
    }

    /// The gradient of logits with the scores `x`.
    fn slope(
        &self,
        x: Vector<A, N>,
        shares: Vector<A, N>,
        step: usize,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) -> Vector<A, N> {
        let along = comptime!(spec.tile.along);
        let scale = scale_of_scores::<A>(numbers, spec);
        let exponential = ((x - self.maximum) * Vector::new(scale)).exp();
        let mut slope = exponential * self.factor;
        if comptime!(spec.is_spread) {
            slope -= shares * self.scale;
            slope = select_many(self.is_dominant(x), self.dominant_elsewhere, slope);
        }
        if comptime!(!spec.has_distributions) {
            match comptime!(along) {
                Along::Positions => slope = self.with_target(slope, x, step, along),
                Along::Classes => {
                    // One vector of the row holds the target.
                    let step_of_target =
                        self.class.extract(0usize) as usize / N::value().comptime();
                    if step == step_of_target {
                        slope = self.with_target(slope, x, step, along);
                    }
                }
            }
        }
        slope
    }

    /// Subtracts the target's share from the slope.
    fn with_target(
        &self,
        slope: Vector<A, N>,
        x: Vector<A, N>,
        step: usize,
        #[comptime] along: Along,
    ) -> Vector<A, N> {
        let is_target = classes_of_lanes::<N>(first_class::<N>(step, along), along);
        let is_target = is_target.equal(&self.class);
        let less = slope - self.at_target;
        let at_target = select_many(self.is_dominant(x), self.dominant_at_target, less);
        select_many(is_target, at_target, slope)
    }

    /// Lanes that hold the class of more than half the probability.
    fn is_dominant(&self, x: Vector<A, N>) -> Vector<bool, N> {
        x.equal(&self.maximum)
            .vec_and(self.has_dominant.equal(&ones()))
    }

    /// The gradient of the probabilities `s`.
    fn slope_of_probabilities(
        &self,
        s: Vector<A, N>,
        shares: Vector<A, N>,
        step: usize,
        #[comptime] along: Along,
    ) -> Vector<A, N> {
        let is_target = classes_of_lanes::<N>(first_class::<N>(step, along), along);
        let is_target = is_target.equal(&self.class);
        let shares = shares + select_many(is_target, self.at_target, zeros());
        let slope = (zeros::<A, N>() - shares) / s * self.scale;
        select_many(shares.equal(&zeros()), zeros(), slope)
    }

    /// `lse - x`, or over probabilities `-ln s`.
    fn surprisal(
        &self,
        x: Vector<A, N>,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) -> Vector<A, N> {
        match comptime!(spec.values) {
            Values::Probabilities => zeros::<A, N>() - ln(x),
            Values::Logits | Values::Scaled | Values::Capped => {
                let gap = (self.maximum - x) * Vector::new(scale_of_scores::<A>(numbers, spec));
                select_many(x.equal(&self.maximum), zeros(), gap) + self.above
            }
        }
    }

    /// Replaces the slope of rows that do not count. Selects: a product would keep the NaN of an ignored row.
    fn settled(&self, slope: Vector<A, N>) -> Vector<A, N> {
        select_many(self.counts.equal(&ones()), slope, self.dropped)
    }
}

#[cube]
fn lanes_of_slot<A: Float, P: Float, I: Int, K: Int, N: Size>(
    inputs: &Inputs<A, P, I, N>,
    from_forward: &FromForward<A>,
    slot: usize,
    numbers: &Numbers,
    extent: &Extent,
    #[comptime] spec: Spec,
) -> Lanes<A, N> {
    let rows = match comptime!(spec.tile.along) {
        Along::Classes => 1,
        Along::Positions => N::value().comptime(),
    };
    let first = common_of_row::<A, P, I, K, N>(
        inputs,
        from_forward,
        slot * rows,
        numbers,
        extent,
        spec.clone(),
    );
    let mut lanes = Lanes::<A, N> {
        maximum: Vector::new(first.maximum),
        above: Vector::new(first.above),
        factor: Vector::new(first.factor),
        scale: Vector::new(first.scale),
        has_dominant: Vector::new(first.has_dominant),
        dominant_at_target: Vector::new(first.dominant_at_target),
        dominant_elsewhere: Vector::new(first.dominant_elsewhere),
        at_target: Vector::new(first.at_target),
        class: Vector::new(first.class),
        counts: Vector::new(first.counts),
        dropped: Vector::new(first.dropped),
        targets_scale: Vector::new(first.targets_scale),
        place: RowPlace::new(slot, extent.gradient, extent, spec.tile),
        targets_place: RowPlace::new(slot, extent.targets_gradient, extent, spec.tile),
    };
    #[unroll]
    for lane in 1..rows {
        let row = slot * rows + lane;
        let common = common_of_row::<A, P, I, K, N>(
            inputs,
            from_forward,
            row,
            numbers,
            extent,
            spec.clone(),
        );
        lanes.maximum.insert(lane, common.maximum);
        lanes.above.insert(lane, common.above);
        lanes.factor.insert(lane, common.factor);
        lanes.scale.insert(lane, common.scale);
        lanes.has_dominant.insert(lane, common.has_dominant);
        lanes
            .dominant_at_target
            .insert(lane, common.dominant_at_target);
        lanes
            .dominant_elsewhere
            .insert(lane, common.dominant_elsewhere);
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
    from_forward: &FromForward<A>,
    row: usize,
    numbers: &Numbers,
    extent: &Extent,
    #[comptime] spec: Spec,
) -> Common<A> {
    let zero = A::new(0.0);
    let one = A::new(1.0);
    let target = target_of::<A, P, I, K, N>(inputs, row, extent);
    let share = share_of_target::<A, P, I, N>(inputs, &target, numbers);
    let scale = from_forward.scale_of_row(row, 0usize);
    let penalty_scale = from_forward.scale_of_row(row, 1usize);
    let mut common = Common::<A> {
        maximum: zero,
        above: zero,
        factor: zero,
        scale,
        has_dominant: zero,
        dominant_at_target: zero,
        dominant_elsewhere: zero,
        at_target: share,
        class: target.class,
        counts: select(target.counts, one, zero),
        dropped: select(target.is_bad, numbers.nan.get::<A>(), zero),
        targets_scale: scale,
    };
    #[comptime]
    if let ComptimeOption::Some(statistics) = &from_forward.statistics {
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
        common.has_dominant = select(others < one, one, zero);
        common.dominant_at_target = ((elsewhere - rest) * scale + pull) * scale_of_scores;
        common.dominant_elsewhere = ((elsewhere + share - rest) * scale + pull) * scale_of_scores;
        common.at_target = share * scale * scale_of_scores;
        common.scale = scale * scale_of_scores;
    }
    common
}

#[cube]
impl<A: Float> FromForward<A> {
    /// Factor of the gradient of a row's loss (`term` 0) or z-loss (1); 0 where the divisor is 0.
    fn scale_of_row(&self, row: usize, #[comptime] term: usize) -> A {
        #[comptime]
        match &self.divisors {
            ComptimeOption::Some(divisors) => {
                let total = divisors[term];
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
