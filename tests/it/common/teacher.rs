//! Targets that are the logits of a teacher. What is right is the problem over the teacher's probabilities, with all
//! logits divided by the temperature:
//!
//! ```text
//! q = softmax(t / T)     loss = s (sum_c q[c] (lse(x / T) - x[c] / T) - h)
//! ```
//!
//! with `s` 1 or `T^2`, and `h` 0 or the entropy of `q`.

use burn_cross_entropy::TeacherLogits;

use super::oracle::{self, RowDetails};
use super::problem::{Outcome, Problem, Targets, batch_size, empty_value, is_batch_mean, is_sum};

/// The logits of a teacher, in the shape of the student's, and what is asked of them.
#[derive(Clone, Debug)]
pub struct Teacher {
    pub logits: Vec<f64>,
    pub temperature: f64,
    pub is_squared: bool,
    pub is_divergence: bool,
}

/// The teacher's distribution in a row.
struct Distribution {
    shares: Vec<f64>,
    entropy: f64,
    /// The errors of the shares, as parts of them, in units in the last place.
    errors: Vec<f64>,
}

#[allow(dead_code, reason = "the fuzz targets use all of it")]
impl Teacher {
    /// A teacher at temperature 1, without logits.
    pub const SMALLEST: Self = Self {
        logits: Vec::new(),
        temperature: 1.0,
        is_squared: false,
        is_divergence: false,
    };

    /// The target of a call, with these logits as a tensor or a projection.
    pub fn target<L>(&self, logits: L) -> TeacherLogits<L> {
        let target = TeacherLogits::new(logits).with_temperature(self.temperature);
        let target = match self.is_squared {
            true => target.with_squared_temperature(),
            false => target,
        };
        match self.is_divergence {
            true => target.with_kl_divergence(),
            false => target,
        }
    }

    /// The same teacher without what is done to a loss afterwards, which a log-probability does not have.
    pub fn plain(&self) -> Self {
        Self {
            is_squared: false,
            is_divergence: false,
            ..self.clone()
        }
    }

    /// The factor of a loss.
    pub fn square(&self) -> f64 {
        match self.is_squared {
            true => self.temperature * self.temperature,
            false => 1.0,
        }
    }

    /// The probabilities of all rows.
    pub fn shares(&self, problem: &Problem) -> Vec<f64> {
        let mut shares = vec![0.0; self.logits.len()];
        for row in 0..problem.rows() {
            for (class, share) in self.row(problem, row).shares.into_iter().enumerate() {
                shares[problem.at(row, class)] = share;
            }
        }
        shares
    }

    /// The problem over the probabilities. Its gradient is that of the student's loss: the factor of the loss is
    /// a part of the upstream gradient.
    pub fn problem(&self, problem: &Problem) -> Problem {
        let over_temperature = 1.0 / self.temperature;
        let mut over_shares = Problem {
            targets: Targets::Distributions(self.shares(problem)),
            tracked_targets: false,
            ..problem.clone()
        };
        let config = &mut over_shares.config;
        config.logit_scale *= over_temperature;
        config.logit_softcap = config.logit_softcap.map(|cap| cap * over_temperature);
        let square = self.square();
        over_shares
            .upstream
            .iter_mut()
            .for_each(|slope| *slope *= square);
        over_shares
    }

    /// Makes losses over the probabilities, reduced as the problem says, of those that a call gave.
    pub fn undo(&self, problem: &Problem, losses: &mut [f64]) {
        let entropies = match self.is_divergence {
            true => self.entropies(problem),
            false => vec![0.0; losses.len()],
        };
        for (loss, entropy) in losses.iter_mut().zip(entropies) {
            *loss = *loss / self.square() + entropy;
        }
    }

    /// The entropies of the rows, reduced as the losses.
    pub fn entropies(&self, problem: &Problem) -> Vec<f64> {
        let entropy = |row: usize| match problem.is_ignored(row) {
            true => 0.0,
            false => problem.row_weight(row) * self.row(problem, row).entropy,
        };
        let entropies: Vec<f64> = (0..problem.rows()).map(entropy).collect();
        if problem.unreduced {
            return entropies;
        }
        let divisor = if is_sum(&problem.config) {
            1.0
        } else if is_batch_mean(&problem.config) {
            batch_size(problem) as f64
        } else {
            (0..problem.rows()).map(|row| problem.row_weight(row)).sum()
        };
        let sum: f64 = entropies.iter().sum();
        match divisor == 0.0 && !sum.is_nan() {
            true => vec![empty_value(&problem.config)],
            false => vec![sum / divisor],
        }
    }

    /// Loss and gradients of a problem that [`problem`](Self::problem) made, with the roundings of the shares.
    pub fn solve(&self, problem: &Problem) -> Outcome {
        let mut outcome = oracle::solve(problem);
        let mut of_rows = Vec::new();
        let divisor = self.divisor(problem);
        for row in 0..problem.rows() {
            if problem.is_ignored(row) {
                of_rows.push(0.0);
                continue;
            }
            let factor = problem.row_weight(row) * largest_weight(problem);
            let Distribution {
                shares,
                entropy,
                errors,
            } = self.row(problem, row);
            let of_shares: f64 = shares.iter().zip(&errors).map(|(q, e)| q * e).sum();
            of_rows.push(factor * (self.error_of_loss(problem, row) + of_shares * (1.0 + entropy)));
            let upstream = problem.upstream[if problem.unreduced { row } else { 0 }];
            let scale = (upstream * factor * problem.config.logit_scale / divisor).abs();
            let surprisal = oracle::softmax(&oracle::row_of(problem, row).values, true).surprisal;
            for class in 0..problem.classes() {
                // The sum of the shares is a factor of all classes' probabilities.
                let of_sum = (-surprisal[class]).exp() * of_shares;
                let terms = shares[class] * errors[class] + of_sum;
                outcome.terms.logits_gradient[problem.at(row, class)] += scale * terms;
            }
        }
        match problem.unreduced {
            true => add(&mut outcome.terms.loss, &of_rows),
            false => add(
                &mut outcome.terms.loss,
                &[of_rows.iter().sum::<f64>() / divisor],
            ),
        }
        outcome
    }

    /// The rows' details of a problem that [`problem`](Self::problem) made, with the roundings of the shares.
    pub fn details(&self, problem: &Problem) -> Vec<RowDetails> {
        let mut rows = oracle::details(problem);
        for (row, details) in rows.iter_mut().enumerate() {
            details.log_prob_terms += self.error_of_loss(problem, row);
        }
        rows
    }

    /// Whether two classes of a row have nearly the largest share, so that the roundings decide which is the target.
    pub fn is_tied(&self, problem: &Problem, row: usize) -> bool {
        let Distribution { shares, errors, .. } = self.row(problem, row);
        let largest = shares.iter().copied().fold(0.0, f64::max);
        let is_near = |(share, error): (&f64, &f64)| {
            *share != largest && *share >= largest * (1.0 - 2f64.powi(-21) * (2.0 + error))
        };
        shares.iter().zip(&errors).any(is_near)
    }

    /// What the errors of the shares make of a row's loss, in units in the last place of 1.
    fn error_of_loss(&self, problem: &Problem, row: usize) -> f64 {
        let Distribution { shares, errors, .. } = self.row(problem, row);
        let surprisal = oracle::softmax(&oracle::row_of(problem, row).values, true).surprisal;
        let terms = shares.iter().zip(&errors).zip(&surprisal);
        let terms = terms.map(|((share, error), surprisal)| share * error * surprisal);
        terms.filter(|term| term.is_finite()).sum()
    }

    fn divisor(&self, problem: &Problem) -> f64 {
        if problem.unreduced || is_sum(&problem.config) {
            return 1.0;
        }
        if is_batch_mean(&problem.config) {
            return (batch_size(problem) as f64).max(1.0);
        }
        let total: f64 = (0..problem.rows()).map(|row| problem.row_weight(row)).sum();
        if total == 0.0 { 1.0 } else { total }
    }

    fn row(&self, problem: &Problem, row: usize) -> Distribution {
        let x: Vec<f64> = (0..problem.classes())
            .map(|class| self.logits[problem.at(row, class)] / self.temperature)
            .collect();
        let surprisal = oracle::softmax(&x, true).surprisal;
        let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let is_scaled = self.temperature.log2().fract() != 0.0;
        let finite = x.iter().map(|x| x.abs()).filter(|x| x.is_finite());
        let rounding = match is_scaled {
            true => 4.0 * finite.fold(0.0, f64::max),
            false => 0.0,
        };
        let shares: Vec<f64> = surprisal.iter().map(|s| (-s).exp()).collect();
        let terms = shares.iter().zip(&surprisal);
        let terms = terms.map(|(q, s)| if *q == 0.0 { 0.0 } else { q * s });
        Distribution {
            entropy: terms.sum(),
            // An exponential hands on the rounding of the difference that it is of.
            errors: (x.iter().zip(&shares))
                .map(|(x, q)| match *q == 0.0 {
                    true => 0.0,
                    false => 2.0 + (largest - x) + rounding,
                })
                .collect(),
            shares,
        }
    }
}

fn largest_weight(problem: &Problem) -> f64 {
    let weights = problem.config.weight.iter().flatten();
    weights.fold(1.0, |largest: f64, weight| largest.max(f64::from(*weight)))
}

fn add(terms: &mut [f64], more: &[f64]) {
    for (terms, more) in terms.iter_mut().zip(more) {
        *terms += more;
    }
}
