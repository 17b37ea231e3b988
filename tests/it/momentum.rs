//! A target follows its online module.

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::tensor::{DType, Device, Tensor};
use burn_cross_entropy::contrastive::{Buffers, ContrastiveError, Momentum, try_momentum_update};
use burn_cross_entropy::momentum_update;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::common::backends::tests_on;
use crate::common::modules::{Encoder, Fill, Seen};
use crate::common::run::numbers;

/// Asserts an average, up to a few roundings of f32: of the difference, of its product, of the sum.
#[track_caller]
fn assert_averaged(found: &[f64], target: &[f64], online: &[f64], momentum: f64) {
    assert_eq!(found.len(), target.len());
    for ((found, target), online) in found.iter().zip(target).zip(online) {
        let expected = momentum * target + (1.0 - momentum) * online;
        let allowed = 2f64.powi(-22) * target.abs().max(online.abs());
        assert!((found - expected).abs() <= allowed, "{found} {expected}");
    }
}

fn weights(linear: &Linear) -> Vec<f64> {
    numbers(linear.weight.val())
}

fn a_target_moves_by_its_share(device: &Device) {
    let config = Config {
        cases: 24,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let value = -1e3f32..1e3;
    let cases = (
        prop::collection::vec(value.clone(), 1..15),
        prop::collection::vec(value, 1..15),
        prop_oneof![Just(0.5), Just(0.99), Just(0.9999), 0.0..1.0],
    );
    TestRunner::new_with_rng(config, rng)
        .run(&cases, |(online, target, momentum)| {
            let online = Encoder::new(device).map(&mut Fill(&online));
            let target = Encoder::new(device).valid().map(&mut Fill(&target));
            let [before, goal] = [Seen::of(&target), Seen::of(&online)];
            let after = Seen::of(&momentum_update(&online, target, momentum));
            for name in ["layers", "norm", "temperature"] {
                let [found, before, goal] = [&after, &before, &goal].map(|seen| seen.under(name));
                assert_averaged(&found, &before, &goal, momentum);
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

fn momentum_1_keeps_and_0_takes_every_bit(device: &Device) {
    let special = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        -0.0,
        1e-40,
        f32::MAX,
        0.1,
    ];
    let [online, target] = [&special[..], &[2.5, f32::NAN, f32::MIN]]
        .map(|values| LinearConfig::new(4, 3).init(device).map(&mut Fill(values)));
    let bits = |linear: &Linear| {
        [
            linear.weight.val().into_data(),
            linear.bias.as_ref().expect("a bias").val().into_data(),
        ]
        .map(|data| data.as_bytes().to_vec())
    };
    for buffers in [Buffers::Average, Buffers::Copy, Buffers::Keep] {
        let update = |momentum| {
            let momentum = Momentum::new(momentum).with_buffers(buffers);
            bits(&momentum_update(&online, target.clone(), momentum))
        };
        assert_eq!(update(1.0), bits(&target));
        assert_eq!(update(0.0), bits(&online));
    }
}

/// Equal parameters stay equal after any number of updates, although 0.9999 and 0.0001 in f32 do not add up
/// to 1.
fn what_is_equal_stays_equal(device: &Device) {
    let online = LinearConfig::new(7, 5).init(device);
    let mut target = online.valid();
    for momentum in [0.9999, 0.3, 0.9999, 0.7, 0.9999] {
        target = momentum_update(&online, target, momentum);
    }
    assert_eq!(weights(&target), weights(&online));
}

fn a_target_keeps_what_is_its_own(device: &Device) {
    let online = Encoder::other(device);
    let mut tracked = Encoder::new(device);
    tracked.layers[1] = tracked.layers[1].clone().no_grad();
    for target in [tracked.valid(), tracked, Encoder::new(device).no_grad()] {
        let before = Seen::of(&target);
        // `train` brings the gradients back that `valid` suspended.
        let configured = Seen::of(&target.valid().train()).require_grad;
        let moved = momentum_update(&online, target, 0.5);
        let after = Seen::of(&moved);
        assert_eq!(after.ids, before.ids);
        assert_eq!(after.require_grad, before.require_grad);
        assert_ne!(after.values, before.values);
        assert_eq!(Seen::of(&moved.valid().train()).require_grad, configured);
    }
}

fn no_gradient_passes_the_update(device: &Device) {
    let online = LinearConfig::new(3, 2).init(device);
    let target = LinearConfig::new(3, 2).init(device);
    let inputs = Tensor::<2>::ones([4, 3], device);
    let moved = momentum_update(&online, target.clone(), 0.5);
    // The result is tracked as before, and a leaf of its own.
    let gradients = moved.forward(inputs.clone()).sum().backward();
    let gradient = moved.weight.val().grad(&gradients).expect("a leaf");
    assert_eq!(numbers(gradient), [4.0; 6]);
    assert!(online.weight.val().grad(&gradients).is_none());
    assert!(target.weight.val().grad(&gradients).is_none());

    let moved = momentum_update(&online, online.valid(), 0.5);
    assert!(
        !moved
            .forward(inputs.clone().without_autodiff())
            .is_autodiff()
    );
    // One loss takes both the online module and the target.
    let loss = (online.forward(inputs.clone()) * moved.forward(inputs)).sum();
    assert!(online.weight.val().grad(&loss.backward()).is_some());
}

fn buffers_follow_by_choice(device: &Device) {
    let online = Encoder::other(device);
    let frozen = || {
        let mut online = online.clone();
        online.layers[0] = online.layers[0].clone().no_grad();
        online
    };
    // The update also works where autodiff is off.
    for online in [frozen(), frozen().valid()] {
        let target = Encoder::new(device).valid();
        let [before, goal] = [Seen::of(&target), Seen::of(&online)];
        for buffers in [Buffers::Average, Buffers::Copy, Buffers::Keep] {
            let momentum = Momentum::new(0.75).with_buffers(buffers);
            // Each update gets a target of its own, because clones share their statistics.
            let after = Seen::of(&momentum_update(&online, target.valid(), momentum));
            for name in ["layers.1", "gamma", "beta", "temperature"] {
                let [found, before, goal] = [&after, &before, &goal].map(|seen| seen.under(name));
                assert_averaged(&found, &before, &goal, 0.75);
            }
            for name in ["running_mean", "running_var", "layers.0"] {
                let [found, before, goal] = [&after, &before, &goal].map(|seen| seen.under(name));
                match buffers {
                    Buffers::Average => assert_averaged(&found, &before, &goal, 0.75),
                    Buffers::Copy => assert_eq!(found, goal),
                    Buffers::Keep => assert_eq!(found, before),
                }
            }
            for name in ["steps", "mask"] {
                let [found, before, goal] = [&after, &before, &goal].map(|seen| seen.under(name));
                assert_ne!(before, goal);
                match buffers {
                    Buffers::Average | Buffers::Copy => assert_eq!(found, goal),
                    Buffers::Keep => assert_eq!(found, before),
                }
            }
        }
        let kept = Seen::of(&momentum_update(&online, target.valid(), 1.0));
        assert_eq!(kept.values, before.values);
    }
}

/// Buffers may hold infinities, such as a mask that is added to logits.
fn infinities_of_buffers_have_an_average(device: &Device) {
    const INFINITY: f32 = f32::INFINITY;
    let buffer = |values: [f32; 6]| {
        let values = Tensor::<1>::from_floats(values, device);
        Param::initialized(ParamId::new(), values)
    };
    let online = buffer([-INFINITY, INFINITY, -INFINITY, 2.0, 3e38, 0.5]);
    let target = buffer([-INFINITY, INFINITY, 1.0, INFINITY, -3e38, 0.5]);
    let found = numbers(momentum_update(&online, target, 0.75).val());
    let infinity = f64::INFINITY;
    assert_eq!(found[..4], [-infinity, infinity, -infinity, infinity]);
    assert!((found[4] / -1.5e38 - 1.0).abs() < 1e-6, "{found:?}");
    assert_eq!(found[5], 0.5);
}

/// Batch norm writes its statistics at the next forward; the update takes the newest.
fn statistics_of_the_last_forward_are_taken(device: &Device) {
    let train = |norm: &BatchNorm, values: [[f32; 2]; 3]| {
        norm.forward(Tensor::<2>::from_floats(values, device));
    };
    let means = |norm: &BatchNorm| numbers(norm.running_mean.value_sync());
    let online = BatchNormConfig::new(2).with_momentum(1.0).init(device);
    train(&online, [[1.0, 2.0], [2.0, 4.0], [6.0, 3.0]]);
    let copy = Momentum::new(0.5).with_buffers(Buffers::Copy);
    let target = BatchNormConfig::new(2).init(device).valid();
    assert_eq!(means(&momentum_update(&online, target, copy)), [3.0, 3.0]);

    // A target that trains too does not overwrite the update with its own statistics.
    let target = BatchNormConfig::new(2).with_momentum(1.0).init(device);
    train(&target, [[-1.0, 5.0], [0.0, 5.0], [1.0, 5.0]]);
    assert_eq!(means(&momentum_update(&online, target, copy)), [3.0, 3.0]);

    let target = BatchNormConfig::new(2).with_momentum(1.0).init(device);
    train(&target, [[-1.0, 5.0], [0.0, 5.0], [1.0, 5.0]]);
    let moved = momentum_update(&online, target, 0.5);
    assert_averaged(&means(&moved), &[0.0, 5.0], &[3.0, 3.0], 0.5);
    // The online module has not changed.
    assert_eq!(means(&online), [3.0, 3.0]);
}

fn a_target_keeps_its_dtype(device: &Device) {
    struct Cast(DType);
    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| tensor.cast(self.0))
        }
    }
    let online = LinearConfig::new(3, 2).init(device);
    let other = LinearConfig::new(3, 2).init(device).valid();
    let target = other.clone().map(&mut Cast(DType::F64));
    let moved = momentum_update(&online, target, 0.9);
    assert_eq!(moved.weight.val().dtype(), DType::F64);
    for ((found, target), online) in weights(&moved)
        .iter()
        .zip(weights(&other))
        .zip(weights(&online))
    {
        assert!((found - (0.9 * target + 0.1 * online)).abs() < 1e-15);
    }
    let wide = online.valid().map(&mut Cast(DType::F64));
    for momentum in [0.0, 0.5] {
        let moved = momentum_update(&wide, other.clone(), momentum);
        assert_eq!(moved.weight.val().dtype(), DType::F32);
        assert_averaged(
            &weights(&moved),
            &weights(&other),
            &weights(&online),
            momentum,
        );
    }
}

fn other_modules_are_refused(device: &Device) {
    let text = |error: Result<Encoder, ContrastiveError>| {
        let error = error.expect_err("other modules");
        assert!(matches!(error, ContrastiveError::DifferentModules { .. }));
        error.to_string()
    };
    let online = Encoder::new(device);

    let mut target = Encoder::new(device);
    target.layers[1] = LinearConfig::new(5, 4).with_bias(false).init(device);
    let message = text(try_momentum_update(&online, target, 0.9));
    assert!(message.contains("differ at parameter 2"), "{message}");
    assert!(
        message.contains("the online module has `layers.1.weight`, a float tensor of shape [5, 2]"),
        "{message}"
    );
    assert!(
        message.contains("the target `layers.1.weight`, a float tensor of shape [5, 4]"),
        "{message}"
    );

    // The target has as many parameters, in another order.
    let mut target = Encoder::new(device);
    target.layers.swap(0, 1);
    let message = text(try_momentum_update(&online, target, 0.9));
    assert!(message.contains("differ at parameter 0"), "{message}");

    let mut target = Encoder::new(device);
    target.layers.pop();
    let message = text(try_momentum_update(&online, target, 0.9));
    assert!(message.contains("the target `norm.gamma`"), "{message}");

    let longer = vec![LinearConfig::new(2, 2).with_bias(false).init(device); 2];
    let shorter = longer[..1].to_vec();
    for (online, target, said) in [
        (&longer, &shorter, "the target no more than 1;"),
        (&shorter, &longer, "the online module has no more than 1,"),
    ] {
        let message = try_momentum_update(online, target.clone(), 0.9)
            .unwrap_err()
            .to_string();
        assert!(message.contains(said), "{message}");
    }
}

tests_on! {
    every_backend: [
        a_target_moves_by_its_share,
    ],
    one_of_each_kind: [
        momentum_1_keeps_and_0_takes_every_bit,
        what_is_equal_stays_equal,
        a_target_keeps_what_is_its_own,
        no_gradient_passes_the_update,
        buffers_follow_by_choice,
        infinities_of_buffers_have_an_average,
        statistics_of_the_last_forward_are_taken,
        a_target_keeps_its_dtype,
        other_modules_are_refused,
    ],
}

#[cfg(feature = "flex")]
#[test]
fn a_momentum_out_of_range_is_named() {
    let module = LinearConfig::new(3, 2).init(&Device::flex());
    for momentum in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let error = try_momentum_update(&module, module.clone(), momentum).unwrap_err();
        let said =
            format!("momentum update: `momentum` is {momentum}, expected a number in [0, 1]");
        assert_eq!(error.to_string(), said);
    }
}

#[cfg(feature = "flex")]
#[test]
#[should_panic(expected = "momentum update: the modules differ at parameter 0")]
fn an_update_panics_with_the_text_of_the_error() {
    let device = Device::flex();
    let [online, target] = [2, 3].map(|outputs| LinearConfig::new(2, outputs).init(&device));
    momentum_update(&online, target, 0.9);
}

/// The update rounds half precision once, from f32.
#[cfg(feature = "flex")]
#[test]
fn half_precision_is_computed_in_f32() {
    let device = Device::flex();
    for (dtype, online, target) in [
        (DType::F16, 60_000.0, -60_000.0),
        (DType::BF16, 1.0, 1.0078125),
    ] {
        let parameter = |value: f32| {
            let value = Tensor::<1>::from_floats([value], &device).cast(dtype);
            Param::initialized(ParamId::new(), value)
        };
        let moved = momentum_update(&parameter(online), parameter(target), 0.25);
        let expected = Tensor::<1>::from_floats([0.25 * target + 0.75 * online], &device);
        assert_eq!(numbers(moved.val()), numbers(expected.cast(dtype)));
    }
}

/// Adapters follow, although their frozen base has no average where it is quantized.
#[cfg(feature = "flex")]
#[test]
fn adapters_follow() {
    use burn::module::{Lora, QLora, Quantizer};
    use burn::tensor::quantization::{Calibration, QuantValue};

    let device = Device::flex().autodiff();
    let scheme = device
        .settings()
        .quantization
        .scheme
        .with_value(QuantValue::Q8S);
    let qlora = || {
        let quantizer = Quantizer::new(Calibration::MinMax, scheme);
        QLora::new(Lora::new(2, 4.0), quantizer)
    };
    let linear = || LinearConfig::new(8, 4).with_bias(false).init(&device);
    for [online, target] in [
        [linear(), linear()].map(|linear| linear.apply_lora(Lora::new(2, 4.0))),
        [linear(), linear()].map(|linear| linear.apply_qlora(qlora())),
    ] {
        let factors = |linear: &Linear| {
            let adapter = linear.weight.adapter().expect("an adapter");
            numbers(adapter.a.val())
        };
        let quantized = matches!(target.weight.base().dtype(), DType::QFloat(_));
        let [before, goal] = [factors(&target), factors(&online)];
        assert_ne!(before, goal);
        let moved = momentum_update(&online, target, 0.9);
        assert_averaged(&factors(&moved), &before, &goal, 0.9);
        if quantized {
            let [found, goal] =
                [&moved, &online].map(|linear| numbers(linear.weight.base().dequantize()));
            assert_eq!(found, goal);
        }
    }
}

#[cfg(all(feature = "flex", feature = "ndarray"))]
#[test]
fn a_target_on_another_device_stays_there() {
    let online = Encoder::other(&Device::flex().autodiff());
    let target = Encoder::new(&Device::ndarray()).valid();
    let [before, goal] = [Seen::of(&target), Seen::of(&online)];
    let moved = momentum_update(&online, target, 0.5);
    assert_eq!(moved.devices(), [Device::ndarray()]);
    let found = Seen::of(&moved);
    for name in ["layers", "norm", "temperature"] {
        let [found, before, goal] = [&found, &before, &goal].map(|seen| seen.under(name));
        assert_averaged(&found, &before, &goal, 0.5);
    }
    assert_eq!(found.under("steps"), goal.under("steps"));
}
