//! The metrics of burn-train over the output of a loss, and the loss metric of this crate; those that look at
//! single classes or at the confidence are in files of their own.

mod classes;
mod confidence;

use burn::data::dataloader::Progress;
use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn::train::ItemLazy;
use burn::train::metric::{
    AccuracyInput, AccuracyMetric, Adaptor, LossMetric, Metric, MetricMetadata, Numeric,
    NumericEntry, PerplexityInput, PerplexityMetric, TopKAccuracyInput, TopKAccuracyMetric,
};
use burn_cross_entropy::train::RowLossMetric;
use burn_cross_entropy::{CrossEntropyLossConfig, CrossEntropyOutput, EmptyReduction};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::backends::{computes_f64, tests_on};

const CLASSES: usize = 11;
const IGNORED: i64 = -100;

/// Logits and targets of a batch.
struct Batch {
    logits: Vec<f32>,
    targets: Vec<i64>,
}

/// Batches of unequal sizes, with unequal numbers of ignored rows; one batch has only ignored rows.
fn batches() -> Vec<Batch> {
    let mut rng = StdRng::seed_from_u64(5);
    let sizes = [(13, 0), (9, 7), (3, 3), (22, 5)];
    let batch = |(rows, ignored): (usize, usize)| Batch {
        logits: (0..rows * CLASSES)
            .map(|_| rng.random_range(-3.0..3.0))
            .collect(),
        targets: (0..rows)
            .map(|row| match row < ignored {
                true => IGNORED,
                false => rng.random_range(0..CLASSES as i64),
            })
            .collect(),
    };
    sizes.map(batch).into()
}

impl Batch {
    fn logits(&self, device: &Device) -> Tensor<2> {
        let data = TensorData::new(self.logits.clone(), [self.targets.len(), CLASSES]);
        Tensor::from_data(data, device)
    }

    fn targets(&self, device: &Device) -> Tensor<1, Int> {
        let data = TensorData::new(self.targets.clone(), [self.targets.len()]);
        Tensor::from_data(data, device)
    }

    /// Only the rows that count.
    fn counted(&self) -> Self {
        let counts = |row: &usize| self.targets[*row] != IGNORED;
        let rows: Vec<usize> = (0..self.targets.len()).filter(counts).collect();
        let of_row = |row: &usize| &self.logits[row * CLASSES..(row + 1) * CLASSES];
        Self {
            logits: rows.iter().flat_map(of_row).copied().collect(),
            targets: rows.iter().map(|row| self.targets[*row]).collect(),
        }
    }
}

fn metadata() -> MetricMetadata {
    MetricMetadata {
        progress: Progress::new(1, 1, None),
        iteration: None,
        lr: None,
    }
}

/// The value of the metric over the epoch.
fn of_epoch<M: Metric + Numeric>(mut metric: M, inputs: Vec<M::Input>) -> f64 {
    for input in inputs {
        metric.update(&input, &metadata()).expect("it is computed");
    }
    metric.compute().expect("it is computed");
    match metric.final_value() {
        NumericEntry::Final(value) => value,
        entry => panic!("{entry:?} is not final"),
    }
}

fn outputs(config: CrossEntropyLossConfig, device: &Device) -> Vec<CrossEntropyOutput<1>> {
    let loss = config.init(device);
    let output = |batch: Batch| {
        let output = loss.forward_with_output(batch.logits(device), batch.targets(device));
        output.sync().expect("the device computes")
    };
    batches().into_iter().map(output).collect()
}

/// Metrics take outputs of other ranks and dtypes, also those that are still in the graph.
fn outputs_of_any_rank_and_dtype_are_taken(device: &Device) {
    let loss = CrossEntropyLossConfig::new()
        .with_reduction(Reduction::Sum)
        .init(device);
    for dtype in [DType::F32, DType::F64] {
        if dtype == DType::F64 && !computes_f64(device) {
            continue;
        }
        let logits = Tensor::<4>::zeros([2, CLASSES, 3, 1], (device, dtype)).require_grad();
        let targets = Tensor::<3, Int>::from_ints([[[0], [1], [-100]], [[0], [0], [2]]], device);
        let output = loss.forward_with_output(logits, targets);
        let ln = (CLASSES as f64).ln();
        assert_same(of_epoch(RowLossMetric::new(), vec![output.adapt()]), ln);
        assert_same(of_epoch(AccuracyMetric::new(), vec![output.adapt()]), 60.0);
        assert_same(
            of_epoch(TopKAccuracyMetric::new(2), vec![output.adapt()]),
            80.0,
        );
        assert_same(
            of_epoch(PerplexityMetric::new(), vec![output.adapt()]),
            CLASSES as f64,
        );
    }
}

/// A batch of ignored rows changes no metric of the epoch, whatever its own mean is.
fn a_batch_of_ignored_rows_spoils_no_mean(device: &Device) {
    let config = CrossEntropyLossConfig::new();
    for empty in [EmptyReduction::Nan, EmptyReduction::Zero] {
        let loss = config.clone().with_empty(empty).init(device);
        let batch = |target: i64| {
            let logits = Tensor::<2>::zeros([1, 2], device);
            loss.forward_with_output(logits, Tensor::<1, Int>::from_ints([target], device))
        };
        let outputs = [batch(0), batch(IGNORED)];
        let inputs = outputs.iter().map(Adaptor::adapt).collect();
        assert_same(of_epoch(LossMetric::new(), inputs), 2f64.ln());
        let inputs = outputs.iter().map(Adaptor::adapt).collect();
        assert_same(of_epoch(RowLossMetric::new(), inputs), 2f64.ln());
        let inputs = outputs.iter().map(Adaptor::adapt).collect();
        assert_same(of_epoch(AccuracyMetric::new(), inputs), 100.0);
        let inputs = outputs.iter().map(Adaptor::adapt).collect();
        assert_same(of_epoch(TopKAccuracyMetric::new(1), inputs), 100.0);
        let inputs = outputs.iter().map(Adaptor::adapt).collect();
        assert_same(of_epoch(PerplexityMetric::new(), inputs), 2.0);
    }
    let outputs = outputs(config, device);
    let mut metric = RowLossMetric::new();
    metric
        .update(&outputs[2].adapt(), &metadata())
        .expect("it is computed");
    match metric.value() {
        Some(NumericEntry::Aggregated {
            aggregated_value,
            count,
        }) => assert_eq!((aggregated_value, count), (0.0, 0)),
        entry => panic!("{entry:?} has no count"),
    }
}

#[track_caller]
fn assert_same(found: f64, expected: f64) {
    let off = (found - expected).abs() / expected.abs();
    assert!(off < 2e-6, "{found} for {expected}");
}

/// Burn's metrics give the same over the output as over the logits of the counted rows.
fn burn_metrics_take_the_output(device: &Device) {
    let outputs = outputs(CrossEntropyLossConfig::new(), device);
    let of_outputs = || outputs.iter();
    // Burn's metrics do not get empty batches.
    let counted: Vec<Batch> = batches().iter().map(Batch::counted).collect();
    let counted = || counted.iter().filter(|batch| !batch.targets.is_empty());
    let pairs = || counted().map(|batch| (batch.logits(device), batch.targets(device)));

    let expected = pairs().map(|(logits, targets)| AccuracyInput::new(logits, targets));
    assert_same(
        of_epoch(
            AccuracyMetric::new(),
            of_outputs().map(Adaptor::adapt).collect(),
        ),
        of_epoch(AccuracyMetric::new(), expected.collect()),
    );
    for k in [1, 2, 5] {
        let expected = pairs().map(|(logits, targets)| TopKAccuracyInput::new(logits, targets));
        assert_same(
            of_epoch(
                TopKAccuracyMetric::new(k),
                of_outputs().map(Adaptor::adapt).collect(),
            ),
            of_epoch(TopKAccuracyMetric::new(k), expected.collect()),
        );
    }
    let expected = pairs().map(|(logits, targets)| PerplexityInput::new(logits, targets));
    assert_same(
        of_epoch(
            PerplexityMetric::new(),
            of_outputs().map(Adaptor::adapt).collect(),
        ),
        of_epoch(PerplexityMetric::new(), expected.collect()),
    );
    let first = of_outputs().take(1).map(Adaptor::adapt).collect();
    let loss = outputs[0].loss.clone().into_scalar::<f64>();
    assert_same(of_epoch(LossMetric::new(), first), loss);
}

/// The epoch's value is the loss of all batches taken as one, whatever reduction each batch has.
fn the_row_loss_is_that_of_the_epoch_as_one_batch(device: &Device) {
    let mut all = Batch {
        logits: Vec::new(),
        targets: Vec::new(),
    };
    for batch in batches() {
        all.logits.extend(batch.logits);
        all.targets.extend(batch.targets);
    }
    let weights: Vec<f32> = (0..CLASSES).map(|class| 0.5 + class as f32 * 0.3).collect();
    for weight in [None, Some(weights)] {
        let config = CrossEntropyLossConfig::new().with_weight(weight);
        let whole = config.init(device);
        let expected = whole.forward(all.logits(device), all.targets(device));
        let expected = expected.into_scalar::<f64>();
        for reduction in [Reduction::Mean, Reduction::Sum, Reduction::BatchMean] {
            let outputs = outputs(config.clone().with_reduction(reduction), device);
            let inputs = outputs.iter().map(Adaptor::adapt).collect();
            assert_same(of_epoch(RowLossMetric::new(), inputs), expected);
        }
        let outputs = outputs(config.clone(), device);
        let inputs = outputs.iter().take(2).map(Adaptor::adapt).collect();
        let by_batches = of_epoch(LossMetric::new(), inputs);
        let inputs = outputs.iter().take(2).map(Adaptor::adapt).collect();
        let by_rows = of_epoch(RowLossMetric::new(), inputs);
        assert!(
            (by_batches - by_rows).abs() > 1e-3,
            "{by_batches} {by_rows}"
        );
    }
}

/// A row of NaN is no success, also where its target is the first class or the only one.
fn a_row_without_a_distribution_is_no_success(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    for classes in [1, 3] {
        let logits = Tensor::<2>::full([2, classes], f32::NAN, device);
        let logits = logits.slice_assign([0..1, 0..classes], Tensor::zeros([1, classes], device));
        let targets = Tensor::<1, Int>::zeros([2], device);
        let output = loss.forward_with_output(logits, targets);
        let accuracy = of_epoch(AccuracyMetric::new(), vec![output.adapt()]);
        assert_same(accuracy, 50.0);
        let in_top = of_epoch(TopKAccuracyMetric::new(5), vec![output.adapt()]);
        assert_same(in_top, 50.0);
    }
}

/// The NaN of a target that is not a class reaches the metric of the loss.
#[cfg(any(feature = "cpu", feature = "wgpu", feature = "cuda"))]
fn a_bad_target_spoils_the_loss_metric(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = Tensor::<2>::zeros([2, 3], device);
    let targets = Tensor::<1, Int>::from_ints([3, 3], device);
    let output = loss.forward_with_output(logits, targets);
    assert!(of_epoch(LossMetric::new(), vec![output.adapt()]).is_nan());
}

tests_on! {
    one_runtime: [a_bad_target_spoils_the_loss_metric],
    one_of_each_kind: [
        a_row_without_a_distribution_is_no_success,
        burn_metrics_take_the_output,
        the_row_loss_is_that_of_the_epoch_as_one_batch,
        outputs_of_any_rank_and_dtype_are_taken,
        a_batch_of_ignored_rows_spoils_no_mean,
    ],
}
