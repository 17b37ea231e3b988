//! Compares what a forward returns besides the loss with the oracle.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{CrossEntropyLoss, CrossEntropyOutput};

use super::problem::{Outcome, Problem, Targets, Terms};
use super::run::{float_tensor, numbers, row_shape};
use super::{oracle, tolerance};

/// The logits of a problem, as a leaf.
pub fn logits(problem: &Problem, device: &Device) -> Tensor<3> {
    float_tensor::<3>(&problem.logits, &problem.shape, (device, DType::F32)).require_grad()
}

pub fn indices(problem: &Problem, device: &Device) -> Option<Tensor<2, Int>> {
    match &problem.targets {
        Targets::Indices(indices) => {
            let data = TensorData::new(indices.clone(), row_shape(problem));
            Some(Tensor::from_data(data, device))
        }
        Targets::Distributions(_) => None,
    }
}

pub fn distributions(problem: &Problem, device: &Device) -> Tensor<3> {
    let Targets::Distributions(shares) = &problem.targets else {
        panic!("the problem has indices");
    };
    float_tensor::<3>(shares, &problem.shape, (device, DType::F32))
}

pub fn output(
    loss: &CrossEntropyLoss,
    logits: Tensor<3>,
    problem: &Problem,
    device: &Device,
) -> CrossEntropyOutput<2> {
    match indices(problem, device) {
        Some(indices) => loss.forward_with_entropy(logits, indices),
        None => loss.forward_with_entropy(logits, distributions(problem, device)),
    }
}

pub fn integers(tensor: Tensor<2, Int>) -> Vec<i64> {
    tensor.into_data().iter::<i64>().collect()
}

/// Asserts that loss, gradient and details agree with the oracle.
#[track_caller]
pub fn assert_output(problem: &Problem, device: &Device) {
    let loss = problem.config.init(device);
    let leaf = logits(problem, device);
    let output = output(&loss, leaf.clone(), problem, device);
    let expected = oracle::solve(problem);
    let objective = output.loss.clone() * problem.upstream[0];
    let found = Outcome {
        loss: numbers(output.loss.clone()),
        logits_gradient: numbers(leaf.grad(&objective.backward()).expect("tracked")),
        targets_gradient: None,
        terms: Terms::default(),
    };
    let name = format!("{:?} {:?}", problem.shape, problem.config);
    let untracked = Problem {
        tracked_targets: false,
        ..problem.clone()
    };
    let expected_outcome = Outcome {
        targets_gradient: None,
        ..expected
    };
    tolerance::assert_close(&name, &untracked, &found, &expected_outcome, DType::F32);

    let details = oracle::details(problem);
    let rows = row_shape(problem);
    assert_eq!(output.lse.dims().to_vec(), rows);
    let entropy = output.entropy.clone().expect("it was asked for");
    let number = |of: fn(&oracle::RowDetails) -> f64| details.iter().map(of).collect::<Vec<_>>();
    let found = [
        output.lse.clone(),
        output.log_prob.clone(),
        entropy,
        output.max_log_prob.clone(),
    ]
    .map(numbers);
    let expected = [
        number(|row| row.lse),
        number(|row| row.log_prob),
        number(|row| row.entropy),
        number(|row| row.max_log_prob),
    ];
    let of_f32 = tolerance::of(DType::F32);
    for (which, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found.len(), expected.len());
        for (row, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            let details = &details[row];
            let terms = [details.terms, details.max_log_prob_terms][usize::from(which == 3)];
            let allowed = of_f32.loss * expected.abs() + of_f32.terms * terms + of_f32.floor;
            let same = if expected.is_finite() {
                (found - expected).abs() <= allowed
            } else {
                found == expected || (found.is_nan() && expected.is_nan())
            };
            let which = [
                "lse",
                "log-probability",
                "entropy",
                "largest log-probability",
            ][which];
            assert!(
                same,
                "{name}: {which} {row} is {found:e}, expected {expected:e}"
            );
        }
    }
    let predicted: Vec<i64> = details.iter().map(|row| row.predicted).collect();
    let rank: Vec<i64> = details.iter().map(|row| row.rank).collect();
    assert_eq!(integers(output.predicted.clone()), predicted, "{name}");
    assert_eq!(integers(output.target_rank.clone()), rank, "{name}");
    let target: Vec<i64> = details.iter().map(|row| row.target).collect();
    assert_eq!(integers(output.target_class.clone()), target, "{name}");
    let bools = |tensor: Tensor<2, burn::tensor::Bool>| {
        tensor.into_data().iter::<bool>().collect::<Vec<_>>()
    };
    let of_rank = |holds: fn(i64) -> bool| rank.iter().map(|rank| holds(*rank)).collect::<Vec<_>>();
    assert_eq!(bools(output.correct()), of_rank(|rank| rank == 0), "{name}");
    assert_eq!(
        bools(output.in_top(3)),
        of_rank(|rank| (0..3).contains(&rank))
    );
    assert_eq!(bools(output.counted()), of_rank(|rank| rank >= 0), "{name}");
    let counted = rank.iter().filter(|rank| **rank >= 0).count() as f64;
    assert_eq!(numbers(output.counted_rows), [counted], "{name}");
    let weight = |target: i64| match &problem.config.weight {
        Some(weight) => f64::from(weight[target as usize]),
        _ => 1.0,
    };
    let total: f64 = match &problem.targets {
        Targets::Indices(indices) => (indices.iter().zip(&rank))
            .filter(|(_, rank)| **rank >= 0)
            .map(|(target, _)| weight(*target))
            .sum(),
        Targets::Distributions(_) => counted,
    };
    assert_eq!(numbers(output.total_weight), [total], "{name}");
}
