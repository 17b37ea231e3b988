//! Loss of every row, from one read of its logits.
//!
//! With `x` the logits of a row after scale and softcap, `m` their maximum, and shares `a[c]`:
//!
//! ```text
//! all     = sum_c exp(x[c] - m)
//! others  = all - 1, where that has digits left; else the sum without the maximum
//! lse - m = ln(1 + others)
//! loss    = sum_c a[c] (m - x[c]) + A (lse - m)          A = sum_c a[c]
//! ```

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::finish::{OfTarget, Results, finish};
use super::group::Group;
use super::outputs::RowOutputs;
use super::plan::Along;
use super::scan::scan;
use super::spec::{Extent, Numbers, Span, Spec, Uniforms, span};
use super::state::{Row, State, scores};
use super::targets::{Inputs, lines, share_of_target, target_of};
use super::walk::RowPlace;
use crate::operation::Outputs;

/// Computes losses from logits, or the sums of parts of rows. Where `parts` are given, computes the
/// losses from these.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn losses_of_rows<F: Float, A: Float, P: Float, I: Int, K: Int, N: Size, M: Size>(
    logits: &[Vector<F, N>],
    inputs: Inputs<A, P, I, N>,
    parts: ComptimeOption<&[A]>,
    mut results: Results<A>,
    uniforms: Uniforms,
    #[comptime] spec: Spec,
    #[define(F, A, P, I, K)] _dtypes: [ElemType; 5],
) {
    let tile = comptime!(spec.tile);
    let span = span(&uniforms.extent, tile);
    let mut state = State::<A, N, M>::new(&uniforms.numbers);
    #[comptime]
    match parts {
        ComptimeOption::None => {
            scan::<F, A, P, I, K, N, M>(logits, &inputs, &mut state, &span, &uniforms, spec.clone())
        }
        ComptimeOption::Some(parts) => {
            merge_parts(parts, &mut state, &span, &uniforms, spec.clone());
        }
    }
    match comptime!(tile.along) {
        Along::Positions =>
        {
            #[unroll]
            for lane in 0..N::value().comptime() {
                let place = RowOfUnit::new(&span, N::value().comptime(), lane);
                if span.exists {
                    conclude::<F, A, P, I, K, N>(
                        logits,
                        &inputs,
                        &mut results,
                        state.row(lane),
                        &place,
                        &uniforms,
                        spec.clone(),
                    );
                }
            }
        }
        Along::Classes => {
            let sums = sums_of_group(state, &uniforms.numbers, spec.clone());
            let place = RowOfUnit::new(&span, 1usize, 0usize);
            if span.unit == 0 && span.exists {
                conclude::<F, A, P, I, K, N>(
                    logits,
                    &inputs,
                    &mut results,
                    sums,
                    &place,
                    &uniforms,
                    spec.clone(),
                );
            }
        }
    }
}

/// Row that a unit concludes, and the part of it.
#[derive(CubeType)]
pub(crate) struct RowOfUnit {
    row: usize,
    pub(crate) slot: usize,
    part: usize,
    /// Lane of the row in the vectors of the slot.
    #[cube(comptime)]
    pub(crate) lane: usize,
}

#[cube]
impl RowOfUnit {
    pub(crate) fn new(
        span: &Span,
        #[comptime] rows_of_slot: usize,
        #[comptime] lane: usize,
    ) -> RowOfUnit {
        RowOfUnit {
            row: span.slot * rows_of_slot + lane,
            slot: span.slot,
            part: span.part,
            lane,
        }
    }
}

/// Merges the unit's share of the parts of a row into `state`.
#[cube]
fn merge_parts<A: Float, N: Size, M: Size>(
    parts: &[A],
    state: &mut State<A, N, M>,
    span: &Span,
    uniforms: &Uniforms,
    #[comptime] spec: Spec,
) {
    let extent = &uniforms.extent;
    let mut base = 0usize;
    while base < extent.parts {
        let part = base + span.unit;
        if part < extent.parts {
            let sums = read_part(parts, span.slot, part, extent, comptime!(spec.clone()));
            state.merge(State::of_row(sums), &uniforms.numbers, comptime!(&spec));
        }
        base += comptime!(spec.tile.units as usize);
    }
}

/// Writes the results of a row, or the sums of a part of it.
#[cube]
pub(crate) fn conclude<F: Float, A: Float, P: Float, I: Int, K: Int, N: Size>(
    logits: &[Vector<F, N>],
    inputs: &Inputs<A, P, I, N>,
    results: &mut Results<A>,
    sums: Row<A>,
    place: &RowOfUnit,
    uniforms: &Uniforms,
    #[comptime] spec: Spec,
) {
    let extent = &uniforms.extent;
    if comptime!(spec.tile.in_parts) {
        write_part(&mut results.losses, sums, place, extent, spec.clone());
    } else {
        let target = target_of::<A, P, I, K, N>(inputs, place.row, extent);
        let logit = score_of::<F, A, N>(logits, place, target.class, uniforms, comptime!(&spec));
        let share = share_of_target::<A, P, I, N>(inputs, place.row, &target, uniforms);
        let mut given = OfTarget::<A> {
            logit,
            share,
            further: A::new(0.0),
            own_shares: A::new(0.0),
            own_further: A::new(0.0),
            ranked_class: inputs.class_to_rank(place.row, &target, extent),
            class_weight: inputs.weight(target.class as usize),
            row_weight: inputs.row_weight(place.row, extent.classes),
        };
        if comptime!(spec.has_entries) {
            given.further = inputs.number_of_row(place.row, lines::FURTHER, extent);
            if comptime!(spec.has_tail) {
                // There are no weights of classes beside a tail, whose part is in the further loss.
                given.own_shares = share;
                given.own_further = given.further;
            } else if comptime!(spec.outputs != Outputs::None) {
                given.own_shares = inputs.number_of_row(place.row, lines::OWN_SHARES, extent);
                given.own_further = inputs.number_of_row(place.row, lines::OWN_FURTHER, extent);
            }
        }
        let finished = finish(sums, target, given, uniforms, spec.clone());
        finished.write(results, place.row, extent.rows, spec.clone());
    }
}

/// Score of a class of the row.
#[cube]
fn score_of<F: Float, A: Float, N: Size>(
    logits: &[Vector<F, N>],
    place: &RowOfUnit,
    class: u32,
    uniforms: &Uniforms,
    #[comptime] spec: &Spec,
) -> A {
    let (numbers, extent) = (&uniforms.numbers, &uniforms.extent);
    let tile = comptime!(spec.tile);
    let of_row = RowPlace::new::<N>(place.slot, extent.logits, extent, tile);
    let class = class as usize;
    let at = of_row.of_class::<N>(class, tile);
    let scores = scores::<F, A, N>(logits[at], numbers, spec.values);
    match comptime!(tile.along) {
        Along::Positions => scores.extract(place.lane),
        Along::Classes => scores.extract_dynamic(of_row.lane_of_class::<N>(class, tile)),
    }
}

/// Merges the states of the units of a group.
#[cube]
pub(crate) fn sums_of_group<A: Float, N: Size, M: Size>(
    state: State<A, N, M>,
    numbers: &Numbers,
    #[comptime] spec: Spec,
) -> Row<A> {
    let mut state = state;
    let mut group = Group::<A>::new(comptime!(spec.tile.group()));
    let maximum = group.maximum(state.maximum.extract(0usize));
    state.rise_to(Vector::new(maximum), numbers, comptime!(&spec));
    sums_below::<A, N, M>(state, group, comptime!(&spec))
}

/// Merges the states of the units of a group under one maximum.
#[cube]
pub(crate) fn sums_below<A: Float, N: Size, M: Size>(
    state: State<A, N, M>,
    group: Group<A>,
    #[comptime] spec: &Spec,
) -> Row<A> {
    let mut group = group;
    let sums = group.sums(state.sums(comptime!(spec.is_spread)));
    let outputs = match comptime!(spec.outputs) {
        Outputs::None => RowOutputs::nothing(),
        Outputs::Rows | Outputs::RowsAndEntropy => state.outputs.of_group(&mut group),
    };
    let mut row = Row::<A> {
        maximum: state.maximum.extract(0usize),
        others: sums[0],
        all: sums[1],
        gaps: A::new(0.0),
        at_maximum: A::new(0.0),
        elsewhere: A::new(0.0),
        outputs,
    };
    if comptime!(spec.is_spread) {
        row.gaps = sums[2];
        row.at_maximum = sums[3];
        row.elsewhere = sums[4];
    }
    row
}

#[cube]
fn write_part<A: Float>(
    parts: &mut [A],
    sums: Row<A>,
    place: &RowOfUnit,
    extent: &Extent,
    #[comptime] spec: Spec,
) {
    let field = extent.rows * extent.parts;
    let at = place.row * extent.parts + place.part;
    parts[at] = sums.maximum;
    parts[at + field] = sums.others;
    parts[at + 2 * field] = sums.all;
    if comptime!(spec.is_spread) {
        parts[at + 3 * field] = sums.gaps;
        parts[at + 4 * field] = sums.at_maximum;
        parts[at + 5 * field] = sums.elsewhere;
    }
    if comptime!(spec.outputs != Outputs::None) {
        let at = at + comptime!(spec.fields_of_sums()) * field;
        sums.outputs.write(parts, at, field);
    }
}

#[cube]
fn read_part<A: Float>(
    parts: &[A],
    row: usize,
    part: usize,
    extent: &Extent,
    #[comptime] spec: Spec,
) -> Row<A> {
    let field = extent.rows * extent.parts;
    let at = row * extent.parts + part;
    let outputs = match comptime!(spec.outputs) {
        Outputs::None => RowOutputs::nothing(),
        Outputs::Rows | Outputs::RowsAndEntropy => {
            RowOutputs::read(parts, at + comptime!(spec.fields_of_sums()) * field, field)
        }
    };
    let mut sums = Row::<A> {
        maximum: parts[at],
        others: parts[at + field],
        all: parts[at + 2 * field],
        gaps: A::new(0.0),
        at_maximum: A::new(0.0),
        elsewhere: A::new(0.0),
        outputs,
    };
    if comptime!(spec.is_spread) {
        sums.gaps = parts[at + 3 * field];
        sums.at_maximum = parts[at + 4 * field];
        sums.elsewhere = parts[at + 5 * field];
    }
    sums
}
