//! The calibration error.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn::train::metric::{Adaptor, Metric, Numeric};
use burn_cross_entropy::CrossEntropyLossConfig;
use burn_cross_entropy::train::{CalibrationErrorInput, CalibrationErrorMetric};

use super::{assert_same, metadata, of_epoch};
use crate::common::backends::tests_on;

const CLASSES: usize = 3;
const IGNORED: i64 = -100;

/// Logits and targets; some rows are ignored, one has no distribution, some are sure.
fn rows() -> (Vec<f64>, Vec<i64>) {
    let rows = 83;
    let logit = |at: usize| f64::from((at * 71 % 97) as f32 / 20.0 - 2.0 + at as f32 * 1e-3);
    let mut logits: Vec<f64> = (0..rows * CLASSES).map(logit).collect();
    logits[CLASSES * 5] = f64::NAN;
    logits[CLASSES * 8] = 300.0;
    logits[CLASSES * 9] = 300.0;
    // Rows that are not sure are right, so that the errors of the bins have both signs.
    let target = |row: usize| {
        let logits = &logits[row * CLASSES..][..CLASSES];
        let largest = (0..CLASSES).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        let largest = largest.expect("a class");
        match row % 7 {
            6 => IGNORED,
            _ if logits
                .iter()
                .filter(|x| logits[largest] - **x < 1.5)
                .count()
                > 1 =>
            {
                largest as i64
            }
            of => (row * of % CLASSES) as i64,
        }
    };
    let targets = (0..rows).map(target).collect();
    (logits, targets)
}

/// The error by the definition: the bins as sets of rows, with an accuracy and a mean confidence each.
fn expected(bins: usize) -> f64 {
    let (logits, targets) = rows();
    let mut confidences = Vec::new();
    for (row, target) in logits.chunks(CLASSES).zip(&targets) {
        if *target == IGNORED || row.iter().any(|x| x.is_nan()) {
            continue;
        }
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let confidence = 1.0 / row.iter().map(|x| (x - largest).exp()).sum::<f64>();
        confidences.push((confidence, row[*target as usize] == largest));
    }
    let of_bin = |bin: usize| {
        let [from, to] = [bin, bin + 1].map(|bound| bound as f64 / bins as f64);
        let here: Vec<_> = (confidences.iter())
            .filter(|(confidence, _)| *confidence > from && *confidence <= to)
            .collect();
        if here.is_empty() {
            return 0.0;
        }
        let rows = here.len() as f64;
        let accuracy = here.iter().filter(|(_, right)| *right).count() as f64 / rows;
        let confidence = here.iter().map(|(confidence, _)| confidence).sum::<f64>() / rows;
        rows / confidences.len() as f64 * (accuracy - confidence).abs()
    };
    100.0 * (0..bins).map(of_bin).sum::<f64>()
}

fn inputs(dtype: DType, device: &Device) -> Vec<CalibrationErrorInput> {
    let loss = CrossEntropyLossConfig::new().init(device);
    let (logits, targets) = rows();
    let rows = targets.len();
    let logits = Tensor::<2>::from_data(TensorData::new(logits, [rows, CLASSES]), (device, dtype));
    let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [rows]), device);
    let batch = |from: usize, to: usize| {
        let (logits, targets) = (
            logits.clone().slice(from..to),
            targets.clone().slice(from..to),
        );
        loss.forward_with_output(logits, targets).adapt()
    };
    vec![batch(0, 6), batch(6, 7), batch(7, 60), batch(60, rows)]
}

fn the_error_is_that_of_the_definition(device: &Device) {
    for bins in [1, 7, 15] {
        let found = of_epoch(
            CalibrationErrorMetric::with_bins(bins),
            inputs(DType::F32, device),
        );
        assert!(
            (found - expected(bins)).abs() < 1e-4,
            "{found} {}",
            expected(bins)
        );
    }
    assert!(expected(15) > expected(1) + 0.1, "the bins matter");
    let fifteen = of_epoch(CalibrationErrorMetric::new(), inputs(DType::F32, device));
    assert!((fifteen - expected(15)).abs() < 1e-4);
    let mut metric = CalibrationErrorMetric::new();
    for input in inputs(DType::F32, device) {
        metric.update(&input, &metadata()).expect("it is computed");
    }
    metric.clear();
    assert!(metric.final_value().current().is_nan());
    assert_ne!(metric.name(), CalibrationErrorMetric::with_bins(3).name());
}

/// Sure and right has no error, sure and wrong the largest; the errors of a bin are taken together, those of
/// two are not.
fn errors_of_a_bin_make_up_for_each_other(device: &Device) {
    let loss = CrossEntropyLossConfig::new()
        .with_logits(false)
        .init(device);
    let of = |rows: [[f32; 2]; 2], targets: [i32; 2], bins: usize| {
        let output = loss.forward_with_output(
            Tensor::<2>::from_floats(rows, device),
            Tensor::<1, Int>::from_ints(targets, device),
        );
        of_epoch(
            CalibrationErrorMetric::with_bins(bins),
            vec![output.adapt()],
        )
    };
    assert_eq!(of([[1.0, 0.0], [0.0, 1.0]], [0, 1], 10), 0.0);
    assert_same(of([[1.0, 0.0], [0.0, 1.0]], [1, 0], 10), 100.0);
    // 0.25 too little, and 0.625 too much.
    assert_same(of([[0.75, 0.25], [0.375, 0.625]], [0, 0], 2), 50.0 * 0.375);
    assert_same(of([[0.75, 0.25], [0.375, 0.625]], [0, 0], 10), 50.0 * 0.875);
}

#[test]
#[should_panic(expected = "was given 0 bins: give at least 1")]
fn no_bins_are_refused() {
    let _ = CalibrationErrorMetric::with_bins(0);
}

/// Outputs of half precision have their numbers in f32.
fn logits_of_half_precision_have_an_error(device: &Device) {
    let found = of_epoch(
        CalibrationErrorMetric::with_bins(1),
        inputs(DType::F16, device),
    );
    assert!((found - expected(1)).abs() < 0.1, "{found} {}", expected(1));
}

tests_on! {
    half: [logits_of_half_precision_have_an_error],
    one_of_each_kind: [
        the_error_is_that_of_the_definition,
        errors_of_a_bin_make_up_for_each_other,
    ],
}
