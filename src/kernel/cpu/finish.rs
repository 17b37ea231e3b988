//! Conclusion of rows of logits: their sums become losses, and the numbers that their gradients are made of.

use super::float::Float;
use super::logits::Softmax;
use super::rows::Losses;

/// Sums over the classes of each row.
pub(super) struct Sums<A, const W: usize> {
    /// Largest logit of each row, before the factor.
    pub(super) maximum: [A; W],
    pub(super) others: [A; W],
    /// `sum_c a[c] (m - x[c])` of the spread shares.
    pub(super) gaps: [A; W],
    /// Sum of the spread shares at the maximum.
    pub(super) at_maximum: [A; W],
    /// Sum of the spread shares of the other classes.
    pub(super) elsewhere: [A; W],
}

/// Losses of rows, and numbers for their gradients.
pub(super) struct Finished<A, const W: usize> {
    pub(super) losses: Losses<A, W>,
    /// `lse - m`.
    pub(super) above: [A; W],
    /// Factor of the exponentials.
    pub(super) factor: [A; W],
    /// Factor of the spread shares in the gradient.
    pub(super) spread_scale: [A; W],
    /// Gradient at the dominant class, a class of more than half the probability.
    pub(super) dominant: [A; W],
    /// Exponential of the dominant class; in a row without one 2, which no exponential equals.
    pub(super) dominant_exponential: [A; W],
    /// Number to subtract from the gradient at the target.
    pub(super) at_target: [A; W],
}

impl<A: Float, const W: usize> Finished<A, W> {
    /// Whether a row has a dominant class.
    #[inline(always)]
    pub(super) fn has_dominant(&self) -> bool {
        self.dominant_exponential.contains(&A::ONE)
    }
}

/// Shares as they are in the gradient.
struct GradientShares<A, const W: usize> {
    /// Share of the target without its spread share.
    target: [A; W],
    /// Factor of the spread shares.
    spread: [A; W],
}

impl<A: Float, const W: usize> Softmax<'_, A, W> {
    /// Conclusion of rows without a factor.
    #[inline(always)]
    pub(super) fn finish<const FMA: bool>(
        &self,
        sums: &Sums<A, W>,
        targets: &[A; W],
    ) -> Finished<A, W> {
        let mut finished = self.finished_losses::<FMA>(sums, targets);
        self.finish_gradient(&mut finished, sums, targets, None);
        finished
    }

    /// Conclusion of rows with a factor, from the probabilities of their targets and what these lack of 1.
    #[inline(always)]
    pub(super) fn finish_with_factor<const FMA: bool>(
        &self,
        sums: &Sums<A, W>,
        targets: &[A; W],
        probabilities: &[[A; 2]; W],
    ) -> Finished<A, W> {
        let mut finished = self.finished_losses::<FMA>(sums, targets);
        let mut shares = GradientShares {
            target: self.rows.share,
            spread: [A::ONE; W],
        };
        self.take_factor::<FMA>(probabilities, &mut finished.losses, &mut shares);
        self.finish_gradient(&mut finished, sums, targets, Some(&shares));
        finished
    }

    /// The losses, without a factor; nothing for the gradient yet.
    #[inline(always)]
    pub(super) fn finished_losses<const FMA: bool>(
        &self,
        sums: &Sums<A, W>,
        targets: &[A; W],
    ) -> Finished<A, W> {
        let zero = [A::ZERO; W];
        let mut finished = Finished {
            losses: Losses {
                main: zero,
                penalty: zero,
                lse: zero,
                log_prob: zero,
                max_log_prob: zero,
            },
            above: zero,
            factor: zero,
            spread_scale: zero,
            dominant: zero,
            dominant_exponential: zero,
            at_target: zero,
        };
        for row in 0..W {
            let share = self.rows.share[row];
            let maximum = sums.maximum[row];
            let offset = self.scale.offset(maximum);
            let gap = -self.scale.difference::<FMA>(targets[row], offset);
            let target_loss = if share == A::ZERO {
                A::ZERO
            } else {
                share * gap
            };
            let total = share + (sums.at_maximum[row] + sums.elsewhere[row]);
            let above = sums.others[row].ln_1p::<FMA>();
            let lse = maximum * self.scale.whole + above;
            finished.above[row] = above;
            finished.losses.main[row] = sums.gaps[row] + target_loss + total * above;
            finished.losses.penalty[row] = self.z_loss * lse * lse;
            finished.losses.lse[row] = lse;
            finished.losses.log_prob[row] = -(gap + above);
        }
        // In a loop of its own: one array more in the loop above made few classes 3 % slower.
        finished.losses.max_log_prob = finished.above.map(|above| -above);
        finished
    }

    /// Puts the factor of each row into its loss and into the shares of its gradient. In a loop of its own: in
    /// that of the losses it would keep these from becoming vector code.
    #[inline(always)]
    fn take_factor<const FMA: bool>(
        &self,
        probabilities: &[[A; 2]; W],
        losses: &mut Losses<A, W>,
        shares: &mut GradientShares<A, W>,
    ) {
        for row in 0..W {
            let class = self.rows.class[row];
            let weight = self.weights.map_or(A::ONE, |weights| weights[class]);
            let factored = (self.factor).of::<FMA>(losses.main[row], probabilities[row], weight);
            losses.main[row] = factored.loss;
            shares.target[row] = shares.target[row] * factored.share + factored.at_target;
            shares.spread[row] = factored.share;
        }
    }

    /// The numbers of the gradient. `shares` are those with a factor, where there is one.
    #[inline(always)]
    fn finish_gradient(
        &self,
        finished: &mut Finished<A, W>,
        sums: &Sums<A, W>,
        targets: &[A; W],
        shares: Option<&GradientShares<A, W>>,
    ) {
        for row in 0..W {
            let (share, of_spread) = match shares {
                None => (self.rows.share[row], A::ONE),
                Some(shares) => (shares.target[row], shares.spread[row]),
            };
            let spread = (sums.at_maximum[row] + sums.elsewhere[row]) * of_spread;
            let total = share + spread;
            let others = sums.others[row];
            let inverse = A::ONE / (others + A::ONE);
            let scale = self.rows.scale[row];
            let factor = self.scale.whole;
            let lse = finished.losses.lse[row];
            let pull = if self.z_loss == A::ZERO {
                A::ZERO
            } else {
                A::TWO * self.z_loss * lse * self.rows.penalty_scale[row] * inverse
            };
            let is_maximum = targets[row] == sums.maximum[row];
            let elsewhere = sums.elsewhere[row] * of_spread;
            let elsewhere = elsewhere + if is_maximum { A::ZERO } else { share };
            let has_dominant = others < A::ONE;
            // The gradient is that of the logits before the factor.
            finished.factor[row] = (total * scale * inverse + pull) * factor;
            finished.spread_scale[row] = scale * of_spread;
            finished.dominant[row] =
                ((elsewhere - total * others * inverse) * scale + pull) * factor;
            finished.dominant_exponential[row] = if has_dominant { A::ONE } else { A::TWO };
            finished.at_target[row] = if share == A::ZERO || (has_dominant && is_maximum) {
                A::ZERO
            } else {
                share * scale * factor
            };
        }
    }
}
