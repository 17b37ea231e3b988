//! From a request to similarities and targets: each form is one comparison of rows with keys, or two.
//!
//! Rows of one positive that ask for nothing else have the number of their positive's key as the target. With ids, own
//! negatives, a margin or a bound the positive is a class of its own, the first; its key is left out of the others:
//!
//! ```text
//! classes:  the positive,  the row's own negatives,  the keys
//! ```

use burn::backend::Dispatch;
use burn::tensor::{Int, Tensor};

use super::InfoNceLoss;
use super::config::{InBatch, SupCon};
use super::request::{Contrast, Form, OwnNegatives};
use crate::contrastive::error::ContrastiveError;
use crate::contrastive::features::{
    Named, check_beside, check_rows, check_with_positive, in_f32_at_least, similarity_of_rows,
};
use crate::contrastive::ids::{SampleIds, check_id_dtypes, check_ids};
use crate::contrastive::positives::{PositiveKeys, Positives, check_numbers};
use crate::dispatch::CrossEntropyBackend;
use crate::loss::{CrossEntropyLoss, ProjectedTensors, Target};
use crate::operation::{Excluded, Ids};

/// Similarities of rows to keys, and the targets of the rows.
pub(super) struct Comparison {
    pub(super) similarities: ProjectedTensors,
    pub(super) target: Target,
    /// How classes and keys belong together, where they are not the same numbers.
    pub(super) classes: Option<Classes>,
    /// Labels of rows and keys for the "in" form, whose similarities do not make it a cross-entropy.
    pub(super) inside: Option<[Tensor<1, Int>; 2]>,
}

/// Classes of a comparison whose positive is the first class.
pub(super) struct Classes {
    /// Number of the key of each row's positive.
    pub(super) positive: Tensor<1, Int>,
    /// Number of a row's own negatives.
    pub(super) own: usize,
    pub(super) keys: usize,
}

/// Rows of one positive each.
struct Single {
    /// Queries over the temperature.
    query: Tensor<2>,
    keys: Tensor<2>,
    own: Own,
    ids: Option<SampleIds>,
    negatives: Option<OwnNegatives>,
    /// Logarithm of the probability that a key is drawn.
    log_q: Option<Tensor<1>>,
    /// The row is a key itself, which it is not compared with.
    itself: bool,
}

/// The positives of rows of one positive each.
enum Own {
    /// Features that are not among the keys, with what is subtracted from their logits.
    Apart(Tensor<2>, Option<Tensor<1>>),
    /// The keys with these numbers.
    Keys(Tensor<1, Int>),
}

impl<B: CrossEntropyBackend> InfoNceLoss<B> {
    /// The comparisons of a request, whose losses have equal parts in its loss.
    pub(super) fn comparisons(
        &self,
        contrast: Contrast,
    ) -> Result<Vec<Comparison>, ContrastiveError> {
        let Contrast {
            form,
            ids,
            own_negatives,
            log_q,
        } = contrast;
        let mut log_q = LogQ::new(log_q, &form)?;
        match form {
            Form::Moco {
                query,
                positive,
                negatives,
            } => {
                check_with_positive(&query, &positive, &negatives)?;
                let single = Single {
                    query: self.scaled(self.normalised(query)),
                    own: Own::Apart(self.normalised(positive), log_q.next()),
                    keys: self.normalised(negatives),
                    ids,
                    negatives: own_negatives,
                    log_q: log_q.next(),
                    itself: false,
                };
                Ok(vec![self.single(single)?])
            }
            Form::InBatch { a, b } => {
                check_rows(Named::new("a", &a), Named::new("b", &b))?;
                check_beside(Named::new("a", &a), Named::new("b", &b))?;
                let (a, b) = (self.normalised(a), self.normalised(b));
                let log_q = [log_q.next(), log_q.next()];
                self.in_batch([a, b], ids, own_negatives, log_q)
            }
            Form::Pairs {
                query,
                keys,
                positive,
            } => {
                check_beside(Named::new("query", &query), Named::new("keys", &keys))?;
                let single = Single {
                    query: self.scaled(self.normalised(query)),
                    own: Own::Keys(positive),
                    keys: self.normalised(keys),
                    ids,
                    negatives: own_negatives,
                    log_q: log_q.next(),
                    itself: false,
                };
                Ok(vec![self.single(single)?])
            }
            Form::Labels {
                features,
                labels,
                memory,
            } => {
                no_parts_of_one_positive(&ids, &own_negatives)?;
                self.labels(features, labels, memory, &mut log_q)
            }
            Form::Several {
                query,
                keys,
                positives,
            } => {
                no_parts_of_one_positive(&ids, &own_negatives)?;
                check_beside(Named::new("query", &query), Named::new("keys", &keys))?;
                let query = self.scaled(self.normalised(query));
                let keys = self.normalised(keys);
                self.several(query, keys, positives, log_q.next())
            }
        }
    }

    fn in_batch(
        &self,
        [a, b]: [Tensor<2>; 2],
        ids: Option<SampleIds>,
        negatives: Option<OwnNegatives>,
        [log_q_a, log_q_b]: [Option<Tensor<1>>; 2],
    ) -> Result<Vec<Comparison>, ContrastiveError> {
        let rows = a.dims()[0] as i64;
        let device = a.device().without_autodiff();
        let themselves = || Own::Keys(Tensor::arange(0..rows, &device));
        if negatives.is_some() && self.settings.in_batch != InBatch::OneSided {
            return Err(ContrastiveError::Combination {
                part: "own negatives",
                form: "both sides of a batch",
                instead: "they are of the first view's rows alone; use `InBatch::OneSided`",
            });
        }
        let one_sided = |query: Tensor<2>, keys: Tensor<2>, ids, negatives, log_q| {
            self.single(Single {
                query: self.scaled(query),
                own: themselves(),
                keys,
                ids,
                negatives,
                log_q,
                itself: false,
            })
        };
        match self.settings.in_batch {
            InBatch::OneSided => Ok(vec![one_sided(a, b, ids, negatives, log_q_b)?]),
            InBatch::Symmetric => {
                let turned = ids.clone().map(|ids| SampleIds {
                    queries: ids.negatives,
                    negatives: ids.queries,
                });
                let there = one_sided(a.clone(), b.clone(), ids, None, log_q_b)?;
                Ok(vec![there, one_sided(b, a, turned, None, log_q_a)?])
            }
            InBatch::NtXent => {
                let both = Tensor::cat(vec![a, b], 0);
                let first = Tensor::<1, Int>::arange(0..rows, &device);
                let others = Tensor::cat(vec![first.clone() + rows, first], 0);
                let ids = ids.map(|ids| {
                    SampleIds::same(Tensor::cat(vec![ids.queries, ids.negatives], 0))
                });
                let log_q = match (log_q_a, log_q_b) {
                    (Some(a), Some(b)) => Some(Tensor::cat(vec![a, b], 0)),
                    _ => None,
                };
                Ok(vec![self.single(Single {
                    query: self.scaled(both.clone()),
                    own: Own::Keys(others),
                    keys: both,
                    ids,
                    negatives: None,
                    log_q,
                    itself: true,
                })?])
            }
        }
    }

    fn single(&self, single: Single) -> Result<Comparison, ContrastiveError> {
        let device = single.query.device();
        let plain = device.clone().without_autodiff();
        let (rows, keys) = (single.query.dims()[0], single.keys.dims()[0]);
        let ids = match &single.ids {
            None => Ids::Nothing,
            Some(ids) => {
                let of = match single.own {
                    Own::Apart(..) => "negatives",
                    Own::Keys(_) => "keys",
                };
                ids.given(rows, (keys, of), &device)?
            }
        };
        let itself = single
            .itself
            .then(|| Tensor::<1, Int>::arange(0..rows as i64, &plain).unsqueeze_dim::<2>(1));
        let is_plain = matches!(ids, Ids::Nothing)
            && single.negatives.is_none()
            && self.settings.margin == 0.0
            && self.settings.exclude_above.is_none();
        if let (true, Own::Keys(positive)) = (is_plain, &single.own) {
            let target = Target::of_indices(positive.clone());
            let mut similarities = self.similarities(single.query, single.keys, single.log_q);
            similarities.excluded.columns = itself.map(Tensor::into_dispatch).into();
            return Ok(Comparison {
                similarities,
                target,
                classes: None,
                inside: None,
            });
        }
        if let Own::Keys(positive) = &single.own {
            let loss: CrossEntropyLoss<B> = self.settings.loss();
            check_numbers(&loss, positive, [rows, keys], &device)?;
        }
        self.apart(single, ids, itself)
    }

    /// Comparison whose positive is the first class.
    fn apart(
        &self,
        single: Single,
        ids: Ids<Dispatch>,
        itself: Option<Tensor<2, Int>>,
    ) -> Result<Comparison, ContrastiveError> {
        let Single {
            query, keys, own, ..
        } = single;
        let device = query.device().without_autodiff();
        let (rows, count) = (query.dims()[0], keys.dims()[0]);
        let (features, less, key, target) = match own {
            Own::Apart(positive, log_q) => {
                let target = Tensor::<1, Int>::zeros([rows], &device);
                (positive, log_q, None, target)
            }
            Own::Keys(positive) => {
                let dtype = Tensor::<1, Int>::zeros([0], &device).dtype();
                let positive = positive.without_autodiff().cast(dtype);
                let none = positive.clone().lower_elem(0);
                let bad = positive.clone().greater_equal_elem(count as i64);
                let place = positive.clone().clamp(0, count as i64 - 1);
                // -100 is ignored, a number that is no key makes the row NaN.
                let target = Tensor::<1, Int>::zeros([rows], &device).mask_where(none, positive.clone());
                let target = target.mask_fill(bad, i32::MAX);
                let less = single.log_q.clone().map(|log_q| log_q.select(0, place.clone()));
                let features = match rows {
                    // Some backends cannot select nothing.
                    0 => query.clone(),
                    _ => keys.clone().select(0, place),
                };
                (features, less, Some(positive), target)
            }
        };
        let similarity = similarity_of_rows(query.clone(), features);
        let bound = self.bound(&similarity);
        let own = match single.negatives {
            None => None,
            Some(negatives) => Some(self.own_logits(&query, negatives, bound.clone())?),
        };
        let positive = self.less_margin(similarity);
        let positive = match less {
            None => positive,
            Some(log_q) => positive.clone() - log_q.cast(positive.dtype()),
        };
        let positive = positive.unsqueeze_dim::<2>(1);
        let own_count = own.as_ref().map_or(0, |own| own.dims()[1]);
        let leading = match own {
            Some(own) if own_count > 0 && rows > 0 => Tensor::cat(vec![positive, own], 1),
            _ => positive,
        };
        let columns: Vec<_> = key
            .clone()
            .map(|key| key.unsqueeze_dim::<2>(1))
            .into_iter()
            .chain(itself)
            .collect();
        let columns = (!columns.is_empty()).then(|| Tensor::cat(columns, 1));
        let mut similarities = self.similarities(query, keys, single.log_q);
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
        let similarity = similarity.clone();
        let scaled = self.times_scale(above, &similarity);
        Some((similarity + scaled).without_autodiff())
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
        let OwnNegatives { features, mask } = negatives;
        let ([rows, length], [given, own, features_of]) = (query.dims(), features.dims());
        if given != rows || features_of != length {
            return Err(ContrastiveError::OwnNegatives {
                negatives: [given, own, features_of],
                expected: [rows, own, length],
            });
        }
        if let Some(mask) = &mask
            && mask.dims() != [rows, own]
        {
            return Err(ContrastiveError::OwnNegativesMask {
                mask: mask.dims(),
                expected: [rows, own],
            });
        }
        let flat = in_f32_at_least(features.reshape([rows * own, length]));
        check_beside(Named::new("query", query), Named::new("own negatives", &flat))?;
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

    fn labels(
        &self,
        features: Tensor<2>,
        labels: Tensor<1, Int>,
        memory: Option<(Tensor<2>, Tensor<1, Int>)>,
        log_q: &mut LogQ,
    ) -> Result<Vec<Comparison>, ContrastiveError> {
        let rows = features.dims()[0];
        check_ids(&labels, "rows", rows, &features.device())?;
        if let Some((keys, labels_of_keys)) = &memory {
            check_beside(Named::new("features", &features), Named::new("memory", keys))?;
            check_ids(labels_of_keys, "keys of the memory", keys.dims()[0], &features.device())?;
            check_id_dtypes(&labels, labels_of_keys)?;
        }
        let features = self.normalised(features);
        let labels = labels.without_autodiff();
        let (mut keys, mut labels_of_keys) = (features.clone(), labels.clone());
        let mut of_keys = log_q.next();
        if let Some((memory, labels)) = memory
            && memory.dims()[0] > 0
        {
            keys = Tensor::cat(vec![keys, self.normalised(memory)], 0);
            labels_of_keys = Tensor::cat(vec![labels_of_keys, labels.without_autodiff()], 0);
            of_keys = match (of_keys, log_q.next()) {
                (Some(of_keys), Some(of_memory)) => Some(Tensor::cat(vec![of_keys, of_memory], 0)),
                _ => None,
            };
        }
        let device = keys.device().without_autodiff();
        let itself = Tensor::<1, Int>::arange(0..rows as i64, &device).unsqueeze_dim::<2>(1);
        let mut similarities = self.similarities(self.scaled(features), keys, of_keys);
        similarities.excluded.columns = Some(itself.into_dispatch()).into();
        let both = [labels.clone(), labels_of_keys.clone()];
        Ok(vec![Comparison {
            similarities,
            target: Target::alike(labels, labels_of_keys),
            classes: None,
            inside: (self.settings.sup_con == SupCon::In).then_some(both),
        }])
    }

    fn several(
        &self,
        query: Tensor<2>,
        keys: Tensor<2>,
        positives: Positives,
        log_q: Option<Tensor<1>>,
    ) -> Result<Vec<Comparison>, ContrastiveError> {
        let device = query.device();
        let (rows, count) = (query.dims()[0], keys.dims()[0]);
        let similarities = self.similarities(query, keys, log_q);
        let of_labels = matches!(positives, Positives::Labels { .. });
        if self.settings.sup_con == SupCon::In && !of_labels {
            return Err(ContrastiveError::Combination {
                part: "`SupCon::In`",
                form: "positives by number or by a mask",
                instead: "it needs labels; use `Positives::Labels`, or `SupCon::Out`",
            });
        }
        let loss: CrossEntropyLoss<B> = self.settings.loss();
        let positives = PositiveKeys::new(&loss, positives, [rows, count], &device)?;
        let inside = match &positives {
            PositiveKeys::Labels(labels) if self.settings.sup_con == SupCon::In => {
                Some(labels.clone())
            }
            _ => None,
        };
        Ok(vec![Comparison {
            similarities,
            target: positives.shared(),
            classes: None,
            inside,
        }])
    }

    fn similarities(
        &self,
        query: Tensor<2>,
        keys: Tensor<2>,
        log_q: Option<Tensor<1>>,
    ) -> ProjectedTensors {
        let dtype = keys.dtype();
        ProjectedTensors {
            hidden: query.into_dispatch(),
            weight: keys.transpose().into_dispatch(),
            bias: log_q.map(|log_q| log_q.cast(dtype).neg().into_dispatch()),
            leading: None,
            excluded: Excluded::default(),
            chunk: self.settings.chunk,
        }
    }
}

/// The given logarithms of probabilities, one after the other.
struct LogQ(std::vec::IntoIter<Tensor<1>>);

impl LogQ {
    fn new(given: Option<Vec<Tensor<1>>>, form: &Form) -> Result<Self, ContrastiveError> {
        let Some(given) = given else {
            return Ok(Self(Vec::new().into_iter()));
        };
        let (device, sizes) = match form {
            Form::Moco {
                query,
                positive,
                negatives,
            } => (
                query.device(),
                vec![("positive", positive.dims()[0]), ("negatives", negatives.dims()[0])],
            ),
            Form::InBatch { a, b } => {
                (a.device(), vec![("a", a.dims()[0]), ("b", b.dims()[0])])
            }
            Form::Pairs { keys, .. } | Form::Several { keys, .. } => {
                (keys.device(), vec![("keys", keys.dims()[0])])
            }
            Form::Labels {
                features, memory, ..
            } => {
                let mut sizes = vec![("features", features.dims()[0])];
                sizes.extend(memory.as_ref().map(|(keys, _)| ("memory", keys.dims()[0])));
                (features.device(), sizes)
            }
        };
        let lengths: Vec<usize> = given.iter().map(|log_q| log_q.dims()[0]).collect();
        let expected: Vec<usize> = sizes.iter().map(|(_, size)| *size).collect();
        let is_there = given.iter().all(|log_q| {
            log_q.device().without_autodiff() == device.clone().without_autodiff()
        });
        if lengths != expected || !is_there {
            return Err(ContrastiveError::LogQ {
                given: lengths,
                tensors: sizes.iter().map(|(name, _)| *name).collect(),
                expected,
            });
        }
        let constants = given.into_iter().map(Tensor::without_autodiff);
        Ok(Self(constants.collect::<Vec<_>>().into_iter()))
    }

    fn next(&mut self) -> Option<Tensor<1>> {
        self.0.next()
    }
}

fn no_parts_of_one_positive(
    ids: &Option<SampleIds>,
    own_negatives: &Option<OwnNegatives>,
) -> Result<(), ContrastiveError> {
    let part = match (ids, own_negatives) {
        (None, None) => return Ok(()),
        (Some(_), _) => "ids",
        (None, Some(_)) => "own negatives",
    };
    Err(ContrastiveError::Combination {
        part,
        form: "several positives of a row",
        instead: "they belong to the forms of one positive: `moco`, `in_batch`, `pairs`",
    })
}
