//! Problems at which a fused kernel changes its way: sizes around its blocks, layouts, values that it may
//! treat differently, and factors of the gradient.

use burn::nn::loss::Reduction;
use burn::tensor::Device;

use crate::common::backends::tests_on;
use crate::common::hard_rows::{
    a_row_without_a_distribution_spoils_no_other,
    an_ignored_row_has_a_gradient_of_zero_in_every_layout, classes_at_minus_infinity_have_no_part,
    confident_rows_keep_their_relative_accuracy_in_every_layout, layouts,
};
use crate::common::problem::{Problem, Targets};
use crate::common::run::{self, Form, assert_agrees};
use crate::common::{oracle, tolerance};

const ROWS: [usize; 5] = [0, 1, 2, 17, 1000];
/// Numbers of classes around the widths of vectors and blocks of 64 rows, and a vocabulary.
const CLASSES: [usize; 15] = [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 1000, 50_257];
/// Most elements of a problem: a build without optimisation gets through the grid in seconds.
const MOST_ELEMENTS: usize = 1_100_000;
/// Most elements of a problem that is tried in every form.
const FEW_ELEMENTS: usize = 20_000;

/// Compares index targets and distributions with the oracle, and small problems also under every option.
fn assert_size_agrees(shape: &[usize], class_dim: usize, seed: u64, device: &Device) {
    let elements: usize = shape.iter().product();
    let indices = Problem::random(shape, class_dim, false, seed);
    let shares = Problem::random(shape, class_dim, true, seed).with_weights();
    let few = elements <= FEW_ELEMENTS;
    let mut problems = vec![indices.clone(), shares.clone()];
    if few {
        problems.push(indices.with_every_option().unreduced());
        problems.push(shares.with_every_option().unreduced());
    }
    for (number, problem) in problems.iter().enumerate() {
        for owned in [false, true] {
            if few || owned == (number % 2 == 0) {
                let form = Form {
                    owned,
                    ..Form::default()
                };
                assert_agrees(problem, form, device);
            }
        }
    }
}

fn every_number_of_rows_and_of_contiguous_classes(device: &Device) {
    for classes in CLASSES {
        for rows in ROWS {
            if rows * classes <= MOST_ELEMENTS {
                assert_size_agrees(&[rows, classes], 1, (rows + classes) as u64, device);
            }
        }
    }
}

fn every_number_of_positions_and_of_strided_classes(device: &Device) {
    for classes in CLASSES {
        for inner in [0, 2, 33, 65] {
            if inner * classes <= MOST_ELEMENTS / 10 {
                let seed = (inner + classes) as u64;
                assert_size_agrees(&[2, classes, inner], 1, seed, device);
            }
        }
    }
}

/// Tests one size of either layout, because every shape costs a device seconds of compilation.
#[cfg_attr(
    not(any(feature = "cpu", feature = "wgpu", feature = "cuda")),
    allow(dead_code)
)]
fn a_size_of_either_layout(device: &Device) {
    for (shape, class_dim) in [(vec![17, 65], 1), (vec![2, 7, 33], 1)] {
        for soft in [false, true] {
            let problem = Problem::random(&shape, class_dim, soft, 1).with_every_option();
            assert_agrees(&problem, Form::default(), device);
        }
    }
}

fn nothing_but_ignored_rows_have_a_gradient_of_zero(device: &Device) {
    for (shape, class_dim) in layouts(7) {
        for upstream in [1.0, -0.3, f64::NAN, f64::INFINITY] {
            for reduction in [Reduction::Mean, Reduction::Sum, Reduction::BatchMean] {
                let mut problem = Problem::random(&shape, class_dim, false, 7)
                    .with_config(|config| config.with_reduction(reduction));
                problem.targets = Targets::Indices(vec![-100; problem.rows()]);
                problem.upstream = vec![upstream];
                let found = run::solve(&problem, device);
                let zero = found.logits_gradient.iter().all(|entry| *entry == 0.0);
                assert!(zero, "{upstream} {:?}", problem.config);
            }
        }
    }
}

const UPSTREAM: [f64; 4] = [1.0, 2.0, -0.3, 0.0];

pub fn the_gradient_is_multiplied_by_the_upstream_gradient(device: &Device) {
    for classes in [7, 65] {
        for (shape, class_dim) in layouts(classes) {
            for soft in [false, true] {
                let problem = Problem::random(&shape, class_dim, soft, 8).with_weights();
                for problem in under_every_upstream(problem) {
                    for owned in [false, true] {
                        let form = Form {
                            owned,
                            ..Form::default()
                        };
                        assert_agrees(&problem, form, device);
                    }
                }
            }
        }
    }
}

/// The problem reduced in every way under every upstream gradient, and row by row under ones and under all of
/// them.
fn under_every_upstream(problem: Problem) -> Vec<Problem> {
    let mut problems = Vec::new();
    for upstream in UPSTREAM {
        for reduction in [Reduction::Mean, Reduction::Sum, Reduction::BatchMean] {
            let reduced = problem.clone();
            let mut reduced = reduced.with_config(|config| config.with_reduction(reduction));
            reduced.upstream = vec![upstream];
            problems.push(reduced);
        }
    }
    let rows = problem.rows();
    for upstream in [&UPSTREAM[..1], &UPSTREAM] {
        let mut unreduced = problem.clone().unreduced();
        unreduced.upstream = upstream.iter().copied().cycle().take(rows).collect();
        problems.push(unreduced);
    }
    problems
}

tests_on! {
    every_backend: [
        nothing_but_ignored_rows_have_a_gradient_of_zero,
    ],
    host: [
        every_number_of_rows_and_of_contiguous_classes,
        every_number_of_positions_and_of_strided_classes,
    ],
    one_of_each_kind: [
        confident_rows_keep_their_relative_accuracy_in_every_layout,
        classes_at_minus_infinity_have_no_part,
        a_row_without_a_distribution_spoils_no_other,
        an_ignored_row_has_a_gradient_of_zero_in_every_layout,
        the_gradient_is_multiplied_by_the_upstream_gradient,
    ],
    cubecl: [
        a_size_of_either_layout,
    ],
}

/// Scales the loss by 65 536, which is what the mean divides by. f16 can hold the gradients only if the
/// factor comes in before they are rounded.
#[cfg(feature = "flex")]
#[test]
fn a_scaled_loss_has_gradients_that_f16_can_hold() {
    use burn::tensor::DType;

    const SCALE: f64 = 65_536.0;
    let device = crate::common::backends::flex().autodiff();
    for (shape, class_dim) in [(vec![65_536, 5], 1), (vec![64, 5, 1024], 1)] {
        for owned in [false, true] {
            let mut problem = Problem::random(&shape, class_dim, false, 10);
            problem.upstream = vec![SCALE];
            for logit in &mut problem.logits {
                *logit = (*logit * 16.0).round() / 16.0;
            }
            let form = Form {
                float: DType::F16,
                owned,
                ..Form::default()
            };
            let found = run::solve_in(&problem, form, &device);
            let expected = oracle::solve(&problem);
            tolerance::assert_close("scaled", &problem, &found, &expected, DType::F16);
            assert_entries_of_f16(&found.logits_gradient, &expected.logits_gradient);
            assert!(
                expected
                    .logits_gradient
                    .iter()
                    .any(|entry| entry.abs() > 0.1)
            );
        }
    }
}

/// Compares the entries for which f16 has all its 11 bits, to half a unit in the last of them; the rest of
/// the 6e-4 is for f32.
#[cfg(feature = "flex")]
fn assert_entries_of_f16(found: &[f64], expected: &[f64]) {
    for (found, expected) in found.iter().zip(expected) {
        let normal = expected.abs() > 6.2e-5;
        let close = (found - expected).abs() <= 6e-4 * expected.abs();
        assert!(!normal || close, "{found:e} {expected:e}");
    }
}
