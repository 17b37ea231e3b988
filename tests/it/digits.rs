//! The largest errors of losses and gradients, in units of the last place: those of a loss of the loss, those
//! of a gradient of the largest term of its row (an entry is a difference of two terms).
//!
//! The bounds are the measured errors with a little room; docs/correctness.md has a table of them. Rows are
//! ordinary, with logits within 6, or confident, with logits within 24: the difference of two logits is
//! rounded, so that the relative error of an exponential grows with it. The tolerances of the other tests are
//! wider, because their inputs may be as hard as can be.

use burn::tensor::{DType, Device};

use crate::common::backends::{is_host, tests_on};
use crate::common::problem::{Outcome, Problem, Targets};
use crate::common::run::{self, Form};
use crate::common::{exact, oracle};

/// The numbers of classes and of rows: rows of one block, of several, and of thousands of terms.
const SIZES: [(usize, usize); 5] = [(2, 128), (10, 96), (83, 24), (1000, 8), (4099, 2)];

#[derive(Clone, Copy, Debug, Default)]
struct Errors {
    loss: f64,
    gradient: f64,
}

impl Errors {
    fn add(&mut self, other: Self) {
        self.loss = self.loss.max(other.loss);
        self.gradient = self.gradient.max(other.gradient);
    }

    fn are_within(self, allowed: Self) -> bool {
        self.loss <= allowed.loss && self.gradient <= allowed.gradient
    }
}

/// Errors of ordinary and of confident rows.
#[derive(Clone, Copy, Debug, Default)]
struct Largest {
    ordinary: Errors,
    confident: Errors,
}

/// Random rows whose logits are within `6 spread`: plain, smoothed, and with distributions.
fn problems((classes, rows): (usize, usize), spread: f64, dtype: DType) -> [Problem; 3] {
    let of = |soft| {
        let seed = (classes + rows) as u64;
        let mut problem = Problem::random(&[rows, classes], 1, soft, seed).unreduced();
        problem.tracked_targets = false;
        for logit in &mut problem.logits {
            *logit = rounded(*logit * spread, dtype);
        }
        if let Targets::Distributions(shares) = &mut problem.targets {
            for share in shares {
                *share = rounded(*share, dtype);
            }
        }
        problem
    };
    let smoothed = of(false).with_config(|config| config.with_label_smoothing(0.1));
    [of(false), smoothed, of(true)]
}

/// The number of the dtype that is nearest to another.
fn rounded(number: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F64 => number,
        DType::F16 => burn::tensor::f16::from_f64(number).into(),
        DType::BF16 => burn::tensor::bf16::from_f64(number).into(),
        _ => f64::from(number as f32),
    }
}

/// The unit in the last place of a number.
fn unit(number: f64, dtype: DType) -> f64 {
    let (bits, least) = match dtype {
        DType::F64 => (52, -1022),
        DType::F16 => (10, -14),
        DType::BF16 => (7, -126),
        _ => (23, -126),
    };
    let exponent = number.abs().log2().floor().max(f64::from(least));
    (exponent - f64::from(bits)).exp2()
}

fn errors(problem: &Problem, found: &Outcome, dtype: DType) -> Errors {
    // The loss of half precision is in f32.
    let of_loss = match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    };
    let exact = exact::solve(problem);
    let terms = oracle::solve(problem).terms.logits_gradient;
    let mut errors = Errors::default();
    for (found, exact) in found.loss.iter().zip(&exact.loss) {
        errors.loss = errors
            .loss
            .max((found - exact).abs() / unit(*exact, of_loss));
    }
    let rows = terms.chunks(problem.classes());
    let pairs = found.logits_gradient.iter().zip(&exact.logits_gradient);
    let largest = rows.flat_map(|row| {
        let largest = row.iter().copied().fold(0.0, f64::max);
        row.iter().map(move |_| largest)
    });
    for ((found, exact), largest) in pairs.zip(largest) {
        let error = (found - exact).abs() / unit(largest, dtype);
        errors.gradient = errors.gradient.max(error);
    }
    errors
}

fn largest_errors(dtype: DType, device: &Device) -> Largest {
    let form = Form {
        float: dtype,
        ..Form::default()
    };
    let of_spread = |spread| {
        let mut largest = Errors::default();
        for size in SIZES {
            for problem in problems(size, spread, dtype) {
                let found = run::solve_in(&problem, form, device);
                largest.add(errors(&problem, &found, dtype));
            }
        }
        largest
    };
    let largest = Largest {
        ordinary: of_spread(1.0),
        confident: of_spread(4.0),
    };
    println!("{dtype:?} on {device:?}: {largest:?}");
    largest
}

/// The allowed errors: loss and gradient of ordinary rows, of confident rows.
fn allowed([loss, gradient, confident_loss, confident_gradient]: [f64; 4]) -> Largest {
    Largest {
        ordinary: Errors { loss, gradient },
        confident: Errors {
            loss: confident_loss,
            gradient: confident_gradient,
        },
    }
}

#[track_caller]
fn assert_within(dtype: DType, on_host: [f64; 4], on_device: [f64; 4], device: &Device) {
    let found = largest_errors(dtype, device);
    let allowed = allowed(if is_host(device) { on_host } else { on_device });
    let is_within = found.ordinary.are_within(allowed.ordinary)
        && found.confident.are_within(allowed.confident);
    assert!(is_within, "{dtype:?}: {found:?}, allowed are {allowed:?}");
}

fn single_precision_has_its_digits(device: &Device) {
    let on_host = [7.0, 7.0, 32.0, 30.0];
    let on_device = [10.0, 9.0, 48.0, 42.0];
    assert_within(DType::F32, on_host, on_device, device);
}

fn double_precision_has_its_digits(device: &Device) {
    let on_host = [2.0, 3.0, 3.0, 3.0];
    let on_device = [4.0, 4.0, 4.0, 4.0];
    assert_within(DType::F64, on_host, on_device, device);
}

fn half_precision_has_its_digits(device: &Device) {
    for dtype in [DType::F16, DType::BF16] {
        if device.supports_dtype(dtype) {
            let on_host = [2.0, 1.3, 2.0, 1.3];
            let on_device = [8.0, 0.51, 25.0, 0.51];
            assert_within(dtype, on_host, on_device, device);
        }
    }
}

tests_on! {
    every_backend: [single_precision_has_its_digits],
    f64: [double_precision_has_its_digits],
    half: [half_precision_has_its_digits],
}
