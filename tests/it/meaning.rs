//! The parts of the definition that the fixtures do not cover: edge cases, the total weight, gradients that
//! must not leak, results that must depend on nothing but the input.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{CrossEntropyLossConfig, EmptyReduction, cross_entropy};

use crate::common::backends::{is_host, tests_on};
use crate::common::problem::Problem;
use crate::common::run::{self, f32_tensor, labels, numbers};
use crate::common::{oracle, tolerance};

fn logits_of<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    f32_tensor(values, shape, device).require_grad()
}

/// The relative error that a confident row may have. Shaders may take `3 + 2 |x|` units in the last
/// place for `exp(x)` (WGSL, "Accuracy of concrete floating point expressions"): 5e-6 at 20.
fn confident(device: &Device) -> f64 {
    if is_host(device) { 2e-6 } else { 1e-5 }
}

fn confident_rows_keep_their_relative_accuracy(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = logits_of(&[20.0, 0.0, 0.0], [1, 3], device);
    let value = loss.forward(logits.clone(), labels(&[0], device));
    let exact = (2.0 * (-20f64).exp()).ln_1p();
    let found = numbers(value.clone())[0];
    assert!((found / exact - 1.0).abs() < confident(device), "{found:e}");

    let gradient = numbers(logits.grad(&value.backward()).unwrap());
    let others = gradient[1] + gradient[2];
    assert!(others > 4e-9, "{gradient:?}");
    assert!((gradient[0] / -others - 1.0).abs() < 1e-6, "{gradient:?}");
}

fn an_ignored_row_adds_nothing_whatever_it_holds(device: &Device) {
    let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::BatchMean] {
        let loss = CrossEntropyLossConfig::new()
            .with_reduction(reduction)
            .with_label_smoothing(0.1)
            .with_z_loss(0.1)
            .init(device);
        let alone = loss.forward(
            logits_of(&[1.0, 2.0, 3.0, 0.0, 0.0, 0.0], [2, 3], device),
            labels(&[2, -100], device),
        );
        let logits = logits_of(&[1.0, 2.0, 3.0, bad[0], bad[1], bad[2]], [2, 3], device);
        let beside = loss.forward(logits.clone(), labels(&[2, -100], device));
        assert_eq!(numbers(alone), numbers(beside.clone()));
        let gradient = numbers(logits.grad(&beside.backward()).unwrap());
        assert_eq!(gradient[3..], [0.0; 3]);
        assert!(
            gradient[..3]
                .iter()
                .all(|entry| entry.is_finite() && *entry != 0.0)
        );
    }
}

fn a_class_at_minus_infinity_without_a_share_adds_nothing(device: &Device) {
    let masked = f32::NEG_INFINITY;
    let logits = || logits_of(&[1.0, masked, 2.0], [1, 3], device);
    let two = logits_of(&[1.0, 2.0], [1, 2], device);
    let loss = CrossEntropyLossConfig::new().init(device);
    let expected = numbers(loss.forward(two, labels(&[1], device)));

    let by_index = logits();
    let value = loss.forward(by_index.clone(), labels(&[2], device));
    tolerance::assert_losses(
        "index",
        &numbers(value.clone()),
        &expected,
        tolerance::of(DType::F32),
    );
    let gradient = numbers(by_index.grad(&value.backward()).unwrap());
    assert_eq!(gradient[1], 0.0);

    let by_share = logits();
    let shares = Tensor::<2>::from_floats([[0.0, 0.0, 1.0]], device);
    let value = loss.forward(by_share.clone(), shares);
    tolerance::assert_losses(
        "soft",
        &numbers(value.clone()),
        &expected,
        tolerance::of(DType::F32),
    );
    let gradient = numbers(by_share.grad(&value.backward()).unwrap());
    assert_eq!(gradient[1], 0.0);

    // A weight of 0 gives the class no share of the smoothing either.
    let weighted = CrossEntropyLossConfig::new()
        .with_weight(Some(vec![1.0, 0.0, 1.0]))
        .with_label_smoothing(0.1)
        .init(device);
    let value = numbers(weighted.forward(logits(), labels(&[2], device)));
    assert!(value[0].is_finite(), "{value:?}");
}

fn a_target_on_minus_infinity_is_infinitely_wrong(device: &Device) {
    let logits = logits_of(&[1.0, f32::NEG_INFINITY, 2.0], [1, 3], device);
    let loss = CrossEntropyLossConfig::new().init(device);
    let value = numbers(loss.forward(logits, labels(&[1], device)));
    assert_eq!(value, [f64::INFINITY]);
}

fn rows_without_a_distribution_are_nan_and_keep_it_to_themselves(device: &Device) {
    let (nan, up, down) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    let rows = [
        nan, 1.0, 2.0, //
        up, 1.0, 2.0, //
        down, down, down, //
        0.0, 1.0, 2.0,
    ];
    let logits = logits_of(&rows, [4, 3], device);
    let loss = CrossEntropyLossConfig::new().init(device);
    let value = loss.forward_no_reduction(logits.clone(), labels(&[1, 1, 1, 1], device));
    let found = numbers(value.clone());
    assert!(found[..3].iter().all(|row| row.is_nan()), "{found:?}");
    assert!(found[3].is_finite(), "{found:?}");
    let gradient = numbers(logits.grad(&value.sum().backward()).unwrap());
    for row in 0..3 {
        assert!(
            gradient[3 * row..3 * row + 3]
                .iter()
                .any(|entry| entry.is_nan()),
            "row {row}: {gradient:?}"
        );
    }
    assert!(
        gradient[9..].iter().all(|entry| entry.is_finite()),
        "{gradient:?}"
    );
}

fn a_mean_over_nothing_is_what_empty_says(device: &Device) {
    for (empty, nothing) in [(EmptyReduction::Nan, f64::NAN), (EmptyReduction::Zero, 0.0)] {
        for weight in [None, Some(vec![1.0, 0.0, 1.0])] {
            // All rows are ignored, or all counted rows have a weight of 0.
            let target = if weight.is_none() { -100 } else { 1 };
            let loss = CrossEntropyLossConfig::new()
                .with_empty(empty)
                .with_weight(weight)
                .init(device);
            let logits = logits_of(&[0.5, 1.0, 2.0, 1.0, 0.0, 0.0], [2, 3], device);
            let value = loss.forward(logits.clone(), labels(&[target; 2], device));
            let found = numbers(value.clone())[0];
            assert_eq!(found.is_nan(), nothing.is_nan());
            assert!(found.is_nan() || found == nothing);
            let gradient = numbers(logits.grad(&value.backward()).unwrap());
            assert_eq!(gradient, [0.0; 6]);
        }
    }
}

fn no_rows_are_an_empty_mean_and_a_sum_of_zero(device: &Device) {
    let value = |reduction, empty| {
        let loss = CrossEntropyLossConfig::new()
            .with_reduction(reduction)
            .with_empty(empty)
            .init(device);
        let logits = Tensor::<2>::zeros([0, 3], device).require_grad();
        let value = loss.forward(logits.clone(), Tensor::<1, Int>::zeros([0], device));
        let found = numbers(value.clone())[0];
        let gradient = logits.grad(&value.backward()).unwrap();
        assert_eq!(gradient.dims(), [0, 3]);
        found
    };
    assert_eq!(value(Reduction::Sum, EmptyReduction::Nan), 0.0);
    assert_eq!(value(Reduction::Mean, EmptyReduction::Zero), 0.0);
    assert_eq!(value(Reduction::BatchMean, EmptyReduction::Zero), 0.0);
    assert!(value(Reduction::Mean, EmptyReduction::Nan).is_nan());
    assert!(value(Reduction::BatchMean, EmptyReduction::Nan).is_nan());

    // The batch has samples, but the samples are empty.
    let loss = CrossEntropyLossConfig::new()
        .with_reduction(Reduction::BatchMean)
        .init(device);
    let logits = Tensor::<3>::zeros([2, 3, 0], device);
    let value = loss.forward(logits.clone(), Tensor::<2, Int>::zeros([2, 0], device));
    assert_eq!(numbers(value), [0.0]);

    let rows = loss.forward_no_reduction(logits, Tensor::<2, Int>::zeros([2, 0], device));
    assert_eq!(rows.dims(), [2, 0]);
}

fn one_class_has_no_loss_and_no_gradient(device: &Device) {
    let loss = CrossEntropyLossConfig::new()
        .with_label_smoothing(0.3)
        .init(device);
    let logits = logits_of(&[3.0, -7.0], [2, 1], device);
    let value = loss.forward(logits.clone(), labels(&[0, 0], device));
    assert_eq!(numbers(value.clone()), [0.0]);
    assert_eq!(numbers(logits.grad(&value.backward()).unwrap()), [0.0, 0.0]);
}

/// Bad targets on the host are an error, which `errors` tests.
#[cfg_attr(
    not(any(feature = "cpu", feature = "wgpu", feature = "cuda")),
    allow(dead_code)
)]
fn a_bad_target_on_a_device_is_nan_in_its_row_alone(device: &Device) {
    for bad in [3, -1, 255, 1 << 20] {
        let logits = logits_of(&[1.0, 2.0, 3.0, 1.0, 2.0, 3.0], [2, 3], device);
        let loss = CrossEntropyLossConfig::new()
            .with_weight(Some(vec![1.0, 2.0, 3.0]))
            .init(device);
        let value = loss.forward_no_reduction(logits.clone(), labels(&[bad, 1], device));
        let found = numbers(value.clone());
        assert!(found[0].is_nan() && found[1].is_finite(), "{found:?}");
        let gradient = numbers(logits.grad(&value.sum().backward()).unwrap());
        assert!(
            gradient[..3].iter().all(|entry| entry.is_nan()),
            "{gradient:?}"
        );
        assert!(
            gradient[3..].iter().all(|entry| entry.is_finite()),
            "{gradient:?}"
        );

        let mean = loss.forward(logits.clone(), labels(&[bad, 1], device));
        assert!(numbers(mean)[0].is_nan());

        // The mean is NaN even where no other row counts and `empty` asks for 0.
        let zero = CrossEntropyLossConfig::new()
            .with_empty(EmptyReduction::Zero)
            .init(device);
        let mean = zero.forward(logits, labels(&[bad, -100], device));
        assert!(numbers(mean)[0].is_nan());
    }
}

/// Indices of 64 bits that are not classes are an error on the host, which `errors` tests.
#[cfg_attr(
    not(any(feature = "cpu", feature = "wgpu", feature = "cuda")),
    allow(dead_code)
)]
fn indices_of_64_bits_are_not_cut_to_32(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = || logits_of(&[1.0, 2.0, 3.0], [1, 3], device);
    let value = |targets: TensorData, dtype| {
        let targets = Tensor::<1, Int>::from_data(targets, (device, dtype));
        numbers(loss.forward_no_reduction(logits(), targets))[0]
    };
    // This index would be class 1 if it were cut to 32 bits.
    assert!(value(TensorData::from([1i64 + (1 << 32)]), DType::I64).is_nan());
    // This index would be the ignored -100 if it were read as signed.
    assert!(value(TensorData::from([u64::MAX - 99]), DType::U64).is_nan());
    assert!(value(TensorData::from([u32::MAX - 99]), DType::U32).is_nan());
    assert!(value(TensorData::from([2u32]), DType::U32).is_finite());
}

fn many_equal_rows_sum_to_their_number(device: &Device) {
    // The rows are the pixels of an image of 512 x 512, and three more: added one after the other in f32 they
    // would lose the fourth digit.
    let rows = 512 * 512 + 3;
    let logits = Tensor::<2>::zeros([rows, 3], device);
    let targets = Tensor::<1, Int>::zeros([rows], device);
    let config = CrossEntropyLossConfig::new().with_weight(Some(vec![0.1, 1.0, 1.0]));
    let sum = config.clone().with_reduction(Reduction::Sum).init(device);
    let exact = rows as f64 * f64::from(0.1f32) * 3f64.ln();
    let found = numbers(sum.forward(logits.clone(), targets.clone()))[0];
    assert!((found / exact - 1.0).abs() < 2e-6, "{found} {exact}");
    let mean = config.init(device);
    let found = numbers(mean.forward(logits, targets.clone()))[0];
    assert!((found / 3f64.ln() - 1.0).abs() < 2e-6, "{found}");
    let total = numbers(mean.total_weight(targets))[0];
    assert!(
        (total / (rows as f64 * f64::from(0.1f32)) - 1.0).abs() < 2e-6,
        "{total}"
    );
}

fn many_equal_classes_sum_to_their_number(device: &Device) {
    for shape in [vec![1, 50_257], vec![1, 50_257, 3]] {
        let mut problem = Problem::random(&shape, 1, false, 6).unreduced();
        problem.logits.fill(0.0);
        for row in 0..problem.rows() {
            let at = problem.at(row, 0);
            problem.logits[at] = 1.0;
        }
        let found = run::solve(&problem, device);
        let expected = oracle::solve(&problem);
        tolerance::assert_close("equal", &problem, &found, &expected, DType::F32);
    }
}

fn a_bent_logit_keeps_the_digits_of_its_slope(device: &Device) {
    for bent in [1.0, 3.0, 5.0, 7.0, 8.0, 9.5] {
        let mut problem = Problem::random(&[1, 2], 1, false, 0)
            .with_config(|config| config.with_logit_softcap(Some(8.0)));
        problem.logits = vec![8.0 * bent, 8.0];
        let found = run::solve(&problem, device).logits_gradient;
        let expected = oracle::solve(&problem).logits_gradient;
        for (found, expected) in found.iter().zip(expected) {
            let ratio = found / expected;
            assert!(
                (ratio - 1.0).abs() < 1e-5,
                "at {bent}: {found:e} {expected:e}"
            );
        }
    }
}

fn a_row_that_is_not_a_number_shows_even_without_a_share(device: &Device) {
    let loss = CrossEntropyLossConfig::new()
        .with_weight(Some(vec![1.0, 0.0, 1.0]))
        .init(device);
    let logits = logits_of(&[f32::NAN, 1.0, 2.0], [1, 3], device);
    let value = loss.forward_no_reduction(logits.clone(), labels(&[1], device));
    assert!(numbers(value)[0].is_nan());
}

fn the_total_weight_is_the_denominator_of_the_mean(device: &Device) {
    let targets = [2, 1, -100, 0, 2];
    let total = |config: CrossEntropyLossConfig| {
        let loss = config.init(device);
        numbers(loss.total_weight(labels(&targets, device)))
    };
    assert_eq!(total(CrossEntropyLossConfig::new()), [4.0]);
    let weighted = CrossEntropyLossConfig::new().with_weight(Some(vec![1.0, 0.5, 4.0]));
    assert_eq!(total(weighted.clone()), [9.5]);

    let loss = weighted.clone().init(device);
    let soft = Tensor::<3>::ones([2, 3, 5], device);
    assert_eq!(numbers(loss.total_weight(soft)), [10.0]);

    let logits = || logits_of(&[0.1; 15], [5, 3], device);
    let sum = weighted
        .with_reduction(Reduction::Sum)
        .init(device)
        .forward(logits(), labels(&targets, device));
    let mean = loss.forward(logits(), labels(&targets, device));
    let quotient = numbers(sum)[0] / 9.5;
    let mean = numbers(mean)[0];
    assert!((quotient / mean - 1.0).abs() < 1e-6, "{quotient} {mean}");
}

fn only_what_is_tracked_gets_a_gradient(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = || logits_of(&[1.0, 2.0, 0.5], [1, 3], device);
    let shares = || Tensor::<2>::from_floats([[0.2, 0.3, 0.5]], device);

    // Only the targets are tracked: their gradient is the surprisal of each class.
    let tracked = shares().require_grad();
    let constant = logits().detach().set_require_grad(false);
    let gradients = loss.forward(constant, tracked.clone()).backward();
    let gradient = numbers(tracked.grad(&gradients).unwrap());
    let sum: f64 = [1f64, 2.0, 0.5].map(f64::exp).iter().sum();
    for (entry, logit) in gradient.iter().zip([1.0, 2.0, 0.5]) {
        assert!((entry - (sum.ln() - logit)).abs() < 1e-6, "{gradient:?}");
    }

    // Only the logits are tracked.
    let (tracked, constant) = (logits(), shares());
    let gradients = loss.forward(tracked.clone(), constant.clone()).backward();
    assert!(tracked.grad(&gradients).is_some());
    assert!(constant.grad(&gradients).is_none());
}

fn without_autodiff_there_is_a_loss_and_nothing_else(device: &Device) {
    let plain = device.clone().without_autodiff();
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = || Tensor::<2>::from_floats([[1.0, 2.0, 0.5]], &plain);
    let value = loss.forward(logits(), labels(&[1], &plain));
    assert!(!value.is_autodiff());
    let expected = loss.forward(
        logits_of(&[1.0, 2.0, 0.5], [1, 3], device),
        labels(&[1], device),
    );
    assert_eq!(numbers(value), numbers(expected));
}

fn plain_logits_and_tracked_targets_mix(device: &Device) {
    let plain = device.clone().without_autodiff();
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = Tensor::<2>::from_floats([[1.0, 2.0, 0.5]], &plain);
    let shares = Tensor::<2>::from_floats([[0.2, 0.3, 0.5]], device).require_grad();
    let gradients = loss.forward(logits, shares.clone()).backward();
    assert!(shares.grad(&gradients).is_some());
    // Indices made on the plain device work with tracked logits too.
    let tracked = logits_of(&[1.0, 2.0, 0.5], [1, 3], device);
    let gradients = loss
        .forward(tracked.clone(), labels(&[1], &plain))
        .backward();
    assert!(tracked.grad(&gradients).is_some());
}

fn the_function_is_the_module_with_its_defaults(device: &Device) {
    let logits = || logits_of(&[1.0, 2.0, 0.5, 0.0, 1.0, 0.0], [2, 3], device);
    let targets = || labels(&[1, -100], device);
    let loss = CrossEntropyLossConfig::new().init(device);
    assert_eq!(
        numbers(cross_entropy(logits(), targets())),
        numbers(loss.forward(logits(), targets()))
    );
}

/// A class that is nearly the maximum ties with it once both are scaled.
fn a_gap_that_a_small_scale_takes_to_nothing_is_a_tie(device: &Device) {
    let config = CrossEntropyLossConfig::new().with_logit_scale(1e-30);
    let loss = config.init(device);
    for classes in [2, 70] {
        let mut values = vec![-1e35; classes];
        values[..2].copy_from_slice(&[0.0, 1e-20]);
        let logits = logits_of(&values, [1, classes], device);
        let value = loss.forward(logits, labels(&[0], device));
        let found = numbers(value)[0];
        assert!((found / 2f64.ln() - 1.0).abs() < 1e-5, "{found:e}");
    }
}

tests_on! {
    every_backend: [
        a_gap_that_a_small_scale_takes_to_nothing_is_a_tie,
        confident_rows_keep_their_relative_accuracy,
        an_ignored_row_adds_nothing_whatever_it_holds,
        a_class_at_minus_infinity_without_a_share_adds_nothing,
        a_target_on_minus_infinity_is_infinitely_wrong,
        rows_without_a_distribution_are_nan_and_keep_it_to_themselves,
        a_mean_over_nothing_is_what_empty_says,
        no_rows_are_an_empty_mean_and_a_sum_of_zero,
        one_class_has_no_loss_and_no_gradient,
        many_equal_rows_sum_to_their_number,
        many_equal_classes_sum_to_their_number,
        a_bent_logit_keeps_the_digits_of_its_slope,
        a_row_that_is_not_a_number_shows_even_without_a_share,
        the_total_weight_is_the_denominator_of_the_mean,
        only_what_is_tracked_gets_a_gradient,
    ],
    cubecl: [
        a_bad_target_on_a_device_is_nan_in_its_row_alone,
        indices_of_64_bits_are_not_cut_to_32,
    ],
    one_of_each_kind: [
        without_autodiff_there_is_a_loss_and_nothing_else,
        plain_logits_and_tracked_targets_mix,
        the_function_is_the_module_with_its_defaults,
    ],
}
