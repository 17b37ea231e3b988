//! The definition of the loss as loops over f64. It shares nothing with the crate but the configuration that
//! it reads.

use burn_cross_entropy::{RowFactor, SmoothingOver};

use super::problem::{
    Outcome, Problem, Targets, Terms, batch_size, empty_value, is_batch_mean, is_sum,
};

/// The numbers of one row.
pub(super) struct Row {
    /// Scaled and capped logits, or probabilities.
    pub(super) values: Vec<f64>,
    /// The derivatives `d values / d logits`.
    pub(super) slopes: Vec<f64>,
    /// Factors by which the relative error of a logit grows in its slope. The slope of `tanh(v)` is about
    /// `exp(-2 |v|)`, and its relative error is `2 |v|` times that of `v`.
    pub(super) conditions: Vec<f64>,
    /// The target as a distribution.
    target: Vec<f64>,
    /// The weight of the row in the mean of the losses, and in that of the z-losses.
    weight: f64,
    row_weight: f64,
    ignored: bool,
}

/// The numbers of one row and what it takes to put them into the results.
struct Parts<'a> {
    problem: &'a Problem,
    row: &'a Row,
    /// The shares of the classes in the loss, and their sum.
    share: Vec<f64>,
    total_share: f64,
    softmax: Softmax,
    roundings: f64,
    /// The gradient of the result by the row's loss and by its z-loss.
    main_scale: f64,
    z_scale: f64,
    factor: Factored,
}

/// A loss `F l + G`, with `F` and `G` functions of what the target's probability lacks of 1.
struct Factored {
    /// `F` and `G`.
    factor: f64,
    further: f64,
    /// The derivative of `F l + G` by what is missing, with `F` and `l` of it. It is 0 where no gradient flows.
    by_missing: f64,
    /// The size of the terms of the factor's rounding, as a share of it.
    roundings: f64,
}

/// The divisors of the losses and of the z-losses.
#[derive(Clone, Copy)]
struct Divisors {
    main: f64,
    z: f64,
}

/// Loss and gradients of a problem.
pub fn solve(problem: &Problem) -> Outcome {
    let rows: Vec<Row> = (0..problem.rows())
        .map(|row| row_of(problem, row))
        .collect();
    let divisors = divisors(problem, &rows);
    let mut main_losses = vec![0.0; rows.len()];
    let mut z_losses = vec![0.0; rows.len()];
    let mut logits_gradient = vec![0.0; problem.logits.len()];
    let mut targets_gradient = vec![0.0; problem.logits.len()];
    let mut terms = Terms {
        loss: vec![0.0; rows.len()],
        logits_gradient: vec![0.0; problem.logits.len()],
        targets_gradient: vec![0.0; problem.logits.len()],
    };
    for (index, row) in rows.iter().enumerate().filter(|(_, row)| !row.ignored) {
        let parts = parts(problem, row, index, divisors);
        main_losses[index] = row.row_weight * parts.factored_loss();
        z_losses[index] = row.row_weight * parts.z_loss();
        terms.loss[index] = row.row_weight.abs() * parts.loss_terms();
        for class in 0..problem.classes() {
            let at = problem.at(index, class);
            (logits_gradient[at], terms.logits_gradient[at]) = parts.logits_slope(class);
            (targets_gradient[at], terms.targets_gradient[at]) = parts.targets_slope(class);
        }
    }
    let loss = if problem.unreduced {
        let pairs = main_losses.iter().zip(&z_losses);
        pairs.map(|(main, z)| main + z).collect()
    } else {
        let Divisors { main, z } = divisors;
        let least = if main == 0.0 { z } else { main.min(z) };
        if least != 0.0 {
            terms.loss = vec![terms.loss.iter().sum::<f64>() / least];
        }
        let mut loss = divided(problem, &main_losses, main);
        if problem.config.z_loss != 0.0 {
            loss += divided(problem, &z_losses, z);
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

fn divisors(problem: &Problem, rows: &[Row]) -> Divisors {
    let config = &problem.config;
    let (main, z) = if problem.unreduced || is_sum(config) {
        (1.0, 1.0)
    } else if is_batch_mean(config) {
        let samples = batch_size(problem) as f64;
        (samples, samples)
    } else {
        let counted = rows.iter().filter(|row| !row.ignored);
        let total = rows.iter().map(|row| row.weight).sum();
        (total, counted.map(|row| row.row_weight).sum())
    };
    Divisors { main, z }
}

/// The sum of the losses over their divisor. A row without a distribution shows even where the divisor is 0.
fn divided(problem: &Problem, losses: &[f64], by: f64) -> f64 {
    let sum = sum(losses.iter().copied());
    if by == 0.0 && !sum.is_nan() {
        empty_value(&problem.config)
    } else {
        sum / by
    }
}

fn class_weight(problem: &Problem, class: usize) -> f64 {
    let weight = &problem.config.weight;
    weight.as_ref().map_or(1.0, |w| f64::from(w[class]))
}

/// What the label smoothing gives every class of a row.
fn even_shares(problem: &Problem, values: &[f64]) -> Vec<f64> {
    let smoothing = problem.config.label_smoothing;
    let classes = values.len() as f64;
    let is_valid = |value: &f64| match problem.config.logits {
        true => *value != f64::NEG_INFINITY,
        false => *value != 0.0,
    };
    let even = |value: &f64| match problem.config.smoothing_over {
        SmoothingOver::Classes => smoothing / classes,
        SmoothingOver::OtherClasses if values.len() == 1 => 0.0,
        SmoothingOver::OtherClasses => smoothing / (classes - 1.0),
        SmoothingOver::ValidClasses if is_valid(value) => {
            smoothing / values.iter().filter(|value| is_valid(value)).count() as f64
        }
        SmoothingOver::ValidClasses => 0.0,
    };
    values.iter().map(even).collect()
}

/// The factor of the target's shares, to which the even shares are added. Of the other classes, the target's own is
/// none.
fn kept_share(problem: &Problem) -> f64 {
    let (smoothing, classes) = (problem.config.label_smoothing, problem.classes());
    match problem.config.smoothing_over {
        SmoothingOver::Classes | SmoothingOver::ValidClasses => 1.0 - smoothing,
        SmoothingOver::OtherClasses if classes == 1 => 1.0,
        // Above 0 only by its rounding where the smoothing is the largest possible.
        SmoothingOver::OtherClasses => {
            let kept = 1.0 - smoothing - smoothing / (classes as f64 - 1.0);
            if kept < 1e-14 { 0.0 } else { kept }
        }
    }
}

fn parts<'a>(problem: &'a Problem, row: &'a Row, index: usize, by: Divisors) -> Parts<'a> {
    let classes = problem.classes();
    let even = even_shares(problem, &row.values);
    let kept = kept_share(problem);
    let share: Vec<f64> = (0..classes)
        .map(|class| class_weight(problem, class) * (kept * row.target[class] + even[class]))
        .collect();
    let upstream = problem.upstream[if problem.unreduced { index } else { 0 }];
    let over = |divisor: f64| {
        if divisor == 0.0 {
            0.0
        } else {
            row.row_weight * upstream / divisor
        }
    };
    let mut parts = Parts {
        problem,
        row,
        total_share: sum(share.iter().copied()),
        share,
        softmax: softmax(&row.values, problem.config.logits),
        roundings: roundings(problem, &row.values),
        main_scale: over(by.main),
        z_scale: over(by.z),
        factor: Factored {
            factor: 1.0,
            further: 0.0,
            by_missing: 0.0,
            roundings: 0.0,
        },
    };
    if problem.config.row_factor != RowFactor::None {
        parts.factor = factored(&parts);
    }
    parts
}

impl Factored {
    /// The part of the factor's rounding in a number that it multiplies.
    fn of(&self, number: f64) -> f64 {
        match number.is_finite() {
            true => number.abs() * self.roundings,
            false => 0.0,
        }
    }
}

/// The rounding of a probability that the dtype of the arithmetic holds as 0: all of what is made of it.
fn beneath_numbers(probability: f64) -> Option<f64> {
    if probability < 4.0 * f64::MIN_POSITIVE {
        Some(2f64.powi(60))
    } else if probability < f64::from(f32::MIN_POSITIVE) {
        Some(2f64.powi(24))
    } else {
        None
    }
}

/// The factor of a row with an index target.
fn factored(parts: &Parts<'_>) -> Factored {
    let target = parts.target();
    let surprisal = &parts.softmax.surprisal;
    let p = (-surprisal[target]).exp();
    let missing = parts.probability_of_others(target);
    let loss = parts.main_loss();
    match parts.problem.config.row_factor {
        RowFactor::None => unreachable!("there is a factor"),
        RowFactor::Focal { gamma } => Factored {
            factor: missing.powf(gamma),
            further: 0.0,
            // With a small gamma the power of nothing would be infinite, and the loss is 0. An infinite loss pulls
            // nothing through the factor, or no gradient of its row would be a number.
            by_missing: if missing == 0.0 || p == 0.0 || loss.is_infinite() {
                0.0
            } else {
                gamma * missing.powf(gamma - 1.0) * loss
            },
            roundings: beneath_numbers(missing)
                .unwrap_or(gamma * (1.0 + missing.ln().abs()).min(100.0)),
        },
        RowFactor::Poly { epsilon } => {
            let weight = class_weight(parts.problem, target);
            Factored {
                factor: 1.0,
                further: epsilon * weight * missing,
                by_missing: epsilon * weight,
                roundings: 0.0,
            }
        }
        RowFactor::TargetProbability => Factored {
            factor: p,
            further: 0.0,
            by_missing: 0.0,
            roundings: beneath_numbers(p).unwrap_or(surprisal[target].min(100.0)),
        },
    }
}

impl Parts<'_> {
    /// A row without a distribution has a loss of NaN even where no class has a share.
    fn main_loss(&self) -> f64 {
        if self.softmax.lse.is_nan() {
            return f64::NAN;
        }
        let with_share = (0..self.share.len()).filter(|class| self.share[*class] != 0.0);
        sum(with_share.map(|class| self.share[class] * self.softmax.surprisal[class]))
    }

    /// The class of an index target.
    fn target(&self) -> usize {
        let mut shares = self.row.target.iter();
        shares.position(|share| *share == 1.0).expect("an index")
    }

    /// The sum of the probabilities of all classes but one.
    fn probability_of_others(&self, class: usize) -> f64 {
        let surprisal = &self.softmax.surprisal;
        let others = (0..surprisal.len()).filter(|other| *other != class);
        sum(others.map(|other| (-surprisal[other]).exp()))
    }

    /// The loss of the row with its factor.
    fn factored_loss(&self) -> f64 {
        let (loss, factor) = (self.main_loss(), self.factor.factor);
        let product = match self.problem.config.row_factor {
            // An infinite loss stays infinite under a power; a probability of 0 leaves nothing of it.
            RowFactor::Focal { .. } if loss.is_infinite() => loss,
            RowFactor::TargetProbability if factor == 0.0 => 0.0,
            _ => factor * loss,
        };
        product + self.factor.further
    }

    fn z(&self) -> f64 {
        self.problem.config.z_loss
    }

    fn z_loss(&self) -> f64 {
        if self.z() == 0.0 {
            return 0.0;
        }
        self.z() * self.softmax.lse * self.softmax.lse
    }

    fn loss_terms(&self) -> f64 {
        let Softmax { lse, lse_terms, .. } = self.softmax;
        self.total_share * self.roundings
            + self.factor.of(self.factored_loss())
            // With a negative epsilon two terms cancel.
            + 2.0 * self.factor.further.abs()
            + 2.0 * self.z() * lse.abs() * (lse_terms + self.roundings)
    }

    /// The derivative by a logit or a probability, and its terms.
    fn logits_slope(&self, class: usize) -> (f64, f64) {
        if self.problem.config.logits {
            return self.slope_of_logit(class);
        }
        if self.share[class] == 0.0 {
            return (0.0, 0.0);
        }
        let slope = -self.share[class] / self.row.values[class];
        (self.scaled(slope), 0.0)
    }

    fn slope_of_logit(&self, class: usize) -> (f64, f64) {
        let Softmax {
            ref surprisal,
            lse,
            lse_terms,
        } = self.softmax;
        let share = self.share[class];
        let slope = self.row.slopes[class];
        let probability = (-surprisal[class]).exp();
        // This is sum_c a[c] p - a, arranged as p sum_{others} a - a (1 - p), so that nothing cancels where p
        // is near 1.
        let others = sum_without(&self.share, class, self.total_share);
        let missing = if probability <= 0.5 {
            1.0 - probability
        } else {
            self.probability_of_others(class)
        };
        let plain = probability * others - share * missing;
        let Factored {
            factor, by_missing, ..
        } = self.factor;
        let mut main = factor * plain;
        if by_missing != 0.0 {
            // What the target lacks of 1 changes with a logit by `p (p[c] - 1)` or `p p[c]`.
            let target = self.target();
            let of_target = (-surprisal[target]).exp();
            let moved = match class == target {
                true => -missing,
                false => probability,
            };
            main += by_missing * of_target * moved;
        }
        let scale = slope * self.row.conditions[class] * self.main_scale;
        let mut terms = scale.abs()
            * (1.0 + self.roundings)
            * if probability <= 0.5 {
                probability * (others + share) + share
            } else {
                missing * (others + share) + others
            };
        terms *= factor.abs().max(f64::MIN_POSITIVE);
        terms += self.factor.of(main * scale);
        let mut penalty = 0.0;
        if self.z() != 0.0 {
            let by_lse = 2.0 * self.z() * probability;
            penalty = by_lse * lse;
            terms += (by_lse * self.z_scale * slope).abs() * (lse_terms + self.roundings);
        }
        (
            (main * self.main_scale + penalty * self.z_scale) * slope,
            terms,
        )
    }

    /// The derivative by a share of the target distribution, and its terms.
    fn targets_slope(&self, class: usize) -> (f64, f64) {
        let factor = kept_share(self.problem) * class_weight(self.problem, class);
        let terms = (factor * self.main_scale).abs() * self.roundings;
        if factor == 0.0 {
            return (0.0, terms);
        }
        (self.scaled(factor * self.softmax.surprisal[class]), terms)
    }

    /// A slope times the scale of the row. Nothing of an infinite slope arrives through a scale of 0, that of
    /// an upstream gradient of 0 or of an empty mean.
    fn scaled(&self, slope: f64) -> f64 {
        match slope.is_infinite() && self.main_scale == 0.0 {
            true => 0.0,
            false => slope * self.main_scale,
        }
    }
}

/// The details of a row besides its loss.
#[derive(Clone, Debug)]
pub struct RowDetails {
    pub lse: f64,
    pub log_prob: f64,
    pub max_log_prob: f64,
    pub entropy: f64,
    pub predicted: i64,
    pub rank: i64,
    /// The class of the target; -1 where the row is ignored.
    pub target: i64,
    /// The size of the numbers, by which their rounding is measured.
    pub terms: f64,
    /// The same for `log_prob`, in which a distribution multiplies it.
    pub log_prob_terms: f64,
    /// The same for `max_log_prob`, which knows the other classes alone.
    pub max_log_prob_terms: f64,
    /// The largest `-ln p` of a class that is not at minus infinity.
    pub largest_surprisal: f64,
}

/// The details of every row. Classes are in order of their logits, which scale and softcap keep: larger ones
/// first, equal ones by their number, NaN last. The target of a row without a distribution has the last rank.
pub fn details(problem: &Problem) -> Vec<RowDetails> {
    (0..problem.rows())
        .map(|index| row_details(problem, index))
        .collect()
}

fn row_details(problem: &Problem, index: usize) -> RowDetails {
    let row = row_of(problem, index);
    let classes = problem.classes();
    let score = |class: usize| {
        let given = problem.logits[problem.at(index, class)];
        // The sum makes 0 of minus 0, which are two numbers in a total order.
        if given.is_nan() {
            f64::NEG_INFINITY
        } else {
            given + 0.0
        }
    };
    let mut order: Vec<usize> = (0..classes).collect();
    order.sort_by(|a, b| score(*b).total_cmp(&score(*a)).then(a.cmp(b)));
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
    let finite = surprisal.iter().filter(|surprisal| surprisal.is_finite());
    let largest_surprisal = finite.copied().fold(0.0, f64::max);
    let pairs = row.target.iter().zip(&surprisal);
    let log_prob = -sum(pairs.map(|(p, s)| product(*p, *s)));
    // Probabilities have no log-sum-exp, and those of other classes do not matter.
    let has_distribution = !lse.is_nan() && !log_prob.is_nan();
    let terms = if lse.is_nan() {
        0.0
    } else {
        lse_terms + roundings(problem, &row.values)
    };
    RowDetails {
        lse,
        log_prob: if lse.is_nan() && !row.ignored {
            f64::NAN
        } else {
            log_prob
        },
        max_log_prob: max_log_prob(&surprisal, lse),
        entropy: sum(surprisal.iter().map(|s| product((-s).exp(), *s))),
        predicted: order[0] as i64,
        rank: if row.ignored {
            -1
        } else if has_distribution {
            place.expect("a class") as i64
        } else {
            classes as i64 - 1
        },
        target: if row.ignored { -1 } else { target as i64 },
        terms,
        max_log_prob_terms: if problem.config.logits && !lse.is_nan() {
            let others = order[1..].iter().map(|class| surprisal[*class]);
            let gap = |s: f64| s - surprisal[order[0]];
            sum(others.map(|s| product((-s).exp(), gap(s) + roundings(problem, &row.values))))
        } else {
            0.0
        },
        log_prob_terms: terms * row.target.iter().sum::<f64>().max(1.0),
        largest_surprisal,
    }
}

/// The logarithm of the largest probability; NaN is below all numbers where the probabilities were given.
fn max_log_prob(surprisal: &[f64], lse: f64) -> f64 {
    if lse.is_nan() {
        return f64::NAN;
    }
    let numbers = surprisal.iter().filter(|surprisal| !surprisal.is_nan());
    numbers.copied().reduce(f64::min).map_or(f64::NAN, |s| -s)
}

pub(super) fn row_of(problem: &Problem, row: usize) -> Row {
    let config = &problem.config;
    let classes = problem.classes();
    let scale = config.logit_scale;
    let (mut values, mut slopes) = (vec![0.0; classes], vec![1.0; classes]);
    let mut conditions = vec![1.0; classes];
    for class in 0..classes {
        let value = problem.logits[problem.at(row, class)];
        values[class] = value * scale;
        slopes[class] = scale;
        if let Some(cap) = config.logit_softcap {
            let ratio = value * scale / cap;
            let cosh = ratio.cosh();
            slopes[class] = scale / cosh / cosh;
            // An infinite logit is a mask and not a number: it stays what it is.
            if !value.is_infinite() {
                values[class] = cap * ratio.tanh();
                conditions[class] = 1.0 + 2.0 * ratio.abs();
            }
        }
    }
    let mut target = vec![0.0; classes];
    let row_weight = problem.row_weight(row);
    let ignored = problem.is_ignored(row);
    let mut weight = if ignored { 0.0 } else { row_weight };
    match &problem.targets {
        Targets::Indices(indices) => {
            if !ignored {
                let class = indices[row] as usize;
                target[class] = 1.0;
                if let Some(weights) = &config.weight {
                    weight *= f64::from(weights[class]);
                }
            }
        }
        Targets::Distributions(_) if ignored => {}
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
        row_weight,
        ignored,
    }
}

/// The error of a row's logits in units in the last place of 1; the exponential turns it into a relative
/// error. It is 0 where logits are not rounded before the largest is subtracted.
pub(super) fn roundings(problem: &Problem, values: &[f64]) -> f64 {
    let scaled = problem.config.logit_scale.log2().fract() != 0.0;
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

pub(super) struct Softmax {
    /// `-ln p` of every class.
    pub(super) surprisal: Vec<f64>,
    /// The log-sum-exp; 0 for probabilities.
    lse: f64,
    /// The size of the two terms of the log-sum-exp.
    lse_terms: f64,
}

pub(super) fn softmax(values: &[f64], logits: bool) -> Softmax {
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
    let others = (0..values.len()).filter(|class| *class != largest);
    let others = sum(others.map(|class| (values[class] - maximum).exp()));
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
    let others = (0..values.len()).filter(|class| *class != without);
    sum(others.map(|class| values[class]))
}

/// The sum, with what every addition rounds off added at the end. A gradient of equal terms is the rounding of
/// such sums.
fn sum(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut rounded_off) = (0.0f64, 0.0);
    for value in values {
        let next = sum + value;
        rounded_off += if sum.abs() >= value.abs() {
            (sum - next) + value
        } else {
            (value - next) + sum
        };
        sum = next;
    }
    if sum.is_finite() {
        sum + rounded_off
    } else {
        sum
    }
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
