//! Softcap: logits bent before the loss, and their gradient by the slope of the bend after it.

use super::float::Float;
use super::instructions::Task;
use crate::operation::bend_of;

/// Softcap over scaled logits.
#[derive(Clone, Copy)]
pub(crate) struct Softcap<A> {
    scale: A,
    cap: A,
    /// `scale / cap`.
    bend: A,
}

impl<A: Float> Softcap<A> {
    pub(crate) fn new(scale: f64, cap: f64) -> Self {
        Self {
            scale: A::of(scale),
            cap: A::of(cap),
            bend: A::of(bend_of(scale, cap)),
        }
    }
}

/// Replaces logits by `cap tanh(scale logit / cap)`. Infinite logits are masks, not numbers: they stay.
pub(crate) struct Bend<'a, A> {
    pub(crate) softcap: Softcap<A>,
    pub(crate) x: &'a mut [A],
}

impl<A: Float> Task for Bend<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Softcap { cap, bend, .. } = self.softcap;
        for x in self.x {
            let logit = *x;
            let capped = cap * (logit * bend).tanh::<FMA>();
            let is_infinite = logit == A::INFINITY || logit == -A::INFINITY;
            *x = if is_infinite { logit } else { capped };
        }
    }
}

/// Multiplies a gradient by the slope of [`Bend`] at the logits.
pub(crate) struct Unbend<'a, A> {
    pub(crate) softcap: Softcap<A>,
    pub(crate) logits: &'a [A],
    pub(crate) gradient: &'a mut [A],
}

impl<A: Float> Task for Unbend<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Softcap { scale, bend, .. } = self.softcap;
        for (gradient, &logit) in self.gradient.iter_mut().zip(self.logits) {
            *gradient = *gradient * (logit * bend).tanh_slope::<FMA>() * scale;
        }
    }
}
