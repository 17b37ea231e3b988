//! Targets of a few classes per row with their shares.

use burn::backend::{Dispatch, DispatchTensor};
use burn::tensor::{Int, Tensor};

use super::target::{CrossEntropyTarget, SparseTensors, Tail, Target, TargetTensor, sealed};
use crate::operation::{Options, Targets};
use crate::portable;

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
/// - **Gradients**: of the logits, and of the shares where they require one: `lse - x[y[j]]`
/// - **Dtypes**: any integer dtype, any float dtype
/// - **Memory**: no tensor of rows x classes besides the gradient of the logits (with a tail, on a GPU, a bit for
///   each class) on Flex, NdArray and CubeCL's runtimes: some numbers for each entry; on other backends one of
///   distributions, behind a projection of a chunk of rows
/// - **Errors**: [`ShapeMismatch`](crate::CrossEntropyError::ShapeMismatch); a `row_factor`, which needs one target,
///   is refused; a class that is none and not ignored is an error on Flex and NdArray, and on a GPU its row is NaN
///
/// With `k = 1` and shares of 1 it is the index target, to the bit for f32 logits on Flex and NdArray (with label smoothing
/// or outputs, where the shares require a gradient, and on other backends within rounding). What the teacher's other classes have is
/// not known here: [`with_rest_as_tail`](Self::with_rest_as_tail) makes one further class of them, or the shares may be
/// made to sum to 1 (`shares / shares.sum_dim(1)`) where they should count for the whole.
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
    tail: Option<TailOf<D>>,
}

// A call moves it a few times, and a box would be an allocation.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
enum TailOf<const D: usize> {
    Given(Tensor<D>),
    Rest,
}

impl<const D: usize> SparseDistribution<D> {
    /// Makes the distribution with `shares` at `classes`.
    pub fn new(classes: Tensor<D, Int>, shares: Tensor<D>) -> Self {
        Self {
            classes,
            shares,
            tail: None,
        }
    }

    /// Gives the classes that are none of a row's entries a share together, the tail: they are one further class, whose
    /// probability is the sum of theirs.
    ///
    /// With `t` the tail of a row, and `lse_rest` the log-sum-exp of the logits of these classes, its loss is
    ///
    /// ```text
    /// l = sum_j s[j] (lse - x[y[j]]) + t (lse - lse_rest)
    ///
    /// dl/dx[c] = (sum_j s[j] + t) p[c] - s[c]                         at an entry
    ///          = (sum_j s[j] + t) p[c] - t exp(x[c] - lse_rest)       elsewhere
    /// ```
    ///
    /// Without the tail a student learns that everything is in the `k` classes that the teacher names; with it, how
    /// much is in none of them, while nothing is said about which of the others has how much. It is the tail of
    /// distillation from top-k log-probabilities, as in SDPO's `add_tail` in verl (<https://github.com/lasgroup/SDPO>).
    /// `lse - lse_rest` keeps its digits where the entries have almost nothing, and where they have almost everything.
    ///
    /// - **Shape**: that of the shares with 1 in the place of the entries: `[rows, 1]` beside logits `[rows, C]`
    /// - **Dtype**: any float dtype; if it is not that of the shares, both are used in the wider of f32 and theirs
    /// - **Gradients**: of the tail where it requires one, `lse - lse_rest`, beside those of the logits and of the
    ///   shares
    /// - **An entry that is ignored**: its class is one of the others
    /// - **A tail of 0**: adds nothing: the loss is that without a tail
    /// - **No other class, or none above -inf**: a tail that is not 0 makes the loss +inf, as a share at a logit of
    ///   -inf does
    /// - **Outputs**: `log_prob` is minus the loss, with the tail's part; the target class stays the largest entry;
    ///   the others are those of the logits
    /// - **Memory**: no tensor of rows x classes, but on a GPU a bit for each class
    /// - **Errors**: [`ShapeMismatch`](crate::CrossEntropyError::ShapeMismatch); class weights, label smoothing and
    ///   `logits = false`, which need a number of each class, are refused with
    ///   [`OptionBesideTail`](crate::CrossEntropyError::OptionBesideTail)
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::{SparseDistribution, cross_entropy};
    ///
    /// let device = Device::flex();
    /// // A student of probabilities 0.5, 0.3 and 0.2, and a teacher with 0.6 at class 0.
    /// let logits = Tensor::<2>::from_floats([[0.5, 0.3, 0.2]], &device).log();
    /// let classes = Tensor::<2, Int>::from_ints([[0]], &device);
    /// let shares = Tensor::<2>::from_floats([[0.6]], &device);
    /// let tail = Tensor::<2>::from_floats([[0.4]], &device);
    ///
    /// let teacher = SparseDistribution::new(classes, shares).with_tail(tail);
    /// let loss = cross_entropy(logits, teacher).into_scalar::<f32>();
    /// let entropy = -(0.6 * 0.6f32.ln() + 0.4 * 0.4f32.ln());
    /// assert!((loss - entropy - 0.0201355).abs() < 1e-6);
    /// ```
    pub fn with_tail(self, tail: Tensor<D>) -> Self {
        Self {
            tail: Some(TailOf::Given(tail)),
            ..self
        }
    }

    /// [`with_tail`](Self::with_tail) of what a row's shares leave of 1, and of 0 where they are more. Entries of
    /// ignored classes have no share. Shares of f16 and bf16 are used in f32 then, because of the difference.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::{SparseDistribution, cross_entropy};
    ///
    /// let device = Device::flex();
    /// let student = Tensor::<2>::from_floats([[1.0, 2.0, 0.0, -1.0]], &device);
    /// let teacher = Tensor::<2>::from_floats([[0.2, 0.5, 0.2, 0.1]], &device);
    ///
    /// let (shares, classes) = teacher.topk_with_indices(2, 1);
    /// let target = SparseDistribution::new(classes, shares).with_rest_as_tail();
    /// assert!(cross_entropy(student, target).into_scalar::<f32>() > 0.0);
    /// ```
    pub fn with_rest_as_tail(self) -> Self {
        Self {
            tail: Some(TailOf::Rest),
            ..self
        }
    }
}

impl SparseTensors {
    /// Shares of the entries, and of the tail if it is given.
    pub(super) fn of_shares(&self) -> impl Iterator<Item = &DispatchTensor> {
        let tail = match &self.tail {
            Some(Tail::Given(tail)) => Some(tail),
            Some(Tail::Rest) | None => None,
        };
        std::iter::once(&self.shares).chain(tail)
    }

    /// The targets as the operation takes them: the tail is the last share.
    pub(super) fn into_targets(self, options: &Options) -> Targets<Dispatch> {
        let Self {
            classes,
            shares,
            tail,
        } = self;
        let tail = tail.map(|tail| match tail {
            Tail::Given(tail) => tail,
            Tail::Rest => {
                portable::rest_of_shares::<Dispatch>(classes.clone(), shares.clone(), options)
            }
        });
        let shares = match tail {
            None => shares,
            Some(tail) => portable::with_tails::<Dispatch>(shares, tail, options.class_dim),
        };
        Targets::Sparse { classes, shares }
    }
}

impl<const D: usize> sealed::IntoTarget for SparseDistribution<D> {
    fn into_target(self) -> Target {
        let tail = self.tail.map(|tail| match tail {
            TailOf::Given(tail) => Tail::Given(tail.into_dispatch()),
            TailOf::Rest => Tail::Rest,
        });
        Target::sparse(self.classes, self.shares, tail)
    }
}

impl<const D: usize> TargetTensor for SparseDistribution<D> {}
impl<const D: usize> CrossEntropyTarget<D> for SparseDistribution<D> {}
