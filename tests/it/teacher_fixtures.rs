//! Compares distillation, entropy and log-sum-exp with what PyTorch computed in f64 (tests/fixtures/teachers.py).

use std::sync::LazyLock;

use burn::tensor::{DType, Device, Tensor};
use burn_cross_entropy::{
    CrossEntropyLoss, CrossEntropyTarget, LogitsRank, RowLosses, TargetTensor, TeacherLogits,
    WeightedTarget,
};
use serde::Deserialize;

use crate::common::archive;
use crate::common::backends::tests_on;
use crate::common::problem::{Outcome, Problem, Targets, Terms};
use crate::common::run::{self, Losses, float_tensor, row_shape};
use crate::common::tolerance;
use crate::fixtures::Options;

#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    value: String,
    shape: Vec<usize>,
    logits: Vec<f64>,
    teacher: Option<Vec<f64>>,
    temperature: f64,
    squared: bool,
    divergence: bool,
    row_weights: Option<Vec<f64>>,
    upstream: Vec<f64>,
    loss: Vec<f64>,
    grad: Vec<f64>,
    #[serde(flatten)]
    options: Options,
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let compressed = include_bytes!("../fixtures/teachers.json.gz");
    archive::read(compressed, "teachers.py")
});

impl Case {
    fn problem(&self) -> Problem {
        Problem {
            shape: self.shape.clone(),
            class_dim: 1,
            logits: self.logits.clone(),
            targets: Targets::Indices(vec![]),
            row_weights: self.row_weights.clone(),
            config: self.options.config(),
            tracked_targets: false,
            unreduced: self.options.is_unreduced(),
            upstream: self.upstream.clone(),
        }
    }

    fn found(&self, options: (&Device, DType)) -> Outcome {
        match self.shape.len() {
            2 => self.at_rank::<2, 1>(options),
            _ => self.at_rank::<3, 2>(options),
        }
    }

    fn at_rank<const D: usize, const R: usize>(&self, options: (&Device, DType)) -> Outcome
    where
        Tensor<D>: LogitsRank,
        RowLosses<D>: Losses,
        TeacherLogits<Tensor<D>>: CrossEntropyTarget<D>,
        WeightedTarget<TeacherLogits<Tensor<D>>, R>: CrossEntropyTarget<D>,
    {
        let problem = self.problem();
        let values = |loss: &CrossEntropyLoss, logits: Tensor<D>| match self.value.as_str() {
            "entropy" => loss.entropy(logits).weighed(&self.upstream),
            "lse" => loss.lse(logits).weighed(&self.upstream),
            _ => match &self.row_weights {
                None => run::weighed_loss(&problem, loss, logits, self.target::<D>(options)),
                Some(weights) => {
                    let weights = float_tensor::<R>(weights, &row_shape(&problem), options);
                    let target = self.target::<D>(options).weighted(weights);
                    run::weighed_loss(&problem, loss, logits, target)
                }
            },
        };
        run::over_a_leaf(&problem, options, values).0
    }

    fn target<const D: usize>(&self, options: (&Device, DType)) -> TeacherLogits<Tensor<D>> {
        let teacher = self.teacher.as_ref().expect("a teacher has logits");
        let teacher = float_tensor::<D>(teacher, &self.shape, options);
        let mut target = TeacherLogits::new(teacher).with_temperature(self.temperature);
        if self.squared {
            target = target.with_squared_temperature();
        }
        if self.divergence {
            target = target.with_kl_divergence();
        }
        target
    }

    /// PyTorch's results, with the sizes of the terms that make them: logits up to 10 of either sign, which
    /// scale and temperature round, and for a divergence the two numbers that it is a difference of.
    fn expected(&self) -> Outcome {
        let square = match self.squared {
            true => self.temperature * self.temperature,
            false => 1.0,
        };
        let of_rows = if self.options.is_unreduced() {
            1
        } else {
            self.problem().rows()
        };
        let size = 16.0 * square * of_rows as f64;
        let upstream = self
            .upstream
            .iter()
            .fold(0.0f64, |size, upstream| size.max(upstream.abs()));
        Outcome {
            loss: self.loss.clone(),
            logits_gradient: self.grad.clone(),
            targets_gradient: None,
            terms: Terms {
                loss: vec![size; self.loss.len()],
                logits_gradient: vec![8.0 * square * upstream; self.grad.len()],
                targets_gradient: Vec::new(),
            },
        }
    }
}

#[track_caller]
fn assert_agrees(float: DType, device: &Device) {
    let differences: Vec<String> = CASES
        .iter()
        .filter_map(|case| {
            let found = case.found((device, float));
            let tolerance = tolerance::of(float);
            tolerance::compare(&case.problem(), &found, &case.expected(), tolerance)
                .err()
                .map(|difference| format!("{}: {difference}", case.name))
        })
        .collect();
    assert!(differences.is_empty(), "{differences:#?}");
    assert_eq!(CASES.len(), 138);
}

fn pytorch_cases_agree(device: &Device) {
    assert_agrees(DType::F32, device);
}

fn pytorch_cases_agree_in_f64(device: &Device) {
    assert_agrees(DType::F64, device);
}

tests_on! {
    every_backend: [pytorch_cases_agree],
    f64: [pytorch_cases_agree_in_f64],
}
