//! Targets that the loss takes, distinguished at compile time.

use burn::backend::ops::IntTensorOps;
use burn::backend::{Dispatch, DispatchTensor};
use burn::tensor::{Device, Int, Shape, Tensor};

use super::logits::{GivenLogits, ProjectedTensors};
use super::output::{CrossEntropyOutput, OutputTensors};

/// Target for logits of rank `D`, for `D` from 1 to 8.
///
/// | Type | Meaning |
/// |---|---|
/// | `Tensor<{D - 1}, Int>` | a class index per row, in any integer dtype (for `D = 1` a `Tensor<1, Int>` of one element) |
/// | `Tensor<D, Int>` | the same with the class dimension kept at size 1, as in an unsqueezed label map |
/// | `Tensor<D>` | a distribution over the classes per row, in the shape of the logits; gradients flow into it when it requires them |
/// | [`SparseDistribution<D>`](crate::SparseDistribution) | a few classes per row with their shares |
/// | [`TeacherLogits`](crate::TeacherLogits) | the logits of a teacher, whose probabilities are the target |
/// | [`WeightedTarget`] | any of these with a weight per row, from [`weighted`](TargetTensor::weighted) |
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_cross_entropy::cross_entropy;
///
/// let device = Device::flex();
/// let logits = Tensor::<2>::zeros([4, 3], &device);
/// cross_entropy(logits.clone(), Tensor::<1, Int>::zeros([4], &device));
/// cross_entropy(logits.clone(), Tensor::<2, Int>::zeros([4, 1], &device));
/// cross_entropy(logits, Tensor::<2>::full([4, 3], 1.0 / 3.0, &device));
/// ```
///
/// The compiler refuses a target of any other type:
///
/// ```compile_fail
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::flex();
/// let logits = Tensor::<2>::zeros([4, 3], &device);
/// let target = Tensor::<3, Int>::zeros([4, 1, 1], &device);
/// burn_cross_entropy::cross_entropy(logits, target);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no target for logits of rank {D}",
    note = "expected class indices `Tensor<{{D - 1}}, Int>` or `Tensor<D, Int>` (class dimension of size 1), distributions `Tensor<D>`, `SparseDistribution<D>`, or `TeacherLogits` of logits of rank D"
)]
pub trait CrossEntropyTarget<const D: usize>: TargetTensor {}

/// Target of any kind and rank, which can get row weights.
///
/// Bring it into scope for [`weighted`](Self::weighted).
/// [`CrossEntropyLoss::total_weight`](crate::CrossEntropyLoss::total_weight), which has an example, and
/// [`CrossEntropyLoss::normalizer`](crate::CrossEntropyLoss::normalizer) take any target.
pub trait TargetTensor: sealed::IntoTarget + Sized {
    /// Gives every row a weight `r`, in the shape of the unreduced loss: the loss `l` of a row becomes `r l`.
    ///
    /// - **Mean** divides by the sum of `r w[y]`, with `w[y]` the class weight of an index target (1 without
    ///   class weights, and for distributions). For a mean by the number of rows use
    ///   [`forward_normalized`](crate::CrossEntropyLoss::forward_normalized), or `Sum` and a division.
    /// - **z-loss** is weighed too; its mean divides by the sum of `r`.
    /// - **A weight of 0** ignores the row, whatever its target and its logits hold: 0 in the loss, a gradient of
    ///   exactly 0, not counted in the outputs. So a mask is a weight, also for distributions.
    /// - **Any number** is a weight, a negative one too, as in a policy gradient. Weights are constants: no
    ///   gradient flows into them. They may have any float dtype. They multiply the loss of a row, so that one
    ///   beyond the range of its dtype stays so under a weight below 1.
    ///
    /// Weights of a target that has weights already are multiplied.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use burn_cross_entropy::{TargetTensor, cross_entropy};
    ///
    /// let device = Device::flex();
    /// let logits = Tensor::<2>::from_floats([[0.0, 0.0], [9.0, 9.0]], &device);
    /// let distributions = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 0.0]], &device);
    /// let mask = Tensor::<1>::from_floats([1.0, 0.0], &device);
    /// let loss = cross_entropy(logits, distributions.weighted(mask)).into_scalar::<f32>();
    /// assert!((loss - 2f32.ln()).abs() < 1e-6);
    /// ```
    fn weighted<const R: usize>(self, weights: Tensor<R>) -> WeightedTarget<Self, R> {
        WeightedTarget {
            target: self,
            weights,
        }
    }
}

/// Target with a weight per row, made by [`weighted`](TargetTensor::weighted).
#[derive(Clone, Debug)]
pub struct WeightedTarget<T, const R: usize> {
    target: T,
    weights: Tensor<R>,
}

/// Rank that logits can have, 1 to 8, as a bound on `Tensor<D>` in generic code.
///
/// It knows the types [`RowLosses<D>`](RowLosses) and [`OutputOf<D>`](OutputOf), because the rank `D - 1` cannot be
/// written there.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_cross_entropy::{CrossEntropyLoss, CrossEntropyLossConfig, LogitsRank};
/// use burn_cross_entropy::{CrossEntropyTarget, RowLosses};
///
/// fn rows<const D: usize>(
///     loss: &CrossEntropyLoss,
///     logits: Tensor<D>,
///     target: impl CrossEntropyTarget<D>,
/// ) -> RowLosses<D>
/// where
///     Tensor<D>: LogitsRank,
/// {
///     loss.forward_no_reduction(logits, target)
/// }
///
/// let device = Device::flex();
/// let loss = CrossEntropyLossConfig::new().init(&device);
/// let targets = Tensor::<1, Int>::zeros([4], &device);
/// assert_eq!(rows(&loss, Tensor::<2>::zeros([4, 3], &device), targets).dims(), [4]);
/// ```
pub trait LogitsRank: sealed::FromRows {}

/// Type of the losses of the rows of logits of rank `D`: `Tensor<{D - 1}>`, for `D = 1` a `Tensor<1>` of
/// one element.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_cross_entropy::{CrossEntropyLossConfig, RowLosses};
///
/// let device = Device::flex();
/// let loss = CrossEntropyLossConfig::new().init(&device);
/// let logits = Tensor::<3>::zeros([2, 5, 4], &device);
/// let targets = Tensor::<2, Int>::zeros([2, 4], &device);
/// let rows: RowLosses<3> = loss.forward_no_reduction(logits, targets);
/// let rows: Tensor<2> = rows;
/// assert_eq!(rows.dims(), [2, 4]);
/// ```
pub type RowLosses<const D: usize> = <Tensor<D> as sealed::FromRows>::RowLosses;

/// Type of the output for logits of rank `D`: [`CrossEntropyOutput<{D - 1}>`](CrossEntropyOutput), for
/// `D = 1` a `CrossEntropyOutput<1>`.
pub type OutputOf<const D: usize> = <Tensor<D> as sealed::FromRows>::Output;

/// Target of any kind, and the weights of its rows.
#[derive(Clone)]
pub struct Target {
    pub(crate) classes: TargetClasses,
    pub(crate) row_weights: Option<DispatchTensor>,
}

/// The classes of the rows.
#[derive(Clone)]
pub enum TargetClasses {
    /// Class indices.
    Indices(DispatchTensor),
    /// Distributions.
    Distributions(DispatchTensor),
    /// A few classes of each row, and their shares.
    Sparse(Box<SparseTensors>),
    /// The logits of a teacher.
    Teacher(Box<Teacher>),
    /// The projection of a teacher beside that of a student, as a call takes it.
    Projected(Box<ProjectedTensors>),
    /// The columns of a projection that have the id of the row.
    Alike(Box<AlikeTensors>),
}

/// Tensors of a sparse distribution. In a box, so that other targets do not pay for moves of their size.
#[derive(Clone)]
pub struct SparseTensors {
    pub(super) classes: DispatchTensor,
    pub(super) shares: DispatchTensor,
    pub(super) tail: Option<Tail>,
}

/// The share that the classes besides a row's entries have together.
// A call moves it a few times, and a box would be an allocation.
#[allow(clippy::large_enum_variant)]
#[derive(Clone)]
pub enum Tail {
    Given(DispatchTensor),
    /// What the entries leave of 1.
    Rest,
}

/// Ids of the rows and of the columns of a projection.
#[derive(Clone)]
pub struct AlikeTensors {
    pub(super) rows: DispatchTensor,
    pub(super) columns: DispatchTensor,
}

/// Teacher, with its logits as a call takes them.
#[derive(Clone)]
pub struct Teacher {
    pub(super) logits: GivenLogits,
    pub(super) temperature: f64,
    pub(super) is_squared: bool,
    pub(super) is_divergence: bool,
}

impl Teacher {
    pub(super) fn logits(&self) -> &GivenLogits {
        &self.logits
    }

    /// The target without what is done to the loss afterwards.
    pub(super) fn plain(self) -> Self {
        Self {
            is_squared: false,
            is_divergence: false,
            ..self
        }
    }
}

impl Target {
    pub(super) fn new(classes: TargetClasses) -> Self {
        Self {
            classes,
            row_weights: None,
        }
    }

    /// Makes a target of distributions.
    pub(crate) fn of_distributions<const D: usize>(distributions: Tensor<D>) -> Self {
        Self::new(TargetClasses::Distributions(distributions.into_dispatch()))
    }

    /// Makes a target of a few classes of each row, their shares, and maybe a share of the others.
    pub(crate) fn sparse<const D: usize>(
        classes: Tensor<D, Int>,
        shares: Tensor<D>,
        tail: Option<Tail>,
    ) -> Self {
        Self::new(TargetClasses::Sparse(Box::new(SparseTensors {
            classes: classes.without_autodiff().into_dispatch(),
            shares: shares.into_dispatch(),
            tail,
        })))
    }

    /// The same target with weights of its rows.
    pub(crate) fn with_row_weights<const R: usize>(self, weights: Tensor<R>) -> Self {
        Self {
            row_weights: Some(weights.into_dispatch()),
            ..self
        }
    }

    /// Makes a target of the columns of a projection that have the id of the row.
    pub(crate) fn alike(rows: Tensor<1, Int>, columns: Tensor<1, Int>) -> Self {
        Self::new(TargetClasses::Alike(Box::new(AlikeTensors {
            rows: rows.into_dispatch(),
            columns: columns.into_dispatch(),
        })))
    }

    /// The same target without what a teacher's target does to the loss afterwards.
    pub(super) fn of_distribution(self) -> Self {
        match self.classes {
            TargetClasses::Teacher(teacher) => Self {
                classes: TargetClasses::Teacher(Box::new(teacher.plain())),
                ..self
            },
            _ => self,
        }
    }

    /// Makes a target that counts every row in this shape, for values that do not depend on it.
    pub(super) fn of_first_class(rows: &Shape, device: &Device) -> Self {
        let device = device.clone().without_autodiff();
        let first = Tensor::<1, Int>::zeros([rows.num_elements()], &device).into_dispatch();
        let first = Dispatch::int_reshape(first, rows.clone());
        Self::new(TargetClasses::Indices(first))
    }

    /// Makes a target of indices, without autodiff: indices have no gradient, and a different autodiff
    /// setting must not conflict with that of the logits.
    pub(crate) fn of_indices<const D: usize>(indices: Tensor<D, Int>) -> Self {
        Self::new(TargetClasses::Indices(
            indices.without_autodiff().into_dispatch(),
        ))
    }
}

pub(crate) mod sealed {
    use super::*;

    pub trait IntoTarget {
        fn into_target(self) -> Target;
    }

    pub trait FromRows {
        type RowLosses: Clone + std::fmt::Debug + Send;
        type Output: Clone + std::fmt::Debug + Send;

        fn from_rows(rows: DispatchTensor) -> Self::RowLosses;
        fn output(tensors: OutputTensors) -> Self::Output;
    }
}

impl<const D: usize> sealed::IntoTarget for Tensor<D, Int> {
    fn into_target(self) -> Target {
        Target::of_indices(self)
    }
}

impl<const D: usize> sealed::IntoTarget for Tensor<D> {
    fn into_target(self) -> Target {
        Target::of_distributions(self)
    }
}

impl<T: TargetTensor, const R: usize> sealed::IntoTarget for WeightedTarget<T, R> {
    fn into_target(self) -> Target {
        let target = self.target.into_target();
        let weights = self.weights.without_autodiff();
        let weights = match target.row_weights {
            None => weights,
            Some(others) => Tensor::from_dispatch(others) * weights,
        };
        Target {
            row_weights: Some(weights.into_dispatch()),
            ..target
        }
    }
}

impl<const D: usize> TargetTensor for Tensor<D, Int> {}
impl<const D: usize> TargetTensor for Tensor<D> {}
impl<T: TargetTensor, const R: usize> TargetTensor for WeightedTarget<T, R> {}

impl<const D: usize> CrossEntropyTarget<D> for Tensor<D, Int> {}
impl<const D: usize> CrossEntropyTarget<D> for Tensor<D> {}

macro_rules! ranks {
    ($($rank:literal => $rows:literal),* $(,)?) => {$(
        impl sealed::FromRows for Tensor<$rank> {
            type RowLosses = Tensor<$rows>;
            type Output = CrossEntropyOutput<$rows>;

            fn from_rows(rows: DispatchTensor) -> Self::RowLosses {
                Tensor::from_dispatch(rows)
            }

            fn output(tensors: OutputTensors) -> Self::Output {
                CrossEntropyOutput::new(tensors)
            }
        }

        impl LogitsRank for Tensor<$rank> {}

        impl<T: CrossEntropyTarget<$rank>> CrossEntropyTarget<$rank> for WeightedTarget<T, $rows> {}
    )*};
}

ranks!(1 => 1, 2 => 1, 3 => 2, 4 => 3, 5 => 4, 6 => 5, 7 => 6, 8 => 7);

macro_rules! squeezed_indices {
    ($($rank:literal => $rows:literal),* $(,)?) => {$(
        impl CrossEntropyTarget<$rank> for Tensor<$rows, Int> {}
    )*};
}

squeezed_indices!(2 => 1, 3 => 2, 4 => 3, 5 => 4, 6 => 5, 7 => 6, 8 => 7);
