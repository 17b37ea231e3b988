//! The z-loss that an output tells apart from the cross-entropy.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor};
use burn_cross_entropy::{
    CrossEntropyLossConfig, CrossEntropyOutput, CrossEntropyTarget, EmptyReduction,
};

use crate::common::backends::{is_host, tests_on};
use crate::common::oracle;
use crate::common::output::{distributions, indices, logits};
use crate::common::problem::Problem;
use crate::common::run::{float_tensor, numbers, row_shape};

const REDUCTIONS: [Reduction; 3] = [Reduction::Mean, Reduction::Sum, Reduction::BatchMean];
const SHAPES: [([usize; 3], usize); 3] = [([5, 131, 1], 1), ([3, 7, 23], 1), ([9, 2, 3], 0)];

fn output(problem: &Problem, weights: DType, device: &Device) -> CrossEntropyOutput<2> {
    fn of(
        problem: &Problem,
        target: impl CrossEntropyTarget<3>,
        weights: DType,
        device: &Device,
    ) -> CrossEntropyOutput<2> {
        let loss = problem.config.init(device);
        let logits = logits(problem, device);
        match &problem.row_weights {
            None => loss.forward_with_output(logits, target),
            Some(numbers) => {
                let weights = float_tensor::<2>(numbers, &row_shape(problem), (device, weights));
                loss.forward_with_output(logits, target.weighted(weights))
            }
        }
    }
    match indices(problem, device) {
        Some(indices) => of(problem, indices, weights, device),
        None => of(problem, distributions(problem, device), weights, device),
    }
}

#[track_caller]
fn assert_close(found: f64, expected: f64, of: f64) {
    // A sum over the rows in f32, of numbers that are right to 2e-6.
    let allowed = 4e-6 * of.abs();
    assert!((found - expected).abs() <= allowed, "{found} {expected}");
}

fn what_is_left_of_the_loss_is_the_cross_entropy(device: &Device) {
    for (at, (shape, class_dim)) in SHAPES.into_iter().enumerate() {
        for soft in [false, true] {
            for reduction in REDUCTIONS {
                let plain = Problem::random(&shape, class_dim, soft, at as u64 + 3)
                    .with_weights()
                    .with_config(|config| {
                        config
                            .with_z_loss(0.03)
                            .with_label_smoothing(0.1)
                            .with_logit_scale(0.7)
                            .with_reduction(reduction.clone())
                    });
                let plain = match soft {
                    true => plain,
                    false => plain.with_ignored(1),
                };
                for problem in [plain.clone(), plain.with_row_weights()] {
                    let mut without = problem.clone();
                    without.config.z_loss = 0.0;
                    let [whole, rest] = [&problem, &without].map(|it| oracle::solve(it).loss[0]);
                    let output = output(&problem, DType::F32, device);
                    let z_loss = output.z_loss();
                    assert_eq!(z_loss.dims(), [1]);
                    assert_close(numbers(z_loss.clone())[0], whole - rest, whole);
                    assert_close(numbers(output.loss - z_loss)[0], rest, whole);
                    assert!(whole - rest > 1e-3 * whole, "the test sees nothing");
                    let output = self::output(&without, DType::F32, device);
                    assert_eq!(numbers(output.z_loss()), [0.0]);
                }
            }
        }
    }
}

/// Row weights may have another dtype than the losses.
fn row_weights_of_half_precision_weigh(device: &Device) {
    let problem = Problem::random(&[4, 6, 5], 1, false, 2)
        .with_config(|config| config.with_z_loss(0.2))
        .with_row_weights();
    let mut problem = problem;
    let weights = problem.row_weights.as_mut().expect("they were asked for");
    for (row, weight) in weights.iter_mut().enumerate() {
        *weight = (row % 4) as f64 * 0.25;
    }
    let mut without = problem.clone();
    without.config.z_loss = 0.0;
    let [whole, rest] = [&problem, &without].map(|it| oracle::solve(it).loss[0]);
    let found = numbers(output(&problem, DType::F16, device).z_loss());
    assert_close(found[0], whole - rest, whole);
}

/// The z-loss of nothing is what the loss of nothing is.
fn an_empty_batch_has_the_value_of_empty(device: &Device) {
    for (empty, value) in [(EmptyReduction::Nan, f64::NAN), (EmptyReduction::Zero, 0.0)] {
        for reduction in REDUCTIONS {
            let loss = CrossEntropyLossConfig::new()
                .with_z_loss(0.5)
                .with_empty(empty)
                .with_reduction(reduction.clone())
                .init(device);
            for rows in [0, 3] {
                let logits = Tensor::<2>::ones([rows, 4], device);
                let targets = Tensor::<1, Int>::full([rows], -100, device);
                let output = loss.forward_with_output(logits, targets);
                let found = [output.z_loss(), output.loss.clone()].map(numbers).concat();
                let is_mean = matches!(reduction, Reduction::Mean);
                let has_divisor = rows > 0 || matches!(reduction, Reduction::Sum);
                let expected = match is_mean || !has_divisor {
                    true => value,
                    false => 0.0,
                };
                let same = |found: f64| found == expected || found.is_nan() && expected.is_nan();
                assert!(found.iter().all(|it| same(*it)), "{found:?} {expected}");
            }
        }
    }
}

/// Rows that count for nothing in the cross-entropy have a z-loss, and a mean of their own.
fn classes_without_weight_have_a_z_loss(device: &Device) {
    let loss = CrossEntropyLossConfig::new()
        .with_weight(Some(vec![0.0, 1.0]))
        .with_z_loss(0.5)
        .with_empty(EmptyReduction::Zero)
        .init(device);
    let logits = Tensor::<2>::zeros([3, 2], device);
    let targets = Tensor::<1, Int>::from_ints([0, 0, -100], device);
    let output = loss.forward_with_output(logits, targets);
    let expected = 0.5 * 2f64.ln() * 2f64.ln();
    assert_close(numbers(output.z_loss())[0], expected, expected);
    assert_close(numbers(output.loss)[0], expected, expected);
}

/// NaN in a row that counts, and a target that is not a class, spoil it as they spoil the loss; an ignored row
/// does not.
fn what_spoils_the_loss_spoils_the_z_loss(device: &Device) {
    let loss = CrossEntropyLossConfig::new().with_z_loss(0.5).init(device);
    let of = |targets: [i32; 2]| {
        let logits = Tensor::<2>::from_floats([[f32::NAN, 1.0], [0.0, 0.0]], device);
        loss.forward_with_output(logits, Tensor::<1, Int>::from_ints(targets, device))
    };
    assert!(numbers(of([0, 1]).z_loss())[0].is_nan());
    let expected = 0.5 * 2f64.ln() * 2f64.ln();
    assert_close(numbers(of([-100, 1]).z_loss())[0], expected, expected);
    if !is_host(device) {
        assert!(numbers(of([-100, 7]).z_loss())[0].is_nan());
    }
}

/// The z-loss is a number to look at: no gradient flows through it.
fn it_is_a_constant(device: &Device) {
    let problem = Problem::random(&[4, 5, 2], 1, false, 8).with_config(|c| c.with_z_loss(0.1));
    let loss = problem.config.init(device);
    let gradient = |apart: bool| {
        let leaf = logits(&problem, device);
        let output =
            loss.forward_with_output(leaf.clone(), indices(&problem, device).expect("indices"));
        let objective = match apart {
            true => output.loss.clone() - output.z_loss(),
            false => output.loss,
        };
        leaf.grad(&objective.backward())
            .expect("tracked")
            .into_data()
    };
    assert_eq!(gradient(true), gradient(false));
}

tests_on! {
    every_backend: [
        what_is_left_of_the_loss_is_the_cross_entropy,
        what_spoils_the_loss_spoils_the_z_loss,
    ],
    half: [row_weights_of_half_precision_weigh],
    one_of_each_kind: [
        an_empty_batch_has_the_value_of_empty,
        classes_without_weight_have_a_z_loss,
        it_is_a_constant,
    ],
}
