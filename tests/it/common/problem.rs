//! A cross-entropy problem as plain numbers, independent of any backend.

use burn::nn::loss::Reduction;
use burn_cross_entropy::{CrossEntropyLossConfig, EmptyReduction};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The targets of a problem.
#[derive(Clone, Debug)]
pub enum Targets {
    Indices(Vec<i64>),
    Distributions(Vec<f64>),
}

/// Everything that determines a loss and its gradients. Tensors are flat, in row-major order.
#[derive(Clone, Debug)]
pub struct Problem {
    pub shape: Vec<usize>,
    pub class_dim: usize,
    pub logits: Vec<f64>,
    pub targets: Targets,
    /// A weight per row, if the target is weighted. A row of weight 0 is ignored.
    pub row_weights: Option<Vec<f64>>,
    pub config: CrossEntropyLossConfig,
    /// Whether the target distributions require a gradient.
    pub tracked_targets: bool,
    /// Whether the result is one loss per row instead of a reduced one.
    pub unreduced: bool,
    /// The gradient of the loss, in the shape of the loss.
    pub upstream: Vec<f64>,
}

/// The results of a problem.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub loss: Vec<f64>,
    pub logits_gradient: Vec<f64>,
    pub targets_gradient: Option<Vec<f64>>,
    pub terms: Terms,
}

/// The sizes of the terms that are added up to a result; its rounding is measured by them. Only the oracle
/// knows them.
///
/// A logit that is capped, or scaled by a number that is not a power of two, is rounded before the largest is
/// subtracted from it; `loss` and `targets_gradient` include that error.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    pub loss: Vec<f64>,
    pub logits_gradient: Vec<f64>,
    pub targets_gradient: Vec<f64>,
}

impl Problem {
    /// The weight of a row.
    pub fn row_weight(&self, row: usize) -> f64 {
        self.row_weights
            .as_ref()
            .map_or(1.0, |weights| weights[row])
    }

    /// Whether the row is ignored, by its target or by its weight.
    pub fn is_ignored(&self, row: usize) -> bool {
        let by_target = match &self.targets {
            Targets::Indices(indices) => self.config.ignore_indices.contains(&indices[row]),
            Targets::Distributions(_) => false,
        };
        by_target || self.row_weight(row) == 0.0
    }

    pub fn classes(&self) -> usize {
        self.shape[self.class_dim]
    }

    pub fn inner(&self) -> usize {
        self.shape[self.class_dim + 1..].iter().product()
    }

    pub fn rows(&self) -> usize {
        let outer: usize = self.shape[..self.class_dim].iter().product();
        outer * self.inner()
    }

    /// The place of class `class` of row `row` in the flat logits.
    pub fn at(&self, row: usize, class: usize) -> usize {
        let (outer, inner) = (row / self.inner(), row % self.inner());
        (outer * self.classes() + class) * self.inner() + inner
    }

    /// Makes a problem with random logits and targets. The first row's target is the last class, and the
    /// upstream gradient is not 1.
    pub fn random(shape: &[usize], class_dim: usize, soft: bool, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let elements: usize = shape.iter().product();
        let logits = (0..elements)
            .map(|_| f64::from(rng.random_range(-6.0f32..6.0)))
            .collect();
        let mut problem = Self {
            shape: shape.to_vec(),
            class_dim,
            logits,
            targets: Targets::Indices(vec![]),
            row_weights: None,
            config: CrossEntropyLossConfig::new().with_class_dim(class_dim as isize),
            tracked_targets: true,
            unreduced: false,
            upstream: vec![-1.75],
        };
        let rows = problem.rows();
        problem.targets = if soft {
            Targets::Distributions(
                (0..elements)
                    .map(|_| f64::from(rng.random_range(0.0f32..1.0)))
                    .collect(),
            )
        } else {
            let last = problem.classes() as i64 - 1;
            let mut indices: Vec<i64> = (0..rows).map(|_| rng.random_range(0..=last)).collect();
            if let Some(first) = indices.first_mut() {
                *first = last;
            }
            Targets::Indices(indices)
        };
        problem
    }

    pub fn with_config(
        mut self,
        change: impl FnOnce(CrossEntropyLossConfig) -> CrossEntropyLossConfig,
    ) -> Self {
        self.config = change(self.config);
        self
    }

    /// Removes the reduction, and gives every row an upstream gradient of its own.
    pub fn unreduced(mut self) -> Self {
        self.unreduced = true;
        self.upstream = (0..self.rows())
            .map(|row| {
                let sign = if row % 2 == 0 { 1.0 } else { -1.0 };
                sign * (0.5 + 0.25 * (row % 7) as f64)
            })
            .collect();
        self
    }

    /// Gives the rows weights up to 2.75, of which every fourth is 0.
    pub fn with_row_weights(mut self) -> Self {
        let weight = |row: usize| match row % 4 {
            2 => 0.0,
            _ => (row % 6) as f64 * 0.5 + 0.25,
        };
        self.row_weights = Some((0..self.rows()).map(weight).collect());
        self
    }

    pub fn with_weights(self) -> Self {
        let weights = (0..self.classes())
            .map(|class| 0.25 + (class % 5) as f32 * 0.5)
            .collect();
        self.with_config(|config| config.with_weight(Some(weights)))
    }

    /// Ignores the target of every third row. Distributions have none to ignore.
    pub fn with_ignored(mut self, ignored: i64) -> Self {
        let Targets::Indices(indices) = &mut self.targets else {
            return self;
        };
        for index in indices.iter_mut().skip(1).step_by(3) {
            *index = ignored;
        }
        self.with_config(|config| config.with_ignore_indices(vec![ignored]))
    }

    /// Sets every option that changes the arithmetic of a row.
    pub fn with_every_option(self) -> Self {
        let problem = self.with_weights().with_ignored(-7);
        problem.with_config(|config| {
            config
                .with_label_smoothing(0.1)
                .with_z_loss(0.02)
                .with_logit_scale(0.7)
                .with_logit_softcap(Some(5.0))
        })
    }
}

/// The number of samples that `BatchMean` divides by.
pub fn batch_size(problem: &Problem) -> usize {
    problem
        .shape
        .iter()
        .enumerate()
        .find(|(dim, _)| *dim != problem.class_dim)
        .map_or(1, |(_, size)| *size)
}

pub fn is_batch_mean(config: &CrossEntropyLossConfig) -> bool {
    matches!(config.reduction, Reduction::BatchMean)
}

pub fn is_sum(config: &CrossEntropyLossConfig) -> bool {
    matches!(config.reduction, Reduction::Sum)
}

pub fn empty_value(config: &CrossEntropyLossConfig) -> f64 {
    match config.empty {
        EmptyReduction::Nan => f64::NAN,
        EmptyReduction::Zero => 0.0,
    }
}
