//! A second form of the definition, which shares no idea with the kernels and with [`oracle`](super::oracle):
//! in numbers of 106 bits ([`Dd`]), straight as it stands on paper. What cancels here cancels in digits that
//! f64 does not have, so the form needs no maximum, no sum without the maximum, no `ln(1 + s)`, and no
//! special case for a class of nearly all the probability.
//!
//! With `t` the logits of a row, `s` the scale and `k` the softcap, `x = s t` or `x = k tanh(s t / k)`; an
//! infinite logit is a mask, and stays what it is. The shares of a target `q` are
//! `a[c] = w[c] ((1 - e) q[c] + e / C)`, or as another [`SmoothingOver`] says, and `A` is their sum. Then by the
//! values of `x`:
//!
//! | row | `lse` | `-ln p[c]` | loss | `d loss / d x[c]` |
//! |---|---|---|---|---|
//! | finite, or some at -inf | `ln sum exp(x)` | `lse - x[c]`, +inf at -inf | `sum a[c] (lse - x[c]) + z lse^2`; a share of 0 adds 0 | `A p[c] - a[c] + 2 z lse p[c]` |
//! | all at -inf | NaN | NaN | NaN, also without a share | NaN |
//! | one at NaN or +inf | NaN | NaN | NaN, also without a share | NaN |
//! | probabilities `s`, any | 0 | `-ln s[c]` | `sum -a[c] ln s[c]`; a share of 0 adds 0 | `-a[c] / s[c]`, 0 without a share |
//! | ignored, any | as of any row | as of any row | 0 | 0 |
//!
//! A weight of the row multiplies loss and derivatives; a row of weight 0 is ignored.
//!
//! `d x / d t` is `s`, with a softcap `s` times the derivative of `tanh`, and 0 at an infinite logit, where
//! the cap is flat. The derivative by `q[c]` is `(1 - e) w[c]` times `-ln p[c]`, 0 where the first factor is.
//!
//! A divisor of 0 makes the mean the value of `empty`, or NaN where a row is, and the gradient of a row that
//! has one 0.
//!
//! The order of the classes is that of the logits, which scale and softcap keep: larger ones first, equal
//! ones by their number, NaN with -inf below all others. The target of a row whose log-probability is NaN is
//! the last of this order.

use burn_cross_entropy::{RowFactor, SmoothingOver};

use super::double_double::Dd;
use super::oracle::RowDetails;
use super::problem::{
    Outcome, Problem, Targets, Terms, batch_size, empty_value, is_batch_mean, is_sum,
};

/// The numbers of one row on the way to its results.
struct Row {
    /// `-ln p` of every class.
    surprisal: Vec<Dd>,
    /// `p` of every class.
    probability: Vec<Dd>,
    lse: Dd,
    /// Whether a logit, or a probability, makes the row one without a distribution.
    has_no_distribution: bool,
    /// The target as a distribution; zeros where the row is ignored.
    target: Vec<f64>,
    share: Vec<Dd>,
    /// The weight of the row in the mean of the losses, and in that of the z-losses.
    weight: f64,
    row_weight: f64,
    ignored: bool,
}

/// The factor of a part of the loss in its reduction. There is none where the divisor is 0.
#[derive(Clone, Copy)]
struct Divisor(Option<Dd>);

impl Divisor {
    fn of(divisor: f64) -> Self {
        Self((divisor != 0.0).then(|| Dd::of(divisor)))
    }

    /// The reduction of the losses of the rows.
    fn divide(self, losses: &[Dd], empty: f64) -> f64 {
        let sum: Dd = losses.iter().copied().sum();
        match self.0 {
            None if sum.to_f64().is_nan() => f64::NAN,
            None => empty,
            Some(divisor) => (sum / divisor).to_f64(),
        }
    }

    /// The gradient of the reduction by one loss, times the derivative of the loss.
    fn chain(self, upstream: f64, derivative: Dd) -> Dd {
        match self.0 {
            None if derivative.to_f64().is_nan() => derivative,
            None => Dd::ZERO,
            // Nothing of an infinite slope arrives through an upstream gradient of 0.
            Some(_) if derivative.to_f64().is_infinite() && upstream == 0.0 => Dd::ZERO,
            Some(divisor) => derivative * (Dd::of(upstream) / divisor),
        }
    }
}

/// Loss and gradients of a problem, without the sizes of their terms.
pub fn solve(problem: &Problem) -> Outcome {
    let rows: Vec<Row> = (0..problem.rows())
        .map(|row| row_of(problem, row))
        .collect();
    let z = Dd::of(problem.config.z_loss);
    let has_penalty = z.to_f64() != 0.0;
    let [of_main, of_penalty] = divisors(problem, &rows);
    let counts = |row: &&Row| !row.ignored;
    let main_loss = |row: &Row| match counts(&row) {
        true => Dd::of(row.row_weight) * row.factored(problem).0,
        false => Dd::ZERO,
    };
    let penalty = |row: &Row| match has_penalty && counts(&row) {
        true => Dd::of(row.row_weight) * z * row.lse * row.lse,
        false => Dd::ZERO,
    };
    let main: Vec<Dd> = rows.iter().map(main_loss).collect();
    let penalties: Vec<Dd> = rows.iter().map(penalty).collect();
    let loss = if problem.unreduced {
        let pairs = main.iter().zip(&penalties);
        pairs.map(|(main, z)| (*main + *z).to_f64()).collect()
    } else {
        let empty = empty_value(&problem.config);
        let main = of_main.divide(&main, empty);
        let penalty = match has_penalty {
            true => of_penalty.divide(&penalties, empty),
            false => 0.0,
        };
        vec![main + penalty]
    };
    let mut outcome = Outcome {
        loss,
        logits_gradient: vec![0.0; problem.logits.len()],
        targets_gradient: match problem.targets {
            Targets::Distributions(_) if problem.tracked_targets => {
                Some(vec![0.0; problem.logits.len()])
            }
            _ => None,
        },
        terms: Terms::default(),
    };
    for (index, row) in rows.iter().enumerate().filter(|(_, row)| counts(row)) {
        let upstream = problem.upstream[if problem.unreduced { index } else { 0 }];
        let upstream = row.row_weight * upstream;
        for class in 0..problem.classes() {
            let at = problem.at(index, class);
            let by_x = of_main.chain(upstream, row.slope(problem, class));
            let by_x = match has_penalty {
                true => by_x + of_penalty.chain(upstream, row.penalty_slope(z, class)),
                false => by_x,
            };
            let slope = by_x * score_slope(problem, problem.logits[at]);
            outcome.logits_gradient[at] = slope.to_f64();
            if let Some(gradient) = &mut outcome.targets_gradient {
                let slope = of_main.chain(upstream, row.target_slope(problem, class));
                gradient[at] = slope.to_f64();
            }
        }
    }
    outcome
}

/// The divisors of the losses and of the z-losses.
fn divisors(problem: &Problem, rows: &[Row]) -> [Divisor; 2] {
    if problem.unreduced || is_sum(&problem.config) {
        [Divisor::of(1.0); 2]
    } else if is_batch_mean(&problem.config) {
        [Divisor::of(batch_size(problem) as f64); 2]
    } else {
        let counted = rows.iter().filter(|row| !row.ignored);
        let total: f64 = rows.iter().map(|row| row.weight).sum();
        let of_rows: f64 = counted.map(|row| row.row_weight).sum();
        [Divisor::of(total), Divisor::of(of_rows)]
    }
}

/// The details of every row.
pub fn details(problem: &Problem) -> Vec<RowDetails> {
    let details = |index| {
        let row = row_of(problem, index);
        let classes = 0..problem.classes();
        let pairs = || row.target.iter().zip(&row.surprisal);
        let log_prob: Dd = pairs()
            .filter(|(q, _)| **q != 0.0)
            .map(|(q, surprisal)| Dd::of(-*q) * *surprisal)
            .sum();
        let spoiled = row.has_no_distribution && !row.ignored;
        let entropy: Dd = classes
            .clone()
            .filter(|class| row.probability[*class].to_f64() != 0.0)
            .map(|class| row.probability[class] * row.surprisal[class])
            .sum();
        let score = |class: usize| {
            let logit = problem.logits[problem.at(index, class)];
            if logit.is_nan() {
                f64::NEG_INFINITY
            } else {
                logit
            }
        };
        let is_before = |a: usize, b: usize| score(a) > score(b) || (score(a) == score(b) && a < b);
        let first_of = |is_before: &dyn Fn(usize, usize) -> bool| {
            classes.clone().fold(0, |first, class| {
                if is_before(class, first) {
                    class
                } else {
                    first
                }
            })
        };
        let target = first_of(&|a, b| row.target[a] > row.target[b]);
        let before = classes.clone().filter(|class| is_before(*class, target));
        RowDetails {
            lse: row.lse.to_f64(),
            log_prob: if spoiled { f64::NAN } else { log_prob.to_f64() },
            max_log_prob: match row.has_no_distribution && problem.config.logits {
                true => f64::NAN,
                false => (row.surprisal.iter().map(|surprisal| -surprisal.to_f64()))
                    .fold(f64::NAN, f64::max),
            },
            entropy: entropy.to_f64(),
            predicted: first_of(&is_before) as i64,
            rank: match row.ignored {
                true => -1,
                false if spoiled || log_prob.to_f64().is_nan() => problem.classes() as i64 - 1,
                false => before.count() as i64,
            },
            target: if row.ignored { -1 } else { target as i64 },
            terms: 0.0,
            log_prob_terms: 0.0,
            max_log_prob_terms: 0.0,
            largest_surprisal: 0.0,
        }
    };
    (0..problem.rows()).map(details).collect()
}

impl Row {
    /// The loss with its factor, and the derivative of it by the target's probability where a gradient flows.
    fn factored(&self, problem: &Problem) -> (Dd, Dd, Dd) {
        let loss = self.loss();
        let nothing = (loss, Dd::ONE, Dd::ZERO);
        let factor = problem.config.row_factor;
        if factor == RowFactor::None {
            return nothing;
        }
        let target = self.target.iter().position(|share| *share == 1.0);
        let target = target.expect("an index");
        let p = self.probability[target];
        let missing = Dd::ONE - p;
        let is_learned = missing.to_f64() <= 0.0;
        match factor {
            RowFactor::None => nothing,
            RowFactor::Focal { .. } if is_learned && loss.to_f64().is_finite() => {
                (Dd::ZERO, Dd::ZERO, Dd::ZERO)
            }
            RowFactor::Focal { gamma } if loss.to_f64().is_infinite() => {
                let power = if is_learned {
                    Dd::ZERO
                } else {
                    (Dd::of(gamma) * missing.ln()).exp()
                };
                (loss, power, Dd::ZERO)
            }
            RowFactor::Focal { gamma } => {
                let power = |exponent: f64| (Dd::of(exponent) * missing.ln()).exp();
                let by_p = -(Dd::of(gamma) * power(gamma - 1.0) * loss);
                let has_none = p.to_f64() == 0.0 || loss.to_f64().is_infinite();
                let by_p = if has_none { Dd::ZERO } else { by_p };
                (power(gamma) * loss, power(gamma), by_p)
            }
            RowFactor::Poly { epsilon } => {
                let number = Dd::of(epsilon) * class_weight(problem, target);
                (loss + number * missing, Dd::ONE, -number)
            }
            RowFactor::TargetProbability if p.to_f64() == 0.0 => (Dd::ZERO, Dd::ZERO, Dd::ZERO),
            RowFactor::TargetProbability => (p * loss, p, Dd::ZERO),
        }
    }

    fn loss(&self) -> Dd {
        if self.lse.to_f64().is_nan() {
            return self.lse;
        }
        let pairs = self.share.iter().zip(&self.surprisal);
        pairs
            .filter(|(share, _)| share.to_f64() != 0.0)
            .map(|(share, surprisal)| *share * *surprisal)
            .sum()
    }

    /// The derivative of the loss by a logit after scale and softcap, or by a probability.
    fn slope(&self, problem: &Problem, class: usize) -> Dd {
        let share = self.share[class];
        if problem.config.logits {
            let plain = self.share.iter().copied().sum::<Dd>() * self.probability[class] - share;
            let (_, factor, by_p) = self.factored(problem);
            let slope = match factor.to_f64() {
                // A factor of 0 leaves nothing.
                0.0 => Dd::ZERO,
                _ => factor * plain,
            };
            if by_p.to_f64() == 0.0 {
                return slope;
            }
            let is_target = Dd::of(self.target[class]);
            let target = self.target.iter().position(|share| *share == 1.0);
            let p = self.probability[target.expect("an index")];
            slope + by_p * p * (is_target - self.probability[class])
        } else if share.to_f64() == 0.0 {
            Dd::ZERO
        } else {
            -share / self.probability[class]
        }
    }

    /// The derivative of the z-loss.
    fn penalty_slope(&self, z: Dd, class: usize) -> Dd {
        Dd::of(2.0) * z * self.lse * self.probability[class]
    }

    fn target_slope(&self, problem: &Problem, class: usize) -> Dd {
        let factor = smoothing(problem, None).0 * class_weight(problem, class);
        if factor.to_f64() == 0.0 {
            Dd::ZERO
        } else {
            factor * self.surprisal[class]
        }
    }
}

fn class_weight(problem: &Problem, class: usize) -> Dd {
    let weight = &problem.config.weight;
    Dd::of(weight.as_ref().map_or(1.0, |w| f64::from(w[class])))
}

/// The factor of the target's shares, and the further share of a class of a row, if one is given.
fn smoothing(problem: &Problem, class: Option<(&[f64], usize)>) -> (Dd, Dd) {
    let classes = Dd::of(problem.classes() as f64);
    let smoothing = Dd::of(problem.config.label_smoothing);
    let masked = if problem.config.logits {
        f64::NEG_INFINITY
    } else {
        0.0
    };
    match (problem.config.smoothing_over, class) {
        (SmoothingOver::OtherClasses, _) => {
            if problem.classes() == 1 {
                return (Dd::ONE, Dd::ZERO);
            }
            // The same smoothing among all classes, which rounding can take above 1.
            let among_all = smoothing * classes / (classes - Dd::ONE);
            let kept = Dd::ONE - among_all;
            let kept = if kept.to_f64() < 1e-14 {
                Dd::ZERO
            } else {
                kept
            };
            (kept, among_all / classes)
        }
        (SmoothingOver::ValidClasses, Some((row, class))) => {
            let valid = row.iter().filter(|value| **value != masked).count();
            let even = smoothing / Dd::of(valid as f64);
            let is_masked = row[class] == masked;
            (Dd::ONE - smoothing, if is_masked { Dd::ZERO } else { even })
        }
        (SmoothingOver::Classes | SmoothingOver::ValidClasses, _) => {
            (Dd::ONE - smoothing, smoothing / classes)
        }
    }
}

fn row_of(problem: &Problem, index: usize) -> Row {
    let classes = problem.classes();
    let given: Vec<f64> = (0..classes)
        .map(|class| problem.logits[problem.at(index, class)])
        .collect();
    let (row_weight, ignored) = (problem.row_weight(index), problem.is_ignored(index));
    let mut target = vec![0.0; classes];
    let mut weight = if ignored { 0.0 } else { row_weight };
    match &problem.targets {
        _ if ignored => {}
        Targets::Indices(indices) => {
            target[indices[index] as usize] = 1.0;
            weight *= class_weight(problem, indices[index] as usize).to_f64();
        }
        Targets::Distributions(shares) => {
            target = (0..classes)
                .map(|class| shares[problem.at(index, class)])
                .collect();
        }
    }
    let share = |class: usize| {
        let (kept, even) = smoothing(problem, Some((&given, class)));
        class_weight(problem, class) * (kept * Dd::of(target[class]) + even)
    };
    let share = (0..classes).map(share).collect();
    let (surprisal, probability, lse) = match problem.config.logits {
        true => softmax(&given.iter().map(|t| score(problem, *t)).collect::<Vec<_>>()),
        false => {
            let s: Vec<Dd> = given.iter().copied().map(Dd::of).collect();
            (s.iter().map(|s| -s.ln()).collect(), s, Dd::ZERO)
        }
    };
    Row {
        surprisal,
        probability,
        lse,
        has_no_distribution: lse.to_f64().is_nan(),
        target,
        share,
        weight,
        row_weight,
        ignored,
    }
}

/// A logit after scale and softcap.
fn score(problem: &Problem, logit: f64) -> Dd {
    if !logit.is_finite() {
        return Dd::of(logit);
    }
    let scaled = Dd::of(logit) * Dd::of(problem.config.logit_scale);
    match problem.config.logit_softcap.map(Dd::of) {
        None => scaled,
        Some(cap) => cap * (scaled / cap).tanh(),
    }
}

/// The derivative of [`score`]; 1 for probabilities.
fn score_slope(problem: &Problem, logit: f64) -> Dd {
    let scale = Dd::of(problem.config.logit_scale);
    match problem.config.logit_softcap.map(Dd::of) {
        None => scale,
        Some(_) if logit.is_infinite() => Dd::ZERO,
        Some(cap) => scale * (Dd::of(logit) * scale / cap).tanh_slope(),
    }
}

/// `-ln p` and `p` of every class, and the log-sum-exp.
///
/// A softmax is the same after the same number is subtracted from all scores. That number is the first score
/// that all exponentials leave within the range of f64: not the largest, unless it comes first.
fn softmax(x: &[Dd]) -> (Vec<Dd>, Vec<Dd>, Dd) {
    const RANGE: f64 = 600.0;
    let spoilt = |x: &Dd| x.to_f64().is_nan() || x.to_f64() == f64::INFINITY;
    let in_range = |shift: &&Dd| {
        shift.to_f64().is_finite() && x.iter().all(|x| (*x - **shift).to_f64() <= RANGE)
    };
    let shift = match x.iter().find(in_range) {
        Some(shift) if !x.iter().any(spoilt) => *shift,
        _ => {
            let nan = Dd::of(f64::NAN);
            return (vec![nan; x.len()], vec![nan; x.len()], nan);
        }
    };
    let shifted: Vec<Dd> = x.iter().map(|x| *x - shift).collect();
    let lse = shifted.iter().map(|y| y.exp()).sum::<Dd>().ln();
    let surprisal: Vec<Dd> = shifted.iter().map(|y| lse - *y).collect();
    let probability = surprisal.iter().map(|s| (-*s).exp()).collect();
    (surprisal, probability, shift + lse)
}
