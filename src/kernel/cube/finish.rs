//! Conclusion of a row: its sums become its loss, its statistics and its outputs.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::elementary::{ln, ln_1p};
use super::factor::factored;
use super::spec::{Factor, Numbers, Spec, Uniforms, Values, ZLoss};
use super::state::{Row, others_of, scale_of_scores, scaled_difference};
use super::targets::Target;
use crate::operation::{Outputs, RowValue};

/// Buffers that the kernel writes.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Results<A: Float> {
    /// `[rows]`, or with a z-loss `[2, rows]`: the losses, the z-losses. Where rows are in parts
    /// `[fields, rows, parts]`: the sums of each part.
    pub(crate) losses: Box<[A]>,
    /// `[statistics, rows]`: inputs of the backward.
    pub(crate) statistics: ComptimeOption<Box<[A]>>,
    /// `[numbers, rows]`; `classes` is `[3, rows]`. See [`RowOutputs`](crate::operation::RowOutputs).
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
    max_log_prob: A,
    entropy: A,
    predicted: u32,
    rank: i32,
    target_class: i32,
    /// Factor of the shares in the gradient, and a further share of the target.
    factor: A,
    at_target: A,
}

/// Numbers of a row that come from its target.
#[derive(CubeType)]
pub(crate) struct OfTarget<A: Float> {
    pub(crate) logit: A,
    /// Class whose rank is wanted.
    pub(crate) ranked_class: u32,
    /// Share that an index target adds to its class.
    pub(crate) share: A,
    /// What a row's entries add to its loss, where it has such; then the sum of their shares without the weights of
    /// classes, and what they add to the surprisal under these.
    pub(crate) further: A,
    pub(crate) own_shares: A,
    pub(crate) own_further: A,
    pub(crate) class_weight: A,
    pub(crate) row_weight: A,
}

/// Concludes a row from its sums and its target.
#[cube]
pub(crate) fn finish<A: Float>(
    sums: Row<A>,
    target: Target,
    given: OfTarget<A>,
    uniforms: &Uniforms,
    #[comptime] spec: Spec,
) -> Finished<A> {
    let zero = A::new(0.0);
    let numbers = &uniforms.numbers;
    let mut finished = Finished::<A> {
        loss: sums.gaps,
        penalty: zero,
        maximum: sums.maximum,
        others: zero,
        at_maximum: sums.at_maximum,
        elsewhere: sums.elsewhere,
        lse: zero,
        log_prob: zero - sums.outputs.surprisal_sum,
        max_log_prob: zero,
        entropy: sums.outputs.entropy_sum,
        predicted: sums.outputs.class,
        rank: i32::cast_from(sums.outputs.before),
        target_class: i32::cast_from(given.ranked_class),
        factor: A::new(1.0),
        at_target: zero,
    };
    match comptime!(spec.values) {
        Values::Probabilities => finished.take_probability(&sums, &given, comptime!(&spec)),
        Values::Logits | Values::Scaled | Values::Capped => {
            finished.take_logit(sums, &given, numbers, comptime!(&spec))
        }
    }
    if comptime!(spec.has_row_weights) {
        finished.loss *= given.row_weight;
        finished.penalty *= given.row_weight;
    }
    // NaN is below every number, also below minus infinity.
    let is_number = finished.log_prob >= numbers.lowest.get::<A>();
    let last = i32::cast_from(uniforms.extent.classes) - 1;
    let rank = select(is_number, finished.rank, last);
    finished.rank = select(target.counts, rank, -1i32);
    finished.target_class = select(target.counts, finished.target_class, -1i32);
    let dropped = select(target.is_bad, numbers.nan.get::<A>(), zero);
    finished.loss = select(target.counts, finished.loss, dropped);
    finished.penalty = select(target.counts, finished.penalty, dropped);
    finished.log_prob = select(target.counts, finished.log_prob, dropped);
    finished
}

#[cube]
impl<A: Float> Finished<A> {
    /// Takes in the probability of an index target.
    fn take_probability(&mut self, sums: &Row<A>, given: &OfTarget<A>, #[comptime] spec: &Spec) {
        let zero = A::new(0.0);
        let share = given.share;
        let ln_of_probability = ln::<A, Const<1>>(Vector::new(given.logit)).extract(0usize);
        if comptime!(spec.outputs != Outputs::None) {
            self.max_log_prob = ln::<A, Const<1>>(Vector::new(sums.outputs.best)).extract(0usize);
        }
        if comptime!(!spec.has_distributions) {
            self.log_prob = ln_of_probability;
        }
        self.loss += select(share == zero, zero, share * (zero - ln_of_probability));
        if comptime!(spec.has_entries) {
            // What the entries add is the whole loss here, and the index target has no share.
            self.loss += given.further;
            self.log_prob = zero - given.own_further;
        }
    }

    /// Takes in the logit of an index target, and the sums of the row.
    fn take_logit(
        &mut self,
        sums: Row<A>,
        given: &OfTarget<A>,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) {
        let zero = A::new(0.0);
        let (logit, share) = (given.logit, given.share);
        let others = others_of::<A>(&sums, numbers);
        let above = ln_1p::<A>(others);
        // Equal numbers are not subtracted: one of them may have been computed with more digits.
        let below = scaled_difference::<A, Const<1>>(
            Vector::new(sums.maximum),
            Vector::new(logit),
            numbers,
            spec,
        );
        let gap = select(logit == sums.maximum, zero, below.extract(0usize));
        let total = share + sums.at_maximum + sums.elsewhere;
        self.loss = sums.gaps + select(share == zero, zero, share * gap) + total * above;
        if comptime!(spec.has_entries) {
            self.loss += given.further;
        }
        self.others = others;
        self.lse = sums.maximum * scale_of_scores::<A>(numbers, spec) + above;
        self.max_log_prob = zero - above;
        self.entropy = sums.outputs.entropy_sum / (others + A::new(1.0)) + above;
        self.log_prob = match comptime!(spec.has_distributions) {
            true => zero - (sums.outputs.surprisal_sum + sums.outputs.share_sum * above),
            false => zero - (gap + above),
        };
        if comptime!(spec.has_entries) {
            let own = given.own_shares;
            // Without a distribution `above` is NaN, and so is the row, whatever the shares.
            let surprisal = select(own == zero, zero, own * gap) + own * above;
            self.log_prob = zero - (given.own_further + surprisal);
        }
        if comptime!(spec.factor != Factor::None) {
            let of_others = others / (others + A::new(1.0));
            let surprisal = gap + above;
            let p = (zero - surprisal).exp();
            // Beside the maximum the others are what is missing; elsewhere `p` is at most a half.
            let missing = select(logit == sums.maximum, of_others, A::new(1.0) - p);
            let row = factored::<A>(self.loss, p, missing, given.class_weight, numbers, spec);
            self.loss = row.loss;
            self.factor = row.share;
            self.at_target = row.at_target;
        }
        match comptime!(spec.value) {
            RowValue::Loss => {}
            RowValue::LogSumExp => self.loss = self.lse,
            RowValue::Entropy => self.loss = self.entropy,
            RowValue::PairSigmoid => {}
        }
        if comptime!(spec.z_loss != ZLoss::Off) {
            self.penalty = numbers.z_loss.get::<A>() * self.lse * self.lse;
        }
        if comptime!(spec.z_loss == ZLoss::Added) {
            self.loss += self.penalty;
        }
    }

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
            numbers[2 * rows + row] = self.max_log_prob;
            if comptime!(spec.outputs == Outputs::RowsAndEntropy) {
                numbers[3 * rows + row] = self.entropy;
            }
        }
        #[comptime]
        if let ComptimeOption::Some(classes) = &mut results.classes {
            classes[row] = i32::cast_from(self.predicted);
            classes[rows + row] = self.rank;
            classes[2 * rows + row] = self.target_class;
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
                if comptime!(spec.factor != Factor::None) {
                    let line = comptime!(spec.line_of_factor());
                    statistics[line * rows + row] = self.factor;
                    statistics[(line + 1) * rows + row] = self.at_target;
                }
                if comptime!(spec.value == RowValue::Entropy) {
                    statistics[comptime!(spec.line_of_factor()) * rows + row] = self.entropy;
                }
            }
        }
    }
}
