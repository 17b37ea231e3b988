//! Spread shares: the part of the shares `a[c]` that goes to all classes, from label smoothing and
//! distributions, times the class weights. The share that an index target adds to its one class is a
//! number per row, see [`Rows`](super::rows::Rows).

use super::blocks::{Block, Blocks, LANES, Visitor, Write, fold_sum, of_lane};
use super::float::Float;
use super::instructions::Task;

/// `a[c] = weight[c] (remaining p[c] + even)`.
#[derive(Clone, Copy)]
pub(crate) struct Shares<'a, A> {
    /// `1 - e`, with `e` the label smoothing.
    pub(crate) remaining: A,
    /// `e / C`.
    pub(crate) even: A,
    /// Number of each class in the place of `even`, laid out like the logits, where masked classes have none.
    pub(crate) evens: Option<&'a [A]>,
    /// Distribution `p`, laid out like the logits.
    pub(crate) distribution: Option<&'a [A]>,
    /// One weight per class.
    pub(crate) weights: Option<&'a [A]>,
    pub(crate) classes: usize,
}

/// Entries of a sparse distribution in one row, beside its logits.
#[derive(Clone, Copy)]
pub(crate) struct Entries<'a, A> {
    pub(super) classes: &'a [usize],
    /// Shares as they are in the loss.
    pub(super) shares: &'a [A],
    /// Logits of the classes.
    pub(super) logits: &'a [A],
}

impl<A: Float> Shares<'_, A> {
    /// Shares of the distribution alone, if there is a distribution and smoothing or weights change it.
    pub(crate) fn apart_from_distribution(self) -> Option<Self> {
        self.distribution?;
        let is_alone = self.remaining == A::ONE && self.even == A::ZERO && self.weights.is_none();
        (!is_alone).then_some(Self {
            remaining: A::ONE,
            even: A::ZERO,
            evens: None,
            weights: None,
            ..self
        })
    }

    /// Shares of block `step`; 0 beyond the last class.
    #[inline(always)]
    pub(crate) fn block<const W: usize>(&self, step: usize) -> Block<A> {
        let mut shares = match self.evens {
            None => [self.even; LANES],
            Some(evens) => block_at(evens, step),
        };
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

/// Label smoothing over the classes that are not masked.
#[derive(Clone, Copy)]
pub(crate) struct OverValid<A> {
    /// Number of a masked class.
    pub(crate) masked: A,
    /// Share `e` that the other classes of a row have together.
    pub(crate) smoothing: A,
}

/// Replaces the numbers of rows, logits or probabilities, by `e / V` at the `V` classes that are not masked, and by 0
/// at the others.
pub(super) struct Evens<'a, A, const W: usize> {
    pub(super) over: OverValid<A>,
    pub(super) numbers: &'a mut [A],
}

impl<A: Float, const W: usize> Task for Evens<'_, A, W> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let OverValid { masked, smoothing } = self.over;
        let mut numbers = Write::new(self.numbers, masked);
        let steps = numbers.steps();
        let mut marks = Marks {
            masked,
            count: [A::ZERO; LANES],
        };
        numbers.visit(0..steps, &mut marks);
        let mut even = fold_sum::<A, W>(marks.count);
        for row in 0..W {
            even[row] = smoothing / even[row];
        }
        numbers.visit(0..steps, &mut Marked { even });
    }
}

/// Replaces numbers by 0 where they are masked and by 1 elsewhere, and adds up.
struct Marks<A> {
    masked: A,
    count: Block<A>,
}

impl<A: Float> Visitor<A> for Marks<A> {
    #[inline(always)]
    fn visit(&mut self, _step: usize, block: &Block<A>) -> Block<A> {
        let mut marks = [A::ZERO; LANES];
        for lane in 0..LANES {
            let is_masked = block[lane] == self.masked;
            marks[lane] = if is_masked { A::ZERO } else { A::ONE };
            self.count[lane] += marks[lane];
        }
        marks
    }
}

/// Replaces each 1 by the number of its row. A choice, not a product: without valid classes that number is infinite.
struct Marked<A, const W: usize> {
    even: [A; W],
}

impl<A: Float, const W: usize> Visitor<A> for Marked<A, W> {
    #[inline(always)]
    fn visit(&mut self, _step: usize, marks: &Block<A>) -> Block<A> {
        let mut evens = [A::ZERO; LANES];
        for lane in 0..LANES {
            let even = of_lane(&self.even, lane);
            evens[lane] = if marks[lane] == A::ZERO {
                A::ZERO
            } else {
                even
            };
        }
        evens
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
