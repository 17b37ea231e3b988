//! Features in half precision, on Flex, the CPU backend that has them.
//!
//! Rounding a feature to `u` (2^-11 in f16, 2^-8 in bf16) of itself moves a similarity of rows of length 1 by
//! at most `u`. That happens to queries and keys when they are brought to length 1, to the queries when they
//! are multiplied by the scale, and to the similarity to the positive: a logit is off by at most `4 u scale`,
//! and a loss, a difference of logits, by twice that. The tests allow the loss half of that, because the
//! roundings of several features cancel. They allow the gradients a share of `8 u scale` of the largest,
//! because probabilities change by twice the share that logits are off by.

#![cfg(feature = "flex")]

use burn::tensor::{DType, Device, Tensor};
use burn_cross_entropy::{InfoNceLoss, InfoNceLossConfig};

use super::{FORMS, Form, OfParameters, Problem};
use crate::common::run::numbers;
use crate::common::tolerance::assert_numbers;

const TEMPERATURE: f64 = 0.3;

fn unit_roundoff(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2f64.powi(-11),
        _ => 2f64.powi(-8),
    }
}

/// Rounds the tensors to numbers of the dtype.
fn rounded(problem: &Problem, dtype: DType, device: &Device) -> Problem {
    let leaves = problem.leaves_of(dtype, device);
    Problem {
        tensors: leaves.into_iter().map(numbers).collect(),
        ..problem.clone()
    }
}

#[test]
fn half_precision_agrees_to_its_rounding() {
    let device = Device::flex().autodiff();
    for form in FORMS {
        for dtype in [DType::F16, DType::BF16] {
            for (learnable, normalize) in [(false, true), (true, true), (true, false)] {
                let config = InfoNceLossConfig::new()
                    .with_temperature(TEMPERATURE)
                    .with_learnable(learnable)
                    .with_normalize(normalize);
                let problem = rounded(&Problem::new(form, config), dtype, &device);
                let name =
                    format!("{form:?} {dtype:?} learnable {learnable} normalize {normalize}");
                assert_half(&name, &problem, dtype, &device);
            }
        }
    }
}

#[track_caller]
fn assert_half(name: &str, problem: &Problem, dtype: DType, device: &Device) {
    let off = unit_roundoff(dtype) / TEMPERATURE;
    let loss: InfoNceLoss = problem.config.init(device);
    let leaves = problem.leaves_of(dtype, device);
    let value = problem.run(&loss, &leaves);
    assert_eq!(value.dtype(), DType::F32, "{name}");
    let (found, expected) = (numbers(value.clone())[0], problem.loss());
    assert!(
        (found - expected).abs() <= 4.0 * off,
        "{name}: {found}, expected {expected}"
    );
    let gradients = (value * problem.upstream).backward();
    let (expected, of_scale) = problem.gradients();
    for (at, (leaf, expected)) in leaves.iter().zip(&expected).enumerate() {
        let gradient = leaf.grad(&gradients).expect("it is tracked");
        assert_eq!(gradient.dtype(), dtype, "{name}");
        assert_numbers(
            &format!("{name}: tensor {at}"),
            &numbers(gradient),
            expected,
            8.0 * off,
        );
    }
    if problem.config.learnable {
        let mut found = Vec::new();
        burn::module::Module::visit(&loss, &mut OfParameters(&gradients, &mut found));
        assert_numbers(
            &format!("{name}: temperature"),
            &found,
            &[of_scale],
            8.0 * off,
        );
    }
}

/// The squares of these features are beyond f16's largest number or below its smallest. Their length and
/// direction are within f16.
#[test]
fn lengths_beyond_the_squares_of_f16_are_brought_to_1() {
    let device = Device::flex().autodiff();
    let config = InfoNceLossConfig::new().with_temperature(TEMPERATURE);
    let problem = Problem::new(Form::Momentum, config);
    let of = |scale: f32| {
        let leaves = problem.leaves_of(DType::F32, &device);
        let scaled: Vec<Tensor<2>> = leaves
            .into_iter()
            .map(|leaf| (leaf * scale).cast(DType::F16))
            .collect();
        let loss: InfoNceLoss = problem.config.init(&device);
        numbers(problem.run(&loss, &scaled))[0]
    };
    // Some of the smallest features are below f16's normal numbers, where rounding is coarser.
    for (scale, roundings) in [(2000.0, 4.0), (2f32.powi(-9), 8.0)] {
        let allowed = roundings * unit_roundoff(DType::F16) / TEMPERATURE;
        assert!((of(scale) - problem.loss()).abs() <= allowed, "{scale}");
    }
}
