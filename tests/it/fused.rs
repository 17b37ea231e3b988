//! Where a fused kernel changes its way: sizes around its blocks, layouts, values that it may treat
//! apart, and what it multiplies the gradient by.

use burn::backend::Dispatch;
use burn::nn::loss::Reduction;
use burn::tensor::Device;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::backends::{on_every_gpu, on_the_cpu};
use crate::common::problem::{Problem, Targets};
use crate::common::run::{self, Form, assert_agrees};
use crate::common::{oracle, tolerance};

const ROWS: [usize; 5] = [0, 1, 2, 17, 1000];
/// Around the widths of vectors, of blocks of 64 rows, and a vocabulary.
const CLASSES: [usize; 15] = [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 1000, 50_257];
/// As far as a build without optimisation gets through the grid in seconds.
const MOST_ELEMENTS: usize = 1_100_000;
/// Up to this many elements every form of the problem is tried.
const FEW_ELEMENTS: usize = 20_000;

/// Numbers of classes on both sides of where few become many.
const FEW_AND_MANY: [usize; 4] = [3, 64, 65, 130];

/// The three layouts that a kernel tells apart: classes last, classes between, classes first. More
/// rows than two blocks of 64 and no multiple of one.
fn layouts(classes: usize) -> [(Vec<usize>, usize); 3] {
    [
        (vec![131, classes], 1),
        (vec![2, classes, 67], 1),
        (vec![classes, 133], 0),
    ]
}

/// Every option that changes the arithmetic of a row.
pub fn with_every_option(problem: Problem) -> Problem {
    let problem = problem.with_weights().with_ignored(-7);
    problem.with_config(|config| {
        config
            .with_label_smoothing(0.1)
            .with_z_loss(0.02)
            .with_logit_scale(0.7)
            .with_logit_softcap(Some(5.0))
    })
}

/// Index targets as they are and under every option, and distributions.
fn assert_size_agrees(shape: &[usize], class_dim: usize, seed: u64, device: &Device) {
    let elements: usize = shape.iter().product();
    let indices = Problem::random(shape, class_dim, false, seed);
    let shares = Problem::random(shape, class_dim, true, seed).with_weights();
    let few = elements <= FEW_ELEMENTS;
    let mut problems = vec![indices.clone(), shares.clone()];
    if few {
        problems.push(with_every_option(indices).unreduced());
        problems.push(with_every_option(shares).unreduced());
    }
    for (number, problem) in problems.iter().enumerate() {
        for owned in [false, true] {
            if few || owned == (number % 2 == 0) {
                let form = Form {
                    owned,
                    ..Form::default()
                };
                assert_agrees::<Dispatch>(problem, form, device);
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

/// Every shape costs a device seconds of compilation.
#[cfg_attr(
    not(any(feature = "cpu", feature = "wgpu", feature = "cuda")),
    allow(dead_code)
)]
fn a_size_of_either_layout(device: &Device) {
    for (shape, class_dim) in [(vec![17, 65], 1), (vec![2, 7, 33], 1)] {
        for soft in [false, true] {
            let problem = with_every_option(Problem::random(&shape, class_dim, soft, 1));
            assert_agrees::<Dispatch>(&problem, Form::default(), device);
        }
    }
}

/// The loss goes down to 7e-10 as the target's logit goes up. The others' distance to it, up to 26,
/// is rounded to 9.5e-7 of 1, which is the relative error of their exponentials; the 1e-5 leaves
/// room for that, for the exponential itself and for the sums.
pub fn confident_rows_keep_their_relative_accuracy_in_every_layout(device: &Device) {
    const ALLOWED: f64 = 1e-5;
    for classes in FEW_AND_MANY {
        for (shape, class_dim) in layouts(classes) {
            for soft in [false, true] {
                let (problem, labels) = confident(&shape, class_dim, soft);
                let found = run::solve::<Dispatch>(&problem, device);
                let expected = oracle::solve(&problem);
                let least = expected.loss.iter().copied().fold(f64::MAX, f64::min);
                assert!(least < 2e-9, "{least:e}");
                let close = |found: f64, expected: f64| (found / expected - 1.0).abs() < ALLOWED;
                for (row, label) in labels.into_iter().enumerate() {
                    let at = problem.at(row, label);
                    let (found_loss, loss) = (found.loss[row], expected.loss[row]);
                    assert!(close(found_loss, loss), "{shape:?} {found_loss:e} {loss:e}");
                    let (slope, exact) = (found.logits_gradient[at], expected.logits_gradient[at]);
                    assert!(close(slope, exact), "{shape:?} {slope:e} {exact:e}");
                }
            }
        }
    }
}

/// Rows that are ever more certain of their target, and the targets; as distributions one-hot.
fn confident(shape: &[usize], class_dim: usize, soft: bool) -> (Problem, Vec<usize>) {
    let mut problem = Problem::random(shape, class_dim, false, 12).unreduced();
    for logit in &mut problem.logits {
        *logit /= 8.0;
    }
    let classes = problem.classes();
    let labels: Vec<usize> = (0..problem.rows())
        .map(|row| (7 * row + 1) % classes)
        .collect();
    let mut one_hot = vec![0.0; problem.logits.len()];
    for (row, label) in labels.iter().enumerate() {
        let at = problem.at(row, *label);
        let certainty = 3.0 + 18.5 * (row % 16) as f64 / 15.0;
        // As a number that f32 holds.
        problem.logits[at] = f64::from((certainty + (classes as f64).ln()) as f32);
        one_hot[at] = 1.0;
    }
    problem.targets = if soft {
        Targets::Distributions(one_hot)
    } else {
        Targets::Indices(labels.iter().map(|label| *label as i64).collect())
    };
    (problem, labels)
}

/// A third of the classes of every row can not be; in one row out of five that may be the target.
pub fn classes_at_minus_infinity_have_no_part(device: &Device) {
    for classes in FEW_AND_MANY {
        for (shape, class_dim) in layouts(classes) {
            for soft in [false, true] {
                let problem = masked(Problem::random(&shape, class_dim, soft, 9)).unreduced();
                let weighed = problem.clone().with_weights();
                let weighed = weighed.with_config(|config| config.with_logit_scale(0.5));
                for problem in [problem, weighed] {
                    assert_agrees::<Dispatch>(&problem, Form::default(), device);
                }
            }
        }
    }
}

fn masked(mut problem: Problem) -> Problem {
    let mut rng = StdRng::seed_from_u64(3);
    let classes = problem.classes();
    for row in 0..problem.rows() {
        let spared = row % classes;
        for class in (0..classes).filter(|class| *class != spared) {
            if rng.random_bool(1.0 / 3.0) {
                let at = problem.at(row, class);
                problem.logits[at] = f64::NEG_INFINITY;
                if let Targets::Distributions(shares) = &mut problem.targets
                    && row % 5 != 0
                {
                    shares[at] = 0.0;
                }
            }
        }
        if let Targets::Indices(indices) = &mut problem.targets
            && row % 5 != 0
        {
            indices[row] = spared as i64;
        }
    }
    problem
}

/// Rows without a distribution, beside others in a block of 64 and in the rest of the last one.
fn spoil(problem: &mut Problem, rows: &[usize]) {
    let last = problem.classes() - 1;
    for (kind, row) in rows.iter().enumerate() {
        let entries: Vec<(usize, f64)> = match kind % 5 {
            0 => vec![(0, f64::NAN)],
            1 => vec![(last, f64::NAN)],
            2 => vec![(last / 2, f64::INFINITY)],
            3 => (0..=last).map(|class| (class, f64::NEG_INFINITY)).collect(),
            _ => vec![(0, f64::NEG_INFINITY), (last, f64::INFINITY)],
        };
        for (class, value) in entries {
            let at = problem.at(*row, class);
            problem.logits[at] = value;
        }
    }
}

pub fn a_row_without_a_distribution_spoils_no_other(device: &Device) {
    for classes in FEW_AND_MANY {
        for (shape, class_dim) in layouts(classes) {
            for soft in [false, true] {
                let mut problem = Problem::random(&shape, class_dim, soft, 5);
                problem.tracked_targets = false;
                let spoiled = [0, 1, 40, 64, problem.rows() - 1];
                spoil(&mut problem, &spoiled);
                let weighed = problem.clone().with_weights();
                let weighed = weighed.with_config(|config| config.with_label_smoothing(0.1));
                for problem in [problem.clone(), problem.unreduced(), weighed] {
                    assert_spoiled_alone(&problem, &spoiled, device);
                }
            }
        }
    }
}

/// The spoiled rows are NaN in their loss and somewhere in their gradient, the others as they should.
fn assert_spoiled_alone(problem: &Problem, spoiled: &[usize], device: &Device) {
    let mut found = run::solve::<Dispatch>(problem, device);
    let expected = oracle::solve(problem);
    for row in spoiled {
        let entries = || (0..problem.classes()).map(|class| problem.at(*row, class));
        assert!(
            entries().any(|at| found.logits_gradient[at].is_nan()),
            "{:?}, row {row}",
            problem.shape
        );
        for at in entries() {
            found.logits_gradient[at] = expected.logits_gradient[at];
        }
    }
    let name = format!("{:?} {:?}", problem.shape, problem.config);
    tolerance::assert_close(&name, problem, &found, &expected, Form::default().float);
}

/// Whatever it holds, and whatever the gradient of its loss is.
pub fn an_ignored_row_has_a_gradient_of_zero_in_every_layout(device: &Device) {
    let upstream = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, 3.0];
    for classes in FEW_AND_MANY {
        for (shape, class_dim) in layouts(classes) {
            let mut problem = with_every_option(Problem::random(&shape, class_dim, false, 6));
            let ignored: Vec<usize> = (1..problem.rows()).step_by(3).collect();
            spoil(&mut problem, &ignored[1..]);
            assert_agrees::<Dispatch>(&problem, Form::default(), device);
            let mut problem = problem.unreduced();
            for (row, upstream) in ignored.iter().zip(upstream.iter().cycle()) {
                problem.upstream[*row] = *upstream;
            }
            for owned in [false, true] {
                let form = Form {
                    owned,
                    ..Form::default()
                };
                assert_agrees::<Dispatch>(&problem, form, device);
            }
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
                let found = run::solve::<Dispatch>(&problem, device);
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
                        assert_agrees::<Dispatch>(&problem, form, device);
                    }
                }
            }
        }
    }
}

/// Reduced in every way under every number, and row by row under ones and under all of the numbers.
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

on_the_cpu!(
    every_number_of_rows_and_of_contiguous_classes,
    every_number_of_positions_and_of_strided_classes,
    confident_rows_keep_their_relative_accuracy_in_every_layout,
    classes_at_minus_infinity_have_no_part,
    a_row_without_a_distribution_spoils_no_other,
    an_ignored_row_has_a_gradient_of_zero_in_every_layout,
    nothing_but_ignored_rows_have_a_gradient_of_zero,
    the_gradient_is_multiplied_by_the_upstream_gradient,
);
on_every_gpu!(
    a_size_of_either_layout,
    confident_rows_keep_their_relative_accuracy_in_every_layout,
    classes_at_minus_infinity_have_no_part,
    a_row_without_a_distribution_spoils_no_other,
    an_ignored_row_has_a_gradient_of_zero_in_every_layout,
    nothing_but_ignored_rows_have_a_gradient_of_zero,
    the_gradient_is_multiplied_by_the_upstream_gradient,
);

/// The mean over 65 536 rows divides every gradient below what f16 can hold, unless the factor of
/// 65 536 that the loss is scaled by has come in before it is rounded.
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
            let found = run::solve_in::<Dispatch>(&problem, form, &device);
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

/// Each entry on its own, where f16 has all its 11 bits, to half of their last one; the rest of the
/// 6e-4 is for f32.
#[cfg(feature = "flex")]
fn assert_entries_of_f16(found: &[f64], expected: &[f64]) {
    for (found, expected) in found.iter().zip(expected) {
        let normal = expected.abs() > 6.2e-5;
        let close = (found - expected).abs() <= 6e-4 * expected.abs();
        assert!(!normal || close, "{found:e} {expected:e}");
    }
}
