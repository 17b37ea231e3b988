//! The definition of the loss as loops over f64. It shares nothing with the crate but the configuration that
//! it reads.

use super::problem::{
    Outcome, Problem, Targets, Terms, batch_size, empty_value, is_batch_mean, is_sum,
};

/// The numbers of one row.
struct Row {
    /// Scaled and capped logits, or probabilities.
    values: Vec<f64>,
    /// The derivatives `d values / d logits`.
    slopes: Vec<f64>,
    /// Factors by which the relative error of a logit grows in its slope. The slope of `tanh(v)` is about
    /// `exp(-2 |v|)`, and its relative error is `2 |v|` times that of `v`.
    conditions: Vec<f64>,
    /// The target as a distribution.
    target: Vec<f64>,
    /// The weight of the row in the mean.
    weight: f64,
    ignored: bool,
}

/// Loss and gradients of a problem.
pub fn solve(problem: &Problem) -> Outcome {
    let config = &problem.config;
    let classes = problem.classes();
    let smoothing = f64::from(config.label_smoothing);
    let z = f64::from(config.z_loss);
    let class_weight = |class: usize| {
        config
            .weight
            .as_ref()
            .map_or(1.0, |weight| f64::from(weight[class]))
    };

    let rows: Vec<Row> = (0..problem.rows())
        .map(|row| row_of(problem, row))
        .collect();
    let total: f64 = rows.iter().map(|row| row.weight).sum();
    let counted = rows.iter().filter(|row| !row.ignored).count() as f64;

    // The divisors of a row's main loss and z-loss.
    let (main_by, z_by) = if problem.unreduced || is_sum(config) {
        (1.0, 1.0)
    } else if is_batch_mean(config) {
        let samples = batch_size(problem) as f64;
        (samples, samples)
    } else {
        (total, counted)
    };

    let mut main_losses = vec![0.0; rows.len()];
    let mut z_losses = vec![0.0; rows.len()];
    let mut logits_gradient = vec![0.0; problem.logits.len()];
    let mut targets_gradient = vec![0.0; problem.logits.len()];
    let mut terms = Terms {
        loss: vec![0.0; rows.len()],
        logits_gradient: vec![0.0; problem.logits.len()],
        targets_gradient: vec![0.0; problem.logits.len()],
    };
    for (index, row) in rows.iter().enumerate() {
        if row.ignored {
            continue;
        }
        let upstream = problem.upstream[if problem.unreduced { index } else { 0 }];
        let share: Vec<f64> = (0..classes)
            .map(|class| {
                let smoothed = (1.0 - smoothing) * row.target[class] + smoothing / classes as f64;
                class_weight(class) * smoothed
            })
            .collect();
        let Softmax {
            surprisal,
            lse,
            lse_terms,
        } = softmax(&row.values, config.logits);
        let roundings = roundings(problem, &row.values);
        let total_share: f64 = share.iter().sum();
        main_losses[index] = (0..classes)
            .filter(|class| share[*class] != 0.0)
            .map(|class| share[class] * surprisal[class])
            .sum();
        z_losses[index] = if z == 0.0 { 0.0 } else { z * lse * lse };
        terms.loss[index] = total_share * roundings + 2.0 * z * lse.abs() * (lse_terms + roundings);

        let main_scale = if main_by == 0.0 {
            0.0
        } else {
            upstream / main_by
        };
        let z_scale = if z_by == 0.0 { 0.0 } else { upstream / z_by };
        for class in 0..classes {
            let at = problem.at(index, class);
            let slope = if config.logits {
                let probability = (-surprisal[class]).exp();
                // This is sum_c a[c] p - a, arranged as p sum_{others} a - a (1 - p), so that nothing cancels
                // where p is near 1.
                let others = sum_without(&share, class, total_share);
                let missing = if probability <= 0.5 {
                    1.0 - probability
                } else {
                    (0..classes)
                        .filter(|other| *other != class)
                        .map(|other| (-surprisal[other]).exp())
                        .sum()
                };
                let main = probability * others - share[class] * missing;
                let scale = row.slopes[class] * row.conditions[class] * main_scale;
                terms.logits_gradient[at] = scale.abs()
                    * (1.0 + roundings)
                    * if probability <= 0.5 {
                        probability * (others + share[class]) + share[class]
                    } else {
                        missing * (others + share[class]) + others
                    };
                let penalty = if z == 0.0 {
                    0.0
                } else {
                    let slope = 2.0 * z * probability;
                    terms.logits_gradient[at] +=
                        (slope * z_scale * row.slopes[class]).abs() * (lse_terms + roundings);
                    slope * lse
                };
                (main * main_scale + penalty * z_scale) * row.slopes[class]
            } else if share[class] == 0.0 {
                0.0
            } else {
                -share[class] / row.values[class] * main_scale
            };
            logits_gradient[at] = slope;
            let factor = (1.0 - smoothing) * class_weight(class);
            terms.targets_gradient[at] = (factor * main_scale).abs() * roundings;
            targets_gradient[at] = if factor == 0.0 {
                0.0
            } else {
                factor * surprisal[class] * main_scale
            };
        }
    }

    let loss = if problem.unreduced {
        let pairs = main_losses.iter().zip(&z_losses);
        pairs.map(|(main, z)| main + z).collect()
    } else {
        let least = if main_by == 0.0 {
            z_by
        } else {
            main_by.min(z_by)
        };
        if least != 0.0 {
            terms.loss = vec![terms.loss.iter().sum::<f64>() / least];
        }
        let divided = |losses: &[f64], by: f64| {
            if by == 0.0 {
                empty_value(config)
            } else {
                losses.iter().sum::<f64>() / by
            }
        };
        let mut loss = divided(&main_losses, main_by);
        if z != 0.0 {
            loss += divided(&z_losses, z_by);
        }
        vec![loss]
    };
    Outcome {
        loss,
        logits_gradient,
        targets_gradient: match problem.targets {
            Targets::Distributions(_) if problem.tracked_targets => Some(targets_gradient),
            _ => None,
        },
        terms,
    }
}

/// The details of a row besides its loss.
#[derive(Debug)]
pub struct RowDetails {
    pub lse: f64,
    pub log_prob: f64,
    pub entropy: f64,
    pub predicted: i64,
    pub rank: i64,
    /// The size of the numbers, by which their rounding is measured.
    pub terms: f64,
}

/// The details of every row. Classes are in order of their scores: larger ones first, equal ones by their
/// number, NaN last.
pub fn details(problem: &Problem) -> Vec<RowDetails> {
    let details = |index| {
        let row = row_of(problem, index);
        let classes = problem.classes();
        let scores: Vec<f64> = (row.values.iter())
            .map(|score| {
                if score.is_nan() {
                    f64::NEG_INFINITY
                } else {
                    *score
                }
            })
            .collect();
        let mut order: Vec<usize> = (0..classes).collect();
        order.sort_by(|a, b| {
            (scores[*b] + 0.0)
                .total_cmp(&(scores[*a] + 0.0))
                .then(a.cmp(b))
        });
        let (target, _) = largest(&row.target);
        let place = order.iter().position(|class| *class == target);
        let Softmax {
            surprisal,
            lse,
            lse_terms,
        } = softmax(&row.values, problem.config.logits);
        let product = |share: f64, surprisal: f64| {
            if share == 0.0 { 0.0 } else { share * surprisal }
        };
        let pairs = || row.target.iter().zip(&surprisal);
        RowDetails {
            lse,
            log_prob: -pairs().map(|(p, s)| product(*p, *s)).sum::<f64>(),
            entropy: surprisal.iter().map(|s| product((-s).exp(), *s)).sum(),
            predicted: order[0] as i64,
            rank: if row.ignored {
                -1
            } else {
                place.expect("a class") as i64
            },
            terms: lse_terms + roundings(problem, &row.values),
        }
    };
    (0..problem.rows()).map(details).collect()
}

fn row_of(problem: &Problem, row: usize) -> Row {
    let config = &problem.config;
    let classes = problem.classes();
    let scale = f64::from(config.logit_scale);
    let (mut values, mut slopes) = (vec![0.0; classes], vec![1.0; classes]);
    let mut conditions = vec![1.0; classes];
    for class in 0..classes {
        let value = problem.logits[problem.at(row, class)];
        values[class] = value * scale;
        slopes[class] = scale;
        if let Some(cap) = config.logit_softcap.map(f64::from) {
            let bent = (values[class] / cap).tanh();
            values[class] = cap * bent;
            let cosh = (value * scale / cap).cosh();
            if value.is_finite() {
                conditions[class] = 1.0 + 2.0 * (value * scale / cap).abs();
            }
            slopes[class] = scale / cosh / cosh;
        }
    }
    let mut target = vec![0.0; classes];
    let (mut weight, mut ignored) = (1.0, false);
    match &problem.targets {
        Targets::Indices(indices) => {
            ignored = config.ignore_indices.contains(&indices[row]);
            if ignored {
                weight = 0.0;
            } else {
                let class = indices[row] as usize;
                target[class] = 1.0;
                if let Some(weights) = &config.weight {
                    weight = f64::from(weights[class]);
                }
            }
        }
        Targets::Distributions(p) => {
            for class in 0..classes {
                target[class] = p[problem.at(row, class)];
            }
        }
    }
    Row {
        values,
        slopes,
        conditions,
        target,
        weight,
        ignored,
    }
}

/// The error of a row's logits in units in the last place of 1; the exponential turns it into a relative
/// error. It is 0 where logits are not rounded before the largest is subtracted.
fn roundings(problem: &Problem, values: &[f64]) -> f64 {
    let scaled = f64::from(problem.config.logit_scale).log2().fract() != 0.0;
    if !scaled && problem.config.logit_softcap.is_none() {
        return 0.0;
    }
    let largest = values
        .iter()
        .map(|value| value.abs())
        .filter(|value| value.is_finite())
        .fold(0.0, f64::max);
    // The roundings are those of a product, a quotient, a tanh of two or three units, and a product, of the
    // value and of the largest.
    4.0 * largest
}

struct Softmax {
    /// `-ln p` of every class.
    surprisal: Vec<f64>,
    /// The log-sum-exp; 0 for probabilities.
    lse: f64,
    /// The size of the two terms of the log-sum-exp.
    lse_terms: f64,
}

fn softmax(values: &[f64], logits: bool) -> Softmax {
    if !logits {
        return Softmax {
            surprisal: values.iter().map(|s| -s.ln()).collect(),
            lse: 0.0,
            lse_terms: 0.0,
        };
    }
    let (largest, maximum) = largest(values);
    if !maximum.is_finite() || values.iter().any(|x| x.is_nan()) {
        return Softmax {
            surprisal: vec![f64::NAN; values.len()],
            lse: f64::NAN,
            lse_terms: f64::NAN,
        };
    }
    let others: f64 = (0..values.len())
        .filter(|class| *class != largest)
        .map(|class| (values[class] - maximum).exp())
        .sum();
    let log_sum = others.ln_1p();
    Softmax {
        surprisal: values.iter().map(|x| (maximum - x) + log_sum).collect(),
        lse: maximum + log_sum,
        lse_terms: maximum.abs() + log_sum,
    }
}

/// The sum of all values but one. It subtracts only where that loses no digits.
fn sum_without(values: &[f64], without: usize, total: f64) -> f64 {
    if values[without].abs() <= 0.5 * total.abs() {
        return total - values[without];
    }
    (0..values.len())
        .filter(|class| *class != without)
        .map(|class| values[class])
        .sum()
}

fn largest(values: &[f64]) -> (usize, f64) {
    let mut best = (0, f64::NEG_INFINITY);
    for (class, value) in values.iter().enumerate() {
        if *value > best.1 {
            best = (class, *value);
        }
    }
    best
}
