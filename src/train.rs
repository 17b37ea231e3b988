//! [`CrossEntropyOutput`] as the item of a `burn-train` step: adaptors for its metrics, and a loss
//! metric that knows how many rows a batch has (feature `train`).
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
//! Burn's `AccuracyMetric`, `TopKAccuracyMetric`, `PerplexityMetric` and `LossMetric` take this output,
//! so that no logits are kept. These metrics leave ignored rows out, so `with_pad_token` is not needed. To
//! leave rows out, the adaptors wait for the device, on the thread of the metrics.

use std::sync::Arc;

use burn::tensor::{ExecutionError, Int, Tensor, TensorReadError};
use burn::train::ItemLazy;
use burn::train::metric::{
    AccuracyInput, Adaptor, LossInput, Metric, MetricAttributes, MetricMetadata, MetricName,
    Numeric, NumericAttributes, NumericEntry, PerplexityInput, SerializedEntry, TopKAccuracyInput,
    format_float,
};

use crate::CrossEntropyOutput;
use crate::loss::Divisor;

impl<const R: usize> ItemLazy for CrossEntropyOutput<R> {
    /// Takes all tensors out of the graph, and starts computations that are still queued.
    fn sync(self) -> Result<Self, ExecutionError> {
        self.loss.device().flush()?;
        Ok(Self {
            loss: self.loss.without_autodiff(),
            lse: self.lse.without_autodiff(),
            log_prob: self.log_prob.without_autodiff(),
            predicted: self.predicted.without_autodiff(),
            target_rank: self.target_rank.without_autodiff(),
            total_weight: self.total_weight.without_autodiff(),
            counted_rows: self.counted_rows.without_autodiff(),
            entropy: self.entropy.map(Tensor::without_autodiff),
            divided_by: self.divided_by,
        })
    }
}

/// Log-probabilities and ranks of the counted rows, in one dimension. Waits for the device.
fn of_counted_rows<const R: usize>(output: &CrossEntropyOutput<R>) -> (Tensor<1>, Tensor<1, Int>) {
    let log_prob: Tensor<R> = output.log_prob.clone();
    let log_prob: Tensor<1> = log_prob.flatten(0, R - 1);
    let rank: Tensor<1, Int> = output.target_rank.clone().flatten(0, R - 1);
    let counted: Tensor<1, Int> = rank
        .clone()
        .greater_equal_scalar(0)
        .argwhere()
        .flatten(0, 1);
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
        let divisor = match self.divided_by {
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

/// Largest `k` of Burn's `TopKAccuracyMetric` over a [`CrossEntropyOutput`]; the metric panics for a larger
/// `k`. [`CrossEntropyOutput::in_top`] has no such bound.
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

/// Input of [`RowLossMetric`].
#[derive(Clone, Debug)]
pub struct RowLossInput {
    /// Mean loss of the batch.
    mean: Tensor<1>,
    /// Divisor of the mean.
    total_weight: Tensor<1>,
    counted_rows: Tensor<1>,
}

impl<const R: usize> Adaptor<RowLossInput> for CrossEntropyOutput<R> {
    fn adapt(&self) -> RowLossInput {
        RowLossInput {
            mean: self.mean(),
            total_weight: self.total_weight.clone(),
            counted_rows: self.counted_rows.clone(),
        }
    }
}

/// Metric of the loss, whose mean over an epoch is the mean over the rows of the epoch.
///
/// Burn's `LossMetric` takes the mean over batches, in which a row of a batch with many ignored rows
/// weighs more than a row of another. Here the weight of a batch is the number of counted rows, or with
/// class weights [`total_weight`](CrossEntropyOutput::total_weight). So the epoch's value is the loss of
/// the whole epoch as one batch. (The z-loss beside class weights is an exception: its mean is over rows
/// without weights.) A batch without counted rows is left out.
///
/// The metric shows the mean for every `reduction`. (In the middle of an epoch burn-train's dashboard
/// computes its own value from the batches' means and numbers of rows, without the class weights.)
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn::train::metric::{Adaptor, Metric, MetricMetadata, Numeric};
/// use burn_cross_entropy::CrossEntropyLossConfig;
/// use burn_cross_entropy::train::RowLossMetric;
///
/// let device = Device::flex();
/// let loss = CrossEntropyLossConfig::new().init(&device);
/// let metadata = MetricMetadata {
///     progress: burn::data::dataloader::Progress::new(1, 2, None),
///     iteration: None,
///     lr: None,
/// };
///
/// let mut metric = RowLossMetric::new();
/// for (logits, targets) in [([9.0, 0.0], [1, 1, 1]), ([0.0, 0.0], [1, -100, -100])] {
///     let logits = Tensor::<1>::from_floats(logits, &device).unsqueeze::<2>().expand([3, 2]);
///     let output = loss.forward_with_output(logits, Tensor::<1, Int>::from_ints(targets, &device));
///     metric.update(&output.adapt(), &metadata).unwrap();
/// }
/// // Three rows of 9.0001 and one of ln 2, not one batch of each.
/// let value = metric.running_value().unwrap().current();
/// assert!((value - (3.0 * 9.000123 + 0.693147) / 4.0).abs() < 1e-5);
/// ```
#[derive(Clone)]
pub struct RowLossMetric {
    name: MetricName,
    /// Sum of the batches' means, each times the weight of the batch.
    sum: f64,
    weight: f64,
    rows: usize,
    current: NumericEntry,
}

impl Default for RowLossMetric {
    fn default() -> Self {
        Self::new()
    }
}

impl RowLossMetric {
    /// Makes a metric with the name `Row Loss`.
    pub fn new() -> Self {
        Self {
            name: Arc::new("Row Loss".to_string()),
            sum: 0.0,
            weight: 0.0,
            rows: 0,
            current: NumericEntry::Value(f64::NAN),
        }
    }

    fn mean(&self) -> f64 {
        self.sum / self.weight
    }
}

impl Metric for RowLossMetric {
    type Input = RowLossInput;

    fn update(
        &mut self,
        input: &RowLossInput,
        _metadata: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        // One tensor for the three numbers needs one wait only.
        let numbers = [&input.mean, &input.total_weight, &input.counted_rows];
        let numbers = Tensor::cat(numbers.map(Clone::clone).to_vec(), 0).try_into_data()?;
        let numbers: Vec<f64> = numbers.iter::<f64>().collect();
        let [mean, weight, rows] = numbers[..] else {
            unreachable!("three tensors of one element each");
        };
        if weight > 0.0 {
            self.sum += mean * weight;
            self.weight += weight;
            self.rows += rows as usize;
        }
        self.current = NumericEntry::Aggregated {
            // Burn multiplies the value by the count. For a count of 0 the product has to be 0, not NaN.
            aggregated_value: if weight > 0.0 { mean } else { 0.0 },
            count: rows as usize,
        };
        Ok(self.entry(self.current.clone(), mean))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.entry(self.final_value(), self.current.current()))
    }

    fn clear(&mut self) {
        *self = Self {
            name: self.name.clone(),
            ..Self::new()
        };
    }

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn description(&self) -> Option<String> {
        Some("The loss, in the mean over the rows that count.".to_string())
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: None,
            higher_is_better: false,
        }
        .into()
    }
}

impl RowLossMetric {
    fn entry(&self, entry: NumericEntry, batch: f64) -> SerializedEntry {
        const PRECISION: usize = 3;
        let [epoch, batch] = [self.mean(), batch].map(|value| format_float(value, PRECISION));
        SerializedEntry::new(format!("epoch {epoch} - batch {batch}"), entry.serialize())
    }
}

impl Numeric for RowLossMetric {
    fn value(&self) -> Option<NumericEntry> {
        Some(self.current.clone())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        Some(NumericEntry::Aggregated {
            aggregated_value: self.mean(),
            count: self.rows,
        })
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.mean())
    }
}
