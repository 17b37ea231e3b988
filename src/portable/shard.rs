//! Loss over classes that are divided among devices: the steps that each device computes alone.
//!
//! With `x` the logits of a row in one shard (with a softcap the capped ones), `s` the logit scale (1 with a
//! softcap, which has applied it), `m` the largest `x`, `y` the row's target and `w` the class weights, the
//! statistics of the row are the following lines of one tensor:
//!
//! ```text
//! 0  m
//! 1  sum_c exp((x[c] - m) s) - 1            the others: without the maximum's own 1
//! 2  x[y], 0 where y is in another shard
//! ```
//!
//! and where labels are smoothed
//!
//! ```text
//! 3  sum_c w[c] (m - x[c]) s
//! 4  w at the maximum                   apart from the rest, so that neither has to be had by a
//! 5  sum of w elsewhere                 subtraction
//! ```
//!
//! and where they are smoothed over the classes that are not masked, the others having a `w` of 0 in lines 3 to 5
//!
//! ```text
//! 6  number of the classes that are not masked
//! ```
//!
//! A shard of nothing but `-inf` has no finite maximum: its others are -1 (a sum of 0), and line 3 is
//! measured from 0.

use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{BoolDType, Shape, Slice};

use super::call::{Call, Rows, Scores, Valid};
use super::elementary::{
    cast, data, full, is_minus_infinity, log1p, scaled_difference, sum_classes,
};
use super::factor::Factored;
use crate::operation::shard::ShardCall;
use crate::operation::{Inputs, MaybeFloat, Options};

const MAXIMUM: isize = 0;
const OTHERS: isize = 1;
const TARGET: isize = 2;
const SPREAD: isize = 3;
const AT_MAXIMUM: isize = 4;
const ELSEWHERE: isize = 5;
const VALID: isize = 6;

/// Count of numbers of each row in the statistics of a shard.
pub(crate) fn statistics_per_row(options: &Options) -> usize {
    match (options.label_smoothing == 0.0, options.masked()) {
        (true, _) => 3,
        (false, None) => 6,
        (false, Some(_)) => 7,
    }
}

/// Statistics of one shard, shape `[numbers, rows]`.
pub(crate) fn shard_statistics<B: Backend>(
    logits: FloatTensor<B>,
    shard: &ShardCall<B>,
) -> FloatTensor<B> {
    let call = Call::<B>::on_window(&logits, shard.window, &shard.options);
    let rows = call.geometry.rows();
    let numbers = statistics_per_row(&shard.options);
    if rows == 0 {
        return data::<B>(Shape::new([numbers, 0]), 0.0, &call.device, call.float);
    }
    call.shard_statistics(logits, &shard.inputs)
}

/// Loss of all classes from the statistics of all classes, in the shape of [`Inputs::loss_shape`]. Where
/// it is wanted, also the gradient of this shard's logits, in the shape of the logits and the
/// accumulation dtype.
pub(crate) fn shard_loss<B: Backend>(
    logits: FloatTensor<B>,
    statistics: FloatTensor<B>,
    shard: &ShardCall<B>,
    with_gradient: bool,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let call = Call::<B>::on_window(&logits, shard.window, &shard.options);
    if call.geometry.rows() == 0 {
        let gradient = with_gradient.then(|| cast::<B>(logits, call.float));
        return (call.loss_of_no_rows(&shard.inputs), gradient);
    }
    let combined = call.combined(logits.clone(), &statistics, &shard.inputs);
    let losses = call.combined_losses(&statistics, &combined.shares);
    let target = call.number(&statistics, TARGET);
    let Combined { scores, rows, .. } = &combined;
    let factored = call.factored(losses.clone(), target, scores, &shard.inputs, rows);
    let losses = factored.as_ref().map_or(losses, |rows| rows.losses.clone());
    let loss = call.reduced(losses, scores, rows, &shard.inputs);
    let combined = Combined {
        factored,
        ..combined
    };
    let gradient = with_gradient.then(|| call.shard_gradient(logits, &combined, &shard.inputs));
    (loss, gradient)
}

/// Statistics of the classes of two shards together, shape `[numbers, rows]`. `scale` is the factor of the
/// differences of scores.
///
/// The others are measured from the larger maximum, so that no sum of a confident row is a difference
/// from 1.
pub(crate) fn combined_statistics<B: Backend>(
    first: FloatTensor<B>,
    second: FloatTensor<B>,
    scale: f64,
) -> FloatTensor<B> {
    let [numbers, rows] = first.shape().dims();
    if rows == 0 {
        return first;
    }
    let device = first.device();
    let bool_dtype = get_or_init_device_settings::<B>(&device).bool_dtype;
    let pair = Pair::<B>::new(first, second, bool_dtype);
    let (large, small) = pair.ordered(MAXIMUM);
    // A maximum of -inf has no distance from the larger one, and its sums are 0. The gap becomes 0.
    let gap = scaled_difference::<B>(small.clone(), large.clone(), scale);
    let nothing = is_minus_infinity::<B>(small, bool_dtype);
    let gap = B::float_mask_fill(gap, nothing, 0.0.into());
    let one_more = |others| B::float_add_scalar(others, 1.0.into());

    let (large_others, small_others) = pair.ordered(OTHERS);
    let rest = B::float_mul(one_more(small_others), B::float_exp(gap.clone()));
    let mut lines = vec![
        large,
        B::float_add(large_others, rest),
        B::float_add(pair.first(TARGET), pair.second(TARGET)),
    ];
    if numbers > lines.len() {
        let (at_maximum, small_at_maximum) = pair.ordered(AT_MAXIMUM);
        let (elsewhere, small_elsewhere) = pair.ordered(ELSEWHERE);
        let small_weight = B::float_add(small_at_maximum, small_elsewhere);
        // The differences of the shard with the smaller maximum are measured from the larger maximum.
        let further = B::float_mul(small_weight.clone(), B::float_neg(gap));
        // A gap that is infinite adds nothing to classes without weight.
        let weightless = B::float_equal_elem(small_weight.clone(), 0.0.into(), bool_dtype);
        let further = B::float_mask_fill(further, weightless, 0.0.into());
        let spread = B::float_add(pair.first(SPREAD), pair.second(SPREAD));
        lines.push(B::float_add(spread, further));
        lines.push(at_maximum);
        lines.push(B::float_add(elsewhere, small_weight));
    }
    if numbers > lines.len() {
        lines.push(B::float_add(pair.first(VALID), pair.second(VALID)));
    }
    B::float_cat(lines, 0)
}

/// Statistics of two shards, read line by line.
struct Pair<B: Backend> {
    first: FloatTensor<B>,
    second: FloatTensor<B>,
    /// Mask of the rows in which the first shard has the larger maximum, shape `[1, rows]`. A maximum of NaN
    /// makes the row NaN on either side.
    first_is_larger: BoolTensor<B>,
}

impl<B: Backend> Pair<B> {
    fn new(first: FloatTensor<B>, second: FloatTensor<B>, bool_dtype: BoolDType) -> Self {
        let maxima = [&first, &second].map(|statistics| line::<B>(statistics, MAXIMUM));
        let [first_maximum, second_maximum] = maxima;
        Self {
            first,
            second,
            first_is_larger: B::float_greater_equal(first_maximum, second_maximum, bool_dtype),
        }
    }

    fn first(&self, at: isize) -> FloatTensor<B> {
        line::<B>(&self.first, at)
    }

    fn second(&self, at: isize) -> FloatTensor<B> {
        line::<B>(&self.second, at)
    }

    /// Line of the shard with the larger maximum, then the line of the other shard.
    fn ordered(&self, at: isize) -> (FloatTensor<B>, FloatTensor<B>) {
        let (first, second) = (self.first(at), self.second(at));
        let choose = |yes, no| B::float_mask_where(no, self.first_is_larger.clone(), yes);
        (choose(first.clone(), second.clone()), choose(second, first))
    }
}

/// One line of the statistics, shape `[1, rows]`.
fn line<B: Backend>(statistics: &FloatTensor<B>, at: isize) -> FloatTensor<B> {
    let window = [Slice::new(at, Some(at + 1), 1), Slice::full()];
    B::float_slice(statistics.clone(), &window)
}

/// Classes of this shard, combined with the statistics of all classes.
struct Combined<B: Backend> {
    /// Logits of this shard, with the maximum and the others of all classes.
    scores: Scores<B>,
    shares: RowShares<B>,
    /// Absent where the label smoothing is spread over all classes; the masks are those of this shard.
    valid: Option<Valid<B>>,
    rows: Rows<B>,
    /// Absent without a factor by the target's probability.
    factored: Option<Factored<B>>,
}

/// Shares of a row's classes, each of shape `[outer, 1, inner]`.
#[derive(Clone)]
struct RowShares<B: Backend> {
    /// Share of the target, without its spread share.
    target: FloatTensor<B>,
    /// Spread share of the class of the largest logit, and spread shares of the other classes.
    spread: Option<(FloatTensor<B>, FloatTensor<B>)>,
}

impl<B: Backend> RowShares<B> {
    /// The shares as they are in the gradient.
    fn with_factor(self, rows: &Factored<B>) -> Self {
        Self {
            target: rows.share_of_target(self.target),
            spread: self
                .spread
                .map(|(at_maximum, elsewhere)| (rows.spread(at_maximum), rows.spread(elsewhere))),
        }
    }

    /// Share of all classes together.
    fn total(&self) -> FloatTensor<B> {
        match &self.spread {
            None => self.target.clone(),
            Some((at_maximum, elsewhere)) => {
                let spread = B::float_add(at_maximum.clone(), elsewhere.clone());
                B::float_add(self.target.clone(), spread)
            }
        }
    }
}

impl<B: Backend> Call<'_, B> {
    fn shard_statistics(&self, logits: FloatTensor<B>, inputs: &Inputs<B>) -> FloatTensor<B> {
        let x = self.transformed(self.view(logits));
        let rows = self.rows(inputs);
        let maximum = B::float_max_dim(x.clone(), 1);
        let is_maximum = self.equals_row(x.clone(), maximum.clone());
        let empty = is_minus_infinity::<B>(maximum.clone(), self.bool);

        let measured_from = B::float_mask_fill(maximum.clone(), empty.clone(), 0.0.into());
        let others = self.others_than(is_maximum.clone(), x.clone(), measured_from.clone());
        // The product with 0 keeps NaN, so that a NaN beside the infinities stays NaN.
        let none = B::float_mul_scalar(others.clone(), 0.0.into());
        let none = B::float_sub_scalar(none, 1.0.into());
        let others = B::float_mask_where(others, empty, none);

        let not_target = B::bool_not(self.is_target(rows.indices()));
        let target = B::float_mask_fill(x.clone(), not_target, 0.0.into());
        let target = sum_classes::<B>(target);
        if self.options.label_smoothing == 0.0 {
            return self.stacked(vec![maximum, others, target]);
        }

        let weights = B::float_expand(self.class_weights(inputs), self.geometry.full());
        let masked = self.masked(x.clone());
        let weights = match masked.clone() {
            None => weights,
            Some(masked) => B::float_mask_fill(weights, masked, 0.0.into()),
        };
        let weightless = B::float_equal_elem(weights.clone(), 0.0.into(), self.bool);
        let spread = B::float_mul(weights.clone(), self.difference(measured_from, x));
        let spread = sum_classes::<B>(B::float_mask_fill(spread, weightless, 0.0.into()));
        let elsewhere = B::float_mask_fill(weights.clone(), is_maximum.clone(), 0.0.into());
        let at_maximum = B::float_mask_fill(weights, B::bool_not(is_maximum), 0.0.into());
        let mut lines = vec![
            maximum,
            others,
            target,
            spread,
            sum_classes::<B>(at_maximum),
            sum_classes::<B>(elsewhere),
        ];
        lines.extend(masked.map(|masked| {
            let valid = B::bool_into_float(B::bool_not(masked), self.float);
            sum_classes::<B>(valid)
        }));
        self.stacked(lines)
    }

    /// Weights of this shard's classes, shape `[1, classes, 1]`.
    fn class_weights(&self, inputs: &Inputs<B>) -> FloatTensor<B> {
        match &inputs.weights {
            MaybeFloat::None => full::<B>(self.geometry.per_class(), 1.0, &self.device, self.float),
            MaybeFloat::Some(weights) => self.per_class(weights),
        }
    }

    /// One line of the statistics, in the shape of [`Geometry::per_row`](crate::operation::Geometry).
    fn number(&self, statistics: &FloatTensor<B>, at: isize) -> FloatTensor<B> {
        cast::<B>(self.unstacked(statistics, at), self.float)
    }

    fn combined(
        &self,
        logits: FloatTensor<B>,
        statistics: &FloatTensor<B>,
        inputs: &Inputs<B>,
    ) -> Combined<B> {
        let rows = self.rows(inputs);
        let maximum = self.number(statistics, MAXIMUM);
        let others = self.number(statistics, OTHERS);
        let x = self.transformed(self.view(logits));
        let masked = self.masked(x.clone());
        Combined {
            valid: masked.map(|masked| Valid {
                masked,
                count: self.number(statistics, VALID),
            }),
            scores: Scores::Logits {
                x,
                others: self.without_distribution(others, maximum.clone()),
                maximum,
            },
            shares: self.row_shares(statistics, inputs, &rows),
            rows,
            factored: None,
        }
    }

    fn row_shares(
        &self,
        statistics: &FloatTensor<B>,
        inputs: &Inputs<B>,
        rows: &Rows<B>,
    ) -> RowShares<B> {
        let smoothing = self.options.label_smoothing;
        let weights = rows.indices().target_weights(&inputs.weights, self.float);
        let spread = |at| self.evenly(statistics, at);
        RowShares {
            target: B::float_mul_scalar(weights, (1.0 - smoothing).into()),
            spread: (smoothing != 0.0).then(|| (spread(AT_MAXIMUM), spread(ELSEWHERE))),
        }
    }

    /// One line of the statistics times the even share of a class.
    fn evenly(&self, statistics: &FloatTensor<B>, at: isize) -> FloatTensor<B> {
        let smoothing = self.options.label_smoothing;
        let numbers = self.number(statistics, at);
        if self.options.masked().is_none() {
            let even = smoothing / self.window.of as f64;
            return B::float_mul_scalar(numbers, even.into());
        }
        let count = self.number(statistics, VALID);
        B::float_mul_scalar(B::float_div(numbers, count), smoothing.into())
    }

    /// Losses of the rows, without the z-losses.
    fn combined_losses(
        &self,
        statistics: &FloatTensor<B>,
        shares: &RowShares<B>,
    ) -> FloatTensor<B> {
        let log_sum = log1p::<B>(self.number(statistics, OTHERS), self.bool);
        let [maximum, target] = [MAXIMUM, TARGET].map(|at| self.number(statistics, at));
        let surprisal = B::float_add(self.difference(maximum, target), log_sum.clone());
        let none = B::float_equal_elem(shares.target.clone(), 0.0.into(), self.bool);
        let losses = B::float_mul(shares.target.clone(), surprisal);
        let losses = B::float_mask_fill(losses, none, 0.0.into());
        let Some((at_maximum, elsewhere)) = &shares.spread else {
            return losses;
        };
        let distances = self.evenly(statistics, SPREAD);
        let weight = B::float_add(at_maximum.clone(), elsewhere.clone());
        let spread = B::float_add(distances, B::float_mul(weight, log_sum));
        B::float_add(losses, spread)
    }

    fn shard_gradient(
        &self,
        logits: FloatTensor<B>,
        combined: &Combined<B>,
        inputs: &Inputs<B>,
    ) -> FloatTensor<B> {
        let Scores::Logits { x, maximum, others } = &combined.scores else {
            unreachable!("a shard holds logits");
        };
        let one = full::<B>(Shape::new([1]), 1.0, &self.device, self.float);
        let scales = self.upstream_scales(one, &combined.rows);
        let softmax = self.softmax(x, maximum, others);
        let gradient = self.part_of_gradient(softmax.clone(), others, combined, inputs);
        let gradient = self.with_penalty(gradient, softmax, &combined.scores, &scales);
        let gradient = self.chain_transform(gradient, self.view(logits));
        let gradient = combined.rows.settle_full(gradient, &self.geometry);
        B::float_reshape(gradient, self.shape.clone())
    }

    /// `A softmax - a` of this shard's classes.
    ///
    /// As without shards, the gradient of a class of more than half the probability is minus the sum of the
    /// others' gradients: `(A - a) - A o / (1 + o)` with the others `o`, where `A - a` is known without a
    /// subtraction.
    fn part_of_gradient(
        &self,
        softmax: FloatTensor<B>,
        others: &FloatTensor<B>,
        combined: &Combined<B>,
        inputs: &Inputs<B>,
    ) -> FloatTensor<B> {
        let counting = combined.rows.indices();
        let valid = combined.valid.clone();
        let (shares, _) = self.shares(inputs, Some(counting), valid);
        let (row_shares, shares) = match &combined.factored {
            None => (combined.shares.clone(), shares),
            Some(rows) => {
                let row_shares = combined.shares.clone().with_factor(rows);
                (row_shares, rows.shares(shares, self.one_hot(counting)))
            }
        };
        let total = row_shares.total();
        let gradient = B::float_sub(B::float_mul(softmax.clone(), total.clone()), shares);

        let sum = B::float_add_scalar(others.clone(), 1.0.into());
        let missing = B::float_mul(total, B::float_div(others.clone(), sum));
        let target = B::float_expand(row_shares.target.clone(), self.geometry.full());
        let elsewhere = B::float_mask_fill(target, self.is_target(counting), 0.0.into());
        let elsewhere = match &row_shares.spread {
            None => elsewhere,
            Some((_, spread)) => B::float_add(elsewhere, spread.clone()),
        };
        let dominant = B::float_greater_elem(softmax, 0.5.into(), self.bool);
        B::float_mask_where(gradient, dominant, B::float_sub(elsewhere, missing))
    }
}
