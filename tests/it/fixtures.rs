//! Compares every backend with every case that PyTorch computed in f64 (tests/fixtures/generate.py, and extras.py
//! for what its `cross_entropy` has no option for).

use std::sync::LazyLock;

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device};
use burn_cross_entropy::{CrossEntropyLossConfig, EmptyReduction, RowFactor, SmoothingOver};
use serde::{Deserialize, Deserializer};

use crate::common::archive;
use crate::common::backends::tests_on;
use crate::common::problem::{Outcome, Problem, Targets};
use crate::common::{oracle, run, tolerance};

/// A number, or the name of a number that JSON does not have.
#[derive(Clone, Copy, Debug)]
pub struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Finite(f64),
            Named(String),
        }
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::Finite(value) => value,
            Written::Named(name) => name.parse().map_err(serde::de::Error::custom)?,
        }))
    }
}

#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    shape: Vec<usize>,
    class_dim: usize,
    logits: Vec<Number>,
    target: serde_json::Value,
    #[serde(flatten)]
    options: Options,
    #[serde(default)]
    row_weights: Option<Vec<f64>>,
    #[serde(default)]
    row_factor: Option<Factor>,
    probabilities: bool,
    upstream: Vec<f64>,
    loss: Vec<Number>,
    grad: Option<Vec<Number>>,
    target_grad: Option<Vec<Number>>,
}

/// A factor by the target's probability, as extras.py writes it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Factor {
    Focal(f64),
    Poly(f64),
    Probability,
}

impl From<Factor> for RowFactor {
    fn from(factor: Factor) -> Self {
        match factor {
            Factor::Focal(gamma) => Self::Focal { gamma },
            Factor::Poly(epsilon) => Self::Poly { epsilon },
            Factor::Probability => Self::TargetProbability,
        }
    }
}

/// What label smoothing is spread over, as extras.py writes it.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Over {
    #[default]
    Classes,
    Others,
    Valid,
}

/// The options of a case, under the names that the scripts write.
#[derive(Debug, Deserialize)]
pub struct Options {
    weight: Option<Vec<f32>>,
    label_smoothing: f64,
    #[serde(default)]
    smoothing_over: Over,
    ignore_indices: Vec<i64>,
    reduction: String,
    logit_scale: f64,
    logit_softcap: Option<f64>,
    z_loss: f64,
    empty: String,
}

impl Options {
    pub fn config(&self) -> CrossEntropyLossConfig {
        CrossEntropyLossConfig::new()
            .with_weight(self.weight.clone())
            .with_ignore_indices(self.ignore_indices.clone())
            .with_label_smoothing(self.label_smoothing)
            .with_smoothing_over(match self.smoothing_over {
                Over::Classes => SmoothingOver::Classes,
                Over::Others => SmoothingOver::OtherClasses,
                Over::Valid => SmoothingOver::ValidClasses,
            })
            .with_reduction(match self.reduction.as_str() {
                "sum" => Reduction::Sum,
                "batch_mean" => Reduction::BatchMean,
                _ => Reduction::Mean,
            })
            .with_logit_scale(self.logit_scale)
            .with_logit_softcap(self.logit_softcap)
            .with_z_loss(self.z_loss)
            .with_empty(match self.empty.as_str() {
                "zero" => EmptyReduction::Zero,
                _ => EmptyReduction::Nan,
            })
    }

    pub fn is_unreduced(&self) -> bool {
        self.reduction == "none"
    }
}

/// The targets of a case: indices or distributions.
pub fn targets(target: &serde_json::Value) -> Targets {
    let targets = if target.get("indices").is_some() {
        serde_json::from_value::<Vec<i64>>(target["indices"].clone()).map(Targets::Indices)
    } else {
        serde_json::from_value::<Vec<Number>>(target["soft"].clone())
            .map(|soft| Targets::Distributions(values(&soft)))
    };
    targets.expect("targets are indices or distributions")
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let files: [&[u8]; 2] = [
        include_bytes!("../fixtures/cases.json.gz"),
        include_bytes!("../fixtures/extras.json.gz"),
    ];
    let read = |file: &[u8]| archive::read::<Vec<Case>>(file, "generate.py or extras.py");
    files.into_iter().flat_map(read).collect()
});

pub fn values(numbers: &[Number]) -> Vec<f64> {
    numbers.iter().map(|number| number.0).collect()
}

impl Case {
    fn problem(&self) -> Problem {
        let config = self
            .options
            .config()
            .with_logits(!self.probabilities)
            .with_row_factor(self.row_factor.map_or(RowFactor::None, RowFactor::from))
            .with_class_dim(self.class_dim as isize);
        Problem {
            shape: self.shape.clone(),
            class_dim: self.class_dim,
            logits: values(&self.logits),
            targets: targets(&self.target),
            row_weights: self.row_weights.clone(),
            config,
            tracked_targets: self.target_grad.is_some(),
            unreduced: self.options.is_unreduced(),
            upstream: self.upstream.clone(),
        }
    }

    /// PyTorch's results; gradients that it does not have are taken from `found`.
    fn outcome(&self, found: &Outcome) -> Outcome {
        Outcome {
            loss: values(&self.loss),
            logits_gradient: self
                .grad
                .as_deref()
                .map_or_else(|| found.logits_gradient.clone(), values),
            targets_gradient: self.target_grad.as_deref().map(values),
            terms: oracle::solve(&self.problem()).terms,
        }
    }
}

/// The cases that differ from PyTorch's results, with the difference.
fn differences(
    solve: impl Fn(&Problem) -> Outcome,
    tolerance: tolerance::Tolerance,
) -> Vec<String> {
    CASES
        .iter()
        .filter_map(|case| {
            let problem = case.problem();
            let found = solve(&problem);
            let expected = case.outcome(&found);
            tolerance::compare(&problem, &found, &expected, tolerance)
                .err()
                .map(|difference| format!("{}: {difference}", case.name))
        })
        .collect()
}

fn pytorch_cases_agree(device: &Device) {
    let tolerance = tolerance::of(DType::F32);
    let differences = differences(|problem| run::solve(problem, device), tolerance);
    assert!(differences.is_empty(), "{differences:#?}");
}

/// Compares in f64, in which PyTorch computed the cases, so every number of the kernels must have 53 bits.
fn pytorch_cases_agree_in_f64(device: &Device) {
    let form = run::Form {
        float: DType::F64,
        ..run::Form::default()
    };
    let solve = |problem: &Problem| run::solve_in(problem, form, device);
    let differences = differences(solve, tolerance::of(DType::F64));
    assert!(differences.is_empty(), "{differences:#?}");
}

tests_on! {
    every_backend: [pytorch_cases_agree],
    f64: [pytorch_cases_agree_in_f64],
}

mod precision {
    use super::*;
    use crate::common::backends::tests_on;

    /// The largest errors of PyTorch 2.15 in f32 over the cases of [`Case::is_plain`]: of a loss, relative,
    /// and of an entry of a gradient, relative to the largest of its row. `tests/fixtures/f32_errors.py`
    /// prints them.
    const PYTORCH_F32: [f64; 2] = [4.35e-5, 5.09e-5];

    impl Case {
        /// Whether PyTorch's `cross_entropy` has a gradient for the case as it stands.
        fn is_plain(&self) -> bool {
            let logits = values(&self.logits);
            !self.probabilities
                && self.row_weights.is_none()
                && self.row_factor.is_none()
                && self.grad.is_some()
                && self.options.reduction != "batch_mean"
                && self.options.smoothing_over == Over::Classes
                && (
                    self.options.logit_scale,
                    self.options.logit_softcap,
                    self.options.z_loss,
                ) == (1.0, None, 0.0)
                && self.options.ignore_indices.len() <= 1
                && logits.iter().all(|logit| logit.is_finite())
        }
    }

    fn no_case_is_further_off_than_pytorchs_own_f32(device: &Device) {
        let mut largest = [0f64; 2];
        for case in CASES.iter().filter(|case| case.is_plain()) {
            let problem = case.problem();
            let found = run::solve(&problem, device);
            let expected = case.outcome(&found);
            for (found, expected) in found.loss.iter().zip(&expected.loss) {
                if expected.is_finite() && *expected != 0.0 {
                    largest[0] = largest[0].max((found - expected).abs() / expected.abs());
                }
            }
            for row in 0..problem.rows() {
                let entries = || (0..problem.classes()).map(|class| problem.at(row, class));
                let scale = entries().fold(0f64, |scale, at| {
                    scale.max(expected.logits_gradient[at].abs())
                });
                for at in entries().filter(|_| scale > 0.0) {
                    let off = (found.logits_gradient[at] - expected.logits_gradient[at]).abs();
                    largest[1] = largest[1].max(off / scale);
                }
            }
        }
        let fine = largest[0] <= PYTORCH_F32[0] && largest[1] <= PYTORCH_F32[1];
        assert!(fine, "{largest:?}, PyTorch {PYTORCH_F32:?}");
    }

    tests_on! { host: [no_case_is_further_off_than_pytorchs_own_f32] }
}

#[test]
fn each_case_has_a_name_of_its_own() {
    let names: std::collections::HashSet<_> = CASES.iter().map(|case| &case.name).collect();
    assert_eq!(names.len(), CASES.len());
    assert_eq!(CASES.len(), 494 + 377);
}

/// Compares the oracle of the other tests with PyTorch.
#[test]
fn the_oracle_agrees_with_pytorch() {
    let differences = differences(oracle::solve, tolerance::of(DType::F64));
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn the_two_oracles_agree_on_the_fixtures() {
    let difference = |case: &Case| {
        let difference = crate::oracles::difference(&case.problem())?;
        Some(format!("{}: {difference}", case.name))
    };
    let differences: Vec<String> = CASES.iter().filter_map(difference).collect();
    assert!(differences.is_empty(), "{differences:#?}");
}
