//! The definition of the loss as loops over f64, sharing nothing with the crate but the
//! configuration it reads.

use super::problem::{Outcome, Problem, Targets, batch_size, empty_value, is_batch_mean, is_sum};

/// One row on its own.
struct Row {
    /// Scaled and capped logits, or probabilities.
    values: Vec<f64>,
    /// `d values / d logits`.
    slopes: Vec<f64>,
    /// How many times its rounding a logit hands on to its slope: `exp(-2 |v|)` is what the slope of
    /// `tanh(v)` comes to, and its relative error is `2 |v|` times that of `v`.
    conditions: Vec<f64>,
    /// The target as a distribution.
    target: Vec<f64>,
    /// Weight in the mean.
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

    // What the main loss and the z-loss of a row are divided by.
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
    let mut terms = vec![0.0; problem.logits.len()];
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
        let (surprisal, lse) = surprisals(&row.values, config.logits);
        let total_share: f64 = share.iter().sum();
        main_losses[index] = (0..classes)
            .filter(|class| share[*class] != 0.0)
            .map(|class| share[class] * surprisal[class])
            .sum();
        z_losses[index] = if z == 0.0 { 0.0 } else { z * lse * lse };

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
                // sum_c a[c] p - a, arranged as p sum_{others} a - a (1 - p), so that nothing
                // cancels where p is near 1.
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
                terms[at] = scale.abs()
                    * if probability <= 0.5 {
                        probability * (others + share[class]) + share[class]
                    } else {
                        missing * (others + share[class]) + others
                    };
                let penalty = if z == 0.0 {
                    0.0
                } else {
                    2.0 * z * lse * probability
                };
                (main * main_scale + penalty * z_scale) * row.slopes[class]
            } else if share[class] == 0.0 {
                0.0
            } else {
                -share[class] / row.values[class] * main_scale
            };
            logits_gradient[at] = slope;
            let factor = (1.0 - smoothing) * class_weight(class);
            targets_gradient[at] = if factor == 0.0 {
                0.0
            } else {
                factor * surprisal[class] * main_scale
            };
        }
    }

    let loss = if problem.unreduced {
        main_losses
            .iter()
            .zip(&z_losses)
            .map(|(main, z)| main + z)
            .collect()
    } else {
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

/// `-ln p` of every class, and the log-sum-exp (0 for probabilities).
fn surprisals(values: &[f64], logits: bool) -> (Vec<f64>, f64) {
    if !logits {
        return (values.iter().map(|s| -s.ln()).collect(), 0.0);
    }
    let (largest, maximum) = largest(values);
    if !maximum.is_finite() || values.iter().any(|x| x.is_nan()) {
        return (vec![f64::NAN; values.len()], f64::NAN);
    }
    let others: f64 = (0..values.len())
        .filter(|class| *class != largest)
        .map(|class| (values[class] - maximum).exp())
        .sum();
    let log_sum = others.ln_1p();
    let surprisals = values.iter().map(|x| (maximum - x) + log_sum).collect();
    (surprisals, maximum + log_sum)
}

/// The sum of all values but one, by the subtraction only where that loses nothing.
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
