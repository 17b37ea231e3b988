//! Factors of a row's loss by the probability of its target: focal loss, Poly-1, the probability itself.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device};
use burn_cross_entropy::{CrossEntropyError, CrossEntropyLoss, CrossEntropyLossConfig, RowFactor};

use crate::common::backends::{is_host, tests_on};
use crate::common::problem::Problem;
use crate::common::run::{self, Form, f32_tensor, labels, numbers};
use crate::linear::projected::{self, Projected};
use crate::shards;

const FACTORS: [RowFactor; 6] = [
    RowFactor::Focal { gamma: 2.0 },
    RowFactor::Focal { gamma: 0.5 },
    RowFactor::Focal { gamma: 3.25 },
    RowFactor::Poly { epsilon: 2.0 },
    RowFactor::Poly { epsilon: -1.0 },
    RowFactor::TargetProbability,
];

fn with_factor(factor: RowFactor) -> impl Fn(Problem) -> Problem {
    move |problem| problem.with_config(|config| config.with_row_factor(factor))
}

fn every_factor_agrees(device: &Device) {
    let shapes: &[&[usize]] = match is_host(device) {
        true => &[&[23, 71], &[67, 5], &[2, 7, 70], &[3, 4, 3], &[5, 2]],
        false => &[&[23, 71], &[67, 5], &[2, 7, 70]],
    };
    for (at, shape) in shapes.iter().enumerate() {
        for factor in FACTORS {
            let of = || with_factor(factor)(Problem::random(shape, 1, false, at as u64));
            run::assert_agrees(&of(), Form::default(), device);
            run::assert_agrees(&of().unreduced(), Form::default(), device);
            let every = of().with_every_option().with_row_weights();
            run::assert_agrees(&every, Form::default(), device);
            run::assert_agrees(&every.unreduced(), Form::default(), device);
        }
    }
}

fn projections_agree(device: &Device) {
    for chunk in projected::chunks(device) {
        for factor in [FACTORS[0], FACTORS[3], FACTORS[5]] {
            let of = || Projected::random([22, 11, 37], false, 3).with(with_factor(factor));
            of().assert_agrees(projected::Form::chunked(chunk), device);
            of().with(Problem::unreduced)
                .with(crate::linear::options::every_option)
                .assert_agrees(projected::Form::chunked(chunk), device);
        }
    }
}

fn half_precision_agrees(device: &Device) {
    for float in [DType::F16, DType::BF16] {
        if !device.supports_dtype(float) {
            continue;
        }
        for factor in FACTORS {
            let mut problem = with_factor(factor)(Problem::random(&[9, 130], 1, false, 8));
            let rounded = |value: &mut f64| *value = crate::common::values::rounded(*value, float);
            problem.logits.iter_mut().for_each(rounded);
            let form = Form {
                float,
                owned: true,
                ..Form::default()
            };
            run::assert_agrees(&problem, form, device);
        }
    }
}

fn shards_agree_with_the_whole(device: &Device) {
    for factor in [FACTORS[0], FACTORS[3], FACTORS[5]] {
        let problem = with_factor(factor)(shards::problem(13, 2)).with_weights();
        let problem = problem.with_config(|config| config.with_label_smoothing(0.1));
        shards::assert_agrees(&problem, device);
    }
}

/// Loss and gradient of one row.
fn of_row(factor: RowFactor, logits: &[f32], target: i64, device: &Device) -> (f64, Vec<f64>) {
    let loss = CrossEntropyLossConfig::new()
        .with_row_factor(factor)
        .init(device);
    let logits = f32_tensor(logits, [1, logits.len()], device).require_grad();
    let value = loss.forward(logits.clone(), labels(&[target], device));
    let gradient = logits.grad(&value.backward()).expect("it is tracked");
    (numbers(value)[0], numbers(gradient))
}

fn known_numbers_come_out(device: &Device) {
    let (loss, _) = of_row(RowFactor::Focal { gamma: 2.0 }, &[0.0, 0.0], 0, device);
    assert!((loss - 0.173_286_8).abs() < 1e-6, "{loss}");
    let (loss, _) = of_row(RowFactor::Poly { epsilon: 1.0 }, &[0.0, 0.0], 0, device);
    assert!((loss - (2f64.ln() + 0.5)).abs() < 1e-6, "{loss}");
    let (loss, gradient) = of_row(RowFactor::TargetProbability, &[0.0, 0.0], 0, device);
    assert!((loss - 0.5 * 2f64.ln()).abs() < 1e-6, "{loss}");
    assert!((gradient[0] + 0.25).abs() < 1e-6, "{gradient:?}");
}

/// A target of all the probability, or of none, has a loss and a gradient.
fn the_ends_are_numbers(device: &Device) {
    for factor in FACTORS {
        let (loss, gradient) = of_row(factor, &[1000.0, 0.0], 0, device);
        assert_eq!((loss, &gradient[..]), (0.0, &[0.0, 0.0][..]), "{factor:?}");
        let (loss, gradient) = of_row(factor, &[1000.0, 0.0], 1, device);
        assert!(
            loss.is_finite() && gradient.iter().all(|slope| slope.is_finite()),
            "{factor:?}"
        );
    }
    let masked = [0.0, f32::NEG_INFINITY, 1.0];
    let (loss, _) = of_row(RowFactor::Focal { gamma: 2.0 }, &masked, 1, device);
    assert_eq!(loss, f64::INFINITY);
    let (loss, gradient) = of_row(RowFactor::TargetProbability, &masked, 1, device);
    assert_eq!((loss, &gradient[..]), (0.0, &[0.0; 3][..]));
}

/// The digits of `1 - p` survive in rows that are learned.
fn confident_rows_keep_their_digits(device: &Device) {
    let (loss, gradient) = of_row(RowFactor::Focal { gamma: 2.0 }, &[12.0, 0.0], 0, device);
    let others = (-12f64).exp();
    let (missing, plain) = (others / (1.0 + others), others.ln_1p());
    let exact = missing * missing * plain;
    assert!((loss / exact - 1.0).abs() < 1e-5, "{loss:e} for {exact:e}");
    let slope = missing * missing + 2.0 * (1.0 - missing) * missing * plain;
    let exact = slope * missing;
    assert!(
        (gradient[1] / exact - 1.0).abs() < 1e-5,
        "{gradient:?} for {exact:e}"
    );
    assert!(
        (gradient[0] / -exact - 1.0).abs() < 1e-5,
        "{gradient:?} for {exact:e}"
    );
}

fn what_has_no_factor_is_refused(device: &Device) {
    let focal = RowFactor::Focal { gamma: 2.0 };
    let config = || CrossEntropyLossConfig::new().with_row_factor(focal);
    let loss: CrossEntropyLoss = config().init(device);
    let logits = || f32_tensor(&[0.0; 6], [2, 3], device);
    let error = loss.try_forward(logits(), f32_tensor(&[0.5; 6], [2, 3], device));
    let error = error.expect_err("distributions have no probability of the target");
    assert!(matches!(
        error,
        CrossEntropyError::FactorOfDistributions { .. }
    ));
    let refused =
        |config: CrossEntropyLossConfig| config.try_init_for::<burn::backend::Dispatch>(device);
    assert!(refused(config().with_logits(false)).is_err());
    let wrong = RowFactor::Focal { gamma: -0.5 };
    assert!(refused(config().with_row_factor(wrong)).is_err());
    let wrong = RowFactor::Poly { epsilon: f64::NAN };
    assert!(refused(config().with_row_factor(wrong)).is_err());
}

/// Log-probabilities and outputs are those of the plain loss.
fn outputs_have_no_factor(device: &Device) {
    let logits = || f32_tensor(&[0.5, -1.0, 2.0, 0.0, 0.25, 1.0], [2, 3], device);
    let plain = CrossEntropyLossConfig::new().init(device);
    let focal = RowFactor::Focal { gamma: 2.0 };
    let loss = CrossEntropyLossConfig::new()
        .with_row_factor(focal)
        .with_reduction(Reduction::Sum)
        .init(device);
    let targets = || labels(&[1, 2], device);
    let expected = numbers(plain.log_prob(logits(), targets()));
    assert_eq!(numbers(loss.log_prob(logits(), targets())), expected);
    let output = loss.forward_with_output(logits(), targets());
    assert_eq!(numbers(output.log_prob), expected);
    let of_rows = expected
        .iter()
        .map(|log_prob| (1.0 - log_prob.exp()).powi(2) * -log_prob);
    let (found, expected) = (numbers(output.loss)[0], of_rows.sum::<f64>());
    assert!((found - expected).abs() < 1e-5, "{found} for {expected}");
}

tests_on! {
    every_backend: [
        every_factor_agrees,
        projections_agree,
        shards_agree_with_the_whole,
        known_numbers_come_out,
        the_ends_are_numbers,
        confident_rows_keep_their_digits,
        what_has_no_factor_is_refused,
        outputs_have_no_factor,
    ],
    half: [half_precision_agrees],
}
