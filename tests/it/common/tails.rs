//! The definition of the loss over sparse distributions with tails, as loops over f64. It shares nothing with the crate.

use burn_cross_entropy::CrossEntropyLossConfig;

use super::problem::{Outcome, Problem, Terms, batch_size, is_batch_mean, is_sum};

/// Class of an entry that is ignored.
pub const IGNORED: i64 = -100;

/// A problem whose target has `count` entries for each row, in the order of memory of logits with that many classes,
/// and one tail for each row. The problem's own targets mean nothing.
#[derive(Clone)]
pub struct Tailed {
    pub problem: Problem,
    pub count: usize,
    pub classes: Vec<i64>,
    pub shares: Vec<f64>,
    pub tails: Vec<f64>,
}

/// Loss and gradients.
pub struct Solved {
    /// The loss and the gradient of the logits.
    pub outcome: Outcome,
    pub shares: Vec<f64>,
    pub tails: Vec<f64>,
}

/// The numbers of one row.
struct Row {
    /// Shares of the classes that are an entry.
    shares: Vec<Option<f64>>,
    tail: f64,
    /// Probabilities, within the row and within its rest, and surprisals.
    p: Vec<f64>,
    of_rest: Vec<f64>,
    surprisals: Vec<f64>,
    of_tail: f64,
    lse: f64,
    /// Derivatives of the scores by the logits.
    slopes: Vec<f64>,
}

impl Tailed {
    /// Random entries and tails. Where there are several entries, some rows have a class twice, and some an ignored
    /// entry. Some tails are 0.
    pub fn random(shape: &[usize], class_dim: usize, count: usize, seed: u64) -> Self {
        let problem = Problem::random(shape, class_dim, true, seed);
        let (classes_of_row, inner, rows) = (problem.classes(), problem.inner(), problem.rows());
        let (mut classes, mut shares) = (vec![0; rows * count], vec![0.0; rows * count]);
        for row in 0..rows {
            for entry in 0..count {
                let at = (row / inner * count + entry) * inner + row % inner;
                classes[at] = match (entry, row % 5) {
                    // The class of the entry before.
                    (1, 3) => classes[at - inner],
                    (2, 1) => IGNORED,
                    _ => ((row * 31 + entry * 17 + 3) % classes_of_row) as i64,
                };
                shares[at] = (1 + (row * 7 + entry * 3) % 9) as f64 / 16.0;
            }
        }
        let tail = |row: usize| ((row * 5 + 2) % 7) as f64 / 8.0;
        Self {
            tails: (0..rows).map(tail).collect(),
            problem,
            count,
            classes,
            shares,
        }
    }

    pub fn with(mut self, change: impl FnOnce(Problem) -> Problem) -> Self {
        self.problem = change(self.problem);
        self
    }

    /// The shape of the entries.
    pub fn shape(&self, count: usize) -> Vec<usize> {
        let mut shape = self.problem.shape.clone();
        shape[self.problem.class_dim] = count;
        shape
    }

    fn place(&self, row: usize, entry: usize) -> usize {
        let inner = self.problem.inner();
        (row / inner * self.count + entry) * inner + row % inner
    }

    fn row(&self, index: usize) -> Row {
        let problem = &self.problem;
        let logits: Vec<f64> = (0..problem.classes())
            .map(|class| problem.logits[problem.at(index, class)])
            .collect();
        let scored = logits.iter().map(|x| score(*x, &problem.config));
        let (scores, slopes): (Vec<f64>, Vec<f64>) = scored.unzip();
        let mut shares = vec![None; scores.len()];
        for place in (0..self.count).map(|entry| self.place(index, entry)) {
            if let Ok(class) = usize::try_from(self.classes[place]) {
                *shares[class].get_or_insert(0.0) += self.shares[place];
            }
        }
        let maximum = scores.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
        let sum = |of: &dyn Fn(usize) -> bool| -> f64 {
            let classes = (0..scores.len()).filter(|class| of(*class));
            classes.map(|class| (scores[class] - maximum).exp()).sum()
        };
        let entries = sum(&|class| shares[class].is_some());
        let rest = sum(&|class| shares[class].is_none());
        // Beside the largest, the others are the sum without its 1.
        let largest = scores.iter().position(|score| *score == maximum);
        let others = sum(&|class| Some(class) != largest);
        let above = others.ln_1p();
        Row {
            p: scores
                .iter()
                .map(|score| (score - maximum).exp() / (entries + rest))
                .collect(),
            of_rest: (0..scores.len())
                .map(|class| match shares[class] {
                    Some(_) => 0.0,
                    None => (scores[class] - maximum).exp() / rest,
                })
                .collect(),
            surprisals: scores.iter().map(|score| maximum - score + above).collect(),
            of_tail: (entries / rest).ln_1p(),
            lse: maximum + above,
            slopes,
            shares,
            tail: self.tails[index],
        }
    }

    /// Divisor of the losses and of the z-losses.
    fn divisor(&self) -> f64 {
        let problem = &self.problem;
        if problem.unreduced || is_sum(&problem.config) {
            1.0
        } else if is_batch_mean(&problem.config) {
            batch_size(problem) as f64
        } else {
            (0..problem.rows()).map(|row| problem.row_weight(row)).sum()
        }
    }

    pub fn solve(&self) -> Solved {
        let problem = &self.problem;
        let divisor = self.divisor();
        let z = problem.config.z_loss;
        let mut losses = vec![0.0; problem.rows()];
        let mut gradient = vec![0.0; problem.logits.len()];
        let (mut shares, mut tails) = (vec![0.0; self.shares.len()], losses.clone());
        for index in (0..problem.rows()).filter(|row| problem.row_weight(*row) != 0.0) {
            let row = self.row(index);
            let upstream = problem.upstream[if problem.unreduced { index } else { 0 }];
            let scale = upstream * problem.row_weight(index) / divisor;
            losses[index] = problem.row_weight(index) * (row.loss() + z * row.lse * row.lse);
            for class in 0..problem.classes() {
                let slope = row.slope(class) + 2.0 * z * row.lse * row.p[class];
                gradient[problem.at(index, class)] = scale * slope * row.slopes[class];
            }
            for place in (0..self.count).map(|entry| self.place(index, entry)) {
                if let Ok(class) = usize::try_from(self.classes[place]) {
                    shares[place] = scale * row.surprisals[class];
                }
            }
            tails[index] = scale * row.of_tail;
        }
        Solved {
            outcome: Outcome {
                loss: match problem.unreduced {
                    true => losses,
                    false => vec![losses.iter().sum::<f64>() / divisor],
                },
                logits_gradient: gradient,
                targets_gradient: None,
                terms: Terms::default(),
            },
            shares,
            tails,
        }
    }
}

impl Row {
    fn loss(&self) -> f64 {
        let entries = self.shares.iter().zip(&self.surprisals);
        let entries = entries.map(|(share, surprisal)| (share.unwrap_or(0.0), surprisal));
        let terms = entries.chain([(self.tail, &self.of_tail)]);
        let terms = terms.filter(|(share, _)| *share != 0.0);
        terms.map(|(share, surprisal)| share * surprisal).sum()
    }

    fn slope(&self, class: usize) -> f64 {
        let total = self.shares.iter().flatten().sum::<f64>() + self.tail;
        let share = match self.shares[class] {
            Some(share) => share,
            None => self.tail * self.of_rest[class],
        };
        total * self.p[class] - share
    }
}

/// Scaled and capped logit, and its derivative.
fn score(x: f64, config: &CrossEntropyLossConfig) -> (f64, f64) {
    let scale = config.logit_scale;
    match config.logit_softcap {
        None => (scale * x, scale),
        Some(cap) => {
            let tanh = (scale * x / cap).tanh();
            (cap * tanh, scale * (1.0 - tanh * tanh))
        }
    }
}
