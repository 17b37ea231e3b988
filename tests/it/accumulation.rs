//! Micro-batches over the normalizer of the whole batch have the loss and the gradients of the whole batch.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{CrossEntropyLossConfig, EmptyReduction, Normalizer};

use crate::common::backends::tests_on;
use crate::common::problem::{Outcome, Problem, Targets, Terms};
use crate::common::run::{float_tensor, numbers, refusal};
use crate::common::{oracle, tolerance};

const ROWS: usize = 13;
const CLASSES: usize = 6;
const IGNORED: i64 = -9;

/// Divisions into 1, 2, 3 and 7 pieces. All rows of the second of three pieces are ignored, and all rows of
/// three of the seven.
const DIVISIONS: [&[usize]; 4] = [
    &[0, 13],
    &[0, 4, 13],
    &[0, 5, 9, 13],
    &[0, 1, 3, 4, 6, 8, 9, 13],
];

/// Options with one divisor of the mean for all their terms, and options with another for the z-loss.
fn configs() -> Vec<CrossEntropyLossConfig> {
    let base = || CrossEntropyLossConfig::new().with_ignore_indices(vec![IGNORED]);
    let weights = || Some((0..CLASSES).map(|class| class as f32 * 0.4).collect());
    vec![
        base(),
        base().with_weight(weights()),
        base().with_z_loss(0.03),
        base().with_label_smoothing(0.1),
        base()
            .with_weight(weights())
            .with_z_loss(0.02)
            .with_label_smoothing(0.2),
    ]
}

fn problem(config: CrossEntropyLossConfig) -> Problem {
    let mut problem = Problem::random(&[ROWS, CLASSES], 1, false, 77);
    problem.config = config;
    if let Targets::Indices(indices) = &mut problem.targets {
        indices[2] = IGNORED;
        indices[4..9].fill(IGNORED);
    }
    problem
}

/// The rows of a problem between two ends, as tensors.
fn piece(problem: &Problem, ends: &[usize], device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
    let (rows, from) = (ends[1] - ends[0], ends[0]);
    let Targets::Indices(indices) = &problem.targets else {
        panic!("the targets are indices");
    };
    let logits = &problem.logits[from * CLASSES..ends[1] * CLASSES];
    let targets = TensorData::new(indices[from..ends[1]].to_vec(), [rows]);
    (
        float_tensor(logits, &[rows, CLASSES], (device, DType::F32)),
        Tensor::from_data(targets, device),
    )
}

fn micro_batches_have_the_gradients_of_the_logits_of_the_whole(device: &Device) {
    for config in configs() {
        let problem = problem(config);
        let loss = problem.config.init(device);
        let expected = oracle::solve(&problem);
        for ends in DIVISIONS {
            let pieces = || ends.windows(2).map(|ends| piece(&problem, ends, device));
            let normalizer: Normalizer =
                pieces().map(|(_, targets)| loss.normalizer(targets)).sum();
            let mut found = Outcome {
                loss: vec![0.0],
                logits_gradient: vec![],
                targets_gradient: None,
                terms: Terms::default(),
            };
            for (logits, targets) in pieces() {
                let nothing_counts =
                    numbers(loss.normalizer(targets.clone()).counted_rows()) == [0.0];
                let leaf = logits.require_grad();
                let share = loss.forward_normalized(leaf.clone(), targets, normalizer.clone());
                let value = numbers(share.clone())[0];
                assert!(!nothing_counts || value == 0.0, "{value} of ignored rows");
                found.loss[0] += value;
                let gradients = (share * problem.upstream[0]).backward();
                let gradient = leaf.grad(&gradients).expect("the leaf requires it");
                found.logits_gradient.extend(numbers(gradient));
            }
            let name = format!("{ends:?}, {:?}", problem.config);
            tolerance::assert_close(&name, &problem, &found, &expected, DType::F32);
        }
    }
}

/// The gradients of a layer's weights, added up over the micro-batches, are what an optimizer needs.
fn micro_batches_add_up_to_the_gradients_of_the_weights(device: &Device) {
    const FEATURES: usize = 5;
    let random = Problem::random(&[ROWS, FEATURES], 1, false, 5).logits;
    let features = float_tensor::<2>(&random, &[ROWS, FEATURES], (device, DType::F32));
    let random = Problem::random(&[FEATURES, CLASSES], 1, false, 6).logits;
    let weights = float_tensor::<2>(&random, &[FEATURES, CLASSES], (device, DType::F32)) * 0.1;
    let weights = weights.detach().require_grad();
    for config in configs() {
        let problem = problem(config);
        let loss = problem.config.init(device);
        let rows = |ends: &[usize]| {
            let (_, targets) = piece(&problem, ends, device);
            let features = features.clone().slice(ends[0]..ends[1]);
            (features.matmul(weights.clone()), targets)
        };
        let gradient = |value: Tensor<1>| {
            let gradient = weights.grad(&value.backward()).expect("it is a leaf");
            numbers(gradient)
        };
        let (logits, targets) = rows(DIVISIONS[0]);
        let whole = gradient(loss.forward(logits, targets.clone()));
        let normalizer = loss.normalizer(targets);
        let largest = whole
            .iter()
            .fold(0.0, |largest: f64, g| largest.max(g.abs()));
        let distance = |found: &[f64]| {
            let pairs = found.iter().zip(&whole);
            let furthest = pairs.fold(0.0, |far: f64, (f, e)| far.max((f - e).abs()));
            furthest / largest
        };
        for ends in DIVISIONS {
            let mut sum = vec![0.0; whole.len()];
            for ends in ends.windows(2) {
                let (logits, targets) = rows(ends);
                let share = loss.forward_normalized(logits, targets, normalizer.clone());
                let part = gradient(share);
                sum.iter_mut()
                    .zip(part)
                    .for_each(|(sum, part)| *sum += part);
            }
            assert!(distance(&sum) < 1e-6, "{ends:?}: {:e}", distance(&sum));
        }
        // The mean of the means of two pieces is something else, which is why the normalizer exists.
        let mut means = vec![0.0; whole.len()];
        for ends in [[0, 4], [4, 13]] {
            let (logits, targets) = rows(&ends);
            let part = gradient(loss.forward(logits, targets) / 2.0);
            means
                .iter_mut()
                .zip(part)
                .for_each(|(sum, part)| *sum += part);
        }
        assert!(distance(&means) > 1e-3, "{:e}", distance(&means));
    }
}

/// Divides the sum by an arbitrary number, for every kind of target and many rows.
fn any_number_divides_the_sum(device: &Device) {
    for (rows, soft) in [(7, false), (7, true), (5003, false)] {
        let problem = Problem::random(&[rows, 3], 1, soft, 12)
            .with_config(|config| config.with_reduction(Reduction::Sum).with_z_loss(0.01));
        let loss = problem.config.init(device);
        let found = |normalized: bool| {
            let leaf = float_tensor::<2>(&problem.logits, &[rows, 3], (device, DType::F32));
            let leaf = leaf.require_grad();
            let number = || Tensor::<1>::from_floats([8.0], device);
            let value = match (&problem.targets, normalized) {
                (Targets::Indices(targets), normalized) => {
                    let data = TensorData::new(targets.clone(), [rows]);
                    let targets = Tensor::<1, Int>::from_data(data, device);
                    if normalized {
                        loss.forward_normalized(leaf.clone(), targets, number())
                    } else {
                        loss.forward(leaf.clone(), targets) / 8.0
                    }
                }
                (Targets::Distributions(shares), normalized) => {
                    let shares = float_tensor::<2>(shares, &[rows, 3], (device, DType::F32));
                    if normalized {
                        loss.forward_normalized(leaf.clone(), shares, number())
                    } else {
                        loss.forward(leaf.clone(), shares) / 8.0
                    }
                }
            };
            let gradient = leaf.grad(&value.clone().backward()).expect("it is a leaf");
            (numbers(value)[0], numbers(gradient))
        };
        let ((found, found_gradient), (expected, expected_gradient)) = (found(true), found(false));
        assert!(
            (found - expected).abs() <= 1e-6 * expected,
            "{found} {expected}"
        );
        for (found, expected) in found_gradient.iter().zip(&expected_gradient) {
            assert!((found - expected).abs() <= 1e-6, "{found} {expected}");
        }
    }
}

/// Divides by a total of 0, where no row counts.
fn over_nothing_the_loss_is_empty_and_the_gradient_0(device: &Device) {
    for (empty, is_nan) in [(EmptyReduction::Nan, true), (EmptyReduction::Zero, false)] {
        let config = CrossEntropyLossConfig::new().with_empty(empty);
        let loss = config.init(device);
        let nothing = || Tensor::<1>::from_floats([0.0], device);
        for upstream in [1.0, f32::INFINITY] {
            let leaf = Tensor::<2>::ones([3, 4], device).require_grad();
            let ignored = Tensor::<1, Int>::full([3], -100, device);
            let value = loss.forward_normalized(leaf.clone(), ignored, nothing());
            assert_eq!(numbers(value.clone())[0].is_nan(), is_nan);
            let gradient = leaf
                .grad(&(value * upstream).backward())
                .expect("it is a leaf");
            assert!(numbers(gradient).iter().all(|slope| *slope == 0.0));
        }
        let no_rows = Tensor::<2>::zeros([0, 4], device);
        let targets = || Tensor::<1, Int>::zeros([0], device);
        let value = loss.forward_normalized(no_rows.clone(), targets(), nothing());
        assert_eq!(numbers(value)[0].is_nan(), is_nan);
        let others = Tensor::<1>::from_floats([3.0], device);
        assert_eq!(
            numbers(loss.forward_normalized(no_rows, targets(), others)),
            [0.0]
        );
    }
}

fn a_normalizer_of_several_numbers_is_refused(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = Tensor::<2>::zeros([2, 4], device);
    let targets = Tensor::<1, Int>::zeros([2], device);
    let several = Tensor::<1>::ones([2], device);
    let text = refusal(|| loss.forward_normalized(logits, targets, several));
    assert!(text.contains("2 elements, expected 1"), "{text}");
}

tests_on! {
    every_backend: [
        any_number_divides_the_sum,
        over_nothing_the_loss_is_empty_and_the_gradient_0,
        micro_batches_have_the_gradients_of_the_logits_of_the_whole,
    ],
    host: [
        micro_batches_add_up_to_the_gradients_of_the_weights,
    ],
    one_of_each_kind: [
        a_normalizer_of_several_numbers_is_refused,
    ],
}
