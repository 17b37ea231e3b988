//! The allowed differences between this crate and PyTorch.

use crate::agreement::{Outcome, Tolerance};
use crate::entries::{Entry, Precision};

const LARGEST_F16: f64 = 65504.0;

pub fn tolerance(entry: &Entry, pytorch: &Outcome) -> Tolerance {
    match entry.precision {
        Precision::F32 => Tolerance::of_f32(pytorch.gradient_sum / entry.size() as f64),
        // PyTorch rounds the log-probabilities, of 16 and more, to bf16: by up to 2^-4, a factor of up to
        // 1.065. It then adds them up in bf16. This crate computes in f32 and rounds only the gradient, to
        // 2^-9.
        Precision::Bf16 => Tolerance {
            loss: 2e-2,
            gradient_sum: 1e-2,
            probe: 7.5e-2,
            probe_floor: 0.0,
        },
        // PyTorch rounds the log-probabilities to f16: by up to 2^-7, a factor of up to 1.008. Most entries
        // are smaller than f16's smallest number, 2^-24, and become that number or 0.
        Precision::F16 => Tolerance {
            loss: 2e-3,
            gradient_sum: 5e-3,
            probe: 1e-2,
            probe_floor: f64::exp2(-24.0),
        },
    }
}

/// Whether PyTorch's mean overflows. PyTorch adds the losses of f16 rows up in f16 before it divides, and the
/// mean is infinite where f16 cannot hold the sum. The gradient does not depend on it.
pub fn overflows(entry: &Entry, mean: f64) -> bool {
    entry.precision == Precision::F16 && mean * entry.rows() as f64 > LARGEST_F16
}
