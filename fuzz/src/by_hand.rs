//! The contrastive losses and their gradients as loops over f64, for every form. With `u` and `v_j` the query and its
//! keys, of length 1, `s` one over the temperature, `P` the positives:
//!
//! ```text
//! x_j = s (u.v_j - margin [j in P]) - ln Q_j          Q_j the probability that the key is drawn
//! Out      loss = sum_P (lse x - x_p) / |P|           slope_j = p_j - [j in P] / |P|    p the softmax of x
//! In       loss = lse x - lse_P x + ln |P|            slope_j = p_j - q_j               q the softmax over P alone
//! Sigmoid  loss = sum_j ln(1 + exp(-z_j (x_j + b)))   slope_j = -z_j / (1 + exp(z_j (x_j + b)))   z_j 1 in P, else -1
//!
//! dloss/du = s sum_j slope_j v_j          dloss/dv_j = s slope_j u
//! dloss/d ln s = sum_j slope_j (x_j + ln Q_j)          dloss/db = sum_j slope_j
//! ```
//!
//! and through the length: `(g - u (u.g)) / |a|` for `a` of direction `u`. A key that is not in `P` is left out where
//! `u.v_j` is above that of the positive by more than a bound.

/// The place of a row: its tensor, and its number there.
pub type Place = (usize, usize);

/// Rows of numbers.
pub type Rows = Vec<Vec<f64>>;

/// A row of length 1, and the length that it had.
type Direction = (Vec<f64>, Option<f64>);

/// A row that a query is compared with.
#[derive(Clone, Copy)]
pub struct Key {
    pub place: Place,
    pub is_positive: bool,
    /// The logarithm of the probability that it is drawn.
    pub log_q: f64,
}

/// A query, and the keys that it is compared with.
pub struct Query {
    pub query: Place,
    pub keys: Vec<Key>,
    /// The factor of its loss in the result.
    pub share: f64,
}

/// The way from the similarities of a query to its loss.
#[derive(Clone, Copy, PartialEq)]
pub enum Value {
    Out,
    In,
    Sigmoid { bias: f64 },
}

pub struct Contrast {
    pub tensors: Vec<Rows>,
    pub queries: Vec<Query>,
    pub value: Value,
    pub scale: f64,
    pub margin: f64,
    /// Keys more similar than the positive by more than that are left out.
    pub above: Option<f64>,
    pub normalize: bool,
}

/// A number and the size of the terms that it is a sum of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    pub value: f64,
    pub terms: f64,
}

impl Sum {
    fn add(&mut self, term: f64, terms: f64) {
        self.value += term;
        self.terms += terms;
    }
}

pub struct Solution {
    pub loss: Sum,
    /// The similarities of each query to the keys that are not left out, with all that is added to them, the positives'
    /// before the others.
    pub similarities: Rows,
    /// The log-sum-exps of the similarities.
    pub lse: Vec<f64>,
    /// The gradients of the tensors.
    pub gradients: Vec<Vec<Vec<Sum>>>,
    /// The gradients of the logarithm of the scale, and of the bias.
    pub of_scale: Sum,
    pub of_bias: Sum,
    /// The smallest distance of a similarity from the bound that it may be left out by.
    pub from_bound: f64,
}

/// A key that is not left out.
struct Compared {
    key: Key,
    /// The similarity over the temperature, and the size of the products that it is a sum of.
    scaled: Sum,
    /// The same with all that is added to it.
    x: f64,
}

/// The loss of a query, and its slopes by the similarities.
struct Of {
    loss: Sum,
    lse: f64,
    slopes: Vec<Sum>,
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The direction of a row, and its length. A row without a normal number of f32 has neither: it is left as it
/// is, and so is its gradient.
fn direction(row: &[f64], normalize: bool) -> Direction {
    let largest = row.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    let is_spoiled = row.iter().any(|x| !x.is_finite());
    if !normalize || (largest < f64::from(f32::MIN_POSITIVE) && !is_spoiled) {
        return (row.to_vec(), None);
    }
    if is_spoiled {
        return (vec![f64::NAN; row.len()], Some(f64::NAN));
    }
    let moderate: Vec<f64> = row.iter().map(|x| x / largest).collect();
    let length = dot(&moderate, &moderate).sqrt();
    let unit = moderate.iter().map(|x| x / length).collect();
    (unit, Some(length * largest))
}

pub fn solve(contrast: &Contrast) -> Solution {
    let direction_of = |row: &Vec<f64>| direction(row, contrast.normalize);
    let directions_of = |rows: &Rows| rows.iter().map(direction_of).collect();
    let directions: Vec<Vec<Direction>> = contrast.tensors.iter().map(directions_of).collect();
    let unit = |(tensor, row): Place| &directions[tensor][row].0;
    let mut solution = Solution {
        loss: Sum::default(),
        similarities: vec![],
        lse: vec![],
        gradients: zeros(&contrast.tensors),
        of_scale: Sum::default(),
        of_bias: Sum::default(),
        from_bound: f64::INFINITY,
    };
    for query in &contrast.queries {
        let u = unit(query.query);
        let candidate = |key: &Key| (*key, contrast.scaled(u, unit(key.place)));
        let candidates = query.keys.iter().map(candidate);
        let (compared, from_bound) = contrast.compared(candidates.collect());
        solution.from_bound = solution.from_bound.min(from_bound);
        let of = contrast.of(&compared);
        let (loss, share) = (of.loss, query.share);
        solution.loss.add(share * loss.value, share * loss.terms);
        for (Compared { key, scaled, .. }, slope) in compared.iter().zip(&of.slopes) {
            let (slope, terms) = (share * slope.value, share * slope.terms);
            let factors = (contrast.scale * slope, contrast.scale * terms);
            add(&mut solution, query.query, unit(key.place), factors);
            add(&mut solution, key.place, u, factors);
            let margin = contrast.margin_of(key);
            let by_scale = slope * (scaled.value - margin);
            solution
                .of_scale
                .add(by_scale, terms * (scaled.terms + margin));
            solution.of_bias.add(slope, terms);
        }
        let similarities = compared.iter().map(|key| key.x).collect();
        solution.similarities.push(similarities);
        solution.lse.push(of.lse);
    }
    through_length(&mut solution.gradients, &directions);
    solution
}

impl Contrast {
    /// The similarity of two rows over the temperature.
    fn scaled(&self, u: &[f64], v: &[f64]) -> Sum {
        let size = u.iter().zip(v).map(|(u, v)| (u * v).abs()).sum::<f64>();
        Sum {
            value: self.scale * dot(u, v),
            terms: self.scale * size,
        }
    }

    /// What is subtracted from the similarity of a positive.
    fn margin_of(&self, key: &Key) -> f64 {
        match key.is_positive {
            true => self.scale * self.margin,
            false => 0.0,
        }
    }

    /// The keys that are not left out, positives before others, and the smallest distance of a similarity from the bound.
    fn compared(&self, mut candidates: Vec<(Key, Sum)>) -> (Vec<Compared>, f64) {
        candidates.sort_by_key(|(key, _)| !key.is_positive);
        let mut from_bound = f64::INFINITY;
        if let Some(above) = self.above {
            let bound = candidates[0].1.value + self.scale * above;
            for (_, similarity) in candidates.iter().filter(|(key, _)| !key.is_positive) {
                from_bound = from_bound.min((similarity.value - bound).abs());
            }
            candidates.retain(|(key, similarity)| {
                // NaN is above nothing.
                let is_above = similarity.value > bound;
                key.is_positive || !is_above
            });
        }
        let bias = match self.value {
            Value::Sigmoid { bias } => bias,
            _ => 0.0,
        };
        let compared = candidates.into_iter().map(|(key, scaled)| Compared {
            key,
            scaled,
            x: scaled.value - self.margin_of(&key) - key.log_q + bias,
        });
        (compared.collect(), from_bound)
    }

    fn of(&self, compared: &[Compared]) -> Of {
        let x: Vec<f64> = compared.iter().map(|key| key.x).collect();
        let positives = compared.iter().filter(|key| key.key.is_positive).count();
        match self.value {
            Value::Out => out(&x, positives),
            Value::In => inside(&x, positives),
            Value::Sigmoid { .. } => pairs(&x, positives),
        }
    }
}

fn zeros(tensors: &[Rows]) -> Vec<Vec<Vec<Sum>>> {
    let row = |row: &Vec<f64>| vec![Sum::default(); row.len()];
    tensors
        .iter()
        .map(|rows| rows.iter().map(row).collect())
        .collect()
}

/// The mean of the positives' losses, of which the first `positives` are such.
fn out(x: &[f64], positives: usize) -> Of {
    let share = 1.0 / positives as f64;
    let lse = log_sum_exp(x);
    let mut loss = Sum::default();
    for positive in 0..positives {
        let value = share * surprisal(x, positive);
        loss.add(value, value);
    }
    if positives > 1 {
        // An error of a similarity is one of the loss, and not a part of it.
        loss.terms += 2.0;
    }
    let slope = |at: usize| {
        let probability = (x[at] - lse).exp();
        let value = match (at < positives, positives) {
            (false, _) => probability,
            (true, 1) => -missing(x, lse, at),
            (true, _) => probability - share,
        };
        Sum {
            value,
            terms: probability.max(value.abs()),
        }
    };
    Of {
        loss,
        lse,
        slopes: (0..x.len()).map(slope).collect(),
    }
}

/// The loss of the positives' mean, of which the first `positives` are such.
fn inside(x: &[f64], positives: usize) -> Of {
    let lse = log_sum_exp(x);
    let of_positives = log_sum_exp_or_nothing(&x[..positives]);
    let loss = match positives {
        1 => surprisal(x, 0),
        _ => lse - of_positives + (positives as f64).ln(),
    };
    let slope = |at: usize| {
        let probability = (x[at] - lse).exp();
        let among = match at < positives {
            true => (x[at] - of_positives).exp(),
            false => 0.0,
        };
        Sum {
            value: match (at, positives) {
                (0, 1) => -missing(x, lse, 0),
                _ => probability - among,
            },
            terms: probability + among,
        }
    };
    Of {
        loss: Sum {
            value: loss,
            // Each logarithm is rounded at its own size, the similarities' and that of the number of keys.
            terms: loss + 2.0 + (x.len() as f64).ln(),
        },
        lse,
        slopes: (0..x.len()).map(slope).collect(),
    }
}

/// The losses of pairs, each apart, of which the first `positives` belong together.
fn pairs(x: &[f64], positives: usize) -> Of {
    let mut loss = Sum::default();
    let mut slopes = vec![];
    for (at, x) in x.iter().enumerate() {
        let sign = if at < positives { 1.0 } else { -1.0 };
        let wrong = -sign * x;
        let small = (-wrong.abs()).exp();
        let value = wrong.max(0.0) + small.ln_1p();
        // The largest of NaN and 0 is 0.
        let value = if x.is_nan() { f64::NAN } else { value };
        loss.add(value, value);
        let probability = match wrong >= 0.0 {
            true => 1.0 / (1.0 + small),
            false => small / (1.0 + small),
        };
        slopes.push(Sum {
            value: -sign * probability,
            terms: probability,
        });
    }
    Of {
        loss,
        lse: f64::NAN,
        slopes,
    }
}

/// The log-sum-exp, or NaN: a query has no distribution over such keys.
fn log_sum_exp(x: &[f64]) -> f64 {
    let lse = log_sum_exp_or_nothing(x);
    if lse.is_finite() { lse } else { f64::NAN }
}

/// The log-sum-exp, which may be minus infinity.
fn log_sum_exp_or_nothing(x: &[f64]) -> f64 {
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if x.iter().any(|x| x.is_nan()) || largest == f64::INFINITY {
        return f64::NAN;
    }
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + log_sum_beside(x, largest)
}

/// The logarithm of the sum of the exponentials over the largest one.
fn log_sum_beside(x: &[f64], largest: f64) -> f64 {
    let first = x.iter().position(|x| *x == largest).unwrap_or(0);
    let others = (0..x.len()).filter(|at| *at != first);
    let sum: f64 = others.map(|at| (x[at] - largest).exp()).sum();
    sum.ln_1p()
}

/// `-ln p` of one class.
fn surprisal(x: &[f64], class: usize) -> f64 {
    if log_sum_exp(x).is_nan() {
        return f64::NAN;
    }
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (largest - x[class]) + log_sum_beside(x, largest)
}

/// `1 - p` of a class, as the sum of all others.
fn missing(x: &[f64], lse: f64, class: usize) -> f64 {
    let others = (0..x.len()).filter(|at| *at != class);
    others.map(|at| (x[at] - lse).exp()).sum()
}

fn add(solution: &mut Solution, (tensor, row): Place, direction: &[f64], slope: (f64, f64)) {
    let gradient = &mut solution.gradients[tensor][row];
    for (gradient, number) in gradient.iter_mut().zip(direction) {
        gradient.add(slope.0 * number, slope.1 * number.abs());
    }
}

fn through_length(gradients: &mut [Vec<Vec<Sum>>], directions: &[Vec<Direction>]) {
    let rows = gradients.iter_mut().flatten();
    for (gradient, (unit, length)) in rows.zip(directions.iter().flatten()) {
        let Some(length) = length else {
            continue;
        };
        let along: f64 = gradient.iter().zip(unit).map(|(g, u)| g.value * u).sum();
        let terms: f64 = gradient
            .iter()
            .zip(unit)
            .map(|(g, u)| g.terms * u.abs())
            .sum();
        for (gradient, unit) in gradient.iter_mut().zip(unit) {
            gradient.value = (gradient.value - unit * along) / length;
            gradient.terms = (gradient.terms + unit.abs() * terms) / length;
        }
    }
}
