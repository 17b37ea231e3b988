//! The results of a forward besides the loss, and log-probabilities with gradients.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor};
use burn_cross_entropy::CrossEntropyLossConfig;

use crate::common::backends::{computes_f64, tests_on};
use crate::common::output::{assert_output, distributions, indices, integers, logits, output};
use crate::common::problem::{Outcome, Problem, Targets, Terms};
use crate::common::run::{float_tensor, numbers};
use crate::common::{oracle, tolerance};

/// Rows of one block and of several, with classes that are adjacent in memory and classes that are not.
const SHAPES: [([usize; 3], usize); 4] = [
    ([5, 131, 1], 1),
    ([3, 7, 23], 1),
    ([1, 4, 70], 2),
    ([9, 2, 3], 0),
];

fn outputs_agree_with_the_oracle(device: &Device) {
    for (shape, class_dim) in SHAPES {
        for soft in [false, true] {
            let plain = Problem::random(&shape, class_dim, soft, 5);
            let classes = plain.classes();
            assert_output(&plain, device);
            let optioned = plain.clone().with_weights().with_config(|config| {
                config
                    .with_label_smoothing(0.2)
                    .with_logit_scale(1.3)
                    .with_logit_softcap(Some(9.0))
                    .with_z_loss(0.01)
                    .with_reduction(Reduction::Sum)
            });
            assert_output(&optioned, device);
            assert_output(&optioned.with_ignored(255), device);
            let scaled = plain
                .clone()
                .with_ignored(0)
                .with_config(|config| config.with_logit_scale(0.5));
            assert_output(&scaled, device);
            // Some scores are equal here, and then all of them.
            let mut tied = plain.clone();
            for (at, logit) in tied.logits.iter_mut().enumerate() {
                *logit = if at % 3 == 0 { 1.0 } else { (at % 2) as f64 };
            }
            assert_output(&tied, device);
            tied.logits.fill(-2.5);
            assert_output(&tied, device);
            // A distribution with several largest classes.
            if let Targets::Distributions(shares) = &mut tied.targets {
                for (at, share) in shares.iter_mut().enumerate() {
                    *share = (at % 3) as f64;
                }
                assert_output(&tied, device);
            }
            let mut masked = plain;
            for row in 0..masked.rows() {
                if classes > 2 {
                    let at = masked.at(row, row % (classes - 1));
                    masked.logits[at] = f64::NEG_INFINITY;
                }
            }
            assert_output(&masked, device);
        }
    }
}

fn probabilities_have_their_logarithms(device: &Device) {
    for (shape, class_dim) in SHAPES {
        for soft in [false, true] {
            let mut problem = Problem::random(&shape, class_dim, soft, 6)
                .with_ignored(1)
                .with_config(|config| config.with_logits(false).with_label_smoothing(0.1));
            for logit in &mut problem.logits {
                *logit = (*logit / 7.0 + 1.0) / 2.0;
            }
            assert_output(&problem, device);
        }
    }
}

/// Rows without a distribution still have an order of their classes.
fn rows_of_nan_and_infinity_keep_their_order(device: &Device) {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let rows = [
        [nan, 1.0, 2.0],
        [2.0, nan, 2.0],
        [nan, nan, nan],
        [-inf, -inf, -inf],
        [0.0, inf, inf],
        [1.0, -inf, nan],
    ];
    for target in 0..3 {
        let mut problem = Problem::random(&[6, 3, 1], 1, false, 1)
            .with_config(|config| config.with_reduction(Reduction::Sum));
        problem.logits = rows.as_flattened().to_vec();
        problem.targets = Targets::Indices(vec![target; 6]);
        let loss = problem.config.init(device);
        let output = output(&loss, logits(&problem, device), &problem, device);
        let details = oracle::details(&problem);
        let predicted: Vec<i64> = details.iter().map(|row| row.predicted).collect();
        let rank: Vec<i64> = details.iter().map(|row| row.rank).collect();
        assert_eq!(integers(output.predicted), predicted);
        assert_eq!(integers(output.target_rank), rank);
        for numbers in [output.lse, output.log_prob, output.entropy.expect("asked")].map(numbers) {
            assert!(numbers.iter().all(|number| number.is_nan()), "{numbers:?}");
        }
    }
}

/// The output does not change the loss or its gradient by a bit.
fn the_loss_is_that_of_forward(device: &Device) {
    for (shape, class_dim) in SHAPES {
        let problem = Problem::random(&shape, class_dim, false, 7).with_ignored(1);
        let loss = problem.config.init(device);
        let results = [false, true].map(|detailed| {
            let leaf = logits(&problem, device);
            let targets = indices(&problem, device).expect("indices");
            let value = if detailed {
                loss.forward_with_output(leaf.clone(), targets).loss
            } else {
                loss.forward(leaf.clone(), targets)
            };
            let gradient = leaf.grad(&value.backward()).expect("tracked");
            (value.into_data(), gradient.into_data())
        });
        assert_eq!(results[0], results[1]);
    }
}

fn no_rows_have_no_details(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = Tensor::<3>::zeros([0, 4, 2], device);
    let output = loss.forward_with_output(logits, Tensor::<2, Int>::zeros([0, 2], device));
    assert_eq!(output.lse.dims(), [0, 2]);
    assert_eq!(output.predicted.dims(), [0, 2]);
    assert_eq!(output.target_rank.dims(), [0, 2]);
    assert!(output.entropy.is_none());
    assert_eq!(output.counted_rows.into_scalar::<f32>(), 0.0);
    assert!(output.loss.into_scalar::<f32>().is_nan());
    let logits = Tensor::<3>::zeros([0, 4, 2], device);
    let output = loss.forward_with_entropy(logits, Tensor::<3>::zeros([0, 4, 2], device));
    assert_eq!(output.entropy.expect("it was asked for").dims(), [0, 2]);
}

/// Logits of half precision are computed in f32: their details have the bits of the same numbers in f32. The
/// total weight has the dtype of the loss.
fn other_dtypes_have_their_details(device: &Device) {
    let problem = Problem::random(&[5, 70, 2], 1, false, 9)
        .with_ignored(1)
        .with_weights();
    let loss = problem.config.init(device);
    let f64_is_computed = computes_f64(device);
    for dtype in [DType::F16, DType::BF16, DType::F64] {
        if !device.supports_dtype(dtype) || (dtype == DType::F64 && !f64_is_computed) {
            continue;
        }
        let cast = logits(&problem, device).detach().cast(dtype).detach();
        let found = output(&loss, cast.clone().require_grad(), &problem, device);
        let expected = output(&loss, cast.cast(DType::F32), &problem, device);
        assert_eq!(integers(found.predicted), integers(expected.predicted));
        assert_eq!(integers(found.target_rank), integers(expected.target_rank));
        assert_eq!(found.total_weight.dtype(), found.loss.dtype());
        assert_eq!(numbers(found.total_weight), numbers(expected.total_weight));
        let pairs = [
            (found.lse, expected.lse),
            (found.log_prob, expected.log_prob),
        ];
        for (found, expected) in pairs {
            let (found, expected) = (numbers(found), numbers(expected));
            let allowed = if dtype == DType::F64 { 1e-5 } else { 0.0 };
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    (found - expected).abs() <= allowed,
                    "{found} {expected} {dtype:?}"
                );
            }
        }
    }
}

/// Gradients flow through the loss alone.
fn the_details_are_constants(device: &Device) {
    let problem = Problem::random(&[4, 5, 2], 1, false, 8);
    let loss = problem.config.init(device);
    let leaf = logits(&problem, device);
    let output = output(&loss, leaf.clone(), &problem, device);
    let of_loss = leaf.grad(&output.loss.clone().backward()).expect("tracked");
    let output = self::output(&loss, leaf.clone(), &problem, device);
    let of_both = output.loss + output.lse.sum() * 3.0 - output.log_prob.sum();
    let of_both = leaf.grad(&of_both.backward()).expect("tracked");
    assert_eq!(of_loss.into_data(), of_both.into_data());
}

/// `log_prob` and its gradients are the negative of those of a loss without its other options, for indices
/// and for distributions.
fn log_probabilities_have_gradients(device: &Device) {
    for soft in [false, true] {
        let problem = Problem::random(&[6, 37, 2], 1, soft, 9)
            .with_ignored(3)
            .with_config(|config| config.with_logit_scale(0.5).with_logit_softcap(Some(8.0)))
            .unreduced();
        let dressed = problem.clone().with_weights().with_config(|config| {
            config
                .with_label_smoothing(0.3)
                .with_z_loss(0.1)
                .with_reduction(Reduction::BatchMean)
        });
        let loss = dressed.config.init(device);
        let leaf = logits(&problem, device);
        let log_prob = match indices(&problem, device) {
            Some(indices) => loss.log_prob(leaf.clone(), indices),
            None => loss.log_prob(leaf.clone(), distributions(&problem, device)),
        };
        let weights = float_tensor::<2>(&problem.upstream, &[6, 2], (device, DType::F32));
        let gradients = (log_prob.clone() * weights).sum().neg().backward();
        let found = Outcome {
            loss: numbers(log_prob.neg()),
            logits_gradient: numbers(leaf.grad(&gradients).expect("tracked")),
            targets_gradient: None,
            terms: Terms::default(),
        };
        let expected = Outcome {
            targets_gradient: None,
            ..oracle::solve(&problem)
        };
        tolerance::assert_close("log_prob", &problem, &found, &expected, DType::F32);
    }
}

tests_on! {
    every_backend: [
        outputs_agree_with_the_oracle,
        probabilities_have_their_logarithms,
        rows_of_nan_and_infinity_keep_their_order,
        the_loss_is_that_of_forward,
        no_rows_have_no_details,
        other_dtypes_have_their_details,
        log_probabilities_have_gradients,
    ],
    one_of_each_kind: [
        the_details_are_constants,
    ],
}
