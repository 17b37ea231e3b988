//! Tensors that do not fit are refused, by the same rules as for logits.

use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Int, Tensor};
use burn_cross_entropy::{
    CrossEntropyError, CrossEntropyLossConfig, LinearCrossEntropyLossConfig, ProjectedLogits,
};

use crate::common::backends::{is_host, tests_on};

fn what_does_not_fit_is_said(device: &Device) {
    let loss = LinearCrossEntropyLossConfig::new().init(device);
    let input = || Tensor::<2>::zeros([2, 4], device);
    let targets = || Tensor::<1, Int>::zeros([2], device);
    let says = |result: Result<Tensor<1>, CrossEntropyError>, part: &str| {
        let error = result.expect_err("this does not fit").to_string();
        assert!(error.contains(part), "{error}");
    };
    let weight = |size: [usize; 2]| Tensor::<2>::zeros(size, device);
    says(
        loss.try_forward(input(), weight([5, 4]), None, targets()),
        "has 4 features",
    );
    let bias = Some(Tensor::<1>::zeros([6], device));
    says(
        loss.try_forward(input(), weight([4, 5]), bias, targets()),
        "the bias has 6 entries",
    );
    let many = Tensor::<1, Int>::zeros([3], device);
    says(
        loss.try_forward(input(), weight([4, 5]), None, many),
        "the target has shape [3]",
    );
    let high = Tensor::<1, Int>::from_ints([1, 5], device);
    let logits = ProjectedLogits::new(input(), weight([4, 5]));
    let checked = CrossEntropyLossConfig::new()
        .init(device)
        .check(&logits, &high);
    let error = checked.expect_err("5 is not a class").to_string();
    assert!(error.contains("the target of row 1 is 5"), "{error}");
    says(
        loss.try_forward(input(), weight([4, 0]), None, targets()),
        "no classes",
    );
    says(
        loss.try_forward(input(), weight([4, 5]), None, weight([2, 4])),
        "the target has shape [2, 4]",
    );
    let (dtype, name) = match is_host(device) {
        true => (DType::F64, "F64"),
        false => (DType::F16, "F16"),
    };
    let other = Tensor::<2>::zeros([4, 5], (&device.clone().without_autodiff(), dtype));
    says(
        loss.try_forward(input(), other, None, targets()),
        &format!("weight is of dtype {name}"),
    );
    for (config, part) in [
        (
            LinearCrossEntropyLossConfig::new().with_chunk_rows(Some(0)),
            "`chunk_rows` is 0",
        ),
        (
            LinearCrossEntropyLossConfig::new()
                .with_loss(CrossEntropyLossConfig::new().with_class_dim(0)),
            "`loss.class_dim` is 0",
        ),
    ] {
        let error = config
            .try_init_for::<Dispatch>(device)
            .expect_err("it is refused")
            .to_string();
        assert!(error.contains(part), "{error}");
    }
}

/// Any two tensors that checkpoint differently are refused, even where the input is outside autodiff.
fn checkpointing_that_differs_is_said(device: &Device) {
    let plain = device.clone().without_autodiff();
    let loss = LinearCrossEntropyLossConfig::new().init(device);
    let [without, with] = [
        plain.clone().autodiff(),
        plain.clone().autodiff().gradient_checkpointing(),
    ];
    let zeros = |shape: [usize; 2], device: &Device| Tensor::<2>::zeros(shape, device);
    for (input, weight, shares, names) in [
        (
            &plain,
            &without,
            &with,
            "the weight and the target distributions",
        ),
        (
            &with,
            &plain,
            &without,
            "the input and the target distributions",
        ),
        (&with, &without, &plain, "the input and the weight"),
    ] {
        let error = loss
            .try_forward(
                zeros([2, 4], input),
                zeros([4, 5], weight),
                None,
                zeros([2, 5], shares),
            )
            .expect_err("they differ")
            .to_string();
        assert!(error.contains(names), "{error}");
    }
}

#[cfg(all(feature = "flex", feature = "ndarray"))]
#[test]
fn devices_that_differ_are_said() {
    let (flex, ndarray) = (Device::flex(), Device::ndarray());
    let loss = LinearCrossEntropyLossConfig::new().init(&flex);
    let error = loss
        .try_forward(
            Tensor::<2>::zeros([2, 4], &flex),
            Tensor::<2>::zeros([4, 5], &ndarray),
            None,
            Tensor::<1, Int>::zeros([2], &flex),
        )
        .expect_err("they differ")
        .to_string();
    assert!(error.contains("weight is on"), "{error}");
}

tests_on! {
    one_of_each_kind: [
        what_does_not_fit_is_said,
        checkpointing_that_differs_is_said,
    ],
}
