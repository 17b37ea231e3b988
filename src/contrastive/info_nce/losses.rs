//! Losses and outputs of comparisons.

use burn::nn::loss::Reduction;
use burn::tensor::{Int, Tensor};

use super::InfoNceLoss;
use super::comparison::{Classes, Comparison};
use crate::contrastive::error::ContrastiveError;
use crate::dispatch::CrossEntropyBackend;
use crate::loss::{
    CrossEntropyLoss, CrossEntropyOutput, GivenLogits, ProjectedTensors, Request,
    RequestedReduction,
};
use crate::operation::{Ids, Outputs, RowValue};

impl<B: CrossEntropyBackend> InfoNceLoss<B> {
    /// Reduced loss of a comparison.
    pub(super) fn loss(&self, comparison: Comparison) -> Result<Tensor<1>, ContrastiveError> {
        if let Some(labels) = comparison.inside {
            let (losses, counted) = self.inside(comparison.similarities, labels)?;
            if losses.dims()[0] == 0 {
                // A sum over no rows, and the mean over none.
                let nothing = losses.sum();
                return Ok(match self.settings.reduction {
                    Reduction::Sum => nothing,
                    _ => nothing + f64::NAN,
                });
            }
            let sum = losses.sum();
            return Ok(match self.settings.reduction {
                Reduction::Sum => sum,
                _ => sum / counted.sum(),
            });
        }
        self.computed(comparison, RequestedReduction::Configured)
    }

    /// Loss of each row of a comparison.
    pub(super) fn losses(&self, comparison: Comparison) -> Result<Tensor<1>, ContrastiveError> {
        match comparison.inside {
            Some(labels) => Ok(self.inside(comparison.similarities, labels)?.0),
            None => self.computed(comparison, RequestedReduction::PerRow),
        }
    }

    fn computed(
        &self,
        comparison: Comparison,
        reduction: RequestedReduction,
    ) -> Result<Tensor<1>, ContrastiveError> {
        let loss: CrossEntropyLoss<B> = self.settings.loss();
        let logits = GivenLogits::projected(comparison.similarities);
        let computed = loss.compute(logits, comparison.target, Request::loss(reduction))?;
        Ok(Tensor::from_dispatch(computed.loss))
    }

    /// Loss and outputs of a comparison.
    pub(super) fn output(
        &self,
        comparison: Comparison,
    ) -> Result<CrossEntropyOutput<1>, ContrastiveError> {
        if comparison.inside.is_some() {
            return self.output_of_inside(comparison);
        }
        let loss: CrossEntropyLoss<B> = self.settings.loss();
        let logits = GivenLogits::projected(comparison.similarities);
        let mut output = loss.output::<2>(logits, comparison.target, Outputs::Rows)?;
        if let Some(classes) = comparison.classes {
            output.target_class = classes.numbers(output.target_class);
            output.predicted = classes.numbers(output.predicted);
        }
        Ok(output)
    }

    /// Loss of rows whose positives are inside of the logarithm, and outputs: those of the rows with the positives outside,
    /// which look at the same similarities, but for the log-probability, which is minus the loss of a row.
    fn output_of_inside(
        &self,
        comparison: Comparison,
    ) -> Result<CrossEntropyOutput<1>, ContrastiveError> {
        let outside = Comparison {
            inside: None,
            ..comparison.clone()
        };
        let mut output = self.output(outside)?;
        let losses = self.losses(comparison.clone())?.without_autodiff();
        output.log_prob = (losses * -1.0).cast(output.log_prob.dtype());
        output.loss = self.loss(comparison)?;
        Ok(output)
    }

    /// Losses of rows whose positives are inside of the logarithm, and 1 for each row that counts:
    ///
    /// ```text
    /// lse over all keys - lse over the positives + ln of the number of positives
    /// ```
    fn inside(
        &self,
        similarities: ProjectedTensors,
        [labels, labels_of_keys]: [Tensor<1, Int>; 2],
    ) -> Result<(Tensor<1>, Tensor<1>), ContrastiveError> {
        let loss: CrossEntropyLoss<B> = self.settings.loss();
        let counts = similarities.alike_counts(&labels, &labels_of_keys);
        let counted = counts.clone().clamp_max(1.0);
        let mut positives = similarities.clone();
        positives.excluded.unlike = Ids::Given {
            rows: labels.into_dispatch(),
            columns: labels_of_keys.into_dispatch(),
        };
        let lse = |similarities| {
            let logits = GivenLogits::projected(similarities);
            let weights = Some(counted.clone().into_dispatch());
            loss.value_of_rows(logits, RowValue::LogSumExp, weights)
                .map(Tensor::<1>::from_dispatch)
        };
        let (all, of_positives) = (lse(similarities)?, lse(positives)?);
        let numbers = counts.clamp_min(1.0).cast(all.dtype()).log();
        Ok((all - of_positives + numbers, counted))
    }
}

impl Classes {
    /// Numbers of keys, and behind them of own negatives, from classes; negative numbers stay.
    fn numbers(&self, classes: Tensor<1, Int>) -> Tensor<1, Int> {
        if classes.dims()[0] == 0 {
            return classes;
        }
        let own = self.own as i64;
        let dtype = classes.dtype();
        let is_positive = classes.clone().equal_elem(0);
        let is_own = classes
            .clone()
            .greater_elem(0)
            .bool_and(classes.clone().lower_equal_elem(own));
        let is_key = classes.clone().greater_elem(own);
        let keys = classes.clone() - (own + 1);
        let of_own = classes.clone() + (self.keys as i64 - 1);
        classes
            .mask_where(is_key, keys)
            .mask_where(is_own, of_own)
            .mask_where(is_positive, self.positive.clone().cast(dtype))
    }
}
