//! Rows that a kernel treats differently: masked, spoiled, ignored and confident ones, in every layout that
//! it tells apart. They run as tests of their own, and in every way of spreading a row.

use burn::tensor::Device;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::problem::{Problem, Targets};
use super::run::{self, Form, assert_agrees};
use super::{oracle, tolerance};

/// Numbers of classes on both sides of the limit between few and many.
const FEW_AND_MANY: [usize; 4] = [3, 64, 65, 130];

/// The three layouts that a kernel tells apart: classes last, classes between, classes first. The rows are
/// more than two blocks of 64 and not a multiple of one.
pub fn layouts(classes: usize) -> [(Vec<usize>, usize); 3] {
    [
        (vec![131, classes], 1),
        (vec![2, classes, 67], 1),
        (vec![classes, 133], 0),
    ]
}

/// The loss falls to 7e-10 as the target's logit rises. The others' distances to it, up to 26, are rounded to
/// 9.5e-7, which is the relative error of their exponentials. The 1e-5 leaves room for that error, for the
/// exponential itself and for the sums.
pub fn confident_rows_keep_their_relative_accuracy_in_every_layout(device: &Device) {
    const ALLOWED: f64 = 1e-5;
    for classes in FEW_AND_MANY {
        for (shape, class_dim) in layouts(classes) {
            for soft in [false, true] {
                let (problem, labels) = confident(&shape, class_dim, soft);
                let found = run::solve(&problem, device);
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

/// Rows that are more and more certain of their target, and the targets; distributions are one-hot.
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
        // The logit is rounded to a number that f32 holds.
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

/// Masks a third of the classes of every row; in one row out of five the target may be masked too.
pub fn classes_at_minus_infinity_have_no_part(device: &Device) {
    for classes in FEW_AND_MANY {
        for (shape, class_dim) in layouts(classes) {
            for soft in [false, true] {
                let problem = masked(Problem::random(&shape, class_dim, soft, 9)).unreduced();
                let weighed = problem.clone().with_weights();
                let weighed = weighed.with_config(|config| config.with_logit_scale(0.5));
                let capped = capped(&problem);
                for problem in [problem, weighed, capped] {
                    assert_agrees(&problem, Form::default(), device);
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

/// An infinite logit is a mask, which a softcap does not turn into a number.
fn capped(problem: &Problem) -> Problem {
    let problem = problem.clone();
    problem.with_config(|config| config.with_logit_scale(0.7).with_logit_softcap(Some(4.0)))
}

/// Makes rows without a distribution, next to others in a block of 64 and in the rest of the last block.
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
                let capped = capped(&problem);
                for problem in [problem.clone(), problem.unreduced(), weighed, capped] {
                    assert_spoiled_alone(&problem, &spoiled, device);
                }
            }
        }
    }
}

/// Asserts that spoiled rows have NaN as loss and somewhere in the gradient, and that all others are right.
fn assert_spoiled_alone(problem: &Problem, spoiled: &[usize], device: &Device) {
    let mut found = run::solve(problem, device);
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

/// Ignored rows have a gradient of 0, whatever they hold and whatever the gradient of their loss is.
pub fn an_ignored_row_has_a_gradient_of_zero_in_every_layout(device: &Device) {
    let upstream = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, 3.0];
    for classes in FEW_AND_MANY {
        for (shape, class_dim) in layouts(classes) {
            let mut problem = Problem::random(&shape, class_dim, false, 6).with_every_option();
            let ignored: Vec<usize> = (1..problem.rows()).step_by(3).collect();
            spoil(&mut problem, &ignored[1..]);
            assert_agrees(&problem, Form::default(), device);
            let mut problem = problem.unreduced();
            for (row, upstream) in ignored.iter().zip(upstream.iter().cycle()) {
                problem.upstream[*row] = *upstream;
            }
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

/// The problems of the tests above in small layouts, without what they expect.
pub fn problems() -> Vec<Problem> {
    let mut problems = Vec::new();
    for classes in [3, 65] {
        for (shape, class_dim) in [(vec![19, classes], 1), (vec![2, classes, 9], 1)] {
            for soft in [false, true] {
                let (confident, _) = confident(&shape, class_dim, soft);
                let random = Problem::random(&shape, class_dim, soft, 9);
                let mut spoiled = random.clone();
                spoil(&mut spoiled, &[0, 1, 5, 9, 17]);
                let masked = masked(random).unreduced();
                for problem in [confident, masked, spoiled.clone(), spoiled.unreduced()] {
                    problems.push(capped(&problem));
                    problems.push(problem.clone().with_every_option());
                    problems.push(problem);
                }
            }
        }
    }
    problems
}
