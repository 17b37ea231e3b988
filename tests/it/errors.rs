//! The errors for bad input.

use burn::backend::Dispatch;
use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{
    CrossEntropyError, CrossEntropyLossConfig, EmptyReduction, ProjectedLogits,
};

use crate::common::backends::{is_host, tests_on};
use crate::common::run::refusal;

fn text(error: Result<Tensor<1>, CrossEntropyError>) -> String {
    error.expect_err("this cannot be computed").to_string()
}

fn shapes_that_do_not_fit_are_named(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = || Tensor::<2>::zeros([4, 3], device);

    let message = text(loss.try_forward(logits(), Tensor::<1, Int>::zeros([3], device)));
    assert!(message.contains("the target has shape [3]"), "{message}");
    assert!(message.contains("logits of shape [4, 3]"), "{message}");
    assert!(message.contains("need [4]"), "{message}");

    let message = text(loss.try_forward(logits(), Tensor::<2, Int>::zeros([4, 3], device)));
    assert!(message.contains("need [4, 1]"), "{message}");

    let message = text(loss.try_forward(logits(), Tensor::<2>::zeros([4, 2], device)));
    assert!(message.contains("need [4, 3]"), "{message}");

    let unreduced = loss
        .try_forward_no_reduction(logits(), Tensor::<1, Int>::zeros([3], device))
        .unwrap_err();
    assert!(matches!(unreduced, CrossEntropyError::ShapeMismatch { .. }));
}

fn a_class_dim_out_of_range_is_named(device: &Device) {
    for (class_dim, rank_2) in [(2, "-2..=1"), (-3, "-2..=1")] {
        let loss = CrossEntropyLossConfig::new()
            .with_class_dim(class_dim)
            .init(device);
        let logits = Tensor::<2>::zeros([4, 3], device);
        let message = text(loss.try_forward(logits, Tensor::<1, Int>::zeros([4], device)));
        assert!(
            message.contains(&format!("`class_dim` is {class_dim}")),
            "{message}"
        );
        assert!(message.contains(rank_2), "{message}");
    }
}

fn class_weights_of_another_length_are_named(device: &Device) {
    let loss = CrossEntropyLossConfig::new()
        .with_weight(Some(vec![1.0; 4]))
        .init(device);
    let logits = Tensor::<2>::zeros([4, 3], device);
    let message = text(loss.try_forward(logits, Tensor::<1, Int>::zeros([4], device)));
    assert!(message.contains("`weight` has 4 entries"), "{message}");
    assert!(message.contains("3 classes"), "{message}");
}

fn a_target_out_of_range_is_named_with_its_row(device: &Device) {
    let loss = CrossEntropyLossConfig::new()
        .with_ignore_indices(vec![-100, 255])
        .init(device);
    for bad in [3, -1, 254, i64::from(i32::MAX)] {
        let logits = Tensor::<3>::zeros([2, 3, 2], device);
        let data = TensorData::new(vec![0, -100, bad, 255], [2, 2]);
        let targets = Tensor::<2, Int>::from_data(data, device);
        let error = loss.check(&logits, &targets).unwrap_err();
        let message = error.to_string();
        for part in [
            "row 2".to_string(),
            format!("is {bad},"),
            "0..3".to_string(),
            "[-100, 255]".to_string(),
        ] {
            assert!(message.contains(&part), "{part} in {message}");
        }
    }
}

fn an_index_beyond_32_bits_is_no_class(device: &Device) {
    // These indices would be class 1 if they were cut to 32 bits.
    for bad in [1 + (1i64 << 32), 1 - (1i64 << 32)] {
        let logits = Tensor::<2>::zeros([1, 3], device);
        let data = TensorData::new(vec![bad], [1]);
        let targets = Tensor::<1, Int>::from_data(data, (device, DType::I64));
        let loss = CrossEntropyLossConfig::new().init(device);
        let error = loss.check(&logits, &targets).unwrap_err();
        assert!(error.to_string().contains(&bad.to_string()), "{error}");
    }
}

/// An index of 2^64 - 100 would be the ignored -100 if it were cut to the signed type.
fn an_unsigned_index_does_not_wrap_into_an_ignored_one(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let data = TensorData::new(vec![u64::MAX - 99], [1]);
    let targets = Tensor::<1, Int>::from_data(data, (device, DType::U64));
    let logits = Tensor::<2>::zeros([1, 3], device);
    let message = loss.check(&logits, &targets).unwrap_err().to_string();
    assert!(message.contains("is 18446744073709551516"), "{message}");
}

fn the_total_weight_takes_no_unsigned_index_for_an_ignored_one(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let data = TensorData::new(vec![u64::MAX - 99], [1]);
    let targets = Tensor::<1, Int>::from_data(data, (device, DType::U64));
    let message = refusal(|| loss.total_weight(targets));
    assert!(message.contains("is 18446744073709551516"), "{message}");
}

fn integer_dtypes_that_the_device_has_not_are_refused(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    for dtype in [DType::U8, DType::I8, DType::U16, DType::I16, DType::I32] {
        let data = TensorData::new(vec![1i64], [1]);
        let targets = Tensor::<1, Int>::from_data(data, (device, dtype));
        let result = loss.try_forward(Tensor::<2>::zeros([1, 3], device), targets);
        if device.supports_dtype(dtype) {
            assert!(result.is_ok(), "{dtype:?}: {result:?}");
        } else {
            assert!(!is_host(device), "{dtype:?}");
            let message = text(result);
            assert!(
                message.contains(&format!("index targets of dtype {dtype:?}")),
                "{message}"
            );
            assert!(message.contains("I32"), "{message}");
        }
    }
}

fn different_checkpointing_strategies_are_named(device: &Device) {
    let plain = device.clone().without_autodiff();
    let devices = [
        plain.clone().autodiff(),
        plain.autodiff().gradient_checkpointing(),
    ];
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = Tensor::<2>::zeros([2, 3], &devices[0]).require_grad();
    let targets = Tensor::<2>::ones([2, 3], &devices[1]).require_grad();
    let message = text(loss.try_forward(logits, targets));
    assert!(
        message.contains("Disabled") && message.contains("Balanced"),
        "{message}"
    );
}

fn forward_panics_with_the_text_that_try_forward_returns(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = || Tensor::<2>::zeros([4, 3], device);
    let wrong = || Tensor::<1, Int>::zeros([3], device);
    let returned = text(loss.try_forward(logits(), wrong()));
    assert_eq!(refusal(|| loss.forward(logits(), wrong())), returned);
}

/// Bad targets are an error of `forward` on the host. On a device the target's row is NaN, which `meaning`
/// tests.
fn a_bad_target_is_an_error_of_forward_where_looking_is_free(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = || Tensor::<2>::zeros([2, 3], device);
    let bad = || Tensor::<1, Int>::from_ints([0, 3], device);
    let returned = text(loss.try_forward(logits(), bad()));
    assert_eq!(refusal(|| loss.forward(logits(), bad())), returned);

    let weighted = CrossEntropyLossConfig::new()
        .with_weight(Some(vec![1.0; 3]))
        .init(device);
    let message = refusal(|| weighted.total_weight(bad()));
    assert!(message.contains("row 1 is 3"), "{message}");
}

fn logits_without_classes_are_refused(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = Tensor::<2>::zeros([2, 0], device);
    let message = text(loss.try_forward(logits, Tensor::<1, Int>::zeros([2], device)));
    assert!(message.contains("no classes"), "{message}");
}

/// `check` says what `try_forward` says, without a forward.
fn what_does_not_fit_is_said_by_check(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = Tensor::<2>::zeros([4, 3], device);
    let good = Tensor::<1, Int>::from_ints([0, 2, -100, 1], device);
    assert_eq!(loss.check(&logits, &good), Ok(()));
    let wrong = Tensor::<1, Int>::zeros([3], device);
    let said = loss.check(&logits, &wrong).unwrap_err().to_string();
    assert_eq!(said, text(loss.try_forward(logits.clone(), wrong)));
    let projected = ProjectedLogits::new(Tensor::<2>::zeros([4, 5], device), logits);
    let said = loss.check(&projected, &good).unwrap_err().to_string();
    assert!(said.contains("5 features"), "{said}");
}

tests_on! {
    every_backend: [
        a_target_out_of_range_is_named_with_its_row,
        an_index_beyond_32_bits_is_no_class,
        an_unsigned_index_does_not_wrap_into_an_ignored_one,
        integer_dtypes_that_the_device_has_not_are_refused,
    ],
    host: [
        a_bad_target_is_an_error_of_forward_where_looking_is_free,
        the_total_weight_takes_no_unsigned_index_for_an_ignored_one,
    ],
    one_of_each_kind: [
        shapes_that_do_not_fit_are_named,
        a_class_dim_out_of_range_is_named,
        class_weights_of_another_length_are_named,
        different_checkpointing_strategies_are_named,
        forward_panics_with_the_text_that_try_forward_returns,
        logits_without_classes_are_refused,
        what_does_not_fit_is_said_by_check,
    ],
}

#[test]
fn each_config_value_out_of_range_is_named_with_its_value() {
    let device = Device::default();
    let new = CrossEntropyLossConfig::new;
    let cases = [
        (new().with_label_smoothing(1.5), "`label_smoothing` is 1.5"),
        (
            new().with_label_smoothing(-0.1),
            "`label_smoothing` is -0.1",
        ),
        (
            new().with_label_smoothing(f64::NAN),
            "`label_smoothing` is NaN",
        ),
        (new().with_logit_scale(0.0), "`logit_scale` is 0.0"),
        (
            new().with_logit_scale(f64::INFINITY),
            "`logit_scale` is inf",
        ),
        (
            new().with_logit_softcap(Some(-1.0)),
            "`logit_softcap` is -1.0",
        ),
        (new().with_z_loss(-1.0), "`z_loss` is -1.0"),
        (new().with_z_loss(f64::NAN), "`z_loss` is NaN"),
        (
            new().with_weight(Some(vec![1.0, -2.0])),
            "`weight` is -2 for class 1",
        ),
        (
            new().with_weight(Some(vec![f32::INFINITY])),
            "`weight` is inf for class 0",
        ),
        (
            new().with_logits(false).with_logit_scale(2.0),
            "`logit_scale` is 2.0",
        ),
        (
            new().with_logits(false).with_logit_softcap(Some(2.0)),
            "`logit_softcap` is Some(2.0)",
        ),
        (new().with_logits(false).with_z_loss(0.5), "`z_loss` is 0.5"),
    ];
    for (config, expected) in cases {
        let error = config
            .try_init_for::<Dispatch>(&device)
            .expect_err(expected)
            .to_string();
        assert!(error.contains(expected), "{error}");
        let panic = std::panic::catch_unwind(|| config.init(&device)).expect_err(expected);
        assert_eq!(panic.downcast_ref::<String>(), Some(&error));
    }
}

#[test]
fn every_value_in_range_is_taken() {
    let device = Device::default();
    for smoothing in [0.0, 0.5, 1.0] {
        CrossEntropyLossConfig::new()
            .with_label_smoothing(smoothing)
            .with_weight(Some(vec![0.0, 1.0]))
            .with_logit_scale(1e-3)
            .with_logit_softcap(Some(30.0))
            .with_z_loss(1e-4)
            .with_reduction(Reduction::Auto)
            .with_empty(EmptyReduction::Zero)
            .init(&device);
    }
}

#[cfg(all(feature = "flex", feature = "ndarray"))]
mod two_backends {
    use super::*;
    use burn::backend::{Autodiff, Flex, NdArray};

    #[test]
    fn a_bound_loss_refuses_tensors_of_another_backend() {
        let (flex, ndarray) = (Device::flex().autodiff(), Device::ndarray().autodiff());
        let loss = CrossEntropyLossConfig::new().init_for::<Autodiff<NdArray>>(&ndarray);
        let logits = Tensor::<2>::zeros([2, 3], &flex);
        let message = text(loss.try_forward(logits, Tensor::<1, Int>::zeros([2], &flex)));
        assert!(message.contains("Autodiff<NdArray"), "{message}");
        assert!(message.contains("Flex"), "{message}");
        assert!(!message.contains("::"), "{message}");
    }

    #[test]
    fn every_method_of_a_bound_loss_refuses_tensors_of_another_backend() {
        let (flex, ndarray) = (Device::flex(), Device::ndarray());
        let loss = CrossEntropyLossConfig::new().init_for::<NdArray>(&ndarray);
        let indices = || Tensor::<1, Int>::zeros([2], &flex);
        let shares = || Tensor::<2>::ones([2, 3], &flex);
        let refused = |message: String| assert!(message.contains("NdArray, which"), "{message}");
        refused(refusal(|| loss.total_weight(indices())));
        refused(refusal(|| loss.total_weight(shares())));
        refused(refusal(|| loss.normalizer(indices()).total_weight()));
        refused(refusal(|| loss.normalizer(shares()).total_weight()));
        refused(refusal(|| loss.forward(shares(), indices())));
        refused(refusal(|| loss.forward(shares(), shares())));
        refused(refusal(|| loss.log_prob(shares(), indices())));
        refused(refusal(|| loss.forward_no_reduction(shares(), indices())));
        refused(refusal(|| {
            loss.forward_with_output(shares(), indices()).loss
        }));
        refused(refusal(|| {
            loss.forward_with_entropy(shares(), indices()).loss
        }));
        let one = Tensor::<1>::ones([1], &flex);
        refused(refusal(|| {
            loss.forward_normalized(shares(), indices(), one)
        }));
        let weight = Tensor::<2>::ones([3, 4], &flex);
        let projected = || ProjectedLogits::new(shares(), weight.clone());
        refused(refusal(|| loss.forward(projected(), indices())));
        let checked = loss.check(&shares(), &indices());
        refused(checked.expect_err("the tensors are on Flex").to_string());
    }

    #[test]
    fn a_loss_bound_without_autodiff_refuses_tracked_tensors() {
        let device = Device::flex();
        let loss = CrossEntropyLossConfig::new().init_for::<Flex>(&device);
        let plain = Tensor::<2>::zeros([2, 3], &device);
        let targets = || Tensor::<1, Int>::zeros([2], &device);
        assert!(loss.try_forward(plain.clone(), targets()).is_ok());
        let tracked = Tensor::<2>::zeros([2, 3], &device.clone().autodiff());
        let error = loss.try_forward(tracked, targets()).unwrap_err();
        assert!(
            matches!(error, CrossEntropyError::WrongBackend { .. }),
            "{error}"
        );
    }

    #[test]
    fn logits_and_target_on_different_devices_are_named() {
        let loss = CrossEntropyLossConfig::new().init(&Device::flex());
        let logits = Tensor::<2>::zeros([2, 3], &Device::flex());
        let targets = Tensor::<1, Int>::zeros([2], &Device::ndarray());
        let message = text(loss.try_forward(logits, targets));
        assert!(
            message.contains("Flex") && message.contains("NdArray"),
            "{message}"
        );
        assert!(message.contains("to_device"), "{message}");
    }
}
