//! Entropy and log-sum-exp of rows, with gradients, against their definitions in f64.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Tensor};
use burn_cross_entropy::operation::RowValue;
use burn_cross_entropy::{
    CrossEntropyLoss, CrossEntropyLossConfig, LogitsRank, LogitsSource, RowLosses,
};

use crate::common::backends::{computes_f64, is_host, tests_on};
use crate::common::portably;
use crate::common::problem::{Outcome, Problem};
use crate::common::row_value::Asked;
use crate::common::run::{self, Losses, f32_tensor, float_tensor, labels, numbers};
use crate::common::tolerance::{self, assert_numbers, behind_products};
use crate::common::values::rounded;
use crate::linear::projected::Projected;

const VALUES: [Asked; 2] = [Asked::Entropy, Asked::LogSumExp];

fn of<const D: usize>(
    asked: Asked,
    loss: &CrossEntropyLoss,
    logits: impl LogitsSource<D>,
) -> RowLosses<D>
where
    Tensor<D>: LogitsRank,
{
    match asked {
        Asked::Entropy => loss.entropy(logits),
        _ => loss.lse(logits),
    }
}

/// The values and their gradients for the problem's upstream gradient of each row, by the definitions.
fn defined(asked: Asked, problem: &Problem) -> Outcome {
    asked.solve(&asked.problem(problem))
}

/// Values and gradients from the crate, for logits of rank `D`.
fn computed<const D: usize>(value: Asked, problem: &Problem, options: (&Device, DType)) -> Outcome
where
    Tensor<D>: LogitsRank,
    RowLosses<D>: Losses,
{
    let values =
        |loss: &CrossEntropyLoss, logits| of::<D>(value, loss, logits).weighed(&problem.upstream);
    run::over_a_leaf(problem, options, values).0
}

#[track_caller]
fn assert_defined(problem: &Problem, float: DType, device: &Device) {
    for value in VALUES {
        let options = (device, float);
        let found = match problem.shape.len() {
            1 => computed::<1>(value, problem, options),
            2 => computed::<2>(value, problem, options),
            3 => computed::<3>(value, problem, options),
            _ => computed::<4>(value, problem, options),
        };
        let name = format!(
            "{value:?}, {:?}, {:?}, {float:?}",
            problem.shape, problem.config
        );
        let expected = defined(value, problem);
        tolerance::assert_close(&name, problem, &found, &expected, float);
    }
}

type Change = fn(CrossEntropyLossConfig) -> CrossEntropyLossConfig;

const TRANSFORMS: [Change; 4] = [
    |config| config,
    |config| config.with_logit_scale(0.3),
    |config| config.with_logit_softcap(Some(4.0)),
    |config| config.with_logit_scale(2.5).with_logit_softcap(Some(9.0)),
];

/// Logits of the problem as they are, with a masked class in every second row, and with a class that is far above
/// the others.
fn kinds(problem: Problem) -> [Problem; 3] {
    let (mut masked, mut confident) = (problem.clone(), problem.clone());
    let last = problem.classes() - 1;
    for row in 0..problem.rows() {
        if row % 2 == 0 && last > 0 {
            masked.logits[problem.at(row, row % last)] = f64::NEG_INFINITY;
        }
        let class = row * 7 % (last + 1);
        confident.logits[problem.at(row, class)] += 14.0;
    }
    [problem, masked, confident]
}

fn values_and_gradients_are_those_of_the_definition(device: &Device) {
    let shapes: &[(&[usize], usize)] = match is_host(device) {
        true => &[
            (&[23, 71], 1),
            (&[67, 5], 1),
            (&[2, 7, 70], 1),
            (&[3, 4, 3, 5], 2),
            (&[5, 1], 1),
            (&[9], 0),
        ],
        false => &[(&[23, 71], 1), (&[2, 7, 70], 1), (&[3, 4, 5], 2)],
    };
    for (at, (shape, class_dim)) in shapes.iter().enumerate() {
        for change in TRANSFORMS {
            let problem = Problem::random(shape, *class_dim, false, at as u64);
            let class_dim = *class_dim as isize;
            let problem = problem
                .with_config(|config| change(config).with_class_dim(class_dim))
                .unreduced();
            for problem in kinds(problem) {
                assert_defined(&problem, DType::F32, device);
            }
        }
    }
}

fn every_dtype_agrees(device: &Device) {
    for float in [DType::F64, DType::F16, DType::BF16] {
        if !device.supports_dtype(float) || float == DType::F64 && !computes_f64(device) {
            continue;
        }
        for shape in [&[9, 130][..], &[70, 6]] {
            let mut problem = Problem::random(shape, 1, false, 8).unreduced();
            for logit in &mut problem.logits {
                *logit = rounded(*logit, float);
            }
            assert_defined(&problem, float, device);
        }
    }
}

/// The path in plain tensor operations computes the same.
fn the_portable_path_agrees(device: &Device) {
    for (shape, class_dim) in [(&[23, 71][..], 1), (&[2, 7, 70], 1), (&[3, 4, 3, 5], 2)] {
        for change in TRANSFORMS {
            let problem = Problem::random(shape, class_dim, false, 3).with_config(change);
            for problem in kinds(problem.unreduced()) {
                for (value, name) in [
                    (Asked::Entropy, RowValue::Entropy),
                    (Asked::LogSumExp, RowValue::LogSumExp),
                ] {
                    let device = device.clone().without_autodiff();
                    let found = portably::value_of_rows(name, &problem, &device);
                    let expected = defined(value, &problem);
                    let name = format!("{value:?}, {shape:?}, {:?}", problem.config);
                    tolerance::assert_close(&name, &problem, &found, &expected, DType::F64);
                }
            }
        }
    }
}

/// Options of the loss, and targets to ignore, change nothing.
fn options_of_the_loss_do_not_apply(device: &Device) {
    let problem = Problem::random(&[6, 37], 1, false, 4).unreduced();
    let dressed = problem.clone().with_config(|config| {
        config
            .with_weight(Some(vec![0.5; 37]))
            .with_label_smoothing(0.2)
            .with_z_loss(0.1)
            .with_ignore_indices(vec![0, 1])
            .with_reduction(Reduction::Sum)
    });
    for value in VALUES {
        let plain = computed::<2>(value, &problem, (device, DType::F32));
        let found = computed::<2>(value, &dressed, (device, DType::F32));
        assert_eq!(found.loss, plain.loss);
        assert_eq!(found.logits_gradient, plain.logits_gradient);
    }
}

/// The gradients reach input and weight through chunks.
fn projections_agree(device: &Device) {
    for chunk in [Some(7), None] {
        for value in VALUES {
            let projected = Projected::random([22, 11, 37], false, 3).with(Problem::unreduced);
            let expected = defined(value, &projected.problem);
            let loss = CrossEntropyLossConfig::new().init(device);
            let ([input, weight], logits) = projected.leaves(chunk, device);
            let (values, objective) =
                of::<2>(value, &loss, logits).weighed(&projected.problem.upstream);
            let gradients = objective.backward();
            let allowed = behind_products(2e-5, device);
            assert_numbers("value", &values, &expected.loss, allowed);
            let slopes = &expected.logits_gradient;
            let of_input: Vec<f64> = (0..22 * 11)
                .map(|at| {
                    let (row, feature) = (at / 11, at % 11);
                    let of = |class: usize| {
                        slopes[row * 37 + class] * projected.weight[feature * 37 + class]
                    };
                    (0..37).map(of).sum()
                })
                .collect();
            let of_weight: Vec<f64> = (0..11 * 37)
                .map(|at| {
                    let (feature, class) = (at / 37, at % 37);
                    let of =
                        |row: usize| slopes[row * 37 + class] * projected.input[row * 11 + feature];
                    (0..22).map(of).sum()
                })
                .collect();
            let found = |tensor: &Tensor<2>| numbers(tensor.grad(&gradients).expect("tracked"));
            assert_numbers("input", &found(&input), &of_input, allowed);
            assert_numbers("weight", &found(&weight), &of_weight, allowed);
        }
    }
}

/// The values are those of `forward_with_entropy`, which has no gradients of them.
fn values_are_those_of_the_outputs(device: &Device) {
    let problem = Problem::random(&[5, 70], 1, false, 5);
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = || float_tensor::<2>(&problem.logits, &[5, 70], (device, DType::F32));
    let output = loss.forward_with_entropy(logits(), labels(&[0; 5], device));
    assert_eq!(numbers(loss.lse(logits())), numbers(output.lse));
    let entropy = output.entropy.expect("it was asked for");
    assert_eq!(numbers(loss.entropy(logits())), numbers(entropy));
}

/// A row without a distribution is NaN and leaves the others alone; without rows there is nothing.
fn the_edges_are_defined(device: &Device) {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let rows = [
        [0.0, 0.0, -inf],
        [-inf, -inf, -inf],
        [inf, 0.0, 0.0],
        [nan, 0.0, 1.0],
        [1000.0, 0.0, -inf],
        [-inf, 3.0, -inf],
    ];
    for value in VALUES {
        let loss = CrossEntropyLossConfig::new().init(device);
        let leaf = f32_tensor(rows.as_flattened(), [6, 3], device).require_grad();
        let values = of::<2>(value, &loss, leaf.clone());
        let found = numbers(values.clone());
        let gradient = numbers(leaf.grad(&values.sum().backward()).expect("tracked"));
        let expected = match value {
            Asked::Entropy => [2f64.ln(), f64::NAN, f64::NAN, f64::NAN, 0.0, 0.0],
            _ => [2f64.ln(), f64::NAN, f64::NAN, f64::NAN, 1000.0, 3.0],
        };
        for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
            let is_same = (found - expected).abs() < 1e-6 || found.is_nan() && expected.is_nan();
            assert!(is_same, "{value:?} of row {row}: {found} for {expected}");
        }
        let expected: [f64; 9] = match value {
            Asked::Entropy => [0.0; 9],
            _ => [0.5, 0.5, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        };
        let found = [&gradient[..3], &gradient[12..]].concat();
        assert_numbers("gradient", &found, &expected, 1e-6);
    }
    let loss = CrossEntropyLossConfig::new().init(device);
    let nothing = Tensor::<2>::zeros([0, 3], device);
    assert_eq!(loss.entropy(nothing.clone()).dims(), [0]);
    assert_eq!(loss.lse(nothing).dims(), [0]);
}

fn probabilities_are_refused(device: &Device) {
    let loss = CrossEntropyLossConfig::new()
        .with_logits(false)
        .init(device);
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        loss.entropy(f32_tensor(&[0.5; 4], [2, 2], device))
    }));
    let message = refused.expect_err("probabilities have no log-sum-exp");
    let message = message.downcast_ref::<String>().expect("it is a text");
    assert!(message.contains("`logits` is false"), "{message}");
}

tests_on! {
    every_backend: [
        values_and_gradients_are_those_of_the_definition,
        projections_agree,
        the_edges_are_defined,
        values_are_those_of_the_outputs,
    ],
    host: [every_dtype_agrees, the_portable_path_agrees],
    cubecl: [every_dtype_agrees],
    one_of_each_kind: [
        options_of_the_loss_do_not_apply,
        probabilities_are_refused,
    ],
}
