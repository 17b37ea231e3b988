//! The cross-entropy and its gradients in plain tensor operations.
//!
//! This is the portable implementation, for tensors on a backend without a fused one, and what the
//! fused ones are tested and timed against. It holds tensors of the size of the logits while it
//! computes (several of them), which is what the fused ones are there to avoid.
//!
//! Every function first views the logits as `[outer, classes, inner]`
//! ([`Geometry`](crate::operation::Geometry)), so that all ranks and class dimensions are one case, and
//! casts to the accumulation dtype. Both kinds of target become *shares* `a[c]`, the factor of `-ln p[c]`
//! in the loss of a row:
//!
//! ```text
//! q[c] = (1 - e) p[c] + e / C       p one-hot for an index, e the label smoothing
//! a[c] = w[c] q[c]                  w the class weights
//! loss = sum_c a[c] (lse - x[c])    a share of 0 adds nothing, also where x[c] is -inf
//! dx   = (sum_c a[c]) softmax(x) - a
//! ```
//!
//! [`CrossEntropyLoss`](crate::CrossEntropyLoss) is the door; called directly, for a test or a
//! measurement, shapes and options are the caller's to get right:
//!
//! ```
//! use burn::backend::Dispatch;
//! use burn::tensor::{Device, Int, Tensor};
//! use burn_cross_entropy::operation::{
//!     ClassWeights, Denominators, DetailsOf, GradientsOf, InputValues, Inputs, Options,
//!     RowReduction, Targets,
//! };
//! use burn_cross_entropy::{EmptyReduction, reference};
//!
//! let device = Device::flex();
//! let logits = Tensor::<2>::zeros([3, 2], &device).into_dispatch();
//! let targets = Tensor::<1, Int>::zeros([3], &device).into_dispatch();
//! let options = Options {
//!     class_dim: 1,
//!     ignore_indices: [-100].as_slice().into(),
//!     label_smoothing: 0.0,
//!     values: InputValues::Logits { scale: 1.0, softcap: None },
//!     z_loss: 0.0,
//!     reduction: RowReduction::Sum,
//!     empty: EmptyReduction::Nan,
//!     gradients_of: GradientsOf::Logits,
//!     keep: false,
//!     details: DetailsOf::Nothing,
//! };
//! let inputs = Inputs {
//!     targets: Targets::Indices(targets),
//!     weights: ClassWeights::Equal,
//!     normalizer: Denominators::OfRows,
//! };
//! let result = reference::cross_entropy::<Dispatch>(logits, inputs, &options);
//! let loss = Tensor::<1>::from_dispatch(result.loss).into_scalar::<f32>();
//! assert!((loss - 3.0 * 2f32.ln()).abs() < 1e-6);
//! ```

mod call;
mod counting;
mod details;
mod elementary;
mod gradient;
mod shard;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, Shape};

use self::call::{Call, Rows, Scores};
use self::counting::Counting;
use self::elementary::{data, full, reshape_scalar, sum_all, sum_classes};

pub(crate) use self::elementary::cast_int;
pub use self::gradient::cross_entropy_backward;
pub(crate) use self::shard::{
    combined_statistics, shard_loss, shard_statistics, statistics_per_row,
};

use crate::operation::{
    ClassWeights, EmptyReduction, Forward, InputValues, Inputs, Options, RowReduction, Saved,
};

/// The loss in the shape of [`Options::loss_shape`], and what else the options ask for.
pub fn cross_entropy<B: Backend>(
    logits: FloatTensor<B>,
    inputs: Inputs<B>,
    options: &Options,
) -> Forward<B> {
    let call = Call::<B>::new(&logits, options);
    if call.geometry.rows() == 0 {
        return Forward {
            loss: call.loss_of_no_rows(&inputs),
            saved: call.nothing_saved(logits),
            details: call.details_of_no_rows(),
        };
    }
    let scores = call.scores(logits.clone());
    let rows = call.rows(&inputs);
    let loss = call.loss(&scores, &inputs, &rows);
    let details = call.details(&scores, &inputs, &rows);
    let saved = match scores {
        _ if !options.keep => Saved::Nothing,
        Scores::Logits {
            maximum, others, ..
        } => Saved::Logits {
            logits,
            statistics: call.stacked([maximum, others]),
            denominators: call.denominators(&rows),
        },
        Scores::Probabilities(_) => Saved::AsGiven { input: logits },
    };
    Forward {
        loss,
        saved,
        details,
    }
}

/// The denominator of [`RowReduction::Mean`] over index targets, shape `[1]`: the sum of
/// `weights[target]` over the counted rows, in f32.
pub fn total_weight<B: Backend>(
    indices: IntTensor<B>,
    weights: ClassWeights<B>,
    ignore_indices: &[i64],
) -> FloatTensor<B> {
    let rows = indices.shape().num_elements();
    let classes = match &weights {
        ClassWeights::Equal => None,
        ClassWeights::PerClass(weights) => Some(weights.shape().num_elements()),
    };
    let counting = Counting::<B>::new(indices, Shape::new([rows]), classes, ignore_indices);
    counting.total_weight(&weights, FloatDType::F32)
}

/// What [`RowReduction::Mean`] divides the losses and the z-losses of index targets by, shape `[2]`.
pub(crate) fn denominators_of_mean<B: Backend>(
    indices: IntTensor<B>,
    weights: &ClassWeights<B>,
    classes: usize,
    options: &Options,
    float: FloatDType,
) -> FloatTensor<B> {
    let rows = Shape::new([indices.shape().num_elements()]);
    let counting = Counting::<B>::new(indices, rows, Some(classes), &options.ignore_indices);
    counting.totals(weights, float)
}

/// The rows of a tensor `[rows, _]`, made 0 where an index target does not count.
pub(crate) fn counted_rows_of<B: Backend>(
    tensor: FloatTensor<B>,
    indices: IntTensor<B>,
    classes: usize,
    options: &Options,
) -> FloatTensor<B> {
    let shape = tensor.shape();
    let rows = Shape::new([shape[0], 1]);
    let counting = Counting::<B>::new(indices, rows, Some(classes), &options.ignore_indices);
    let dropped = B::bool_expand(counting.dropped(), shape);
    B::float_mask_fill(tensor, dropped, 0.0.into())
}

impl<B: Backend> Call<'_, B> {
    fn loss_of_no_rows(&self, inputs: &Inputs<B>) -> FloatTensor<B> {
        let shape = self.options.loss_shape(&self.shape);
        if self.options.reduction == RowReduction::Normalized {
            // 0, unless there were no other rows either.
            let row = Shape::new([1, 1, 1]);
            let zero = data::<B>(row, 0.0, &self.device, self.float);
            let [total, _] = self.divisors(&self.given_totals(inputs));
            return B::float_reshape(self.mean(zero, total), shape);
        }
        let value = match (self.options.reduction, self.options.empty) {
            (RowReduction::Mean | RowReduction::BatchMean(0), EmptyReduction::Nan) => f64::NAN,
            _ => 0.0,
        };
        data::<B>(shape, value, &self.device, self.float)
    }

    fn nothing_saved(&self, logits: FloatTensor<B>) -> Saved<B> {
        match self.options.values {
            _ if !self.options.keep => Saved::Nothing,
            InputValues::Probabilities => Saved::AsGiven { input: logits },
            InputValues::Logits { .. } => {
                let nothing = |shape| data::<B>(shape, 0.0, &self.device, self.float);
                Saved::Logits {
                    logits,
                    statistics: nothing(Shape::new([2, 0])),
                    denominators: nothing(Shape::new([2])),
                }
            }
        }
    }

    /// What the losses and the z-losses are divided by, for a reader that knows nothing of the rows.
    fn denominators(&self, rows: &Rows<B>) -> FloatTensor<B> {
        let divisor = match (&rows.totals, self.options.reduction) {
            (Some(totals), _) => return totals.clone(),
            (None, RowReduction::BatchMean(samples)) => samples as f64,
            (None, _) => 1.0,
        };
        full::<B>(Shape::new([2]), divisor, &self.device, self.float)
    }

    fn loss(&self, scores: &Scores<B>, inputs: &Inputs<B>, rows: &Rows<B>) -> FloatTensor<B> {
        let (shares, none) = self.shares(inputs, rows.counting.as_ref());
        let terms = B::float_mul(shares, self.surprisals(scores));
        let losses = sum_classes::<B>(B::float_mask_fill(terms, none, 0.0.into()));
        self.reduced(losses, scores, rows)
    }

    /// The result, of the losses of the rows without their penalties.
    fn reduced(
        &self,
        losses: FloatTensor<B>,
        scores: &Scores<B>,
        rows: &Rows<B>,
    ) -> FloatTensor<B> {
        let output = self.options.loss_shape(&self.shape);
        let losses = self.spoiled(losses, scores);
        let losses = rows.settle(losses);
        let penalties = self.penalised_lse(scores).map(|lse| {
            let square = B::float_mul(lse.clone(), lse);
            rows.settle(B::float_mul_scalar(square, self.options.z_loss.into()))
        });
        let loss = match &rows.totals {
            None => {
                let losses = match penalties {
                    None => losses,
                    Some(penalties) => B::float_add(losses, penalties),
                };
                match self.options.reduction {
                    RowReduction::None => losses,
                    RowReduction::BatchMean(samples) => {
                        B::float_div_scalar(sum_all::<B>(losses), (samples as f64).into())
                    }
                    RowReduction::Sum | RowReduction::Mean | RowReduction::Normalized => {
                        sum_all::<B>(losses)
                    }
                }
            }
            Some(totals) => {
                let [total, counted] = self.divisors(totals);
                let mean = self.mean(losses, total);
                match penalties {
                    None => mean,
                    Some(penalties) => B::float_add(mean, self.mean(penalties, counted)),
                }
            }
        };
        B::float_reshape(loss, output)
    }

    /// The sum of `losses` over `total`, or what `empty` says where that is 0.
    fn mean(&self, losses: FloatTensor<B>, total: FloatTensor<B>) -> FloatTensor<B> {
        let sum = reshape_scalar::<B>(sum_all::<B>(losses));
        let nothing = B::float_equal_elem(total.clone(), 0.0.into(), self.bool);
        let spoiled = B::float_is_nan(sum.clone(), self.bool);
        let value = match self.options.empty {
            EmptyReduction::Nan => f64::NAN,
            EmptyReduction::Zero => 0.0,
        };
        let mean = B::float_mask_fill(B::float_div(sum, total), nothing, value.into());
        // A bad target is no empty mean.
        B::float_mask_fill(mean, spoiled, f64::NAN.into())
    }
}
