//! The gradients of the logits behind a projection, and what the errors of these logits make of them.
//!
//! The logits of a teacher that another projection makes have errors too, which its probabilities hand on.

use burn_cross_entropy::RowFactor;

use crate::common::problem::{Outcome, Problem};
use crate::common::row_value::Asked;
use crate::common::teacher::Teacher;
use crate::projected::Projected;
use crate::projection::Case;

/// By how much more a gradient under a factor depends on the logits: through the factor, its derivative, and the loss.
pub const ERRORS_OF_FACTOR: f64 = 8.0;

/// A gradient: a sum, the size of its terms, and the same times the error of the logits.
#[derive(Clone, Copy, Default)]
pub struct Slope {
    pub value: f64,
    pub terms: f64,
    pub errors: f64,
}

impl Slope {
    pub fn add(&mut self, slope: Self, factor: f64) {
        self.value += slope.value * factor;
        self.terms += slope.terms * factor.abs();
        self.errors += slope.errors * factor.abs();
    }

    pub fn is_finite(self) -> bool {
        [self.value, self.terms, self.errors]
            .iter()
            .all(|number| number.is_finite())
    }
}

/// The error of the logits of a row: sums of as many products as there are features.
pub fn error_of(projected: &Projected, row: usize) -> f64 {
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

/// What a projection makes of a teacher's probabilities.
pub struct Taught<'a> {
    pub teacher: Option<&'a Teacher>,
    pub is_projected: bool,
    /// The errors of the shares of each row, as parts of them, in units in the last place; 0 where there are none.
    pub errors: Vec<f64>,
    /// The rows in which roundings decide whether a masked class has a share.
    pub is_ambiguous: Vec<bool>,
}

impl<'a> Taught<'a> {
    pub fn new(case: &'a Case) -> Self {
        let problem = &case.projected.problem;
        let teacher = case.teacher.as_ref().filter(|_| !case.asked.is_of_logits());
        let own = case.taught_by.as_ref().filter(|_| teacher.is_some());
        let error = |row| match (teacher, own) {
            (Some(teacher), Some(own)) => error_of(own, row) / teacher.temperature,
            _ => 0.0,
        };
        let is_ambiguous = |row| match (teacher, own) {
            (Some(teacher), Some(_)) => has_ambiguous_mask(problem, teacher, row),
            _ => false,
        };
        Self {
            teacher,
            is_projected: own.is_some(),
            errors: (0..problem.rows()).map(error).collect(),
            is_ambiguous: (0..problem.rows()).map(is_ambiguous).collect(),
        }
    }

    pub fn solve(&self, asked: Asked, problem: &Problem) -> Outcome {
        match self.teacher {
            Some(teacher) => teacher.solve(problem),
            None => asked.solve(problem),
        }
    }
}

/// Whether a class that is masked in the student's row has a share that is about the smallest number.
fn has_ambiguous_mask(problem: &Problem, teacher: &Teacher, row: usize) -> bool {
    let places = || (0..problem.classes()).map(|class| problem.at(row, class));
    let largest = places()
        .map(|at| teacher.logits[at])
        .fold(f64::NEG_INFINITY, f64::max);
    places().any(|at| {
        let exponent = (teacher.logits[at] - largest) / teacher.temperature;
        problem.logits[at] == f64::NEG_INFINITY && (-1000.0..-70.0).contains(&exponent)
    })
}

/// The exact results, and the gradients of the logits with what the errors of logits and shares make of them.
pub fn slopes(
    problem: &Problem,
    asked: Asked,
    (errors, taught): (&[f64], &Taught),
) -> (Outcome, Vec<Slope>) {
    let exact = taught.solve(asked, problem);
    // Roundings of a teacher's shares count as errors below, and not as terms of the sums.
    let sizes = asked.solve(problem).terms.logits_gradient;
    let config = &problem.config;
    // The derivative of the penalty has the log-sum-exp as a factor, whose error counts where it is 0, too.
    let penalty = 2.0 * config.z_loss * config.logit_scale;
    let of_factor = match config.row_factor {
        RowFactor::None => 1.0,
        _ => ERRORS_OF_FACTOR,
    };
    let classes = problem.classes();
    let slope = |at: usize| {
        let row = at / classes;
        let upstream = problem.upstream[if problem.unreduced { row } else { 0 }];
        let value = exact.logits_gradient[at];
        let terms = value.abs() + sizes[at] + penalty * upstream.abs();
        let of_shares = exact.terms.logits_gradient[at] - sizes[at];
        let error = errors[row] * config.logit_scale.max(1.0) * of_factor + taught.errors[row];
        Slope {
            value,
            terms,
            errors: terms * error + of_shares.max(0.0),
        }
    };
    let slopes = (0..problem.logits.len()).map(slope).collect();
    (exact, slopes)
}
