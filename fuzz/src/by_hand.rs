//! The contrastive loss and its gradients as loops over f64, for every form:
//!
//! ```text
//! x_j = s u.v_j                       u, v_j the query and its keys, of length 1; s one over the temperature
//! loss = -ln p_t                      p the softmax of x over the keys of the query, t the positive
//! dloss/du = s (sum_j p_j v_j - v_t)  dloss/dv_j = s (p_j - [j = t]) u   dloss/d ln s = sum_j p_j x_j - x_t
//! ```
//!
//! and through the length: `(g - u (u.g)) / |a|` for `a` of direction `u`.

/// The place of a row: its tensor, and its number there.
pub type Place = (usize, usize);

/// Rows of numbers.
pub type Rows = Vec<Vec<f64>>;

/// A row of length 1, and the length that it had.
type Direction = (Vec<f64>, Option<f64>);

/// A query, the keys that it is compared with, and which of them is the positive.
pub struct Query {
    pub query: Place,
    pub keys: Vec<Place>,
    pub positive: usize,
    /// The factor of its loss in the result.
    pub share: f64,
}

pub struct Contrast {
    pub tensors: Vec<Rows>,
    pub queries: Vec<Query>,
    pub scale: f64,
    pub normalize: bool,
}

/// A number and the size of the terms that it is a sum of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    pub value: f64,
    pub terms: f64,
}

impl Sum {
    fn add(&mut self, term: f64) {
        self.add_with(term, term.abs());
    }

    fn add_with(&mut self, term: f64, terms: f64) {
        self.value += term;
        self.terms += terms;
    }
}

pub struct Solution {
    pub loss: Sum,
    /// The similarities of each query, and the log-sum-exp of them.
    pub similarities: Rows,
    pub lse: Vec<f64>,
    /// The gradients of the tensors.
    pub gradients: Vec<Vec<Vec<Sum>>>,
    /// The gradient of the logarithm of the scale.
    pub of_scale: Sum,
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
    let directions: Vec<Vec<Direction>> = contrast
        .tensors
        .iter()
        .map(|rows| {
            rows.iter()
                .map(|row| direction(row, contrast.normalize))
                .collect()
        })
        .collect();
    let unit = |(tensor, row): Place| &directions[tensor][row].0;
    let mut solution = Solution {
        loss: Sum::default(),
        similarities: vec![],
        lse: vec![],
        gradients: zeros(&contrast.tensors),
        of_scale: Sum::default(),
    };
    for query in &contrast.queries {
        let u = unit(query.query);
        let similar = |key: &Place| contrast.scale * dot(u, unit(*key));
        let x: Vec<f64> = query.keys.iter().map(similar).collect();
        let own = x[query.positive];
        let (lse, surprisal) = surprisal(&x, query.positive);
        solution.loss.add(query.share * surprisal);
        for (at, key) in query.keys.iter().enumerate() {
            let probability = (x[at] - lse).exp();
            let (slope, terms) = match at == query.positive {
                true => (-missing(&x, lse, at), probability.max(missing(&x, lse, at))),
                false => (probability, probability),
            };
            let factor = query.share * contrast.scale;
            add(
                &mut solution,
                query.query,
                unit(*key),
                (factor * slope, factor * terms),
            );
            add(&mut solution, *key, u, (factor * slope, factor * terms));
            let of_scale = query.share * probability * (x[at] - own);
            let size = query.share * probability * (x[at].abs() + own.abs());
            solution.of_scale.add_with(of_scale, size);
        }
        solution.similarities.push(x);
        solution.lse.push(lse);
    }
    through_length(&mut solution.gradients, &directions);
    solution
}

fn zeros(tensors: &[Rows]) -> Vec<Vec<Vec<Sum>>> {
    let row = |row: &Vec<f64>| vec![Sum::default(); row.len()];
    tensors
        .iter()
        .map(|rows| rows.iter().map(row).collect())
        .collect()
}

/// The log-sum-exp, and `-ln p` of one class.
fn surprisal(x: &[f64], class: usize) -> (f64, f64) {
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // Such a query has no distribution over its keys.
    if x.iter().any(|x| x.is_nan()) || !largest.is_finite() {
        return (f64::NAN, f64::NAN);
    }
    let first = x.iter().position(|x| *x == largest).unwrap_or(0);
    let others = (0..x.len()).filter(|at| *at != first);
    let log_sum = others
        .map(|at| (x[at] - largest).exp())
        .sum::<f64>()
        .ln_1p();
    (largest + log_sum, (largest - x[class]) + log_sum)
}

/// `1 - p` of a class, as the sum of all others.
fn missing(x: &[f64], lse: f64, class: usize) -> f64 {
    let others = (0..x.len()).filter(|at| *at != class);
    others.map(|at| (x[at] - lse).exp()).sum()
}

fn add(solution: &mut Solution, (tensor, row): Place, direction: &[f64], slope: (f64, f64)) {
    let gradient = &mut solution.gradients[tensor][row];
    for (gradient, number) in gradient.iter_mut().zip(direction) {
        gradient.add_with(slope.0 * number, slope.1 * number.abs());
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
