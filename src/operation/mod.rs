//! What one call of the cross-entropy operation takes and gives.
//!
//! These types travel between the loss (which fills them in from the user's tensors), the backends
//! and the reference implementation. They hold tensors, shapes and numbers; no maths. The example
//! of [`mod@crate::reference`] shows a call.

// Moved a few times per call; a box would be an allocation. Here, for what the macros write too.
#![allow(clippy::large_enum_variant)]
pub mod linear;
#[cfg(feature = "cube")]
pub(crate) mod metadata;
pub(crate) mod shard;

use std::sync::Arc;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType};
use burn::config::Config;
use burn::tensor::{DType, FloatDType, Shape};

/// The target of every row.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum Targets<B: Backend> {
    /// One class index per row, in any shape with as many elements as there are rows.
    Indices(IntTensor<B>),
    /// One distribution over the classes per row, in the shape of the logits.
    Distributions(FloatTensor<B>),
}

/// The rescaling weight of each class. An enum because tensors crossing Burn's dispatch cannot
/// stand in an `Option`.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum ClassWeights<B: Backend> {
    /// Every class weighs 1.
    Equal,
    /// One weight per class, shape `[classes]`.
    PerClass(FloatTensor<B>),
}

/// Everything the operation reads besides the logits.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub struct Inputs<B: Backend> {
    /// The target of every row.
    #[extension_type]
    pub targets: Targets<B>,
    /// The rescaling weight of each class.
    #[extension_type]
    pub weights: ClassWeights<B>,
    /// What [`RowReduction::Normalized`] divides by.
    #[extension_type]
    pub normalizer: Denominators<B>,
}

/// What sums over rows are divided by, where that is not known from the rows of the call.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum Denominators<B: Backend> {
    /// Nothing but the rows of the call.
    OfRows,
    /// Divisor of the losses and divisor of the z-losses, shape `[2]`.
    Given(FloatTensor<B>),
}

/// How the losses of the rows become the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowReduction {
    /// One loss per row.
    None,
    /// The sum over the total weight; the z-loss over the number of counted rows.
    Mean,
    /// The sum.
    Sum,
    /// The sum over the given number of samples.
    BatchMean(usize),
    /// The sum over [`Inputs::normalizer`].
    Normalized,
}

/// What is wanted of each row besides its loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DetailsOf {
    /// Nothing.
    Nothing,
    /// All of [`Details`] but the entropy.
    Target,
    /// All of [`Details`].
    TargetAndEntropy,
}

impl DetailsOf {
    /// Numbers of each row in [`Details::PerRow`].
    pub(crate) fn numbers(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Target => 2,
            Self::TargetAndEntropy => 3,
        }
    }
}

/// What the mean over nothing is: over no counted row, or with a total weight of 0.
///
/// The gradient is 0 in both cases.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_cross_entropy::{CrossEntropyLossConfig, EmptyReduction};
///
/// let device = Device::flex();
/// let loss = |empty| {
///     let loss = CrossEntropyLossConfig::new().with_empty(empty).init(&device);
///     let logits = Tensor::<2>::zeros([2, 3], &device);
///     let ignored = Tensor::<1, Int>::full([2], -100, &device);
///     loss.forward(logits, ignored).into_scalar::<f32>()
/// };
/// assert!(loss(EmptyReduction::Nan).is_nan());
/// assert_eq!(loss(EmptyReduction::Zero), 0.0);
/// ```
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum EmptyReduction {
    /// NaN, as in PyTorch: the loss says that nothing was learned from.
    Nan,
    /// 0: an empty micro-batch adds nothing.
    Zero,
}

/// What the values of the input tensor are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InputValues {
    /// Logits: multiplied by `scale`, then bent to `cap * tanh(x / cap)` where there is a `cap`.
    Logits {
        /// Factor applied first.
        scale: f64,
        /// Bound of the magnitude.
        softcap: Option<f64>,
    },
    /// Probabilities.
    Probabilities,
}

/// Which of the differentiable inputs a gradient is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GradientsOf {
    /// The logits (or probabilities).
    Logits,
    /// The target distributions.
    Targets,
    /// Both.
    Both,
}

/// The options of one call, checked and resolved against the shape of the logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The dimension that holds the classes.
    pub class_dim: usize,
    /// Index targets that count for nothing.
    pub ignore_indices: Arc<[i64]>,
    /// Share of every target that is spread evenly over the classes.
    pub label_smoothing: f64,
    /// What the values of the input tensor are.
    pub values: InputValues,
    /// Factor of the squared log-sum-exp.
    pub z_loss: f64,
    /// How the losses of the rows become the result.
    pub reduction: RowReduction,
    /// The mean over nothing.
    pub empty: EmptyReduction,
    /// Which inputs the backward is for; the forward may prepare for it.
    pub gradients_of: GradientsOf,
    /// Whether a backward will follow.
    pub keep: bool,
    /// What is wanted of each row besides its loss.
    pub details: DetailsOf,
}

/// What the backward needs from the forward besides [`Inputs`] and [`Options`].
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum Saved<B: Backend> {
    /// Nothing: no backward will follow.
    Nothing,
    /// The logits as they came in, and a few numbers per row.
    Logits {
        /// The logits as they came in.
        logits: FloatTensor<B>,
        /// The largest value of each row, then the row's sum of `exp(x - maximum)` without the
        /// maximum's own 1, then what else the implementation wants to know of a row; shape
        /// `[numbers, rows]`. `p[c]` is `exp(x[c] - maximum) / (1 + others)`: by way of the
        /// log-sum-exp it would inherit the rounding of numbers as large as the logits.
        statistics: FloatTensor<B>,
        /// What the sum of the losses and that of the z-losses were divided by, shape `[2]`; of no
        /// meaning where they were not added up.
        denominators: FloatTensor<B>,
    },
    /// The input as it came in, for a backward that starts from there.
    AsGiven {
        /// Logits or probabilities.
        input: FloatTensor<B>,
    },
    /// The gradients for an upstream gradient of 1, which only need multiplying.
    Gradients {
        /// The gradients, in their own shapes and dtypes.
        #[extension_type]
        gradients: Gradients<B>,
    },
}

/// What a row has come to besides its loss.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum Details<B: Backend> {
    /// They were not asked for.
    Nothing,
    /// One column per row.
    PerRow {
        /// The log-sum-exp (0 of probabilities), the log-probability of the target, and where it is
        /// asked for the entropy; shape `[numbers, rows]`, in the dtype of the loss. The second is 0
        /// where the row is ignored, NaN where its target is no class.
        numbers: FloatTensor<B>,
        /// The class of the largest logit (of several the first; NaN is below all numbers), and how
        /// many classes stand before that of the target in this order; shape `[2, rows]`, i32. The
        /// second is -1 where the row does not count. The target of a distribution is its largest
        /// class.
        classes: IntTensor<B>,
        /// What [`RowReduction::Mean`] divides by, the weight of the rows that count and their number;
        /// shape `[2]`, in the dtype of the loss.
        totals: FloatTensor<B>,
    },
}

impl<B: Backend> Details<B> {
    /// Details with every tensor changed: `floats` the numbers, `ints` the classes.
    pub(crate) fn map<C: Backend>(
        self,
        floats: impl Fn(FloatTensor<B>) -> FloatTensor<C>,
        ints: impl FnOnce(IntTensor<B>) -> IntTensor<C>,
    ) -> Details<C> {
        match self {
            Self::Nothing => Details::Nothing,
            Self::PerRow {
                numbers,
                classes,
                totals,
            } => Details::PerRow {
                numbers: floats(numbers),
                classes: ints(classes),
                totals: floats(totals),
            },
        }
    }
}

/// The result of the operation.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub struct Forward<B: Backend> {
    /// The loss, in the shape of [`Options::loss_shape`].
    pub loss: FloatTensor<B>,
    /// What the backward needs, if [`Options::keep`] says that there will be one.
    #[extension_type]
    pub saved: Saved<B>,
    /// What [`Options::details`] asks for.
    #[extension_type]
    pub details: Details<B>,
}

/// The gradients of a call, in the variant that [`Options::gradients_of`] asks for.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum Gradients<B: Backend> {
    /// For the logits alone, in their shape and dtype.
    Logits {
        /// Gradient of the logits.
        logits: FloatTensor<B>,
    },
    /// For the target distributions alone, in their shape and dtype.
    Targets {
        /// Gradient of the target distributions.
        targets: FloatTensor<B>,
    },
    /// For both.
    Both {
        /// Gradient of the logits.
        logits: FloatTensor<B>,
        /// Gradient of the target distributions.
        targets: FloatTensor<B>,
    },
}

impl<B: Backend> Gradients<B> {
    /// Gradients with every tensor changed.
    pub(crate) fn map(self, change: impl Fn(FloatTensor<B>) -> FloatTensor<B>) -> Self {
        match self {
            Self::Logits { logits } => Self::Logits {
                logits: change(logits),
            },
            Self::Targets { targets } => Self::Targets {
                targets: change(targets),
            },
            Self::Both { logits, targets } => Self::Both {
                logits: change(logits),
                targets: change(targets),
            },
        }
    }
}

/// The logits seen as `[outer, classes, inner]`: what lies before the class dimension, the classes,
/// and what lies behind it. There are `outer * inner` rows.
///
/// ```
/// use burn::tensor::Shape;
/// use burn_cross_entropy::operation::Geometry;
///
/// let geometry = Geometry::new(&Shape::new([2, 3, 4, 5]), 1);
/// assert_eq!((geometry.outer, geometry.classes, geometry.inner), (2, 3, 20));
/// assert_eq!(geometry.rows(), 40);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Product of the sizes before the class dimension.
    pub outer: usize,
    /// Number of classes.
    pub classes: usize,
    /// Product of the sizes behind the class dimension.
    pub inner: usize,
}

impl Geometry {
    /// The geometry of logits of this shape.
    pub fn new(logits: &Shape, class_dim: usize) -> Self {
        Self {
            outer: logits[..class_dim].iter().product(),
            classes: logits[class_dim],
            inner: logits[class_dim + 1..].iter().product(),
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.outer * self.inner
    }

    /// Shape with one entry per element of the logits.
    pub fn full(&self) -> Shape {
        Shape::new([self.outer, self.classes, self.inner])
    }

    /// Shape with one entry per row, broadcastable against [`Geometry::full`].
    pub fn per_row(&self) -> Shape {
        Shape::new([self.outer, 1, self.inner])
    }

    /// Shape with one entry per class, broadcastable against [`Geometry::full`].
    pub fn per_class(&self) -> Shape {
        Shape::new([1, self.classes, 1])
    }
}

impl Options {
    /// Shape of the loss for logits of this shape.
    pub fn loss_shape(&self, logits: &Shape) -> Shape {
        match self.reduction {
            RowReduction::None => row_shape(logits, self.class_dim),
            _ => Shape::new([1]),
        }
    }

    /// Whether classes besides an index target have a share of the loss.
    #[cfg(feature = "cube")]
    pub(crate) fn is_spread(&self, distributions: bool) -> bool {
        distributions || self.label_smoothing != 0.0
    }

    /// Numbers of each row that the fused kernels keep for the backward: the maximum and the others,
    /// and where the shares are spread their sum at the maximum and elsewhere.
    #[cfg(feature = "cube")]
    pub(crate) fn statistics_per_row(&self, distributions: bool) -> usize {
        if self.is_spread(distributions) { 4 } else { 2 }
    }
}

/// The shape of the logits without the class dimension; `[1]` where nothing else is left.
pub fn row_shape(logits: &Shape, class_dim: usize) -> Shape {
    if logits.num_dims() == 1 {
        return Shape::new([1]);
    }
    let mut shape = logits.clone();
    shape.remove(class_dim);
    shape
}

/// The dtype that the arithmetic is done in and the loss comes in: f64 for f64, else f32.
pub fn accumulation_dtype(logits: DType) -> FloatDType {
    match logits {
        DType::F64 => FloatDType::F64,
        _ => FloatDType::F32,
    }
}

/// For a backward without its forward.
pub(crate) const NOTHING_SAVED: &str = "a backward takes what a forward with `keep` has saved";
