//! Loss of every row, from one read of its logits.
//!
//! With `x` the scores (scaled or capped logits) of a row, `m` their maximum, and shares `a[c]`:
//!
//! ```text
//! all     = sum_c exp(x[c] - m)
//! others  = all - 1, where that has digits left; else the sum without the maximum
//! lse - m = ln(1 + others)
//! loss    = sum_c a[c] (m - x[c]) + A (lse - m)          A = sum_c a[c]
//! ```

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::finish::{Results, finish};
use super::group::Group;
use super::layout::{place_of_class, start_of_row};
use super::outputs::RowOutputs;
use super::plan::Along;
use super::scan::scan;
use super::spec::{Extent, Numbers, Span, Spec, span};
use super::state::{Row, State, scale_of_scores, scores};
use super::targets::{Inputs, share_of_target, target_of};
use crate::operation::Outputs;

/// Computes losses from logits, or the sums of parts of rows. Where `parts` are given, computes the
/// losses from these.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn losses_of_rows<F: Float, A: Float, P: Float, I: Int, K: Int, N: Size, M: Size>(
    logits: &[Vector<F, N>],
    inputs: Inputs<A, P, I, N>,
    parts: ComptimeOption<&[A]>,
    mut results: Results<A>,
    numbers: Numbers,
    extent: Extent,
    #[comptime] spec: Spec,
    #[define(F, A, P, I, K)] _dtypes: [ElemType; 5],
) {
    let tile = comptime!(spec.tile);
    let span = span(&extent, tile);
    let scale = scale_of_scores::<A>(&numbers, comptime!(&spec));
    let start = start_of_row(span.slot, extent.inner, &extent.logits, tile.has_positions);
    let mut state = State::<A, N, M>::new(&numbers);
    #[comptime]
    match parts {
        ComptimeOption::None => scan::<F, A, P, I, K, N, M>(
            logits,
            &inputs,
            &mut state,
            &span,
            &numbers,
            &extent,
            spec.clone(),
        ),
        ComptimeOption::Some(parts) => {
            let mut base = 0usize;
            while base < extent.parts {
                let part = base + span.unit;
                if part < extent.parts {
                    let sums = read_part(parts, span.slot, part, &extent, comptime!(spec.clone()));
                    state.merge(State::of_row(sums), scale, comptime!(&spec));
                }
                base += comptime!(tile.units as usize);
            }
        }
    }
    match comptime!(tile.along) {
        Along::Positions =>
        {
            #[unroll]
            for lane in 0..N::value().comptime() {
                let row = span.slot * N::value().comptime() + lane;
                let target = target_of::<A, P, I, K, N>(&inputs, row, &extent);
                let place = place_of_class(start, target.class as usize, &extent.logits);
                let logit = scores::<F, A, N>(logits[place], &numbers, spec.values).extract(lane);
                let sums = state.row(lane);
                if comptime!(tile.in_parts) {
                    if span.exists {
                        let parts = &mut results.losses;
                        write_part(parts, sums, row, &span, &extent, spec.clone());
                    }
                } else if span.exists {
                    let share = share_of_target::<A, P, I, N>(&inputs, &target, &numbers);
                    let finished = finish(sums, target, logit, share, &numbers, spec.clone());
                    finished.write(&mut results, row, extent.rows, spec.clone());
                }
            }
        }
        Along::Classes => {
            let sums = sums_of_group(state, scale, spec.clone());
            if span.unit == 0 && span.exists {
                if comptime!(tile.in_parts) {
                    write_part(
                        &mut results.losses,
                        sums,
                        span.slot,
                        &span,
                        &extent,
                        spec.clone(),
                    );
                } else {
                    let target = target_of::<A, P, I, K, N>(&inputs, span.slot, &extent);
                    let lanes = N::value().comptime();
                    let class = target.class as usize;
                    let place = place_of_class(start, class / lanes, &extent.logits);
                    let logit = scores::<F, A, N>(logits[place], &numbers, spec.values)
                        .extract_dynamic(class % lanes);
                    let share = share_of_target::<A, P, I, N>(&inputs, &target, &numbers);
                    let finished = finish(sums, target, logit, share, &numbers, spec.clone());
                    finished.write(&mut results, span.slot, extent.rows, spec.clone());
                }
            }
        }
    }
}

/// Merges the states of the units of a group.
#[cube]
fn sums_of_group<A: Float, N: Size, M: Size>(
    state: State<A, N, M>,
    scale: A,
    #[comptime] spec: Spec,
) -> Row<A> {
    let mut state = state;
    let mut group = Group::<A>::new(comptime!(spec.tile.group()));
    let maximum = group.maximum(state.maximum.extract(0usize));
    state.rise_to(Vector::new(maximum), scale, comptime!(&spec));
    let sums = group.sums(state.sums(comptime!(spec.is_spread)));
    let outputs = match comptime!(spec.outputs) {
        Outputs::None => RowOutputs::nothing(),
        Outputs::Rows | Outputs::RowsAndEntropy => state.outputs.of_group(&mut group),
    };
    let mut row = Row::<A> {
        maximum,
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
    row: usize,
    span: &Span,
    extent: &Extent,
    #[comptime] spec: Spec,
) {
    let field = extent.rows * extent.parts;
    let at = row * extent.parts + span.part;
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
