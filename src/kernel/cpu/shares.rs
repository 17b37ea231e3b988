//! Spread shares: the part of the shares `a[c]` that goes to all classes, from label smoothing and
//! distributions, times the class weights. The share that an index target adds to its one class is a
//! number per row, see [`Rows`](super::rows::Rows).

use super::blocks::{Block, LANES};
use super::float::Float;

/// `a[c] = weight[c] (remaining p[c] + even)`.
#[derive(Clone, Copy)]
pub(crate) struct Shares<'a, A> {
    /// `1 - e`, with `e` the label smoothing.
    pub(crate) remaining: A,
    /// `e / C`.
    pub(crate) even: A,
    /// Distribution `p`, laid out like the logits.
    pub(crate) distribution: Option<&'a [A]>,
    /// One weight per class.
    pub(crate) weights: Option<&'a [A]>,
    pub(crate) classes: usize,
}

impl<A: Float> Shares<'_, A> {
    /// Shares of the distribution alone, if there is a distribution and smoothing or weights change it.
    pub(crate) fn apart_from_distribution(self) -> Option<Self> {
        self.distribution?;
        let is_alone = self.remaining == A::ONE && self.even == A::ZERO && self.weights.is_none();
        (!is_alone).then_some(Self {
            remaining: A::ONE,
            even: A::ZERO,
            weights: None,
            ..self
        })
    }

    /// Shares of block `step`; 0 beyond the last class.
    #[inline(always)]
    pub(crate) fn block<const W: usize>(&self, step: usize) -> Block<A> {
        let mut shares = [self.even; LANES];
        if let Some(distribution) = self.distribution {
            let p = block_at(distribution, step);
            for lane in 0..LANES {
                shares[lane] += self.remaining * p[lane];
            }
        }
        if let Some(weights) = self.weights {
            let weight = weights_at::<A, W>(weights, step);
            for lane in 0..LANES {
                shares[lane] = shares[lane] * weight[lane];
            }
        }
        let classes_here = self.classes.saturating_sub(step * LANES);
        if W == 1 && classes_here < LANES {
            shares[classes_here..].fill(A::ZERO);
        }
        shares
    }

    /// `weight[c] (1 - e)`: factor of the surprisal in the gradient of a distribution.
    #[inline(always)]
    pub(crate) fn slopes<const W: usize>(&self, step: usize) -> Block<A> {
        let mut slopes = [self.remaining; LANES];
        if let Some(weights) = self.weights {
            let weight = weights_at::<A, W>(weights, step);
            for lane in 0..LANES {
                slopes[lane] = slopes[lane] * weight[lane];
            }
        }
        slopes
    }
}

/// Gradient of a distribution's share, `factor scale surprisal`: 0 where the factor is 0, and where the scale
/// is 0 (for a mean over nothing) and the surprisal infinite. The scale comes first, so that the product
/// overflows only where the gradient does.
#[inline(always)]
pub(super) fn share_slope<A: Float>(factor: A, scale: A, surprisal: A) -> A {
    let scaled = factor * scale;
    let slope = scaled * surprisal;
    let is_nothing = scaled == A::ZERO && surprisal == A::INFINITY;
    if factor == A::ZERO || is_nothing {
        A::ZERO
    } else {
        slope
    }
}

/// Weights of the classes in the lanes of block `step`.
#[inline(always)]
fn weights_at<A: Float, const W: usize>(weights: &[A], step: usize) -> Block<A> {
    if W == 1 {
        block_at(weights, step)
    } else {
        [weights[step]; LANES]
    }
}

#[inline(always)]
fn block_at<A: Float>(numbers: &[A], step: usize) -> Block<A> {
    let rest = &numbers[step * LANES..];
    match rest.first_chunk::<LANES>() {
        Some(block) => *block,
        None => super::blocks::padded(rest, A::ZERO),
    }
}
