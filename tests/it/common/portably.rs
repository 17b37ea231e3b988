//! Solves a problem by the portable path in f64, with its logits in three dimensions.

use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::operation::{
    InputValues, Inputs, Logits, Options, Outputs, RowOutputs, RowReduction, RowValue,
    TargetValues, Targets, Ties, Wanted, WantedGradients,
};
use burn_cross_entropy::{SmoothingOver, portable};

use super::details::RowNumbers;
use super::problem::{self, Outcome, Problem, batch_size, is_batch_mean, is_sum};
use super::run::{float_tensor, numbers};

/// Loss, gradients and the numbers of the rows.
pub fn solve(problem: &Problem, device: &Device) -> (Outcome, RowNumbers) {
    solve_with(&options(problem), problem, device)
}

/// A value of each row in place of its loss, and its gradient.
pub fn value_of_rows(value: RowValue, problem: &Problem, device: &Device) -> Outcome {
    let options = Options {
        value,
        ignore_indices: [].into(),
        ..options(problem)
    };
    solve_with(&options, problem, device).0
}

fn solve_with(options: &Options, problem: &Problem, device: &Device) -> (Outcome, RowNumbers) {
    let (outer, inner) = sides(problem);
    let inputs = inputs(problem, device);
    let wanted = Wanted {
        outputs: Outputs::RowsAndEntropy,
        gradients: WantedGradients {
            targets: matches!(problem.targets, problem::Targets::Distributions(_))
                && problem.tracked_targets,
            ..WantedGradients::LOGITS
        },
    };
    let logits = Logits::Tensor(full(problem, &problem.logits, device).into_dispatch());
    let forward = portable::cross_entropy::<Dispatch>(logits, inputs.clone(), options, wanted);
    let (loss, upstream) = if problem.unreduced {
        let data = TensorData::new(problem.upstream.clone(), [outer, inner]);
        let upstream = Tensor::<2>::from_data(data, (device, DType::F64)).into_dispatch();
        (numbers(Tensor::<2>::from_dispatch(forward.loss)), upstream)
    } else {
        let upstream = float_tensor::<1>(&problem.upstream, &[1], (device, DType::F64));
        let loss = numbers(Tensor::<1>::from_dispatch(forward.loss));
        (loss, upstream.into_dispatch())
    };
    let gradients = portable::cross_entropy_backward::<Dispatch>(
        forward.saved,
        inputs,
        upstream,
        options,
        wanted.gradients,
    );
    let entries = |gradient| numbers(Tensor::<3>::from_dispatch(gradient));
    let logits_gradient = gradients.logits.into_option().map(entries);
    let outcome = Outcome {
        loss,
        logits_gradient: logits_gradient.expect("the logits' gradient is always asked for"),
        targets_gradient: gradients.targets.into_option().map(entries),
        terms: problem::Terms::default(),
    };
    (outcome, row_numbers(forward.outputs, problem.rows()))
}

/// The sizes of the dimensions before the classes and after them.
fn sides(problem: &Problem) -> (usize, usize) {
    let outer = problem.shape[..problem.class_dim].iter().product();
    (outer, problem.inner())
}

fn full(problem: &Problem, values: &[f64], device: &Device) -> Tensor<3> {
    let (outer, inner) = sides(problem);
    float_tensor(
        values,
        &[outer, problem.classes(), inner],
        (device, DType::F64),
    )
}

fn inputs(problem: &Problem, device: &Device) -> Inputs<Dispatch> {
    let (outer, inner) = sides(problem);
    let targets = match &problem.targets {
        problem::Targets::Indices(indices) => {
            let data = TensorData::new(indices.clone(), [outer, inner]);
            let indices = Tensor::<2, Int>::from_data(data, (device, DType::I64));
            Targets::Indices(indices.into_dispatch())
        }
        problem::Targets::Distributions(shares) => {
            Targets::Distributions(full(problem, shares, device).into_dispatch())
        }
    };
    let weights = problem.config.weight.as_ref().map(|weights| {
        Tensor::<1>::from_data(weights.as_slice(), (device, DType::F32)).into_dispatch()
    });
    let row_weights = problem.row_weights.as_ref().map(|weights| {
        let data = TensorData::new(weights.clone(), [outer, inner]);
        Tensor::<2>::from_data(data, (device, DType::F64)).into_dispatch()
    });
    Inputs {
        targets,
        weights: weights.into(),
        row_weights: row_weights.into(),
        reduction: reduction(problem),
    }
}

fn row_numbers(outputs: RowOutputs<Dispatch>, rows: usize) -> RowNumbers {
    let RowOutputs::PerRow {
        numbers: floats,
        classes,
        ..
    } = outputs
    else {
        panic!("the outputs were asked for");
    };
    let floats = numbers(Tensor::<2>::from_dispatch(floats));
    let classes = Tensor::<2, Int>::from_dispatch(classes).into_data();
    let classes: Vec<i64> = classes.iter::<i64>().collect();
    let line = |at: usize| floats[at * rows..(at + 1) * rows].to_vec();
    let int_line = |at: usize| classes[at * rows..(at + 1) * rows].to_vec();
    RowNumbers {
        lse: line(0),
        log_prob: line(1),
        max_log_prob: line(2),
        entropy: line(3),
        predicted: int_line(0),
        rank: int_line(1),
        target: int_line(2),
    }
}

/// Share of a target that all classes get, the target among them.
fn smoothing_among_all(problem: &Problem) -> f64 {
    let (smoothing, classes) = (problem.config.label_smoothing, problem.classes() as f64);
    match problem.config.smoothing_over {
        SmoothingOver::OtherClasses if classes == 1.0 => 0.0,
        SmoothingOver::OtherClasses => {
            let among_all = smoothing * classes / (classes - 1.0);
            if among_all > 1.0 - 1e-14 {
                1.0
            } else {
                among_all
            }
        }
        SmoothingOver::Classes | SmoothingOver::ValidClasses => smoothing,
    }
}

fn options(problem: &Problem) -> Options {
    let config = &problem.config;
    Options {
        class_dim: 1,
        ignore_indices: config.ignore_indices.as_slice().into(),
        label_smoothing: smoothing_among_all(problem),
        smooths_valid: config.smoothing_over == SmoothingOver::ValidClasses,
        values: if config.logits {
            InputValues::Logits {
                scale: config.logit_scale,
                softcap: config.logit_softcap,
            }
        } else {
            InputValues::Probabilities
        },
        targets: TargetValues::Shares,
        value: RowValue::Loss,
        z_loss: config.z_loss,
        row_factor: config.row_factor,
        empty: config.empty,
        ties: Ties::ByClass,
    }
}

fn reduction(problem: &Problem) -> RowReduction<Dispatch> {
    let config = &problem.config;
    if problem.unreduced {
        RowReduction::None
    } else if is_sum(config) {
        RowReduction::Sum { divisor: 1.0 }
    } else if is_batch_mean(config) {
        RowReduction::Sum {
            divisor: batch_size(problem) as f64,
        }
    } else {
        RowReduction::Mean
    }
}
