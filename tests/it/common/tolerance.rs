//! The allowed differences between a result and the oracle, and their reasons.
//!
//! | dtype of the logits | loss, relative | gradient row, of its largest entry | of the terms | reason |
//! |---|---|---|---|---|
//! | f32 | 2e-6 | 2e-6 | 2.4e-7 | an exponential and a sum over the classes, each of a few 6e-8 |
//! | f64 | 1e-12 | 1e-12 | 4.5e-16 | the same in f64; the room is for sums of many rows |
//! | f16 | 2e-6 | 1e-3 | 2.4e-7 | arithmetic in f32 from the rounded logits; on CPU backends the gradient is rounded to 11 bits, and once more when the upstream gradient has multiplied it: twice 2^-11 |
//! | bf16 | 2e-6 | 8e-3 | 2.4e-7 | arithmetic in f32 from the rounded logits; the gradient is rounded to 8 bits, and once more when an upstream gradient that is not a power of 2 multiplies it: twice 2^-8 |
//!
//! An entry of the gradient is a difference of two terms, `A p` and `a` (at a class of more than half the
//! probability, of the sums of the other classes' terms). Where a row has been learned, the two nearly cancel, and no
//! arithmetic of 24 bits knows their difference better than to two units in the terms' last place: an exponential
//! of one, and three roundings of a half. PyTorch's f32 is off by up to 5e-5 of the largest entry in such rows of
//! the fixtures.
//!
//! Logits that are scaled or capped are rounded before their differences are taken, which costs the loss and
//! both gradients units in the terms' last place too ([`Terms`]).
//!
//! Where a projection makes the logits, a result may be off by a share of its tensor's largest number:
//!
//! | dtype of the projection | loss | gradients | reason |
//! |---|---|---|---|
//! | f32 | 2e-5 | 2e-5 | logits are sums of products in f32, whose rounding an exponential hands on; gradients are sums over all classes or rows, in which terms cancel |
//! | f64 | 1e-13 | 1e-13 | the same in f64 |
//! | f16 | 2e-5 | 6e-4 | on CPU backends all of it is in f32, from the rounded numbers; the gradients are rounded to 11 bits |
//! | bf16 | 2e-5 | 4e-3 | the same; the gradients are rounded to 8 bits |
//! | f32 on CUDA | 1e-3 | 2e-3 | Burn's autotune takes tensor cores for some products, which round the factors to the 11 bits of TF32 |
//!
//! Differences below `floor`, which is near the smallest number of the dtype, do not count.

use burn::tensor::{DType, Device};

use super::backends::has_tf32;
#[cfg(doc)]
use super::problem::Terms;
use super::problem::{Outcome, Problem};

#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub loss: f64,
    pub gradient: f64,
    pub terms: f64,
    pub floor: f64,
}

pub fn of(logits: DType) -> Tolerance {
    let (loss, gradient, terms, floor) = match logits {
        DType::F64 => (1e-12, 1e-12, 2f64.powi(-51), 1e-300),
        DType::F16 => (2e-6, 1e-3, 2f64.powi(-22), 6e-8),
        DType::BF16 => (2e-6, 8e-3, 2f64.powi(-22), 1e-37),
        _ => (2e-6, 2e-6, 2f64.powi(-22), 1e-37),
    };
    Tolerance {
        loss,
        gradient,
        terms,
        floor,
    }
}

/// Tolerances as shares of the largest number of each result.
#[derive(Clone, Copy, Debug)]
pub struct OfLargest {
    pub loss: f64,
    pub gradient: f64,
}

pub fn of_projection(dtype: DType, device: &Device) -> OfLargest {
    let (loss, gradient) = match dtype {
        DType::F64 => (1e-13, 1e-13),
        DType::BF16 if has_tf32(device) => (1e-3, 4e-3),
        _ if has_tf32(device) => (1e-3, 2e-3),
        DType::F16 => (2e-5, 6e-4),
        DType::BF16 => (2e-5, 4e-3),
        _ => (2e-5, 2e-5),
    };
    OfLargest { loss, gradient }
}

/// What is allowed behind products of f32: `allowed`, or where these may be of TF32 what that asks for.
pub fn behind_products(allowed: f64, device: &Device) -> f64 {
    match has_tf32(device) {
        true => allowed.max(of_projection(DType::F32, device).gradient),
        false => allowed,
    }
}

/// Asserts that numbers agree to a share of the largest of them.
#[track_caller]
pub fn assert_numbers(name: &str, found: &[f64], expected: &[f64], allowed: f64) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let finite = expected.iter().filter(|number| number.is_finite());
    let largest = finite.fold(0.0, |largest: f64, number| largest.max(number.abs()));
    for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            same(found, expected, allowed * largest),
            "{name} {at} is {found:e}, expected {expected:e}; the largest is {largest:e}"
        );
    }
}

/// Asserts that two outcomes of one problem agree.
#[track_caller]
pub fn assert_close(
    name: &str,
    problem: &Problem,
    found: &Outcome,
    expected: &Outcome,
    dtype: DType,
) {
    if let Err(difference) = compare(problem, found, expected, of(dtype)) {
        panic!("{name}: {difference}");
    }
}

#[track_caller]
pub fn assert_losses(name: &str, found: &[f64], expected: &[f64], tolerance: Tolerance) {
    if let Err(difference) = compare_losses(found, expected, &[], tolerance) {
        panic!("{name}: {difference}");
    }
}

/// Finds the first difference between two outcomes that is beyond the tolerance.
pub fn compare(
    problem: &Problem,
    found: &Outcome,
    expected: &Outcome,
    tolerance: Tolerance,
) -> Result<(), String> {
    let terms = &expected.terms;
    compare_losses(&found.loss, &expected.loss, &terms.loss, tolerance)?;
    compare_rows(
        problem,
        (&found.logits_gradient, &expected.logits_gradient),
        &terms.logits_gradient,
        tolerance,
    )
    .map_err(|difference| format!("gradient of the logits: {difference}"))?;
    let Some(expected) = &expected.targets_gradient else {
        return Ok(());
    };
    let Some(found) = &found.targets_gradient else {
        return Err("no gradient of the targets".to_string());
    };
    compare_rows(
        problem,
        (found, expected),
        &terms.targets_gradient,
        tolerance,
    )
    .map_err(|difference| format!("gradient of the targets: {difference}"))
}

/// Whether two numbers are finite and within the allowed distance, or the same infinity, or both NaN.
fn same(found: f64, expected: f64, allowed: f64) -> bool {
    if expected.is_finite() {
        (found - expected).abs() <= allowed
    } else {
        found == expected || (found.is_nan() && expected.is_nan())
    }
}

fn compare_losses(
    found: &[f64],
    expected: &[f64],
    terms: &[f64],
    tolerance: Tolerance,
) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!(
            "{} losses, expected {}",
            found.len(),
            expected.len()
        ));
    }
    for (row, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let terms = terms.get(row).unwrap_or(&0.0);
        let allowed =
            tolerance.loss * expected.abs().max(tolerance.floor) + tolerance.terms * terms;
        if !same(found, expected, allowed) {
            return Err(format!(
                "loss {row} is {found:e}, expected {expected:e}, relative error {:e}",
                (found - expected).abs() / expected.abs()
            ));
        }
    }
    Ok(())
}

fn compare_rows(
    problem: &Problem,
    (found, expected): (&[f64], &[f64]),
    terms: &[f64],
    tolerance: Tolerance,
) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!(
            "{} entries, expected {}",
            found.len(),
            expected.len()
        ));
    }
    for row in 0..problem.rows() {
        let entries = || (0..problem.classes()).map(|class| problem.at(row, class));
        let largest = entries()
            .map(|at| expected[at].abs())
            .filter(|entry| entry.is_finite())
            .fold(0.0, f64::max);
        for at in entries() {
            // Only an ignored row must be exactly 0; the gradient of another row may be a difference of equal
            // terms.
            let allowed = if largest == 0.0 && terms[at] == 0.0 {
                0.0
            } else {
                tolerance.gradient * largest + tolerance.terms * terms[at] + tolerance.floor
            };
            let (found, expected) = (found[at], expected[at]);
            if !same(found, expected, allowed) {
                return Err(format!(
                    "entry {at} in row {row} is {found:e}, expected {expected:e}; off by {:e} of \
                     the row's largest, {largest:e}; terms {:e}",
                    (found - expected).abs() / largest,
                    terms[at]
                ));
            }
        }
    }
    Ok(())
}
