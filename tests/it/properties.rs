//! Relations that hold for every problem.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::common::backends::tests_on;
use crate::common::problem::{Outcome, Problem, Targets};
use crate::common::run::{self, Form};
use crate::common::{oracle, tolerance};

/// Runs a property over random problems, the same ones in every run.
fn check(cases: u32, property: impl Fn(Problem)) {
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let problems = (
        1usize..6,
        1usize..20,
        1usize..5,
        any::<bool>(),
        any::<u64>(),
    )
        .prop_map(|(outer, classes, inner, soft, seed)| {
            Problem::random(&[outer, classes, inner], 1, soft, seed)
        });
    TestRunner::new_with_rng(config, rng)
        .run(&problems, |problem| {
            property(problem);
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// Cases of a property. They are few, because a call may cost milliseconds; the relations do not depend on
/// the size.
const CASES: u32 = 24;

fn f64_of(problem: &Problem, device: &Device) -> Outcome {
    let form = Form {
        float: DType::F64,
        ..Form::default()
    };
    run::solve_in(problem, form, device)
}

/// Asserts an absolute difference, for losses of order 1 and gradients below it.
#[track_caller]
fn assert_within(name: &str, found: &Outcome, expected: &Outcome, tolerance: f64) {
    let pairs = [
        (&found.loss, &expected.loss),
        (&found.logits_gradient, &expected.logits_gradient),
    ];
    for (found, expected) in pairs {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            let scale = expected.abs().max(1.0);
            let same = (found - expected).abs() <= tolerance * scale
                || (found.is_nan() && expected.is_nan());
            assert!(same, "{name}: {found} {expected}");
        }
    }
}

fn an_index_is_its_one_hot_distribution(device: &Device) {
    check(CASES, |problem| {
        let Targets::Indices(indices) = &problem.targets else {
            return;
        };
        let mut one_hot = vec![0.0; problem.logits.len()];
        for (row, index) in indices.iter().enumerate() {
            one_hot[problem.at(row, *index as usize)] = 1.0;
        }
        let problem = problem.with_config(|config| config.with_label_smoothing(0.1));
        let soft = Problem {
            targets: Targets::Distributions(one_hot),
            ..problem.clone()
        };
        let by_index = run::solve(&problem, device);
        let by_share = run::solve(&soft, device);
        assert_within("one-hot", &by_index, &by_share, 1e-6);
    });
}

fn a_shift_of_all_logits_changes_nothing(device: &Device) {
    check(CASES, |problem| {
        // Values and shift have few bits, so that their sum is exact in f32.
        let mut problem = problem;
        for logit in &mut problem.logits {
            *logit = (*logit * 64.0).round() / 64.0;
        }
        let mut shifted = problem.clone();
        for logit in &mut shifted.logits {
            *logit += 256.0;
        }
        let found = run::solve(&shifted, device);
        let expected = run::solve(&problem, device);
        assert_within("shifted", &found, &expected, 1e-6);
    });
}

fn rows_of_the_gradient_sum_to_zero(device: &Device) {
    check(CASES, |problem| {
        let problem = problem.unreduced();
        let gradient = run::solve(&problem, device).logits_gradient;
        for row in 0..problem.rows() {
            let entries = (0..problem.classes()).map(|class| gradient[problem.at(row, class)]);
            let size: f64 = entries.clone().map(f64::abs).sum();
            let sum: f64 = entries.sum();
            assert!(
                sum.abs() <= 1e-6 * size.max(1e-6),
                "row {row}: {sum:e} of {size:e}"
            );
        }
    });
}

fn permuting_the_batch_permutes_the_losses(device: &Device) {
    check(CASES, |problem| {
        let problem = problem.unreduced();
        let outer = problem.shape[0];
        let mut reversed = problem.clone();
        let reverse = |values: &mut Vec<f64>| {
            let block = values.len() / outer;
            let blocks: Vec<Vec<f64>> = values.chunks(block).rev().map(<[f64]>::to_vec).collect();
            *values = blocks.concat();
        };
        reverse(&mut reversed.logits);
        match &mut reversed.targets {
            Targets::Distributions(targets) => reverse(targets),
            Targets::Indices(indices) => {
                let block = indices.len() / outer;
                *indices = indices.chunks(block).rev().flatten().copied().collect();
            }
        }
        let mut expected = run::solve(&problem, device).loss;
        reverse(&mut expected);
        assert_eq!(run::solve(&reversed, device).loss, expected);
    });
}

fn the_sums_of_two_halves_are_the_sum(device: &Device) {
    check(CASES, |problem| {
        let problem = problem.with_config(|config| config.with_reduction(Reduction::Sum));
        let whole = run::solve(&problem, device).loss[0];
        let (outer, split) = (problem.shape[0], problem.shape[0] / 2);
        let part = |range: std::ops::Range<usize>| {
            if range.is_empty() {
                return 0.0;
            }
            let cut = |values: &[f64]| {
                let block = values.len() / outer;
                values[range.start * block..range.end * block].to_vec()
            };
            let part = Problem {
                shape: vec![range.len(), problem.shape[1], problem.shape[2]],
                logits: cut(&problem.logits),
                targets: match &problem.targets {
                    Targets::Distributions(targets) => Targets::Distributions(cut(targets)),
                    Targets::Indices(indices) => {
                        let block = indices.len() / outer;
                        Targets::Indices(indices[range.start * block..range.end * block].to_vec())
                    }
                },
                ..problem.clone()
            };
            run::solve(&part, device).loss[0]
        };
        let halves = part(0..split) + part(split..outer);
        assert!(
            (whole - halves).abs() <= 2e-6 * whole.abs().max(1.0),
            "{whole} {halves}"
        );
    });
}

tests_on! {
    one_of_each_kind: [
        an_index_is_its_one_hot_distribution,
        a_shift_of_all_logits_changes_nothing,
        rows_of_the_gradient_sum_to_zero,
        permuting_the_batch_permutes_the_losses,
        the_sums_of_two_halves_are_the_sum,
    ],
}

/// Compares the gradient with central differences of the loss in f64, on the backends that compute in f64.
fn finite_differences_are_the_gradient(device: &Device) {
    const STEP: f64 = 1e-5;
    check(CASES, |problem| {
        let problem = problem.with_weights().with_config(|config| {
            config
                .with_label_smoothing(0.1)
                .with_z_loss(0.05)
                .with_logit_scale(0.5)
                .with_logit_softcap(Some(3.0))
        });
        let gradient = f64_of(&problem, device);
        let loss = |problem: &Problem| f64_of(problem, device).loss[0] * problem.upstream[0];
        for at in 0..problem.logits.len().min(9) {
            let moved = |by: f64| {
                let mut problem = problem.clone();
                problem.logits[at] += by;
                loss(&problem)
            };
            let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            assert!(
                (slope - gradient.logits_gradient[at]).abs() < 1e-8,
                "logit {at}"
            );

            let Some(targets_gradient) = &gradient.targets_gradient else {
                continue;
            };
            let moved = |by: f64| {
                let mut problem = problem.clone();
                if let Targets::Distributions(targets) = &mut problem.targets {
                    targets[at] += by;
                }
                loss(&problem)
            };
            let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            let found = targets_gradient[at];
            assert!(
                (slope - found).abs() < 1e-7 * slope.abs().max(1.0),
                "share {at}: {found} {slope}"
            );
        }
    });
}

#[cfg(feature = "flex")]
#[test]
fn finite_differences_are_the_gradient_on_flex() {
    finite_differences_are_the_gradient(&crate::common::backends::flex().autodiff());
}

#[cfg(feature = "ndarray")]
#[test]
fn finite_differences_are_the_gradient_on_ndarray() {
    finite_differences_are_the_gradient(&crate::common::backends::ndarray().autodiff());
}

/// The tolerances are narrow enough to reject a wrong formula.
#[test]
fn the_tolerances_tell_a_wrong_smoothing_from_a_right_one() {
    let problem = Problem::random(&[4, 7], 1, false, 1)
        .with_config(|config| config.with_label_smoothing(0.1));
    let other = problem
        .clone()
        .with_config(|config| config.with_label_smoothing(0.1001));
    let (found, expected) = (oracle::solve(&other), oracle::solve(&problem));
    let verdict = std::panic::catch_unwind(|| {
        tolerance::assert_close("smoothing", &problem, &found, &expected, DType::F32);
    });
    assert!(verdict.is_err());
}
