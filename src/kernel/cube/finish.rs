//! Conclusion of a row: its sums become its loss, its statistics and its outputs.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::elementary::{ln, ln_1p};
use super::spec::{Numbers, Spec, Values, ZLoss};
use super::state::{Row, scale_of_scores};
use super::targets::Target;
use crate::operation::Outputs;

/// Buffers that the kernel writes.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Results<A: Float> {
    /// `[rows]`, or with a z-loss `[2, rows]`: the losses, the z-losses. Where rows are in parts
    /// `[fields, rows, parts]`: the sums of each part.
    pub(crate) losses: Box<[A]>,
    /// `[statistics, rows]`: inputs of the backward.
    pub(crate) statistics: ComptimeOption<Box<[A]>>,
    /// `[numbers, rows]`; `classes` is `[2, rows]`. See [`RowOutputs`](crate::operation::RowOutputs).
    pub(crate) numbers: ComptimeOption<Box<[A]>>,
    pub(crate) classes: ComptimeOption<Box<[i32]>>,
}

/// Loss of a row, its z-loss, and its statistics for the backward.
#[derive(CubeType)]
pub(crate) struct Finished<A: Float> {
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
pub(crate) fn finish<A: Float>(
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
        log_prob: zero - sums.outputs.surprisal_sum,
        entropy: sums.outputs.entropy_sum,
        predicted: sums.outputs.class,
        rank: select(target.counts, i32::cast_from(sums.outputs.before), -1i32),
    };
    if comptime!(spec.values == Values::Probabilities) {
        let ln_of_probability = ln::<A, Const<1>>(Vector::new(logit)).extract(0usize);
        if comptime!(!spec.has_distributions) {
            finished.log_prob = ln_of_probability;
        }
        finished.loss += select(share == zero, zero, share * (zero - ln_of_probability));
    } else {
        let scale = scale_of_scores::<A>(numbers, comptime!(&spec));
        // A sum below 1.5 has the maximum once. A NaN sum takes the other branch and stays NaN.
        let others = select(sums.all < A::new(1.5), sums.others, sums.all - A::new(1.0));
        // A row of masked classes only has no distribution.
        let others = select(sums.all == zero, nan, others);
        let above = ln_1p::<A>(others);
        // Equal numbers are not subtracted: one of them may have been computed with more digits.
        let gap = select(logit == sums.maximum, zero, (sums.maximum - logit) * scale);
        let total = share + sums.at_maximum + sums.elsewhere;
        let loss = sums.gaps + select(share == zero, zero, share * gap) + total * above;
        finished.loss = loss;
        finished.others = others;
        let lse = sums.maximum * scale + above;
        finished.lse = lse;
        finished.entropy = sums.outputs.entropy_sum / (others + A::new(1.0)) + above;
        finished.log_prob = match comptime!(spec.has_distributions) {
            true => zero - (sums.outputs.surprisal_sum + sums.outputs.share_sum * above),
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
    pub(crate) fn write(
        &self,
        results: &mut Results<A>,
        row: usize,
        rows: usize,
        #[comptime] spec: Spec,
    ) {
        results.losses[row] = self.loss;
        if comptime!(spec.z_loss == ZLoss::Apart) {
            results.losses[rows + row] = self.penalty;
        }
        #[comptime]
        if let ComptimeOption::Some(numbers) = &mut results.numbers {
            numbers[row] = self.lse;
            numbers[rows + row] = self.log_prob;
            if comptime!(spec.outputs == Outputs::RowsAndEntropy) {
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
