//! What can be asked of a problem besides its loss: values of every row with their gradients, as loops over f64.
//!
//! ```text
//! entropy = sum_c p[c] (lse - x[c])    d entropy / dx[c] = p[c] ((m - x[c]) - sum_k p[k] (m - x[k]))
//! lse     = ln sum_c exp(x[c])         d lse     / dx[c] = p[c]
//! ```
//!
//! with `x` the logits after scale and softcap, `p` their probabilities and `m` their maximum. A log-probability is a
//! loss without options, with the other sign.

use burn_cross_entropy::{CrossEntropyLossConfig, RowFactor};

use super::oracle::{self, Row, RowDetails, roundings, row_of, softmax};
use super::problem::{Outcome, Problem, Targets, Terms};

/// What a call of the loss computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Loss,
    LogProb,
    Entropy,
    LogSumExp,
}

impl Asked {
    /// Whether the value has no targets, so that every row counts.
    pub fn is_of_logits(self) -> bool {
        matches!(self, Self::Entropy | Self::LogSumExp)
    }

    /// The same problem with the options that apply. A log-probability is asked for as the loss of its rows, under
    /// the negative of its gradient.
    pub fn problem(self, problem: &Problem) -> Problem {
        if self == Self::Loss {
            return problem.clone();
        }
        let mut plain = problem.clone().with_config(|config| {
            config
                .with_weight(None)
                .with_label_smoothing(0.0)
                .with_z_loss(0.0)
                .with_row_factor(RowFactor::None)
        });
        if self == Self::LogProb {
            plain.upstream.iter_mut().for_each(|slope| *slope = -*slope);
            return plain;
        }
        plain.config.ignore_indices = CrossEntropyLossConfig::new().ignore_indices;
        Problem {
            targets: Targets::Indices(vec![0; plain.rows()]),
            row_weights: None,
            ..plain
        }
    }

    /// Values and gradients of a problem that [`problem`](Self::problem) made.
    pub fn solve(self, problem: &Problem) -> Outcome {
        match self {
            Self::Loss | Self::LogProb => oracle::solve(problem),
            Self::Entropy | Self::LogSumExp => self.of_logits(problem),
        }
    }

    fn of_logits(self, problem: &Problem) -> Outcome {
        let size = problem.logits.len();
        let mut outcome = Outcome {
            loss: Vec::new(),
            logits_gradient: vec![0.0; size],
            targets_gradient: None,
            terms: Terms {
                logits_gradient: vec![0.0; size],
                ..Terms::default()
            },
        };
        for (index, details) in oracle::details(problem).iter().enumerate() {
            let RowDetails {
                lse,
                entropy,
                terms,
                ..
            } = *details;
            let (value, terms) = match self {
                Self::Entropy => (entropy, terms * (1.0 + entropy.abs())),
                _ => (lse, terms),
            };
            outcome.loss.push(value);
            outcome.terms.loss.push(terms);
            let row = row_of(problem, index);
            for (class, (slope, terms)) in self.slopes(problem, &row).into_iter().enumerate() {
                let at = problem.at(index, class);
                let scale = row.slopes[class] * problem.upstream[index];
                outcome.logits_gradient[at] = if slope == 0.0 { 0.0 } else { slope * scale };
                outcome.terms.logits_gradient[at] = terms * (scale * row.conditions[class]).abs();
            }
        }
        outcome
    }

    /// The derivatives by the capped logits of a row, and the sizes of their terms: an exponential hands on the
    /// rounding of a difference, and that of a logit.
    fn slopes(self, problem: &Problem, row: &Row) -> Vec<(f64, f64)> {
        let surprisal = softmax(&row.values, true).surprisal;
        let largest = row.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let rounding = 1.0 + roundings(problem, &row.values);
        // The probability of a class, how far it is below the largest, and the error of both.
        let class = |(x, surprisal): (&f64, &f64)| {
            let (p, gap) = ((-surprisal).exp(), largest - x);
            match p == 0.0 {
                true => (0.0, 0.0, 0.0),
                false => (p, gap, (1.0 + gap) * rounding),
            }
        };
        let classes: Vec<_> = row.values.iter().zip(&surprisal).map(class).collect();
        let spread: f64 = classes.iter().map(|(p, gap, _)| p * gap).sum();
        let below = classes.iter().filter(|(_, gap, _)| *gap != 0.0);
        let of_spread: f64 = below
            .map(|(p, gap, error)| p * (gap * error + rounding - 1.0))
            .sum();
        let slope = |(p, gap, error): &(f64, f64, f64)| match self {
            Self::Entropy => {
                let of_gap = if *gap == 0.0 { 0.0 } else { rounding - 1.0 };
                let terms = (gap + spread) * error + of_gap + of_spread;
                (p * (gap - spread), p * terms)
            }
            _ => (*p, p * error),
        };
        classes.iter().map(slope).collect()
    }
}
