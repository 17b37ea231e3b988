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

use super::classes::Classes;
use super::elementary::{ln, tanh_slope};
use super::from_forward::FromForward;
use super::plan::{Along, SharedVectors, Tile};
use super::spec::{Extent, Numbers, Span, Spec, Uniforms, Values, span};
use super::state::{scale_of_scores, scaled_difference, scores};
use super::sum::{ones, zeros};
use super::targets::{Inputs, RowShares};
use super::walk::{Block, RowPlace, Step, Walk, steps_of_block};
use crate::operation::RowValue;

mod rows;

pub(crate) use rows::RowOfLane;

/// Gradients that the kernel writes.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Gradients<F: Float, P: Float, N: Size> {
    pub(crate) logits: ComptimeOption<Box<[Vector<F, N>]>>,
    pub(crate) targets: ComptimeOption<Box<[Vector<P, N>]>>,
}

/// Numbers that the classes of a row share, in each lane.
#[derive(CubeType)]
pub(crate) struct Lanes<A: Float, N: Size> {
    maximum: Vector<A, N>,
    /// `lse - maximum`.
    above: Vector<A, N>,
    /// Factor of the exponentials.
    factor: Vector<A, N>,
    /// Factor of the gradient of the row's loss.
    scale: Vector<A, N>,
    /// Whether a class has more than half the probability: 1 or 0.
    has_dominant: Vector<A, N>,
    /// Gradient at the dominant class if that is the target; `dominant_elsewhere`: if it is not.
    dominant_at_target: Vector<A, N>,
    dominant_elsewhere: Vector<A, N>,
    /// Number to subtract from the gradient at the target; over probabilities the target's share; for an entropy
    /// the mean of `maximum - x` under the probabilities.
    at_target: Vector<A, N>,
    class: Vector<u32, N>,
    shares: RowShares<A, N>,
    /// Whether the row counts, 1 or 0; `dropped` replaces its gradient if it does not.
    counts: Vector<A, N>,
    dropped: Vector<A, N>,
    /// Places of the gradients.
    place: RowPlace,
    targets_place: RowPlace,
}

#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn gradients_of_rows<F: Float, A: Float, P: Float, I: Int, K: Int, N: Size>(
    logits: &[Vector<F, N>],
    inputs: Inputs<A, P, I, N>,
    mut gradients: Gradients<F, P, N>,
    from_forward: FromForward<A>,
    uniforms: Uniforms,
    #[comptime] spec: Spec,
    #[define(F, A, P, I, K)] _dtypes: [ElemType; 5],
) {
    let tile = comptime!(spec.tile);
    let span = span(&uniforms.extent, tile);
    if !span.exists {
        terminate!();
    }
    let mut lanes = Lanes::<A, N>::new(span.slot, &uniforms.extent, tile);
    let rows = match comptime!(tile.along) {
        Along::Classes => 1,
        Along::Positions => N::value().comptime(),
    };
    #[unroll]
    for lane in 0..rows {
        lanes.read_row::<P, I, K>(
            lane,
            span.slot,
            &inputs,
            &from_forward,
            &uniforms,
            spec.clone(),
        );
    }
    match comptime!(tile.shared) {
        SharedVectors::None | SharedVectors::Gaps | SharedVectors::Rows => {
            lanes.write_row(logits, &inputs, &mut gradients, &span, &uniforms, spec);
        }
        SharedVectors::Alone(size) => {
            let start = lanes.place.of_step::<N>(0usize.runtime(), tile.along);
            let (classes, size) = (uniforms.extent.classes, comptime!(size as usize));
            let before = (size - start % size) % size;
            let mut span = span;
            span.end = before;
            lanes.write_row(
                logits,
                &inputs,
                &mut gradients,
                &span,
                &uniforms,
                spec.clone(),
            );
            span.begin = classes - (start + classes) % size;
            span.end = classes;
            lanes.write_row(logits, &inputs, &mut gradients, &span, &uniforms, spec);
        }
    }
}

#[cube]
impl<A: Float, N: Size> Lanes<A, N> {
    /// Writes the gradients of the unit's share of the row's classes.
    pub(crate) fn write_row<F: Float, P: Float, I: Int>(
        &mut self,
        logits: &[Vector<F, N>],
        inputs: &Inputs<A, P, I, N>,
        gradients: &mut Gradients<F, P, N>,
        span: &Span,
        uniforms: &Uniforms,
        #[comptime] spec: Spec,
    ) {
        let tile = comptime!(spec.tile);
        let counts = self.begin_row(inputs, gradients, span, uniforms, comptime!(&spec));
        let mut walk = Walk::new::<N>(span, counts, &uniforms.extent, tile);
        let numbers = &uniforms.numbers;
        let spec = comptime!(&spec);
        if comptime!(tile.is_single_block) {
            if walk.base < walk.end {
                let block = walk.load(logits, inputs, uniforms, comptime!(tile.unroll - 1), tile);
                self.write_block(&block, &walk, inputs, gradients, numbers, spec);
            }
        } else {
            let end_of_blocks = walk.end_of_blocks(tile);
            while walk.base < end_of_blocks {
                let block = walk.load(logits, inputs, uniforms, tile.unroll, tile);
                self.write_block(&block, &walk, inputs, gradients, numbers, spec);
                walk.base += comptime!(steps_of_block(tile));
            }
            if walk.base < walk.end {
                let block = walk.load(logits, inputs, uniforms, 0u32, tile);
                self.write_block(&block, &walk, inputs, gradients, numbers, spec);
            }
        }
    }

    /// Whether the row of all lanes counts; if it does not, its gradients are written.
    pub(crate) fn begin_row<F: Float, P: Float, I: Int>(
        &mut self,
        inputs: &Inputs<A, P, I, N>,
        gradients: &mut Gradients<F, P, N>,
        span: &Span,
        uniforms: &Uniforms,
        #[comptime] spec: &Spec,
    ) -> bool {
        let tile = comptime!(spec.tile);
        self.shares
            .read(inputs, span.slot, &uniforms.extent, tile.along);
        let mut counts = true.runtime();
        if comptime!(tile.along == Along::Classes && spec.may_drop_rows()) {
            counts = self.counts.extract(0usize) == A::new(1.0);
            if !counts {
                self.drop_row(gradients, span, &uniforms.extent, tile);
            }
        }
        counts
    }

    /// Writes the gradients of a block, whose loads come before the first store: the compiler could not
    /// move them across.
    pub(crate) fn write_block<F: Float, P: Float, I: Int>(
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

    /// Writes the gradients of a step, unless it holds classes of another row.
    fn write<F: Float, P: Float, I: Int>(
        &self,
        step: &Step<F, P, N>,
        inputs: &Inputs<A, P, I, N>,
        gradients: &mut Gradients<F, P, N>,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) {
        #[allow(clippy::if_same_then_else)]
        if comptime!(!spec.tile.shares_vectors()) {
            self.write_all(step, inputs, gradients, numbers, spec);
        } else if step.classes(spec.tile).are_whole::<N>(spec.tile) {
            self.write_all(step, inputs, gradients, numbers, spec);
        }
    }

    fn write_all<F: Float, P: Float, I: Int>(
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
            let are_probabilities = comptime!(spec.values == Values::Probabilities);
            let own = inputs.own_shares(step.targets, &self.shares, numbers);
            let even = inputs.even_shares(x, &self.shares, numbers, are_probabilities);
            shares = inputs.shares(own, even, step.classes(spec.tile), numbers, spec.tile);
        }
        #[comptime]
        if let ComptimeOption::Some(gradient) = &mut gradients.logits {
            let mut slope = match comptime!(spec.values) {
                Values::Probabilities => {
                    self.slope_of_probabilities(x, shares, step.classes(spec.tile), numbers, along)
                }
                Values::Logits | Values::Scaled | Values::Capped => match comptime!(spec.value) {
                    RowValue::Loss => self.slope(x, shares, step, numbers, spec),
                    // Pairs have kernels of their own.
                    RowValue::LogSumExp | RowValue::Entropy | RowValue::PairSigmoid => {
                        self.slope_of_value(x, numbers, spec)
                    }
                },
            };
            slope = bent(slope, Vector::cast_from(step.logits), numbers, spec);
            if comptime!(along == Along::Positions) {
                slope = self.settled(slope);
            }
            gradient[self.place.of_step::<N>(step.at, along)] = Vector::cast_from(slope);
        }
        #[comptime]
        if let ComptimeOption::Some(gradient) = &mut gradients.targets {
            let surprisal = self.surprisal(x, numbers, spec);
            let weights = inputs.weights(step.classes(spec.tile), spec.tile);
            let factor = Vector::new(numbers.remaining.get::<A>()) * weights;
            // The scale comes first, so that the product overflows only where the gradient does. For a mean
            // over nothing the scale is 0.
            let scaled = factor * self.scale;
            let infinite = zeros::<A, N>() - Vector::new(numbers.lowest.get::<A>());
            let is_nothing = scaled.equal(&zeros()).vec_and(surprisal.equal(&infinite));
            let is_nothing = is_nothing.or(factor.equal(&zeros()));
            let mut slope = select_many(is_nothing, zeros(), scaled * surprisal);
            if comptime!(along == Along::Positions) {
                slope = self.settled(slope);
            }
            gradient[self.targets_place.of_step::<N>(step.at, along)] = Vector::cast_from(slope);
        }
    }

    /// Writes `dropped` in place of the gradient of a row that does not count.
    fn drop_row<F: Float, P: Float>(
        &self,
        gradients: &mut Gradients<F, P, N>,
        span: &Span,
        extent: &Extent,
        #[comptime] tile: Tile,
    ) {
        let mut step = span.begin + span.unit;
        while step < span.end {
            #[allow(clippy::if_same_then_else)]
            if comptime!(!tile.shares_vectors()) {
                self.drop_step(gradients, step, tile);
            } else if self
                .place
                .classes(extent)
                .of_step::<N>(step, tile)
                .are_whole::<N>(tile)
            {
                self.drop_step(gradients, step, tile);
            }
            step += comptime!(tile.units as usize);
        }
    }

    fn drop_step<F: Float, P: Float>(
        &self,
        gradients: &mut Gradients<F, P, N>,
        step: usize,
        #[comptime] tile: Tile,
    ) {
        #[comptime]
        if let ComptimeOption::Some(gradient) = &mut gradients.logits {
            gradient[self.place.of_step::<N>(step, tile.along)] = Vector::cast_from(self.dropped);
        }
        #[comptime]
        if let ComptimeOption::Some(gradient) = &mut gradients.targets {
            gradient[self.targets_place.of_step::<N>(step, tile.along)] =
                Vector::cast_from(self.dropped);
        }
    }

    /// The gradient of logits with the scores `x`.
    fn slope<F: Float, P: Float>(
        &self,
        x: Vector<A, N>,
        shares: Vector<A, N>,
        step: &Step<F, P, N>,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) -> Vector<A, N> {
        let along = comptime!(spec.tile.along);
        let exponential = scaled_difference(x, self.maximum, numbers, spec).exp();
        let mut slope = exponential * self.factor;
        let is_dominant = self.is_dominant(x, exponential, spec.tile);
        if comptime!(spec.is_spread) {
            slope -= shares * self.scale * Vector::new(scale_of_scores::<A>(numbers, spec));
            slope = select_many(is_dominant, self.dominant_elsewhere, slope);
        }
        if comptime!(!spec.has_distributions) {
            match comptime!(along) {
                Along::Positions => {
                    slope = self.with_target(slope, is_dominant, step, spec.tile);
                }
                Along::Classes => {
                    // One vector of the row holds the target.
                    let class = self.class.extract(0usize) as usize;
                    let step_of_target = self.place.step_of_class::<N>(class, spec.tile);
                    if step.at == step_of_target {
                        slope = self.with_target(slope, is_dominant, step, spec.tile);
                    }
                }
            }
        }
        slope
    }

    /// The gradient of the log-sum-exp, `p`, or of the entropy, `p ((maximum - x) - mean of that)`, by logits with the
    /// scores `x`. A class of probability 0 has a gradient of 0.
    fn slope_of_value(
        &self,
        x: Vector<A, N>,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) -> Vector<A, N> {
        let exponential = scaled_difference(x, self.maximum, numbers, spec).exp();
        let mut slope = exponential * self.factor;
        if comptime!(spec.value == RowValue::Entropy) {
            let gap = scaled_difference(self.maximum, x, numbers, spec);
            let gap = select_many(x.equal(&self.maximum), zeros(), gap);
            let of_gap = slope * (gap - self.at_target);
            slope = select_many(exponential.equal(&zeros()), zeros(), of_gap);
        }
        slope
    }

    /// The gradient of the logits of a class with a share of its own and an even share, where all lanes are of that
    /// class.
    pub(crate) fn slope_at_target(
        &self,
        logits: Vector<A, N>,
        even: A,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) -> Vector<A, N> {
        let x = scores::<A, A, N>(logits, numbers, spec.values);
        match comptime!(spec.values) {
            Values::Probabilities => {
                self.slope_of_shares(Vector::new(even) + self.at_target, x, numbers)
            }
            Values::Logits | Values::Scaled | Values::Capped => {
                let exponential = scaled_difference(x, self.maximum, numbers, spec).exp();
                let is_dominant = self.is_dominant(x, exponential, spec.tile);
                let mut less = exponential * self.factor;
                // Without even shares it is the expression of an index target, also where compilers fuse it.
                if comptime!(spec.is_spread) {
                    let inner = scale_of_scores::<A>(numbers, spec);
                    less -= Vector::new(even * inner) * self.scale;
                }
                less -= self.at_target;
                let slope = select_many(is_dominant, self.dominant_at_target, less);
                bent(slope, logits, numbers, spec)
            }
        }
    }

    /// Subtracts the target's share from the slope.
    fn with_target<F: Float, P: Float>(
        &self,
        slope: Vector<A, N>,
        is_dominant: Vector<bool, N>,
        step: &Step<F, P, N>,
        #[comptime] tile: Tile,
    ) -> Vector<A, N> {
        let classes = step.classes(tile).of_lanes::<N>(tile.along);
        let is_target = classes.equal(&self.class);
        let less = slope - self.at_target;
        let at_target = select_many(is_dominant, self.dominant_at_target, less);
        select_many(is_target, at_target, slope)
    }

    /// Lanes that hold the class of more than half the probability.
    fn is_dominant(
        &self,
        x: Vector<A, N>,
        exponential: Vector<A, N>,
        #[comptime] tile: Tile,
    ) -> Vector<bool, N> {
        let is_largest = match comptime!(tile.holds_row()) {
            // With another exponential of 1 the others would not be below 1. A block that is held need not keep the
            // scores.
            true => exponential.equal(&ones()),
            false => x.equal(&self.maximum),
        };
        is_largest.vec_and(self.has_dominant.equal(&ones()))
    }

    /// The gradient of the probabilities `s`.
    fn slope_of_probabilities(
        &self,
        s: Vector<A, N>,
        shares: Vector<A, N>,
        classes: Classes,
        numbers: &Numbers,
        #[comptime] along: Along,
    ) -> Vector<A, N> {
        let is_target = classes.of_lanes::<N>(along).equal(&self.class);
        let shares = shares + select_many(is_target, self.at_target, zeros());
        self.slope_of_shares(shares, s, numbers)
    }

    /// The gradient of probabilities `s` whose classes have these shares.
    fn slope_of_shares(
        &self,
        shares: Vector<A, N>,
        s: Vector<A, N>,
        numbers: &Numbers,
    ) -> Vector<A, N> {
        let quotient = shares / s;
        // Where the quotient overflows, the scale comes first. For a mean over nothing the scale is 0.
        let lowest = Vector::<A, N>::new(numbers.lowest.get::<A>());
        let overflows = quotient
            .equal(&lowest)
            .or(quotient.equal(&(zeros::<A, N>() - lowest)));
        let scaled_first = shares * self.scale / s;
        let scaled_first = select_many(self.scale.equal(&zeros()), zeros(), scaled_first);
        let slope = select_many(overflows, scaled_first, quotient * self.scale);
        select_many(shares.equal(&zeros()), zeros(), zeros::<A, N>() - slope)
    }

    /// `lse - x`, or over probabilities `-ln s`.
    pub(crate) fn surprisal(
        &self,
        x: Vector<A, N>,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) -> Vector<A, N> {
        match comptime!(spec.values) {
            Values::Probabilities => zeros::<A, N>() - ln(x),
            Values::Logits | Values::Scaled | Values::Capped => {
                let gap = scaled_difference(self.maximum, x, numbers, spec);
                select_many(x.equal(&self.maximum), zeros(), gap) + self.above
            }
        }
    }

    /// Replaces the slope of rows that do not count. Selects: a product would keep the NaN of an ignored row.
    fn settled(&self, slope: Vector<A, N>) -> Vector<A, N> {
        select_many(self.counts.equal(&ones()), slope, self.dropped)
    }
}

/// Takes the slope of scores through the softcap, if there is one.
#[cube]
fn bent<A: Float, N: Size>(
    slope: Vector<A, N>,
    logits: Vector<A, N>,
    numbers: &Numbers,
    #[comptime] spec: &Spec,
) -> Vector<A, N> {
    match comptime!(spec.values) {
        Values::Capped => {
            let bend = Vector::new(numbers.bend.get::<A>());
            slope * tanh_slope(logits * bend) * Vector::new(numbers.scale.get::<A>())
        }
        Values::Logits | Values::Scaled | Values::Probabilities => slope,
    }
}
