//! Targets with a weight per row: every kind of target, of logits and of projection, under every reduction.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device};
use burn_cross_entropy::{
    CrossEntropyError, CrossEntropyLoss, CrossEntropyLossConfig, TargetTensor, cross_entropy,
};

use crate::common::backends::{computes_f64, is_host, tests_on};
use crate::common::problem::Problem;
use crate::common::run::{self, Form, Layout, f32_tensor, labels, numbers};
use crate::linear::projected::{self, Projected};
use crate::shards;

const REDUCTIONS: [Reduction; 3] = [Reduction::Mean, Reduction::Sum, Reduction::BatchMean];

/// Rows whose classes lie together, few classes, and classes with positions behind them.
const SHAPES: [&[usize]; 4] = [&[23, 71], &[67, 5], &[2, 7, 70], &[3, 4, 3]];

fn every_reduction_agrees(device: &Device) {
    let shapes = if is_host(device) {
        &SHAPES[..]
    } else {
        &SHAPES[..3]
    };
    for (at, shape) in shapes.iter().enumerate() {
        for soft in [false, true] {
            let problem = Problem::random(shape, 1, soft, at as u64).with_row_weights();
            for reduction in REDUCTIONS {
                let problem = problem.clone();
                let problem = problem.with_config(|config| config.with_reduction(reduction));
                run::assert_agrees(&problem, Form::default(), device);
            }
            run::assert_agrees(&problem.clone().unreduced(), Form::default(), device);
            let problem = problem.with_every_option();
            run::assert_agrees(&problem, Form::default(), device);
            run::assert_agrees(&problem.unreduced(), Form::default(), device);
        }
    }
}

/// Targets whose weights pull some rows up and push others down, as in a policy gradient.
fn weights_may_be_negative(device: &Device) {
    for shape in [&[23, 71], &[67, 5]] {
        let mut problem = Problem::random(shape, 1, false, 3)
            .with_config(|config| config.with_reduction(Reduction::Sum).with_z_loss(0.1));
        let weight = |row: usize| (row % 5) as f64 * 0.75 - 1.5;
        problem.row_weights = Some((0..problem.rows()).map(weight).collect());
        run::assert_agrees(&problem, Form::default(), device);
        run::assert_agrees(&problem.unreduced(), Form::default(), device);
    }
}

fn views_and_unsqueezed_indices_agree(device: &Device) {
    let problem = Problem::random(&[3, 7, 33], 1, false, 5).with_row_weights();
    for layout in Layout::VIEWS {
        let form = Form {
            layout,
            target_layout: layout,
            unsqueezed: true,
            owned: true,
            ..Form::default()
        };
        run::assert_agrees(&problem, form, device);
    }
}

fn other_dtypes_agree(device: &Device) {
    for float in [DType::F64, DType::F16, DType::BF16] {
        if !device.supports_dtype(float) || (float == DType::F64 && !computes_f64(device)) {
            continue;
        }
        let form = Form {
            float,
            owned: true,
            ..Form::default()
        };
        for soft in [false, true] {
            let mut problem = Problem::random(&[9, 130], 1, soft, 8).with_row_weights();
            problem.tracked_targets = false;
            let rounded = |value: &mut f64| *value = crate::common::values::rounded(*value, float);
            problem.logits.iter_mut().for_each(rounded);
            if let crate::common::problem::Targets::Distributions(shares) = &mut problem.targets {
                shares.iter_mut().for_each(rounded);
            }
            run::assert_agrees(&problem, form, device);
            run::assert_agrees(&problem.unreduced(), form, device);
        }
    }
}

fn projections_agree(device: &Device) {
    for chunk in projected::chunks(device) {
        for soft in [false, true] {
            let of = || Projected::random([22, 11, 37], soft, 3).with(Problem::with_row_weights);
            for projected in [
                of(),
                of().with(Problem::unreduced),
                of().with(crate::linear::options::every_option),
                of().with(|mut problem| {
                    problem.tracked_targets = false;
                    problem
                }),
            ] {
                projected.assert_agrees(projected::Form::chunked(chunk), device);
            }
        }
    }
}

fn shards_agree_with_the_whole(device: &Device) {
    let problem = shards::problem(13, 2)
        .with_row_weights()
        .with_config(|config| config.with_z_loss(0.1).with_label_smoothing(0.1));
    shards::assert_agrees(&problem, device);
}

fn a_row_of_weight_0_has_no_part_whatever_it_holds(device: &Device) {
    let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let logits = f32_tensor(&[&[1.0, 2.0, 3.0][..], &bad].concat(), [2, 3], device).require_grad();
    let mask = || f32_tensor(&[0.5, 0.0], [2], device);
    let shares = f32_tensor(&[0.2, 0.3, 0.5, 1.0, f32::NAN, 0.0], [2, 3], device).require_grad();
    let loss = CrossEntropyLossConfig::new().with_z_loss(0.1).init(device);
    // The target of the second row is neither a class nor ignored.
    let indices = labels(&[2, 77], device).weighted(mask());
    loss.check(&logits, &indices)
        .expect("the bad target weighs nothing");
    let by_index = loss.forward(logits.clone(), indices.clone());
    let gradient = numbers(logits.grad(&by_index.backward()).expect("it is tracked"));
    assert_eq!(gradient[3..], [0.0; 3], "{gradient:?}");
    assert!(
        gradient[..3]
            .iter()
            .all(|slope| slope.is_finite() && *slope != 0.0)
    );
    let alone = loss.forward(
        f32_tensor(&[1.0, 2.0, 3.0], [1, 3], device),
        labels(&[2], device),
    );
    let (found, alone) = (numbers(by_index)[0], numbers(alone)[0]);
    assert!((found - alone).abs() < 1e-6, "{found} for {alone}");
    assert_eq!(numbers(loss.total_weight(indices.clone())), [0.5]);
    let output = loss.forward_with_output(logits.clone(), indices);
    assert_eq!(numbers(output.target_rank.float())[1], -1.0);
    assert_eq!(numbers(output.log_prob)[1], 0.0);

    let value = loss.forward(logits.clone(), shares.clone().weighted(mask()));
    assert!(numbers(value.clone())[0].is_finite());
    let gradients = value.backward();
    for leaf in [&logits, &shares] {
        let gradient = numbers(leaf.grad(&gradients).expect("it is tracked"));
        assert_eq!(gradient[3..], [0.0; 3], "{gradient:?}");
        assert!(gradient[..3].iter().all(|slope| slope.is_finite()));
    }
}

/// Half of a batch of distributions is padding.
fn a_mask_ignores_rows_of_distributions(device: &Device) {
    let logits = f32_tensor(&[0.0, 0.0, 9.0, 9.0], [2, 2], device);
    let shares = f32_tensor(&[1.0, 0.0, 0.0, 0.0], [2, 2], device);
    let mask = f32_tensor(&[1.0, 0.0], [2], device);
    let loss = cross_entropy(logits, shares.weighted(mask));
    assert!((numbers(loss)[0] - 2f64.ln()).abs() < 1e-6);
}

fn nothing_is_counted_where_all_weights_are_0(device: &Device) {
    let logits = f32_tensor(&[0.0; 6], [2, 3], device).require_grad();
    let loss = CrossEntropyLossConfig::new().init(device);
    let target = labels(&[0, 1], device).weighted(f32_tensor(&[0.0, 0.0], [2], device));
    let value = loss.forward(logits.clone(), target);
    assert!(numbers(value.clone())[0].is_nan());
    let gradient = numbers(logits.grad(&value.backward()).expect("it is tracked"));
    assert_eq!(gradient, [0.0; 6]);
}

fn weights_of_weights_are_multiplied(device: &Device) {
    let loss: CrossEntropyLoss = CrossEntropyLossConfig::new()
        .with_weight(Some(vec![1.0, 4.0]))
        .init(device);
    let weights = || f32_tensor(&[1.0, 2.0, 3.0], [3], device);
    let target = labels(&[0, 1, 0], device)
        .weighted(weights())
        .weighted(weights());
    assert_eq!(numbers(loss.total_weight(target.clone())), [26.0]);
    assert_eq!(numbers(loss.normalizer(target).counted_rows()), [14.0]);
    let shares = f32_tensor(&[0.5; 6], [3, 2], device).weighted(weights());
    assert_eq!(numbers(loss.total_weight(shares)), [6.0]);
}

fn weights_that_do_not_fit_are_refused(device: &Device) {
    let loss: CrossEntropyLoss = CrossEntropyLossConfig::new().init(device);
    let logits = || f32_tensor(&[0.0; 6], [2, 3], device);
    let target = labels(&[0, 1], device).weighted(f32_tensor(&[1.0; 3], [3], device));
    let error = loss
        .try_forward(logits(), target)
        .expect_err("three weights for two rows");
    assert_eq!(
        error.to_string(),
        "cross-entropy: the row weights have shape [3], but there is one row for each element of [2]"
    );
    let ignoring: CrossEntropyLoss = CrossEntropyLossConfig::new()
        .with_ignore_indices(vec![255])
        .init(device);
    let error = ignoring
        .try_forward(logits(), f32_tensor(&[0.5; 6], [2, 3], device))
        .expect_err("there is no index to ignore");
    assert!(matches!(
        error,
        CrossEntropyError::IgnoredDistributions { .. }
    ));
    assert!(
        error.to_string().contains("weight of 0 with `weighted`"),
        "{error}"
    );
}

tests_on! {
    every_backend: [
        every_reduction_agrees,
        weights_may_be_negative,
        views_and_unsqueezed_indices_agree,
        projections_agree,
        shards_agree_with_the_whole,
        a_row_of_weight_0_has_no_part_whatever_it_holds,
        a_mask_ignores_rows_of_distributions,
        nothing_is_counted_where_all_weights_are_0,
        weights_of_weights_are_multiplied,
        weights_that_do_not_fit_are_refused,
    ],
    half: [other_dtypes_agree],
}
