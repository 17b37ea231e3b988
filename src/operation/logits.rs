//! Logits of a call: a tensor, or a projection that makes logits in chunks of rows.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType, TensorMetadata};
use burn::tensor::{DType, Shape};

use super::Role;

/// Tensor that may be absent. An enum, because Burn's dispatch does not take tensors in an `Option`.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum MaybeFloat<B: Backend> {
    /// No tensor.
    None,
    /// A tensor.
    Some(FloatTensor<B>),
}

impl<B: Backend> MaybeFloat<B> {
    /// Tensor, if it is present.
    pub fn into_option(self) -> Option<FloatTensor<B>> {
        match self {
            Self::None => None,
            Self::Some(tensor) => Some(tensor),
        }
    }

    /// Reference to the tensor, if it is present.
    pub fn as_option(&self) -> Option<&FloatTensor<B>> {
        match self {
            Self::None => None,
            Self::Some(tensor) => Some(tensor),
        }
    }

    /// Takes the tensor out, if it is present, and leaves none.
    pub(crate) fn take(&mut self) -> Option<FloatTensor<B>> {
        std::mem::replace(self, Self::None).into_option()
    }

    /// Changes the tensor, if it is present.
    pub(crate) fn change<C: Backend, E>(
        self,
        change: impl FnOnce(FloatTensor<B>) -> Result<FloatTensor<C>, E>,
    ) -> Result<MaybeFloat<C>, E> {
        Ok(self.into_option().map(change).transpose()?.into())
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

/// Change of every tensor of a call, to another backend or another form.
pub(crate) trait Change<A: Backend, B: Backend> {
    /// Reason why a tensor cannot be changed.
    type Error;

    fn float(&mut self, tensor: FloatTensor<A>, role: Role) -> Result<FloatTensor<B>, Self::Error>;

    fn int(&mut self, tensor: IntTensor<A>, role: Role) -> Result<IntTensor<B>, Self::Error>;
}

/// Logits of a call.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum Logits<B: Backend> {
    /// Logits, or probabilities.
    Tensor(FloatTensor<B>),
    /// Logits of a projection, shape `[rows, classes]`.
    Projected(#[extension_type] Projection<B>),
}

impl<B: Backend> Logits<B> {
    /// Shape of the logits.
    pub fn shape(&self) -> Shape {
        match self {
            Self::Tensor(logits) => logits.shape(),
            Self::Projected(projection) => projection.logits_shape(),
        }
    }

    /// Tensor with the dtype and the device of the logits.
    pub fn tensor(&self) -> &FloatTensor<B> {
        match self {
            Self::Tensor(logits) => logits,
            Self::Projected(projection) => &projection.hidden,
        }
    }

    pub(crate) fn change<C: Backend, Ch: Change<B, C>>(
        self,
        change: &mut Ch,
    ) -> Result<Logits<C>, Ch::Error> {
        Ok(match self {
            Self::Tensor(logits) => Logits::Tensor(change.float(logits, Role::Logits)?),
            Self::Projected(projection) => Logits::Projected(projection.change(change)?),
        })
    }
}

/// Projection whose logits are `hidden weight + bias`, after a positive logit if there is one.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub struct Projection<B: Backend> {
    /// Hidden states, shape `[rows, features]`.
    pub hidden: FloatTensor<B>,
    /// Weights, shape `[features, columns]`.
    pub weight: FloatTensor<B>,
    /// Biases, shape `[columns]`.
    #[extension_type]
    pub bias: MaybeFloat<B>,
    /// Positive logits `[rows]` of a contrastive loss: the logit of class 0 of each row. The columns of the
    /// product follow as classes 1 and so on.
    #[extension_type]
    pub positive: MaybeFloat<B>,
    /// Logits of the product that are excluded.
    #[extension_type]
    pub excluded: Excluded<B>,
    /// Number of rows whose logits exist at one time; at least 1.
    pub rows_per_chunk: usize,
}

/// Logits of the product that are excluded: they are not a class of the row, as if they were -inf.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum Excluded<B: Backend> {
    /// No logit is excluded.
    Nothing,
    /// Logits whose row and column have the same id are excluded.
    SameId {
        /// One id per row, shape `[rows]`.
        rows: IntTensor<B>,
        /// One id per column of the weights, in the dtype of the rows' ids.
        columns: IntTensor<B>,
    },
}

impl<B: Backend> Projection<B> {
    /// Number of classes, including the positive.
    pub fn classes(&self) -> usize {
        let positive = usize::from(matches!(self.positive, MaybeFloat::Some(_)));
        positive + self.weight.shape()[1]
    }

    /// Shape of the logits, `[rows, classes]`.
    pub fn logits_shape(&self) -> Shape {
        Shape::new([self.hidden.shape()[0], self.classes()])
    }

    /// Changes a projection that makes the logits of a teacher.
    pub(crate) fn change_teacher<C: Backend, Ch: Change<B, C>>(
        self,
        change: &mut Ch,
    ) -> Result<Projection<C>, Ch::Error> {
        Ok(Projection {
            hidden: change.float(self.hidden, Role::Teacher)?,
            weight: change.float(self.weight, Role::Teacher)?,
            bias: self.bias.change(|bias| change.float(bias, Role::Teacher))?,
            positive: MaybeFloat::None,
            excluded: Excluded::Nothing,
            rows_per_chunk: self.rows_per_chunk,
        })
    }

    pub(crate) fn change<C: Backend, Ch: Change<B, C>>(
        self,
        change: &mut Ch,
    ) -> Result<Projection<C>, Ch::Error> {
        Ok(Projection {
            hidden: change.float(self.hidden, Role::Hidden)?,
            weight: change.float(self.weight, Role::Weight)?,
            bias: self.bias.change(|bias| change.float(bias, Role::Bias))?,
            positive: self
                .positive
                .change(|positive| change.float(positive, Role::Positive))?,
            excluded: match self.excluded {
                Excluded::Nothing => Excluded::Nothing,
                Excluded::SameId { rows, columns } => Excluded::SameId {
                    rows: change.int(rows, Role::Ids)?,
                    columns: change.int(columns, Role::Ids)?,
                },
            },
            rows_per_chunk: self.rows_per_chunk,
        })
    }
}

/// Whether a backend whose matrix products have the logits' dtype must compute gradients in the backward:
/// gradients of f16 must not be rounded before the factor that scales the loss up has reached them.
pub(crate) fn has_gradient_in_f16(
    wanted: super::WantedGradients,
    logits: DType,
    distributions: Option<DType>,
) -> bool {
    wanted.of_logits() && logits == DType::F16
        || wanted.targets && distributions == Some(DType::F16)
}
