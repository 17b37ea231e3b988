//! The loss and the projection before it in one: logits for some rows at a time.

mod config;

use std::marker::PhantomData;

use burn::backend::Dispatch;
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay};
use burn::nn::Linear;
use burn::tensor::Tensor;

pub use self::config::LinearCrossEntropyLossConfig;
use super::cross_entropy::{CrossEntropyLoss, RangeCheck, Settings, unwrap};
use super::normalizer::Normalizer;
use super::output::CrossEntropyOutput;
use super::source::{Chunk, Projected};
use super::target::{CrossEntropyTarget, LogitsRank, RowLosses, TargetTensor};
use crate::backend::CrossEntropyBackend;
use crate::error::CrossEntropyError;
use crate::operation::DetailsOf;

/// The cross-entropy of logits that a projection makes, `input weight + bias`, without a tensor of
/// them: the value and the gradients are those of
///
/// ```text
/// CrossEntropyLoss::forward(input.matmul(weight) + bias, target)
/// ```
///
/// but logits exist for [`chunk_bytes`](LinearCrossEntropyLossConfig::chunk_bytes) at a time. With 50
/// thousand classes the logits of 4096 tokens and their gradient take 1.6 GB; here it is 64 MiB,
/// whatever the number of rows. On a device it is some of those at a time, and what a chunk adds to the
/// weight's gradient is a tensor of that size beside it.
///
/// # Shapes
///
/// | Tensor | Shape |
/// |---|---|
/// | input | `[.., features]`, of rank 1 to 8 |
/// | weight | `[features, classes]`, as in [`burn::nn::Linear`], or the transposed view of an embedding |
/// | bias | `[classes]` |
/// | target | indices `[..]`, or distributions `[.., classes]`, as in [`CrossEntropyTarget`] |
///
/// # Dtypes
///
/// Input, weight and bias have one dtype, and their gradients come in it. Those of weight and bias are
/// added up over the chunks in f32 (f64 for f64), whatever it is. On Flex and NdArray all of the
/// arithmetic is in f32 or f64, for which f16 and bf16 are widened, the weight as a whole. On a
/// device each product of f16 and bf16 is Burn's and ends in that dtype: the logits of a chunk, as those of
/// a layer do, and what a chunk adds to the gradients.
///
/// # What is computed
///
/// Only tensors that require a gradient get one, and without any only the loss is computed. A reduced
/// loss makes its gradients in the forward, while a chunk's logits exist: three matrix products. An
/// unreduced one ([`forward_no_reduction`](Self::forward_no_reduction), [`log_prob`](Self::log_prob))
/// makes the logits once more in the backward, since each row has an upstream gradient of its own; so
/// does f16 on other backends than Flex and NdArray, whose small gradients must not be rounded before
/// what scales the loss up has reached them.
///
/// Rows that are ignored cost no matrix product on Flex and NdArray, unless the output of rows is asked
/// for. On a device they do: which they are is known there alone, and it is not waited for.
///
/// On a backend without kernels of its own in this crate (LibTorch, Remote) an unreduced loss with gradients
/// holds the logits of all chunks until the backward.
///
/// A transposed view of an embedding (tied weights) is not copied on Flex and NdArray, but where it is
/// widened; on a device it is Burn's matrix product that decides.
///
/// An ignored row gets a gradient of exactly 0, whatever its input holds. On Flex and NdArray that is so for
/// every weight; on a device the weight has to be finite.
///
/// # Example
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Distribution, Int, Tensor};
/// use burn_cross_entropy::LinearCrossEntropyLossConfig;
///
/// let device = Device::flex().autodiff();
/// let head = LinearConfig::new(8, 100).init(&device);
/// let hidden = Tensor::<3>::random([2, 5, 8], Distribution::Default, &device);
/// let tokens = Tensor::<2, Int>::zeros([2, 5], &device);
///
/// let loss = LinearCrossEntropyLossConfig::new().init(&device);
/// let value = loss.forward_linear(hidden, &head, tokens);
/// let gradients = value.backward();
/// assert_eq!(head.weight.val().grad(&gradients).unwrap().dims(), [8, 100]);
/// ```
///
/// Sources: chunks over rows with gradients in the forward as in Liger Kernel (Hsu et al.,
/// <https://arxiv.org/abs/2410.10989>); the name and the options of PyTorch's `linear_cross_entropy`.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct LinearCrossEntropyLoss<B: CrossEntropyBackend = Dispatch> {
    weight: Option<Tensor<1>>,
    #[module(skip)]
    settings: Settings,
    #[module(skip)]
    chunk: Chunk,
    #[module(skip)]
    backend: PhantomData<fn() -> B>,
}

impl<B: CrossEntropyBackend> ModuleDisplay for LinearCrossEntropyLoss<B> {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new()
            .with_new_line_after_attribute(false)
            .optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        content
            .add("loss", &self.loss())
            .add("chunk", &format!("{:?}", self.chunk))
            .optional()
    }
}

/// What the logits are made of.
fn projected<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    chunk: Chunk,
) -> Projected {
    Projected {
        input: input.into_dispatch(),
        weight: weight.into_dispatch(),
        bias: bias.map(Tensor::into_dispatch),
        own: None,
        excluded: None,
        chunk,
    }
}

impl<B: CrossEntropyBackend> LinearCrossEntropyLoss<B> {
    /// The loss over logits. (It is no field: `derive(Module)` wants a module of every field's type
    /// parameters, which a backend is not.)
    fn loss(&self) -> CrossEntropyLoss<B> {
        CrossEntropyLoss::from_parts(self.weight.clone(), self.settings.clone())
    }

    /// The reduced loss, a tensor of one element.
    ///
    /// # Panics
    ///
    /// With the text of a [`CrossEntropyError`] if the tensors do not fit each other or the
    /// configuration, or, on the CPU backends, if a target is out of range.
    pub fn forward<const D: usize>(
        &self,
        input: Tensor<D>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        target: impl CrossEntropyTarget<D>,
    ) -> Tensor<1> {
        let logits = projected(input, weight, bias, self.chunk);
        unwrap(self.loss().reduced(logits, target, RangeCheck::WhereFree))
    }

    /// [`forward`](Self::forward) with the weight and the bias of a layer.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_linear<const D: usize>(
        &self,
        input: Tensor<D>,
        linear: &Linear,
        target: impl CrossEntropyTarget<D>,
    ) -> Tensor<1> {
        let bias = linear.bias.as_ref().map(|bias| bias.val());
        self.forward(input, linear.weight.val(), bias, target)
    }

    /// The loss of every row, in the shape of the input without its last dimension (for an input of
    /// rank 1 one element).
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_no_reduction<const D: usize>(
        &self,
        input: Tensor<D>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        target: impl CrossEntropyTarget<D>,
    ) -> RowLosses<D>
    where
        Tensor<D>: LogitsRank,
    {
        let logits = projected(input, weight, bias, self.chunk);
        unwrap(self.loss().unreduced(logits, target, RangeCheck::WhereFree))
    }

    /// The loss and what the same pass knows of every row, see
    /// [`CrossEntropyLoss::forward_with_output`].
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_with_output<const D: usize>(
        &self,
        input: Tensor<D>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        target: impl CrossEntropyTarget<D>,
    ) -> CrossEntropyOutput<D>
    where
        Tensor<D>: LogitsRank,
    {
        let logits = projected(input, weight, bias, self.chunk);
        let request = (DetailsOf::Target, RangeCheck::WhereFree);
        unwrap(self.loss().output(logits, target, request))
    }

    /// [`forward_with_output`](Self::forward_with_output) with the entropy of every row.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_with_entropy<const D: usize>(
        &self,
        input: Tensor<D>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        target: impl CrossEntropyTarget<D>,
    ) -> CrossEntropyOutput<D>
    where
        Tensor<D>: LogitsRank,
    {
        let logits = projected(input, weight, bias, self.chunk);
        let request = (DetailsOf::TargetAndEntropy, RangeCheck::WhereFree);
        unwrap(self.loss().output(logits, target, request))
    }

    /// The log-probability of each row's target, with gradients, see [`CrossEntropyLoss::log_prob`].
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn log_prob<const D: usize>(
        &self,
        input: Tensor<D>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        target: impl CrossEntropyTarget<D>,
    ) -> RowLosses<D>
    where
        Tensor<D>: LogitsRank,
    {
        let logits = projected(input, weight, bias, self.chunk);
        let check = RangeCheck::WhereFree;
        unwrap(self.loss().log_probabilities(logits, target, check))
    }

    /// The sum of the losses over a normalizer, see [`CrossEntropyLoss::forward_normalized`].
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward), and if the normalizer is not of one element.
    pub fn forward_normalized<const D: usize>(
        &self,
        input: Tensor<D>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        target: impl CrossEntropyTarget<D>,
        normalizer: impl Into<Normalizer>,
    ) -> Tensor<1> {
        let logits = projected(input, weight, bias, self.chunk);
        let check = RangeCheck::WhereFree;
        unwrap(
            self.loss()
                .normalized(logits, target, normalizer.into(), check),
        )
    }

    /// What `Mean` divides by over these targets, see [`CrossEntropyLoss::normalizer`].
    ///
    /// # Panics
    ///
    /// As [`CrossEntropyLoss::normalizer`].
    pub fn normalizer(&self, target: impl TargetTensor) -> Normalizer {
        self.loss().normalizer(target)
    }

    /// The denominator of `Mean`, see [`CrossEntropyLoss::total_weight`].
    ///
    /// # Panics
    ///
    /// As [`CrossEntropyLoss::total_weight`].
    pub fn total_weight(&self, target: impl TargetTensor) -> Tensor<1> {
        self.loss().total_weight(target)
    }

    /// [`forward`](Self::forward) that returns what is wrong, and that looks for targets out of range
    /// on every backend, at the price of waiting for the device.
    ///
    /// # Errors
    ///
    /// A [`CrossEntropyError`] that says what was given, what was expected, and what to do.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::LinearCrossEntropyLossConfig;
    ///
    /// let device = Device::flex();
    /// let loss = LinearCrossEntropyLossConfig::new().init(&device);
    /// let (input, weight) = (Tensor::<2>::zeros([3, 4], &device), Tensor::<2>::zeros([5, 9], &device));
    /// let targets = Tensor::<1, Int>::zeros([3], &device);
    /// let error = loss.try_forward(input, weight, None, targets).unwrap_err();
    /// assert!(error.to_string().contains("4 features"));
    /// ```
    pub fn try_forward<const D: usize>(
        &self,
        input: Tensor<D>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        target: impl CrossEntropyTarget<D>,
    ) -> Result<Tensor<1>, CrossEntropyError> {
        let logits = projected(input, weight, bias, self.chunk);
        self.loss().reduced(logits, target, RangeCheck::Always)
    }

    /// [`forward_linear`](Self::forward_linear) that returns what is wrong, see
    /// [`try_forward`](Self::try_forward).
    ///
    /// # Errors
    ///
    /// A [`CrossEntropyError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_linear<const D: usize>(
        &self,
        input: Tensor<D>,
        linear: &Linear,
        target: impl CrossEntropyTarget<D>,
    ) -> Result<Tensor<1>, CrossEntropyError> {
        let bias = linear.bias.as_ref().map(|bias| bias.val());
        self.try_forward(input, linear.weight.val(), bias, target)
    }

    /// [`forward_no_reduction`](Self::forward_no_reduction) that returns what is wrong, see
    /// [`try_forward`](Self::try_forward).
    ///
    /// # Errors
    ///
    /// A [`CrossEntropyError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_no_reduction<const D: usize>(
        &self,
        input: Tensor<D>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        target: impl CrossEntropyTarget<D>,
    ) -> Result<RowLosses<D>, CrossEntropyError>
    where
        Tensor<D>: LogitsRank,
    {
        let logits = projected(input, weight, bias, self.chunk);
        self.loss().unreduced(logits, target, RangeCheck::Always)
    }

    /// [`forward_with_output`](Self::forward_with_output) that returns what is wrong, see
    /// [`try_forward`](Self::try_forward).
    ///
    /// # Errors
    ///
    /// A [`CrossEntropyError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_with_output<const D: usize>(
        &self,
        input: Tensor<D>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        target: impl CrossEntropyTarget<D>,
    ) -> Result<CrossEntropyOutput<D>, CrossEntropyError>
    where
        Tensor<D>: LogitsRank,
    {
        let logits = projected(input, weight, bias, self.chunk);
        let request = (DetailsOf::Target, RangeCheck::Always);
        self.loss().output(logits, target, request)
    }

    /// [`forward_with_entropy`](Self::forward_with_entropy) that returns what is wrong, see
    /// [`try_forward`](Self::try_forward).
    ///
    /// # Errors
    ///
    /// A [`CrossEntropyError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_with_entropy<const D: usize>(
        &self,
        input: Tensor<D>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        target: impl CrossEntropyTarget<D>,
    ) -> Result<CrossEntropyOutput<D>, CrossEntropyError>
    where
        Tensor<D>: LogitsRank,
    {
        let logits = projected(input, weight, bias, self.chunk);
        let request = (DetailsOf::TargetAndEntropy, RangeCheck::Always);
        self.loss().output(logits, target, request)
    }

    /// [`log_prob`](Self::log_prob) that returns what is wrong, see
    /// [`try_forward`](Self::try_forward).
    ///
    /// # Errors
    ///
    /// A [`CrossEntropyError`] that says what was given, what was expected, and what to do.
    pub fn try_log_prob<const D: usize>(
        &self,
        input: Tensor<D>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        target: impl CrossEntropyTarget<D>,
    ) -> Result<RowLosses<D>, CrossEntropyError>
    where
        Tensor<D>: LogitsRank,
    {
        let logits = projected(input, weight, bias, self.chunk);
        self.loss()
            .log_probabilities(logits, target, RangeCheck::Always)
    }

    /// [`forward_normalized`](Self::forward_normalized) that returns what is wrong, see
    /// [`try_forward`](Self::try_forward).
    ///
    /// # Errors
    ///
    /// A [`CrossEntropyError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_normalized<const D: usize>(
        &self,
        input: Tensor<D>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        target: impl CrossEntropyTarget<D>,
        normalizer: impl Into<Normalizer>,
    ) -> Result<Tensor<1>, CrossEntropyError> {
        let logits = projected(input, weight, bias, self.chunk);
        let check = RangeCheck::Always;
        self.loss()
            .normalized(logits, target, normalizer.into(), check)
    }
}
