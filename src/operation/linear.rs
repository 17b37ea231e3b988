//! What one call of the operation with a projection before it takes and gives: the logits are the
//! product of hidden states and weights, and exist in chunks of rows only.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType, TensorMetadata};
use burn::tensor::DType;

use super::{Details, Options, RowReduction};

/// A tensor that may be absent. An enum because tensors crossing Burn's dispatch cannot stand in an
/// `Option`.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum MaybeFloat<B: Backend> {
    /// No tensor.
    None,
    /// A tensor.
    Some(FloatTensor<B>),
}

impl<B: Backend> MaybeFloat<B> {
    /// The tensor, if there is one.
    pub fn into_option(self) -> Option<FloatTensor<B>> {
        match self {
            Self::None => None,
            Self::Some(tensor) => Some(tensor),
        }
    }
}

impl<B: Backend> From<Option<FloatTensor<B>>> for MaybeFloat<B> {
    fn from(tensor: Option<FloatTensor<B>>) -> Self {
        match tensor {
            None => Self::None,
            Some(tensor) => Self::Some(tensor),
        }
    }
}

/// Logits of the product that are left out: no class of that row, as if they were -inf.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum Excluded<B: Backend> {
    /// No logit is left out.
    Nothing,
    /// Logits whose row and column have the same id are left out.
    SameId {
        /// One id per row, shape `[rows]`.
        rows: IntTensor<B>,
        /// One id per column of the weights, in the dtype of the rows' ids.
        columns: IntTensor<B>,
    },
}

/// What the logits are made of: `input weight + bias`, after a column of their own if there is one.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub struct Projection<B: Backend> {
    /// The hidden states, shape `[rows, features]`.
    pub input: FloatTensor<B>,
    /// The weights, shape `[features, columns]`.
    pub weight: FloatTensor<B>,
    /// The biases, shape `[columns]`.
    #[extension_type]
    pub bias: MaybeFloat<B>,
    /// Logit of class 0, one per row `[rows]`; the columns of the product follow as classes 1 and so on. It is
    /// the positive of a contrastive loss.
    #[extension_type]
    pub own: MaybeFloat<B>,
    /// Which logits of the product are left out.
    #[extension_type]
    pub excluded: Excluded<B>,
}

impl<B: Backend> Projection<B> {
    /// How many logits a row has.
    pub fn classes(&self) -> usize {
        let own = usize::from(matches!(self.own, MaybeFloat::Some(_)));
        own + self.weight.shape()[1]
    }
}

/// Which gradients are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinearGradientsOf {
    /// Gradient of the hidden states.
    pub input: bool,
    /// Gradient of the projection's weight.
    pub weight: bool,
    /// Gradient of the bias.
    pub bias: bool,
    /// Gradient of the rows' own logits.
    pub own: bool,
    /// Gradient of the target distributions.
    pub targets: bool,
}

impl LinearGradientsOf {
    /// Whether a gradient of the logits is needed.
    pub fn logits(self) -> bool {
        self.input || self.weight || self.bias || self.own
    }
}

/// The options of one call, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearOptions {
    /// Options of the loss over logits of shape `[rows, classes]`; its `gradients_of` is not read.
    pub loss: Options,
    /// The dtype of input, weight and bias.
    pub dtype: DType,
    /// Rows whose logits exist at one time; at least 1.
    pub rows_per_chunk: usize,
    /// Which gradients are wanted.
    pub gradients_of: LinearGradientsOf,
}

impl LinearOptions {
    /// Whether the backward makes the logits once more, see [`LinearSaved::AsGiven`]; not for backends on
    /// the host. Gradients of f16 must not be rounded before what scales the loss up has reached them.
    pub(crate) fn keeps_projection(&self, input: DType, targets: DType) -> bool {
        let in_f16 = self.gradients_of.logits() && input == DType::F16
            || self.gradients_of.targets && targets == DType::F16;
        self.loss.reduction == RowReduction::None || in_f16
    }
}

/// The gradients that were asked for, each in the shape and dtype of its tensor; those that a forward
/// saves may be in a wider one.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub struct LinearGradients<B: Backend> {
    /// Gradient of the hidden states `[rows, features]`.
    #[extension_type]
    pub input: MaybeFloat<B>,
    /// Gradient of the projection's weight `[features, columns]`.
    #[extension_type]
    pub weight: MaybeFloat<B>,
    /// Gradient of the bias `[columns]`.
    #[extension_type]
    pub bias: MaybeFloat<B>,
    /// Gradient of the rows' own logits `[rows]`.
    #[extension_type]
    pub own: MaybeFloat<B>,
    /// Gradient of the target distributions.
    #[extension_type]
    pub targets: MaybeFloat<B>,
}

/// What the backward needs from the forward besides the inputs and the options.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum LinearSaved<B: Backend> {
    /// Nothing: no backward will follow.
    Nothing,
    /// What the logits are made of, to be made once more: the losses of rows have an upstream gradient
    /// each, which the gradient of the weights cannot be multiplied by afterwards.
    AsGiven {
        /// The projection as it came in.
        #[extension_type]
        projection: Projection<B>,
    },
    /// The gradients for an upstream gradient of 1, which only need multiplying.
    Gradients {
        /// The gradients.
        #[extension_type]
        gradients: LinearGradients<B>,
    },
}

/// The result of the operation.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub struct LinearForward<B: Backend> {
    /// The loss: one number, or one per row.
    pub loss: FloatTensor<B>,
    /// What the backward needs, if there will be one.
    #[extension_type]
    pub saved: LinearSaved<B>,
    /// What [`Options::details`] asks for.
    #[extension_type]
    pub details: Details<B>,
}
