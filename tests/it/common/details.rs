//! What a call gives besides loss and gradients, in every form of the tensors and at every rank: the details
//! of the rows, and the mean over a normalizer that is computed apart.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{
    CrossEntropyLoss, CrossEntropyOutput, CrossEntropyTarget, LogitsRank, OutputOf, TargetTensor,
};

use super::oracle::RowDetails;
use super::problem::{Problem, Targets};
use super::run::{Form, arranged, float_tensor, numbers, row_shape, teacher_tensor, weight_dtype};
use super::teacher::Teacher;
use super::tolerance::Tolerance;

/// The numbers of every row.
#[derive(Clone, Debug)]
pub struct RowNumbers {
    pub lse: Vec<f64>,
    pub log_prob: Vec<f64>,
    pub max_log_prob: Vec<f64>,
    pub entropy: Vec<f64>,
    pub predicted: Vec<i64>,
    pub rank: Vec<i64>,
    pub target: Vec<i64>,
}

/// The results of one problem as plain numbers.
#[derive(Clone, Debug)]
pub struct Details {
    /// The loss that comes with the details.
    pub loss: Vec<f64>,
    pub rows: RowNumbers,
    /// The total weight and the number of counted rows.
    pub divisors: [f64; 2],
    /// The same two numbers from `normalizer`.
    pub normalizer: [f64; 2],
    /// The gradient of the loss of `forward_normalized`.
    pub upstream: f64,
    /// The loss of `forward_normalized` over that normalizer, and its gradient for the logits.
    pub normalized: (Vec<f64>, Vec<f64>),
}

/// Computes the details of a problem.
pub fn of(problem: &Problem, form: Form, device: &Device) -> Details {
    beside(None, problem, form, device)
}

/// Computes the details of a problem, with the logits of a teacher, if there is one, in place of its targets.
pub fn beside(
    teacher: Option<&Teacher>,
    problem: &Problem,
    form: Form,
    device: &Device,
) -> Details {
    macro_rules! weighed {
        ($rank:literal, $rows:literal, $targets:expr) => {
            match &problem.row_weights {
                None => compute::<$rank>(problem, form, $targets, device),
                Some(weights) => {
                    let options = (device, weight_dtype(form.float));
                    let weights = float_tensor::<$rows>(weights, &row_shape(problem), options);
                    compute::<$rank>(problem, form, $targets.weighted(weights), device)
                }
            }
        };
    }
    macro_rules! at_rank {
        ($rank:literal, $rows:literal) => {{
            if let Some(teacher) = teacher {
                let target =
                    teacher.target(teacher_tensor::<$rank>(teacher, problem, form, device));
                return weighed!($rank, $rows, target);
            }
            match &problem.targets {
                Targets::Distributions(shares) => {
                    let dtype = form.shares.unwrap_or(form.float);
                    let shares = float_tensor::<$rank>(shares, &problem.shape, (device, dtype));
                    let shares = arranged(shares, form.target_layout);
                    weighed!($rank, $rows, shares)
                }
                Targets::Indices(indices) => {
                    let targets = TensorData::new(indices.clone(), row_shape(problem));
                    let targets: Tensor<$rows, Int> = match form.int {
                        None => Tensor::from_data(targets, device),
                        Some(dtype) => Tensor::from_data(targets, (device, dtype)),
                    };
                    let targets = arranged(targets, form.target_layout);
                    weighed!($rank, $rows, targets)
                }
            }
        }};
    }
    match problem.shape.len() {
        1 => at_rank!(1, 1),
        2 => at_rank!(2, 1),
        3 => at_rank!(3, 2),
        4 => at_rank!(4, 3),
        5 => at_rank!(5, 4),
        6 => at_rank!(6, 5),
        rank => panic!("no details at rank {rank}"),
    }
}

fn compute<const D: usize>(
    problem: &Problem,
    form: Form,
    targets: impl CrossEntropyTarget<D> + Clone,
    device: &Device,
) -> Details
where
    Tensor<D>: LogitsRank,
    OutputOf<D>: Rows,
{
    let loss = problem.config.init(device);
    let leaf = || {
        let straight = float_tensor::<D>(&problem.logits, &problem.shape, (device, form.float));
        arranged(straight, form.layout).detach().require_grad()
    };
    let mut details = loss
        .forward_with_entropy(leaf(), targets.clone())
        .into_details();
    let normalizer = loss.normalizer(targets.clone());
    details.normalizer =
        [normalizer.total_weight(), normalizer.counted_rows()].map(|number| numbers(number)[0]);
    // A problem without a reduction and without rows has no upstream gradient.
    details.upstream = problem.upstream.first().copied().unwrap_or(1.0);
    details.normalized = normalized(details.upstream, &loss, leaf(), targets);
    details
}

fn normalized<const D: usize>(
    upstream: f64,
    loss: &CrossEntropyLoss,
    leaf: Tensor<D>,
    targets: impl CrossEntropyTarget<D> + Clone,
) -> (Vec<f64>, Vec<f64>)
where
    Tensor<D>: LogitsRank,
{
    let normalizer = loss.normalizer(targets.clone());
    let value = loss.forward_normalized(leaf.clone(), targets, normalizer);
    let objective = value.clone() * upstream;
    let gradient = leaf.grad(&objective.backward());
    let gradient = gradient.expect("the logits require it");
    (numbers(value), numbers(gradient))
}

/// An output of any rank.
pub trait Rows {
    fn into_details(self) -> Details;
}

impl<const R: usize> Rows for CrossEntropyOutput<R> {
    fn into_details(self) -> Details {
        let integers = |tensor: Tensor<R, Int>| tensor.into_data().iter::<i64>().collect();
        Details {
            loss: numbers(self.loss),
            rows: RowNumbers {
                lse: numbers(self.lse),
                log_prob: numbers(self.log_prob),
                max_log_prob: numbers(self.max_log_prob),
                entropy: numbers(self.entropy.expect("it was asked for")),
                predicted: integers(self.predicted),
                rank: integers(self.target_rank),
                target: integers(self.target_class),
            },
            divisors: [self.total_weight, self.counted_rows].map(|number| numbers(number)[0]),
            normalizer: [f64::NAN; 2],
            upstream: 1.0,
            normalized: (vec![], vec![]),
        }
    }
}

/// The two divisors of the mean, from the problem alone.
pub fn divisors(problem: &Problem) -> [f64; 2] {
    let of_class = |row: usize| match (&problem.targets, &problem.config.weight) {
        (Targets::Indices(indices), Some(weight)) => f64::from(weight[indices[row] as usize]),
        _ => 1.0,
    };
    let counted = || (0..problem.rows()).filter(|row| !problem.is_ignored(*row));
    let weight = |row: usize| problem.row_weight(row);
    [
        counted().map(|row| weight(row) * of_class(row)).sum(),
        counted().map(weight).sum(),
    ]
}

/// Finds the first detail that differs from the oracle's by more than the tolerance. `limit` is the largest
/// number of the details' dtype: what is beyond it is infinite.
pub fn compare(
    found: &RowNumbers,
    expected: &[RowDetails],
    tolerance: Tolerance,
    limit: f64,
) -> Result<(), String> {
    for (row, expected) in expected.iter().enumerate() {
        let RowDetails {
            terms,
            log_prob_terms,
            max_log_prob,
            max_log_prob_terms,
            entropy,
            largest_surprisal,
            ..
        } = *expected;
        // The derivatives of an entropy by the logits add up to about the entropy.
        let of_entropy = terms * (1.0 + entropy.abs());
        for (name, found, expected, terms) in [
            ("lse", &found.lse, expected.lse, terms),
            (
                "log_prob",
                &found.log_prob,
                expected.log_prob,
                log_prob_terms,
            ),
            (
                "max_log_prob",
                &found.max_log_prob,
                max_log_prob,
                max_log_prob_terms,
            ),
            ("entropy", &found.entropy, entropy, of_entropy),
        ] {
            let allowed =
                tolerance.loss * expected.abs() + tolerance.terms * terms + tolerance.floor;
            let is_beyond = name == "log_prob" && largest_surprisal > limit;
            if is_beyond && found[row] == f64::NEG_INFINITY && expected < 0.0 {
                // A small share may come after a log-probability that is infinite in the dtype.
                continue;
            }
            if !agrees(found[row], expected, allowed, limit) {
                return Err(format!(
                    "{name} of row {row} is {:e}, expected {expected:e}",
                    found[row]
                ));
            }
        }
        let found = [found.predicted[row], found.rank[row], found.target[row]];
        let expected = [expected.predicted, expected.rank, expected.target];
        if found != expected {
            return Err(format!(
                "predicted class, rank and target of row {row} are {found:?}, expected {expected:?}"
            ));
        }
    }
    Ok(())
}

/// Whether two numbers are close, or both beyond the limit, or both NaN. A number that is close to the limit
/// may be on either side of it.
pub fn agrees(found: f64, expected: f64, allowed: f64, limit: f64) -> bool {
    if expected.is_nan() {
        return found.is_nan();
    }
    if expected.is_infinite() || found.is_infinite() {
        return found.is_infinite()
            && found.signum() == expected.signum()
            && expected.abs() + allowed >= limit;
    }
    (found - expected).abs() <= allowed
}

/// The largest number of a dtype.
pub fn largest_of(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::MAX,
        DType::F16 => 65_504.0,
        // Eight bits of 1 before the largest power of 2 of f32.
        DType::BF16 => (2.0 - 2f64.powi(-7)) * 2f64.powi(127),
        _ => f64::from(f32::MAX),
    }
}
