//! Edge cases of the projection: outputs with ignored rows, upstream gradients that are not finite,
//! probabilities, no features, half precision on a device.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{
    CrossEntropyLossConfig, LinearCrossEntropyLossConfig, Normalizer, ProjectedLogits,
};

use super::projected::{Form, Projected};
use crate::common::backends::tests_on;
use crate::common::problem::{Problem, Targets};
use crate::common::run::{float_tensor, numbers};
use crate::common::tolerance::{assert_numbers, of_projection};

/// A loss with an output, which has logits for ignored rows too, has the gradients of the loss alone.
fn an_ignored_row_has_no_part_beside_an_output(device: &Device) {
    let mut projected = Projected::random([10, 4, 6], false, 31).with(|p| p.with_ignored(2));
    let Targets::Indices(targets) = projected.problem.targets.clone() else {
        panic!("indices were asked for");
    };
    for row in (0..10).filter(|row| targets[*row] == 2) {
        projected.input[row * 4 + 1] = f64::NAN;
    }
    let loss = LinearCrossEntropyLossConfig::new()
        .with_loss(projected.problem.config.clone())
        .with_chunk_rows(Some(4))
        .init(device);
    let of_logits = projected.problem.config.clone().init(device);
    let options = (device, DType::F32);
    let run = |form: usize| {
        let input = float_tensor::<2>(&projected.input, &[10, 4], options).require_grad();
        let weight = float_tensor::<2>(&projected.weight, &[4, 6], options).require_grad();
        let data = TensorData::new(targets.clone(), [10]);
        let targets = Tensor::<1, Int>::from_data(data, device);
        let logits = || ProjectedLogits::new(input.clone(), weight.clone()).with_chunk_rows(4);
        let value = match form {
            0 => loss.forward(input.clone(), weight.clone(), None, targets),
            1 => of_logits.forward_with_output(logits(), targets).loss,
            _ => of_logits.forward_with_entropy(logits(), targets).loss,
        };
        let gradients = (value.clone() * -1.75).backward();
        let of = |tensor: &Tensor<2>| numbers(tensor.grad(&gradients).expect("it is tracked"));
        [numbers(value), of(&input), of(&weight)]
    };
    let expected = run(0);
    assert!(expected.iter().flatten().all(|number| number.is_finite()));
    for form in [1, 2] {
        for (found, expected) in run(form).iter().zip(&expected) {
            let allowed = of_projection(DType::F32, device).gradient;
            assert_numbers("with an output", found, expected, allowed);
        }
    }
}

/// The gradient of a mean over no rows is 0, even where the mean is NaN and the objective passes it on. The
/// gradient of an ignored row is 0 under an infinite upstream gradient.
fn nothing_gets_a_gradient_from_what_is_not_finite(device: &Device) {
    let loss = LinearCrossEntropyLossConfig::new()
        .with_chunk_rows(Some(2))
        .init(device);
    let run = |targets: [i64; 3], factor: f32| {
        let input = Tensor::<2>::ones([3, 4], device).require_grad();
        let weight = Tensor::<2>::ones([4, 5], device).require_grad();
        let bias = Tensor::<1>::ones([5], device).require_grad();
        let targets = Tensor::<1, Int>::from_ints(targets, device);
        let value = loss.forward(input.clone(), weight.clone(), Some(bias.clone()), targets);
        let gradients = (value.clone() * value * factor).backward();
        let input = numbers(input.grad(&gradients).expect("it is tracked"));
        let weight = numbers(weight.grad(&gradients).expect("it is tracked"));
        let bias = numbers(bias.grad(&gradients).expect("it is tracked"));
        (input, weight, bias)
    };
    let (input, weight, bias) = run([-100; 3], 1.0);
    assert_eq!(input, vec![0.0; 12]);
    assert_eq!(weight, vec![0.0; 20]);
    assert_eq!(bias, vec![0.0; 5]);
    let (input, ..) = run([1, -100, 2], f32::INFINITY);
    assert_eq!(input[4..8], [0.0; 4]);
}

/// A projection that makes probabilities.
fn probabilities_agree(device: &Device) {
    for soft in [false, true] {
        for unreduced in [false, true] {
            let mut projected = Projected::random([9, 4, 7], soft, 32).with(|problem| {
                let problem = problem.with_weights();
                problem.with_config(|config| config.with_logits(false).with_label_smoothing(0.1))
            });
            if unreduced {
                projected = projected.with(Problem::unreduced);
            }
            let positive = |numbers: &mut Vec<f64>| {
                for number in numbers {
                    *number = f64::from((number.abs() + 0.05) as f32);
                }
            };
            positive(&mut projected.input);
            positive(&mut projected.weight);
            projected.bias.iter_mut().for_each(positive);
            projected.project();
            projected.assert_agrees(Form::chunked(Some(4)), device);
        }
    }
}

/// Without features all logits are the bias.
fn no_features_leave_the_bias(device: &Device) {
    let loss = LinearCrossEntropyLossConfig::new()
        .with_chunk_rows(Some(2))
        .init(device);
    let input = Tensor::<2>::zeros([3, 0], device);
    let weight = Tensor::<2>::zeros([0, 2], device);
    let bias = Tensor::<1>::from_floats([0.0, 3f32.ln()], device).require_grad();
    let targets = Tensor::<1, Int>::from_ints([0, 1, 1], device);
    let value = loss.forward(input, weight, Some(bias.clone()), targets);
    let expected = (4f64.ln() + 2.0 * (4.0 / 3.0f64).ln()) / 3.0;
    assert_numbers("loss", &numbers(value.clone()), &[expected], 1e-6);
    let gradient = numbers(bias.grad(&value.backward()).expect("it is tracked"));
    let slope = 1.0 / 4.0 - 1.0 / 3.0;
    assert_numbers("bias", &gradient, &[slope, -slope], 1e-6);
}

/// The gradient of an ignored row is exactly 0, with an output or without, even where 0 times the weight is
/// not 0.
fn an_ignored_row_gets_0_whatever_the_weight_is(device: &Device) {
    let input = || Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], device).require_grad();
    let weight =
        || Tensor::<2>::from_floats([[f32::NEG_INFINITY, 1.0, 0.5], [0.25, -1.0, 2.0]], device);
    let targets = || Tensor::<1, Int>::from_ints([1, -100], device);
    let loss = LinearCrossEntropyLossConfig::new().init(device);
    let (alone, beside) = (input(), input());
    let value = loss.forward(alone.clone(), weight(), None, targets());
    let logits = ProjectedLogits::new(beside.clone(), weight());
    let of_logits = CrossEntropyLossConfig::new().init(device);
    let output = of_logits.forward_with_output(logits, targets());
    for (input, value) in [(alone, value), (beside, output.loss)] {
        let gradient = numbers(input.grad(&value.backward()).expect("it is tracked"));
        assert_eq!(gradient[2..], [0.0, 0.0]);
    }
}

/// The divisor of a mean may come from elsewhere. All rows here are ignored, and the divisor is not finite,
/// or a penalty is divided by 0.
fn the_share_of_ignored_rows_is_that_of_their_logits(device: &Device) {
    let config = CrossEntropyLossConfig::new().with_z_loss(0.5);
    let loss = config.init(device);
    let one = |number: f32| Tensor::<1>::from_floats([number], device);
    for (total, counted, is_nan) in [
        (f32::NAN, 1.0, true),
        (2.0, 0.0, true),
        (2.0, 1.0, false),
        (0.0, 1.0, true),
    ] {
        let normalizer = || Normalizer::new(one(total), one(counted));
        let ignored = || Tensor::<1, Int>::full([2], -100, device);
        let (input, weight) = (
            Tensor::<2>::ones([2, 2], device),
            Tensor::<2>::ones([2, 3], device),
        );
        let logits = input.clone().matmul(weight.clone());
        let expected = numbers(loss.forward_normalized(logits, ignored(), normalizer()));
        let projected = ProjectedLogits::new(input, weight);
        let found = loss.forward_normalized(projected, ignored(), normalizer());
        let found = numbers(found)[0];
        for share in [found, expected[0]] {
            assert_eq!(share.is_nan(), is_nan, "{total} {counted}: {share}");
        }
        assert!(is_nan || found == expected[0], "{found} {}", expected[0]);
    }
}

/// A view without elements may begin behind its memory.
fn a_flipped_weight_without_features_is_none(device: &Device) {
    let loss = LinearCrossEntropyLossConfig::new().init(device);
    let weight = Tensor::<2>::zeros([0, 5], device).flip([1]);
    let targets = Tensor::<1, Int>::from_ints([0, 4], device);
    let value = loss.forward(Tensor::<2>::zeros([2, 0], device), weight, None, targets);
    assert_numbers("loss", &numbers(value), &[5f64.ln()], 1e-6);
}

/// A device rounds each product of half precision to it, so logits of up to 8 are off by 2^-9 and more. A
/// device without half precision returns an error.
#[cfg(any(feature = "cpu", feature = "wgpu", feature = "cuda"))]
fn half_precision_on_a_device_is_that_of_its_products(device: &Device) {
    let projected = Projected::random([22, 11, 37], false, 3).rounded_to(DType::F16);
    let config = LinearCrossEntropyLossConfig::new();
    if !device.supports_dtype(DType::F16) {
        let loss = config.init(device);
        let half = |shape: [usize; 2]| Tensor::<2>::zeros(shape, device).cast(DType::F16);
        let targets = Tensor::<1, Int>::zeros([2], device);
        let refused = loss.try_forward(half([2, 3]), half([3, 4]), None, targets);
        assert!(refused.expect_err("no f16").to_string().contains("F16"));
        return;
    }
    for unreduced in [false, true] {
        let projected = match unreduced {
            true => projected.clone().with(Problem::unreduced),
            false => projected.clone(),
        };
        let form = Form {
            dtype: DType::F16,
            ..Form::chunked(Some(7))
        };
        let (found, expected) = (projected.found(form, device), projected.expected());
        assert_numbers("loss", &found.loss, &expected.loss, 4e-3);
        assert_numbers("input", &found.input, &expected.input, 2e-2);
        assert_numbers("weight", &found.weight, &expected.weight, 2e-2);
    }
}

/// The sums over the rows of all chunks are rounded to half precision once: in chunks they are the same as in one piece,
/// but for a few that lie between two numbers. A chunk's part that were rounded would change most.
#[cfg(any(feature = "cpu", feature = "wgpu", feature = "cuda"))]
fn sums_over_chunks_are_rounded_once(device: &Device) {
    for dtype in [DType::F16, DType::BF16] {
        if !device.supports_dtype(dtype) {
            continue;
        }
        let projected = Projected::random([45, 11, 37], false, 3).rounded_to(dtype);
        assert!(projected.bias.is_some());
        let found = |rows| {
            let form = Form {
                dtype,
                ..Form::chunked(Some(rows))
            };
            projected.found(form, device)
        };
        let (whole, chunks) = (found(45), found(3));
        for (name, whole, chunks) in [
            ("weight", Some(&whole.weight), Some(&chunks.weight)),
            ("bias", whole.bias.as_ref(), chunks.bias.as_ref()),
        ] {
            let pairs = whole.expect(name).iter().zip(chunks.expect(name));
            let (count, others) = pairs.fold((0, 0), |(count, others), (one, other)| {
                (count + 1, others + usize::from(one != other))
            });
            assert!(
                others * 20 <= count,
                "{dtype:?} {name}: {others} of {count} differ"
            );
        }
    }
}

tests_on! {
    every_backend: [
        an_ignored_row_has_no_part_beside_an_output,
        nothing_gets_a_gradient_from_what_is_not_finite,
        no_features_leave_the_bias,
    ],
    host: [
        an_ignored_row_gets_0_whatever_the_weight_is,
        the_share_of_ignored_rows_is_that_of_their_logits,
        a_flipped_weight_without_features_is_none,
    ],
    one_of_each_kind: [
        probabilities_agree,
    ],
    cubecl: [
        half_precision_on_a_device_is_that_of_its_products,
        sums_over_chunks_are_rounded_once,
    ],
}
