//! The cases that PyTorch computed for the crate's tests (tests/fixtures), as problems in f32 and in f64. Only
//! the problems are read here: what is right comes from the oracle.

use burn::nn::loss::Reduction;
use burn::tensor::DType;
use burn_cross_entropy::{CrossEntropyLossConfig, EmptyReduction, RowFactor, SmoothingOver};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};

use crate::common::archive;
use crate::common::problem::{Problem, Targets};
use crate::common::row_value::Asked;
use crate::common::teacher::Teacher;
use crate::options::{is_probability, is_share};
use crate::projected::Projected;
use crate::{loss, projection};

mod contrasts;

pub use contrasts::contrasts;

/// A number, or the name of a number that JSON does not have.
#[derive(Clone, Copy)]
struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let number = match &value {
            serde_json::Value::String(name) => name.parse().ok(),
            value => value.as_f64(),
        };
        number
            .map(Self)
            .ok_or_else(|| D::Error::custom("not a number"))
    }
}

fn values(numbers: &[Number]) -> Vec<f64> {
    numbers.iter().map(|number| number.0).collect()
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Target {
    Indices { indices: Vec<i64> },
    Soft { soft: Vec<Number> },
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Over {
    #[default]
    Classes,
    Others,
    Valid,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Factor {
    Focal(f64),
    Poly(f64),
    Probability,
}

/// The options under the names that the scripts write.
#[derive(Deserialize)]
struct Options {
    target: Option<Target>,
    weight: Option<Vec<f32>>,
    label_smoothing: f64,
    #[serde(default)]
    smoothing_over: Over,
    row_factor: Option<Factor>,
    row_weights: Option<Vec<f64>>,
    ignore_indices: Vec<i64>,
    reduction: String,
    logit_scale: f64,
    logit_softcap: Option<f64>,
    z_loss: f64,
    empty: String,
    upstream: Vec<f64>,
    target_grad: Option<Vec<Number>>,
}

impl Options {
    fn config(&self) -> CrossEntropyLossConfig {
        let mut config = CrossEntropyLossConfig::new()
            .with_weight(self.weight.clone())
            .with_ignore_indices(self.ignore_indices.clone())
            .with_reduction(match self.reduction.as_str() {
                "sum" => Reduction::Sum,
                "batch_mean" => Reduction::BatchMean,
                _ => Reduction::Mean,
            })
            .with_empty(match self.empty.as_str() {
                "zero" => EmptyReduction::Zero,
                _ => EmptyReduction::Nan,
            });
        config.label_smoothing = self.label_smoothing;
        config.smoothing_over = match self.smoothing_over {
            Over::Classes => SmoothingOver::Classes,
            Over::Others => SmoothingOver::OtherClasses,
            Over::Valid => SmoothingOver::ValidClasses,
        };
        config.row_factor = match self.row_factor {
            None => RowFactor::None,
            Some(Factor::Focal(gamma)) => RowFactor::Focal { gamma },
            Some(Factor::Poly(epsilon)) => RowFactor::Poly { epsilon },
            Some(Factor::Probability) => RowFactor::TargetProbability,
        };
        config.logit_scale = self.logit_scale;
        config.logit_softcap = self.logit_softcap;
        config.z_loss = self.z_loss;
        config
    }

    /// The problem over logits that are 0.
    fn problem(&self, shape: &[usize], class_dim: usize) -> Problem {
        Problem {
            shape: shape.to_vec(),
            class_dim,
            logits: vec![0.0; shape.iter().product()],
            targets: match &self.target {
                Some(Target::Indices { indices }) => Targets::Indices(indices.clone()),
                Some(Target::Soft { soft }) => Targets::Distributions(values(soft)),
                None => Targets::Distributions(vec![]),
            },
            row_weights: self.row_weights.clone(),
            config: self.config(),
            tracked_targets: match &self.target {
                Some(Target::Indices { .. }) => true,
                _ => self.target_grad.is_some(),
            },
            unreduced: self.reduction == "none",
            upstream: self.upstream.clone(),
        }
    }
}

#[derive(Deserialize)]
struct Loss {
    shape: Vec<usize>,
    class_dim: usize,
    logits: Vec<Number>,
    #[serde(flatten)]
    options: Options,
    probabilities: bool,
}

/// Logits beside those of a teacher, or with a value that has no target.
#[derive(Deserialize)]
struct Taught {
    value: String,
    shape: Vec<usize>,
    logits: Vec<f64>,
    teacher: Option<Vec<f64>>,
    temperature: f64,
    squared: bool,
    divergence: bool,
    #[serde(flatten)]
    options: Options,
}

impl Taught {
    fn case(&self, dtype: DType) -> loss::Case {
        let mut problem = self.options.problem(&self.shape, 1);
        problem.logits = self.logits.clone();
        if self.teacher.is_none() {
            problem.targets = Targets::Indices(vec![0; problem.rows()]);
            problem.tracked_targets = true;
        }
        loss::Case {
            asked: match self.value.as_str() {
                "entropy" => Asked::Entropy,
                "lse" => Asked::LogSumExp,
                _ => Asked::Loss,
            },
            teacher: self.teacher.clone().map(|logits| Teacher {
                logits,
                temperature: self.temperature,
                is_squared: self.squared,
                is_divergence: self.divergence,
            }),
            ..loss::Case::plain(problem, dtype)
        }
    }
}

#[derive(Deserialize)]
struct Projection {
    shape: Vec<usize>,
    features: usize,
    input: Vec<f64>,
    projection: Vec<f64>,
    bias: Option<Vec<f64>>,
    #[serde(flatten)]
    options: Options,
}

fn read<T: DeserializeOwned>(compressed: &[u8]) -> Vec<T> {
    archive::read(compressed, "its script")
}

const DTYPES: [DType; 2] = [DType::F32, DType::F64];

/// All problems over logits, but the few with shares or probabilities that the targets do not draw.
pub fn losses() -> Vec<loss::Case> {
    let mut fixtures: Vec<Loss> = read(include_bytes!("../../tests/fixtures/cases.json.gz"));
    fixtures.extend(read::<Loss>(include_bytes!(
        "../../tests/fixtures/extras.json.gz"
    )));
    let taught: Vec<Taught> = read(include_bytes!("../../tests/fixtures/teachers.json.gz"));
    let taught = taught
        .iter()
        .flat_map(|taught| DTYPES.map(|dtype| taught.case(dtype)));
    let problem = |fixture: &Loss| {
        let mut problem = fixture.options.problem(&fixture.shape, fixture.class_dim);
        problem.config.logits = !fixture.probabilities;
        problem.config.class_dim = fixture.class_dim as isize;
        problem.logits = values(&fixture.logits);
        problem
    };
    let is_drawn = |problem: &Problem| {
        let are_shares = match &problem.targets {
            Targets::Indices(_) => true,
            Targets::Distributions(shares) => shares.iter().all(|share| is_share(*share)),
        };
        let is_smoothed = problem.config.label_smoothing != 0.0;
        let is_times_probability = problem.config.row_factor == RowFactor::TargetProbability;
        are_shares
            && !(is_smoothed && is_times_probability)
            && (problem.config.logits || problem.logits.iter().all(|x| is_probability(*x)))
    };
    let problems = fixtures.iter().map(problem);
    problems
        .filter(is_drawn)
        .flat_map(|problem| DTYPES.map(|dtype| loss::Case::plain(problem.clone(), dtype)))
        .chain(taught)
        .collect()
}

pub fn projections() -> Vec<projection::Case> {
    let fixtures: Vec<Projection> = read(include_bytes!("../../tests/fixtures/linear.json.gz"));
    let projected = |fixture: Projection| {
        let class_dim = fixture.shape.len() - 1;
        let mut projected = Projected {
            input: fixture.input,
            weight: fixture.projection,
            bias: fixture.bias,
            features: fixture.features,
            problem: fixture.options.problem(&fixture.shape, class_dim),
        };
        projected.project();
        projected
    };
    let projected: Vec<Projected> = fixtures.into_iter().map(projected).collect();
    let plain = projected.iter().flat_map(|projected| {
        DTYPES.map(|dtype| projection::Case::plain(projected.clone(), dtype))
    });
    let others = projected.iter().enumerate().map(|(at, projected)| {
        let case = projection::Case::plain(projected.clone(), DTYPES[at % 2]);
        case.asked_otherwise(at)
    });
    plain.chain(others).collect()
}
