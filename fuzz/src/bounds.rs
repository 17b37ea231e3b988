//! What is right for a projection, and how far from it a result may be.
//!
//! The logits are sums of products, whose rounding errors an exponential hands on. So a result may be off by
//! more than the tolerance of a given logit: by the roundings of the sums, as far as the result depends on
//! them. A gradient is a sum whose terms may cancel, so it is measured by their size and not by its own.

use burn::tensor::{DType, Device};

use crate::common::details::{RowNumbers, agrees, compare, divisors, largest_of};
use crate::common::oracle::{self, RowDetails};
use crate::common::problem::{Outcome, Problem, Targets, is_batch_mean, is_sum};
use crate::common::smallest_of;
use crate::common::tolerance::{self, OfLargest, Tolerance};
use crate::projected::{Found, Projected};

/// The relative error of an exponential beyond which its digits say nothing.
const MOST_ERROR: f64 = 0.01;

pub struct Bounds<'a> {
    projected: &'a Projected,
    dtype: DType,
    exact: Outcome,
    rows: Vec<RowDetails>,
    /// The error of the logits of each row, in units in the last place of 1.
    errors: Vec<f64>,
    /// The gradients of the logits.
    slopes: Vec<Slope>,
    /// The gradients of the logits under an upstream gradient of 1.
    unit_slopes: Vec<Slope>,
}

/// A gradient: a sum, the size of its terms, and the same times the error of the logits.
#[derive(Clone, Copy, Default)]
struct Slope {
    value: f64,
    terms: f64,
    errors: f64,
}

impl Slope {
    fn add(&mut self, slope: Self, factor: f64) {
        self.value += slope.value * factor;
        self.terms += slope.terms * factor.abs();
        self.errors += slope.errors * factor.abs();
    }

    fn is_finite(self) -> bool {
        [self.value, self.terms, self.errors]
            .iter()
            .all(|number| number.is_finite())
    }
}

/// The error of the logits of a row: sums of as many products as there are features.
fn error_of(projected: &Projected, row: usize) -> f64 {
    let (features, classes) = (projected.features, projected.problem.classes());
    let size = |class: usize| -> f64 {
        let product = |feature: usize| {
            projected.input[row * features + feature] * projected.weight[feature * classes + class]
        };
        let bias = projected.bias.as_ref().map_or(0.0, |bias| bias[class]);
        let terms = (0..features).map(product).chain([bias]);
        terms.map(f64::abs).filter(|term| term.is_finite()).sum()
    };
    let largest = (0..classes).map(size).fold(0.0, f64::max);
    (features + 2) as f64 * largest
}

fn slopes(problem: &Problem, errors: &[f64]) -> (Outcome, Vec<Slope>) {
    let exact = oracle::solve(problem);
    // The derivative of the penalty has the log-sum-exp as a factor, whose error counts where it is 0, too.
    let penalty = 2.0 * problem.config.z_loss * problem.config.logit_scale;
    let classes = problem.classes();
    let slope = |at: usize| {
        let row = at / classes;
        let upstream = problem.upstream[if problem.unreduced { row } else { 0 }];
        let value = exact.logits_gradient[at];
        let terms = value.abs() + exact.terms.logits_gradient[at] + penalty * upstream.abs();
        Slope {
            value,
            terms,
            errors: terms * errors[row],
        }
    };
    let slopes = (0..problem.logits.len()).map(slope).collect();
    (exact, slopes)
}

impl<'a> Bounds<'a> {
    pub fn new(projected: &'a Projected, dtype: DType) -> Self {
        let problem = &projected.problem;
        let errors: Vec<f64> = (0..problem.rows())
            .map(|row| error_of(projected, row))
            .collect();
        let (exact, slopes_given) = slopes(problem, &errors);
        let mut unit = problem.clone();
        unit.upstream.fill(1.0);
        Self {
            projected,
            dtype,
            exact,
            rows: oracle::details(problem),
            slopes: slopes_given,
            unit_slopes: slopes(&unit, &errors).1,
            errors,
        }
    }

    fn problem(&self) -> &'a Problem {
        &self.projected.problem
    }

    fn row(&self, row: usize) -> std::ops::Range<usize> {
        let classes = self.problem().classes();
        row * classes..(row + 1) * classes
    }

    /// The tolerance of the dtype that the crate computes in. In f32, what is below the floor is 0: as many of
    /// the smallest normal numbers as a sum has terms, times a weight.
    fn arithmetic(&self) -> Tolerance {
        let tolerance = tolerance::of(self.dtype_of_loss());
        match self.dtype {
            DType::F64 => tolerance,
            _ => Tolerance {
                floor: 1e-30,
                ..tolerance
            },
        }
    }

    fn of_projection(&self) -> OfLargest {
        tolerance::of_projection(self.dtype, &Device::flex())
    }

    fn is_ignored(&self, row: usize) -> bool {
        self.rows[row].rank < 0
    }

    /// Whether the error of the logits leaves the exponentials no digits.
    fn is_vague(&self, row: usize) -> bool {
        let scale = self.problem().config.logit_scale;
        self.errors[row] * self.arithmetic().terms * scale > MOST_ERROR
    }

    /// Whether the gradients of a row can be compared number by number: also the logits' own, between two
    /// products, are within their dtype. Infinities of both signs add up to NaN.
    fn is_clear(&self, row: usize) -> bool {
        let largest = largest_of(self.dtype_of_loss());
        let is_within = |slope: &Slope| slope.is_finite() && slope.value.abs() <= largest;
        !self.is_vague(row) && self.slopes[self.row(row)].iter().all(is_within)
    }

    /// Whether the gradient is within its bounds.
    fn holds(&self, found: f64, slope: Slope) -> bool {
        if slope.terms > largest_of(self.dtype_of_loss()) {
            // Terms beyond the range of both signs add up to NaN.
            return true;
        }
        let floor = tolerance::of(self.dtype).floor;
        let allowed = self.of_projection().gradient * slope.terms
            + self.arithmetic().terms * slope.errors
            + floor.max(self.arithmetic().floor);
        agrees(found, slope.value, allowed, largest_of(self.dtype))
    }

    /// Finds the first difference beyond its bound.
    pub fn compare(&self, found: &Found) -> Result<(), String> {
        self.compare_losses(&found.loss)?;
        for row in 0..self.problem().rows() {
            self.compare_input(row, &found.input)?;
            if let Some(found) = &found.targets {
                self.compare_targets(row, found)?;
            }
        }
        let is_clear = |row: usize| self.is_ignored(row) || self.is_clear(row);
        if !(0..self.problem().rows()).all(is_clear) {
            return Ok(());
        }
        self.compare_weight(&found.weight)?;
        match &found.bias {
            Some(found) => self.compare_bias(found),
            None => Ok(()),
        }
    }

    fn compare_losses(&self, found: &[f64]) -> Result<(), String> {
        let rows = self.problem().rows();
        let groups: Vec<Vec<usize>> = match self.problem().unreduced {
            true => (0..rows).map(|row| vec![row]).collect(),
            false => vec![(0..rows).collect()],
        };
        for (at, (rows, &found)) in groups.iter().zip(found).enumerate() {
            let expected = self.exact.loss[at];
            let counted = || rows.iter().filter(|row| !self.is_ignored(**row));
            let is_right = if found == expected {
                true
            } else if counted().any(|row| self.is_vague(*row)) {
                found.is_nan() == expected.is_nan()
            } else {
                let slopes = counted().flat_map(|row| self.row(*row));
                let (mut errors, mut logarithms) = (0.0, 0.0);
                for at in slopes {
                    errors += self.unit_slopes[at].errors;
                    if !self.problem().config.logits {
                        let probability = self.problem().logits[at];
                        let share = self.unit_slopes[at].value.abs() * probability;
                        logarithms += share * (1.0 + probability.ln().abs());
                    }
                }
                let terms = self.exact.terms.loss.get(at).unwrap_or(&0.0) + errors;
                let allowed = self.of_projection().loss * (expected.abs() + logarithms)
                    + self.arithmetic().terms * terms
                    + self.arithmetic().floor;
                agrees(found, expected, allowed, largest_of(self.dtype_of_loss()))
            };
            if !is_right {
                return Err(format!("loss {at} is {found:e}, expected {expected:e}"));
            }
        }
        Ok(())
    }

    fn dtype_of_loss(&self) -> DType {
        match self.dtype {
            DType::F64 => DType::F64,
            _ => DType::F32,
        }
    }

    fn compare_input(&self, row: usize, found: &[f64]) -> Result<(), String> {
        let Projected {
            features, weight, ..
        } = self.projected;
        let classes = self.problem().classes();
        let found = &found[row * features..(row + 1) * features];
        let slopes = &self.slopes[self.row(row)];
        if self.is_ignored(row) {
            return match found.iter().position(|slope| *slope != 0.0) {
                None => Ok(()),
                Some(at) => Err(format!(
                    "input {at} of row {row} is not 0: the row is ignored"
                )),
            };
        }
        if !self.is_clear(row) {
            let is_spoiled =
                self.rows[row].lse.is_nan() && slopes.iter().any(|slope| slope.value.is_nan());
            return match is_spoiled && *features > 0 && !found.iter().any(|slope| slope.is_nan()) {
                true => Err(format!("input of row {row} has no NaN")),
                false => Ok(()),
            };
        }
        for (feature, &found) in found.iter().enumerate() {
            let mut expected = Slope::default();
            for (class, slope) in slopes.iter().enumerate() {
                expected.add(*slope, weight[feature * classes + class]);
            }
            if !self.holds(found, expected) {
                let expected = expected.value;
                return Err(format!(
                    "input {feature} of row {row} is {found:e}, expected {expected:e}"
                ));
            }
        }
        Ok(())
    }

    /// Adds up the gradients of the logits of a class, times a number of each counted row.
    fn over_rows(&self, class: usize, factor: impl Fn(usize) -> f64) -> Slope {
        let mut sum = Slope::default();
        for row in (0..self.problem().rows()).filter(|row| !self.is_ignored(*row)) {
            sum.add(self.slopes[self.row(row)][class], factor(row));
        }
        sum
    }

    fn compare_weight(&self, found: &[f64]) -> Result<(), String> {
        let Projected {
            features, input, ..
        } = self.projected;
        let classes = self.problem().classes();
        for (at, &found) in found.iter().enumerate() {
            let (feature, class) = (at / classes, at % classes);
            let expected = self.over_rows(class, |row| input[row * features + feature]);
            if !self.holds(found, expected) {
                let expected = expected.value;
                return Err(format!(
                    "weight {feature} of class {class} is {found:e}, expected {expected:e}"
                ));
            }
        }
        Ok(())
    }

    fn compare_bias(&self, found: &[f64]) -> Result<(), String> {
        for (class, &found) in found.iter().enumerate() {
            let expected = self.over_rows(class, |_| 1.0);
            if !self.holds(found, expected) {
                let expected = expected.value;
                return Err(format!(
                    "bias of class {class} is {found:e}, expected {expected:e}"
                ));
            }
        }
        Ok(())
    }

    fn compare_targets(&self, row: usize, found: &[f64]) -> Result<(), String> {
        let Some(expected) = &self.exact.targets_gradient else {
            return Ok(());
        };
        let problem = self.problem();
        let upstream = problem.upstream[if problem.unreduced { row } else { 0 }];
        if !self.is_clear(row) || !upstream.is_finite() {
            return Ok(());
        }
        let weights = problem.config.weight.iter().flatten();
        let largest = weights.fold(1.0, |largest: f64, weight| largest.max(f64::from(*weight)));
        let divisor =
            match problem.unreduced || is_sum(&problem.config) || is_batch_mean(&problem.config) {
                true => 1.0,
                false => divisors(problem)[0].max(1.0),
            };
        let scale = problem.config.logit_scale;
        let error = 2.0 * (self.errors[row] * scale + self.projected.features as f64 + 2.0);
        for at in self.row(row) {
            let slope = Slope {
                value: expected[at],
                terms: if expected[at].is_finite() {
                    expected[at].abs()
                } else {
                    0.0
                },
                errors: self.exact.terms.targets_gradient[at]
                    + error * upstream.abs() * largest / divisor,
            };
            if !self.holds(found[at], slope) {
                return Err(format!(
                    "gradient of target {at} is {:e}, expected {:e}",
                    found[at], expected[at]
                ));
            }
        }
        Ok(())
    }

    /// Finds the first difference of what a call gives for every row.
    pub fn compare_rows(&self, mut found: RowNumbers) -> Result<(), String> {
        let mut rows = oracle::details(self.problem());
        let scale = self.problem().config.logit_scale;
        for (row, expected) in rows.iter_mut().enumerate() {
            let error = 2.0 * (self.errors[row] * scale + self.projected.features as f64 + 2.0);
            expected.terms += error;
            expected.log_prob_terms += error * self.shares_of(row).max(1.0);
            expected.max_log_prob_terms += error;
            if self.is_vague(row) {
                for (found, expected) in [
                    (&mut found.lse, expected.lse),
                    (&mut found.log_prob, expected.log_prob),
                    (&mut found.max_log_prob, expected.max_log_prob),
                    (&mut found.entropy, expected.entropy),
                ] {
                    if !found[row].is_nan() && !expected.is_nan() {
                        found[row] = expected;
                    }
                }
            }
            // The terms of an entropy have both signs where products that stand for probabilities are beyond 1.
            let rounding = 16.0 * self.arithmetic().terms * self.terms_of_entropy(row);
            if (found.entropy[row] - expected.entropy).abs() <= rounding {
                found.entropy[row] = expected.entropy;
            }
            if self.may_change_places(row) {
                found.predicted[row] = expected.predicted;
                found.rank[row] = expected.rank;
            }
        }
        compare(
            &found,
            &rows,
            self.arithmetic(),
            largest_of(self.dtype_of_loss()),
        )
    }

    /// Sum of the sizes of the terms of the entropy of a row of probabilities; 0 over logits.
    fn terms_of_entropy(&self, row: usize) -> f64 {
        if self.problem().config.logits {
            return 0.0;
        }
        let term = |share: &f64| (share * share.ln()).abs();
        let terms = self.problem().logits[self.row(row)].iter().map(term);
        terms.filter(|term| term.is_finite()).sum()
    }

    fn shares_of(&self, row: usize) -> f64 {
        match &self.problem().targets {
            Targets::Indices(_) => 1.0,
            Targets::Distributions(shares) => shares[self.row(row)].iter().sum(),
        }
    }

    /// Whether two logits of the row are so close to each other that their roundings decide on their order.
    fn may_change_places(&self, row: usize) -> bool {
        let mut logits = self.problem().logits[self.row(row)].to_vec();
        logits.sort_by(f64::total_cmp);
        let smallest = smallest_of(self.dtype_of_loss());
        let products = (self.projected.features + 2) as f64;
        let margin = 4.0 * (self.errors[row] * self.arithmetic().terms + products * smallest);
        logits.windows(2).any(|pair| pair[1] - pair[0] <= margin)
    }
}
