//! What is asked of a problem, and the teacher whose logits are its target, as bytes.

use burn::nn::loss::Reduction;
use burn::tensor::DType;

use crate::code::Code;
use crate::common::problem::Problem;
use crate::common::row_value::Asked;
use crate::common::teacher::Teacher;

/// Exponents from which on an exponential is a number in f32, and in f64. A share that may be 0 decides whether a mask
/// at its class is infinitely wrong.
const LEAST_OF_F32: f64 = -80.0;
const LEAST_OF_F64: f64 = -600.0;
/// The exponent at which an exponential is 0 in both.
const NOTHING: f64 = -800.0;

/// The value that is asked for. Options are known; upstream gradients are not.
pub fn code_asked(code: &mut impl Code, asked: &mut Asked, problem: &mut Problem) {
    const VALUES: [Asked; 6] = [
        Asked::Loss,
        Asked::LogProb,
        Asked::Entropy,
        Asked::LogSumExp,
        Asked::Loss,
        Asked::Loss,
    ];
    code.one_of(asked, &VALUES);
    if asked.is_of_logits() && !problem.config.logits {
        *asked = Asked::Loss;
    }
    if *asked != Asked::Loss {
        problem.unreduced = true;
        problem.config.reduction = Reduction::Mean;
    }
}

/// A teacher without logits, and the options that it can be beside.
pub fn code_teacher(code: &mut impl Code, teacher: &mut Teacher, problem: &mut Problem) {
    const TEMPERATURES: [f64; 6] = [1.0, 2.0, 2.5, 0.7, 10.0, 0.125];
    code.option(&mut teacher.temperature, &TEMPERATURES, |temperature| {
        (2f64.powi(-6)..=2f64.powi(10)).contains(&temperature)
    });
    code.flag(&mut teacher.is_squared);
    code.flag(&mut teacher.is_divergence);
    let config = &mut problem.config;
    if teacher.is_divergence {
        config.weight = None;
        config.label_smoothing = 0.0;
    }
    // The square of a temperature comes after a loss, and cannot bring it back into the range.
    if !(1e-6..=1e6).contains(&config.logit_scale) {
        config.logit_scale = 1.0;
    }
}

/// Masks the classes whose shares are at the lower end of the range.
pub fn fit_shares(teacher: &mut Teacher, problem: &Problem, dtype: DType) {
    let least = match dtype {
        DType::F64 => LEAST_OF_F64,
        _ => LEAST_OF_F32,
    };
    for row in 0..problem.rows() {
        let places = || (0..problem.classes()).map(|class| problem.at(row, class));
        let largest = places()
            .map(|at| teacher.logits[at])
            .fold(f64::NEG_INFINITY, f64::max);
        for at in places() {
            let exponent = (teacher.logits[at] - largest) / teacher.temperature;
            if (NOTHING..least).contains(&exponent) {
                teacher.logits[at] = f64::NEG_INFINITY;
            }
        }
    }
}
