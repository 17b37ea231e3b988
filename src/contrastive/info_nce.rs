//! Contrastive loss: the cross-entropy of similarities, whose matrix exists in chunks of rows only.

mod apart;
mod comparison;
mod config;
mod log_q;
mod logits;
mod losses;
mod request;
mod temperature;

use std::marker::PhantomData;

use burn::backend::Dispatch;
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use self::config::Settings;
pub use self::config::{InBatch, InfoNceLossConfig, SupCon};
pub use self::logits::moco_logits;
pub use self::request::Contrast;
use super::error::{ContrastiveError, unwrap};
use super::features::normalised;
use super::ids::SampleIds;
use crate::dispatch::CrossEntropyBackend;
use crate::loss::CrossEntropyOutput;

/// The contrastive loss of queries and keys: each query has to pick its own key, the
/// positive, among all keys; the others are the negatives.
///
/// With `q` a query, `k` its positive, `n_j` its negatives, all of length 1, and the temperature `t`, the loss of a row is
///
/// ```text
/// l = -ln( exp(q.k / t) / (exp(q.k / t) + sum_j exp(q.n_j / t)) )
/// ```
///
/// It is the cross-entropy of the logits `[q.k, q.n_0, q.n_1, ..] / t` with target 0: the positive is at index 0
/// ([`moco_logits`] makes the logits as a tensor). The mean over the rows is the loss.
///
/// # Forms
///
/// | Form | Positive of a row | Negatives |
/// |---|---|---|
/// | [`forward`](Self::forward) | the row of `positive` | all of `negatives`, such as those of a [`NegativeQueue`](super::NegativeQueue) |
/// | [`forward_with_ids`](Self::forward_with_ids) | the same | those with another id |
/// | [`forward_in_batch`](Self::forward_in_batch) | the same row of the other tensor | as [`InBatch`] says |
/// | [`forward_pairs`](Self::forward_pairs) | the key that is given | all other keys |
/// | [`forward_labels`](Self::forward_labels) | all other rows of the same label | all other rows |
/// | [`forward_contrast`](Self::forward_contrast) | as a [`Contrast`] says | the same, with its parts: ids, own negatives, a correction for sampling, a memory |
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
/// # Dtypes
///
/// All features of a call have one float dtype. Those in f16 or bf16 are taken as they are; everything behind them is
/// in f32.
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
        self.try_forward_contrast(Contrast::moco(query, positive, negatives))
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
        self.try_forward_contrast(Contrast::moco(query, positive, negatives).with_ids(ids))
    }

    /// Computes the loss of [`forward`](Self::forward), and the outputs of every row in the same pass.
    ///
    /// One of them is whether the positive was the most similar (`correct`, which a tie is not), see
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
        self.try_forward_contrast_with_output(Contrast::moco(query, positive, negatives))
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
        self.try_forward_contrast(Contrast::in_batch(a, b))
    }

    /// Computes the mean loss of rows `[N, F]` whose positives are rows of `keys` `[K, F]`.
    ///
    /// Row `i` has the positive `positive[i]`; all other keys are negatives of the row. A row without a positive has the
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
        unwrap(self.try_forward_pairs(query, keys, positive))
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
        self.try_forward_contrast(Contrast::pairs(query, keys, positive))
    }

    /// Computes the mean loss of the rows `[N, F]` of a batch with labels `[N]`: supervised contrast.
    ///
    /// The positives of a row are the other rows of its label, see [`SupCon`]; a row without a positive is ignored.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::InfoNceLossConfig;
    ///
    /// let device = Device::flex();
    /// let [x, y] = [[1.0, 0.0], [0.0, 1.0]];
    /// let features = Tensor::<2>::from_floats([x, x, x, y], &device);
    /// let labels = Tensor::<1, Int>::from_ints([3, 3, 3, 8], &device);
    /// let loss = InfoNceLossConfig::new().with_temperature(1.0).init(&device);
    /// // Similarities 1 and 1 to two positives, 0 to one negative; the last row has no positive.
    /// let value = loss.forward_labels(features, labels).into_scalar::<f32>();
    /// assert!((value - 0.8619948).abs() < 1e-6);
    /// ```
    ///
    /// # Panics
    ///
    /// With the text of a [`ContrastiveError`] if there is not one label for each row.
    pub fn forward_labels(&self, features: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
        unwrap(self.try_forward_labels(features, labels))
    }

    /// [`forward_labels`](Self::forward_labels) that returns an error instead of a panic.
    ///
    /// # Errors
    ///
    /// A [`ContrastiveError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_labels(
        &self,
        features: Tensor<2>,
        labels: Tensor<1, Int>,
    ) -> Result<Tensor<1>, ContrastiveError> {
        self.try_forward_contrast(Contrast::labels(features, labels))
    }

    /// Computes the loss of a request, a tensor of one element.
    ///
    /// For a batch whose two sides are compared it is the mean of both. [`Contrast`] has an example.
    ///
    /// # Panics
    ///
    /// With the text of a [`ContrastiveError`] if the tensors do not fit each other, or if parts do not go together.
    pub fn forward_contrast(&self, contrast: Contrast) -> Tensor<1> {
        unwrap(self.try_forward_contrast(contrast))
    }

    /// [`forward_contrast`](Self::forward_contrast) that returns an error instead of a panic.
    ///
    /// # Errors
    ///
    /// A [`ContrastiveError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_contrast(&self, contrast: Contrast) -> Result<Tensor<1>, ContrastiveError> {
        let losses = self.comparisons(contrast)?.into_iter();
        let losses = losses.map(|comparison| self.loss(comparison));
        mean_of_sides(losses.collect::<Result<_, _>>()?)
    }

    /// Computes the loss of every row of a request, `[N]`.
    ///
    /// NT-Xent has `[2 N]`, the first view's rows before the second's; a batch whose two sides are compared has the mean
    /// of both. An ignored row has 0.
    ///
    /// # Panics
    ///
    /// As [`forward_contrast`](Self::forward_contrast).
    pub fn forward_contrast_no_reduction(&self, contrast: Contrast) -> Tensor<1> {
        unwrap(self.try_forward_contrast_no_reduction(contrast))
    }

    /// [`forward_contrast_no_reduction`](Self::forward_contrast_no_reduction) that returns an error instead of a panic.
    ///
    /// # Errors
    ///
    /// A [`ContrastiveError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_contrast_no_reduction(
        &self,
        contrast: Contrast,
    ) -> Result<Tensor<1>, ContrastiveError> {
        let losses = self.comparisons(contrast)?.into_iter();
        let losses = losses.map(|comparison| self.losses(comparison));
        mean_of_sides(losses.collect::<Result<_, _>>()?)
    }

    /// Computes the loss of a request and the outputs of its rows.
    ///
    /// `predicted` and `target_class` are numbers of keys:
    ///
    /// | Form | Number |
    /// |---|---|
    /// | `moco` | 0 for the positive, then the row's own negatives, then the common ones |
    /// | others | the row of the keys (of NT-Xent in both views, one after the other); own negatives behind all keys |
    ///
    /// Where rows have several positives, `target_class`, `target_rank` and `correct` are about the first of them; the
    /// label of the key `predicted` tells whether that is another positive. Where the two sides of a batch are compared,
    /// the rows are the first view's.
    ///
    /// [`SupCon::In`] has the outputs of [`SupCon::Out`], from a pass of its own over the similarities, but for
    /// `log_prob`, which is minus its own loss of the row.
    ///
    /// # Panics
    ///
    /// As [`forward_contrast`](Self::forward_contrast).
    pub fn forward_contrast_with_output(&self, contrast: Contrast) -> CrossEntropyOutput<1> {
        unwrap(self.try_forward_contrast_with_output(contrast))
    }

    /// [`forward_contrast_with_output`](Self::forward_contrast_with_output) that returns an error instead of a panic.
    ///
    /// # Errors
    ///
    /// A [`ContrastiveError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_contrast_with_output(
        &self,
        contrast: Contrast,
    ) -> Result<CrossEntropyOutput<1>, ContrastiveError> {
        let mut sides = self.comparisons(contrast)?.into_iter();
        let first = sides.next().expect("every form has a comparison");
        let mut output = self.output(first)?;
        for side in sides {
            output.loss = (output.loss + self.loss(side)?) / 2.0;
        }
        Ok(output)
    }
}

impl<B: CrossEntropyBackend> InfoNceLoss<B> {
    /// Features in f32 at least, of length 1 where that is wanted.
    fn normalised(&self, features: Tensor<2>) -> Tensor<2> {
        normalised(features, self.settings.normalize)
    }
}

/// Mean of the two sides of a batch; forms of one side have it alone.
fn mean_of_sides(sides: Vec<Tensor<1>>) -> Result<Tensor<1>, ContrastiveError> {
    let count = sides.len() as f64;
    let sum = sides.into_iter().reduce(|sum, side| sum + side);
    let sum = sum.expect("every form has a comparison");
    Ok(match count {
        1.0 => sum,
        _ => sum / count,
    })
}
