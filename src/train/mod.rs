//! Adaptors to the metrics of burn-train, and metrics of this crate (feature `train`).
//!
//! [`CrossEntropyOutput`] is the item of a step, and every metric takes it:
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::tensor::{Device, Int, Tensor};
//! use burn::train::{InferenceStep, TrainOutput, TrainStep};
//! use burn_cross_entropy::{CrossEntropyLoss, CrossEntropyLossConfig, CrossEntropyOutput};
//!
//! #[derive(Module, Debug)]
//! struct Model {
//!     linear: Linear,
//!     loss: CrossEntropyLoss,
//! }
//!
//! struct Batch {
//!     features: Tensor<2>,
//!     targets: Tensor<1, Int>,
//! }
//!
//! impl TrainStep for Model {
//!     type Input = Batch;
//!     type Output = CrossEntropyOutput<1>;
//!
//!     fn step(&self, batch: Batch) -> TrainOutput<CrossEntropyOutput<1>> {
//!         let output = InferenceStep::step(self, batch);
//!         TrainOutput::new(self, output.loss.backward(), output)
//!     }
//! }
//!
//! impl InferenceStep for Model {
//!     type Input = Batch;
//!     type Output = CrossEntropyOutput<1>;
//!
//!     fn step(&self, batch: Batch) -> CrossEntropyOutput<1> {
//!         let logits = self.linear.forward(batch.features);
//!         self.loss.forward_with_output(logits, batch.targets)
//!     }
//! }
//!
//! let device = Device::flex().autodiff();
//! let model = Model {
//!     linear: LinearConfig::new(4, 3).init(&device),
//!     loss: CrossEntropyLossConfig::new().init(&device),
//! };
//! let output = TrainStep::step(&model, Batch {
//!     features: Tensor::ones([2, 4], &device),
//!     targets: Tensor::from_ints([0, 2], &device),
//! });
//! assert!(output.item.loss.into_scalar::<f32>() > 0.0);
//! ```
//!
//! Metrics need no logits, so none are kept. Every metric leaves ignored rows out, so `with_pad_token` is not needed.
//!
//! | Metric | Remark |
//! |---|---|
//! | Burn's `AccuracyMetric`, `PerplexityMetric`, `LossMetric` | |
//! | Burn's `TopKAccuracyMetric` | `k` up to [`LARGEST_TOP_K`] |
//! | Burn's `PrecisionMetric`, `RecallMetric`, `FBetaScoreMetric` | `multiclass(1, ..)`, and any threshold of a half or more |
//! | Burn's `AurocMetric` | two classes only, see [below](#two-classes) |
//! | [`RowLossMetric`] | the loss in the mean over the rows of the epoch |
//! | [`IouMetric`] | intersection over union, mean and of one class |
//! | [`CalibrationErrorMetric`] | how far confidence is from accuracy |
//!
//! To leave rows out, the adaptors of Burn's metrics wait for the device, on the thread of the metrics. (A batch
//! without a counted row has no rows for them. On a CubeCL runtime Burn 0.22's precision, recall and F-beta by
//! `multiclass` then overflow in a build with overflow checks.)
//!
//! # Two classes
//!
//! Precision, recall, F-beta and AUROC ask for the probability of every class. The output has one, of the
//! predicted class, [`max_log_prob`](CrossEntropyOutput::max_log_prob), and the adaptor leaves 0 to the
//! others: enough for the predicted class and for thresholds from a half on, which no other class exceeds.
//! Of two classes the other has what is missing of 1, so the adaptor gives both. There every threshold is
//! right, and so is `AurocMetric::binary()`: its mean over the two classes is the area of either. Over more
//! classes AUROC, smaller thresholds and a `top_k` above 1 have no meaning.
//!
//! The `binary` form of precision, recall and F-beta takes one column in other programs. Here it has two, and
//! so is the mean over both classes.

mod calibration_error;
mod iou;
mod row_loss;

use burn::tensor::{ExecutionError, Int, Tensor};
use burn::train::ItemLazy;
use burn::train::metric::{
    AccuracyInput, Adaptor, ConfusionStatsInput, LossInput, NumericEntry, PerplexityInput,
    SerializedEntry, TopKAccuracyInput, format_float,
};

pub use self::calibration_error::{CalibrationErrorInput, CalibrationErrorMetric};
pub use self::iou::{IouInput, IouMetric};
pub use self::row_loss::{RowLossInput, RowLossMetric};
use crate::CrossEntropyOutput;
use crate::loss::{CallOfOutput, Divisor};

impl<const R: usize> ItemLazy for CrossEntropyOutput<R> {
    /// Takes all tensors out of the graph, and starts computations that are still queued.
    fn sync(self) -> Result<Self, ExecutionError> {
        self.loss.device().flush()?;
        Ok(Self {
            loss: self.loss.without_autodiff(),
            lse: self.lse.without_autodiff(),
            log_prob: self.log_prob.without_autodiff(),
            max_log_prob: self.max_log_prob.without_autodiff(),
            predicted: self.predicted.without_autodiff(),
            target_class: self.target_class.without_autodiff(),
            target_rank: self.target_rank.without_autodiff(),
            total_weight: self.total_weight.without_autodiff(),
            counted_rows: self.counted_rows.without_autodiff(),
            entropy: self.entropy.map(Tensor::without_autodiff),
            call: CallOfOutput {
                row_weights: self.call.row_weights.map(Tensor::without_autodiff),
                ..self.call
            },
        })
    }
}

/// Places of the counted rows among all rows. Waits for the device.
fn counted_rows<const R: usize>(output: &CrossEntropyOutput<R>) -> Tensor<1, Int> {
    let rank: Tensor<1, Int> = output.target_rank.clone().flatten(0, R - 1);
    rank.greater_equal_scalar(0).argwhere().flatten(0, 1)
}

/// Log-probabilities and ranks of the counted rows, in one dimension. Waits for the device.
fn of_counted_rows<const R: usize>(output: &CrossEntropyOutput<R>) -> (Tensor<1>, Tensor<1, Int>) {
    let log_prob: Tensor<1> = output.log_prob.clone().flatten(0, R - 1);
    let rank: Tensor<1, Int> = output.target_rank.clone().flatten(0, R - 1);
    let counted = counted_rows(output);
    let log_prob = log_prob.select(0, counted.clone());
    // A row without a distribution is behind every place, also behind the last class.
    let spoiled = log_prob.clone().is_nan();
    let rank = rank.select(0, counted);
    let rank = rank.mask_fill(spoiled, i64::from(i32::MAX));
    (log_prob, rank)
}

impl<const R: usize> Adaptor<LossInput> for CrossEntropyOutput<R> {
    /// Passes the loss on; nothing for a batch that has no mean because no row counts, which Burn's metric then
    /// leaves out. The NaN of a bad target is passed on. Burn's metric takes the mean over batches,
    /// [`RowLossMetric`] the mean over rows. Waits for the device.
    fn adapt(&self) -> LossInput {
        let divisor = match self.call.divided_by {
            Divisor::TotalWeight => &self.total_weight,
            Divisor::Number(_) => &self.counted_rows,
        };
        let is_bad = self
            .log_prob
            .clone()
            .is_nan()
            .bool_and(self.counted().bool_not());
        let is_nothing =
            divisor.clone().into_scalar::<f64>() == 0.0 && !is_bad.any().into_scalar::<bool>();
        LossInput::new(match is_nothing {
            true => self.loss.clone().slice(0..0),
            false => self.loss.clone(),
        })
    }
}

impl<const R: usize> Adaptor<AccuracyInput> for CrossEntropyOutput<R> {
    /// Replaces the classes by two, "wrong" and "right"; the target of every row is "right".
    fn adapt(&self) -> AccuracyInput {
        let (_, rank) = of_counted_rows(self);
        let right = rank.clone().equal_scalar(0).float().unsqueeze_dim(1);
        let wrong = right.ones_like() - right.clone();
        AccuracyInput::new(Tensor::cat(vec![wrong, right], 1), rank.ones_like())
    }
}

/// Largest `k` of Burn's `TopKAccuracyMetric` over a [`CrossEntropyOutput`].
///
/// The metric panics for a larger `k`. [`CrossEntropyOutput::in_top`] has no such bound.
pub const LARGEST_TOP_K: usize = 128;

impl<const R: usize> Adaptor<TopKAccuracyInput> for CrossEntropyOutput<R> {
    /// Replaces the classes by [`LARGEST_TOP_K`] places in falling order; the target is the place of the
    /// target's rank.
    fn adapt(&self) -> TopKAccuracyInput {
        let (_, rank) = of_counted_rows(self);
        let [rows] = rank.dims();
        let places = Tensor::<1, Int>::arange(0..LARGEST_TOP_K as i64, &rank.device());
        let places: Tensor<2> = places.float().neg().unsqueeze();
        // `expand` refuses a tensor without rows, so a sum broadcasts.
        let places = Tensor::zeros([rows, LARGEST_TOP_K], &rank.device()) + places;
        TopKAccuracyInput::new(places, rank)
    }
}

impl<const R: usize> Adaptor<PerplexityInput> for CrossEntropyOutput<R> {
    /// Replaces the classes by two, "the target" and "any other", whose logits are the logarithms of the
    /// probabilities.
    fn adapt(&self) -> PerplexityInput {
        let (log_prob, rank) = of_counted_rows(self);
        // Without rounding a log-probability is at most 0.
        let log_prob = log_prob.clamp_max(0.0);
        let others = log_prob.clone().exp().neg().log1p();
        let logits = Tensor::stack(vec![log_prob, others], 1);
        PerplexityInput::new(logits, rank.zeros_like())
    }
}

impl<const R: usize> Adaptor<ConfusionStatsInput> for CrossEntropyOutput<R> {
    /// Makes a column for each class: the predicted class has its probability, the others 0, or of two classes
    /// the other what is missing of 1. A row without a distribution is sure of a wrong class, the one behind its
    /// target. Both tensors are `[counted rows, classes]`. Waits for the device.
    fn adapt(&self) -> ConfusionStatsInput {
        let counted = counted_rows(self);
        let of_rows = |numbers: &Tensor<R>| {
            let numbers: Tensor<1> = numbers.clone().flatten(0, R - 1);
            numbers.select(0, counted.clone())
        };
        let classes_of = |classes: &Tensor<R, Int>| {
            let classes: Tensor<1, Int> = classes.clone().flatten(0, R - 1);
            classes.select(0, counted.clone())
        };
        let count = self.call.classes as i64;
        let target = classes_of(&self.target_class);
        let spoiled = of_rows(&self.log_prob).is_nan();
        let wrong = (target.clone() + 1).remainder_scalar(count);
        let predicted = classes_of(&self.predicted).mask_where(spoiled.clone(), wrong);
        let log_prob = of_rows(&self.max_log_prob).mask_fill(spoiled, 0.0);
        let p = log_prob.clone().exp();
        let others = match count {
            // `1 - exp(x)` with the digits of a small `x`.
            2 => (log_prob * -0.5).tanh() * (p.clone() + 1.0),
            _ => p.zeros_like(),
        };
        let columns = Tensor::<1, Int>::arange(0..count, &target.device());
        let column = |of_row: Tensor<1, Int>| {
            let of_row: Tensor<2, Int> = of_row.unsqueeze_dim(1);
            of_row.equal(columns.clone().unsqueeze())
        };
        let is_predicted = column(predicted).float().cast(p.dtype());
        let [p, others]: [Tensor<2>; 2] = [p, others].map(|number| number.unsqueeze_dim(1));
        let predictions = (p - others.clone()) * is_predicted + others;
        ConfusionStatsInput::new(predictions, column(target))
    }
}

/// Entry of a metric that shows its epoch and its last batch.
fn entry(entry: NumericEntry, epoch_and_batch: [f64; 2], unit: &str) -> SerializedEntry {
    const PRECISION: usize = 3;
    let [epoch, batch] = epoch_and_batch.map(|value| format_float(value, PRECISION) + unit);
    SerializedEntry::new(format!("epoch {epoch} - batch {batch}"), entry.serialize())
}

/// Value of a batch. Burn multiplies the value by the count; for a count of 0 the product has to be 0, not NaN.
fn of_batch(value: f64, count: usize) -> NumericEntry {
    NumericEntry::Aggregated {
        aggregated_value: if count > 0 { value } else { 0.0 },
        count,
    }
}
