//! Read of a row's logits, block after block, into the state.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::outputs::{RankedClass, lowered, or_lowest};
use super::plan::Along;
use super::spec::{Span, Spec, Uniforms};
use super::state::State;
use super::sum::zeros;
use super::targets::{Inputs, target_of};
use super::walk::{RowPlace, Walk, steps_of_block};
use crate::operation::Outputs;

/// Blocks that one run of a sum adds up, see [`State::end_run`].
const BLOCKS_OF_A_RUN: usize = 64;

/// Reads the unit's share of the row's classes into `state`.
#[cube]
pub(crate) fn scan<F: Float, A: Float, P: Float, I: Int, K: Int, N: Size, M: Size>(
    logits: &[Vector<F, N>],
    inputs: &Inputs<A, P, I, N>,
    state: &mut State<A, N, M>,
    span: &Span,
    uniforms: &Uniforms,
    #[comptime] spec: Spec,
) {
    let tile = comptime!(spec.tile);
    let (numbers, extent) = (&uniforms.numbers, &uniforms.extent);
    let mut takes_any = comptime!(spec.adds_anything()).runtime();
    if comptime!(tile.along == Along::Classes && spec.outputs == Outputs::None) {
        // The logits of a row that does not count are not read.
        let target = target_of::<A, P, I, K, N>(inputs, span.slot, extent);
        takes_any = takes_any && target.counts;
    }
    let ranked = begin::<F, A, P, I, K, N, M>(logits, inputs, state, span, uniforms, spec.clone());
    let mut walk = Walk::new::<N>(span, takes_any, extent, tile);
    if comptime!(tile.is_single_block) {
        if walk.base < walk.end {
            let block = walk.load(logits, inputs, uniforms, comptime!(tile.unroll - 1), tile);
            state.take(&block, &walk, &ranked, inputs, numbers, comptime!(&spec));
        }
    } else {
        let length = comptime!(steps_of_block(tile));
        let end_of_blocks = walk.end_of_blocks(tile);
        while walk.base < end_of_blocks {
            let end_of_run = end_of_blocks.min(walk.base + BLOCKS_OF_A_RUN * length);
            while walk.base < end_of_run {
                let block = walk.load(logits, inputs, uniforms, tile.unroll, tile);
                state.take(&block, &walk, &ranked, inputs, numbers, comptime!(&spec));
                walk.base += length;
            }
            state.end_run();
        }
        if walk.base < walk.end {
            let block = walk.load(logits, inputs, uniforms, 0u32, tile);
            state.take(&block, &walk, &ranked, inputs, numbers, comptime!(&spec));
        }
    }
}

/// What a unit needs before its first step.
#[cube]
pub(crate) fn begin<F: Float, A: Float, P: Float, I: Int, K: Int, N: Size, M: Size>(
    logits: &[Vector<F, N>],
    inputs: &Inputs<A, P, I, N>,
    state: &mut State<A, N, M>,
    span: &Span,
    uniforms: &Uniforms,
    #[comptime] spec: Spec,
) -> RankedClass<A, N> {
    state.shares.read(
        inputs,
        span.slot,
        &uniforms.extent,
        comptime!(spec.tile.along),
    );
    class_of_rank::<F, A, P, I, K, N>(logits, inputs, span, uniforms, spec)
}

/// Target of each lane, for the rank; a placeholder where outputs are not wanted.
#[cube]
fn class_of_rank<F: Float, A: Float, P: Float, I: Int, K: Int, N: Size>(
    logits: &[Vector<F, N>],
    inputs: &Inputs<A, P, I, N>,
    span: &Span,
    uniforms: &Uniforms,
    #[comptime] spec: Spec,
) -> RankedClass<A, N> {
    let (numbers, extent) = (&uniforms.numbers, &uniforms.extent);
    let mut ranked = RankedClass::<A, N> {
        score: zeros(),
        class: Vector::new(0u32),
    };
    if comptime!(spec.outputs != Outputs::None) {
        let tile = comptime!(spec.tile);
        let of_row = RowPlace::new::<N>(span.slot, extent.logits, extent, tile);
        let lanes = N::value().comptime();
        match comptime!(spec.tile.along) {
            Along::Positions =>
            {
                #[unroll]
                for lane in 0..lanes {
                    let row = span.slot * lanes + lane;
                    let target = target_of::<A, P, I, K, N>(inputs, row, extent);
                    let class = inputs.class_to_rank(row, &target, extent);
                    let place = of_row.of_class::<N>(class as usize, tile);
                    let score = Vector::<A, N>::cast_from(logits[place]);
                    ranked.score.insert(lane, score.extract(lane));
                    ranked.class.insert(lane, class);
                }
            }
            Along::Classes => {
                let row = span.slot;
                let target = target_of::<A, P, I, K, N>(inputs, row, extent);
                let class = inputs.class_to_rank(row, &target, extent);
                let score =
                    Vector::<A, N>::cast_from(logits[of_row.of_class::<N>(class as usize, tile)]);
                ranked.score = Vector::new(
                    score.extract_dynamic(of_row.lane_of_class::<N>(class as usize, tile)),
                );
                ranked.class = Vector::new(class);
            }
        }
        ranked.score = or_lowest(ranked.score, numbers.lowest.get::<A>());
        if comptime!(spec.target_loses) {
            ranked.score = lowered(ranked.score, numbers);
        }
    }
    ranked
}
