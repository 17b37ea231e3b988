//! The ends of the contrastive loss: an optimizer behind the bound of the temperature, no rows, half
//! precision, and what it is given that does not fit.

use burn::module::Module;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{DType, Device, Int, Tensor};
use burn_cross_entropy::{
    ContrastiveError, CrossEntropyBackend, InBatch, InfoNceLoss, InfoNceLossConfig, SampleIds,
};

use crate::common::backends::{is_cpu, on_every_cpu_backend_and_gpu};
use crate::common::run::numbers;

/// The parameter is a leaf after it was brought to its bound: an optimizer goes on with it.
fn the_temperature_is_learnt_after_it_was_bounded<B: CrossEntropyBackend>(device: &Device) {
    let config = InfoNceLossConfig::new().with_learnable(true);
    let mut loss: InfoNceLoss<B> = config.init_for::<B>(device);
    let rows = Tensor::<2>::from_floats([[1.0, 0.0], [0.6, 0.8]], device);
    let others = Tensor::<2>::from_floats([[0.8, 0.6], [0.0, 1.0]], device);
    let mut optimizer = SgdConfig::new().init();
    let mut last = loss.temperature();
    for _ in 0..3 {
        loss = loss.clamp_scale();
        let value = loss.forward(rows.clone(), others.clone(), rows.clone().flip([0]));
        let gradients = GradientsParams::from_grads(value.backward(), &loss);
        assert_eq!(gradients.len(), 1);
        loss = optimizer.step(0.1, loss, gradients);
        assert_ne!(loss.temperature(), last);
        last = loss.temperature();
    }
    let valid = loss.valid().clamp_scale();
    assert_eq!(valid.temperature(), last);
}

fn no_rows_have_a_mean_of_nan<B: CrossEntropyBackend>(device: &Device) {
    let none = || Tensor::<2>::zeros([0, 3], device);
    for in_batch in [InBatch::OneSided, InBatch::Symmetric, InBatch::NtXent] {
        let loss: InfoNceLoss<B> = InfoNceLossConfig::new()
            .with_in_batch(in_batch)
            .init_for::<B>(device);
        // There are no classes either.
        let error = loss
            .try_forward_in_batch(none(), none())
            .expect_err("nothing");
        assert!(error.to_string().contains("no classes"), "{error}");
    }
    let loss: InfoNceLoss<B> = InfoNceLossConfig::new().init_for::<B>(device);
    let keys = Tensor::<2>::ones([4, 3], device);
    let positive = Tensor::<1, Int>::zeros([0], device);
    assert!(numbers(loss.forward_pairs(none(), keys, positive))[0].is_nan());
}

fn what_is_unlike_is_said<B: CrossEntropyBackend>(device: &Device) {
    let loss: InfoNceLoss<B> = InfoNceLossConfig::new().init_for::<B>(device);
    let ones = |rows| Tensor::<2>::ones([rows, 3], device);
    let says = |result: Result<Tensor<1>, ContrastiveError>, part: &str| {
        let error = result.expect_err("this does not fit").to_string();
        assert!(error.contains(part), "{error}");
    };
    let other = if is_cpu(device) {
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
    let ints = |values: [i32; 2], dtype| {
        let ids = Tensor::<1, Int>::from_ints(values, &device.clone().without_autodiff());
        ids.cast(dtype)
    };
    let ids = SampleIds {
        queries: ints([1, 2], DType::I32),
        negatives: ints([1, 2], DType::U32),
    };
    says(
        loss.try_forward_with_ids(ones(2), ones(2), ones(2), ids),
        "the ids of the queries are of dtype I32, those of the negatives of U32",
    );
    says(
        loss.try_forward_pairs(ones(2), ones(3), ints([1, 3], DType::I32)),
        "the target of row 1 is 3",
    );
    let output = loss.try_forward_with_output(ones(2), ones(3), ones(5));
    assert!(output.is_err());
}

/// Ids with autodiff, as tensors of a device that has it come, are ids.
fn ids_may_come_with_autodiff<B: CrossEntropyBackend>(device: &Device) {
    let loss: InfoNceLoss<B> = InfoNceLossConfig::new().init_for::<B>(device);
    let ids = |values: [i32; 2]| Tensor::<1, Int>::from_ints(values, device);
    let ids = SampleIds {
        queries: ids([1, 2]),
        negatives: ids([1, 2]),
    };
    let rows = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0]], device);
    let value = loss.forward_with_ids(rows.clone(), rows.clone(), rows, ids);
    // To each row the other alone is left, at right angles.
    let expected = f64::from((-1f32 / 0.07).exp()).ln_1p();
    assert!((numbers(value)[0] / expected - 1.0).abs() < 1e-3);
}

/// Features of 0 in half precision, as of a rectifier that lets nothing through.
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

on_every_cpu_backend_and_gpu!(
    the_temperature_is_learnt_after_it_was_bounded,
    no_rows_have_a_mean_of_nan,
    what_is_unlike_is_said,
    ids_may_come_with_autodiff,
);
