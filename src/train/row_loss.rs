//! The loss of an epoch, which knows how many rows a batch has.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorReadError};
use burn::train::metric::{
    Adaptor, Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes,
    NumericEntry, SerializedEntry,
};

use super::{entry, of_batch};
use crate::CrossEntropyOutput;

/// Input of [`RowLossMetric`], which a [`CrossEntropyOutput`] adapts to.
#[derive(Clone, Debug)]
pub struct RowLossInput {
    /// Mean loss of the batch.
    mean: Tensor<1>,
    /// Divisor of the mean.
    total_weight: Tensor<1>,
    counted_rows: Tensor<1>,
}

impl<const R: usize> Adaptor<RowLossInput> for CrossEntropyOutput<R> {
    /// Takes the mean loss and its divisors over. Does not wait for the device.
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
/// ```text
/// value = sum_b weight[b] mean[b] / sum_b weight[b]      over the batches b of the epoch
/// ```
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
///     let targets = Tensor::<1, Int>::from_ints(targets, &device);
///     let output = loss.forward_with_output(logits, targets);
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
        let counted = if weight > 0.0 { rows as usize } else { 0 };
        self.current = of_batch(mean, counted);
        Ok(entry(self.current.clone(), [self.mean(), mean], ""))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        let values = [self.mean(), self.current.current()];
        Ok(entry(self.final_value(), values, ""))
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
