//! Label smoothing over the other classes, and over the classes that are not masked.

use burn::tensor::{DType, Device, Tensor};
use burn_cross_entropy::{
    CrossEntropyError, CrossEntropyLossConfig, RowFactor, SmoothingOver, VocabularyShard,
};

use crate::common::backends::{is_host, tests_on};
use crate::common::problem::{Problem, Targets};
use crate::common::run::{self, Form, f32_tensor, labels, numbers};
use crate::common::values::rounded;
use crate::linear::projected::{self, Projected};
use crate::shards;

const MASKED: f64 = f64::NEG_INFINITY;

/// Masks about a third of the classes of every row, differently in each, but none with a share of the target.
fn masked(mut problem: Problem, by: f64) -> Problem {
    for row in 0..problem.rows() {
        for class in 0..problem.classes() {
            let at = problem.at(row, class);
            let is_target = match &mut problem.targets {
                Targets::Indices(indices) => indices[row] == class as i64,
                Targets::Distributions(_) => false,
            };
            if (row * 7 + class * 5) % 3 == 0 && !is_target {
                problem.logits[at] = by;
                if let Targets::Distributions(shares) = &mut problem.targets {
                    shares[at] = 0.0;
                }
            }
        }
    }
    problem
}

fn smoothed(problem: Problem, over: SmoothingOver) -> Problem {
    problem.with_config(|config| config.with_label_smoothing(0.3).with_smoothing_over(over))
}

fn over_valid(problem: Problem) -> Problem {
    smoothed(masked(problem, MASKED), SmoothingOver::ValidClasses)
}

/// Sizes of rows with their classes together and apart, and rows of one unit and of several.
fn shapes(device: &Device) -> &'static [&'static [usize]] {
    match is_host(device) {
        true => &[
            &[23, 71],
            &[9, 130],
            &[67, 5],
            &[2, 7, 70],
            &[3, 4, 3],
            &[4, 2],
        ],
        false => &[&[23, 71], &[67, 5], &[2, 7, 70]],
    }
}

fn valid_classes_agree(device: &Device) {
    for (at, shape) in shapes(device).iter().enumerate() {
        for soft in [false, true] {
            let of = || over_valid(Problem::random(shape, 1, soft, at as u64));
            run::assert_agrees(&of(), Form::default(), device);
            run::assert_agrees(&of().unreduced(), Form::default(), device);
            let options = |problem: Problem| {
                let problem = problem.with_every_option().with_row_weights();
                problem.with_config(|config| config.with_label_smoothing(0.2))
            };
            run::assert_agrees(&options(of()), Form::default(), device);
            run::assert_agrees(&options(of()).unreduced(), Form::default(), device);
        }
    }
}

fn valid_probabilities_agree(device: &Device) {
    for (at, shape) in shapes(device).iter().enumerate() {
        for soft in [false, true] {
            let mut problem = Problem::random(shape, 1, soft, at as u64).with_weights();
            for logit in &mut problem.logits {
                *logit = f64::from((*logit / 12.0 + 0.5) as f32).max(0.01);
            }
            let problem = masked(problem, 0.0).with_config(|config| config.with_logits(false));
            let problem = smoothed(problem, SmoothingOver::ValidClasses);
            run::assert_agrees(&problem, Form::default(), device);
            run::assert_agrees(&problem.unreduced(), Form::default(), device);
        }
    }
}

fn row_factors_agree(device: &Device) {
    for factor in [
        RowFactor::Focal { gamma: 2.0 },
        RowFactor::Poly { epsilon: 2.0 },
        RowFactor::TargetProbability,
    ] {
        for over in [SmoothingOver::OtherClasses, SmoothingOver::ValidClasses] {
            let problem = Problem::random(&[23, 71], 1, false, 4).with_weights();
            let problem = match over {
                SmoothingOver::ValidClasses => over_valid(problem),
                over => smoothed(problem, over),
            };
            let problem = problem.with_config(|config| config.with_row_factor(factor));
            run::assert_agrees(&problem.unreduced(), Form::default(), device);
        }
    }
}

/// Rows whose target is masked, whose every class is, and of which one class is left.
fn hard_rows_agree(device: &Device) {
    for classes in [3, 70] {
        for (smoothing, soft) in [(0.3, false), (1.0, false), (0.3, true)] {
            let mut problem = over_valid(Problem::random(&[5, classes], 1, soft, 9)).unreduced();
            for row in 0..4 {
                for class in 0..classes {
                    let is_target = match &problem.targets {
                        Targets::Indices(indices) => indices[row] == class as i64,
                        Targets::Distributions(_) => class == 1,
                    };
                    let at = problem.at(row, class);
                    let logit = class as f64 / 16.0 - 1.0;
                    problem.logits[at] = match (row, is_target) {
                        (0, true) | (1, _) | (2, false) => MASKED,
                        (3, _) if class > 1 => MASKED,
                        _ => logit,
                    };
                }
            }
            let problem = problem.with_config(|config| config.with_label_smoothing(smoothing));
            run::assert_agrees(&problem, Form::default(), device);
        }
    }
}

fn half_precision_agrees(device: &Device) {
    for float in [DType::F16, DType::BF16] {
        if !device.supports_dtype(float) {
            continue;
        }
        for shape in [[9, 130], [67, 5]] {
            let mut problem = over_valid(Problem::random(&shape, 1, false, 8)).unreduced();
            let round = |value: &mut f64| *value = rounded(*value, float);
            problem.logits.iter_mut().for_each(round);
            for owned in [true, false] {
                let form = Form {
                    float,
                    owned,
                    ..Form::default()
                };
                run::assert_agrees(&problem, form, device);
            }
        }
    }
}

/// A bias of minus infinity masks a class in every row: here every fourth one, of which none is a target.
fn projections_agree(device: &Device) {
    let mut projected = Projected::random([22, 11, 37], false, 3);
    let bias = projected.bias.as_mut().expect("there is a bias");
    bias.iter_mut().step_by(4).for_each(|bias| *bias = MASKED);
    if let Targets::Indices(indices) = &mut projected.problem.targets {
        let beside = |class: &mut i64| *class = (*class - *class % 4 + 1).min(35);
        indices.iter_mut().for_each(beside);
    }
    projected.project();
    let projected =
        projected.with(|problem| smoothed(problem, SmoothingOver::ValidClasses).unreduced());
    for chunk in projected::chunks(device) {
        projected.assert_agrees(projected::Form::chunked(chunk), device);
    }
}

fn shards_agree_with_the_whole(device: &Device) {
    let others = smoothed(shards::problem(13, 0), SmoothingOver::OtherClasses);
    shards::assert_agrees(&others.with_weights(), device);
    shards::assert_agrees(&over_valid(shards::problem(13, 1)), device);
    let valid = || over_valid(shards::problem(13, 2)).with_weights();
    let options = |config: CrossEntropyLossConfig| config.with_z_loss(0.02).with_logit_scale(0.7);
    shards::assert_agrees(&valid().with_config(options), device);
    let factor =
        |config: CrossEntropyLossConfig| config.with_row_factor(RowFactor::Focal { gamma: 2.0 });
    shards::assert_agrees(&valid().with_config(factor), device);
}

fn other_classes_agree(device: &Device) {
    for (at, shape) in shapes(device).iter().enumerate() {
        for soft in [false, true] {
            let of = || Problem::random(shape, 1, soft, at as u64);
            let problem = smoothed(of(), SmoothingOver::OtherClasses);
            run::assert_agrees(&problem, Form::default(), device);
            let problem = of().with_every_option().with_row_weights().unreduced();
            let problem = smoothed(problem, SmoothingOver::OtherClasses);
            run::assert_agrees(&problem, Form::default(), device);
            let classes = shape[1] as f64;
            let problem = problem.with_config(|config| {
                // The largest possible: no class has more than any other.
                config.with_label_smoothing((classes - 1.0) / classes)
            });
            run::assert_agrees(&problem, Form::default(), device);
        }
    }
}

fn of_row(config: CrossEntropyLossConfig, logits: &[f32], target: i64, device: &Device) -> f64 {
    let logits = f32_tensor(logits, [1, logits.len()], device);
    numbers(
        config
            .init(device)
            .forward(logits, labels(&[target], device)),
    )[0]
}

fn known_numbers_come_out(device: &Device) {
    let config = |over| {
        let config = CrossEntropyLossConfig::new().with_label_smoothing(0.3);
        config.with_smoothing_over(over)
    };
    let masked = [0.0, 0.0, f32::NEG_INFINITY];
    let of = |over, logits: &[f32], target| of_row(config(over), logits, target, device);
    assert_eq!(of(SmoothingOver::Classes, &masked, 0), f64::INFINITY);
    assert_eq!(of(SmoothingOver::ValidClasses, &masked, 2), f64::INFINITY);
    assert!(of(SmoothingOver::ValidClasses, &[f32::NEG_INFINITY; 3], 0).is_nan());
    let close = |found: f64, expected: f64| {
        assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
    };
    close(of(SmoothingOver::ValidClasses, &masked, 0), 2f64.ln());
    let valid = of(
        SmoothingOver::ValidClasses,
        &[2.0, 0.0, f32::NEG_INFINITY],
        0,
    );
    close(valid, (1.0 + (-2f64).exp()).ln() + 0.15 * 2.0);
    // The formula of Megatron-LM: `(1 - s) loss - s mean(log p)` with `s = e C / (C - 1)`.
    let logits = [2.0, 0.0, 1.0, -1.0];
    let lse = logits.iter().map(|x| f64::exp(*x)).sum::<f64>().ln();
    let s = 0.3 * 4.0 / 3.0;
    let mean = logits.iter().map(|x| x - lse).sum::<f64>() / 4.0;
    let megatron = (1.0 - s) * (lse - 2.0) - s * mean;
    close(
        of(SmoothingOver::OtherClasses, &[2.0, 0.0, 1.0, -1.0], 0),
        megatron,
    );
    assert_eq!(of(SmoothingOver::OtherClasses, &[2.0], 0), 0.0);
}

/// Log-probabilities and outputs are those of the loss without smoothing.
fn outputs_have_no_smoothing(device: &Device) {
    let logits = || {
        f32_tensor(
            &[0.5, f32::NEG_INFINITY, 2.0, 0.0, 0.25, 1.0],
            [2, 3],
            device,
        )
    };
    let config = CrossEntropyLossConfig::new();
    let plain = config.init(device);
    let loss = config
        .with_label_smoothing(0.3)
        .with_smoothing_over(SmoothingOver::ValidClasses)
        .init(device);
    let indices = || labels(&[2, 1], device);
    let shares = || f32_tensor(&[0.25, 0.0, 0.75, 0.5, 0.25, 0.25], [2, 3], device);
    let lines = |output: burn_cross_entropy::CrossEntropyOutput<1>| {
        [output.lse, output.log_prob].map(|line: Tensor<1>| numbers(line))
    };
    assert_eq!(
        lines(loss.forward_with_output(logits(), indices())),
        lines(plain.forward_with_output(logits(), indices()))
    );
    assert_eq!(
        lines(loss.forward_with_output(logits(), shares())),
        lines(plain.forward_with_output(logits(), shares()))
    );
    let log_prob = numbers(loss.log_prob(logits(), indices()));
    assert_eq!(log_prob, numbers(plain.log_prob(logits(), indices())));
}

/// With more smoothing, the target would have less than every other class.
fn too_much_over_the_others_is_refused(device: &Device) {
    let loss = CrossEntropyLossConfig::new()
        .with_label_smoothing(0.7)
        .with_smoothing_over(SmoothingOver::OtherClasses)
        .init(device);
    let logits = |classes: usize| Tensor::<2>::zeros([2, classes], device);
    let targets = || labels(&[0, 1], device);
    assert!(loss.try_forward(logits(4), targets()).is_ok());
    let error = loss
        .try_forward(logits(3), targets())
        .expect_err("2/3 is the most");
    assert!(matches!(
        error,
        CrossEntropyError::SmoothingOverOthers { classes: 3, .. }
    ));
    let text = error.to_string();
    assert!(text.contains("0.7") && text.contains("0.666667"), "{text}");
    let shard = VocabularyShard::new(0..2, 3);
    let refusal = run::refusal(|| loss.shard_statistics(logits(2), targets(), &shard));
    assert_eq!(refusal, text);
}

tests_on! {
    every_backend: [
        valid_classes_agree,
        valid_probabilities_agree,
        row_factors_agree,
        hard_rows_agree,
        projections_agree,
        shards_agree_with_the_whole,
        other_classes_agree,
        known_numbers_come_out,
        outputs_have_no_smoothing,
        too_much_over_the_others_is_refused,
    ],
    half: [half_precision_agrees],
}
