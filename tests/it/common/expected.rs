//! Comparisons with the oracle where a result may be infinite or NaN.
//!
//! What the oracle knows in f64 may be beyond the numbers of the dtype: then the result is the infinity of its
//! sign. A number that is made of another result beyond them may be infinite even if it would not be by itself,
//! because a small factor comes last: a loss or a gradient of a log-probability or of a log-sum-exp, which are
//! details of the row; a gradient under an upstream gradient, which multiplies the gradient under 1. (A factor
//! of 0 makes NaN of it.)
//!
//! A row without a distribution has a loss of NaN, and NaN in its gradients, though not in every entry:
//! a class without a share, or whose exponential is 0, may have a gradient of 0.

use burn::nn::loss::Reduction;
use burn::tensor::DType;

use super::details::{self, Details, divisors, largest_of};
use super::oracle::{self, RowDetails};
use super::problem::{Outcome, Problem, Terms};
use super::tolerance::{self, Tolerance};

/// What the oracle expects of a problem.
pub struct Expected<'a> {
    pub problem: &'a Problem,
    pub outcome: &'a Outcome,
    pub rows: &'a [RowDetails],
    /// What is right for the same problem with another reduction.
    pub solve: &'a dyn Fn(&Problem) -> Outcome,
}

/// The dtypes of the two gradients.
#[derive(Clone, Copy)]
pub struct Dtypes {
    pub logits: DType,
    pub shares: DType,
}

impl Dtypes {
    pub fn both(dtype: DType) -> Self {
        Self {
            logits: dtype,
            shares: dtype,
        }
    }

    /// The largest number of the loss and of the details.
    pub fn limit(self) -> f64 {
        match self.logits {
            DType::F64 => f64::MAX,
            _ => largest_of(DType::F32),
        }
    }

    /// The tolerance of the loss and of the logits' gradient. In f64 the oracle's own rounding counts too.
    pub fn tolerance(self) -> Tolerance {
        let tolerance = tolerance::of(self.logits);
        match self.logits {
            DType::F64 => Tolerance {
                terms: 4.0 * tolerance.terms,
                ..tolerance
            },
            _ => tolerance,
        }
    }

    /// The coarser of two tolerances: the targets' gradient is computed in one dtype and rounded to the other.
    fn coarser(self) -> Tolerance {
        let (of_logits, of_shares) = (self.tolerance(), tolerance::of(self.shares));
        Tolerance {
            gradient: of_logits.gradient.max(of_shares.gradient),
            floor: of_logits.floor.max(of_shares.floor),
            ..of_logits
        }
    }
}

impl Expected<'_> {
    /// Compares the loss, and the gradients that there are: one without entries was not computed.
    pub fn compare(&self, found: &Outcome, dtypes: Dtypes) -> Result<(), String> {
        let expected = self.attainable(found, dtypes);
        let mut of_logits = Outcome {
            targets_gradient: expected.targets_gradient.clone(),
            ..found.clone()
        };
        if found.logits_gradient.is_empty() {
            of_logits.logits_gradient = expected.logits_gradient.clone();
        }
        let tolerance = dtypes.tolerance();
        tolerance::compare(self.problem, &of_logits, &expected, tolerance)?;
        let of_targets = Outcome {
            targets_gradient: found.targets_gradient.clone(),
            ..expected.clone()
        };
        if found.targets_gradient.is_none() {
            return Ok(());
        }
        tolerance::compare(self.problem, &of_targets, &expected, dtypes.coarser())
    }

    /// The expected results as the dtypes can hold them.
    fn attainable(&self, found: &Outcome, dtypes: Dtypes) -> Outcome {
        let mut expected = self.outcome.clone();
        let tolerance = dtypes.coarser();
        limit(
            &mut expected.loss,
            &found.loss,
            dtypes.limit(),
            tolerance.loss,
        );
        self.excuse_losses(&mut expected.loss, &found.loss, dtypes.limit());
        let Outcome {
            logits_gradient,
            targets_gradient,
            ..
        } = &mut expected;
        let of_one = oracle::solve(&Problem {
            upstream: vec![1.0; self.problem.upstream.len()],
            ..self.problem.clone()
        });
        if !found.logits_gradient.is_empty() {
            let (found, largest) = (&found.logits_gradient, largest_of(dtypes.logits));
            limit(logits_gradient, found, largest, tolerance.gradient);
            self.excuse_cancelled(logits_gradient, found, tolerance);
            self.excuse_rows_of_nan(logits_gradient, found);
            let exact = [&self.outcome.logits_gradient[..], &of_one.logits_gradient];
            self.excuse(logits_gradient, found, exact, largest);
            let has_penalty = self.problem.config.z_loss != 0.0;
            self.excuse_rows(logits_gradient, found, |row| {
                has_penalty && self.rows[row].lse.abs() >= dtypes.limit()
            });
        }
        let exact = [&self.outcome.targets_gradient, &of_one.targets_gradient];
        if let (Some(expected), Some(found), [Some(as_is), Some(of_one)]) =
            (targets_gradient, &found.targets_gradient, exact)
        {
            limit(
                expected,
                found,
                largest_of(dtypes.shares),
                tolerance.gradient,
            );
            self.excuse_rows_of_nan(expected, found);
            // It is computed in the dtype of the arithmetic, which may hold less than the shares' own.
            let largest = largest_of(dtypes.shares).min(dtypes.limit());
            self.excuse(expected, found, [as_is, of_one], largest);
            let is_beyond = |row: usize| self.rows[row].largest_surprisal >= largest;
            self.excuse_rows(expected, found, is_beyond);
        }
        expected
    }

    /// Takes over infinite losses of rows with a log-probability beyond the limit, or with a loss beyond it
    /// before the row's weight.
    fn excuse_losses(&self, expected: &mut [f64], found: &[f64], limit: f64) {
        let unweighted = self.unweighted_losses();
        let is_beyond = |row: usize| {
            self.rows[row].largest_surprisal >= limit
                || unweighted.get(row).is_some_and(|loss| *loss >= limit)
        };
        for (at, (expected, found)) in expected.iter_mut().zip(found).enumerate() {
            let excused = match self.problem.unreduced {
                true => is_beyond(at),
                false => (0..self.rows.len()).any(is_beyond),
            };
            if excused && found.is_infinite() && *expected > 0.0 {
                *expected = *found;
            }
        }
    }

    /// The losses of the rows without their weights; nothing where there are no weights.
    fn unweighted_losses(&self) -> Vec<f64> {
        if self.problem.row_weights.is_none() {
            return Vec::new();
        }
        let weight = |row: usize| f64::from(u8::from(!self.problem.is_ignored(row)));
        let unweighted = Problem {
            row_weights: Some((0..self.problem.rows()).map(weight).collect()),
            unreduced: true,
            upstream: vec![1.0; self.problem.rows()],
            ..self.problem.clone()
        };
        oracle::solve(&unweighted).loss
    }

    /// Takes over numbers that are not finite in rows with an entry beyond the limit in one of the exact
    /// gradients: that of the problem, and that under an upstream gradient of 1.
    fn excuse(&self, expected: &mut [f64], found: &[f64], exact: [&[f64]; 2], limit: f64) {
        let is_beyond = |entry: f64| entry.is_finite() && entry.abs() >= limit;
        self.excuse_rows(expected, found, |row| {
            let mut entries = (0..self.problem.classes()).map(|class| self.problem.at(row, class));
            entries.any(|at| exact.iter().any(|exact| is_beyond(exact[at])))
        });
    }

    /// Takes over numbers that are not finite in rows that have a reason.
    fn excuse_rows(&self, expected: &mut [f64], found: &[f64], has_reason: impl Fn(usize) -> bool) {
        for row in (0..self.problem.rows()).filter(|row| has_reason(*row)) {
            let entries = (0..self.problem.classes()).map(|class| self.problem.at(row, class));
            for at in entries.filter(|at| !found[*at].is_finite()) {
                expected[at] = found[at];
            }
        }
    }

    /// Takes over finite numbers in place of infinite ones where the rounding of the terms alone is beyond the
    /// limit.
    fn excuse_cancelled(&self, expected: &mut [f64], found: &[f64], tolerance: Tolerance) {
        let exact = &self.outcome.logits_gradient;
        let terms = &self.outcome.terms.logits_gradient;
        for (at, expected) in expected.iter_mut().enumerate() {
            let allowed = tolerance.terms * terms[at];
            let is_other = expected.is_infinite() && found[at].is_finite();
            if is_other && (found[at] - exact[at]).abs() <= allowed {
                *expected = found[at];
            }
        }
    }

    /// Takes over what was found in a row that has NaN where the oracle has it somewhere.
    fn excuse_rows_of_nan(&self, expected: &mut [f64], found: &[f64]) {
        for row in (0..self.problem.rows()).filter(|row| self.rows[*row].lse.is_nan()) {
            let entries = || (0..self.problem.classes()).map(|class| self.problem.at(row, class));
            if entries().any(|at| expected[at].is_nan()) && entries().any(|at| found[at].is_nan()) {
                for at in entries() {
                    expected[at] = found[at];
                }
            }
        }
    }

    /// Compares the details of the rows, the divisors, the loss that comes with them, and the loss over the
    /// normalizer of its own targets, which is the mean.
    pub fn compare_details(&self, found: &Details, dtypes: Dtypes) -> Result<(), String> {
        let tolerance = dtypes.tolerance();
        details::compare(&found.rows, self.rows, tolerance, dtypes.limit())?;
        let exact = divisors(self.problem);
        for (name, found) in [
            ("divisors", found.divisors),
            ("normalizer", found.normalizer),
        ] {
            let close = |at: usize| (found[at] - exact[at]).abs() <= 2e-6 * exact[at];
            if !close(0) || !close(1) {
                return Err(format!("{name} {found:?}, expected {exact:?}"));
            }
        }
        let reduced = Problem {
            unreduced: false,
            upstream: vec![found.upstream],
            tracked_targets: false,
            ..self.problem.clone()
        };
        let mean = reduced.clone();
        let mean = mean.with_config(|config| config.with_reduction(Reduction::Mean));
        for (name, problem, loss, logits_gradient) in [
            ("loss with the details", &reduced, &found.loss, &vec![]),
            (
                "over a normalizer",
                &mean,
                &found.normalized.0,
                &found.normalized.1,
            ),
        ] {
            let found = Outcome {
                loss: loss.clone(),
                logits_gradient: logits_gradient.clone(),
                targets_gradient: None,
                terms: Terms::default(),
            };
            let expected = Expected {
                problem,
                outcome: &(self.solve)(problem),
                rows: self.rows,
                solve: self.solve,
            };
            let result = expected.compare(&found, dtypes);
            result.map_err(|difference| format!("{name}: {difference}"))?;
        }
        Ok(())
    }
}

/// Makes numbers beyond the limit infinite. A number that is close to the limit may be on either side of it.
fn limit(expected: &mut [f64], found: &[f64], limit: f64, margin: f64) {
    for (expected, found) in expected.iter_mut().zip(found) {
        let size = expected.abs();
        let is_beyond = size > limit * (1.0 + margin);
        let may_be_beyond = size >= limit * (1.0 - margin) && found.is_infinite();
        if is_beyond || may_be_beyond {
            *expected = f64::INFINITY.copysign(*expected);
        }
    }
}
