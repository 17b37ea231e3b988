//! Targets that are entries of sparse distributions. What is right is the problem over the dense distributions that they
//! stand for.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{
    CrossEntropyTarget, LogitsRank, RowLosses, SparseDistribution, TargetTensor, WeightedTarget,
};

use super::oracle;
use super::problem::{Outcome, Problem, Targets};
use super::run::{self, Losses, float_tensor, numbers, row_shape};
use super::tolerance::{self, assert_numbers};

/// Class of an entry that is ignored.
pub const IGNORED: i64 = -100;

/// A problem with `entries` classes and shares for each row, in the order of memory of logits with that many
/// classes.
pub struct Entries {
    pub problem: Problem,
    pub count: usize,
    pub classes: Vec<i64>,
    pub shares: Vec<f64>,
}

impl Entries {
    /// Random entries. Where there are several, some rows have a class twice, and some an ignored entry.
    pub fn random(shape: &[usize], count: usize, seed: u64) -> Self {
        Self::of(Problem::random(shape, 1, true, seed), count)
    }

    pub fn of(problem: Problem, count: usize) -> Self {
        let Targets::Distributions(given) = &problem.targets else {
            panic!("the problem has distributions");
        };
        let (classes_of_row, inner) = (problem.classes(), problem.inner());
        let mut classes = vec![0; problem.rows() * count];
        let mut shares = vec![0.0; classes.len()];
        let mut dense = vec![0.0; given.len()];
        for row in 0..problem.rows() {
            for entry in 0..count {
                let at = (row / inner * count + entry) * inner + row % inner;
                let class = match (entry, row % 5) {
                    // The class of the entry before.
                    (1, 3) => classes[at - inner] as usize,
                    _ => (row * 31 + entry * 17 + 3) % classes_of_row,
                };
                classes[at] = class as i64;
                shares[at] = given[problem.at(row, (class + entry) % classes_of_row)];
                if entry == 2 && row % 4 == 1 {
                    classes[at] = IGNORED;
                } else {
                    dense[problem.at(row, class)] += shares[at];
                }
            }
        }
        let problem = Problem {
            targets: Targets::Distributions(dense),
            ..problem
        };
        Self {
            problem,
            count,
            classes,
            shares,
        }
    }

    /// Ignores all entries of a row.
    pub fn ignore_row(&mut self, row: usize) {
        let inner = self.problem.inner();
        for entry in 0..self.count {
            self.classes[(row / inner * self.count + entry) * inner + row % inner] = IGNORED;
        }
        let of_row: Vec<usize> = (0..self.problem.classes())
            .map(|class| self.problem.at(row, class))
            .collect();
        if let Targets::Distributions(dense) = &mut self.problem.targets {
            of_row.into_iter().for_each(|at| dense[at] = 0.0);
        }
    }

    /// Masks about a third of the classes of each row, whose entries have no share.
    pub fn mask(&mut self, by: f64) {
        let (inner, count) = (self.problem.inner(), self.count);
        for row in 0..self.problem.rows() {
            let is_masked = |class: usize| (row * 7 + class * 5).is_multiple_of(3);
            for class in (0..self.problem.classes()).filter(|class| is_masked(*class)) {
                let at = self.problem.at(row, class);
                self.problem.logits[at] = by;
                if let Targets::Distributions(dense) = &mut self.problem.targets {
                    dense[at] = 0.0;
                }
            }
            for entry in 0..count {
                let at = (row / inner * count + entry) * inner + row % inner;
                if self.classes[at] != IGNORED && is_masked(self.classes[at] as usize) {
                    self.shares[at] = 0.0;
                }
            }
        }
    }

    pub fn with(mut self, change: impl FnOnce(Problem) -> Problem) -> Self {
        self.problem = change(self.problem);
        self
    }

    fn shape(&self) -> Vec<usize> {
        let mut shape = self.problem.shape.clone();
        shape[self.problem.class_dim] = self.count;
        shape
    }

    /// The numbers of the entries from those of the dense distributions; `other` where an entry is ignored.
    pub fn of_dense(&self, dense: &[f64], other: f64) -> Vec<f64> {
        let inner = self.problem.inner();
        let number = |at: usize| {
            let row = at / (self.count * inner) * inner + at % inner;
            match self.classes[at] {
                IGNORED => other,
                class => dense[self.problem.at(row, class as usize)],
            }
        };
        (0..self.classes.len()).map(number).collect()
    }

    pub fn target<const D: usize>(&self, shares: Tensor<D>) -> SparseDistribution<D> {
        let data = TensorData::new(self.classes.clone(), self.shape());
        SparseDistribution::new(Tensor::<D, Int>::from_data(data, &shares.device()), shares)
    }

    /// Loss and gradients from the crate; those of the shares are in the order of the entries.
    pub fn found<const D: usize, const R: usize>(&self, options: (&Device, DType)) -> Outcome
    where
        Tensor<D>: LogitsRank,
        RowLosses<D>: Losses,
        WeightedTarget<SparseDistribution<D>, R>: CrossEntropyTarget<D>,
    {
        let shares = float_tensor::<D>(&self.shares, &self.shape(), options);
        let shares = match self.problem.tracked_targets {
            true => shares.require_grad(),
            false => shares,
        };
        let target = self.target(shares.clone());
        match &self.problem.row_weights {
            None => self.computed(target, shares, options),
            Some(weights) => {
                let weights = float_tensor::<R>(weights, &row_shape(&self.problem), options);
                self.computed(target.weighted(weights), shares, options)
            }
        }
    }

    fn computed<const D: usize>(
        &self,
        target: impl CrossEntropyTarget<D>,
        shares: Tensor<D>,
        options: (&Device, DType),
    ) -> Outcome
    where
        Tensor<D>: LogitsRank,
        RowLosses<D>: Losses,
    {
        let problem = &self.problem;
        let (outcome, gradients) = run::over_a_leaf::<D>(problem, options, |loss, logits| {
            run::weighed_loss::<D>(problem, loss, logits, target)
        });
        let of_shares = shares.grad(&gradients);
        assert_eq!(of_shares.is_some(), self.problem.tracked_targets);
        let of_shares = of_shares.map(|of_shares| {
            let found = (of_shares.dims(), of_shares.dtype());
            assert_eq!(found, (shares.dims(), options.1));
            numbers(of_shares)
        });
        Outcome {
            targets_gradient: of_shares,
            ..outcome
        }
    }

    /// Checks loss and gradients, with a gradient of the shares and without: entries that have none take another
    /// way on the host.
    #[track_caller]
    pub fn assert_agrees(&self, float: DType, device: &Device) {
        self.assert_tracked(float, device);
        let untracked = Self {
            problem: Problem {
                tracked_targets: false,
                ..self.problem.clone()
            },
            classes: self.classes.clone(),
            shares: self.shares.clone(),
            ..*self
        };
        untracked.assert_tracked(float, device);
    }

    #[track_caller]
    fn assert_tracked(&self, float: DType, device: &Device) {
        let mut found = match self.problem.shape.len() {
            2 => self.found::<2, 1>((device, float)),
            3 => self.found::<3, 2>((device, float)),
            _ => self.found::<4, 3>((device, float)),
        };
        let mut expected = oracle::solve(&self.problem);
        let Problem { shape, config, .. } = &self.problem;
        let name = format!("{} entries, {shape:?}, {config:?}, {float:?}", self.count);
        let of_shares = found.targets_gradient.take();
        let dense = expected.targets_gradient.take();
        tolerance::assert_close(&name, &self.problem, &found, &expected, float);
        let allowed = match float {
            DType::F64 => 1e-12,
            DType::F32 => 4e-6,
            _ => tolerance::of(float).gradient,
        };
        if let (Some(of_shares), Some(dense)) = (of_shares, dense) {
            let expected = self.of_dense(&dense, 0.0);
            assert_numbers(&format!("{name}: shares"), &of_shares, &expected, allowed);
        }
    }

    /// Checks the outputs of the rows of a problem of rank 3, and the loss that comes with them, against those of the
    /// dense distributions.
    #[track_caller]
    pub fn assert_outputs_agree(&self, device: &Device) {
        let (problem, options) = (&self.problem, (device, DType::F32));
        let Targets::Distributions(dense) = &problem.targets else {
            unreachable!("they are distributions");
        };
        let ones = vec![1.0; problem.rows()];
        let weights = problem.row_weights.as_ref().unwrap_or(&ones);
        let weights = || float_tensor::<2>(weights, &row_shape(problem), options);
        let logits = || float_tensor::<3>(&problem.logits, &problem.shape, options);
        let sparse = self.target::<3>(float_tensor(&self.shares, &self.shape(), options));
        let dense = float_tensor::<3>(dense, &problem.shape, options);
        let loss = problem.config.init(device);
        let found = loss.forward_with_output(logits(), sparse.weighted(weights()));
        let expected = loss.forward_with_output(logits(), dense.weighted(weights()));
        let name = format!(
            "{} entries, {:?}, {:?}",
            self.count, problem.shape, problem.config
        );
        let pairs = [
            ("loss", numbers(found.loss), numbers(expected.loss)),
            (
                "log_prob",
                numbers(found.log_prob),
                numbers(expected.log_prob),
            ),
            ("lse", numbers(found.lse), numbers(expected.lse)),
            (
                "max_log_prob",
                numbers(found.max_log_prob),
                numbers(expected.max_log_prob),
            ),
        ];
        for (of, found, expected) in pairs {
            assert_numbers(&format!("{name}: {of}"), &found, &expected, 4e-6);
        }
        let classes = [
            (found.predicted, expected.predicted),
            (found.target_rank, expected.target_rank),
            (found.target_class, expected.target_class),
        ];
        for (found, expected) in classes {
            assert_eq!(found.into_data(), expected.into_data(), "{name}");
        }
    }
}
