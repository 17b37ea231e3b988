//! Contrastive loss: the cross-entropy of similarities, whose matrix exists in chunks of rows only.

mod config;
mod features;
mod logits;
mod temperature;

use std::marker::PhantomData;

use burn::backend::Dispatch;
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use self::config::Settings;
pub use self::config::{InBatch, InfoNceLossConfig};
use self::features::{
    Named, check_beside, check_rows, check_with_positive, in_f32_at_least, similarity_of_rows,
    unit_length,
};
pub use self::logits::moco_logits;
use super::error::{ContrastiveError, unwrap};
use crate::dispatch::CrossEntropyBackend;
use crate::loss::{
    CrossEntropyLoss, CrossEntropyOutput, GivenLogits, ProjectedTensors, Request,
    RequestedReduction, SameId, Target,
};
use crate::operation::Outputs;

/// The contrastive loss of queries and keys: each query has to pick its own key, the
/// positive, among all keys; the others are the negatives.
///
/// With `q` a query, `k` its positive, `n_j` its negatives, all of length 1, and the temperature `t`
///
/// ```text
/// loss = -log( exp(q.k / t) / (exp(q.k / t) + sum_j exp(q.n_j / t)) )
/// ```
///
/// which is the cross-entropy of the logits `[q.k, q.n_0, q.n_1, ..] / t` with target 0: the positive
/// is at index 0 ([`moco_logits`] makes the logits as a tensor). The mean over the rows is the loss.
///
/// # Forms
///
/// | Form | Positive of a row | Negatives |
/// |---|---|---|
/// | [`forward`](Self::forward) | the row of `positive` | all of `negatives`, such as those of a [`NegativeQueue`](super::NegativeQueue) |
/// | [`forward_with_ids`](Self::forward_with_ids) | the same | those with another id |
/// | [`forward_in_batch`](Self::forward_in_batch) | the same row of the other tensor | as [`InBatch`] says |
/// | [`forward_pairs`](Self::forward_pairs) | the row that is given | all other rows; none for a row without a positive |
///
/// # Options
///
/// [`InfoNceLossConfig`] has the options. A learnable temperature is a parameter of the module, the
/// logarithm of `1 / t` in f32. The gradient of the parameter is in f32 for every dtype of the features.
///
/// # Memory
///
/// Only [`chunk_bytes`](InfoNceLossConfig::chunk_bytes) of similarities exist at a time, as of the logits
/// of [`LinearCrossEntropyLoss`](crate::LinearCrossEntropyLoss). The matrix `[rows, negatives]` is never
/// held, for any number of negatives. Only tensors that require a gradient get one; a queue does not.
///
/// Features in f16 or bf16 are taken as they are; everything behind them is in f32.
///
/// # Edge cases
///
/// In the outputs of rows a negative as similar as the positive, up to the rounding of a product of two
/// features, ranks before it: an encoder that cannot tell the keys apart is never right. Without negatives it
/// always is.
///
/// Features of length 0, or without a number of at least 1.2e-38, have no direction: normalisation leaves
/// them as they are. Without negatives the loss of a row is 0. Without queries the mean is NaN, as in
/// [`CrossEntropyLoss`](crate::CrossEntropyLoss). Where the keys are the classes, at least one key is
/// needed: `forward_in_batch` without rows and `forward_pairs` without keys are errors.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Distribution, Tensor};
/// use burn_cross_entropy::{InfoNceLossConfig, NegativeQueueConfig};
///
/// let device = Device::flex().autodiff();
/// let mut queue = NegativeQueueConfig::new(1024, 16).init(&device);
/// let loss = InfoNceLossConfig::new().init(&device);
///
/// let random = |rows| Tensor::<2>::random([rows, 16], Distribution::Default, &device);
/// queue.push(random(100));
/// let (queries, keys) = (random(8).require_grad(), random(8));
/// let value = loss.forward(queries.clone(), keys.clone(), queue.keys());
/// let gradient = queries.grad(&value.backward()).unwrap();
/// assert_eq!(gradient.dims(), [8, 16]);
/// queue.push(keys);
/// ```
///
/// Sources: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018,
/// <https://arxiv.org/abs/1807.03748>; He et al. (MoCo), <https://arxiv.org/abs/1911.05722>; Chen et al.
/// (SimCLR), <https://arxiv.org/abs/2002.05709>; Radford et al. (CLIP),
/// <https://arxiv.org/abs/2103.00020>.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct InfoNceLoss<B: CrossEntropyBackend = Dispatch> {
    /// Logarithm of one over the temperature, where the temperature is learnt.
    log_scale: Option<Param<Tensor<1>>>,
    #[module(skip)]
    settings: Settings,
    #[module(skip)]
    backend: PhantomData<fn() -> B>,
}

impl InfoNceLossConfig {
    /// Makes the loss for tensors of every backend; a learnable temperature is on the device.
    ///
    /// # Panics
    ///
    /// If a value is out of its range; the text names the field and the value.
    pub fn init(&self, device: &Device) -> InfoNceLoss {
        self.init_for::<Dispatch>(device)
    }

    /// Makes the loss bound to the backend `B` at compile time, see
    /// [`CrossEntropyLossConfig::init_for`](crate::CrossEntropyLossConfig::init_for).
    ///
    /// # Panics
    ///
    /// If a value is out of its range; the text names the field and the value.
    pub fn init_for<B: CrossEntropyBackend>(&self, device: &Device) -> InfoNceLoss<B> {
        unwrap(self.try_init_for(device))
    }

    /// [`init_for`](Self::init_for) that returns an error for a bad configuration.
    ///
    /// # Errors
    ///
    /// [`ContrastiveError::InvalidConfig`] for the first value that is out of its range.
    pub fn try_init_for<B: CrossEntropyBackend>(
        &self,
        device: &Device,
    ) -> Result<InfoNceLoss<B>, ContrastiveError> {
        self.check()?;
        Ok(InfoNceLoss {
            log_scale: self.learnable.then(|| {
                let first = TensorData::from([-self.temperature.ln()]);
                Param::from_tensor(Tensor::from_data(first, (device, DType::F32)))
            }),
            settings: self.settings(),
            backend: PhantomData,
        })
    }
}

impl<B: CrossEntropyBackend> ModuleDisplay for InfoNceLoss<B> {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new()
            .with_new_line_after_attribute(false)
            .optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        self.settings
            .display(content.add("log_scale", &self.log_scale))
    }
}

/// Ids of the samples of queries and negatives. A negative with the id of a query is excluded for that
/// query.
#[derive(Clone, Debug)]
pub struct SampleIds {
    /// One id for each query.
    pub queries: Tensor<1, Int>,
    /// One id for each negative, in the dtype of the queries' ids.
    pub negatives: Tensor<1, Int>,
}

impl SampleIds {
    /// Checks the ids beside queries on the device, and converts them.
    fn same(self, device: &Device) -> Result<SameId, ContrastiveError> {
        for (of, ids) in [("queries", &self.queries), ("negatives", &self.negatives)] {
            if ids.device().without_autodiff() != device.clone().without_autodiff() {
                return Err(ContrastiveError::SampleIdDevice {
                    of,
                    ids: ids.device().into(),
                    features: device.clone().into(),
                });
            }
        }
        if self.queries.dtype() != self.negatives.dtype() {
            return Err(ContrastiveError::SampleIdDtypes {
                queries: self.queries.dtype(),
                negatives: self.negatives.dtype(),
            });
        }
        Ok(SameId {
            rows: self.queries.without_autodiff().into_dispatch(),
            columns: self.negatives.without_autodiff().into_dispatch(),
        })
    }
}

impl<B: CrossEntropyBackend> InfoNceLoss<B> {
    /// Computes the mean loss of queries `[N, F]` with one positive each, `[N, F]`, against common negatives
    /// `[K, F]`: momentum contrast.
    ///
    /// # Panics
    ///
    /// With the text of a [`ContrastiveError`] if the tensors do not fit each other.
    pub fn forward(
        &self,
        query: Tensor<2>,
        positive: Tensor<2>,
        negatives: Tensor<2>,
    ) -> Tensor<1> {
        unwrap(self.try_forward(query, positive, negatives))
    }

    /// [`forward`](Self::forward) that returns an error instead of a panic.
    ///
    /// # Errors
    ///
    /// A [`ContrastiveError`] that says what was given, what was expected, and what to do.
    pub fn try_forward(
        &self,
        query: Tensor<2>,
        positive: Tensor<2>,
        negatives: Tensor<2>,
    ) -> Result<Tensor<1>, ContrastiveError> {
        let (similarities, target) = self.with_positive(query, positive, negatives)?;
        self.loss(similarities, target)
    }

    /// [`forward`](Self::forward) without the negatives that have the id of the query: an old key that a
    /// queue still holds is not a negative of its own sample.
    ///
    /// # Panics
    ///
    /// With the text of a [`ContrastiveError`] if the tensors do not fit each other.
    pub fn forward_with_ids(
        &self,
        query: Tensor<2>,
        positive: Tensor<2>,
        negatives: Tensor<2>,
        ids: SampleIds,
    ) -> Tensor<1> {
        unwrap(self.try_forward_with_ids(query, positive, negatives, ids))
    }

    /// [`forward_with_ids`](Self::forward_with_ids) that returns an error instead of a panic.
    ///
    /// # Errors
    ///
    /// A [`ContrastiveError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_with_ids(
        &self,
        query: Tensor<2>,
        positive: Tensor<2>,
        negatives: Tensor<2>,
        ids: SampleIds,
    ) -> Result<Tensor<1>, ContrastiveError> {
        for (of, ids, rows) in [
            ("queries", &ids.queries, query.dims()[0]),
            ("negatives", &ids.negatives, negatives.dims()[0]),
        ] {
            let ids = ids.dims()[0];
            if ids != rows {
                return Err(ContrastiveError::SampleIds { of, ids, rows });
            }
        }
        let device = query.device();
        let (mut similarities, target) = self.with_positive(query, positive, negatives)?;
        similarities.excluded = Some(ids.same(&device)?);
        self.loss(similarities, target)
    }

    /// Computes the loss of [`forward`](Self::forward) and in the same pass the outputs of every row, such as
    /// whether the positive was the most similar (`correct`, which a tie is not), see
    /// [`CrossEntropyLoss::forward_with_output`](crate::CrossEntropyLoss::forward_with_output).
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_with_output(
        &self,
        query: Tensor<2>,
        positive: Tensor<2>,
        negatives: Tensor<2>,
    ) -> CrossEntropyOutput<1> {
        unwrap(self.try_forward_with_output(query, positive, negatives))
    }

    /// [`forward_with_output`](Self::forward_with_output) that returns an error instead of a panic.
    ///
    /// # Errors
    ///
    /// A [`ContrastiveError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_with_output(
        &self,
        query: Tensor<2>,
        positive: Tensor<2>,
        negatives: Tensor<2>,
    ) -> Result<CrossEntropyOutput<1>, ContrastiveError> {
        let (similarities, target) = self.with_positive(query, positive, negatives)?;
        let loss: CrossEntropyLoss<B> = self.settings.loss();
        let logits = GivenLogits::projected(similarities);
        Ok(loss.output::<2>(logits, Target::of_indices(target), Outputs::Rows)?)
    }

    /// Computes the mean loss of two views `[N, F]` of a batch: the positive of a row is the same row of the
    /// other view, the negatives are other rows of the batch, see [`InBatch`].
    ///
    /// # Panics
    ///
    /// With the text of a [`ContrastiveError`] if the tensors do not fit each other.
    pub fn forward_in_batch(&self, a: Tensor<2>, b: Tensor<2>) -> Tensor<1> {
        unwrap(self.try_forward_in_batch(a, b))
    }

    /// [`forward_in_batch`](Self::forward_in_batch) that returns an error instead of a panic.
    ///
    /// # Errors
    ///
    /// A [`ContrastiveError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_in_batch(
        &self,
        a: Tensor<2>,
        b: Tensor<2>,
    ) -> Result<Tensor<1>, ContrastiveError> {
        check_rows(Named::new("a", &a), Named::new("b", &b))?;
        check_beside(Named::new("a", &a), Named::new("b", &b))?;
        let rows = a.dims()[0] as i64;
        let device = a.device().without_autodiff();
        let rows_themselves = || Tensor::<1, Int>::arange(0..rows, &device);
        let (a, b) = (self.normalised(a), self.normalised(b));
        match self.settings.in_batch {
            InBatch::OneSided => self.pairs(self.scaled(a), b, rows_themselves()),
            InBatch::Symmetric => {
                let there = self.pairs(self.scaled(a.clone()), b.clone(), rows_themselves())?;
                let back = self.pairs(self.scaled(b), a, rows_themselves())?;
                Ok((there + back) / 2.0)
            }
            InBatch::NtXent => {
                let both = Tensor::cat(vec![a, b], 0);
                let others = Tensor::cat(vec![rows_themselves() + rows, rows_themselves()], 0);
                let ids = Tensor::<1, Int>::arange(0..2 * rows, &device).into_dispatch();
                let mut similarities = self.similarities(self.scaled(both.clone()), both);
                similarities.excluded = Some(SameId {
                    rows: ids.clone(),
                    columns: ids,
                });
                self.loss(similarities, others)
            }
        }
    }

    /// Computes the mean loss of rows `[N, F]` whose positives are rows of `keys` `[K, F]`. Row `i` has the
    /// positive `positive[i]`; all other keys are negatives of the row. A row without a positive has the
    /// index -100, and is ignored.
    ///
    /// # Panics
    ///
    /// With the text of a [`ContrastiveError`] if the tensors do not fit each other, or, on the CPU
    /// backends, if an index is not a row of the keys.
    pub fn forward_pairs(
        &self,
        query: Tensor<2>,
        keys: Tensor<2>,
        positive: Tensor<1, Int>,
    ) -> Tensor<1> {
        unwrap(self.with_pairs(query, keys, positive))
    }

    /// [`forward_pairs`](Self::forward_pairs) that returns an error instead of a panic.
    ///
    /// # Errors
    ///
    /// A [`ContrastiveError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_pairs(
        &self,
        query: Tensor<2>,
        keys: Tensor<2>,
        positive: Tensor<1, Int>,
    ) -> Result<Tensor<1>, ContrastiveError> {
        self.with_pairs(query, keys, positive)
    }

    /// Similarities with the positive at index 0, and the target of every row.
    fn with_positive(
        &self,
        query: Tensor<2>,
        positive: Tensor<2>,
        negatives: Tensor<2>,
    ) -> Result<(ProjectedTensors, Tensor<1, Int>), ContrastiveError> {
        check_with_positive(&query, &positive, &negatives)?;
        let query = self.scaled(self.normalised(query));
        let (positive, negatives) = (self.normalised(positive), self.normalised(negatives));
        let positive = similarity_of_rows(query.clone(), positive);
        let device = query.device().without_autodiff();
        let target = Tensor::<1, Int>::zeros([query.dims()[0]], &device);
        let mut similarities = self.similarities(query, negatives);
        similarities.positive = Some(positive.into_dispatch());
        Ok((similarities, target))
    }

    fn with_pairs(
        &self,
        query: Tensor<2>,
        keys: Tensor<2>,
        positive: Tensor<1, Int>,
    ) -> Result<Tensor<1>, ContrastiveError> {
        check_beside(Named::new("query", &query), Named::new("keys", &keys))?;
        let (query, keys) = (self.normalised(query), self.normalised(keys));
        self.pairs(self.scaled(query), keys, positive)
    }

    fn pairs(
        &self,
        query: Tensor<2>,
        keys: Tensor<2>,
        positive: Tensor<1, Int>,
    ) -> Result<Tensor<1>, ContrastiveError> {
        self.loss(self.similarities(query, keys), positive)
    }

    fn similarities(&self, query: Tensor<2>, keys: Tensor<2>) -> ProjectedTensors {
        ProjectedTensors {
            hidden: query.into_dispatch(),
            weight: keys.transpose().into_dispatch(),
            bias: None,
            positive: None,
            excluded: None,
            chunk: self.settings.chunk,
        }
    }

    fn loss(
        &self,
        similarities: ProjectedTensors,
        target: Tensor<1, Int>,
    ) -> Result<Tensor<1>, ContrastiveError> {
        let loss: CrossEntropyLoss<B> = self.settings.loss();
        let request = Request::loss(RequestedReduction::Configured);
        let logits = GivenLogits::projected(similarities);
        let computed = loss.compute(logits, Target::of_indices(target), request)?;
        Ok(Tensor::from_dispatch(computed.loss))
    }

    /// Features in f32 at least, of length 1 where that is wanted.
    fn normalised(&self, features: Tensor<2>) -> Tensor<2> {
        let features = in_f32_at_least(features);
        match self.settings.normalize {
            true => unit_length(features),
            false => features,
        }
    }
}
