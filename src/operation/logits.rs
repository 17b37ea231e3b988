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

/// Integer tensor that may be absent, as [`MaybeFloat`].
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum MaybeInt<B: Backend> {
    /// No tensor.
    None,
    /// A tensor.
    Some(IntTensor<B>),
}

impl<B: Backend> MaybeInt<B> {
    /// Tensor, if it is present.
    pub fn into_option(self) -> Option<IntTensor<B>> {
        match self {
            Self::None => None,
            Self::Some(tensor) => Some(tensor),
        }
    }
}

impl<B: Backend> From<Option<IntTensor<B>>> for MaybeInt<B> {
    fn from(tensor: Option<IntTensor<B>>) -> Self {
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

/// Projection whose logits are `hidden weight + bias`, behind leading logits if there are such.
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
    /// Logits of the first classes of each row, `[rows, n]`, such as the positive of a contrastive loss. The
    /// columns of the product follow as classes `n` and so on.
    #[extension_type]
    pub leading: MaybeFloat<B>,
    /// Logits of the product that are excluded.
    #[extension_type]
    pub excluded: Excluded<B>,
    /// Number of rows whose logits exist at one time; at least 1.
    pub rows_per_chunk: usize,
}

/// Logits of the product that are excluded: they are not a class of the row, as if they were -inf.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub struct Excluded<B: Backend> {
    /// Logits whose row and column have the same id.
    #[extension_type]
    pub ids: Ids<B>,
    /// Logits whose row and column have other ids.
    #[extension_type]
    pub unlike: Ids<B>,
    /// Columns of each row, shape `[rows, n]`; a negative number is no column.
    #[extension_type]
    pub columns: MaybeInt<B>,
    /// Number of each row, shape `[rows]`: logits without their bias that are larger are excluded.
    #[extension_type]
    pub above: MaybeFloat<B>,
}

impl<B: Backend> Default for Excluded<B> {
    /// Excludes nothing.
    fn default() -> Self {
        Self {
            ids: Ids::Nothing,
            unlike: Ids::Nothing,
            columns: MaybeInt::None,
            above: MaybeFloat::None,
        }
    }
}

/// Ids of rows and columns, which tell what belongs together.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum Ids<B: Backend> {
    /// Nothing has an id.
    Nothing,
    /// Rows and columns have ids.
    Given {
        /// One id per row, shape `[rows]`.
        rows: IntTensor<B>,
        /// One id per column of the weights, in the dtype of the rows' ids.
        columns: IntTensor<B>,
    },
}

impl<B: Backend> Ids<B> {
    pub(crate) fn change<C: Backend, Ch: Change<B, C>>(
        self,
        change: &mut Ch,
    ) -> Result<Ids<C>, Ch::Error> {
        Ok(match self {
            Self::Nothing => Ids::Nothing,
            Self::Given { rows, columns } => Ids::Given {
                rows: change.int(rows, Role::Ids)?,
                columns: change.int(columns, Role::Ids)?,
            },
        })
    }
}

impl<B: Backend> Excluded<B> {
    fn change<C: Backend, Ch: Change<B, C>>(
        self,
        change: &mut Ch,
    ) -> Result<Excluded<C>, Ch::Error> {
        let columns = self.columns.into_option();
        let columns = columns.map(|columns| change.int(columns, Role::Ids));
        Ok(Excluded {
            ids: self.ids.change(change)?,
            unlike: self.unlike.change(change)?,
            columns: columns.transpose()?.into(),
            above: self
                .above
                .change(|above| change.float(above, Role::Bound))?,
        })
    }
}

impl<B: Backend> Projection<B> {
    /// Number of leading logits of a row.
    pub fn lead(&self) -> usize {
        self.leading
            .as_option()
            .map_or(0, |leading| leading.shape()[1])
    }

    /// Number of classes, the leading ones among them.
    pub fn classes(&self) -> usize {
        self.lead() + self.weight.shape()[1]
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
            leading: MaybeFloat::None,
            excluded: Excluded::default(),
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
            leading: self
                .leading
                .change(|leading| change.float(leading, Role::Leading))?,
            excluded: self.excluded.change(change)?,
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
