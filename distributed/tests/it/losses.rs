//! Remote devices, for which this crate has no implementation of its own, have the same loss and gradients.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{CrossEntropyError, CrossEntropyLossConfig, EmptyReduction};

use crate::{assert_close, floats, scores, targets, two_devices};

const TARGETS: [i64; 5] = [6, 0, -100, 3, 6];
const SHAPE: [usize; 2] = [5, 7];

/// The loss, and the gradient under an upstream gradient that is not 1.
fn solve(config: &CrossEntropyLossConfig, soft: bool, device: &Device) -> (Vec<f32>, Vec<f32>) {
    let loss = config.init(device);
    let logits = scores(SHAPE, device).require_grad();
    let value = if soft {
        let shares: Tensor<2> = scores(SHAPE, device).abs() / 4.0;
        loss.forward(logits.clone(), shares)
    } else {
        loss.forward(logits.clone(), targets(&TARGETS, device))
    };
    let gradients = (value.clone() * -1.75).backward();
    (
        floats(value),
        floats(logits.grad(&gradients).expect("a leaf")),
    )
}

#[test]
fn remote_devices_have_the_loss_and_gradients_of_flex() {
    let all = CrossEntropyLossConfig::new()
        .with_label_smoothing(0.1)
        .with_z_loss(0.01)
        .with_logit_scale(0.5)
        .with_logit_softcap(Some(3.0))
        .with_weight(Some(vec![1.0, 0.5, 2.0, 0.0, 1.0, 0.25, 3.0]));
    for config in [CrossEntropyLossConfig::new(), all] {
        for reduction in [Reduction::Mean, Reduction::Sum, Reduction::BatchMean] {
            let config = config.clone().with_reduction(reduction);
            for soft in [false, true] {
                let (loss, gradient) = solve(&config, soft, &Device::flex().autodiff());
                for device in two_devices() {
                    let found = solve(&config, soft, &device);
                    assert_close(&found.0, &loss, 2e-6);
                    assert_close(&found.1, &gradient, 2e-6);
                }
            }
        }
    }
}

/// Targets in dtypes that need no cast. Burn's server cannot cast integers, so other dtypes do not work
/// there.
#[test]
fn targets_of_both_common_dtypes_have_the_output_of_flex() {
    let flex = Device::flex();
    let loss = CrossEntropyLossConfig::new().init(&flex);
    let expected = loss.forward_with_entropy(scores(SHAPE, &flex), targets(&TARGETS, &flex));
    let [device, _] = two_devices();
    for dtype in [DType::I32, DType::I64] {
        let data = TensorData::new(TARGETS.to_vec(), [TARGETS.len()]);
        let targets = Tensor::<1, Int>::from_data(data, (&device, dtype));
        let value = loss.forward(scores(SHAPE, &device), targets.clone());
        assert_close(&floats(value), &floats(expected.loss.clone()), 2e-6);
        if dtype == DType::I64 {
            continue;
        }
        let found = loss.forward_with_entropy(scores(SHAPE, &device), targets);
        assert_close(&floats(found.lse), &floats(expected.lse.clone()), 2e-6);
        let entropies = [found.entropy, expected.entropy.clone()].map(Option::unwrap);
        let [found_entropy, entropy] = entropies.map(floats);
        assert_close(&found_entropy, &entropy, 2e-6);
        let classes =
            |classes: Tensor<1, Int>| classes.into_data().iter::<i64>().collect::<Vec<_>>();
        assert_eq!(
            classes(found.predicted),
            classes(expected.predicted.clone())
        );
        assert_eq!(
            classes(found.target_rank),
            classes(expected.target_rank.clone())
        );
    }
}

#[test]
fn a_target_out_of_range_is_nan_there_and_named_by_check() {
    let [device, _] = two_devices();
    let loss = CrossEntropyLossConfig::new()
        .with_empty(EmptyReduction::Zero)
        .init(&device);
    let logits = || scores([2, 3], &device);
    let bad = || targets(&[-100, 3], &device);
    assert!(floats(loss.forward(logits(), bad()))[0].is_nan());
    let error = loss.check(&logits(), &bad()).unwrap_err();
    assert!(
        matches!(error, CrossEntropyError::TargetOutOfRange { row: 1, .. }),
        "{error}"
    );
}

#[test]
fn logits_and_targets_on_two_devices_of_a_server_are_named() {
    let [first, second] = two_devices();
    let loss = CrossEntropyLossConfig::new().init(&first);
    let result = loss.try_forward(scores([2, 3], &first), targets(&[0, 1], &second));
    assert!(matches!(
        result,
        Err(CrossEntropyError::DeviceMismatch { .. })
    ));
}
