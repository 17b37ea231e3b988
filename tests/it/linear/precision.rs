//! Other dtypes and layouts, finite differences, and the rounding error of dividing the rows into chunks.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Tensor};
use burn_cross_entropy::LinearCrossEntropyLossConfig;

use super::options::every_option;
use super::projected::{Form, Found, Projected, chunks};
use crate::common::backends::tests_on;
use crate::common::problem::Problem;
use crate::common::run::{Layout, labels};
use crate::common::tolerance::{self, assert_numbers, behind_products};
use crate::common::values::rounded;

/// CPU backends compute in f32 everything between the rounded input and the rounding of the gradients.
#[cfg(feature = "flex")]
#[test]
fn half_precision_is_computed_in_f32() {
    let device = Device::flex().autodiff();
    for dtype in [DType::F16, DType::BF16] {
        for chunk in chunks(&device) {
            for soft in [false, true] {
                for unreduced in [false, true] {
                    let projected = Projected::random([22, 11, 37], soft, 3)
                        .with(every_option)
                        .rounded_to(dtype);
                    let projected = match unreduced {
                        true => projected.with(Problem::unreduced),
                        false => projected,
                    };
                    let form = Form {
                        dtype,
                        ..Form::chunked(chunk)
                    };
                    projected.assert_agrees(form, &device);
                }
            }
        }
    }
}

/// A loss that is scaled up keeps gradients that would otherwise be below f16's smallest number.
#[cfg(feature = "flex")]
#[test]
fn a_scaled_loss_in_f16_keeps_small_gradients() {
    let device = Device::flex().autodiff();
    let mut projected = Projected::random([200, 5, 11], false, 9).rounded_to(DType::F16);
    projected.problem.upstream = vec![65536.0];
    // These class weights make the mean's gradients small.
    projected.problem = projected.problem.with_config(|config| {
        let weights = (0..11).map(|class| if class == 0 { 1e6 } else { 1.0 });
        config.with_weight(Some(weights.collect()))
    });
    let form = Form {
        dtype: DType::F16,
        ..Form::chunked(Some(64))
    };
    projected.assert_agrees(form, &device);
}

fn f64_agrees(device: &Device) {
    for chunk in chunks(device) {
        for soft in [false, true] {
            let form = Form {
                dtype: DType::F64,
                ..Form::chunked(chunk)
            };
            let projected = Projected::random([22, 11, 37], soft, 3).with(every_option);
            projected.assert_agrees(form, device);
            projected
                .with(Problem::unreduced)
                .assert_agrees(form, device);
        }
    }
}

/// Takes input and weight as views of other memory.
fn views_agree(device: &Device) {
    for layout in Layout::VIEWS {
        for unreduced in [false, true] {
            let projected = Projected::random([13, 6, 10], false, 5).with(every_option);
            let projected = match unreduced {
                true => projected.with(Problem::unreduced),
                false => projected,
            };
            let form = Form {
                layout,
                ..Form::chunked(Some(5))
            };
            projected.assert_agrees(form, device);
        }
    }
}

/// Compares the gradients with central differences in f64 of the crate's own loss.
fn gradients_are_those_of_the_loss(device: &Device) {
    let form = Form {
        dtype: DType::F64,
        ..Form::chunked(Some(3))
    };
    let projected = Projected::random([7, 4, 6], true, 8).with(every_option);
    let upstream = projected.problem.upstream[0];
    let gradients = projected.found(form, device);
    let step = 1e-5;
    let bias = |projected: &Projected| projected.bias.clone().expect("there is one");
    let bias_gradient = gradients.bias.clone().expect("there is one");
    for (slot, gradient) in [
        (0, &gradients.input),
        (1, &gradients.weight),
        (2, &bias_gradient),
    ] {
        for (at, &gradient) in gradient.iter().enumerate() {
            let loss_at = |value: f64| {
                let mut moved = projected.clone();
                match slot {
                    0 => moved.input[at] = value,
                    1 => moved.weight[at] = value,
                    _ => moved.bias.as_mut().expect("there is one")[at] = value,
                }
                moved.found(form, device).loss[0]
            };
            let value = match slot {
                0 => projected.input[at],
                1 => projected.weight[at],
                _ => bias(&projected)[at],
            };
            let difference = (loss_at(value + step) - loss_at(value - step)) / (2.0 * step);
            let expected = difference * upstream;
            // The allowed error covers the third derivative times the square of the step, and 1e-16 over the
            // step.
            assert!(
                (gradient - expected).abs() < 1e-8,
                "{slot} {at}: {gradient} is not {expected}"
            );
        }
    }
}

/// The largest error of loss and gradients, each over the largest number of its tensor.
fn error(found: &Found, expected: &Found) -> f64 {
    let of = |found: &[f64], expected: &[f64]| {
        let largest = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        let errors = found.iter().zip(expected).map(|(x, y)| (x - y).abs());
        errors.fold(0.0, f64::max) / largest
    };
    let bias = |found: &Found| found.bias.clone().expect("there is one");
    [
        of(&found.loss, &expected.loss),
        of(&found.input, &expected.input),
        of(&found.weight, &expected.weight),
        of(&bias(found), &bias(expected)),
    ]
    .into_iter()
    .fold(0.0, f64::max)
}

/// The error of 64 chunks is at most twice the error of one.
fn error_does_not_grow_with_the_chunks(device: &Device) {
    for reduction in [Reduction::Mean, Reduction::Sum] {
        let projected = Projected::random([256, 24, 50], false, 10)
            .with(|problem| problem.with_config(|config| config.with_reduction(reduction)));
        let expected = projected.expected();
        let error_in = |rows: usize| {
            let found = projected.found(Form::chunked(Some(rows)), device);
            error(&found, &expected)
        };
        let (one, many) = (error_in(256), error_in(4));
        assert!(one > 0.0, "f32 has no rounding");
        // Of two sizes, autotune may take TF32 for one.
        let allowed = behind_products(2.0 * one, device);
        assert!(many <= allowed, "{many:e} in 64 chunks, {one:e} in one");
    }
}

/// An input of half precision beside a weight of f32: products, loss and the weight's gradient are of f32, and the
/// input's gradient is rounded once.
fn mixed_precision_is_computed_in_f32(device: &Device) {
    for input in [DType::F16, DType::BF16] {
        if !device.supports_dtype(input) {
            continue;
        }
        for (soft, unreduced) in [(false, false), (false, true), (true, false)] {
            let mut projected = Projected::random([22, 11, 37], soft, 3).with(every_option);
            for value in &mut projected.input {
                *value = rounded(*value, input);
            }
            projected.project();
            let projected = match unreduced {
                true => projected.with(Problem::unreduced),
                false => projected,
            };
            let form = Form {
                input: Some(input),
                ..Form::chunked(Some(7))
            };
            let (mut found, mut expected) = (projected.found(form, device), projected.expected());
            let allowed = tolerance::of_projection(input, device).gradient;
            assert_numbers("input", &found.input, &expected.input, allowed);
            found.input.clear();
            expected.input.clear();
            found.assert_close("mixed", &expected, (device, DType::F32));
        }
    }
}

fn other_mixtures_are_refused(device: &Device) {
    if !device.supports_dtype(DType::F16) {
        return;
    }
    let of = |input: DType, weight: DType| {
        let loss = LinearCrossEntropyLossConfig::new().init(device);
        let input = Tensor::<2>::zeros([2, 3], (device, input));
        let weight = Tensor::<2>::zeros([3, 5], (device, weight));
        loss.try_forward(input, weight, None, labels(&[0, 1], device))
    };
    assert!(of(DType::F16, DType::F32).is_ok());
    let error = of(DType::F32, DType::F16).expect_err("the weight is narrower");
    assert!(
        error
            .to_string()
            .contains("of dtype F16, but the input is of F32"),
        "{error}"
    );
}

#[cfg(feature = "flex")]
#[test]
fn a_quantised_weight_is_refused() {
    use burn::tensor::quantization::{QuantScheme, QuantValue};
    let device = Device::flex();
    let weight = Tensor::<2>::ones([32, 32], &device);
    let scheme = QuantScheme::default().with_value(QuantValue::Q8S);
    let weight = weight.quantize_dynamic(&scheme);
    let loss = LinearCrossEntropyLossConfig::new().init(&device);
    let input = Tensor::<2>::zeros([2, 32], &device);
    let error = loss
        .try_forward(
            input.clone(),
            weight.clone(),
            None,
            labels(&[0, 1], &device),
        )
        .expect_err("it is quantised");
    assert!(error.to_string().contains("`dequantize()`"), "{error}");
    let value = loss.forward(input, weight.dequantize(), None, labels(&[0, 1], &device));
    assert!((value.into_scalar::<f32>() - 32f32.ln()).abs() < 1e-6);
}

tests_on! {
    every_backend: [
        views_agree,
        mixed_precision_is_computed_in_f32,
    ],
    one_of_each_kind: [other_mixtures_are_refused],
    products: [
        error_does_not_grow_with_the_chunks,
    ],
    host: [
        f64_agrees,
        gradients_are_those_of_the_loss,
    ],
}
