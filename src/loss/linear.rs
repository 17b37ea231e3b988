//! The loss and the projection before it in one: the short way to [`ProjectedLogits`].

use std::marker::PhantomData;

use burn::backend::Dispatch;
use burn::config::Config;
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};

use super::checks::unwrap;
use super::config::{CrossEntropyLossConfig, Settings};
use super::cross_entropy::CrossEntropyLoss;
use super::logits::{Chunk, ProjectedLogits};
use super::target::{CrossEntropyTarget, LogitsRank, RowLosses};
use crate::dispatch::CrossEntropyBackend;
use crate::error::CrossEntropyError;

/// Configuration of [`LinearCrossEntropyLoss`].
///
/// ```
/// use burn::tensor::Device;
/// use burn_cross_entropy::{CrossEntropyLossConfig, LinearCrossEntropyLossConfig};
///
/// let loss = LinearCrossEntropyLossConfig::new()
///     .with_loss(CrossEntropyLossConfig::new().with_z_loss(1e-4))
///     .with_chunk_bytes(16 << 20)
///     .init(&Device::flex());
/// ```
#[derive(Config, Debug)]
pub struct LinearCrossEntropyLossConfig {
    /// The loss. Every option has the meaning that it has there, but for `class_dim`: the classes are
    /// in the last dimension, as the projection puts them, and so it is 1, its default, or -1.
    #[config(default = "CrossEntropyLossConfig::new()")]
    pub loss: CrossEntropyLossConfig,
    /// The bytes that logits may take at one time, counted in the dtype that is computed in: f64 for
    /// f64, f32 for every other. Below the size of one row of logits one row is made at a time, and a
    /// chunk is never larger than the largest buffer of the device. Default: 64 MiB.
    #[config(default = "64 << 20")]
    pub chunk_bytes: usize,
    /// Rows that have logits at one time, instead of `chunk_bytes`. At least 1. Default: as many as
    /// `chunk_bytes` has room for.
    pub chunk_rows: Option<usize>,
}

impl Default for LinearCrossEntropyLossConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl LinearCrossEntropyLossConfig {
    /// The loss for tensors of every backend, see [`CrossEntropyLossConfig::init`].
    ///
    /// # Panics
    ///
    /// If a value is out of its range; the text names the field and the value.
    pub fn init(&self, device: &Device) -> LinearCrossEntropyLoss {
        self.init_for::<Dispatch>(device)
    }

    /// The loss bound to the backend `B` at compile time, see [`CrossEntropyLossConfig::init_for`].
    ///
    /// # Panics
    ///
    /// If a value is out of its range; the text names the field and the value.
    pub fn init_for<B: CrossEntropyBackend>(&self, device: &Device) -> LinearCrossEntropyLoss<B> {
        unwrap(self.try_init_for(device))
    }

    /// [`init_for`](Self::init_for) that returns what is wrong with the configuration.
    ///
    /// # Errors
    ///
    /// [`CrossEntropyError::InvalidConfig`] for the first value that is out of its range.
    pub fn try_init_for<B: CrossEntropyBackend>(
        &self,
        device: &Device,
    ) -> Result<LinearCrossEntropyLoss<B>, CrossEntropyError> {
        if !matches!(self.loss.class_dim, 1 | -1) {
            return Err(CrossEntropyError::InvalidConfig {
                field: "loss.class_dim",
                value: self.loss.class_dim.to_string(),
                expected: "1 or -1: a projection has its classes in the last dimension",
            });
        }
        let chunk = match self.chunk_rows {
            Some(0) => {
                return Err(CrossEntropyError::InvalidConfig {
                    field: "chunk_rows",
                    value: "0".to_string(),
                    expected: "at least 1, or None for as many as `chunk_bytes` has room for",
                });
            }
            Some(rows) => Chunk::Rows(rows),
            None => Chunk::Bytes(self.chunk_bytes),
        };
        let loss = self.loss.try_init_for::<B>(device)?;
        let (weight, settings) = loss.into_parts();
        Ok(LinearCrossEntropyLoss {
            weight,
            settings,
            chunk,
            backend: PhantomData,
        })
    }
}

/// The cross-entropy of logits that a projection makes, `input weight + bias`, without a tensor of
/// them: the value and the gradients are those of
///
/// ```text
/// CrossEntropyLoss::forward(input.matmul(weight) + bias, target)
/// ```
///
/// but logits exist for [`chunk_bytes`](LinearCrossEntropyLossConfig::chunk_bytes) at a time. With 50
/// thousand classes the logits of 4096 tokens and their gradient take 1.6 GB; here they take 64 MiB,
/// whatever the number of rows. On a GPU peak memory is a few chunks plus one tensor of the weight's size.
///
/// [`CrossEntropyLoss`] does the same with [`ProjectedLogits`] in all of its methods, such as
/// [`forward_with_output`](CrossEntropyLoss::forward_with_output) and
/// [`log_prob`](CrossEntropyLoss::log_prob).
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
/// unreduced one ([`forward_no_reduction`](Self::forward_no_reduction)) makes the logits once more in the backward, since each row has an upstream gradient of its own; so
/// does f16 on other backends than Flex and NdArray, whose small gradients must not be rounded before
/// what scales the loss up has reached them.
///
/// Rows that are ignored cost no matrix product on Flex and NdArray, unless the output of rows is asked
/// for. On a GPU ignored rows are multiplied too: the host does not know which they are.
///
/// On a backend without kernels of its own in this crate (LibTorch, Remote) an unreduced loss with gradients
/// holds the logits of all chunks until the backward.
///
/// A transposed view of an embedding (tied weights) is not copied on Flex and NdArray, but where it is
/// widened; on a GPU Burn's matrix product decides.
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

impl<B: CrossEntropyBackend> LinearCrossEntropyLoss<B> {
    /// The loss over logits. (It is not a field: `derive(Module)` wants a module of every field's type
    /// parameters, which a backend is not.)
    fn loss(&self) -> CrossEntropyLoss<B> {
        CrossEntropyLoss::from_parts(self.weight.clone(), self.settings.clone())
    }

    fn logits<const D: usize>(
        &self,
        input: Tensor<D>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
    ) -> ProjectedLogits<D> {
        ProjectedLogits::new(input, weight)
            .with_bias(bias)
            .with_chunk(self.chunk)
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
        unwrap(self.try_forward(input, weight, bias, target))
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
        let logits = ProjectedLogits::linear(input, linear).with_chunk(self.chunk);
        self.loss().forward(logits, target)
    }

    /// [`forward`](Self::forward) that returns what is wrong.
    ///
    /// # Errors
    ///
    /// As [`CrossEntropyLoss::try_forward`].
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
        self.loss()
            .try_forward(self.logits(input, weight, bias), target)
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
        self.loss()
            .forward_no_reduction(self.logits(input, weight, bias), target)
    }
}
