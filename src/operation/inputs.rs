//! Tensors of a call besides the logits: targets, class weights, divisors.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType, TensorMetadata};
use burn::tensor::{DType, Shape};

use super::logits::{Change, Ids, MaybeFloat, Projection};
use super::{Options, Role, row_shape};

/// Targets of all rows.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum Targets<B: Backend> {
    /// One class index per row, in any shape with as many elements as there are rows.
    Indices(IntTensor<B>),
    /// One distribution over the classes per row, in the shape of the logits, or the logits of a teacher
    /// ([`TargetValues`](super::TargetValues)).
    Distributions(FloatTensor<B>),
    /// A few classes of each row and their shares, both in the shape of the logits with the number of entries in
    /// the place of the classes.
    Sparse {
        /// Classes; ignored targets have no share.
        classes: IntTensor<B>,
        /// Shares. Where there is one more than there are classes, the last is the tail: the share that all classes
        /// besides the row's entries have together.
        shares: FloatTensor<B>,
    },
    /// A projection that makes the logits of a teacher, for the rows of a projection that makes the logits.
    Projected(#[extension_type] Projection<B>),
    /// The columns of a projection whose id is the row's, all with the same share, but for those that the projection
    /// excludes. A row without such a column is ignored.
    Alike(#[extension_type] Ids<B>),
}

impl<B: Backend> Targets<B> {
    /// Whether sparse distributions have tails. There are none without rows.
    pub(crate) fn have_tails(&self) -> bool {
        let count = |shape: Shape| shape.num_elements();
        matches!(self, Self::Sparse { classes, shares } if count(classes.shape()) != count(shares.shape()))
    }

    /// Dtype of the distributions.
    pub(crate) fn distributions_dtype(&self) -> Option<DType> {
        match self {
            Self::Indices(_) | Self::Projected(_) | Self::Alike(_) => None,
            Self::Distributions(targets)
            | Self::Sparse {
                shares: targets, ..
            } => Some(targets.dtype()),
        }
    }
}

/// Inputs of the operation besides the logits.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub struct Inputs<B: Backend> {
    /// Targets of all rows.
    #[extension_type]
    pub targets: Targets<B>,
    /// Rescaling weight of each class, shape `[classes]`; without weights every class weighs 1.
    #[extension_type]
    pub weights: MaybeFloat<B>,
    /// Factor of each row's loss, in any shape with as many elements as there are rows; without weights every
    /// row weighs 1. A row of weight 0 is ignored, whatever its target.
    #[extension_type]
    pub row_weights: MaybeFloat<B>,
    /// Way from the losses of the rows to the result.
    #[extension_type]
    pub reduction: RowReduction<B>,
}

/// Way from the losses of the rows to the result.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum RowReduction<B: Backend> {
    /// One loss per row.
    None,
    /// The sum of the losses divided by the total weight, plus the sum of the z-losses divided by the number
    /// of counted rows, or by their weights where rows have weights.
    Mean,
    /// The sum, divided by a number.
    Sum {
        /// Divisor of the sum, 1 for a plain sum.
        divisor: f64,
    },
    /// The sums, divided by divisors that are on the device.
    Normalized {
        /// Divisor of the losses and divisor of the z-losses, shape `[2]`.
        divisors: FloatTensor<B>,
    },
}

impl<B: Backend> RowReduction<B> {
    /// Whether the result is one number.
    pub(crate) fn is_reduced(&self) -> bool {
        !matches!(self, Self::None)
    }
}

impl<B: Backend> Inputs<B> {
    /// Inputs of the mean over targets, without weights.
    pub fn new(targets: Targets<B>) -> Self {
        Self {
            targets,
            weights: MaybeFloat::None,
            row_weights: MaybeFloat::None,
            reduction: RowReduction::Mean,
        }
    }

    /// Shape of the loss for logits of this shape.
    pub fn loss_shape(&self, logits: &Shape, options: &Options) -> Shape {
        match self.reduction.is_reduced() {
            true => Shape::new([1]),
            false => row_shape(logits, options.class_dim),
        }
    }

    pub(crate) fn change<C: Backend, Ch: Change<B, C>>(
        self,
        change: &mut Ch,
    ) -> Result<Inputs<C>, Ch::Error> {
        Ok(Inputs {
            targets: match self.targets {
                Targets::Indices(indices) => Targets::Indices(change.int(indices, Role::Targets)?),
                Targets::Distributions(targets) => {
                    Targets::Distributions(change.float(targets, Role::Targets)?)
                }
                Targets::Sparse { classes, shares } => Targets::Sparse {
                    classes: change.int(classes, Role::Targets)?,
                    shares: change.float(shares, Role::Targets)?,
                },
                Targets::Projected(teacher) => Targets::Projected(teacher.change_teacher(change)?),
                Targets::Alike(ids) => Targets::Alike(ids.change(change)?),
            },
            weights: self
                .weights
                .change(|weights| change.float(weights, Role::ClassWeights))?,
            row_weights: self
                .row_weights
                .change(|weights| change.float(weights, Role::RowWeights))?,
            reduction: match self.reduction {
                RowReduction::None => RowReduction::None,
                RowReduction::Mean => RowReduction::Mean,
                RowReduction::Sum { divisor } => RowReduction::Sum { divisor },
                RowReduction::Normalized { divisors } => RowReduction::Normalized {
                    divisors: change.float(divisors, Role::Divisors)?,
                },
            },
        })
    }
}
