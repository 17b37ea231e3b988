//! Compares every backend with ONNX's own tests of its operator SoftmaxCrossEntropyLoss
//! (tests/fixtures/onnx_cases.py).

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor};
use burn_cross_entropy::CrossEntropyLossConfig;
use serde::Deserialize;

use crate::common::archive;
use crate::common::backends::tests_on;
use crate::common::problem::{Outcome, Problem, Targets};
use crate::common::run::{Form, float_tensor, numbers, row_shape};
use crate::common::{oracle, run, tolerance};

/// Cases share their numbers: a field whose type is a place holds that of its list.
#[derive(Deserialize)]
struct File {
    float32: Vec<Vec<f32>>,
    float64: Vec<Vec<f64>>,
    cases: Vec<Case>,
}

/// The place of a list in `File::float32`.
#[derive(Clone, Copy, Deserialize)]
struct Float32(usize);

/// The place of a list in `File::float64`.
#[derive(Clone, Copy, Deserialize)]
struct Float64(usize);

#[derive(Deserialize)]
struct Case {
    name: String,
    shape: Vec<usize>,
    logits: Float32,
    labels: Vec<i64>,
    weights: Option<Vec<f32>>,
    ignore_index: Option<i64>,
    reduction: String,
    upstream: Float32,
    onnx_loss: Float32,
    onnx_log_prob: Option<Float32>,
    rtol: f64,
    atol: f64,
    loss: Float64,
    log_prob: Float64,
    grad: Float64,
}

static FILE: LazyLock<File> = LazyLock::new(|| {
    let compressed = include_bytes!("../fixtures/onnx.json.gz");
    archive::read(compressed, "onnx_cases.py")
});

impl Float32 {
    fn values(self) -> Vec<f64> {
        let list = &FILE.float32[self.0];
        list.iter().map(|value| f64::from(*value)).collect()
    }
}

impl Float64 {
    fn values(self) -> Vec<f64> {
        FILE.float64[self.0].clone()
    }
}

impl Case {
    fn problem(&self) -> Problem {
        Problem {
            shape: self.shape.clone(),
            class_dim: 1,
            logits: self.logits.values(),
            targets: Targets::Indices(self.labels.clone()),
            row_weights: None,
            config: CrossEntropyLossConfig::new()
                .with_weight(self.weights.clone())
                .with_ignore_indices(self.ignore_index.into_iter().collect())
                .with_reduction(match self.reduction.as_str() {
                    "sum" => Reduction::Sum,
                    _ => Reduction::Mean,
                }),
            tracked_targets: false,
            unreduced: self.reduction == "none",
            upstream: self.upstream.values(),
        }
    }

    fn outcome(&self, problem: &Problem) -> Outcome {
        Outcome {
            loss: self.loss.values(),
            logits_gradient: self.grad.values(),
            targets_gradient: None,
            terms: oracle::solve(problem).terms,
        }
    }

    /// Asserts that an output is as close to the package's as the package asks for.
    fn assert_passes(&self, output: &str, found: &[f64], expected: Float32) {
        let expected = expected.values();
        assert_eq!(found.len(), expected.len(), "{}: {output}", self.name);
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            let allowed = self.atol + self.rtol * expected.abs();
            assert!(
                (found - expected).abs() <= allowed,
                "{}: {output} {at} is {found:e}, expected {expected:e}",
                self.name
            );
        }
    }
}

/// ONNX's output `log_prob`: the log-probability of every class, in the order of the logits. `log_prob`
/// gives that of one class for each row, so each class is the target in turn. Nothing is ignored, since the
/// ignored label may be a class.
fn log_probabilities(problem: &Problem, float: DType, device: &Device) -> Vec<f64> {
    let config = problem.config.clone().with_ignore_indices(Vec::new());
    let loss = config.init(device);
    let mut found = vec![f64::NAN; problem.logits.len()];
    for class in 0..problem.classes() {
        macro_rules! at_rank {
            ($rank:literal, $rows:literal) => {{
                let logits =
                    float_tensor::<$rank>(&problem.logits, &problem.shape, (device, float));
                let labels = Tensor::<$rows, Int>::full(row_shape(problem), class as i64, device);
                numbers(loss.log_prob(logits, labels))
            }};
        }
        let of_class = match problem.shape.len() {
            2 => at_rank!(2, 1),
            3 => at_rank!(3, 2),
            4 => at_rank!(4, 3),
            5 => at_rank!(5, 4),
            7 => at_rank!(7, 6),
            rank => panic!("ONNX has no test of rank {rank}"),
        };
        for (row, log_prob) in of_class.into_iter().enumerate() {
            found[problem.at(row, class)] = log_prob;
        }
    }
    found
}

/// ONNX's outputs within the tolerance that its own runner allows, which makes a backend conform to it.
fn the_tests_of_onnx_pass(device: &Device) {
    for case in &FILE.cases {
        let problem = case.problem();
        let found = run::solve(&problem, device);
        case.assert_passes("loss", &found.loss, case.onnx_loss);
        if let Some(expected) = case.onnx_log_prob {
            let found = log_probabilities(&problem, DType::F32, device);
            case.assert_passes("log-probability", &found, expected);
        }
    }
}

/// Losses, log-probabilities and gradients within the crate's own tolerances of those in f64.
fn agree_in(float: DType, device: &Device) {
    for case in &FILE.cases {
        let problem = case.problem();
        let form = Form {
            float,
            ..Form::default()
        };
        let found = run::solve_in(&problem, form, device);
        tolerance::assert_close(&case.name, &problem, &found, &case.outcome(&problem), float);
        if case.onnx_log_prob.is_some() {
            let found = log_probabilities(&problem, float, device);
            let name = format!("{}, log-probabilities", case.name);
            let expected = case.log_prob.values();
            tolerance::assert_losses(&name, &found, &expected, tolerance::of(float));
        }
    }
}

fn onnx_cases_agree(device: &Device) {
    agree_in(DType::F32, device);
}

fn onnx_cases_agree_in_f64(device: &Device) {
    agree_in(DType::F64, device);
}

tests_on! {
    every_backend: [the_tests_of_onnx_pass, onnx_cases_agree],
    f64: [onnx_cases_agree_in_f64],
}

/// A case that the file has lost would not be missed by the other tests.
#[test]
fn all_34_tests_of_onnx_are_there() {
    let names: HashSet<_> = FILE.cases.iter().map(|case| &case.name).collect();
    assert_eq!((FILE.cases.len(), names.len()), (34, 34));

    let with = |has: fn(&Case) -> bool| FILE.cases.iter().filter(|case| has(case)).count();
    assert_eq!(with(|case| case.reduction == "mean"), 22);
    assert_eq!(with(|case| case.reduction == "sum"), 4);
    assert_eq!(with(|case| case.reduction == "none"), 8);
    assert_eq!(with(|case| case.weights.is_some()), 16);
    assert_eq!(with(|case| case.ignore_index.is_some()), 18);
    assert_eq!(with(|case| case.onnx_log_prob.is_some()), 17);

    let mut ranks = BTreeMap::new();
    for case in &FILE.cases {
        *ranks.entry(case.shape.len()).or_insert(0) += 1;
    }
    let expected = [(2, 16), (3, 8), (4, 4), (5, 2), (7, 4)];
    assert_eq!(ranks, BTreeMap::from(expected));

    let ignored: HashSet<_> = FILE
        .cases
        .iter()
        .filter_map(|case| case.ignore_index)
        .collect();
    assert_eq!(ignored, HashSet::from([0, 1, 2, -1, -5, 10]));
}

/// Compares the oracle of the other tests with ONNX's.
#[test]
fn the_oracle_agrees_with_onnx() {
    for case in &FILE.cases {
        let problem = case.problem();
        let found = oracle::solve(&problem);
        tolerance::assert_close(
            &case.name,
            &problem,
            &found,
            &case.outcome(&problem),
            DType::F64,
        );
    }
}
