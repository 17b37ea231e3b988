//! What is right for a projection, and how far from it a result may be.
//!
//! The logits are sums of products, whose rounding errors an exponential hands on. So a result may be off by
//! more than the tolerance of a given logit: by the roundings of the sums, as far as the result depends on
//! them. A gradient is a sum whose terms may cancel, so it is measured by their size and not by its own.

use burn::tensor::{DType, Device};
use burn_cross_entropy::RowFactor;

use crate::common::details::{RowNumbers, agrees, compare, divisors, largest_of};
use crate::common::oracle::{self, RowDetails};
use crate::common::problem::{Outcome, Problem, Targets, is_batch_mean, is_sum};
use crate::common::row_value::Asked;
use crate::common::smallest_of;
use crate::common::teacher::Teacher;
use crate::common::tolerance::{self, OfLargest, Tolerance};
use crate::excuses::is_factor_vague;
use crate::projected::{Found, Projected};
use crate::projection::Case;
use crate::slopes::{ERRORS_OF_FACTOR, Slope, Taught, error_of, slopes};

/// The relative error of an exponential beyond which its digits say nothing.
const MOST_ERROR: f64 = 0.01;

pub struct Bounds<'a> {
    projected: &'a Projected,
    /// The problem over the logits, as it is asked: with the probabilities of a teacher, and the options that apply.
    problem: Problem,
    dtype: DType,
    exact: Outcome,
    /// The value of each row by itself.
    of_rows: Vec<f64>,
    rows: Vec<RowDetails>,
    /// The error of the logits of each row, in units in the last place of 1.
    errors: Vec<f64>,
    of_teacher: Taught<'a>,
    /// The gradients of the logits.
    slopes: Vec<Slope>,
    /// The gradients of the logits under an upstream gradient of 1.
    unit_slopes: Vec<Slope>,
}

impl<'a> Bounds<'a> {
    pub fn new(case: &'a Case) -> Self {
        let (projected, asked) = (&case.projected, case.asked);
        let given = &projected.problem;
        let of_teacher = Taught::new(case);
        let plain = match asked {
            Asked::LogProb => of_teacher.teacher.map(Teacher::plain),
            _ => of_teacher.teacher.cloned(),
        };
        let over_shares = plain.map_or_else(|| given.clone(), |teacher| teacher.problem(given));
        let problem = asked.problem(&over_shares);
        let errors: Vec<f64> = (0..problem.rows())
            .map(|row| error_of(projected, row))
            .collect();
        let with = (&errors[..], &of_teacher);
        let (exact, slopes_given) = slopes(&problem, asked, with);
        let mut unit = problem.clone();
        unit.upstream.fill(1.0);
        let (_, unit_slopes) = slopes(&unit, asked, with);
        unit.unreduced = true;
        unit.upstream = vec![1.0; unit.rows()];
        Self {
            projected,
            dtype: case.form.dtype,
            exact,
            of_rows: of_teacher.solve(asked, &unit).loss,
            rows: match of_teacher.teacher {
                Some(teacher) => teacher.details(&problem),
                None => oracle::details(&problem),
            },
            slopes: slopes_given,
            unit_slopes,
            errors,
            of_teacher,
            problem,
        }
    }

    fn problem(&self) -> &Problem {
        &self.problem
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

    /// Whether the error of the logits, or of a teacher's, leaves the exponentials no digits, or the range of f32 the
    /// factor none.
    fn is_vague(&self, row: usize) -> bool {
        let error =
            (self.errors[row] * self.problem().config.logit_scale).max(self.of_teacher.errors[row]);
        self.of_teacher.is_ambiguous[row]
            || error * self.arithmetic().terms > MOST_ERROR
            || is_factor_vague(&self.problem, &self.rows[row], self.dtype_of_loss())
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
                let of_rows: f64 = counted().map(|row| self.error_of_loss(*row)).sum();
                let (mut errors, mut logarithms) = (of_rows / self.divisor(), 0.0);
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

    /// What a factor adds to the error of a row's loss, and what the errors of a teacher's shares make of it: the loss
    /// and the entropy are sums over them.
    fn error_of_loss(&self, row: usize) -> f64 {
        let (loss, weight) = (self.of_rows[row].abs(), self.problem().row_weight(row));
        let of_factor = match self.problem().config.row_factor {
            RowFactor::None => 0.0,
            _ => ERRORS_OF_FACTOR * self.errors[row] * self.problem().config.logit_scale * loss,
        };
        let entropy = 1.0 + (self.problem().classes() as f64).ln();
        let error = of_factor + self.of_teacher.errors[row] * (loss + weight * entropy);
        if error.is_finite() { error } else { 0.0 }
    }

    /// The divisor of the losses, or 1 where that is 0.
    fn divisor(&self) -> f64 {
        let problem = self.problem();
        if problem.unreduced || is_sum(&problem.config) || is_batch_mean(&problem.config) {
            return 1.0;
        }
        let [total, _] = divisors(problem);
        if total == 0.0 { 1.0 } else { total }
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
        let largest = largest * problem.row_weight(row) / self.divisor();
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
                errors: self.exact.terms.targets_gradient[at] + error * upstream.abs() * largest,
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
        let mut rows = self.rows.clone();
        let scale = self.problem().config.logit_scale;
        for (row, expected) in rows.iter_mut().enumerate() {
            let error = 2.0 * (self.errors[row] * scale + self.projected.features as f64 + 2.0);
            let of_shares = self.of_teacher.errors[row] * expected.log_prob.abs();
            expected.terms += error;
            expected.log_prob_terms += error * self.shares_of(row).max(1.0)
                + if of_shares.is_finite() {
                    of_shares
                } else {
                    0.0
                };
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
            if self.may_have_another_target(row) {
                found.target[row] = expected.target;
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

    /// Whether two shares of a teacher are so close to each other that their roundings decide which is the largest.
    fn may_have_another_target(&self, row: usize) -> bool {
        let Some(teacher) = self.of_teacher.teacher else {
            return false;
        };
        let Targets::Distributions(shares) = &self.problem().targets else {
            return false;
        };
        let shares = &shares[self.row(row)];
        let largest = shares.iter().copied().fold(0.0, f64::max);
        let margin = self.arithmetic().terms * 4.0 * (self.of_teacher.errors[row] + 2.0);
        let near = shares
            .iter()
            .filter(|share| **share >= largest * (1.0 - margin));
        let is_near = self.of_teacher.is_projected && near.count() > 1;
        is_near || teacher.is_tied(&self.projected.problem, row)
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
