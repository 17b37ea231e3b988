//! Micro-batches over the normalizer of the whole batch have its loss and its gradients.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{CrossEntropyBackend, CrossEntropyLossConfig, Normalizer};

use crate::common::backends::on_every_backend;
use crate::common::problem::{Outcome, Problem, Targets, Terms};
use crate::common::run::{float_tensor, numbers};
use crate::common::{oracle, tolerance};

const ROWS: usize = 13;
const CLASSES: usize = 6;
const IGNORED: i64 = -9;

/// Of 1, 2, 3 and 7 pieces; every row of the second of three is ignored, and of three of the seven.
const DIVISIONS: [&[usize]; 4] = [
    &[0, 13],
    &[0, 4, 13],
    &[0, 5, 9, 13],
    &[0, 1, 3, 4, 6, 8, 9, 13],
];

/// Options that share what the mean divides by, and those that divide by another number.
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

/// The rows of a problem, as tensors.
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

fn micro_batches_have_the_gradients_of_the_logits_of_the_whole<B: CrossEntropyBackend>(
    device: &Device,
) {
    for config in configs() {
        let problem = problem(config);
        let loss = problem.config.init_for::<B>(device);
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

/// What an optimizer is given: the gradients of a layer's weights, added up over the micro-batches.
fn micro_batches_add_up_to_the_gradients_of_the_weights<B: CrossEntropyBackend>(device: &Device) {
    const FEATURES: usize = 5;
    let random = Problem::random(&[ROWS, FEATURES], 1, false, 5).logits;
    let features = float_tensor::<2>(&random, &[ROWS, FEATURES], (device, DType::F32));
    let random = Problem::random(&[FEATURES, CLASSES], 1, false, 6).logits;
    let weights = float_tensor::<2>(&random, &[FEATURES, CLASSES], (device, DType::F32)) * 0.1;
    let weights = weights.detach().require_grad();
    for config in configs() {
        let problem = problem(config);
        let loss = problem.config.init_for::<B>(device);
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
        // What this is there for: the mean of the means of two pieces is something else.
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

on_every_backend!(
    micro_batches_have_the_gradients_of_the_logits_of_the_whole,
    micro_batches_add_up_to_the_gradients_of_the_weights,
);
