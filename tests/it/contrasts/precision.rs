//! Several positives of a row, and pairs apart, of features in half precision: loss and gradients are those of the rounded
//! features, since everything behind them is in f32. The gradients of features are rounded once more.

use burn::tensor::{DType, Device};

use super::{CASES, Case, LARGE_CHUNK, SMALL_CHUNK, Way};
use crate::common::backends::{is_host, is_processor, tests_on};
use crate::common::run::numbers;
use crate::common::tolerance::{assert_numbers, of_projection};
use crate::common::values::rounded;

/// Results of a case.
struct Found {
    loss: Vec<f64>,
    tensors: Vec<Vec<f64>>,
    parameters: Vec<f64>,
}

/// The case with numbers of the dtype.
fn rounded_to(case: &Case, dtype: DType) -> Case {
    let number = |number: &f64| rounded(*number, dtype);
    let tensor = |values: &Vec<f64>| values.iter().map(number).collect();
    let all = |tensors: &Vec<Vec<f64>>| tensors.iter().map(tensor).collect();
    Case {
        tensors: all(&case.tensors),
        log_q: case.log_q.as_ref().map(all),
        ..case.clone()
    }
}

fn solve(case: &Case, way: Way, device: &Device) -> Found {
    let loss = case.init(way, device);
    let leaves = case.leaves(way.dtype, device);
    let value = case.reduced(&loss, &leaves, device);
    let behind = match way.dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    };
    assert_eq!(value.dtype(), behind, "{}", case.name);
    let gradients = (value.clone() * case.upstream).backward();
    let of_tensors = leaves.tensors.iter().map(|leaf| {
        let gradient = leaf.grad(&gradients).expect("it is tracked");
        assert_eq!(gradient.dtype(), way.dtype, "{}", case.name);
        numbers(gradient)
    });
    Found {
        loss: numbers(value),
        tensors: of_tensors.collect(),
        parameters: loss.slopes(&gradients),
    }
}

/// The expected results are those of the same numbers in f64, or in f32 on devices.
#[track_caller]
fn assert_half(case: &Case, way: Way, device: &Device) {
    let case = rounded_to(case, way.dtype);
    let wide = match is_host(device) {
        true => DType::F64,
        false => DType::F32,
    };
    let expected = solve(&case, Way { dtype: wide, ..way }, device);
    let found = solve(&case, way, device);
    let name = format!("{}, {way:?}", case.name);
    let allowed = of_projection(way.dtype, device);
    assert_numbers(&name, &found.loss, &expected.loss, allowed.loss);
    for (found, expected) in found.tensors.iter().zip(&expected.tensors) {
        assert_numbers(&name, found, expected, allowed.gradient);
    }
    // Parameters are in f32, and so are their gradients.
    let allowed = 2.0 * of_projection(DType::F32, device).gradient;
    let (found, expected) = (&found.parameters, &expected.parameters);
    assert_numbers(&format!("{name}: parameters"), found, expected, allowed);
}

/// Cases of losses that f16 or bf16 may come into. Devices try dozens of kernels for each size of product: they have one
/// case of each loss, and the processor's runtime those of one size.
fn cases(device: &Device) -> Vec<&'static Case> {
    let is_first = |case: &Case| {
        let mut alike = CASES
            .iter()
            .filter(|other| (&other.form, &other.sup_con) == (&case.form, &case.sup_con));
        alike.next().is_some_and(|first| first.name == case.name)
    };
    let is_wanted = |case: &&Case| match case.form.as_str() {
        "labels" => is_host(device) || (is_first(case) && !is_processor(device)),
        "indices" | "sig_lip_labels" => is_host(device) || is_first(case),
        "mask" | "sig_lip" | "sig_lip_pairs" => is_host(device),
        _ => false,
    };
    CASES.iter().filter(is_wanted).collect()
}

fn half_precision_is_that_of_the_rounded_features(device: &Device) {
    let cases = cases(device);
    for form in ["indices", "sig_lip_labels"] {
        assert!(cases.iter().any(|case| case.form == form), "{form}");
    }
    let has = |dtype: &DType| device.supports_dtype(*dtype);
    let dtypes: Vec<DType> = [DType::F16, DType::BF16].into_iter().filter(has).collect();
    assert!(!dtypes.is_empty());
    for (at, case) in cases.into_iter().enumerate() {
        for &dtype in &dtypes {
            let way = Way {
                dtype,
                learnable: at % 2 == 0,
                chunk_bytes: LARGE_CHUNK,
            };
            assert_half(case, way, device);
            if is_host(device) {
                let other = Way {
                    learnable: !way.learnable,
                    chunk_bytes: SMALL_CHUNK,
                    ..way
                };
                assert_half(case, other, device);
            }
        }
    }
}

tests_on! {
    half: [
        half_precision_is_that_of_the_rounded_features,
    ],
}
