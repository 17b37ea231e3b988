//! Differences from the oracle that do not count, though a tolerance of the tests has no word for them: what is
//! as good as 0, a step beyond f32, and the rounding of a gradient whose terms cancel. An excused number is
//! replaced by the expected one.

use burn::nn::loss::Reduction;
use burn::tensor::DType;
use burn_cross_entropy::RowFactor;

use crate::common::details::{Details, largest_of};
use crate::common::oracle::{self, RowDetails};
use crate::common::problem::{Outcome, Problem, Targets};

/// What is below is 0 for a loss in f32: as many of the smallest normal numbers as there are logits. Each
/// exponential that is no normal number of f32 is 0.
const TINY: f64 = 1e-30;

/// The error of a gradient in units in the last place of its terms. That of ordinary rows was measured as 6.6, that of
/// confident ones as 31 (docs/correctness.md).
const ROUNDINGS: f64 = 32.0;

/// A loss under a factor whose digits are excused is below.
const SMALL: f64 = 1e-10;

/// What is expected of a problem, in logits of a dtype.
pub struct Excuses<'a> {
    pub problem: &'a Problem,
    pub expected: &'a Outcome,
    pub rows: &'a [RowDetails],
    pub float: DType,
}

/// Whether a factor makes an ordinary number of what is as good as 0 in f32: the missing probability of a target, raised
/// to a power below 1.
pub fn is_factor_vague(problem: &Problem, row: &RowDetails, float: DType) -> bool {
    match problem.config.row_factor {
        RowFactor::Focal { gamma } => float != DType::F64 && gamma < 1.0 && -row.log_prob < TINY,
        _ => false,
    }
}

/// Excuses the rounding of a normalizer, which is in f32 for every dtype. It has two numbers, for the loss and the
/// z-loss, whose terms may cancel: the rounding is a share of the largest number.
fn divided(found: &mut [f64], expected: &[f64]) {
    let sizes = expected.iter().map(|number| number.abs());
    let largest = sizes.filter(|size| size.is_finite()).fold(0.0, f64::max);
    for (found, expected) in found.iter_mut().zip(expected) {
        if (*found - expected).abs() <= ROUNDINGS * f64::from(f32::EPSILON) * largest {
            *found = *expected;
        }
    }
}

impl Excuses<'_> {
    pub fn loss_and_gradients(&self, found: &mut Outcome) {
        self.loss(&mut found.loss);
        self.gradient(&mut found.logits_gradient);
    }

    /// The losses and the gradient that come with the details, the entropies and the largest log-probabilities.
    pub fn details(&self, found: &mut Details, rows: &[RowDetails]) {
        for (found, expected) in found.rows.entropy.iter_mut().zip(rows) {
            self.tiny(found, expected.entropy);
        }
        for (found, expected) in found.rows.max_log_prob.iter_mut().zip(rows) {
            self.tiny(found, expected.max_log_prob);
        }
        let mut reduced = Problem {
            unreduced: false,
            upstream: vec![found.upstream],
            ..self.problem.clone()
        };
        self.of(&reduced, &oracle::solve(&reduced))
            .loss(&mut found.loss);
        reduced.config.reduction = Reduction::Mean;
        let mean = oracle::solve(&reduced);
        let of_mean = self.of(&reduced, &mean);
        let (loss, gradient) = &mut found.normalized;
        of_mean.loss(loss);
        of_mean.gradient(gradient);
        divided(loss, &mean.loss);
        divided(gradient, &mean.logits_gradient);
    }

    fn of<'b>(&'b self, problem: &'b Problem, expected: &'b Outcome) -> Excuses<'b> {
        Excuses {
            problem,
            expected,
            rows: self.rows,
            float: self.float,
        }
    }

    fn loss(&self, found: &mut [f64]) {
        let is_vague = (0..self.rows.len()).any(|row| self.is_factor_vague(row));
        for (found, expected) in found.iter_mut().zip(&self.expected.loss) {
            self.tiny(found, *expected);
            if is_vague && found.abs() < SMALL && expected.abs() < SMALL {
                *found = *expected;
            }
        }
        self.beyond(found);
    }

    fn gradient(&self, found: &mut [f64]) {
        let unit = match self.float {
            DType::F64 => f64::EPSILON,
            _ => f64::from(f32::EPSILON),
        };
        for row in (0..self.problem.rows()).filter(|row| self.is_factor_beyond(*row)) {
            for at in (0..self.problem.classes()).map(|class| self.problem.at(row, class)) {
                let expected = self.expected.logits_gradient[at];
                let is_beyond = expected.abs() > largest_of(self.float);
                found[at] = expected * if is_beyond { f64::INFINITY } else { 1.0 };
            }
        }
        for row in (0..self.problem.rows()).filter(|row| self.is_factor_vague(*row)) {
            for at in (0..self.problem.classes()).map(|class| self.problem.at(row, class)) {
                let expected = self.expected.logits_gradient[at];
                if found[at].abs() < SMALL && expected.abs() < SMALL {
                    found[at] = expected;
                }
            }
        }
        let terms = &self.expected.terms.logits_gradient;
        let expected = self.expected.logits_gradient.iter().zip(terms);
        for (at, (found, (expected, terms))) in found.iter_mut().zip(expected).enumerate() {
            self.tiny(found, *expected);
            let size = terms + self.bend(at) * expected.abs();
            if (*found - expected).abs() <= 0.5 * ROUNDINGS * unit * size {
                *found = *expected;
            }
        }
    }

    fn is_factor_vague(&self, row: usize) -> bool {
        is_factor_vague(self.problem, &self.rows[row], self.float)
    }

    /// Whether the factor of a row's probabilities is beyond f32: the sum of the weighted shares, times the scale
    /// and the upstream gradient, which comes after a gradient for 1. A gradient is finite beside it where the
    /// probabilities are small.
    fn is_factor_beyond(&self, row: usize) -> bool {
        let Problem {
            config, upstream, ..
        } = self.problem;
        let weight = |class: usize| {
            config
                .weight
                .as_ref()
                .map_or(1.0, |weight| weight[class].into())
        };
        let shares: f64 = match &self.problem.targets {
            Targets::Indices(_) => (0..self.problem.classes()).map(weight).fold(1.0, f64::max),
            Targets::Distributions(shares) => (0..self.problem.classes())
                .map(|class| shares[self.problem.at(row, class)].abs() * weight(class))
                .sum(),
        };
        let upstream = upstream[if self.problem.unreduced { row } else { 0 }];
        let shares = shares * self.problem.row_weight(row);
        let factor = shares * config.logit_scale * upstream.abs().max(1.0);
        self.float != DType::F64 && factor > f32::MAX.into()
    }

    /// The argument of a softcap's hyperbolic tangent. Its slope is `4 exp(-2 x)` far out, and has the rounding of
    /// `x` as often.
    fn bend(&self, at: usize) -> f64 {
        let config = &self.problem.config;
        let bend = |cap: f64| (self.problem.logits[at] * config.logit_scale / cap).abs();
        config.logit_softcap.map_or(0.0, bend)
    }

    /// Only an ignored row has to be 0.
    fn tiny(&self, found: &mut f64, expected: f64) {
        let is_tiny = found.abs() < TINY && expected.abs() < TINY && expected != 0.0;
        if self.float != DType::F64 && is_tiny {
            *found = expected;
        }
    }

    /// Where a row's own loss is beyond f32, the mean is infinite, even if its divisor would bring it back.
    fn beyond(&self, found: &mut [f64]) {
        let limit = f64::from(f32::MAX) * (1.0 - 1e-6);
        let are_infinite = found.iter().any(|loss| loss.is_infinite());
        if self.float == DType::F64 || self.problem.unreduced || !are_infinite {
            return;
        }
        let mut rows = self.problem.clone();
        rows.unreduced = true;
        rows.upstream = vec![1.0; rows.rows()];
        let losses = oracle::solve(&rows).loss;
        let (sign, expected) = (found[0].signum(), self.expected.loss[0]);
        let is_finite = (0.0..=limit).contains(&(expected * sign));
        if is_finite && losses.iter().any(|loss| loss * sign > limit) {
            found[0] = expected;
        }
    }
}
