//! Tensors on a backend without an implementation take the portable path, and get the loss and the gradients
//! that Flex computes.
#![allow(deprecated)] // Burn deprecates NdArray, which stands here for any such backend.

mod contrastive;
mod linear;

use burn::nn::loss::Reduction;
use burn::tensor::{Device, Int, Tensor};
use burn_cross_entropy::{CrossEntropyLossConfig, EmptyReduction};

struct Found {
    loss: Vec<f32>,
    logits: Vec<f32>,
    targets: Vec<f32>,
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("f32")
}

fn solve(config: &CrossEntropyLossConfig, unreduced: bool, soft: bool, device: &Device) -> Found {
    let loss = config.init(device);
    let scores = [
        [[1.0, 0.0], [2.0, -1.0], [0.5, 4.0]],
        [[0.1, 0.2], [-3.0, 1.0], [2.0, 3.0]],
    ];
    let shares = [
        [[0.2, 0.3], [0.3, 0.1], [0.5, 0.9]],
        [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]],
    ];
    let logits = Tensor::<3>::from_floats(scores, device).require_grad();
    let shares = Tensor::<3>::from_floats(shares, device).require_grad();
    let labels = Tensor::<2, Int>::from_ints([[2, -100], [0, 1]], device);
    let weigh = |rows: Tensor<2>| {
        let upstream = Tensor::<2>::from_floats([[0.5, -1.5], [2.0, 3.0]], device);
        (floats(rows.clone()), (rows * upstream).sum())
    };
    let (values, objective) = match (unreduced, soft) {
        (true, true) => weigh(loss.forward_no_reduction(logits.clone(), shares.clone())),
        (true, false) => weigh(loss.forward_no_reduction(logits.clone(), labels)),
        (false, soft) => {
            let value = if soft {
                loss.forward(logits.clone(), shares.clone())
            } else {
                loss.forward(logits.clone(), labels)
            };
            (floats(value.clone()), value * -2.5)
        }
    };
    let gradients = objective.backward();
    let gradient = |tensor: &Tensor<3>| tensor.grad(&gradients).map(floats).unwrap_or_default();
    Found {
        loss: values,
        logits: gradient(&logits),
        targets: gradient(&shares),
    }
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 2e-6, "{found} {expected}");
    }
}

#[test]
fn a_backend_without_an_implementation_gets_the_same_loss_and_gradients() {
    let base = CrossEntropyLossConfig::new()
        .with_label_smoothing(0.1)
        .with_z_loss(0.01)
        .with_logit_scale(0.5)
        .with_logit_softcap(Some(3.0))
        .with_weight(Some(vec![1.0, 0.5, 2.0]));
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::BatchMean] {
        let config = base.clone().with_reduction(reduction);
        for unreduced in [false, true] {
            for soft in [false, true] {
                let solve = |device: Device| solve(&config, unreduced, soft, &device.autodiff());
                let (found, expected) = (solve(Device::ndarray()), solve(Device::flex()));
                assert_close(&found.loss, &expected.loss);
                assert_close(&found.logits, &expected.logits);
                assert_close(&found.targets, &expected.targets);
                assert_eq!(found.logits.len(), 12);
                assert_eq!(found.targets.len(), if soft { 12 } else { 0 });
            }
        }
    }
}

/// The log-sum-exp, log-probabilities and entropies; and the predicted classes, ranks and targets.
fn details(config: &CrossEntropyLossConfig, soft: bool, device: &Device) -> (Vec<f32>, Vec<i64>) {
    let loss = config.init(device);
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let scores = [
        [[1.0, 0.0], [2.0, -1.0], [2.0, 4.0]],
        [[0.1, nan], [-inf, nan], [2.0, 3.0]],
    ];
    let logits = Tensor::<3>::from_floats(scores, device).require_grad();
    let output = if soft {
        let shares = [
            [[0.2, 0.3], [0.3, 0.1], [0.5, 0.9]],
            [[0.5, 1.0], [0.0, 0.0], [0.5, 0.0]],
        ];
        loss.forward_with_entropy(logits, Tensor::<3>::from_floats(shares, device))
    } else {
        let labels = Tensor::<2, Int>::from_ints([[2, -100], [1, 1]], device);
        loss.forward_with_entropy(logits, labels)
    };
    let entropy = output.entropy.expect("it was asked for");
    let numbers = [output.lse, output.log_prob, output.max_log_prob, entropy];
    let numbers = numbers.map(floats).concat();
    let classes = [output.predicted, output.target_rank, output.target_class];
    let classes = classes.map(|classes| classes.into_data().iter::<i64>().collect::<Vec<_>>());
    (numbers, classes.concat())
}

#[test]
fn a_backend_without_an_implementation_gets_the_same_details() {
    let config = CrossEntropyLossConfig::new()
        .with_label_smoothing(0.1)
        .with_logit_scale(0.5)
        .with_weight(Some(vec![1.0, 0.5, 2.0]));
    let probabilities = CrossEntropyLossConfig::new().with_logits(false);
    for config in [config, probabilities] {
        for soft in [false, true] {
            let details = |device: Device| details(&config, soft, &device.autodiff());
            let (found, found_classes) = details(Device::ndarray());
            let (expected, expected_classes) = details(Device::flex());
            assert_eq!(found_classes, expected_classes);
            assert_eq!(found.len(), 16);
            for (found, expected) in found.iter().zip(&expected) {
                let same = found == expected || (found.is_nan() && expected.is_nan());
                assert!(
                    same || (found - expected).abs() < 2e-6,
                    "{found} {expected}"
                );
            }
        }
    }
}

#[test]
fn shares_of_a_mean_add_up() {
    let device = Device::ndarray().autodiff();
    let loss = CrossEntropyLossConfig::new()
        .with_weight(Some(vec![1.0, 0.5, 2.0]))
        .with_z_loss(0.1)
        .init(&device);
    let scores = [[0.5, 1.0, -1.0], [2.0, 0.0, 0.0], [0.0, 3.0, 1.0]];
    let logits = Tensor::<2>::from_floats(scores, &device).require_grad();
    let labels = Tensor::<1, Int>::from_ints([2, -100, 0], &device);
    let whole = loss.forward(logits.clone(), labels.clone());
    let expected = floats(logits.grad(&whole.clone().backward()).expect("tracked"));
    let normalizer = loss.normalizer(labels.clone());
    let shares = [0..1, 1..3].map(|rows| {
        let logits = logits.clone().slice([rows.clone()]);
        loss.forward_normalized(logits, labels.clone().slice([rows]), normalizer.clone())
    });
    let [first, second] = shares;
    let sum = first + second;
    assert_close(&floats(sum.clone()), &floats(whole));
    assert_close(
        &floats(logits.grad(&sum.backward()).expect("tracked")),
        &expected,
    );
}

/// The host does not look at the targets on such a backend, so a bad target is NaN, as on a GPU.
#[test]
fn a_bad_target_is_nan_and_named_by_check() {
    let device = Device::ndarray();
    let loss = CrossEntropyLossConfig::new()
        .with_empty(EmptyReduction::Zero)
        .init(&device);
    let logits = || Tensor::<2>::zeros([2, 3], &device);
    let labels = || Tensor::<1, Int>::from_ints([-100, 3], &device);
    assert!(
        loss.forward(logits(), labels())
            .into_scalar::<f32>()
            .is_nan()
    );
    let error = loss.check(&logits(), &labels()).unwrap_err();
    assert!(
        error.to_string().contains("the target of row 1 is 3"),
        "{error}"
    );
}

#[test]
fn without_autodiff_and_for_the_total_weight_it_works_too() {
    let device = Device::ndarray();
    let loss = CrossEntropyLossConfig::new()
        .with_weight(Some(vec![1.0, 0.5, 2.0]))
        .init(&device);
    let labels = || Tensor::<1, Int>::from_ints([2, 1, -100], &device);
    assert_eq!(loss.total_weight(labels()).into_scalar::<f32>(), 2.5);
    let value = loss.forward(Tensor::<2>::zeros([3, 3], &device), labels());
    assert!((value.into_scalar::<f32>() - 3f32.ln()).abs() < 1e-6);
}

/// Autodiff multiplies a logit by its gradient there, and 0 times infinity would be NaN.
#[test]
fn a_logit_that_is_not_finite_gets_a_gradient_of_zero() {
    let gradient = |device: Device, first: [f32; 3]| {
        let device = device.autodiff();
        let logits = Tensor::<2>::from_floats([first, [1.0, 0.0, 3.0]], &device).require_grad();
        let labels = Tensor::<1, Int>::from_ints([0, 2], &device);
        let loss = CrossEntropyLossConfig::new().init(&device);
        let gradients = (loss.forward(logits.clone(), labels) * 1.5).backward();
        floats(logits.grad(&gradients).expect("they require it"))
    };
    // A masked class.
    let masked = [0.5, f32::NEG_INFINITY, 2.0];
    let found = gradient(Device::ndarray(), masked);
    for (found, expected) in found.iter().zip(gradient(Device::flex(), masked)) {
        assert!((found - expected).abs() < 1e-6, "{found}, {expected}");
    }
    assert_eq!(found[1], 0.0);
    for spoiled in [f32::NAN, f32::INFINITY] {
        let found = gradient(Device::ndarray(), [0.5, spoiled, 2.0]);
        assert_eq!(found[1], 0.0);
        assert!(
            found[3..].iter().all(|slope| slope.is_finite()),
            "{found:?}"
        );
    }
}
