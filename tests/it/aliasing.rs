//! Losses over tensors that share their memory: views of another tensor, clones that are kept, one tensor in
//! two places. A loss that writes its gradient over its input must not let them see it.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::CrossEntropyLossConfig;

use crate::common::backends::tests_on;
use crate::common::problem::{Outcome, Problem, Targets, Terms};
use crate::common::run::{Form, Layout, assert_agrees, float_tensor, numbers};
use crate::common::{oracle, tolerance};

/// Few classes and many, in the last dimension and between others.
const SHAPES: [[usize; 3]; 4] = [[67, 5, 1], [9, 70, 1], [2, 5, 33], [2, 70, 3]];

/// Whether the logits are a result with memory of their own, or the leaf itself.
const OWNED: [bool; 2] = [false, true];

/// Every shape with either kind of logits.
fn cases() -> impl Iterator<Item = ([usize; 3], bool)> {
    SHAPES
        .into_iter()
        .flat_map(|shape| OWNED.map(|owned| (shape, owned)))
}

fn leaf(problem: &Problem, device: &Device) -> Tensor<3> {
    float_tensor(&problem.logits, &problem.shape, (device, DType::F32)).require_grad()
}

/// The leaf, or its values in memory of their own.
fn result_of(leaf: &Tensor<3>, owned: bool) -> Tensor<3> {
    if owned {
        leaf.clone().add_scalar(0.0)
    } else {
        leaf.clone()
    }
}

fn shares(problem: &Problem, device: &Device) -> Tensor<3> {
    let Targets::Distributions(shares) = &problem.targets else {
        panic!("distributions are asked for");
    };
    float_tensor(shares, &problem.shape, (device, DType::F32))
}

/// Index targets with the class dimension kept.
fn labels(problem: &Problem, device: &Device) -> Tensor<3, Int> {
    let Targets::Indices(indices) = &problem.targets else {
        panic!("indices are asked for");
    };
    let shape = [problem.shape[0], 1, problem.shape[2]];
    Tensor::from_data(TensorData::new(indices.clone(), shape), device)
}

/// The loss over index targets, multiplied by the upstream gradient.
fn objective(problem: &Problem, logits: Tensor<3>) -> Tensor<1> {
    let device = logits.device();
    let loss = problem.config.init(&device);
    loss.forward(logits, labels(problem, &device)) * problem.upstream[0]
}

/// The sum of the oracle's outcomes of two problems over the same logits.
fn added(first: &Problem, second: &Problem) -> Outcome {
    let (first, second) = (oracle::solve(first), oracle::solve(second));
    let add = |first: &[f64], second: &[f64]| -> Vec<f64> {
        first.iter().zip(second).map(|(a, b)| a + b).collect()
    };
    Outcome {
        loss: add(&first.loss, &second.loss),
        logits_gradient: add(&first.logits_gradient, &second.logits_gradient),
        targets_gradient: None,
        terms: Terms {
            logits_gradient: add(&first.terms.logits_gradient, &second.terms.logits_gradient),
            ..Terms::default()
        },
    }
}

#[track_caller]
fn assert_gradient(problem: &Problem, found: &Tensor<3>, expected: &Outcome) {
    let found = Outcome {
        logits_gradient: numbers(found.clone()),
        ..expected.clone()
    };
    tolerance::assert_close("gradient", problem, &found, expected, DType::F32);
}

fn views_agree_with_copies(device: &Device) {
    for (shape, owned) in cases() {
        for layout in Layout::VIEWS {
            let form = Form {
                layout,
                owned,
                target_layout: layout,
                ..Form::default()
            };
            let indices = Problem::random(&shape, 1, false, 1).unreduced();
            assert_agrees(&indices, form, device);
            let shares = Problem::random(&shape, 1, true, 2);
            assert_agrees(&shares, form, device);
        }
    }
}

fn two_losses_on_the_same_logits_add_their_gradients(device: &Device) {
    for (shape, owned) in cases() {
        let first = Problem::random(&shape, 1, false, 3);
        let mut second = Problem::random(&shape, 1, false, 4)
            .with_config(|config| config.with_label_smoothing(0.2));
        second.logits = first.logits.clone();
        second.upstream = vec![0.5];
        let leaf = leaf(&first, device);
        let logits = result_of(&leaf, owned);
        let one = objective(&first, logits.clone());
        let two = objective(&second, logits);
        let gradients = (one + two).backward();
        let gradient = leaf.grad(&gradients).unwrap();
        assert_gradient(&first, &gradient, &added(&first, &second));
    }
}

fn logits_are_there_after_the_loss(device: &Device) {
    for (shape, owned) in cases() {
        let problem = Problem::random(&shape, 1, false, 5);
        let leaf = leaf(&problem, device);
        let logits = result_of(&leaf, owned);
        let before = (logits.to_data(), logits.clone().argmax(1).to_data());
        let value = objective(&problem, logits.clone());
        let after = |logits: &Tensor<3>| (logits.to_data(), logits.clone().argmax(1).to_data());
        assert!(before == after(&logits), "after the forward");

        // The objective adds half of the sum of squares, whose gradient is the logits.
        let squares = logits.clone().powi_scalar(2).sum() * 0.5;
        let gradients = (value + squares).backward();
        assert!(before == after(&logits), "after the backward");
        assert!(before.0 == leaf.to_data());
        let rest = leaf.grad(&gradients).unwrap() - leaf.clone().detach();
        // Subtracting logits of up to 6 leaves an error of one unit in their last place.
        let (found, expected) = (numbers(rest), oracle::solve(&problem).logits_gradient);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }
}

/// Takes the logits as targets, as the entropy of the model's own belief does, with and without a gradient
/// into the targets.
fn targets_may_be_the_logits_themselves(device: &Device) {
    for (shape, owned) in cases() {
        for probabilities in [false, true] {
            let mut problem = Problem::random(&shape, 1, true, 6)
                .with_config(|config| config.with_logits(!probabilities));
            for (at, logit) in problem.logits.iter_mut().enumerate() {
                *logit = (1 + at * 7 % 64) as f64 / 64.0;
            }
            problem.targets = Targets::Distributions(problem.logits.clone());
            let expected = oracle::solve(&problem);
            let loss = problem.config.init(device);
            for tracked in [false, true] {
                let leaf = leaf(&problem, device);
                let logits = result_of(&leaf, owned);
                let targets = logits.clone();
                let targets = if tracked {
                    targets
                } else {
                    targets.detach().set_require_grad(false)
                };
                let value = loss.forward(logits, targets) * problem.upstream[0];
                let gradient = leaf.grad(&value.backward()).unwrap();
                let mut expected = expected.clone();
                if tracked {
                    let of_targets = expected.targets_gradient.clone().expect("it is asked for");
                    for (sum, part) in expected.logits_gradient.iter_mut().zip(of_targets) {
                        *sum += part;
                    }
                }
                expected.targets_gradient = None;
                assert_gradient(&problem, &gradient, &expected);
                assert_eq!(numbers(leaf), problem.logits);
            }
        }
    }
}

/// Copies `values` with the first entry of the dimension in place of all others.
fn repeated<T: Copy>(values: &[T], shape: [usize; 3], dim: usize) -> Vec<T> {
    let stride: usize = shape[dim + 1..].iter().product();
    let block = stride * shape[dim];
    (0..values.len())
        .map(|at| values[at / block * block + at % stride])
        .collect()
}

fn summed(values: &[f64], shape: [usize; 3], dim: usize) -> Vec<f64> {
    let stride: usize = shape[dim + 1..].iter().product();
    let block = stride * shape[dim];
    let mut sums = vec![0.0; values.len() / shape[dim]];
    for (at, value) in values.iter().enumerate() {
        sums[at / block * stride + at % stride] += value;
    }
    sums
}

/// Expands the logits, so that one entry of memory stands for many: in the batch, in the classes, and in the
/// positions.
fn an_expanded_view_is_its_copy(device: &Device) {
    for (shape, owned) in cases() {
        for dim in 0..3 {
            for soft in [false, true] {
                let mut problem = Problem::random(&shape, 1, soft, 7);
                problem.logits = repeated(&problem.logits, shape, dim);
                let expected = oracle::solve(&problem);
                let straight: Tensor<3> =
                    float_tensor(&problem.logits, &shape, (device, DType::F32));
                let leaf = straight.narrow(dim, 0, 1).detach().require_grad();
                let before = leaf.to_data();
                let logits = result_of(&leaf, owned).expand(shape);
                let loss = problem.config.init(device);
                let value = if soft {
                    loss.forward(logits, shares(&problem, device))
                } else {
                    loss.forward(logits, labels(&problem, device))
                };
                tolerance::assert_losses(
                    "expanded",
                    &numbers(value.clone()),
                    &expected.loss,
                    tolerance::of(DType::F32),
                );
                let gradients = (value * problem.upstream[0]).backward();
                assert!(before == leaf.to_data());
                let found = numbers(leaf.grad(&gradients).unwrap());
                let sums = summed(&expected.logits_gradient, shape, dim);
                for (found, sum) in found.iter().zip(sums) {
                    // Burn sums up to 70 entries of at most 1 in f32.
                    assert!((found - sum).abs() < 5e-6, "{shape:?} {dim}: {found} {sum}");
                }
            }
        }
    }
}

fn expanded_targets_are_their_copies(device: &Device) {
    for shape in SHAPES {
        let loss = |problem: &Problem| problem.config.init(device);
        for dim in [0, 2] {
            let mut problem = Problem::random(&shape, 1, false, 8);
            let label_shape = [shape[0], 1, shape[2]];
            if let Targets::Indices(indices) = &mut problem.targets {
                *indices = repeated(indices, label_shape, dim);
            }
            let logits = leaf(&problem, device);
            let labels = labels(&problem, device)
                .narrow(dim, 0, 1)
                .expand(label_shape);
            let value = loss(&problem).forward(logits.clone(), labels) * problem.upstream[0];
            let gradient = logits.grad(&value.backward()).unwrap();
            assert_gradient(&problem, &gradient, &oracle::solve(&problem));
        }
        for dim in 0..3 {
            let mut problem = Problem::random(&shape, 1, true, 9);
            if let Targets::Distributions(shares) = &mut problem.targets {
                *shares = repeated(shares, shape, dim);
            }
            let logits = leaf(&problem, device);
            let row = shares(&problem, device).narrow(dim, 0, 1).require_grad();
            let before = row.to_data();
            let value = loss(&problem).forward(logits.clone(), row.clone().expand(shape));
            let gradients = (value * problem.upstream[0]).backward();
            let mut expected = oracle::solve(&problem);
            let of_targets = expected.targets_gradient.take().expect("it is asked for");
            assert_gradient(&problem, &logits.grad(&gradients).unwrap(), &expected);
            assert!(before == row.to_data());
            let found = numbers(row.grad(&gradients).unwrap());
            for (found, sum) in found.iter().zip(summed(&of_targets, shape, dim)) {
                // Burn sums up to 70 surprisals in f32.
                assert!(
                    (found - sum).abs() < 1e-5 * sum.abs().max(1.0),
                    "{found} {sum}"
                );
            }
        }
    }
}

/// Takes the middle of a larger tensor, along any dimension, which the test holds too or not.
fn a_slice_leaves_the_rest_of_its_tensor_alone(device: &Device) {
    for (shape, owned) in cases() {
        for dim in 0..3 {
            let problem = Problem::random(&shape, 1, false, 10);
            let wider: [usize; 3] = core::array::from_fn(|d| shape[d] + 3 * usize::from(d == dim));
            let inside = |tensor: Tensor<3>| tensor.narrow(dim, 1, shape[dim]);
            let filled = Tensor::<3>::full(wider, 2.5, (device, DType::F32));
            let window = core::array::from_fn(|d| {
                let from = usize::from(d == dim);
                from..from + shape[d]
            });
            let large = filled
                .slice_assign::<[core::ops::Range<usize>; 3]>(window, leaf(&problem, device))
                .detach()
                .require_grad();
            let before = large.to_data();
            let kept = result_of(&large, owned);
            let of_kept = objective(&problem, inside(kept.clone()));
            let of_view = objective(&problem, inside(result_of(&large, owned)));
            let gradient = large.grad(&(of_kept + of_view).backward()).unwrap();
            assert!(before == large.to_data() && before == kept.to_data());
            let expected = added(&problem, &problem);
            assert_gradient(&problem, &inside(gradient.clone()), &expected);
            let rest = gradient.clone().abs().sum() - inside(gradient).abs().sum();
            // Two orders of summation may differ by a share of this sum.
            let scale: f64 = expected
                .logits_gradient
                .iter()
                .map(|entry| entry.abs())
                .sum();
            assert!(numbers(rest)[0].abs() < 1e-5 * scale);
        }
    }
}

/// The first loss sees memory that the second half still needs; the second loss is its last holder.
fn halves_of_one_tensor_have_losses_of_their_own(device: &Device) {
    for shape in SHAPES {
        let problem = Problem::random(&shape, 1, false, 11);
        let mut doubled = problem.clone();
        doubled.shape[0] *= 2;
        doubled.logits.extend_from_slice(&problem.logits);
        let leaf = leaf(&doubled, device);
        let [first, second] = {
            let both = result_of(&leaf, true);
            [0, shape[0]].map(|from| both.clone().narrow(0, from, shape[0]))
        };
        let one = objective(&problem, first);
        let two = objective(&problem, second) * 2.0;
        let gradient = leaf.grad(&(one + two).backward()).unwrap();
        let expected = oracle::solve(&problem);
        let [first, second] = [0, shape[0]].map(|from| gradient.clone().narrow(0, from, shape[0]));
        assert_gradient(&problem, &first, &expected);
        assert_gradient(&problem, &(second / 2.0), &expected);
    }
}

/// The gradient has memory of its own: operations on it leave the logits alone.
fn a_gradient_can_be_changed_without_its_logits(device: &Device) {
    for (shape, owned) in cases() {
        let problem = Problem::random(&shape, 1, false, 12);
        let leaf = leaf(&problem, device);
        let logits = result_of(&leaf, owned);
        let before = logits.to_data();
        let mut gradients = objective(&problem, logits.clone()).backward();
        let gradient = leaf.grad_remove(&mut gradients).unwrap();
        let copy = gradient.to_data();
        let stepped = leaf.clone().detach() - gradient.clone() * 0.1;
        let zeroed = gradient.clone().mul_scalar(0.0);
        assert_eq!(numbers(zeroed.abs().sum()), [0.0]);
        assert!(copy == gradient.to_data());
        assert!(before == leaf.to_data() && before == logits.to_data());
        assert!(stepped.to_data() != before);
    }
}

/// Repeats a step over the same tensors, as a training loop does.
fn the_same_tensors_give_the_same_bits_again(device: &Device) {
    for (shape, owned) in cases() {
        let problem = Problem::random(&shape, 1, true, 13).with_weights();
        let leaf = leaf(&problem, device);
        let shares = shares(&problem, device);
        let loss = problem.config.init(device);
        let step = || {
            let value = loss.forward(result_of(&leaf, owned), shares.clone());
            let gradient = leaf.grad(&value.clone().backward()).unwrap();
            (value.to_data(), gradient.to_data(), shares.to_data())
        };
        let first = step();
        assert!(first == step() && first == step());
    }
}

/// Large gradients, whose memory may come from the step before, are those that are written over the logits, in every step
/// and also where rows are ignored. A gradient that was changed in place, copied or read does not show in the next.
fn a_large_gradient_is_that_of_logits_nobody_holds(device: &Device) {
    const SHAPE: [usize; 2] = [41, 32_003];
    let values: Vec<f32> = (0..SHAPE[0] * SHAPE[1])
        .map(|at| (at as f32 * 0.7).sin() * 4.0)
        .collect();
    let leaf = Tensor::<2>::from_data(TensorData::new(values, SHAPE), device).require_grad();
    let loss = CrossEntropyLossConfig::new().init(device);
    let gradient_of = |owned: bool, step: i64| {
        let target = |row: i64| {
            if (row + step) % 3 == 0 {
                -100
            } else {
                row * 700 + step
            }
        };
        let targets: Vec<i64> = (0..SHAPE[0] as i64).map(target).collect();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [SHAPE[0]]), device);
        let logits = if owned {
            leaf.clone().mul_scalar(1.0)
        } else {
            leaf.clone()
        };
        leaf.grad(&loss.forward(logits, targets).backward())
            .unwrap()
    };
    for step in 0..4 {
        let kept = gradient_of(false, step);
        let copy = kept.clone() + 1.0;
        let found = kept.clone().into_data().try_into_vec::<f32>().unwrap();
        let expected = gradient_of(true, step).into_data();
        assert!(found == expected.try_into_vec::<f32>().unwrap());
        let changed = (kept * 2.0).into_data();
        assert_eq!(changed.try_into_vec::<f32>().unwrap()[7], 2.0 * found[7]);
        drop(copy);
    }
}

tests_on! {
    every_backend: [
        views_agree_with_copies,
        two_losses_on_the_same_logits_add_their_gradients,
        logits_are_there_after_the_loss,
        targets_may_be_the_logits_themselves,
        an_expanded_view_is_its_copy,
        expanded_targets_are_their_copies,
        a_slice_leaves_the_rest_of_its_tensor_alone,
        halves_of_one_tensor_have_losses_of_their_own,
        a_gradient_can_be_changed_without_its_logits,
        the_same_tensors_give_the_same_bits_again,
    ],
    host: [a_large_gradient_is_that_of_logits_nobody_holds],
}
