//! Gradients of the logits (or probabilities) and of the target distributions, in closed form.

use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::FloatDType;

use super::call::{Call, Divisor, Rows, Scores};
use super::elementary::{cast, full, reshape_scalar, sum_classes, tanh_slope};
use crate::operation::{
    Gradients, InputValues, Inputs, MaybeFloat, Options, Targets, WantedGradients, bend_of,
};

/// Gradients of logits, for an upstream gradient in the shape of the loss. Computes the statistics if
/// they are not given.
pub(super) fn gradients<B: Backend>(
    logits: FloatTensor<B>,
    statistics: Option<FloatTensor<B>>,
    inputs: Inputs<B>,
    upstream: FloatTensor<B>,
    options: &Options,
    wanted: WantedGradients,
) -> Gradients<B> {
    let call = Call::<B>::new(&logits, options);
    let logits_dtype: FloatDType = logits.dtype().into();
    let logits_shape = logits.shape();
    if call.geometry.rows() == 0 {
        return gradients_of_no_rows(logits, inputs, wanted);
    }
    let scores = match statistics {
        Some(statistics) => Scores::Logits {
            x: call.transformed(call.view(logits.clone())),
            maximum: call.unstacked(&statistics, 0),
            others: call.unstacked(&statistics, 1),
        },
        None => call.scores(logits.clone()),
    };
    let rows = call.rows(&inputs);
    let scales = call.upstream_scales(upstream, &rows);
    let targets_gradient = match &inputs.targets {
        Targets::Distributions(targets) if wanted.targets => {
            let gradient = call.targets_gradient(&scores, &inputs, &rows, &scales);
            let gradient = B::float_reshape(gradient, targets.shape());
            Some(B::float_cast(gradient, targets.dtype().into()))
        }
        _ => None,
    };
    let logits_gradient = wanted.logits.then(|| {
        let gradient = call.logits_gradient(&scores, call.view(logits), &inputs, &rows, &scales);
        B::float_cast(B::float_reshape(gradient, logits_shape), logits_dtype)
    });
    Gradients::of_loss(logits_gradient, targets_gradient)
}

/// Gradients without rows: a tensor without elements is its own gradient.
fn gradients_of_no_rows<B: Backend>(
    logits: FloatTensor<B>,
    inputs: Inputs<B>,
    wanted: WantedGradients,
) -> Gradients<B> {
    let targets = match inputs.targets {
        Targets::Distributions(targets) if wanted.targets => Some(targets),
        _ => None,
    };
    Gradients::of_loss(wanted.logits.then_some(logits), targets)
}

impl<B: Backend> Call<'_, B> {
    /// Factors of the gradient of each row's loss and of its z-loss.
    pub(super) fn upstream_scales(
        &self,
        upstream: FloatTensor<B>,
        rows: &Rows<B>,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let upstream = cast::<B>(upstream, self.float);
        let (main, penalty) = self.shares_of_upstream(upstream, rows);
        (rows.weighed(main), rows.weighed(penalty))
    }

    fn shares_of_upstream(
        &self,
        upstream: FloatTensor<B>,
        rows: &Rows<B>,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        match &rows.divisor {
            Divisor::PerRow => {
                let upstream = B::float_reshape(upstream, self.geometry.per_row());
                (upstream.clone(), upstream)
            }
            Divisor::Number(number) => {
                let upstream = reshape_scalar::<B>(upstream);
                let share = match *number {
                    1.0 => upstream,
                    number => B::float_div_scalar(upstream, number.into()),
                };
                (share.clone(), share)
            }
            Divisor::Pair(pair) => {
                let upstream = reshape_scalar::<B>(upstream);
                let [total, counted] = self.split(pair);
                (
                    self.share_of(upstream.clone(), total),
                    self.share_of(upstream, counted),
                )
            }
        }
    }

    /// `upstream / total`, 0 where `total` is 0.
    fn share_of(&self, upstream: FloatTensor<B>, total: FloatTensor<B>) -> FloatTensor<B> {
        let nothing = B::float_equal_elem(total.clone(), 0.0.into(), self.bool);
        B::float_mask_fill(B::float_div(upstream, total), nothing, 0.0.into())
    }

    fn logits_gradient(
        &self,
        scores: &Scores<B>,
        logits: FloatTensor<B>,
        inputs: &Inputs<B>,
        rows: &Rows<B>,
        scales: &(FloatTensor<B>, FloatTensor<B>),
    ) -> FloatTensor<B> {
        if let Some(gradient) = self.row_values_gradient(scores, scales.0.clone()) {
            // A row that is ignored may have no distribution.
            let gradient = rows.settle_full(gradient, &self.geometry);
            return self.chain_transform(gradient, logits);
        }
        let valid = self.valid(scores);
        let (shares, none) = self.shares(inputs, rows.counting.as_ref(), valid);
        let gradient = match scores {
            Scores::Probabilities(s) => {
                let scale = &scales.0;
                let quotient = B::float_div(shares.clone(), s.clone());
                // Where the quotient overflows, the scale comes first. For a mean over nothing the scale is 0.
                let overflows = B::float_is_inf(quotient.clone(), self.bool);
                let scaled_first = B::float_div(B::float_mul(shares, scale.clone()), s.clone());
                let no_scale = B::float_equal_elem(scale.clone(), 0.0.into(), self.bool);
                let no_scale = B::bool_expand(no_scale, self.geometry.full());
                let scaled_first = B::float_mask_fill(scaled_first, no_scale, 0.0.into());
                let gradient = B::float_mul(quotient, scale.clone());
                let gradient = B::float_mask_where(gradient, overflows, scaled_first);
                B::float_mask_fill(B::float_neg(gradient), none, 0.0.into())
            }
            Scores::Logits { x, maximum, others } => {
                let softmax = self.softmax(x, maximum, others);
                let shares = match self.options.row_factor.is_some() {
                    false => shares,
                    true => {
                        let losses = self.row_losses(scores, inputs, rows);
                        let factored = self.factored_rows(losses, scores, inputs, rows);
                        let target = self.one_hot(rows.indices());
                        factored.map_or(shares.clone(), |rows| rows.shares(shares, target))
                    }
                };
                // Where the others add up to less than 1, the largest class has more than half.
                let dominant = B::float_lower_elem(others.clone(), 1.0.into(), self.bool);
                let dominant = B::bool_and(
                    self.equals_row(x.clone(), maximum.clone()),
                    B::bool_expand(dominant, self.geometry.full()),
                );
                let gradient = self.softmax_gradient(softmax.clone(), shares, dominant);
                let gradient = self.with_penalty(gradient, softmax, scores, scales);
                self.chain_transform(gradient, logits)
            }
        };
        rows.settle_full(gradient, &self.geometry)
    }

    pub(super) fn softmax(
        &self,
        x: &FloatTensor<B>,
        maximum: &FloatTensor<B>,
        others: &FloatTensor<B>,
    ) -> FloatTensor<B> {
        let exponential = B::float_exp(self.difference(x.clone(), maximum.clone()));
        let sum = B::float_add_scalar(others.clone(), 1.0.into());
        B::float_div(exponential, sum)
    }

    /// Gradient of the rows' losses times the upstream scale, plus the gradient of the z-losses.
    pub(super) fn with_penalty(
        &self,
        gradient: FloatTensor<B>,
        softmax: FloatTensor<B>,
        scores: &Scores<B>,
        (scale, penalty_scale): &(FloatTensor<B>, FloatTensor<B>),
    ) -> FloatTensor<B> {
        let gradient = B::float_mul(gradient, scale.clone());
        match self.penalised_lse(scores) {
            None => gradient,
            Some(lse) => {
                let slope = B::float_mul_scalar(lse, (2.0 * self.options.z_loss).into());
                let slope = B::float_mul(slope, penalty_scale.clone());
                B::float_add(gradient, B::float_mul(softmax, slope))
            }
        }
    }

    /// `A softmax - a` with `A = sum_c a[c]`. At a class of more than half the probability the difference
    /// cancels when the row is confident. There the gradient is minus the sum of the other classes'
    /// gradients, which is equal because a row of this gradient sums to 0. (Below a half that sum cancels,
    /// when the target is another class.)
    fn softmax_gradient(
        &self,
        softmax: FloatTensor<B>,
        shares: FloatTensor<B>,
        dominant: BoolTensor<B>,
    ) -> FloatTensor<B> {
        let total = sum_classes::<B>(shares.clone());
        let gradient = B::float_sub(B::float_mul(softmax, total), shares);
        let others = B::float_mask_fill(gradient.clone(), dominant.clone(), 0.0.into());
        let rest = B::float_neg(sum_classes::<B>(others));
        let rest = B::float_expand(rest, self.geometry.full());
        B::float_mask_where(gradient, dominant, rest)
    }

    /// Applies the chain rule through softcap and scale: `dx/dlogit = scale (1 - tanh^2)`.
    pub(super) fn chain_transform(
        &self,
        gradient: FloatTensor<B>,
        logits: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let InputValues::Logits { scale, softcap } = self.options.values else {
            return gradient;
        };
        let gradient = match softcap {
            None => gradient,
            Some(cap) => {
                let v = B::float_mul_scalar(logits, bend_of(scale, cap).into());
                B::float_mul(gradient, tanh_slope::<B>(v))
            }
        };
        if scale == 1.0 {
            gradient
        } else {
            B::float_mul_scalar(gradient, scale.into())
        }
    }

    /// `d loss / d p[c] = (1 - e) w[c] (-ln p[c])`, 0 where the factor of the logarithm is 0.
    fn targets_gradient(
        &self,
        scores: &Scores<B>,
        inputs: &Inputs<B>,
        rows: &Rows<B>,
        (scale, _): &(FloatTensor<B>, FloatTensor<B>),
    ) -> FloatTensor<B> {
        let remaining = 1.0 - self.options.label_smoothing;
        if remaining == 0.0 {
            return full::<B>(self.geometry.full(), 0.0, &self.device, self.float);
        }
        // The scale comes first, so that the product overflows only where the gradient does.
        let factor = match &inputs.weights {
            MaybeFloat::None => full::<B>(
                self.geometry.per_class(),
                remaining,
                &self.device,
                self.float,
            ),
            MaybeFloat::Some(weights) => {
                B::float_mul_scalar(self.per_class(weights), remaining.into())
            }
        };
        let is_zero = |factor| B::float_equal_elem(factor, 0.0.into(), self.bool);
        let none = B::bool_expand(is_zero(factor.clone()), self.geometry.full());
        let scaled = B::float_mul(factor, scale.clone());
        let surprisals = self.surprisals(scores);
        // For a mean over nothing the scale is 0.
        let infinite = B::float_is_inf(surprisals.clone(), self.bool);
        let unscaled = B::bool_expand(is_zero(scaled.clone()), self.geometry.full());
        let nothing = B::bool_or(none, B::bool_and(infinite, unscaled));
        let gradient = B::float_mul(surprisals, scaled);
        let gradient = B::float_mask_fill(gradient, nothing, 0.0.into());
        rows.settle_full(gradient, &self.geometry)
    }
}
