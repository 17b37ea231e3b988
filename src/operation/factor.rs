//! Factor of a row's loss by the probability of its target.

use burn::config::Config;

/// Factor of the loss of a row by the probability `p` of its index target.
///
/// With `l` the loss of the row, label smoothing and class weight included, and `w` the class weight of its
/// target, the loss becomes
///
/// ```text
/// None                l
/// Focal               (1 - p)^gamma l
/// Poly                l + epsilon w (1 - p)
/// TargetProbability   p l                     no gradient flows through p
/// ```
///
/// | Factor | What it does | Source |
/// |---|---|---|
/// | `Focal` | rows that are learned weigh less | Lin et al., Focal Loss, <https://arxiv.org/abs/1708.02002>; here for softmax |
/// | `Poly` | changes the first term of the loss's series in `1 - p` | Leng et al., PolyLoss, <https://arxiv.org/abs/2204.12511>, Poly-1 |
/// | `TargetProbability` | fine-tuning whose gradient does not grow as `1 / p` | Wu et al., Dynamic Fine-Tuning, <https://arxiv.org/abs/2508.05629> |
///
/// Gradients flow through the factor, but for `TargetProbability`. Each of them multiplies the gradient `p[c] - y[c]` of
/// the row by a number, so a call costs no more than the plain one. `1 - p` keeps its digits where `p` is near 1:
/// it is the sum of the other probabilities. At `p = 1` loss and gradient are 0, whatever `gamma` is. An infinite loss
/// stays infinite under `Focal`, whose derivative is taken as 0 there; under `TargetProbability` the loss is 0 where
/// `p` is 0.
///
/// The z-loss has no factor; the weight of a row multiplies both. A mean divides by what it divides without a factor.
/// Distributions have no such `p`, and are refused.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_cross_entropy::{CrossEntropyLossConfig, RowFactor};
///
/// let device = Device::flex();
/// let focal = RowFactor::Focal { gamma: 2.0 };
/// let loss = CrossEntropyLossConfig::new().with_row_factor(focal).init(&device);
/// let logits = Tensor::<2>::zeros([1, 2], &device);
/// let target = Tensor::<1, Int>::zeros([1], &device);
/// let value = loss.forward(logits, target).into_scalar::<f32>();
/// assert!((value - 0.25 * 2f32.ln()).abs() < 1e-6);
/// ```
#[derive(Config, Debug, Copy, PartialEq)]
pub enum RowFactor {
    /// The loss as it is.
    None,
    /// `(1 - p)^gamma`.
    Focal {
        /// At least 0; 2 in the paper.
        gamma: f64,
    },
    /// `l + epsilon w (1 - p)`.
    Poly {
        /// At least -1, below which the gradient would turn round; 1 or 2 in the paper.
        epsilon: f64,
    },
    /// `p`, as a constant.
    TargetProbability,
}

impl RowFactor {
    /// An exponent as a number of multiplications and what is left: a power by multiplications has more digits than
    /// one by exponential and logarithm.
    pub(crate) fn steps_of_power(exponent: f64) -> (u32, f64) {
        const MOST: f64 = 16.0;
        let whole = exponent.floor().min(MOST);
        (whole as u32, exponent - whole)
    }

    /// Whether there is a factor.
    pub(crate) fn is_some(self) -> bool {
        self != Self::None
    }
}
