//! Expected calibration error of an epoch.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorReadError};
use burn::train::metric::{
    Adaptor, Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes,
    NumericEntry, SerializedEntry,
};

use super::{entry, of_batch};
use crate::CrossEntropyOutput;

/// Input of [`CalibrationErrorMetric`], which a [`CrossEntropyOutput`] adapts to.
#[derive(Clone, Debug)]
pub struct CalibrationErrorInput {
    /// The largest log-probabilities of all rows, NaN where a row is left out; then 1 where the predicted class
    /// is the target, 0 where not.
    numbers: Tensor<1>,
}

impl<const R: usize> Adaptor<CalibrationErrorInput> for CrossEntropyOutput<R> {
    /// Takes the confidences over. Does not wait for the device.
    fn adapt(&self) -> CalibrationErrorInput {
        let left_out = self.counted().bool_and(self.has_distribution()).bool_not();
        let log_prob = self.max_log_prob.clone().mask_fill(left_out, f64::NAN);
        let correct = self.correct().float().cast(log_prob.dtype());
        let numbers = [log_prob, correct].map(|numbers| numbers.flatten::<1>(0, R - 1));
        CalibrationErrorInput {
            numbers: Tensor::cat(numbers.to_vec(), 0),
        }
    }
}

/// Rows by their confidence.
#[derive(Clone, Debug)]
struct Bins {
    /// The number of correct rows of each bin, less the sum of the confidences.
    gaps: Vec<f64>,
    rows: usize,
}

impl Bins {
    fn new(bins: usize) -> Self {
        Self {
            gaps: vec![0.0; bins],
            rows: 0,
        }
    }

    fn take(&mut self, log_prob: f64, correct: f64) {
        if log_prob.is_nan() {
            return;
        }
        let confidence = log_prob.exp();
        let bins = self.gaps.len();
        // A bin has its upper bound; a confidence of 0 is in the first one. The cast makes 0 of -1.
        let bin = ((confidence * bins as f64).ceil() - 1.0) as usize;
        self.gaps[bin.min(bins - 1)] += correct - confidence;
        self.rows += 1;
    }

    fn add(&mut self, other: &Self) {
        for (sum, gap) in self.gaps.iter_mut().zip(&other.gaps) {
            *sum += gap;
        }
        self.rows += other.rows;
    }

    /// The error in per cent; NaN without rows.
    fn error(&self) -> f64 {
        let gaps: f64 = self.gaps.iter().map(|gap| gap.abs()).sum();
        100.0 * gaps / self.rows as f64
    }
}

/// Metric of the expected calibration error, in per cent, over the whole epoch: how far the confidence of a
/// model is from its accuracy.
///
/// ```text
/// ECE = sum_b rows[b] / rows |accuracy[b] - confidence[b]|
/// ```
///
/// The confidence of a row is the probability of its predicted class, `exp(max_log_prob)`. Bin `b` of `n` has
/// the rows with a confidence from `b / n` (exclusive) to `(b + 1) / n` (inclusive); in it `accuracy` is the
/// share of the rows whose predicted class is the target, `confidence` the mean. 0 is the best: of the rows
/// with a confidence of 0.8 four in five are right.
///
/// The rows of all batches are in the bins together: a mean of the values of batches would be larger. Ignored
/// rows and rows without a distribution (NaN), which have no confidence, are left out; an epoch without rows
/// is NaN. The target of a distribution is its largest class. Class and row weights do not apply.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn::train::metric::{Adaptor, Metric, MetricMetadata, Numeric};
/// use burn_cross_entropy::CrossEntropyLossConfig;
/// use burn_cross_entropy::train::CalibrationErrorMetric;
///
/// let device = Device::flex();
/// let loss = CrossEntropyLossConfig::new().with_logits(false).init(&device);
/// let rows = [[0.25, 0.75], [0.25, 0.75], [0.5, 0.5]];
/// let probabilities = Tensor::<2>::from_floats(rows, &device);
/// let targets = Tensor::<1, Int>::from_ints([1, 0, 0], &device);
/// let metadata = MetricMetadata {
///     progress: burn::data::dataloader::Progress::new(1, 1, None),
///     iteration: None,
///     lr: None,
/// };
///
/// let mut metric = CalibrationErrorMetric::new();
/// let output = loss.forward_with_output(probabilities, targets);
/// metric.update(&output.adapt(), &metadata).unwrap();
/// // Two rows of 0.75, of which one is right, and one of 0.5, which is.
/// let expected = 100.0 * (2.0 * 0.25 + 0.5) / 3.0;
/// assert!((metric.final_value().current() - expected).abs() < 1e-4);
/// ```
///
/// Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, <https://arxiv.org/abs/1706.04599>, equation 3.
#[derive(Clone)]
pub struct CalibrationErrorMetric {
    name: MetricName,
    epoch: Bins,
    current: NumericEntry,
}

impl Default for CalibrationErrorMetric {
    fn default() -> Self {
        Self::new()
    }
}

impl CalibrationErrorMetric {
    /// Makes a metric with 15 bins, as in the paper, and the name `Calibration Error [15 bins]`.
    pub fn new() -> Self {
        Self::with_bins(15)
    }

    /// Makes a metric with this number of bins, which is part of its name.
    ///
    /// # Panics
    ///
    /// If the number is 0.
    pub fn with_bins(bins: usize) -> Self {
        assert!(
            bins > 0,
            "the calibration error was given 0 bins: give at least 1, or 15 as in the paper"
        );
        Self {
            name: Arc::new(format!("Calibration Error [{bins} bins]")),
            epoch: Bins::new(bins),
            current: NumericEntry::Value(f64::NAN),
        }
    }
}

impl Metric for CalibrationErrorMetric {
    type Input = CalibrationErrorInput;

    fn update(
        &mut self,
        input: &CalibrationErrorInput,
        _metadata: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        let numbers = input.numbers.clone().try_into_data()?;
        let rows = numbers.num_elements() / 2;
        let log_probs = numbers.iter::<f64>().take(rows);
        let correct = numbers.iter::<f64>().skip(rows);
        let mut batch = Bins::new(self.epoch.gaps.len());
        for (log_prob, correct) in log_probs.zip(correct) {
            batch.take(log_prob, correct);
        }
        self.epoch.add(&batch);
        self.current = of_batch(batch.error(), batch.rows);
        let values = [self.epoch.error(), batch.error()];
        Ok(entry(self.current.clone(), values, " %"))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        let values = [self.epoch.error(), self.current.current()];
        Ok(entry(self.final_value(), values, " %"))
    }

    fn clear(&mut self) {
        self.epoch = Bins::new(self.epoch.gaps.len());
        self.current = NumericEntry::Value(f64::NAN);
    }

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn description(&self) -> Option<String> {
        Some("The distance of the confidence from the accuracy.".to_string())
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: Some("%".to_string()),
            higher_is_better: false,
        }
        .into()
    }
}

impl Numeric for CalibrationErrorMetric {
    fn value(&self) -> Option<NumericEntry> {
        Some(self.current.clone())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        Some(NumericEntry::Aggregated {
            aggregated_value: self.epoch.error(),
            count: self.epoch.rows,
        })
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.epoch.error())
    }
}
