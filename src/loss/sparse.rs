//! Targets of a few classes per row with their shares.

use burn::tensor::{Int, Tensor};

use super::target::{CrossEntropyTarget, Target, TargetTensor, sealed};

/// Distribution with shares at a few classes of each row, and none at the others: top-k distillation without a tensor
/// of rows x classes.
///
/// `classes` and `shares` have the shape of the logits with the number `k` of entries in the place of the
/// classes: `[rows, k]` beside logits `[rows, C]`. With `y[j]` and `s[j]` the entries of a row, its loss is
///
/// ```text
/// l = sum_j s[j] (lse - x[y[j]])
/// ```
///
/// that of the distribution with these shares; they need not sum to 1. Class weights, label smoothing, row
/// weights, reductions and outputs have the meaning that they have for distributions, ignored targets that of
/// indices: an entry whose class is in [`ignore_indices`](crate::CrossEntropyLossConfig::ignore_indices) has no share, so
/// that rows may have fewer entries than others. A class that stands twice has both shares.
///
/// | | |
/// |---|---|
/// | Gradients | of the logits, and of the shares where they require one: `lse - x[y[j]]` |
/// | Dtypes | any integer dtype, any float dtype |
/// | Memory | on Flex and NdArray no tensor of rows x classes. On a GPU one, of all rows, or beside a chunk's logits where a projection makes them |
/// | Errors | [`ShapeMismatch`](crate::CrossEntropyError::ShapeMismatch); a `row_factor`, which needs one target, is refused; a class that is none and not ignored is an error on Flex and NdArray, and on a GPU its row is NaN |
///
/// With `k = 1` and shares of 1 it is the index target, within rounding (on Flex and NdArray, for f32 rows of 65 classes
/// and more that lie together, without smoothing and outputs, to the bit). What the teacher's other classes have is
/// not known here; the shares may be made to sum to 1 (`shares / shares.sum_dim(1)`) where they should count for the
/// whole.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_cross_entropy::{SparseDistribution, cross_entropy};
///
/// let device = Device::flex();
/// let logits = || Tensor::<2>::from_floats([[1.0, 2.0, 0.0, -1.0]], &device);
/// let classes = Tensor::<2, Int>::from_ints([[1, 3]], &device);
/// let shares = Tensor::<2>::from_floats([[0.75, 0.25]], &device);
/// let dense = Tensor::<2>::from_floats([[0.0, 0.75, 0.0, 0.25]], &device);
///
/// let sparse = cross_entropy(logits(), SparseDistribution::new(classes, shares));
/// let difference = sparse - cross_entropy(logits(), dense);
/// assert!(difference.into_scalar::<f32>().abs() < 1e-6);
/// ```
#[derive(Clone, Debug)]
pub struct SparseDistribution<const D: usize> {
    classes: Tensor<D, Int>,
    shares: Tensor<D>,
}

impl<const D: usize> SparseDistribution<D> {
    /// Makes the distribution with `shares` at `classes`.
    pub fn new(classes: Tensor<D, Int>, shares: Tensor<D>) -> Self {
        Self { classes, shares }
    }
}

impl<const D: usize> sealed::IntoTarget for SparseDistribution<D> {
    fn into_target(self) -> Target {
        Target::sparse(self.classes, self.shares)
    }
}

impl<const D: usize> TargetTensor for SparseDistribution<D> {}
impl<const D: usize> CrossEntropyTarget<D> for SparseDistribution<D> {}
