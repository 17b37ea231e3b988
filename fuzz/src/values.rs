//! Values of the rows with their gradients, compared with their definitions.

use burn::tensor::DType;

use crate::common::details::{agrees, largest_of};
use crate::common::expected::Dtypes;
use crate::common::problem::{Outcome, Problem};
use crate::common::tolerance::Tolerance;

/// What is below is 0 in f32: as many of the smallest normal numbers as there are logits.
const TINY: f64 = 1e-30;

/// Finds the first difference of values without targets. A row without a distribution has NaN as its value, and NaN
/// somewhere in its gradient.
pub fn compare(
    problem: &Problem,
    found: &Outcome,
    expected: &Outcome,
    dtype: DType,
) -> Result<(), String> {
    let dtypes = Dtypes::both(dtype);
    let floor = match dtype {
        DType::F64 => dtypes.tolerance().floor,
        _ => dtypes.tolerance().floor.max(TINY),
    };
    let tolerance = Tolerance {
        floor,
        ..dtypes.tolerance()
    };
    for row in 0..problem.rows() {
        let (value, exact) = (found.loss[row], expected.loss[row]);
        let terms = expected.terms.loss[row];
        let rounding = if terms.is_finite() {
            tolerance.terms * terms
        } else {
            0.0
        };
        let allowed = tolerance.loss * exact.abs() + rounding + tolerance.floor;
        if !agrees(value, exact, allowed, dtypes.limit()) {
            return Err(format!("value {row} is {value:e}, expected {exact:e}"));
        }
        if !exact.is_nan() && !is_factor_beyond(problem, row, dtypes.limit()) {
            compare_gradient(problem, row, (found, expected), (tolerance, dtype))?;
        }
    }
    Ok(())
}

/// Whether the factor of a row's probabilities is beyond the arithmetic: the scale, or that times the upstream
/// gradient, which comes after a gradient for 1.
fn is_factor_beyond(problem: &Problem, row: usize, limit: f64) -> bool {
    problem.config.logit_scale * problem.upstream[row].abs().max(1.0) > limit
}

fn compare_gradient(
    problem: &Problem,
    row: usize,
    (found, expected): (&Outcome, &Outcome),
    (tolerance, dtype): (Tolerance, DType),
) -> Result<(), String> {
    let places = || (0..problem.classes()).map(|class| problem.at(row, class));
    let sizes = places().map(|at| expected.logits_gradient[at].abs());
    let largest = sizes.filter(|size| size.is_finite()).fold(0.0, f64::max);
    for at in places() {
        let (found, exact) = (found.logits_gradient[at], expected.logits_gradient[at]);
        let terms = expected.terms.logits_gradient[at];
        let allowed = tolerance.gradient * largest + tolerance.terms * terms + tolerance.floor;
        if !agrees(found, exact, allowed, largest_of(dtype)) {
            return Err(format!(
                "gradient {at} of row {row} is {found:e}, expected {exact:e}; terms {terms:e}"
            ));
        }
    }
    Ok(())
}
