//! Whether both sides compute the same: nothing is timed before they do.

use std::fmt::{self, Display};

use crate::entries::{Entry, Precision};
use crate::ours::Way;

const LARGEST_F16: f64 = 65504.0;

/// The loss and what is looked at of the gradient.
pub struct Outcome {
    pub loss: f64,
    /// The sum of the absolute values, in f64.
    pub gradient_sum: f64,
    /// Single entries.
    pub probes: Vec<f64>,
}

impl Outcome {
    pub fn new(loss: f64, gradient: &[f32], probes: &[usize]) -> Self {
        Self {
            loss,
            gradient_sum: gradient.iter().map(|&value| f64::from(value).abs()).sum(),
            probes: probes.iter().map(|&at| gradient[at].into()).collect(),
        }
    }

    pub fn of_loss(loss: f64) -> Self {
        Self::new(loss, &[], &[])
    }
}

impl Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(
            formatter,
            "loss {}, sum of |gradient| {:e}, entries of the gradient {:?}",
            self.loss, self.gradient_sum, self.probes
        )
    }
}

/// How far the two sides may be apart: shares of PyTorch's value.
struct Tolerance {
    loss: f64,
    gradient_sum: f64,
    probe: f64,
    /// A difference that any probe may have.
    probe_floor: f64,
}

impl Tolerance {
    fn new(precision: Precision, mean_gradient: f64) -> Self {
        match precision {
            // Soft targets: an entry is the difference of a probability and a share, both of the
            // size of the mean, and may be much smaller than they are.
            Precision::F32 => Self {
                loss: 1e-5,
                gradient_sum: 1e-5,
                probe: 1e-4,
                probe_floor: 1e-5 * mean_gradient,
            },
            // PyTorch rounds the log-probabilities, of 16 and more, to bf16, which is by up to
            // 2^-4 and makes factors of up to 1.065; then it adds them up in bf16. Here the
            // arithmetic is f32's, and only the gradient is rounded, to 2^-9.
            Precision::Bf16 => Self {
                loss: 2e-2,
                gradient_sum: 1e-2,
                probe: 7.5e-2,
                probe_floor: 0.0,
            },
            // The same with 2^-7, a factor of 1.008. Most entries are smaller than f16's smallest
            // number, 2^-24, and become that or 0.
            Precision::F16 => Self {
                loss: 2e-3,
                gradient_sum: 5e-3,
                probe: 1e-2,
                probe_floor: f64::exp2(-24.0),
            },
        }
    }
}

/// An error that shows both sides if they disagree.
pub fn check(entry: &Entry, way: Way, here: &Outcome, pytorch: &Outcome) -> Result<(), String> {
    let mean_gradient = pytorch.gradient_sum / entry.size() as f64;
    let tolerance = Tolerance::new(entry.precision, mean_gradient);
    let near = |here: f64, pytorch: f64, share: f64, floor: f64| {
        (here - pytorch).abs() <= share * pytorch.abs() + floor
    };
    let loss = near(here.loss, pytorch.loss, tolerance.loss, 0.0)
        || overflows(entry, here.loss) && pytorch.loss == f64::INFINITY;
    let sum = near(
        here.gradient_sum,
        pytorch.gradient_sum,
        tolerance.gradient_sum,
        0.0,
    );
    let mut probes = here.probes.iter().zip(&pytorch.probes);
    let probes = here.probes.len() == pytorch.probes.len()
        && probes
            .all(|(&here, &theirs)| near(here, theirs, tolerance.probe, tolerance.probe_floor));
    if loss && sum && probes {
        return Ok(());
    }
    Err(format!(
        "{entry} is not timed, because the two sides disagree (logits {way}).\nhere:    {here}\n\
         PyTorch: {pytorch}"
    ))
}

/// PyTorch adds the losses of f16 rows up in f16 before it divides, and its mean is infinite where
/// the sum is too large for f16. The gradient does not depend on it.
fn overflows(entry: &Entry, mean: f64) -> bool {
    entry.precision == Precision::F16 && mean * entry.rows() as f64 > LARGEST_F16
}
