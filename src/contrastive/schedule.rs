//! Schedule of the momentum of a target encoder over a training.

use std::f64::consts::FRAC_PI_2;

use super::error::{ContrastiveError, unwrap};

/// Schedule of the momentum of a target encoder over the steps of a training: from `base` along half a
/// cosine to 1.
///
/// ```text
/// m(t) = 1 - (1 - base) (cos(pi t / steps) + 1) / 2
/// ```
///
/// The momentum grows with every step. The target follows quickly while there is much to learn, and
/// stands still at the end. MoCo v3 uses a base of 0.99, BYOL 0.996.
///
/// # Edge cases
///
/// Step 0 has exactly `base`, the step `steps` and every later one exactly 1. A schedule of 0 steps is at
/// its end from the start: 1.
///
/// ```
/// use burn_cross_entropy::contrastive::MomentumSchedule;
///
/// let schedule = MomentumSchedule::cosine(0.99, 1000);
/// assert_eq!(schedule.at(0), 0.99);
/// assert!((schedule.at(500) - 0.995).abs() < 1e-12);
/// assert_eq!(schedule.at(1000), 1.0);
/// ```
///
/// Sources: Chen, Xie and He, "An Empirical Study of Training Self-Supervised Vision Transformers"
/// (MoCo v3), 2021, <https://arxiv.org/abs/2104.02057>; Grill et al., "Bootstrap Your Own Latent", 2020,
/// <https://arxiv.org/abs/2006.07733>.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MomentumSchedule {
    base: f64,
    steps: usize,
}

impl MomentumSchedule {
    /// Makes a schedule from `base`, in `[0, 1]`, to 1 in `steps` steps.
    ///
    /// # Panics
    ///
    /// With the text of [`ContrastiveError::InvalidConfig`] if `base` is outside `[0, 1]`.
    pub fn cosine(base: f64, steps: usize) -> Self {
        unwrap(Self::try_cosine(base, steps))
    }

    /// [`cosine`](Self::cosine) that returns an error instead of a panic.
    ///
    /// # Errors
    ///
    /// [`ContrastiveError::InvalidConfig`] if `base` is outside `[0, 1]`.
    pub fn try_cosine(base: f64, steps: usize) -> Result<Self, ContrastiveError> {
        if (0.0..=1.0).contains(&base) {
            return Ok(Self { base, steps });
        }
        Err(ContrastiveError::InvalidConfig {
            part: "momentum schedule",
            field: "base",
            value: base.to_string(),
            expected: "a number in [0, 1]",
        })
    }

    /// Momentum of a step; steps count from 0.
    pub fn at(&self, step: usize) -> f64 {
        if step >= self.steps {
            return 1.0;
        }
        // (1 - cos(2 x)) / 2 is sin(x)^2, which is exact at 0 and keeps its digits near it.
        let share = (FRAC_PI_2 * step as f64 / self.steps as f64).sin().powi(2);
        (self.base + (1.0 - self.base) * share).min(1.0)
    }
}
