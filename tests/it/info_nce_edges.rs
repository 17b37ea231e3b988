//! Edge cases of the contrastive loss: no rows, features of 0 in half precision, and input that does not fit.

use burn::backend::Dispatch;
use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor};
use burn_cross_entropy::contrastive::{ContrastiveError, InBatch, SampleIds};
use burn_cross_entropy::{InfoNceLoss, InfoNceLossConfig, NegativeQueueConfig, moco_logits};

use crate::common::backends::{is_host, tests_on};
use crate::common::run::numbers;

/// Losses whose keys are the classes refuse to have no keys.
fn no_keys_are_an_error(device: &Device) {
    let none = || Tensor::<2>::zeros([0, 3], device);
    let says = |result: Result<Tensor<1>, ContrastiveError>| {
        let error = result.expect_err("there are no keys").to_string();
        assert!(error.contains("there are no keys"), "{error}");
    };
    for in_batch in [InBatch::OneSided, InBatch::Symmetric, InBatch::NtXent] {
        let loss = InfoNceLossConfig::new()
            .with_in_batch(in_batch)
            .init(device);
        says(loss.try_forward_in_batch(none(), none()));
    }
    let loss = InfoNceLossConfig::new().init(device);
    let ones = Tensor::<2>::ones([2, 3], device);
    let without = ints(&[-100, -100], DType::I32, device);
    says(loss.try_forward_pairs(ones, none(), without));
}

fn no_rows_have_a_mean_of_nan(device: &Device) {
    let loss = InfoNceLossConfig::new().init(device);
    let none = Tensor::<2>::zeros([0, 3], device);
    let keys = Tensor::<2>::ones([4, 3], device);
    let positive = Tensor::<1, Int>::zeros([0], device);
    assert!(numbers(loss.forward_pairs(none, keys, positive))[0].is_nan());
}

fn ints(values: &[i32], dtype: DType, device: &Device) -> Tensor<1, Int> {
    let device = device.clone().without_autodiff();
    Tensor::<1, Int>::from_ints(values, &device).cast(dtype)
}

fn what_does_not_fit_is_said(device: &Device) {
    let loss = InfoNceLossConfig::new().init(device);
    let zeros = |shape| Tensor::<2>::zeros(shape, device);
    let says = |result: Result<Tensor<1>, ContrastiveError>, part: &str| {
        let error = result.expect_err("this does not fit").to_string();
        assert!(error.contains(part), "{error}");
    };
    says(
        loss.try_forward(zeros([2, 3]), zeros([4, 3]), zeros([5, 3])),
        "expected as many rows",
    );
    says(
        loss.try_forward(zeros([2, 3]), zeros([2, 3]), zeros([5, 4])),
        "`negatives` has shape [5, 4]",
    );
    says(
        loss.try_forward_in_batch(zeros([2, 3]), zeros([2, 4])),
        "`b` has shape [2, 4]",
    );
    let ids = SampleIds {
        queries: ints(&[1, 2], DType::I32, device),
        negatives: ints(&[1], DType::I32, device),
    };
    says(
        loss.try_forward_with_ids(zeros([2, 3]), zeros([2, 3]), zeros([5, 3]), ids),
        "there are 1 ids for 5 negatives",
    );
}

fn what_cannot_be_configured_is_said(device: &Device) {
    for (config, part) in [
        (
            InfoNceLossConfig::new().with_temperature(0.0),
            "`temperature` is 0",
        ),
        (
            InfoNceLossConfig::new().with_max_scale(f64::NAN),
            "`max_scale` is NaN",
        ),
        (
            InfoNceLossConfig::new()
                .with_learnable(true)
                .with_temperature(0.001),
            "one over `max_scale`",
        ),
        (
            InfoNceLossConfig::new().with_reduction(Reduction::BatchMean),
            "Mean, Auto or Sum",
        ),
    ] {
        let error = config
            .try_init_for::<Dispatch>(device)
            .expect_err("it is refused");
        assert!(error.to_string().contains(part), "{error}");
    }
}

fn what_is_unlike_is_said(device: &Device) {
    let loss = InfoNceLossConfig::new().init(device);
    let ones = |rows| Tensor::<2>::ones([rows, 3], device);
    let says = |result: Result<Tensor<1>, ContrastiveError>, part: &str| {
        let error = result.expect_err("this does not fit").to_string();
        assert!(error.contains(part), "{error}");
    };
    let other = if is_host(device) {
        DType::F64
    } else {
        DType::F16
    };
    let unlike = || Tensor::<2>::ones([2, 3], (&device.clone().without_autodiff(), other));
    says(
        loss.try_forward(ones(2), unlike(), ones(5)),
        "the dtype of `query` is F32 and that of `positive`",
    );
    says(
        loss.try_forward_in_batch(ones(2), unlike()),
        "the dtype of `a` is F32 and that of `b`",
    );
    let ints = |values: [i32; 2], dtype| ints(&values, dtype, device);
    let ids = SampleIds {
        queries: ints([1, 2], DType::I32),
        negatives: ints([1, 2], DType::U32),
    };
    says(
        loss.try_forward_with_ids(ones(2), ones(2), ones(2), ids),
        "the ids of the queries are of dtype I32, those of the negatives of U32",
    );
    let outside = loss.try_forward_pairs(ones(2), ones(3), ints([1, 3], DType::I32));
    match is_host(device) {
        true => says(
            outside,
            "`positive` of row 1 is 3, but the keys have the rows 0..3",
        ),
        // The host does not wait for a device to look.
        false => assert!(numbers(outside.expect("no wait, no error"))[0].is_nan()),
    }
    let output = loss.try_forward_with_output(ones(2), ones(3), ones(5));
    assert!(output.is_err());
}

/// Ids may have autodiff, because a device with autodiff makes such tensors.
fn ids_may_come_with_autodiff(device: &Device) {
    let loss = InfoNceLossConfig::new().init(device);
    let ids = |values: [i32; 2]| Tensor::<1, Int>::from_ints(values, device);
    let ids = SampleIds {
        queries: ids([1, 2]),
        negatives: ids([1, 2]),
    };
    let rows = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0]], device);
    let value = loss.forward_with_ids(rows.clone(), rows.clone(), rows, ids);
    // Each row has only the other as a negative, at right angles.
    let expected = f64::from((-1f32 / 0.07).exp()).ln_1p();
    assert!((numbers(value)[0] / expected - 1.0).abs() < 1e-3);
}

/// Positives and negatives that checkpoint differently are refused, even where the query is outside autodiff.
#[cfg(feature = "flex")]
#[test]
#[should_panic(expected = "the gradient checkpointing of `positive`")]
fn logits_of_keys_that_checkpoint_differently_are_refused() {
    let device = Device::flex();
    let ones = |device: &Device| Tensor::<2>::ones([2, 3], device);
    let positive = ones(&device.clone().autodiff());
    let negatives = ones(&device.clone().autodiff().gradient_checkpointing());
    moco_logits(ones(&device), positive, negatives, 0.5);
}

/// Quantized features are refused, whichever tensor they are in.
#[cfg(feature = "flex")]
#[test]
fn quantized_features_are_refused() {
    use burn::tensor::quantization::{Calibration, QuantValue, compute_q_params, compute_range};

    let device = Device::flex();
    let plain = || Tensor::<2>::ones([2, 32], &device);
    let quantized = || {
        let scheme = device
            .settings()
            .quantization
            .scheme
            .with_value(QuantValue::Q8S);
        let range = compute_range(&scheme, &plain(), &Calibration::MinMax);
        plain().quantize(&scheme, compute_q_params(&scheme, range))
    };
    let loss: InfoNceLoss = InfoNceLossConfig::new().init(&device);
    let says = |result: Result<Tensor<1>, ContrastiveError>, name: &str| {
        let error = result.expect_err("it is quantized").to_string();
        assert!(
            error.contains(name) && error.contains("dequantize"),
            "{error}"
        );
    };
    says(
        loss.try_forward(quantized(), quantized(), plain()),
        "`query`",
    );
    says(
        loss.try_forward(plain(), quantized(), plain()),
        "`positive`",
    );
    says(
        loss.try_forward(plain(), plain(), quantized()),
        "`negatives`",
    );
    says(loss.try_forward_in_batch(plain(), quantized()), "`b`");
    let mut queue = NegativeQueueConfig::new(4, 32).init(&device);
    let error = queue.try_push(quantized()).expect_err("it is quantized");
    assert!(error.to_string().contains("`keys`"), "{error}");
}

/// Features of 0 in half precision, as after a rectifier that lets nothing through.
#[cfg(feature = "flex")]
#[test]
fn features_of_0_in_f16_have_a_finite_gradient() {
    let device = Device::flex().autodiff();
    let loss: InfoNceLoss = InfoNceLossConfig::new().init(&device);
    let ones = |rows: usize| Tensor::<2>::ones([rows, 4], (&device, DType::F16));
    let zeros = Tensor::<2>::zeros([3, 4], (&device, DType::F16)).require_grad();
    let value = loss.forward(zeros.clone(), ones(3), ones(10));
    let gradient = numbers(zeros.grad(&value.backward()).expect("it is tracked"));
    assert!(
        gradient.iter().all(|slope| slope.is_finite()),
        "{gradient:?}"
    );
}

tests_on! {
    products: [
        no_keys_are_an_error,
        no_rows_have_a_mean_of_nan,
        what_does_not_fit_is_said,
        what_cannot_be_configured_is_said,
        what_is_unlike_is_said,
        ids_may_come_with_autodiff,
    ],
}
