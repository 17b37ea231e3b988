//! Errors of a call, with messages in sentences.

use burn::tensor::{DType, Device, GradientCheckpointingStrategy, Shape};

use crate::operation::RowFactor;

/// Error of a call: the reason why a cross-entropy could not be computed.
///
/// [`CrossEntropyLoss::try_forward`](crate::CrossEntropyLoss::try_forward) returns it;
/// [`forward`](crate::CrossEntropyLoss::forward) panics with its text.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_cross_entropy::{CrossEntropyError, CrossEntropyLossConfig};
///
/// let device = Device::flex();
/// let loss = CrossEntropyLossConfig::new().init(&device);
/// let logits = Tensor::<2>::zeros([4, 3], &device);
/// let error = loss.try_forward(logits, Tensor::<1, Int>::zeros([2], &device)).unwrap_err();
/// assert!(matches!(error, CrossEntropyError::ShapeMismatch { .. }));
/// assert_eq!(
///     error.to_string(),
///     "cross-entropy: the target has shape [2], but logits of shape [4, 3] with the \
///      classes in dimension 1 need [4]"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CrossEntropyError {
    /// A field of the configuration is outside its range.
    #[error("cross-entropy: `{field}` is {value}, expected {expected}")]
    InvalidConfig {
        /// Name of the field.
        field: &'static str,
        /// Value of the field.
        value: String,
        /// Values that the field may have.
        expected: &'static str,
    },
    /// The class dimension does not exist in logits of this rank.
    #[error(
        "cross-entropy: `class_dim` is {class_dim}, which is not a dimension of logits of rank {rank}; \
         expected {lowest}..={highest}",
        lowest = -(*rank as isize),
        highest = *rank as isize - 1
    )]
    ClassDimOutOfRange {
        /// The configured class dimension.
        class_dim: isize,
        /// Number of dimensions of the logits.
        rank: usize,
    },
    /// The class dimension has size 0.
    #[error(
        "cross-entropy: logits of shape {logits:?} have no classes: dimension {class_dim} has size 0"
    )]
    NoClasses {
        /// Shape of the logits.
        logits: Vec<usize>,
        /// The class dimension.
        class_dim: usize,
    },
    /// The target does not fit the logits.
    #[error(
        "cross-entropy: the target has shape {target:?}, but logits of shape {logits:?} with the \
         classes in dimension {class_dim} need {expected:?}"
    )]
    ShapeMismatch {
        /// Shape of the logits.
        logits: Vec<usize>,
        /// Shape of the target.
        target: Vec<usize>,
        /// The class dimension.
        class_dim: usize,
        /// Shape that the target should have.
        expected: Vec<usize>,
    },
    /// The row weights do not have the shape of the rows.
    #[error(
        "cross-entropy: the row weights have shape {weights:?}, but there is one row for each element of \
         {expected:?}"
    )]
    RowWeightsShape {
        /// Shape of the weights.
        weights: Vec<usize>,
        /// Shape of the rows.
        expected: Vec<usize>,
    },
    /// Targets to ignore were configured, and the target is a distribution.
    #[error(
        "cross-entropy: `ignore_indices` is {ignore_indices:?}, but distributions have no index that could be \
         ignored; give the rows to ignore a weight of 0 with `weighted`, and leave `ignore_indices` at its default"
    )]
    IgnoredDistributions {
        /// The ignored targets.
        ignore_indices: Vec<i64>,
    },
    /// The label smoothing over the other classes leaves the target less than each of these.
    #[error(
        "cross-entropy: `label_smoothing` is {smoothing} over the other classes, but of {classes} classes the target \
         would have less than each other one; expected at most {most:.6}, or `SmoothingOver::Classes`",
        most = 1.0 - 1.0 / *classes as f64
    )]
    SmoothingOverOthers {
        /// The label smoothing.
        smoothing: f64,
        /// Number of classes.
        classes: usize,
    },
    /// A factor by the target's probability was configured, and the target is a distribution.
    #[error(
        "cross-entropy: `row_factor` is {factor:?}, which is made of the probability of one target class, but the \
         target is a distribution; give class indices, or leave `row_factor` at `None`"
    )]
    FactorOfDistributions {
        /// The factor.
        factor: RowFactor,
    },
    /// An option needs a number of each class, but the target has a tail, which stands for many of them.
    #[error(
        "cross-entropy: `{option}` is configured, but the target has a tail, the share that all classes besides a row's \
         entries have together; {instead}, and leave the option at its default"
    )]
    OptionBesideTail {
        /// Name of the option.
        option: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
    /// The entropy or the log-sum-exp of probabilities was asked for.
    #[error(
        "cross-entropy: `entropy` and `lse` are of logits, but `logits` is false, so the input holds probabilities; \
         make another loss with `logits` true, and give it the logits or the logarithms of the probabilities"
    )]
    ValueOfProbabilities,
    /// The number of class weights is not the number of classes.
    #[error(
        "cross-entropy: `weight` has {weights} entries, but the logits have {classes} classes \
         (shape {logits:?}, classes in dimension {class_dim})"
    )]
    WeightLength {
        /// Number of weights.
        weights: usize,
        /// Number of classes.
        classes: usize,
        /// Shape of the logits.
        logits: Vec<usize>,
        /// The class dimension.
        class_dim: usize,
    },
    /// The normalizer is not a one-element tensor.
    #[error(
        "cross-entropy: the normalizer has {elements} elements, expected 1: the total weight of all \
         rows that the loss is averaged over; add up what there is of each batch or device"
    )]
    NormalizerShape {
        /// Number of elements.
        elements: usize,
    },
    /// An index target is neither a class nor ignored.
    #[error(
        "cross-entropy: the target of row {row} is {value}, but the classes are 0..{classes} and \
         `ignore_indices` is {ignore_indices:?}; correct the label, or add it to `ignore_indices`"
    )]
    TargetOutOfRange {
        /// Row of the bad target, counted in row-major order.
        row: usize,
        /// Value of the bad target.
        value: i128,
        /// Number of classes.
        classes: usize,
        /// The ignored targets.
        ignore_indices: Vec<i64>,
    },
    /// The loss is bound to a backend at compile time, and a tensor is on another backend.
    #[error(
        "cross-entropy: this loss is bound to the backend {bound}, which cannot take the {tensor} on \
         {device:?}; move the tensor, or use `CrossEntropyLoss` without a backend parameter, which \
         takes the tensors of every backend"
    )]
    WrongBackend {
        /// The backend of the loss.
        bound: String,
        /// Name of the tensor.
        tensor: &'static str,
        /// The tensor's device.
        device: Box<Device>,
    },
    /// The logits and the target are on different devices.
    #[error(
        "cross-entropy: the logits are on {logits:?}, but the {tensor} is on {device:?}; move one of them \
         with `to_device`"
    )]
    DeviceMismatch {
        /// The device of the logits.
        logits: Box<Device>,
        /// Name of the tensor.
        tensor: &'static str,
        /// The device of the tensor.
        device: Box<Device>,
    },
    /// Two tensors of a call checkpoint their gradients differently.
    #[error(
        "cross-entropy: the {tensor} and the {other} are on autodiff devices of different \
         gradient-checkpointing strategies ({strategy:?} and {other_strategy:?}); make both on the same \
         device, or take one of them out of autodiff with `without_autodiff`"
    )]
    CheckpointingMismatch {
        /// Name of one tensor.
        tensor: &'static str,
        /// Strategy of the one tensor.
        strategy: GradientCheckpointingStrategy,
        /// Name of the other tensor.
        other: &'static str,
        /// Strategy of the other tensor.
        other_strategy: GradientCheckpointingStrategy,
    },
    /// A vocabulary shard does not fit.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The tensors of a projection do not fit each other.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    /// The dtype is not supported, or not on this device.
    #[error(
        "cross-entropy: {tensor} of dtype {dtype:?} cannot be used on {device:?}; cast to one of {}",
        listed(supported)
    )]
    UnsupportedDtype {
        /// Name of the tensor.
        tensor: &'static str,
        /// Dtype of the tensor.
        dtype: DType,
        /// Device of the tensor.
        device: Box<Device>,
        /// Dtypes that the device supports.
        supported: Vec<DType>,
    },
}

impl CrossEntropyError {
    /// The same error of an index target that is an entry of sparse distributions of this shape: with the row of the
    /// entry.
    pub(crate) fn of_entry(self, entries: &Shape, class_dim: usize) -> Self {
        match self {
            Self::TargetOutOfRange {
                row: at,
                value,
                classes,
                ignore_indices,
            } => {
                let inner: usize = entries.iter().skip(class_dim + 1).product();
                Self::TargetOutOfRange {
                    row: at / (entries[class_dim] * inner) * inner + at % inner,
                    value,
                    classes,
                    ignore_indices,
                }
            }
            other => other,
        }
    }
}

/// Joins the names of dtypes with commas.
fn listed(dtypes: &[DType]) -> String {
    let names: Vec<String> = dtypes.iter().map(|dtype| format!("{dtype:?}")).collect();
    names.join(", ")
}

/// Error of a loss over the shards of a vocabulary.
///
/// ```
/// use burn_cross_entropy::{CrossEntropyError, ShardError, VocabularyShard};
///
/// let error = VocabularyShard::try_new(4..9, 7).unwrap_err();
/// assert!(matches!(error, CrossEntropyError::Shard(ShardError::Range { .. })));
/// assert_eq!(
///     error.to_string(),
///     "cross-entropy: the vocabulary shard 4..9 is no part of 7 classes; give a range with \
///      at least one class that ends at 7 or before"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The range of the shard is empty or reaches beyond the classes.
    #[error(
        "cross-entropy: the vocabulary shard {start}..{end} is no part of {classes} classes; give a \
         range with at least one class that ends at {classes} or before"
    )]
    Range {
        /// First class of the shard.
        start: usize,
        /// The class behind its last.
        end: usize,
        /// Number of all classes.
        classes: usize,
    },
    /// The classes cannot be split into this number of shards.
    #[error(
        "cross-entropy: {classes} classes cannot be split into {shards} vocabulary shards; expected \
         at least 1 shard, and at least as many classes as shards"
    )]
    Count {
        /// Number of shards.
        shards: usize,
        /// Number of all classes.
        classes: usize,
    },
    /// The statistics are of a loss with another scale.
    #[error(
        "cross-entropy: statistics of a vocabulary shard are of a loss whose logit scale is {given}, \
         expected {expected}; combine those of one configuration, and give them to its loss"
    )]
    Scale {
        /// Scale of the statistics, 1 with a softcap.
        given: f64,
        /// Scale of the other statistics or of the loss.
        expected: f64,
    },
    /// The logits have another number of classes than the shard.
    #[error(
        "cross-entropy: logits of shape {logits:?} have {found} classes in dimension {class_dim}, but \
         the vocabulary shard {start}..{end} has {expected}; give each device the logits of its own \
         shard"
    )]
    Classes {
        /// Shape of the logits.
        logits: Vec<usize>,
        /// The class dimension.
        class_dim: usize,
        /// Number of classes of the logits.
        found: usize,
        /// First class of the shard.
        start: usize,
        /// The class behind its last.
        end: usize,
        /// Number of classes of the shard.
        expected: usize,
    },
    /// The number of class weights is not the number of all classes.
    #[error(
        "cross-entropy: `weight` has {weights} entries, but the vocabulary has {classes} classes; give \
         the loss of every shard the weights of the whole vocabulary"
    )]
    WeightLength {
        /// Number of weights.
        weights: usize,
        /// Number of all classes.
        classes: usize,
    },
    /// The statistics are of other rows or of another configuration.
    #[error(
        "cross-entropy: the shard statistics have shape {given:?}, expected {expected:?}: {numbers} \
         numbers for each row; combine statistics of the same targets and the same configuration",
        numbers = expected[0]
    )]
    Statistics {
        /// Shape of the statistics.
        given: [usize; 2],
        /// The shape they should have.
        expected: [usize; 2],
    },
    /// There are no statistics to combine.
    #[error(
        "cross-entropy: there are no shard statistics to combine; give those of every shard of the \
         vocabulary"
    )]
    NoStatistics,
    /// The targets are distributions.
    #[error(
        "cross-entropy: the target of a vocabulary shard is a distribution, expected a class index per \
         row; use `forward` on the logits of the whole vocabulary"
    )]
    Distributions,
    /// The input holds probabilities.
    #[error(
        "cross-entropy: `logits` is false, but vocabulary shards are combined by the log-sum-exp of \
         logits, which probabilities do not have; give logits"
    )]
    Probabilities,
}

/// Error of the tensors of a projection.
///
/// [`LinearCrossEntropyLoss::try_forward`](crate::LinearCrossEntropyLoss::try_forward) has an example.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectionError {
    /// The input has another number of features than the weight.
    #[error(
        "cross-entropy: the input of shape {input:?} has {features} features in its last dimension, but \
         the projection weight of shape {weight:?} takes {expected}; the weight is `[features, classes]`, \
         as in `burn::nn::Linear` (an embedding `[classes, features]` is given transposed)",
        features = input[input.len() - 1],
        expected = weight[0]
    )]
    Features {
        /// Shape of the input.
        input: Vec<usize>,
        /// Shape of the weight.
        weight: Vec<usize>,
    },
    /// The class dimension of the configuration is not the last.
    #[error(
        "cross-entropy: `class_dim` is {class_dim}, but a projection has its classes in the last dimension; \
         expected 1, the default, or -1"
    )]
    ClassDim {
        /// The configured class dimension.
        class_dim: isize,
    },
    /// The length of the bias is not the number of classes.
    #[error(
        "cross-entropy: the bias has {bias} entries, but the projection weight of shape {weight:?} makes \
         {classes} classes",
        classes = weight[1]
    )]
    Bias {
        /// Number of biases.
        bias: usize,
        /// Shape of the weight.
        weight: Vec<usize>,
    },
    /// The tensors have several dtypes.
    #[error(
        "cross-entropy: the projection {tensor} is of dtype {dtype:?}, but the {other} is of {expected:?}; cast \
         one of them"
    )]
    Dtype {
        /// Name of the tensor.
        tensor: &'static str,
        /// Dtype of the tensor.
        dtype: DType,
        /// Name of the tensor whose dtype it should have.
        other: &'static str,
        /// The dtype of that tensor.
        expected: DType,
    },
    /// A tensor is quantised.
    #[error(
        "cross-entropy: the projection {tensor} is quantised ({dtype:?}), and a loss needs its numbers as floats; \
         give it after `dequantize()`"
    )]
    Quantized {
        /// Name of the tensor.
        tensor: &'static str,
        /// Dtype of the tensor.
        dtype: DType,
    },
    /// The tensors are on several devices.
    #[error(
        "cross-entropy: the projection {tensor} is on {device:?}, but the input is on {input:?}; move one of \
         them"
    )]
    Device {
        /// Name of the tensor.
        tensor: &'static str,
        /// Device of the tensor.
        device: Box<Device>,
        /// The device of the input.
        input: Box<Device>,
    },
}
