//! Rows of logits with what their losses depend on.

use super::ahead::Ahead;
use super::factor::Factor;
use super::float::Float;
use super::rows::Rows;
use super::shares::{Entries, Shares};
use crate::operation::ScaleSteps;

/// `W` rows of logits, see [`blocks`](super::blocks).
#[derive(Clone, Copy)]
pub(crate) struct Softmax<'a, A, const W: usize> {
    pub(crate) rows: &'a Rows<A, W>,
    /// Absent where only the target's class has a share.
    pub(crate) shares: Option<Shares<'a, A>>,
    pub(crate) scale: Scale<A>,
    /// Factor of the squared log-sum-exp.
    pub(crate) z_loss: A,
    pub(crate) factor: Factor<A>,
    /// Entries of a sparse distribution, where one row has all lanes.
    pub(crate) entries: Option<Entries<'a, A>>,
    /// One weight per class.
    pub(crate) weights: Option<&'a [A]>,
    /// Fetched while the exponentials are computed.
    pub(crate) ahead: [Ahead; 2],
}

/// Factor of the logits, and its [steps](ScaleSteps) for their differences.
#[derive(Clone, Copy)]
pub(crate) struct Scale<A> {
    pub(super) whole: A,
    before: A,
    after: A,
}

impl<A: Float> Scale<A> {
    pub(crate) fn new(scale: f64) -> Self {
        let ScaleSteps { before, after } = ScaleSteps::of(scale);
        Self {
            whole: A::of(scale),
            before: A::of(before),
            after: A::of(after),
        }
    }

    /// `(a - b)` times the factor, with `offset` of `b`.
    #[inline(always)]
    pub(super) fn difference<const FMA: bool>(self, a: A, offset: A) -> A {
        a.mul_add::<FMA>(self.before, offset) * self.after
    }

    #[inline(always)]
    pub(super) fn offset(self, b: A) -> A {
        -(b * self.before)
    }
}
