//! Comparison whose positive is the first class: the positive, the row's own negatives, the keys.

use burn::backend::Dispatch;
use burn::tensor::{Int, Tensor};

use super::InfoNceLoss;
use super::comparison::{Classes, Comparison, Positive, Single};
use super::request::OwnNegatives;
use crate::contrastive::error::ContrastiveError;
use crate::contrastive::features::{
    Named, check_beside, check_devices, in_f32_at_least, similarity_of_rows,
};
use crate::dispatch::CrossEntropyBackend;
use crate::loss::Target;
use crate::operation::{Excluded, Ids};

/// The positive of each row.
struct OfRows {
    features: Tensor<2>,
    /// Logarithm of the probability that it is drawn.
    log_q: Option<Tensor<1>>,
    /// Number of its key, if it is one of the keys.
    key: Option<Tensor<1, Int>>,
    target: Tensor<1, Int>,
}

impl<B: CrossEntropyBackend> InfoNceLoss<B> {
    /// Comparison of rows, of which `ids` tell the excluded keys, and `itself` the key that each row is itself.
    pub(super) fn apart(
        &self,
        single: Single,
        ids: Ids<Dispatch>,
        itself: Option<Tensor<2, Int>>,
    ) -> Result<Comparison, ContrastiveError> {
        let OfRows {
            features,
            log_q,
            key,
            target,
        } = OfRows::new(&single);
        let Single {
            query,
            keys,
            negatives,
            log_q: of_keys,
            ..
        } = single;
        let (rows, count) = (query.dims()[0], keys.dims()[0]);
        let similarity = similarity_of_rows(query.clone(), features);
        let bound = self.bound(&similarity);
        let own = match negatives {
            None => None,
            Some(negatives) => Some(self.own_logits(&query, negatives, bound.clone())?),
        };
        let positive = self.less_margin(similarity);
        let positive = match log_q {
            None => positive,
            Some(log_q) => positive.clone() - log_q.cast(positive.dtype()),
        };
        let positive = positive.unsqueeze_dim::<2>(1);
        let own_count = own.as_ref().map_or(0, |own| own.dims()[1]);
        let leading = match own {
            Some(own) if own_count > 0 && rows > 0 => Tensor::cat(vec![positive, own], 1),
            _ => positive,
        };
        // The positive's key is no negative.
        let columns = key.clone().map(|key| key.unsqueeze_dim::<2>(1));
        let columns = match (columns, itself) {
            (Some(key), Some(itself)) => Some(Tensor::cat(vec![key, itself], 1)),
            (key, itself) => key.or(itself),
        };
        let mut similarities = self.similarities(query, keys, of_keys);
        similarities.leading = Some(leading.into_dispatch());
        similarities.excluded = Excluded {
            ids,
            columns: columns.map(Tensor::into_dispatch).into(),
            above: bound.map(Tensor::into_dispatch).into(),
            ..Excluded::default()
        };
        Ok(Comparison {
            similarities,
            target: Target::of_indices(target),
            classes: key.map(|positive| Classes {
                positive,
                own: own_count,
                keys: count,
            }),
            inside: None,
        })
    }

    /// Largest logit that a negative may have.
    fn bound(&self, similarity: &Tensor<1>) -> Option<Tensor<1>> {
        let above = self.settings.exclude_above?;
        let above = self.times_scale(above, similarity);
        Some((similarity.clone() + above).without_autodiff())
    }

    /// Similarities of positives, less the margin.
    fn less_margin(&self, similarity: Tensor<1>) -> Tensor<1> {
        match self.settings.margin {
            0.0 => similarity,
            margin => {
                let margin = self.times_scale(margin, &similarity);
                similarity - margin
            }
        }
    }

    /// Logits of the rows' own negatives, `[rows, n]`.
    fn own_logits(
        &self,
        query: &Tensor<2>,
        negatives: OwnNegatives,
        bound: Option<Tensor<1>>,
    ) -> Result<Tensor<2>, ContrastiveError> {
        let [rows, length] = query.dims();
        negatives.check(rows, length)?;
        let OwnNegatives { features, mask } = negatives;
        let own = features.dims()[1];
        // Not a reshape, to which a size of 0 is that of the tensor.
        let flat = in_f32_at_least(features.flatten::<2>(0, 1));
        check_beside(
            Named::new("query", query),
            Named::new("own negatives", &flat),
        )?;
        if rows * own * length == 0 {
            return Ok(Tensor::zeros([rows, own], (&query.device(), query.dtype())));
        }
        // What fills a row up may be of any numbers.
        let left_out = mask.map(|mask| mask.bool_not());
        let flat = match &left_out {
            None => flat,
            Some(left_out) => {
                let of_features = left_out.clone().reshape([rows * own, 1]);
                flat.mask_fill(of_features.expand([rows * own, length]), 0.0)
            }
        };
        let features = self.normalised(flat).reshape([rows, own, length]);
        let logits = features.matmul(query.clone().unsqueeze_dim::<3>(2));
        let logits = logits.squeeze_dim::<2>(2);
        let logits = match left_out {
            None => logits,
            Some(left_out) => logits.mask_fill(left_out, f64::NEG_INFINITY),
        };
        Ok(match bound {
            None => logits,
            Some(bound) => {
                let bound = bound.unsqueeze_dim::<2>(1).expand([rows, own]);
                let above = logits.clone().without_autodiff().greater(bound);
                logits.mask_fill(above, f64::NEG_INFINITY)
            }
        })
    }
}

impl OwnNegatives {
    /// Checks the shapes beside so many rows of so many features.
    fn check(&self, rows: usize, features: usize) -> Result<(), ContrastiveError> {
        let [given, own, of_features] = self.features.dims();
        if given != rows || of_features != features {
            return Err(ContrastiveError::OwnNegatives {
                negatives: [given, own, of_features],
                expected: [rows, own, features],
            });
        }
        match &self.mask {
            Some(mask) if mask.dims() != [rows, own] => Err(ContrastiveError::OwnNegativesMask {
                mask: mask.dims(),
                expected: [rows, own],
            }),
            Some(mask) => check_devices(
                ("the mask of own negatives", mask.device()),
                ("own negatives", self.features.device()),
            ),
            None => Ok(()),
        }
    }
}

impl OfRows {
    fn new(single: &Single) -> Self {
        let device = single.query.device().without_autodiff();
        let (rows, count) = (single.query.dims()[0], single.keys.dims()[0]);
        let zeros = Tensor::<1, Int>::zeros([rows], &device);
        let positive = match &single.positive {
            Positive::Apart(features, log_q) => {
                return Self {
                    features: features.clone(),
                    log_q: log_q.clone(),
                    key: None,
                    target: zeros,
                };
            }
            Positive::Keys(positive) => positive.clone().without_autodiff().cast(zeros.dtype()),
        };
        let none = positive.clone().lower_elem(0);
        let bad = positive.clone().greater_equal_elem(count as i64);
        let place = positive.clone().clamp(0, count as i64 - 1);
        // -100 is ignored, a number that is no key makes the row NaN.
        let target = zeros.mask_where(none, positive.clone());
        Self {
            features: match rows {
                // Some backends cannot select nothing.
                0 => single.query.clone(),
                _ => single.keys.clone().select(0, place.clone()),
            },
            log_q: match (&single.log_q, rows) {
                (None, _) | (_, 0) => None,
                (Some(log_q), _) => Some(log_q.clone().select(0, place)),
            },
            key: Some(positive),
            target: target.mask_fill(bad, i32::MAX),
        }
    }
}
