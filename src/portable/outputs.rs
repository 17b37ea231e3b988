//! Outputs of a row besides its loss: log-sum-exp, log-probability, order of the classes, entropy.

use burn::backend::Backend;
use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::tensor::{FloatDType, IntDType, Shape};

use super::call::{Call, Rows, Scores};
use super::elementary::{cast_int, data, log1p, sum_classes};
use crate::operation::{Inputs, Outputs, RowOutputs, Slack, Targets, Ties};

/// Scores with the order of their classes.
struct Order<B: Backend> {
    /// Scores with NaN replaced by the lowest, shape `[outer, classes, inner]`.
    scores: FloatTensor<B>,
    /// Number of each class, shape `[outer, classes, inner]`.
    classes: IntTensor<B>,
    /// First class of the largest score, shape `[outer, 1, inner]`.
    first: IntTensor<B>,
}

/// First class of the largest share of each row of distributions, i32. Burn's argmax may return any of several
/// largest entries.
#[cfg(feature = "cube")]
pub(crate) fn largest_class<B: Backend>(
    distributions: FloatTensor<B>,
    options: &crate::operation::Options,
) -> IntTensor<B> {
    let call = Call::<B>::new(&distributions, options);
    let shares = call.view(distributions);
    call.order(shares).first
}

impl<B: Backend> Call<'_, B> {
    pub(super) fn outputs(
        &self,
        outputs: Outputs,
        logits: &FloatTensor<B>,
        scores: &Scores<B>,
        inputs: &Inputs<B>,
        rows: &Rows<B>,
    ) -> RowOutputs<B> {
        let lse = match outputs {
            Outputs::None => return RowOutputs::Nothing,
            Outputs::Rows | Outputs::RowsAndEntropy => self.lse(scores),
        };
        let zero = || {
            let per_row = self.geometry.per_row();
            B::float_zeros(per_row, &self.device, self.float)
        };
        let lse = lse.unwrap_or_else(zero);
        // A softcap keeps the order of the logits, but makes equal numbers of large ones.
        let given = self.view(logits.clone());
        let (target, class) = match (&inputs.targets, &rows.counting) {
            (Targets::Indices(_), Some(counting)) => {
                let class = cast_int::<B>(counting.index.clone(), IntDType::I32);
                (self.one_hot(counting), class)
            }
            (Targets::Distributions(targets), _) => {
                let order = self.order(self.view(targets.clone()));
                (self.distribution(targets), order.first)
            }
            _ => unreachable!("indices are always counted"),
        };
        let order = match self.options.ties {
            Ties::ByClass => self.order(given),
            Ties::TargetLoses { magnitude } => {
                self.order(self.with_lower_target(given, class.clone(), magnitude))
            }
        };
        let max_log_prob = self.max_log_prob(scores);
        let surprisals = self.surprisals(scores);
        let none = B::float_equal_elem(target.clone(), 0.0.into(), self.bool);
        let log_prob = B::float_mul(target, B::float_neg(surprisals.clone()));
        let log_prob = sum_classes::<B>(B::float_mask_fill(log_prob, none, 0.0.into()));
        let log_prob = rows.settle(self.spoiled(log_prob, scores));

        // A row without a log-probability has no distribution: its target is last.
        let spoiled = B::float_is_nan(log_prob.clone(), self.bool);
        let last = self.geometry.classes as i64 - 1;
        let rank = B::int_mask_fill(self.rank(&order, class.clone()), spoiled, last.into());
        let of_counted = |classes| match rows.dropped() {
            None => classes,
            Some(dropped) => B::int_mask_fill(classes, dropped, (-1i64).into()),
        };
        let line = Shape::new([1, self.geometry.rows()]);
        let lines = [order.first, of_counted(rank), of_counted(class)]
            .map(|classes| B::int_reshape(classes, line.clone()));
        RowOutputs::PerRow {
            numbers: match outputs {
                Outputs::RowsAndEntropy => {
                    self.stacked(vec![lse, log_prob, max_log_prob, self.entropy(surprisals)])
                }
                Outputs::Rows | Outputs::None => self.stacked(vec![lse, log_prob, max_log_prob]),
            },
            classes: B::int_cat(lines.to_vec(), 0),
            divisors: self.divisors_of_mean(inputs, rows.counting.as_ref(), rows.weights.as_ref()),
        }
    }

    pub(super) fn outputs_of_no_rows(&self, outputs: Outputs) -> RowOutputs<B> {
        let nothing = |numbers| Shape::new([numbers, 0]);
        match outputs {
            Outputs::None => RowOutputs::Nothing,
            outputs => RowOutputs::PerRow {
                numbers: B::float_zeros(nothing(outputs.numbers()), &self.device, self.float),
                classes: B::int_zeros(nothing(outputs.classes()), &self.device, IntDType::I32),
                divisors: data::<B>(Shape::new([2]), 0.0, &self.device, self.float),
            },
        }
    }

    fn order(&self, x: FloatTensor<B>) -> Order<B> {
        let not_a_number = B::float_is_nan(x.clone(), self.bool);
        let scores = B::float_mask_fill(x, not_a_number, f64::NEG_INFINITY.into());
        let count = self.geometry.classes as i64;
        let classes = self.classes();
        let largest = B::float_max_dim(scores.clone(), 1);
        let below = B::bool_not(self.equals_row(scores.clone(), largest));
        let candidates = B::int_mask_fill(classes.clone(), below, count.into());
        Order {
            scores,
            first: B::int_min_dim(candidates, 1),
            classes,
        }
    }

    /// Scores with the target's lowered by the rounding of a product of two features.
    fn with_lower_target(
        &self,
        x: FloatTensor<B>,
        class: IntTensor<B>,
        magnitude: f64,
    ) -> FloatTensor<B> {
        let [epsilon, smallest] = match self.float {
            FloatDType::F64 => [f64::EPSILON, f64::MIN_POSITIVE],
            _ => [f32::EPSILON, f32::MIN_POSITIVE].map(f64::from),
        };
        let Slack { share, least } = Slack::new(magnitude, epsilon, smallest);
        let slack = B::float_mul_scalar(B::float_abs(x.clone()), share.into());
        let lowered = B::float_sub(x.clone(), B::float_clamp_min(slack, least.into()));
        let full = self.geometry.full();
        let is_target = B::int_equal(self.classes(), B::int_expand(class, full), self.bool);
        B::float_mask_where(x, is_target, lowered)
    }

    /// Number of each class, shape `[outer, classes, inner]`.
    fn classes(&self) -> IntTensor<B> {
        let count = self.geometry.classes as i64;
        let classes = B::int_arange(0..count, &self.device, IntDType::I32);
        let classes = B::int_reshape(classes, self.geometry.per_class());
        B::int_expand(classes, self.geometry.full())
    }

    /// Number of classes before the target: the classes of a larger score, and the earlier classes of the
    /// same score.
    fn rank(&self, order: &Order<B>, target: IntTensor<B>) -> IntTensor<B> {
        let full = self.geometry.full();
        let target = B::int_expand(target, full.clone());
        let is_target = B::int_equal(order.classes.clone(), target.clone(), self.bool);
        let others = B::bool_not(is_target);
        let score = B::float_mask_fill(order.scores.clone(), others, 0.0.into());
        let score = B::float_expand(B::float_sum_dim(score, 1), full);
        let larger = B::float_greater(order.scores.clone(), score.clone(), self.bool);
        let same: BoolTensor<B> = B::float_equal(order.scores.clone(), score, self.bool);
        let earlier = B::int_lower(order.classes.clone(), target, self.bool);
        let before = B::bool_or(larger, B::bool_and(same, earlier));
        B::int_sum_dim(B::bool_into_int(before, IntDType::I32), 1)
    }

    /// Largest log-probability of every row; over probabilities of those that are numbers.
    fn max_log_prob(&self, scores: &Scores<B>) -> FloatTensor<B> {
        match scores {
            Scores::Logits { others, .. } => B::float_neg(log1p::<B>(others.clone(), self.bool)),
            Scores::Probabilities(s) => {
                let spoiled = B::float_is_nan(s.clone(), self.bool);
                let s = B::float_mask_fill(s.clone(), spoiled, f64::NEG_INFINITY.into());
                B::float_log(B::float_max_dim(s, 1))
            }
        }
    }

    /// `sum_c p[c] (-ln p[c])`; a class of probability 0 adds 0.
    pub(super) fn entropy(&self, surprisals: FloatTensor<B>) -> FloatTensor<B> {
        let probabilities = B::float_exp(B::float_neg(surprisals.clone()));
        let none = B::float_equal_elem(probabilities.clone(), 0.0.into(), self.bool);
        let terms = B::float_mul(probabilities, surprisals);
        sum_classes::<B>(B::float_mask_fill(terms, none, 0.0.into()))
    }
}
