//! Loss over logits that are a tensor, and its reduction.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Shape;

use super::call::{Call, Divisor, Rows, Scores};
use super::elementary::{cast, data, full, reshape_scalar, sum_all, sum_classes};
use super::factor::Factored;
use crate::operation::{
    Forward, InputValues, Inputs, Logits, Options, RowReduction, Saved, Wanted,
};

/// Loss in the shape of [`Inputs::loss_shape`], and the other wanted results.
pub(super) fn loss<B: Backend>(
    logits: FloatTensor<B>,
    inputs: Inputs<B>,
    options: &Options,
    wanted: Wanted,
) -> Forward<B> {
    let call = Call::<B>::new(&logits, options);
    let is_kept = wanted.gradients.any();
    if call.geometry.rows() == 0 {
        return Forward {
            loss: call.loss_of_no_rows(&inputs),
            saved: match is_kept {
                true => call.saved_of_no_rows(logits),
                false => Saved::Nothing,
            },
            outputs: call.outputs_of_no_rows(wanted.outputs),
        };
    }
    let scores = call.scores(logits.clone());
    let rows = call.rows(&inputs);
    let loss = call.loss(&scores, &inputs, &rows);
    let outputs = call.outputs(wanted.outputs, &logits, &scores, &inputs, &rows);
    let saved = match scores {
        _ if !is_kept => Saved::Nothing,
        Scores::Logits {
            maximum, others, ..
        } => Saved::Statistics {
            logits,
            statistics: call.stacked(vec![maximum, others]),
            divisors: call.saved_divisors(&rows),
        },
        Scores::Probabilities(_) => Saved::Logits(Logits::Tensor(logits)),
    };
    Forward {
        loss,
        saved,
        outputs,
    }
}

impl<B: Backend> Call<'_, B> {
    pub(super) fn loss_of_no_rows(&self, inputs: &Inputs<B>) -> FloatTensor<B> {
        let shape = inputs.loss_shape(&self.shape, self.options);
        let value = match &inputs.reduction {
            RowReduction::Normalized { divisors } => {
                // The loss of no rows is 0, unless the divisor is 0 too.
                let row = Shape::new([1, 1, 1]);
                let zero = data::<B>(row, 0.0, &self.device, self.float);
                let [total, _] = self.split(&cast::<B>(divisors.clone(), self.float));
                return B::float_reshape(self.mean(zero, total), shape);
            }
            RowReduction::Mean => self.options.empty.value(),
            RowReduction::Sum { divisor: 0.0 } => self.options.empty.value(),
            RowReduction::Sum { .. } | RowReduction::None => 0.0,
        };
        data::<B>(shape, value, &self.device, self.float)
    }

    fn saved_of_no_rows(&self, logits: FloatTensor<B>) -> Saved<B> {
        if self.options.values == InputValues::Probabilities {
            return Saved::Logits(Logits::Tensor(logits));
        }
        let nothing = |shape| data::<B>(shape, 0.0, &self.device, self.float);
        Saved::Statistics {
            logits,
            statistics: nothing(Shape::new([2, 0])),
            divisors: nothing(Shape::new([2])),
        }
    }

    /// Divisors of the losses and of the z-losses, as a tensor for the backward.
    fn saved_divisors(&self, rows: &Rows<B>) -> FloatTensor<B> {
        let divisor = match &rows.divisor {
            Divisor::Pair(divisors) => return divisors.clone(),
            Divisor::Number(divisor) => *divisor,
            Divisor::PerRow => 1.0,
        };
        full::<B>(Shape::new([2]), divisor, &self.device, self.float)
    }

    fn loss(&self, scores: &Scores<B>, inputs: &Inputs<B>, rows: &Rows<B>) -> FloatTensor<B> {
        if let Some(values) = self.row_values(scores) {
            return self.reduced(values, scores, rows, inputs);
        }
        let losses = self.row_losses(scores, inputs, rows);
        let losses = match self.factored_rows(losses.clone(), scores, inputs, rows) {
            None => losses,
            Some(factored) => factored.losses,
        };
        self.reduced(losses, scores, rows, inputs)
    }

    /// Losses of the rows, without a factor and without the z-losses.
    pub(super) fn row_losses(
        &self,
        scores: &Scores<B>,
        inputs: &Inputs<B>,
        rows: &Rows<B>,
    ) -> FloatTensor<B> {
        let valid = self.valid(scores);
        let (shares, none) = self.shares(inputs, rows.counting.as_ref(), valid);
        let terms = B::float_mul(shares, self.surprisals(scores));
        sum_classes::<B>(B::float_mask_fill(terms, none, 0.0.into()))
    }

    /// [`factored`](Self::factored) where all classes are here.
    pub(super) fn factored_rows(
        &self,
        losses: FloatTensor<B>,
        scores: &Scores<B>,
        inputs: &Inputs<B>,
        rows: &Rows<B>,
    ) -> Option<Factored<B>> {
        if !self.options.row_factor.is_some() {
            return None;
        }
        let target = self.target_scores(scores, rows);
        self.factored(losses, target, scores, inputs, rows)
    }

    /// Reduces the losses of the rows, given without the z-losses, to the result.
    pub(super) fn reduced(
        &self,
        losses: FloatTensor<B>,
        scores: &Scores<B>,
        rows: &Rows<B>,
        inputs: &Inputs<B>,
    ) -> FloatTensor<B> {
        let output = inputs.loss_shape(&self.shape, self.options);
        let losses = self.spoiled(losses, scores);
        let losses = rows.settle(rows.weighed(losses));
        let penalties = self.penalised_lse(scores).map(|lse| {
            let square = B::float_mul(lse.clone(), lse);
            let penalty = B::float_mul_scalar(square, self.options.z_loss.into());
            rows.settle(rows.weighed(penalty))
        });
        let with_penalties = |losses| match &penalties {
            None => losses,
            Some(penalties) => B::float_add(losses, penalties.clone()),
        };
        let loss = match &rows.divisor {
            Divisor::PerRow => with_penalties(losses),
            Divisor::Number(1.0) => sum_all::<B>(with_penalties(losses)),
            Divisor::Number(number) => {
                B::float_div_scalar(sum_all::<B>(with_penalties(losses)), (*number).into())
            }
            Divisor::Pair(pair) => {
                let [total, counted] = self.split(pair);
                let mean = self.mean(losses, total);
                match penalties {
                    None => mean,
                    Some(penalties) => B::float_add(mean, self.mean(penalties, counted)),
                }
            }
        };
        B::float_reshape(loss, output)
    }

    /// Sum of `losses` divided by `total`, or `empty` where `total` is 0.
    fn mean(&self, losses: FloatTensor<B>, total: FloatTensor<B>) -> FloatTensor<B> {
        let sum = reshape_scalar::<B>(sum_all::<B>(losses));
        let nothing = B::float_equal_elem(total.clone(), 0.0.into(), self.bool);
        let spoiled = B::float_is_nan(sum.clone(), self.bool);
        let mean = B::float_mask_fill(
            B::float_div(sum, total),
            nothing,
            self.options.empty.value().into(),
        );
        // The NaN of a bad target takes precedence over `empty`.
        B::float_mask_fill(mean, spoiled, f64::NAN.into())
    }
}
