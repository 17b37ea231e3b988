//! Numbers of the rows whose gradients a unit writes: from their targets, and from what the forward knows of them.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{Lanes, LanesExpand};
use crate::kernel::cube::elementary::ln_1p;
use crate::kernel::cube::from_forward::{FromForward, Statistics};
use crate::kernel::cube::plan::{Along, Tile};
use crate::kernel::cube::spec::{Extent, Factor, Spec, Uniforms, ZLoss};
use crate::kernel::cube::state::scale_of_scores;
use crate::kernel::cube::sum::zeros;
use crate::kernel::cube::targets::{Inputs, RowShares, lines, share_of_target, target_of};
use crate::kernel::cube::walk::RowPlace;
use crate::operation::RowValue;

#[cube]
impl<A: Float, N: Size> Lanes<A, N> {
    /// Lanes before their rows are set.
    pub(crate) fn new(slot: usize, extent: &Extent, #[comptime] tile: Tile) -> Lanes<A, N> {
        Lanes::<A, N> {
            maximum: zeros(),
            above: zeros(),
            factor: zeros(),
            scale: zeros(),
            has_dominant: zeros(),
            dominant_at_target: zeros(),
            dominant_elsewhere: zeros(),
            at_target: zeros(),
            shares: RowShares::new(),
            class: Vector::new(0u32),
            counts: zeros(),
            dropped: zeros(),
            place: RowPlace::new::<N>(slot, extent.gradient, extent, tile),
            targets_place: RowPlace::new::<N>(slot, extent.targets_gradient, extent, tile),
        }
    }

    /// Sets the numbers of the row of a lane, along classes of the row of all lanes, from what the forward has kept.
    pub(super) fn read_row<P: Float, I: Int, K: Int>(
        &mut self,
        #[comptime] lane: usize,
        slot: usize,
        inputs: &Inputs<A, P, I, N>,
        from_forward: &FromForward<A>,
        uniforms: &Uniforms,
        #[comptime] spec: Spec,
    ) {
        let rows = uniforms.extent.rows;
        let row = self.set_target::<P, I, K>(
            lane,
            slot,
            inputs,
            from_forward,
            uniforms,
            comptime!(&spec),
        );
        #[comptime]
        match &from_forward.statistics {
            ComptimeOption::None => self.set_share(&row, comptime!(&spec)),
            ComptimeOption::Some(statistics) => {
                let given = Statistics::read(statistics, row.row, rows, comptime!(&spec));
                self.set_statistics(given, &row, uniforms, comptime!(&spec));
                if comptime!(spec.has_tail) {
                    self.set_rest(inputs, &row, uniforms, comptime!(&spec));
                }
            }
        }
    }

    /// Sets the numbers of the row of a lane, along classes of the row of all lanes, that its target tells.
    pub(crate) fn set_target<P: Float, I: Int, K: Int>(
        &mut self,
        #[comptime] lane: usize,
        slot: usize,
        inputs: &Inputs<A, P, I, N>,
        from_forward: &FromForward<A>,
        uniforms: &Uniforms,
        #[comptime] spec: &Spec,
    ) -> RowOfLane<A> {
        let (zero, one) = (A::new(0.0), A::new(1.0));
        let (numbers, along) = (&uniforms.numbers, comptime!(spec.tile.along));
        let row = match comptime!(along) {
            Along::Classes => slot,
            Along::Positions => slot * N::value().comptime() + lane,
        };
        let target = target_of::<A, P, I, K, N>(inputs, row, &uniforms.extent);
        let mut scale = from_forward.scale_of_row(row, 0usize);
        let mut penalty_scale = from_forward.scale_of_row(row, 1usize);
        if comptime!(spec.has_row_weights) {
            let weight = inputs.row_weight(row, uniforms.extent.classes);
            scale *= weight;
            penalty_scale *= weight;
        }
        let dropped = select(target.is_bad, numbers.nan.get::<A>(), zero);
        let counts = select(target.counts, one, zero);
        set(&mut self.class, lane, target.class, along);
        set(&mut self.counts, lane, counts, along);
        set(&mut self.dropped, lane, dropped, along);
        set(&mut self.scale, lane, scale, along);
        RowOfLane::<A> {
            row,
            share: share_of_target::<A, P, I, N>(inputs, row, &target, uniforms),
            scale,
            penalty_scale,
            lane,
        }
    }

    /// Sets the numbers of a row of probabilities.
    pub(crate) fn set_share(&mut self, row: &RowOfLane<A>, #[comptime] spec: &Spec) {
        let (lane, along) = (comptime!(row.lane), comptime!(spec.tile.along));
        set(&mut self.scale, lane, row.scale, along);
        set(&mut self.at_target, lane, row.share, along);
    }

    /// Sets the numbers of the classes beside the entries of a row with a tail; those of the entries come after.
    pub(crate) fn set_rest<P: Float, I: Int>(
        &mut self,
        inputs: &Inputs<A, P, I, N>,
        row: &RowOfLane<A>,
        uniforms: &Uniforms,
        #[comptime] spec: &Spec,
    ) {
        let (lane, along) = (comptime!(row.lane), comptime!(spec.tile.along));
        let extent = &uniforms.extent;
        let maximum = inputs.number_of_row(row.row, lines::MAXIMUM_OF_REST, extent);
        let mut factor = inputs.number_of_row(row.row, lines::AT_REST, extent) * row.scale;
        if comptime!(spec.z_loss != ZLoss::Off) {
            let share = inputs.number_of_row(row.row, lines::SHARE_OF_REST, extent);
            let lse = inputs.number_of_row(row.row, lines::LSE, extent);
            let of_penalty = A::new(2.0) * uniforms.numbers.z_loss.get::<A>();
            factor += of_penalty * lse * row.penalty_scale * share;
        }
        let factor = factor * scale_of_scores::<A>(&uniforms.numbers, spec);
        set(&mut self.maximum, lane, maximum, along);
        set(&mut self.factor, lane, factor, along);
        set(&mut self.has_dominant, lane, A::new(0.0), along);
    }

    /// Sets the numbers that a row of logits has from its statistics.
    pub(crate) fn set_statistics(
        &mut self,
        given: Statistics<A>,
        row: &RowOfLane<A>,
        uniforms: &Uniforms,
        #[comptime] spec: &Spec,
    ) {
        let (zero, one) = (A::new(0.0), A::new(1.0));
        let (lane, along) = (comptime!(row.lane), comptime!(spec.tile.along));
        let (maximum, others, scale) = (given.maximum, given.others, row.scale);
        let mut at_maximum = given.at_maximum;
        let mut elsewhere = given.elsewhere;
        let mut share = row.share;
        let mut scale_of_spread = scale;
        if comptime!(spec.factor != Factor::None) {
            share = share * given.factor + given.at_target;
            at_maximum *= given.factor;
            elsewhere *= given.factor;
            scale_of_spread = scale * given.factor;
        }
        let above = ln_1p::<A>(others);
        let inverse = one / (one + others);
        let inner = scale_of_scores::<A>(&uniforms.numbers, spec);
        let mut pull = zero;
        if comptime!(spec.z_loss != ZLoss::Off) {
            let lse = maximum * inner + above;
            let factor = A::new(2.0) * uniforms.numbers.z_loss.get::<A>();
            pull = factor * lse * row.penalty_scale * inverse;
        }
        let mut total = share + at_maximum + elsewhere;
        let mut to_subtract = share * scale * inner;
        if comptime!(spec.value != RowValue::Loss) {
            total = one;
        }
        if comptime!(spec.value == RowValue::Entropy) {
            to_subtract = given.entropy - above;
        }
        let rest = total * others * inverse;
        let has_dominant = select(others < one, one, zero);
        let at_target = ((elsewhere - rest) * scale + pull) * inner;
        let not_at_target = ((elsewhere + share - rest) * scale + pull) * inner;
        let factor = (total * scale * inverse + pull) * inner;
        set(&mut self.scale, lane, scale_of_spread, along);
        set(&mut self.maximum, lane, maximum, along);
        set(&mut self.above, lane, above, along);
        set(&mut self.factor, lane, factor, along);
        set(&mut self.has_dominant, lane, has_dominant, along);
        set(&mut self.dominant_at_target, lane, at_target, along);
        set(&mut self.dominant_elsewhere, lane, not_at_target, along);
        set(&mut self.at_target, lane, to_subtract, along);
    }
}

/// Row of a lane, with the factors of its gradient.
#[derive(CubeType)]
pub(crate) struct RowOfLane<A: Float> {
    pub(crate) row: usize,
    /// Share that an index target adds to its class.
    pub(crate) share: A,
    pub(crate) scale: A,
    pub(crate) penalty_scale: A,
    #[cube(comptime)]
    pub(crate) lane: usize,
}

/// Sets one lane; along classes all lanes, which belong to one row.
#[cube]
fn set<T: Scalar, N: Size>(
    lanes: &mut Vector<T, N>,
    #[comptime] lane: usize,
    number: T,
    #[comptime] along: Along,
) {
    match comptime!(along) {
        Along::Classes => *lanes = Vector::new(number),
        Along::Positions => lanes.insert(lane, number),
    }
}
