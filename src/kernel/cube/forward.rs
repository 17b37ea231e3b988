//! The loss of every row, from one read of its logits.
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

use super::details::{Goal, RowDetails, class_of_goal, or_lowest};
use super::elementary::{ln, ln_1p};
use super::group::Group;
use super::layout::{place_of_class, start_of_row};
use super::plan::Along;
use super::spec::{Extent, Numbers, Span, Spec, Values, ZLoss, span};
use super::state::{Row, State, scale_of_scores, scores, zeros};
use super::targets::{Inputs, Target, share_of_target, target_of};
use super::walk::{Walk, steps_of_block};
use crate::operation::DetailsOf;

/// What a run of a sum adds up, see [`State::end_run`].
const BLOCKS_OF_A_RUN: usize = 64;

/// What the kernel writes.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Results<A: Float> {
    /// `[rows]`, or with a z-loss `[2, rows]`: the losses, the z-losses. Where rows are in parts
    /// `[fields, rows, parts]`: what each part adds up to.
    pub(crate) losses: Box<[A]>,
    /// `[statistics, rows]`, for a backward.
    pub(crate) statistics: ComptimeOption<Box<[A]>>,
    /// `[numbers, rows]` and `[2, rows]`, see [`Details`](crate::operation::Details).
    pub(crate) numbers: ComptimeOption<Box<[A]>>,
    pub(crate) classes: ComptimeOption<Box<[i32]>>,
}

/// From logits to losses, or to what the parts of rows add up to; where `parts` are given, from these
/// to losses.
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
                let target = target_of::<A, P, I, K, N>(&inputs, row, &extent, spec.clone());
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
                    let target =
                        target_of::<A, P, I, K, N>(&inputs, span.slot, &extent, spec.clone());
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

/// Takes in the unit's share of the row's classes.
#[cube]
fn scan<F: Float, A: Float, P: Float, I: Int, K: Int, N: Size, M: Size>(
    logits: &[Vector<F, N>],
    inputs: &Inputs<A, P, I, N>,
    state: &mut State<A, N, M>,
    span: &Span,
    numbers: &Numbers,
    extent: &Extent,
    #[comptime] spec: Spec,
) {
    let tile = comptime!(spec.tile);
    let mut takes_any = comptime!(spec.adds_anything()).runtime();
    if comptime!(tile.along == Along::Classes && spec.details == DetailsOf::Nothing) {
        // The logits of a row that does not count are not read.
        let target = target_of::<A, P, I, K, N>(inputs, span.slot, extent, spec.clone());
        takes_any = takes_any && target.counts;
    }
    let goal = goal::<F, A, P, I, K, N>(logits, inputs, span, numbers, extent, spec.clone());
    let mut walk = Walk::new(span, takes_any, extent, tile);
    if comptime!(tile.is_single_block) {
        if walk.base < walk.end {
            let block = walk.load(logits, inputs, comptime!(tile.unroll - 1), tile);
            state.take(&block, &walk, &goal, inputs, numbers, comptime!(&spec));
        }
    } else {
        let length = comptime!(steps_of_block(tile));
        let end_of_blocks = walk.end_of_blocks(tile);
        while walk.base < end_of_blocks {
            let end_of_run = end_of_blocks.min(walk.base + BLOCKS_OF_A_RUN * length);
            while walk.base < end_of_run {
                let block = walk.load(logits, inputs, tile.unroll, tile);
                state.take(&block, &walk, &goal, inputs, numbers, comptime!(&spec));
                walk.base += length;
            }
            state.end_run();
        }
        if walk.base < walk.end {
            let block = walk.load(logits, inputs, 0u32, tile);
            state.take(&block, &walk, &goal, inputs, numbers, comptime!(&spec));
        }
    }
}

/// The target of each lane, for the rank; of no meaning where nobody asks.
#[cube]
fn goal<F: Float, A: Float, P: Float, I: Int, K: Int, N: Size>(
    logits: &[Vector<F, N>],
    inputs: &Inputs<A, P, I, N>,
    span: &Span,
    numbers: &Numbers,
    extent: &Extent,
    #[comptime] spec: Spec,
) -> Goal<A, N> {
    let mut goal = Goal::<A, N> {
        score: zeros(),
        class: Vector::new(0u32),
    };
    if comptime!(spec.details != DetailsOf::Nothing) {
        let start = start_of_row(
            span.slot,
            extent.inner,
            &extent.logits,
            comptime!(spec.tile.has_positions),
        );
        let lanes = N::value().comptime();
        match comptime!(spec.tile.along) {
            Along::Positions =>
            {
                #[unroll]
                for lane in 0..lanes {
                    let row = span.slot * lanes + lane;
                    let target = target_of::<A, P, I, K, N>(inputs, row, extent, spec.clone());
                    let class = class_of_goal::<A, P, I, N>(inputs, row, target.class);
                    let place = place_of_class(start, class as usize, &extent.logits);
                    let score = scores::<F, A, N>(logits[place], numbers, spec.values);
                    goal.score.insert(lane, score.extract(lane));
                    goal.class.insert(lane, class);
                }
            }
            Along::Classes => {
                let row = span.slot;
                let target = target_of::<A, P, I, K, N>(inputs, row, extent, spec.clone());
                let class = class_of_goal::<A, P, I, N>(inputs, row, target.class);
                let place = place_of_class(start, class as usize / lanes, &extent.logits);
                let score = scores::<F, A, N>(logits[place], numbers, spec.values);
                goal.score = Vector::new(score.extract_dynamic(class as usize % lanes));
                goal.class = Vector::new(class);
            }
        }
        goal.score = or_lowest(goal.score, numbers.lowest.get::<A>());
    }
    goal
}

/// Brings the units of a group together.
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
    let details = match comptime!(spec.details) {
        DetailsOf::Nothing => RowDetails::nothing(),
        DetailsOf::Target | DetailsOf::TargetAndEntropy => state.details.of_group(&mut group),
    };
    let mut row = Row::<A> {
        maximum,
        others: sums[0],
        all: sums[1],
        gaps: A::new(0.0),
        at_maximum: A::new(0.0),
        elsewhere: A::new(0.0),
        details,
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
    if comptime!(spec.details != DetailsOf::Nothing) {
        let at = at + comptime!(spec.fields_of_sums()) * field;
        sums.details.write(parts, at, field);
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
    let details = match comptime!(spec.details) {
        DetailsOf::Nothing => RowDetails::nothing(),
        DetailsOf::Target | DetailsOf::TargetAndEntropy => {
            RowDetails::read(parts, at + comptime!(spec.fields_of_sums()) * field, field)
        }
    };
    let mut sums = Row::<A> {
        maximum: parts[at],
        others: parts[at + field],
        all: parts[at + 2 * field],
        gaps: A::new(0.0),
        at_maximum: A::new(0.0),
        elsewhere: A::new(0.0),
        details,
    };
    if comptime!(spec.is_spread) {
        sums.gaps = parts[at + 3 * field];
        sums.at_maximum = parts[at + 4 * field];
        sums.elsewhere = parts[at + 5 * field];
    }
    sums
}

/// A row's loss, its z-loss, and what the backward needs.
#[derive(CubeType)]
struct Finished<A: Float> {
    loss: A,
    penalty: A,
    maximum: A,
    others: A,
    at_maximum: A,
    elsewhere: A,
    lse: A,
    log_prob: A,
    entropy: A,
    predicted: u32,
    rank: i32,
}

#[cube]
fn finish<A: Float>(
    sums: Row<A>,
    target: Target,
    logit: A,
    share: A,
    numbers: &Numbers,
    #[comptime] spec: Spec,
) -> Finished<A> {
    let zero = A::new(0.0);
    let nan = numbers.nan.get::<A>();
    let mut finished = Finished::<A> {
        loss: sums.gaps,
        penalty: zero,
        maximum: sums.maximum,
        others: zero,
        at_maximum: sums.at_maximum,
        elsewhere: sums.elsewhere,
        lse: zero,
        log_prob: zero - sums.details.surprise,
        entropy: sums.details.mixing,
        predicted: sums.details.class,
        rank: select(target.counts, i32::cast_from(sums.details.before), -1i32),
    };
    if comptime!(spec.values == Values::Probabilities) {
        let ln_of_probability = ln::<A, Const<1>>(Vector::new(logit)).extract(0usize);
        if comptime!(!spec.has_distributions) {
            finished.log_prob = ln_of_probability;
        }
        finished.loss += select(share == zero, zero, share * (zero - ln_of_probability));
    } else {
        let scale = scale_of_scores::<A>(numbers, comptime!(&spec));
        // Below one and a half the maximum stands there once. NaN is not below, and stays.
        let others = select(sums.all < A::new(1.5), sums.others, sums.all - A::new(1.0));
        // Masked classes alone make no distribution.
        let others = select(sums.all == zero, nan, others);
        let above = ln_1p::<A>(others);
        // Not the difference of equal numbers, one of which may have been computed with more digits.
        let gap = select(logit == sums.maximum, zero, (sums.maximum - logit) * scale);
        let total = share + sums.at_maximum + sums.elsewhere;
        let loss = sums.gaps + select(share == zero, zero, share * gap) + total * above;
        finished.loss = loss;
        finished.others = others;
        let lse = sums.maximum * scale + above;
        finished.lse = lse;
        finished.entropy = sums.details.mixing / (others + A::new(1.0)) + above;
        finished.log_prob = match comptime!(spec.has_distributions) {
            true => zero - (sums.details.surprise + sums.details.mass * above),
            false => zero - (gap + above),
        };
        if comptime!(spec.z_loss != ZLoss::Off) {
            finished.penalty = numbers.z_loss.get::<A>() * lse * lse;
        }
        if comptime!(spec.z_loss == ZLoss::Added) {
            finished.loss += finished.penalty;
        }
    }
    let dropped = select(target.is_bad, nan, zero);
    finished.loss = select(target.counts, finished.loss, dropped);
    finished.penalty = select(target.counts, finished.penalty, dropped);
    finished.log_prob = select(target.counts, finished.log_prob, dropped);
    finished
}

#[cube]
impl<A: Float> Finished<A> {
    fn write(&self, results: &mut Results<A>, row: usize, rows: usize, #[comptime] spec: Spec) {
        results.losses[row] = self.loss;
        if comptime!(spec.z_loss == ZLoss::Apart) {
            results.losses[rows + row] = self.penalty;
        }
        #[comptime]
        if let ComptimeOption::Some(numbers) = &mut results.numbers {
            numbers[row] = self.lse;
            numbers[rows + row] = self.log_prob;
            if comptime!(spec.details == DetailsOf::TargetAndEntropy) {
                numbers[2 * rows + row] = self.entropy;
            }
        }
        #[comptime]
        if let ComptimeOption::Some(classes) = &mut results.classes {
            classes[row] = i32::cast_from(self.predicted);
            classes[rows + row] = self.rank;
        }
        if comptime!(spec.values != Values::Probabilities) {
            #[comptime]
            if let ComptimeOption::Some(statistics) = &mut results.statistics {
                statistics[row] = self.maximum;
                statistics[rows + row] = self.others;
                if comptime!(spec.is_spread) {
                    statistics[2 * rows + row] = self.at_maximum;
                    statistics[3 * rows + row] = self.elsewhere;
                }
            }
        }
    }
}
