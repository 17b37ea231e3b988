//! How far off a result of the contrastive losses may be, and its comparison with the loops over f64.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Gradients, Int, Tensor};
use burn_cross_entropy::InfoNceLoss;
use burn_cross_entropy::contrastive::SupCon;

use crate::by_hand::{Contrast, Solution, Sum, solve};
use crate::common::details::{agrees, largest_of};
use crate::common::run::numbers;
use crate::common::smallest_of;
use crate::common::tolerance::{self, Tolerance};
use crate::contrastive::{Case, Form};
use crate::contrastive_call::{Leaves, Loss};

/// The error of a similarity beyond which its exponential has no digits.
const MOST_ERROR: f64 = 0.01;

impl Case {
    /// The loss and the gradients by the formula.
    #[cfg(test)]
    pub fn solve(&self) -> Solution {
        solve(&self.contrast())
    }

    /// Compares the crate with the formula.
    ///
    /// # Errors
    ///
    /// The first difference.
    pub fn check(&self, device: &Device) -> Result<(), String> {
        let contrast = self.contrast();
        let solution = solve(&contrast);
        let loss = self.init(device);
        let leaves = self.leaves(device);
        let value = self.run(&loss, &leaves);
        let gradients = (value.clone() * self.upstream).backward();
        let error = self.error(&solution, &contrast);
        if solution.from_bound <= self.margin_of_decisions(error) {
            // Rounding says which keys are left out.
            return Ok(());
        }
        self.compare_loss(numbers(value)[0], &solution, &contrast, error)?;
        let is_plain = self.tensors.iter().flatten().all(|value| value.is_finite());
        if !is_plain || error > MOST_ERROR {
            return Ok(());
        }
        self.compare_gradients(&gradients, &leaves, &solution, error)?;
        let found = loss.gradients(&gradients);
        let expected = [
            ("temperature", solution.of_scale),
            ("bias", solution.of_bias),
        ];
        let parameters = match (self.config.learnable, &loss) {
            (false, _) => 0,
            (true, Loss::InfoNce(_)) => 1,
            (true, Loss::SigLip(_)) => 2,
        };
        if found.len() != parameters {
            let count = found.len();
            return Err(format!("{count} parameters have gradients"));
        }
        for (found, (name, expected)) in found.into_iter().zip(expected) {
            self.compare_sum(name, found, expected, error)?;
        }
        match &loss {
            // The loss of the positives' mean has no outputs.
            Loss::InfoNce(loss) if self.config.sup_con == SupCon::Out => {
                self.compare_rows(loss, &leaves, (&solution, &contrast), error)
            }
            _ => Ok(()),
        }
    }

    /// The dtype that the similarities are computed in. A learnt temperature is in f32.
    fn arithmetic(&self) -> DType {
        match (self.dtype, self.config.learnable) {
            (DType::F64, false) => DType::F64,
            _ => DType::F32,
        }
    }

    fn tolerance(&self) -> Tolerance {
        tolerance::of(self.arithmetic())
    }

    /// The largest error of a similarity: sums of as many products as there are features, of numbers that
    /// were divided by a length and by the temperature, and of what is added to them.
    fn error(&self, solution: &Solution, contrast: &Contrast) -> f64 {
        let roundings = self.sizes.features as f64 + 8.0;
        // The scale is the exponential of a rounded logarithm.
        let of_scale = match self.config.learnable {
            true => 1.0 + contrast.scale.ln().abs(),
            false => 1.0,
        };
        let size = |row: &Vec<f64>| row.iter().map(|x| x.abs()).sum::<f64>();
        let largest = match self.config.normalize {
            true => self.sizes.features as f64,
            false => {
                let rows = contrast.tensors.iter().flatten();
                let sizes = rows.map(size).filter(|size| size.is_finite());
                sizes.fold(0.0, f64::max).powi(2)
            }
        };
        let seen = solution.similarities.iter().flatten().map(|x| x.abs());
        let seen = seen.filter(|x| x.is_finite()).fold(0.0, f64::max);
        let log_q = self.log_q.iter().flatten().flatten();
        let log_q = log_q.map(|number| number.abs()).fold(0.0, f64::max);
        let shift = contrast.margin + contrast.above.unwrap_or(0.0).abs();
        let added = contrast.scale * shift + log_q + self.bias.abs();
        // No similarity is larger than the product of two lengths.
        let terms = (contrast.scale * largest).max(seen) + added;
        let smallest = smallest_of(self.arithmetic());
        roundings * (self.tolerance().terms * of_scale * terms + smallest * contrast.scale.max(1.0))
    }

    /// The distance of two similarities within which their order is one of roundings.
    fn margin_of_decisions(&self, error: f64) -> f64 {
        // No distance is below 0.
        if self.is_exact() { -1.0 } else { 4.0 * error }
    }

    /// Whether the similarities are computed without rounding: all numbers are few thirty-seconds, and the
    /// temperature is a power of 2.
    fn is_exact(&self) -> bool {
        let config = &self.config;
        let is_short = |x: &f64| (x * 32.0).fract() == 0.0 && x.abs() <= 4.0;
        let options = [config.margin, config.exclude_above.unwrap_or(0.0)];
        !config.normalize
            && !config.learnable
            && config.temperature.log2().fract() == 0.0
            && self.log_q.is_none()
            && options.iter().all(is_short)
            && self.tensors.iter().flatten().all(is_short)
    }

    fn compare_loss(
        &self,
        found: f64,
        solution: &Solution,
        contrast: &Contrast,
        error: f64,
    ) -> Result<(), String> {
        let expected = match (contrast.queries.is_empty(), &self.config.reduction) {
            (true, Reduction::Sum) => 0.0,
            (true, _) => f64::NAN,
            _ => solution.loss.value,
        };
        let tolerance = self.tolerance();
        let allowed = (tolerance.loss + 2.0 * error) * solution.loss.terms + tolerance.floor;
        let is_right = match error > MOST_ERROR {
            true => found.is_nan() == expected.is_nan(),
            false => agrees(found, expected, allowed, largest_of(self.arithmetic())),
        };
        match is_right {
            true => Ok(()),
            false => Err(format!("loss is {found:e}, expected {expected:e}")),
        }
    }

    fn compare_gradients(
        &self,
        gradients: &Gradients,
        leaves: &Leaves,
        solution: &Solution,
        error: f64,
    ) -> Result<(), String> {
        let tensors = leaves.tensors.iter().zip(&solution.gradients);
        for (at, (leaf, expected)) in tensors.enumerate() {
            let found = match leaf.grad(gradients) {
                Some(gradient) => numbers(gradient),
                // A tensor without rows may have no part in the graph.
                None if leaf.dims()[0] == 0 => vec![],
                None => return Err(format!("tensor {at} has no gradient")),
            };
            let expected = expected.iter().flatten();
            for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
                let row = place / self.sizes.features;
                let name = format!("gradient {place} of tensor {at}, row {row}");
                self.compare_sum(&name, *found, *expected, error)?;
            }
        }
        Ok(())
    }

    fn compare_sum(&self, name: &str, found: f64, expected: Sum, error: f64) -> Result<(), String> {
        let value = expected.value * self.upstream;
        // A subnormal slope may be divided by the smallest length that the numbers here have.
        let floor = self.tolerance().floor * 2f64.powi(40) + tolerance::of(self.dtype).floor;
        let terms = expected.terms * self.upstream.abs();
        let of_projection = |dtype| tolerance::of_projection(dtype, &Device::flex());
        let relative = match self.arithmetic() {
            DType::F64 => of_projection(DType::F64),
            _ if self.dtype == DType::F64 => of_projection(DType::F32),
            _ => of_projection(self.dtype),
        };
        let allowed = (relative.gradient + 4.0 * error) * terms + floor;
        match agrees(found, value, allowed, largest_of(self.dtype)) {
            true => Ok(()),
            false => Err(format!("{name} is {found:e}, expected {value:e}")),
        }
    }

    /// Compares what a call gives for every row that counts. A negative that equals the positive is before it.
    fn compare_rows(
        &self,
        loss: &InfoNceLoss,
        leaves: &Leaves,
        (solution, contrast): (&Solution, &Contrast),
        error: f64,
    ) -> Result<(), String> {
        let output = loss.forward_contrast_with_output(self.request(leaves));
        let integers = |tensor: Tensor<1, Int>| -> Vec<i64> { tensor.into_data().iter().collect() };
        let (lse, rank) = (numbers(output.lse), integers(output.target_rank));
        for (at, query) in contrast.queries.iter().enumerate() {
            let (tensor, row) = query.query;
            let row = match (self.form, tensor) {
                // The outputs are those of the first view's rows.
                (Form::Symmetric, 1) => continue,
                (_, tensor) => tensor * self.sizes.rows + row,
            };
            let expected = solution.lse[at];
            let allowed = self.tolerance().loss * (1.0 + expected.abs()) + 2.0 * error;
            if !agrees(lse[row], expected, allowed, largest_of(self.arithmetic())) {
                let found = lse[row];
                return Err(format!(
                    "log-sum-exp of row {row} is {found:e}, expected {expected:e}"
                ));
            }
            if self.form.has_one_positive() {
                self.compare_rank((row, rank[row]), &solution.similarities[at], error)?;
            }
        }
        Ok(())
    }

    fn compare_rank(
        &self,
        (row, rank): (usize, i64),
        similarities: &[f64],
        error: f64,
    ) -> Result<(), String> {
        let (own, others) = (similarities[0], &similarities[1..]);
        let margin = self.margin_of_decisions(error);
        if others.iter().any(|x| (x - own).abs() <= margin) {
            return Ok(());
        }
        let before = others.iter().filter(|x| **x >= own).count() as i64;
        match rank == before {
            true => Ok(()),
            false => Err(format!("rank of row {row} is {rank}, expected {before}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::contrasts;

    /// No bound is so wide, and no decision so near to another, that a fixture says nothing.
    #[test]
    fn every_fixture_is_compared() {
        for case in contrasts() {
            let contrast = case.contrast();
            let solution = solve(&contrast);
            let error = case.error(&solution, &contrast);
            assert!(error < MOST_ERROR, "{error:e}, {case:?}");
            let is_decided = solution.from_bound > case.margin_of_decisions(error);
            assert!(is_decided, "{:e}, {case:?}", solution.from_bound);
            let compared = |loss| case.compare_loss(loss, &solution, &contrast, error);
            let loss = solution.loss.value;
            assert!(compared(loss).is_ok());
            let least = if case.dtype == DType::F64 { 1e-9 } else { 0.1 };
            assert!(compared(loss * (1.0 + least)).is_err(), "{case:?}");
        }
    }
}
