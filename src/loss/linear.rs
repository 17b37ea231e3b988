//! Loss together with the projection before it: a short form of [`ProjectedLogits`].

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
///     .with_chunk_bytes(Some(16 << 20))
///     .init(&Device::flex());
/// ```
#[derive(Config, Debug)]
pub struct LinearCrossEntropyLossConfig {
    /// Configuration of the loss over the logits. A projection has its classes in the last dimension, so
    /// `class_dim` must be 1, the default, or -1.
    #[config(default = "CrossEntropyLossConfig::new()")]
    pub loss: CrossEntropyLossConfig,
    /// Number of bytes that logits may take at one time, counted in the dtype of the arithmetic: f64 for
    /// f64, else f32. A chunk has at least one row, and is at most as large as the largest buffer of the
    /// device.
    ///
    /// Default: `None`, 64 MiB on the CPU backends. On a GPU, where a chunk that is too small leaves the matrix
    /// products waiting for memory, it is 64 MiB or four rows per feature, whichever is more, but at most 4096 rows
    /// beyond 64 MiB: with 1024 features and 50 thousand classes 0.8 GB, in bf16 half of that.
    pub chunk_bytes: Option<usize>,
    /// Number of rows that have logits at one time, instead of `chunk_bytes`. At least 1. Default: `None`, the
    /// number of rows that fit into `chunk_bytes`.
    pub chunk_rows: Option<usize>,
}

impl Default for LinearCrossEntropyLossConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl LinearCrossEntropyLossConfig {
    /// Makes the loss for tensors of every backend, see [`CrossEntropyLossConfig::init`].
    ///
    /// # Panics
    ///
    /// If a value is out of its range; the text names the field and the value.
    pub fn init(&self, device: &Device) -> LinearCrossEntropyLoss {
        self.init_for::<Dispatch>(device)
    }

    /// Makes the loss bound to the backend `B` at compile time, see [`CrossEntropyLossConfig::init_for`].
    ///
    /// # Panics
    ///
    /// If a value is out of its range; the text names the field and the value.
    pub fn init_for<B: CrossEntropyBackend>(&self, device: &Device) -> LinearCrossEntropyLoss<B> {
        unwrap(self.try_init_for(device))
    }

    /// [`init_for`](Self::init_for) that returns an error for a bad configuration.
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
            None => Chunk::of_bytes(self.chunk_bytes),
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

/// Cross-entropy of the logits of a projection, `input weight + bias`, without a tensor of all logits.
///
/// Value and gradients are the same as of
///
/// ```text
/// CrossEntropyLoss::forward(input.matmul(weight) + bias, target)
/// ```
///
/// Only [`chunk_bytes`](LinearCrossEntropyLossConfig::chunk_bytes) of logits exist at a time. With 50
/// thousand classes the logits of 4096 tokens and the gradient of these take 1.6 GB; here they take 64 MiB
/// for any number of rows on the CPU backends. On a GPU peak memory is a few chunks, which are larger there, plus one
/// tensor of the weight's size.
///
/// [`CrossEntropyLoss`] does the same with [`ProjectedLogits`], also in its other methods, such as
/// [`forward_with_output`](CrossEntropyLoss::forward_with_output) and
/// [`log_prob`](CrossEntropyLoss::log_prob).
///
/// # Shapes
///
/// | Tensor | Shape |
/// |---|---|
/// | input | `[.., features]`, of rank 1 to 8 |
/// | weight | `[features, classes]`, as in `burn::nn::Linear`, or the transposed view of an embedding |
/// | bias | `[classes]` |
/// | target | indices `[..]`, or distributions `[.., classes]`, as in [`CrossEntropyTarget`] |
///
/// # Dtypes
///
/// Input, weight, bias and all gradients have one dtype, or the input is of f16 or bf16 beside an f32 weight (and
/// bias), as under mixed precision: products and the weight's gradient are then of f32, and the input's gradient is of
/// its own dtype. A quantised weight is refused; `dequantize()` makes it one of floats.
///
/// The gradients of weight and bias are added up over the chunks in f32 (f64 for f64). On Flex and NdArray all of the
/// arithmetic is in f32 or f64: f16 and bf16 are widened, the weight as a whole. On other backends Burn computes each
/// product of f16 and bf16, and the logits of a chunk and their gradient have that dtype, as in a layer. On CubeCL's
/// runtimes a chunk's part of the gradients of weight and bias is f32 there too, so that these are rounded once;
/// elsewhere (LibTorch, Remote) it has the dtype of the product.
///
/// # What is computed
///
/// Only tensors that require a gradient get one. The gradients of a reduced loss are computed in the
/// forward, while a chunk's logits exist: three matrix products. An unreduced loss
/// ([`forward_no_reduction`](Self::forward_no_reduction)) computes the logits again in the backward, since
/// each row has its own upstream gradient. On backends other than Flex and NdArray f16 computes them again
/// too: its small gradients must not be rounded before the factor that scales the loss up has reached them.
///
/// On Flex and NdArray ignored rows cost no matrix product, unless outputs of rows are wanted. On a GPU
/// ignored rows are multiplied too, because the host does not know them.
///
/// On a backend without kernels of its own in this crate (LibTorch, Remote) an unreduced loss with gradients
/// holds the logits of all chunks until the backward.
///
/// On Flex and NdArray a transposed view of an embedding (tied weights) is copied only to widen it. On a GPU
/// Burn's matrix product decides.
///
/// An ignored row gets a gradient of exactly 0, whatever its input holds. On Flex and NdArray this holds for
/// every weight; on other backends the weight has to be finite.
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
    /// Makes the loss over logits. (A field is not possible: `derive(Module)` requires that the type
    /// parameters of fields are modules, and a backend is not a module.)
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

    /// Computes the reduced loss, a tensor of one element.
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

    /// [`forward`](Self::forward) that returns an error instead of a panic.
    ///
    /// # Errors
    ///
    /// As [`CrossEntropyLoss::try_forward`], and a [`ProjectionError`](crate::ProjectionError) if input, weight and bias
    /// do not fit each other.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::LinearCrossEntropyLossConfig;
    ///
    /// let device = Device::flex();
    /// let loss = LinearCrossEntropyLossConfig::new().init(&device);
    /// let input = Tensor::<2>::zeros([3, 4], &device);
    /// let weight = Tensor::<2>::zeros([5, 9], &device);
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

    /// Computes the loss of every row, in the shape of the input without its last dimension (for an input
    /// of rank 1 one element).
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
