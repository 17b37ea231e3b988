//! Intersection over union of the classes of an epoch.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorReadError};
use burn::train::metric::{
    Adaptor, Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes,
    NumericEntry, SerializedEntry,
};

use super::{entry, of_batch};
use crate::CrossEntropyOutput;

/// Input of [`IouMetric`], which a [`CrossEntropyOutput`] adapts to.
#[derive(Clone, Debug)]
pub struct IouInput {
    /// The predicted classes of all rows, -1 where a row has no distribution; then the classes of their
    /// targets, -1 where a row does not count.
    classes: Tensor<1, Int>,
    number_of_classes: usize,
}

impl<const R: usize> Adaptor<IouInput> for CrossEntropyOutput<R> {
    /// Takes the classes over. Does not wait for the device.
    fn adapt(&self) -> IouInput {
        let spoiled = self.has_distribution().bool_not();
        let predicted = self.predicted.clone().mask_fill(spoiled, -1);
        let classes = [predicted, self.target_class.clone()];
        let classes = classes.map(|classes| classes.flatten::<1>(0, R - 1));
        IouInput {
            classes: Tensor::cat(classes.to_vec(), 0),
            number_of_classes: self.call.classes,
        }
    }
}

/// Counts of the rows of each class.
#[derive(Clone, Debug, Default)]
struct Counts {
    /// Rows of which the class is prediction and target, the diagonal of the confusion matrix.
    both: Vec<u64>,
    /// Rows of which the class is the prediction.
    predicted: Vec<u64>,
    /// Rows of which the class is the target.
    target: Vec<u64>,
    rows: usize,
}

impl Counts {
    fn new(classes: usize) -> Self {
        Self {
            both: vec![0; classes],
            predicted: vec![0; classes],
            target: vec![0; classes],
            rows: 0,
        }
    }

    fn count(&mut self, predicted: i64, target: i64) {
        let Ok(target) = usize::try_from(target) else {
            return;
        };
        self.rows += 1;
        self.target[target] += 1;
        if let Ok(predicted) = usize::try_from(predicted) {
            self.predicted[predicted] += 1;
            self.both[target] += u64::from(predicted == target);
        }
    }

    fn add(&mut self, other: &Self) {
        let add = |all: &mut Vec<u64>, more: &[u64]| {
            all.resize(all.len().max(more.len()), 0);
            for (sum, number) in all.iter_mut().zip(more) {
                *sum += number;
            }
        };
        add(&mut self.both, &other.both);
        add(&mut self.predicted, &other.predicted);
        add(&mut self.target, &other.target);
        self.rows += other.rows;
    }

    /// Intersection over union in per cent; NaN for a class that is neither predicted nor a target.
    fn of_class(&self, class: usize) -> f64 {
        let of = |counts: &[u64]| counts.get(class).copied().unwrap_or(0);
        let both = of(&self.both);
        let union = of(&self.predicted) + of(&self.target) - both;
        100.0 * both as f64 / union as f64
    }

    fn per_class(&self) -> Vec<f64> {
        (0..self.both.len())
            .map(|class| self.of_class(class))
            .collect()
    }
}

/// Metric of segmentation: the intersection over union (Jaccard index), in per cent, over the whole epoch.
///
/// ```text
/// IoU[c] = rows(prediction = c and target = c) / rows(prediction = c or target = c)
/// ```
///
/// The counts of all batches are added up before the division, as PASCAL VOC and Cityscapes define it: a mean
/// of the values of batches would be another number. The value is the mean over the classes, or the `IoU` of
/// [one class](Self::of_class). A class that the epoch has neither as prediction nor as target has no value
/// and is left out of the mean; an epoch without any is NaN.
///
/// Ignored rows count nowhere. A row without a distribution (NaN) counts as a row of its target, and as the
/// prediction of no class. The target of a distribution is its largest class. Class and row weights do not
/// apply.
///
/// The counts are made on the host, from the two classes of each row.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn::train::metric::{Adaptor, Metric, MetricMetadata, Numeric};
/// use burn_cross_entropy::CrossEntropyLossConfig;
/// use burn_cross_entropy::train::IouMetric;
///
/// let device = Device::flex();
/// let loss = CrossEntropyLossConfig::new().init(&device);
/// let [first, second] = [[3.0, 0.0], [0.0, 3.0]];
/// let logits = Tensor::<2>::from_floats([first, second, second, first], &device);
/// let targets = Tensor::<1, Int>::from_ints([0, 0, 1, -100], &device);
/// let metadata = MetricMetadata {
///     progress: burn::data::dataloader::Progress::new(1, 1, None),
///     iteration: None,
///     lr: None,
/// };
///
/// let mut metric = IouMetric::new();
/// metric.update(&loss.forward_with_output(logits, targets).adapt(), &metadata).unwrap();
/// assert_eq!(metric.per_class(), [50.0, 50.0]);
/// assert_eq!(metric.final_value().current(), 50.0);
/// ```
#[derive(Clone)]
pub struct IouMetric {
    name: MetricName,
    /// The class whose value is shown; otherwise the mean.
    class: Option<usize>,
    epoch: Counts,
    current: NumericEntry,
}

impl Default for IouMetric {
    fn default() -> Self {
        Self::new()
    }
}

impl IouMetric {
    /// Makes the metric of the mean over the classes, with the name `Mean IoU`.
    pub fn new() -> Self {
        Self::with("Mean IoU".to_string(), None)
    }

    /// Makes the metric of one class, with the name `IoU [class]`. NaN as long as no row has the class as
    /// prediction or target.
    pub fn of_class(class: usize) -> Self {
        Self::with(format!("IoU [{class}]"), Some(class))
    }

    /// The value of every class over the epoch so far, in per cent; NaN for a class that no row has as
    /// prediction or target.
    pub fn per_class(&self) -> Vec<f64> {
        self.epoch.per_class()
    }

    fn with(name: String, class: Option<usize>) -> Self {
        Self {
            name: Arc::new(name),
            class,
            epoch: Counts::default(),
            current: NumericEntry::Value(f64::NAN),
        }
    }

    fn value_of(&self, counts: &Counts) -> f64 {
        if let Some(class) = self.class {
            return counts.of_class(class);
        }
        let values = counts.per_class().into_iter();
        let values: Vec<f64> = values.filter(|value| !value.is_nan()).collect();
        values.iter().sum::<f64>() / values.len() as f64
    }
}

impl Metric for IouMetric {
    type Input = IouInput;

    fn update(
        &mut self,
        input: &IouInput,
        _metadata: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        let classes = input.classes.clone().try_into_data()?;
        let rows = classes.num_elements() / 2;
        let predicted = classes.iter::<i64>().take(rows);
        let targets = classes.iter::<i64>().skip(rows);
        let mut batch = Counts::new(input.number_of_classes);
        for (predicted, target) in predicted.zip(targets) {
            batch.count(predicted, target);
        }
        self.epoch.add(&batch);
        let value = self.value_of(&batch);
        self.current = of_batch(value, if value.is_nan() { 0 } else { batch.rows });
        let values = [self.value_of(&self.epoch), value];
        Ok(entry(self.current.clone(), values, " %"))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        let values = [self.value_of(&self.epoch), self.current.current()];
        Ok(entry(self.final_value(), values, " %"))
    }

    fn clear(&mut self) {
        self.epoch = Counts::default();
        self.current = NumericEntry::Value(f64::NAN);
    }

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn description(&self) -> Option<String> {
        Some("The intersection over union of prediction and target.".to_string())
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: Some("%".to_string()),
            higher_is_better: true,
        }
        .into()
    }
}

impl Numeric for IouMetric {
    fn value(&self) -> Option<NumericEntry> {
        Some(self.current.clone())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        Some(NumericEntry::Aggregated {
            aggregated_value: self.value_of(&self.epoch),
            count: self.epoch.rows,
        })
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.value_of(&self.epoch))
    }
}
