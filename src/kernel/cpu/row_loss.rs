//! Loss of rows as a function of their numbers, which are logits or probabilities, and the tasks that are
//! compiled for every set of instructions.

use super::float::Float;
use super::instructions::Task;
use super::rows::Losses;

/// Loss of `W` rows, see [`blocks`](super::blocks). Implementations of the generic functions have to be
/// `#[inline(always)]`.
pub(super) trait RowLoss<A: Float, const W: usize>: Copy {
    /// The loss with the shares of the distribution alone, if there is a distribution and smoothing or
    /// weights change it.
    fn with_distribution_alone(self) -> Option<Self>;

    fn losses<const FMA: bool>(self, x: &[A]) -> Losses<A, W>;

    /// Losses of the rows. The gradient replaces their numbers `x`.
    fn gradient_over<const FMA: bool>(self, x: &mut [A]) -> Losses<A, W>;

    /// Gradient of the rows' distributions.
    fn targets_gradient<const FMA: bool>(self, x: &[A], gradient: &mut [A]);

    fn entropy<const FMA: bool>(self, x: &[A]) -> [A; W];
}

pub(super) struct LossesOf<'x, A, L, const W: usize> {
    pub(super) loss: L,
    pub(super) x: &'x [A],
}

impl<A: Float, L: RowLoss<A, W>, const W: usize> Task for LossesOf<'_, A, L, W> {
    type Output = Losses<A, W>;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> Losses<A, W> {
        self.loss.losses::<FMA>(self.x)
    }
}

pub(super) struct GradientOver<'x, A, L, const W: usize> {
    pub(super) loss: L,
    pub(super) x: &'x mut [A],
}

impl<A: Float, L: RowLoss<A, W>, const W: usize> Task for GradientOver<'_, A, L, W> {
    type Output = Losses<A, W>;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> Losses<A, W> {
        self.loss.gradient_over::<FMA>(self.x)
    }
}

pub(super) struct TargetsGradient<'x, A, L, const W: usize> {
    pub(super) loss: L,
    pub(super) x: &'x [A],
    pub(super) gradient: &'x mut [A],
}

impl<A: Float, L: RowLoss<A, W>, const W: usize> Task for TargetsGradient<'_, A, L, W> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        self.loss.targets_gradient::<FMA>(self.x, self.gradient);
    }
}

pub(super) struct EntropyOf<'x, A, L, const W: usize> {
    pub(super) loss: L,
    pub(super) x: &'x [A],
}

impl<A: Float, L: RowLoss<A, W>, const W: usize> Task for EntropyOf<'_, A, L, W> {
    type Output = [A; W];

    #[inline(always)]
    fn run<const FMA: bool>(self) -> [A; W] {
        self.loss.entropy::<FMA>(self.x)
    }
}
