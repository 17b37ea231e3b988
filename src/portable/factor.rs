//! Factor of a row's loss by the probability of its target, see [`RowFactor`]; the formulas stand in
//! [`cpu::factor`](crate::kernel::cpu).

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

use super::call::{Call, Rows, Scores};
use super::elementary::{log1p, sum_classes};
use crate::operation::{Inputs, RowFactor};

/// Numbers of every row with a factor, each of shape `[outer, 1, inner]`.
pub(super) struct Factored<B: Backend> {
    pub(super) losses: FloatTensor<B>,
    /// Factor of the shares.
    share: FloatTensor<B>,
    /// Further share of the target; absent where it is 0.
    at_target: Option<FloatTensor<B>>,
}

impl<B: Backend> Factored<B> {
    /// Shares of the target alone: as they are in the gradient.
    pub(super) fn share_of_target(&self, share: FloatTensor<B>) -> FloatTensor<B> {
        let share = self.spread(share);
        match &self.at_target {
            None => share,
            Some(further) => B::float_add(share, further.clone()),
        }
    }

    /// Shares that are not of the target alone, as they are in the gradient.
    pub(super) fn spread(&self, shares: FloatTensor<B>) -> FloatTensor<B> {
        B::float_mul(shares, self.share.clone())
    }

    /// Shares of every class as they are in the gradient; `target` is 1 at the target and 0 elsewhere.
    pub(super) fn shares(&self, shares: FloatTensor<B>, target: FloatTensor<B>) -> FloatTensor<B> {
        let shares = self.spread(shares);
        match &self.at_target {
            None => shares,
            Some(further) => B::float_add(shares, B::float_mul(target, further.clone())),
        }
    }
}

impl<B: Backend> Call<'_, B> {
    /// The numbers of rows with these losses; `None` without a factor. `target` is the score of each row's target.
    pub(super) fn factored(
        &self,
        losses: FloatTensor<B>,
        target: FloatTensor<B>,
        scores: &Scores<B>,
        inputs: &Inputs<B>,
        rows: &Rows<B>,
    ) -> Option<Factored<B>> {
        let Scores::Logits {
            maximum, others, ..
        } = scores
        else {
            return None;
        };
        if !self.options.row_factor.is_some() {
            return None;
        }
        let is_maximum = B::float_equal(target.clone(), maximum.clone(), self.bool);
        let above = log1p::<B>(others.clone(), self.bool);
        let gap = self.difference(maximum.clone(), target);
        let gap = B::float_mask_fill(gap, is_maximum.clone(), 0.0.into());
        let p = B::float_exp(B::float_neg(B::float_add(gap, above)));
        // Beside the maximum the other probabilities add up to what is missing; elsewhere `p` is at most a half.
        let missing = B::float_add_scalar(B::float_neg(p.clone()), 1.0.into());
        let sum = B::float_add_scalar(others.clone(), 1.0.into());
        let of_others = B::float_div(others.clone(), sum);
        let missing = B::float_mask_where(missing, is_maximum, of_others);
        let none = B::float_equal_elem(p.clone(), 0.0.into(), self.bool);
        let nothing = |numbers, mask| B::float_mask_fill(numbers, mask, 0.0.into());
        Some(match self.options.row_factor {
            RowFactor::None => return None,
            RowFactor::Focal { gamma } => {
                let power = self.power(missing.clone(), gamma);
                let learned = B::float_equal_elem(missing.clone(), 0.0.into(), self.bool);
                // `(1 - p)^(gamma - 1) l`, in an order in which only the result overflows or vanishes.
                let slope = if gamma >= 1.0 {
                    B::float_mul(self.power(missing, gamma - 1.0), losses.clone())
                } else {
                    let first = B::float_mul(power.clone(), losses.clone());
                    let last = B::float_div(losses.clone(), missing.clone());
                    let is_large = B::float_greater_elem(losses.clone(), 1.0.into(), self.bool);
                    let first = B::float_div(first, missing);
                    B::float_mask_where(B::float_mul(power.clone(), last), is_large, first)
                };
                let pull = B::float_mul(B::float_mul_scalar(p, gamma.into()), slope);
                let pull = nothing(nothing(pull, none), learned);
                // An infinite loss, that of a share at minus infinity, stays infinite, and pulls nothing through the
                // factor.
                let infinite = B::float_is_inf(losses.clone(), self.bool);
                let pull = nothing(pull, infinite.clone());
                Factored {
                    losses: B::float_mask_where(
                        B::float_mul(losses.clone(), power.clone()),
                        infinite,
                        losses,
                    ),
                    share: power,
                    at_target: Some(pull),
                }
            }
            RowFactor::Poly { epsilon } => {
                let weights = rows.indices().target_weights(&inputs.weights, self.float);
                let weights = B::float_mul_scalar(weights, epsilon.into());
                let further = B::float_mul(weights.clone(), missing.clone());
                Factored {
                    losses: B::float_add(losses, further),
                    share: B::float_ones(self.geometry.per_row(), &self.device, self.float),
                    at_target: Some(B::float_mul(weights, p)),
                }
            }
            RowFactor::TargetProbability => Factored {
                losses: nothing(B::float_mul(losses, p.clone()), none),
                share: p,
                at_target: None,
            },
        })
    }

    /// `base^exponent` of bases from 0 to 1.
    fn power(&self, base: FloatTensor<B>, exponent: f64) -> FloatTensor<B> {
        let (whole, rest) = RowFactor::steps_of_power(exponent);
        let mut power = B::float_ones(self.geometry.per_row(), &self.device, self.float);
        for _ in 0..whole {
            power = B::float_mul(power, base.clone());
        }
        if rest == 0.0 {
            return power;
        }
        let rest = B::float_mul_scalar(B::float_log(base), rest.into());
        B::float_mul(power, B::float_exp(rest))
    }

    /// Score of each row's target.
    pub(super) fn target_scores(&self, scores: &Scores<B>, rows: &Rows<B>) -> FloatTensor<B> {
        let (Scores::Logits { x, .. } | Scores::Probabilities(x)) = scores;
        let not_target = B::bool_not(self.is_target(rows.indices()));
        sum_classes::<B>(B::float_mask_fill(x.clone(), not_target, 0.0.into()))
    }
}
