//! Metrics that tell the classes apart: intersection over union, and Burn's precision, recall, F-beta and AUROC.

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn::train::ItemLazy;
use burn::train::metric::{
    Adaptor, AurocMetric, ClassReduction, ConfusionStatsInput, FBetaScoreMetric, Metric, Numeric,
    PrecisionMetric, RecallMetric,
};
use burn_cross_entropy::train::{IouInput, IouMetric};
use burn_cross_entropy::{CrossEntropyLossConfig, CrossEntropyOutput};

use super::{assert_same, metadata, of_epoch};
use crate::common::backends::{is_host, tests_on};

const IGNORED: i64 = -100;

/// Rows of one epoch: their logits and targets, in batches.
struct Epoch {
    classes: usize,
    logits: Vec<f32>,
    targets: Vec<i64>,
    /// Number of rows of each batch.
    batches: Vec<usize>,
}

/// Logits without equal ones in a row; targets of all classes but the last, some of them ignored; rows of NaN
/// and of masked classes. The last class is nowhere.
fn epoch(classes: usize) -> Epoch {
    let batches = vec![7, 1, 24, 5];
    let rows: usize = batches.iter().sum();
    let number = |at: usize| (at * 37 % 101) as f32 / 9.0 - 5.0 + at as f32 * 1e-4;
    let mut logits: Vec<f32> = (0..rows * classes).map(number).collect();
    for row in logits.chunks_mut(classes) {
        row[classes - 1] = f32::NEG_INFINITY;
    }
    logits[3 * classes + 1] = f32::NAN;
    logits[13 * classes..14 * classes].fill(f32::NEG_INFINITY);
    let target = |row: usize| match row % 5 {
        4 => IGNORED,
        _ => (row * 7 % (classes - 1)) as i64,
    };
    let mut targets: Vec<i64> = (0..rows).map(target).collect();
    // A batch of one row that is ignored.
    targets[7] = IGNORED;
    Epoch {
        classes,
        logits,
        targets,
        batches,
    }
}

impl Epoch {
    fn outputs(&self, device: &Device) -> Vec<CrossEntropyOutput<1>> {
        let loss = CrossEntropyLossConfig::new().init(device);
        let (mut logits, mut targets) = (&self.logits[..], &self.targets[..]);
        let batch = |&rows: &usize| {
            let (here, later) = logits.split_at(rows * self.classes);
            logits = later;
            let here = TensorData::new(here.to_vec(), [rows, self.classes]);
            let (of_rows, later) = targets.split_at(rows);
            targets = later;
            let of_rows = TensorData::new(of_rows.to_vec(), [rows]);
            let of_rows = Tensor::<1, Int>::from_data(of_rows, device);
            let output = loss.forward_with_output(Tensor::<2>::from_data(here, device), of_rows);
            output.sync().expect("the device computes")
        };
        self.batches.iter().map(batch).collect()
    }

    /// Target and prediction of every counted row; without a distribution there is no prediction.
    fn pairs(&self) -> Vec<(usize, Option<usize>)> {
        let rows = self.logits.chunks(self.classes).zip(&self.targets);
        let counted = rows.filter(|(_, target)| **target != IGNORED);
        counted
            .map(|(row, target)| {
                let has_none =
                    row.iter().any(|x| x.is_nan()) || row.iter().all(|x| x.is_infinite());
                let largest = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
                (*target as usize, largest.filter(|_| !has_none))
            })
            .collect()
    }

    /// Intersection over union of a class in per cent, by the definition.
    fn iou(&self, class: usize) -> f64 {
        let count = |is_in: fn(bool, bool) -> bool| {
            let of = |pair: &(usize, Option<usize>)| is_in(pair.0 == class, pair.1 == Some(class));
            self.pairs().into_iter().filter(of).count() as f64
        };
        100.0 * count(|target, predicted| target && predicted)
            / count(|target, predicted| target || predicted)
    }
}

fn intersections_over_unions_are_those_of_the_epoch(device: &Device) {
    let epoch = epoch(4);
    let outputs = epoch.outputs(device);
    let inputs = || -> Vec<IouInput> { outputs.iter().map(Adaptor::adapt).collect() };
    let expected: Vec<f64> = (0..4).map(|class| epoch.iou(class)).collect();
    assert!(expected[3].is_nan() && expected[..3].iter().all(|iou| *iou > 0.0));
    let mean = expected[..3].iter().sum::<f64>() / 3.0;
    assert_same(of_epoch(IouMetric::new(), inputs()), mean);
    assert_same(of_epoch(IouMetric::of_class(2), inputs()), expected[2]);
    assert!(of_epoch(IouMetric::of_class(3), inputs()).is_nan());
    assert!(of_epoch(IouMetric::of_class(9), inputs()).is_nan());

    let mut metric = IouMetric::new();
    for input in inputs() {
        metric.update(&input, &metadata()).expect("it is computed");
    }
    for (found, expected) in metric.per_class().into_iter().zip(&expected) {
        assert!(found == *expected || (found.is_nan() && expected.is_nan()));
    }
    // A mean over the batches would be another number.
    let of_batches: Vec<f64> = (inputs().into_iter())
        .map(|input| of_epoch(IouMetric::new(), vec![input]))
        .filter(|iou| !iou.is_nan())
        .collect();
    assert_eq!(of_batches.len(), 3, "one batch has no row");
    assert!((of_batches.iter().sum::<f64>() / 3.0 - mean).abs() > 1.0);
    metric.clear();
    assert!(metric.final_value().current().is_nan());
    assert_ne!(IouMetric::new().name(), IouMetric::of_class(0).name());
}

/// Segmentation: rows in three dimensions; distributions have their largest class.
fn rows_of_any_rank_have_an_intersection(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = Tensor::<4>::from_floats(
        [
            [[[0.0, 2.0, 0.0]], [[1.0, 0.0, 3.0]]],
            [[[4.0, 0.0, 0.0]], [[1.0, 5.0, 3.0]]],
        ],
        device,
    );
    // Predictions: 1 0 1, 0 1 1.
    let targets = Tensor::<3, Int>::from_ints([[[1, 1, -100]], [[0, 1, 0]]], device);
    let output = loss.forward_with_output(logits.clone(), targets);
    let mut metric = IouMetric::new();
    metric
        .update(&output.adapt(), &metadata())
        .expect("it is computed");
    assert_eq!(metric.per_class(), [100.0 / 3.0, 50.0]);
    let shares = Tensor::<4>::from_floats(
        [
            [[[0.1, 0.4, 0.6]], [[0.9, 0.6, 0.4]]],
            [[[0.7, 0.0, 0.5]], [[0.3, 1.0, 0.5]]],
        ],
        device,
    );
    // Targets: 1 1 0, 0 1 0.
    let output = loss.forward_with_output(logits, shares);
    metric.clear();
    metric
        .update(&output.adapt(), &metadata())
        .expect("it is computed");
    assert_eq!(metric.per_class(), [25.0, 40.0]);
}

/// Whether Burn's `multiclass` takes the input: on CubeCL's runtimes a scatter of no rows overflows.
fn takes(input: &ConfusionStatsInput, device: &Device) -> bool {
    is_host(device) || input.predictions.dims()[0] > 0
}

/// The same metric over the output, and over the probabilities of the counted rows, where a row without a
/// distribution is sure of the class behind its target.
fn burn_metrics_see_the_predicted_class(device: &Device) {
    let epoch = epoch(5);
    let outputs = epoch.outputs(device);
    let pairs = epoch.pairs();
    let of = |class: usize| {
        let wrong = |target: usize| (target + 1) % 5;
        let predicted = |(target, class): &(usize, Option<usize>)| class.unwrap_or(wrong(*target));
        let count = |holds: &dyn Fn(usize, usize) -> bool| {
            let holds = |pair: &&(usize, Option<usize>)| holds(pair.0, predicted(pair));
            pairs.iter().filter(holds).count() as f64
        };
        [
            count(&|target, predicted| target == class && predicted == class),
            count(&|target, predicted| target != class && predicted == class),
            count(&|target, predicted| target == class && predicted != class),
        ]
    };
    let counts: Vec<[f64; 3]> = (0..5).map(of).collect();
    let sum = |at: usize| counts.iter().map(|of_class| of_class[at]).sum::<f64>();
    let micro = 100.0 * sum(0) / (sum(0) + sum(1));
    let inputs = || -> Vec<ConfusionStatsInput> {
        let inputs = outputs.iter().map(Adaptor::adapt);
        inputs.filter(|input| takes(input, device)).collect()
    };
    let found = of_epoch(
        PrecisionMetric::multiclass(1, ClassReduction::Micro),
        inputs(),
    );
    assert_same(found, micro);
    let found = of_epoch(RecallMetric::multiclass(1, ClassReduction::Micro), inputs());
    assert_same(found, 100.0 * sum(0) / (sum(0) + sum(2)));
    let f = |[tp, fp, r#fn]: [f64; 3]| 100.0 * 5.0 * tp / (5.0 * tp + 4.0 * r#fn + fp);
    let all = [sum(0), sum(1), sum(2)];
    let found = of_epoch(
        FBetaScoreMetric::multiclass(2.0, 1, ClassReduction::Micro),
        inputs(),
    );
    assert_same(found, f(all));
    let recall = |of_class: &[f64; 3]| 100.0 * of_class[0] / (of_class[0] + of_class[2]);
    // The last class is no target, and what Burn makes of that is its own affair.
    let mut macro_recall = RecallMetric::multiclass(1, ClassReduction::Macro);
    let all: Vec<ConfusionStatsInput> = inputs();
    let without_last = all.into_iter().map(|input| {
        let columns = [0..input.predictions.dims()[0], 0..4];
        ConfusionStatsInput::new(
            input.predictions.slice(columns.clone()),
            input.targets.slice(columns),
        )
    });
    for input in without_last {
        macro_recall
            .update(&input, &metadata())
            .expect("it is computed");
    }
    macro_recall.compute().expect("it is computed");
    let expected = counts[..4].iter().map(recall).sum::<f64>() / 4.0;
    assert_same(macro_recall.final_value().current(), expected);
}

/// Of more than two classes the predicted one passes a threshold where its probability does.
fn a_threshold_of_a_half_or_more_is_right(device: &Device) {
    let loss = CrossEntropyLossConfig::new()
        .with_logits(false)
        .init(device);
    let probabilities = [
        [0.1, 0.8, 0.1],
        [0.6, 0.2, 0.2],
        [0.2, 0.55, 0.25],
        [0.3, 0.3, 0.4],
        [0.9, 0.1, 0.0],
    ];
    let targets = Tensor::<1, Int>::from_ints([1, 0, 2, 2, -100], device);
    let output = loss.forward_with_output(Tensor::<2>::from_floats(probabilities, device), targets);
    for (threshold, precision, recall) in [(0.5, 200.0 / 3.0, 50.0), (0.7, 100.0, 25.0)] {
        let metric = PrecisionMetric::multilabel(threshold, ClassReduction::Micro);
        assert_same(of_epoch(metric, vec![output.adapt()]), precision);
        let metric = RecallMetric::multilabel(threshold, ClassReduction::Micro);
        assert_same(of_epoch(metric, vec![output.adapt()]), recall);
    }
}

/// Two classes: the input is the whole distribution, and AUROC the share of the pairs in order.
fn two_classes_have_an_auroc(device: &Device) {
    let logits = [1.5, -0.25, 3.0, 0.75, -2.0, 0.5, 9.0, -40.0];
    let targets = [1, 0, 1, 0, 1, 0, -100, 0];
    let mut pairs = (0.0, 0.0);
    for (a, _) in targets
        .iter()
        .enumerate()
        .filter(|(_, target)| **target == 1)
    {
        for (b, _) in targets
            .iter()
            .enumerate()
            .filter(|(_, target)| **target == 0)
        {
            pairs.0 += f64::from(u8::from(logits[a] > logits[b]));
            pairs.1 += 1.0;
        }
    }
    let rows: Vec<f32> = logits.iter().flat_map(|x| [0.0, *x]).collect();
    let rows = Tensor::<2>::from_data(TensorData::new(rows, [8, 2]), device);
    let loss = CrossEntropyLossConfig::new().init(device);
    let output = loss.forward_with_output(rows, Tensor::<1, Int>::from_ints(targets, device));
    let input: ConfusionStatsInput = output.adapt();
    let found: Vec<f64> = input
        .predictions
        .clone()
        .into_data()
        .iter::<f64>()
        .collect();
    let counted = logits
        .iter()
        .zip(targets)
        .filter(|(_, target)| *target >= 0);
    for ((x, _), found) in counted.zip(found.chunks(2)) {
        let x = f64::from(*x);
        for (found, expected) in found
            .iter()
            .zip([1.0 / (1.0 + x.exp()), 1.0 / (1.0 + (-x).exp())])
        {
            // The small probability keeps its digits.
            assert!(
                (found - expected).abs() <= 3e-6 * expected,
                "{found} {expected}"
            );
        }
    }
    let mut metric = AurocMetric::binary();
    metric.update(&input, &metadata()).expect("it is computed");
    metric.compute().expect("it is computed");
    let found = metric.final_value().current();
    assert_same(found, 100.0 * pairs.0 / pairs.1);
}

/// The adaptors take a batch without a counted row, which changes nothing.
fn a_batch_of_ignored_rows_has_no_columns(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = Tensor::<2>::from_floats([[0.0, 1.0], [1.0, 0.0]], device);
    let of = |targets: [i32; 2]| {
        loss.forward_with_output(logits.clone(), Tensor::<1, Int>::from_ints(targets, device))
    };
    let inputs = || vec![of([1, 1]).adapt(), of([-100, -100]).adapt()];
    let nothing: ConfusionStatsInput = of([-100, -100]).adapt();
    assert_eq!(nothing.predictions.dims(), [0, 2]);
    let metric = PrecisionMetric::multilabel(0.5, ClassReduction::Micro);
    assert_same(of_epoch(metric, inputs()), 50.0);
    if takes(&nothing, device) {
        let metric = RecallMetric::multiclass(1, ClassReduction::Micro);
        assert_same(of_epoch(metric, inputs()), 50.0);
    }
}

tests_on! {
    one_of_each_kind: [
        intersections_over_unions_are_those_of_the_epoch,
        rows_of_any_rank_have_an_intersection,
        burn_metrics_see_the_predicted_class,
        a_threshold_of_a_half_or_more_is_right,
        two_classes_have_an_auroc,
        a_batch_of_ignored_rows_has_no_columns,
    ],
}
