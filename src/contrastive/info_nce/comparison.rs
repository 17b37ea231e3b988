//! From a request to similarities and targets: each form is one comparison of rows with keys, or two.
//!
//! Rows of one positive that ask for nothing else have the number of their positive's key as the target. With ids, own
//! negatives, a margin or a bound the positive is a class of its own, the first; its key is left out of the others:
//!
//! ```text
//! classes:  the positive,  the row's own negatives,  the keys
//! ```

use burn::tensor::{Int, Tensor};

use super::InfoNceLoss;
use super::config::{InBatch, SupCon};
use super::log_q::LogQ;
use super::request::{Contrast, Form, Memory, OwnNegatives};
use crate::contrastive::error::ContrastiveError;
use crate::contrastive::features::{Named, check_beside, check_rows, check_with_positive};
use crate::contrastive::ids::{SampleIds, check_id_dtypes, check_ids};
use crate::contrastive::positives::{PositiveKeys, Positives, check_numbers};
use crate::dispatch::CrossEntropyBackend;
use crate::loss::{CrossEntropyLoss, ProjectedTensors, Target};
use crate::operation::{Excluded, Ids};

/// Similarities of rows to keys, and the targets of the rows.
#[derive(Clone)]
pub(super) struct Comparison {
    pub(super) similarities: ProjectedTensors,
    pub(super) target: Target,
    /// How classes and keys belong together, where they are not the same numbers.
    pub(super) classes: Option<Classes>,
    /// Labels of rows and keys for the "in" form, whose similarities do not make it a cross-entropy.
    pub(super) inside: Option<[Tensor<1, Int>; 2]>,
}

/// Classes of a comparison whose positive is the first class.
#[derive(Clone)]
pub(super) struct Classes {
    /// Number of the key of each row's positive.
    pub(super) positive: Tensor<1, Int>,
    /// Number of a row's own negatives.
    pub(super) own: usize,
    pub(super) keys: usize,
}

/// Rows of one positive each.
pub(super) struct Single {
    /// Queries over the temperature.
    pub(super) query: Tensor<2>,
    pub(super) keys: Tensor<2>,
    pub(super) positive: Positive,
    pub(super) ids: Option<SampleIds>,
    pub(super) negatives: Option<OwnNegatives>,
    /// Logarithm of the probability that a key is drawn.
    pub(super) log_q: Option<Tensor<1>>,
    /// Whether the row is a key itself, which it is not compared with.
    pub(super) itself: bool,
}

/// The positives of rows of one positive each.
// A call moves it a few times, and a box would be an allocation.
#[allow(clippy::large_enum_variant)]
pub(super) enum Positive {
    /// Features that are not among the keys, and the logarithms of the probabilities that they are drawn.
    Apart(Tensor<2>, Option<Tensor<1>>),
    /// The keys with these numbers.
    Keys(Tensor<1, Int>),
}

impl Single {
    /// Rows of which nothing else is known.
    fn new(query: Tensor<2>, keys: Tensor<2>, positive: Positive) -> Self {
        Self {
            query,
            keys,
            positive,
            ids: None,
            negatives: None,
            log_q: None,
            itself: false,
        }
    }
}

/// The key of each row that is the row itself, `[rows, 1]`.
fn themselves(query: &Tensor<2>, keys: &Tensor<2>) -> Result<Tensor<2, Int>, ContrastiveError> {
    let (rows, keys) = (query.dims()[0], keys.dims()[0]);
    if keys < rows {
        return Err(ContrastiveError::Combination {
            part: "`without_themselves`",
            form: "fewer keys than rows",
            instead: "the rows have to be the first keys",
        });
    }
    let device = query.device().without_autodiff();
    Ok(Tensor::<1, Int>::arange(0..rows as i64, &device).unsqueeze_dim(1))
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
            memory,
            without_themselves,
        } = contrast;
        if without_themselves && !matches!(form, Form::Several { .. }) {
            return Err(ContrastiveError::Combination {
                part: "`without_themselves`",
                form: "a form that knows its positives",
                instead: "`Contrast::labels` and NT-Xent leave themselves out; it belongs to `Contrast::several`",
            });
        }
        if memory.is_some() && !matches!(form, Form::Labels { .. }) {
            return Err(ContrastiveError::Combination {
                part: "a memory with labels",
                form: "rows without labels",
                instead: "use `Contrast::labels`, or give keys without labels to `Contrast::moco`",
            });
        }
        let mut log_q = LogQ::new(log_q, &form, memory.as_ref())?;
        match form {
            Form::Moco {
                query,
                positive,
                negatives,
            } => {
                check_with_positive(&query, &positive, &negatives)?;
                let [query, positive, negatives] =
                    [query, positive, negatives].map(|features| self.normalised(features));
                let positive = Positive::Apart(positive, log_q.next());
                Ok(vec![self.single(Single {
                    ids,
                    negatives: own_negatives,
                    log_q: log_q.next(),
                    ..Single::new(self.scaled(query), negatives, positive)
                })?])
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
                let [query, keys] = [query, keys].map(|features| self.normalised(features));
                Ok(vec![self.single(Single {
                    ids,
                    negatives: own_negatives,
                    log_q: log_q.next(),
                    ..Single::new(self.scaled(query), keys, Positive::Keys(positive))
                })?])
            }
            Form::Labels { features, labels } => {
                self.no_parts_of_one_positive(&ids, &own_negatives)?;
                self.labels(features, labels, memory, &mut log_q)
            }
            Form::Several {
                query,
                keys,
                positives,
            } => {
                self.no_parts_of_one_positive(&ids, &own_negatives)?;
                check_beside(Named::new("query", &query), Named::new("keys", &keys))?;
                let query = self.scaled(self.normalised(query));
                let keys = self.normalised(keys);
                self.several([query, keys], positives, log_q.next(), without_themselves)
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
        let themselves = || Positive::Keys(Tensor::arange(0..rows, &device));
        if negatives.is_some() && self.settings.in_batch != InBatch::OneSided {
            return Err(ContrastiveError::Combination {
                part: "own negatives",
                form: "both sides of a batch",
                instead: "they are of the first view's rows alone; use `InBatch::OneSided`",
            });
        }
        let one_sided = |query: Tensor<2>, keys: Tensor<2>, ids, negatives, log_q| {
            self.single(Single {
                ids,
                negatives,
                log_q,
                ..Single::new(self.scaled(query), keys, themselves())
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
                let themselves = Tensor::<1, Int>::arange(0..rows, &device);
                Ok(vec![self.single(Single {
                    ids: ids.map(SampleIds::one_after_the_other).transpose()?,
                    log_q: match (log_q_a, log_q_b) {
                        (Some(a), Some(b)) => Some(Tensor::cat(vec![a, b], 0)),
                        _ => None,
                    },
                    itself: true,
                    ..self.nt_xent(a, b, themselves)
                })?])
            }
        }
    }

    /// Both views as one batch, whose rows have the same row of the other view as their positive.
    fn nt_xent(&self, a: Tensor<2>, b: Tensor<2>, themselves: Tensor<1, Int>) -> Single {
        let rows = a.dims()[0] as i64;
        let both = Tensor::cat(vec![a, b], 0);
        let others = Tensor::cat(vec![themselves.clone() + rows, themselves], 0);
        Single::new(self.scaled(both.clone()), both, Positive::Keys(others))
    }

    fn single(&self, single: Single) -> Result<Comparison, ContrastiveError> {
        let device = single.query.device();
        let plain = device.clone().without_autodiff();
        let (rows, keys) = (single.query.dims()[0], single.keys.dims()[0]);
        let ids = match &single.ids {
            None => Ids::Nothing,
            Some(ids) => {
                let of = match single.positive {
                    Positive::Apart(..) => "negatives",
                    Positive::Keys(_) => "keys",
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
        if let (true, Positive::Keys(positive)) = (is_plain, &single.positive) {
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
        if let Positive::Keys(positive) = &single.positive {
            let loss: CrossEntropyLoss<B> = self.settings.loss();
            check_numbers(&loss, positive, [rows, keys], &device)?;
        }
        self.apart(single, ids, itself)
    }

    fn labels(
        &self,
        features: Tensor<2>,
        labels: Tensor<1, Int>,
        memory: Option<Memory>,
        log_q: &mut LogQ,
    ) -> Result<Vec<Comparison>, ContrastiveError> {
        let rows = features.dims()[0];
        check_ids(&labels, "rows", rows, &features.device())?;
        if let Some((keys, labels_of_keys)) = &memory {
            check_beside(
                Named::new("features", &features),
                Named::new("memory", keys),
            )?;
            check_ids(
                labels_of_keys,
                "keys of the memory",
                keys.dims()[0],
                &features.device(),
            )?;
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
        [query, keys]: [Tensor<2>; 2],
        positives: Positives,
        log_q: Option<Tensor<1>>,
        without_themselves: bool,
    ) -> Result<Vec<Comparison>, ContrastiveError> {
        let of_labels = matches!(positives, Positives::Labels { .. });
        if self.settings.sup_con == SupCon::In && !of_labels {
            return Err(ContrastiveError::Combination {
                part: "`SupCon::In`",
                form: "positives by number or by a mask",
                instead: "it needs labels; use `Positives::Labels`, or `SupCon::Out`",
            });
        }
        let loss: CrossEntropyLoss<B> = self.settings.loss();
        let (pairs, dtype) = ([query.dims()[0], keys.dims()[0]], query.dtype());
        let mut positives = PositiveKeys::new(&loss, positives, pairs, &query.device())?;
        let itself = match without_themselves {
            true => Some(themselves(&query, &keys)?),
            false => None,
        };
        let mut similarities = self.similarities(query, keys, log_q);
        if let Some(itself) = itself {
            similarities.excluded.columns = Some(itself.clone().into_dispatch()).into();
            positives = positives.without(itself);
        }
        let inside = match &positives {
            PositiveKeys::Labels(labels) if self.settings.sup_con == SupCon::In => {
                Some(labels.clone())
            }
            _ => None,
        };
        Ok(vec![Comparison {
            similarities,
            target: positives.shared(dtype),
            classes: None,
            inside,
        }])
    }

    /// Refuses what has no meaning where a row has several positives.
    fn no_parts_of_one_positive(
        &self,
        ids: &Option<SampleIds>,
        own_negatives: &Option<OwnNegatives>,
    ) -> Result<(), ContrastiveError> {
        let given = [
            ("ids", ids.is_some()),
            ("own negatives", own_negatives.is_some()),
            ("`margin`", self.settings.margin != 0.0),
            ("`exclude_above`", self.settings.exclude_above.is_some()),
        ];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            None => Ok(()),
            Some((part, _)) => Err(ContrastiveError::Combination {
                part,
                form: "several positives of a row",
                instead: "that belongs to the forms of one positive: `moco`, `in_batch`, `pairs`",
            }),
        }
    }

    pub(super) fn similarities(
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
