//! Values of rows that need no target, in place of their losses: the log-sum-exp and the entropy.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

use super::call::{Call, Scores};
use crate::operation::RowValue;

impl<B: Backend> Call<'_, B> {
    /// Values of the rows; `None` where their losses are wanted.
    pub(super) fn row_values(&self, scores: &Scores<B>) -> Option<FloatTensor<B>> {
        match self.options.value {
            RowValue::Loss => None,
            RowValue::LogSumExp => self.lse(scores),
            RowValue::Entropy => Some(self.entropy(self.surprisals(scores))),
            RowValue::PairSigmoid => unreachable!("pairs have a file of their own"),
        }
    }

    /// Gradient of the values by the scores: `p` of the log-sum-exp, `p (surprisal - entropy)` of the entropy.
    /// `None` where the losses are wanted.
    pub(super) fn row_values_gradient(
        &self,
        scores: &Scores<B>,
        scale: FloatTensor<B>,
    ) -> Option<FloatTensor<B>> {
        let gradient = match self.options.value {
            RowValue::Loss => return None,
            RowValue::LogSumExp => self.softmax_of(scores)?,
            RowValue::Entropy => {
                let softmax = self.softmax_of(scores)?;
                let entropy = self.row_values(scores)?;
                let above = B::float_sub(self.surprisals(scores), entropy);
                // 0 times the infinite surprisal of a masked class would be NaN.
                let nothing = B::float_equal_elem(softmax.clone(), 0.0.into(), self.bool);
                B::float_mask_fill(B::float_mul(softmax, above), nothing, 0.0.into())
            }
            RowValue::PairSigmoid => unreachable!("pairs have a file of their own"),
        };
        Some(B::float_mul(gradient, scale))
    }

    /// Probabilities of logits; `None` where the scores are probabilities.
    pub(super) fn softmax_of(&self, scores: &Scores<B>) -> Option<FloatTensor<B>> {
        match scores {
            Scores::Logits { x, maximum, others } => Some(self.softmax(x, maximum, others)),
            Scores::Probabilities(_) => None,
        }
    }
}
