//! How far a result may be from the oracle, and why.
//!
//! | dtype of the logits | loss, relative | gradient row, of its largest entry | reason |
//! |---|---|---|---|
//! | f32 | 2e-6 | 2e-6 | an exponential and a sum over the classes, each of a few 6e-8 |
//! | f64 | 1e-12 | 1e-12 | the same in f64; the room is for sums of many rows |
//! | f16 | 2e-6 | 6e-4 | arithmetic in f32 from the rounded logits; the gradient is rounded to 11 bits |
//! | bf16 | 2e-6 | 5e-3 | as f16, rounded to 8 bits |
//!
//! Below `floor` a loss is compared absolutely: a loss that small is a difference of numbers of
//! order 1 in every case but the confident rows, which have a test of their own.

use burn::tensor::DType;

use super::problem::{Outcome, Problem};

#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub loss: f64,
    pub gradient: f64,
    pub floor: f64,
}

pub fn of(logits: DType) -> Tolerance {
    let (loss, gradient, floor) = match logits {
        DType::F64 => (1e-12, 1e-12, 1e-300),
        DType::F16 => (2e-6, 6e-4, 1e-30),
        DType::BF16 => (2e-6, 5e-3, 1e-30),
        _ => (2e-6, 2e-6, 1e-30),
    };
    Tolerance {
        loss,
        gradient,
        floor,
    }
}

/// Two outcomes of one problem agree.
#[track_caller]
pub fn assert_close(
    name: &str,
    problem: &Problem,
    found: &Outcome,
    expected: &Outcome,
    dtype: DType,
) {
    let tolerance = of(dtype);
    assert_losses(name, &found.loss, &expected.loss, tolerance);
    assert_rows(
        &format!("{name}: gradient of the logits"),
        problem,
        &found.logits_gradient,
        &expected.logits_gradient,
        tolerance.gradient,
    );
    if let Some(expected) = &expected.targets_gradient {
        let found = found
            .targets_gradient
            .as_ref()
            .unwrap_or_else(|| panic!("{name}: no gradient of the targets"));
        assert_rows(
            &format!("{name}: gradient of the targets"),
            problem,
            found,
            expected,
            tolerance.gradient,
        );
    }
}

#[track_caller]
pub fn assert_losses(name: &str, found: &[f64], expected: &[f64], tolerance: Tolerance) {
    assert_eq!(found.len(), expected.len(), "{name}: number of losses");
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = if expected.is_finite() {
            let scale = expected.abs().max(tolerance.floor);
            (found - expected).abs() <= tolerance.loss * scale
        } else {
            found == expected || (found.is_nan() && expected.is_nan())
        };
        assert!(
            same,
            "{name}: loss {row} is {found:e}, expected {expected:e}, relative error {:e}",
            (found - expected).abs() / expected.abs()
        );
    }
}

#[track_caller]
fn assert_rows(name: &str, problem: &Problem, found: &[f64], expected: &[f64], relative: f64) {
    assert_eq!(found.len(), expected.len(), "{name}: number of entries");
    for row in 0..problem.rows() {
        let entries = || (0..problem.classes()).map(|class| problem.at(row, class));
        let largest = entries()
            .map(|at| expected[at].abs())
            .filter(|entry| entry.is_finite())
            .fold(0.0, f64::max);
        for at in entries() {
            let (found, expected) = (found[at], expected[at]);
            let same = if expected.is_finite() {
                (found - expected).abs() <= relative * largest
            } else {
                found == expected || (found.is_nan() && expected.is_nan())
            };
            assert!(
                same,
                "{name}: entry {at} in row {row} is {found:e}, expected {expected:e}; off by {:e} \
                 of the row's largest, {largest:e}",
                (found - expected).abs() / largest
            );
        }
    }
}
