//! Errors of contrastive learning, with messages in sentences.

use burn::tensor::{DType, Device, GradientCheckpointingStrategy};

use crate::error::CrossEntropyError;

/// Error of a contrastive loss, of a queue of negatives that did not take its keys, or of a momentum
/// update.
///
/// Functions with `try_` return the error; the others panic with its text.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_cross_entropy::contrastive::ContrastiveError;
/// use burn_cross_entropy::NegativeQueueConfig;
///
/// let device = Device::flex();
/// let mut queue = NegativeQueueConfig::new(256, 16).init(&device);
/// let error = queue.try_push(Tensor::zeros([4, 8], &device)).unwrap_err();
/// assert!(matches!(error, ContrastiveError::Features { .. }));
/// assert_eq!(
///     error.to_string(),
///     "negative queue: the keys have shape [4, 8], expected [4, 16]: a queue holds keys of \
///      16 features"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ContrastiveError {
    /// A value of a configuration is outside its range.
    #[error("{part}: `{field}` is {value}, expected {expected}")]
    InvalidConfig {
        /// Name of the configured part.
        part: &'static str,
        /// Name of the value.
        field: &'static str,
        /// Value of the field.
        value: String,
        /// Values that the field may have.
        expected: &'static str,
    },
    /// The keys have another number of features than the queue.
    #[error(
        "negative queue: the keys have shape {keys:?}, expected [{rows}, {expected}]: a queue holds \
         keys of {expected} features",
        rows = keys[0]
    )]
    Features {
        /// Shape of the keys.
        keys: [usize; 2],
        /// Number of features of the queue.
        expected: usize,
    },
    /// The queue keeps ids, and the keys came without ids.
    #[error(
        "negative queue: this queue keeps an id for each key, but the {keys} keys came without; use \
         `push_with_ids`, or configure the queue with `ids` false"
    )]
    IdsMissing {
        /// Number of keys.
        keys: usize,
    },
    /// The queue does not keep ids, and the keys came with ids.
    #[error(
        "negative queue: the keys came with ids, which this queue does not keep; use `push`, or \
         configure the queue with `ids` true"
    )]
    IdsUnexpected,
    /// The number of ids is not the number of keys.
    #[error("negative queue: there are {ids} ids for {keys} keys, expected one for each")]
    IdsLength {
        /// Number of ids.
        ids: usize,
        /// Number of keys.
        keys: usize,
    },
    /// A tensor is on another device than the queue.
    #[error(
        "negative queue: the {tensor} are on {given:?}, but the queue is on {queue:?}; move one of them \
         with `to_device`"
    )]
    Device {
        /// Name of the tensor.
        tensor: &'static str,
        /// Device of the tensor.
        given: Box<Device>,
        /// The device of the queue.
        queue: Box<Device>,
    },
    /// A tensor has another dtype than the tensors in the queue.
    #[error(
        "negative queue: the {tensor} are of dtype {given:?}, but those in the queue are of {queue:?}; cast \
         them, or `clear` the queue, which takes on the dtype of the first keys"
    )]
    Dtype {
        /// Name of the tensor.
        tensor: &'static str,
        /// Dtype of the tensor.
        given: DType,
        /// Dtype of the tensors in the queue.
        queue: DType,
    },
    /// Features have a dtype that is not supported.
    #[error(
        "contrastive learning: `{tensor}` is of dtype {dtype:?}, expected a floating-point dtype; \
         `dequantize` it"
    )]
    Quantized {
        /// Name of the tensor.
        tensor: &'static str,
        /// Dtype of the tensor.
        dtype: DType,
    },
    /// Two tensors of a contrastive loss have different numbers of rows.
    #[error(
        "contrastive loss: `{}` has shape {:?} and `{}` has shape {:?}, expected as many rows: each row \
         has its positive in the same row of the other",
        one.0, one.1, other.0, other.1
    )]
    Rows {
        /// Name and shape of one.
        one: (&'static str, [usize; 2]),
        /// Name and shape of the other.
        other: (&'static str, [usize; 2]),
    },
    /// Two tensors of a contrastive loss have different numbers of features.
    #[error(
        "contrastive loss: `{}` has shape {:?} and `{}` has shape {:?}, expected the same number of \
         features in dimension 1",
        one.0, one.1, other.0, other.1
    )]
    OtherFeatures {
        /// Name and shape of one.
        one: (&'static str, [usize; 2]),
        /// Name and shape of the other.
        other: (&'static str, [usize; 2]),
    },
    /// Two tensors of a contrastive loss have different dtypes.
    #[error(
        "contrastive loss: the dtype of `{}` is {:?} and that of `{}` is {:?}, expected the same; convert one \
         of them",
        one.0, one.1, other.0, other.1
    )]
    Dtypes {
        /// Name and dtype of one tensor.
        one: (&'static str, DType),
        /// Name and dtype of the other.
        other: (&'static str, DType),
    },
    /// Two tensors of a contrastive loss have different devices.
    #[error(
        "contrastive loss: the device of `{}` is {:?} and that of `{}` is {:?}, expected the same; convert one \
         of them",
        one.0, one.1, other.0, other.1
    )]
    Devices {
        /// Name and device of one tensor.
        one: (&'static str, Box<Device>),
        /// Name and device of the other.
        other: (&'static str, Box<Device>),
    },
    /// Two tensors of a contrastive loss have different checkpointing strategies.
    #[error(
        "contrastive loss: the gradient checkpointing of `{}` is {:?} and that of `{}` is {:?}, expected the same; convert one \
         of them",
        one.0, one.1, other.0, other.1
    )]
    Checkpointing {
        /// Name and strategy of one tensor.
        one: (&'static str, GradientCheckpointingStrategy),
        /// Name and strategy of the other.
        other: (&'static str, GradientCheckpointingStrategy),
    },
    /// Ids are on another device than the features.
    #[error(
        "contrastive loss: the ids of the {of} are on {ids:?}, but the features are on {features:?}; move one of \
         them with `to_device`"
    )]
    SampleIdDevice {
        /// Owner of the ids: queries or negatives.
        of: &'static str,
        /// Device of the ids.
        ids: Box<Device>,
        /// Device of the features.
        features: Box<Device>,
    },
    /// The ids are of two dtypes.
    #[error(
        "contrastive loss: the ids of the queries are of dtype {queries:?}, those of the negatives of \
         {negatives:?}, expected the same; cast one of them to the wider"
    )]
    SampleIdDtypes {
        /// Dtype of the queries' ids.
        queries: DType,
        /// Dtype of the negatives' ids.
        negatives: DType,
    },
    /// The number of ids is not the number of queries or negatives.
    #[error("contrastive loss: there are {ids} ids for {rows} {of}, expected one for each")]
    SampleIds {
        /// Owner of the ids: queries or negatives.
        of: &'static str,
        /// Number of ids.
        ids: usize,
        /// Number of queries or negatives.
        rows: usize,
    },
    /// Parts of a request or options that do not go together.
    #[error("contrastive loss: {part} cannot go with {form}: {instead}")]
    Combination {
        /// What was asked for.
        part: &'static str,
        /// What it does not go with.
        form: &'static str,
        /// Reason, and what to use.
        instead: &'static str,
    },
    /// Own negatives do not fit the queries.
    #[error(
        "contrastive loss: the own negatives have shape {negatives:?}, expected {expected:?}: some for each query, \
         with as many features"
    )]
    OwnNegatives {
        /// Shape of the negatives.
        negatives: [usize; 3],
        /// The shape that fits.
        expected: [usize; 3],
    },
    /// The mask of own negatives does not fit these.
    #[error(
        "contrastive loss: the mask of the own negatives has shape {mask:?}, expected {expected:?}: true where there \
         is a negative"
    )]
    OwnNegativesMask {
        /// Shape of the mask.
        mask: [usize; 2],
        /// The shape that fits.
        expected: [usize; 2],
    },
    /// The mask of positives does not fit rows and keys.
    #[error(
        "contrastive loss: the mask of the positives has shape {mask:?}, expected {expected:?}: rows and keys"
    )]
    PositivesMask {
        /// Shape of the mask.
        mask: [usize; 2],
        /// The shape that fits.
        expected: [usize; 2],
    },
    /// The logarithms of probabilities do not fit the keys.
    #[error(
        "contrastive loss: `log_q` has tensors of lengths {given:?}, expected {expected:?} on the device of the \
         features: one number for each row of {}", tensors.join(", ")
    )]
    LogQ {
        /// Lengths of the tensors.
        given: Vec<usize>,
        /// Names of the tensors of keys.
        tensors: Vec<&'static str>,
        /// Numbers of keys in these.
        expected: Vec<usize>,
    },
    /// There are no keys to choose from.
    #[error(
        "contrastive loss: there are no keys for {queries} queries; give at least one key, or one row of \
         each view"
    )]
    NoKeys {
        /// Number of queries.
        queries: usize,
    },
    /// The index of a positive is not a row of the keys.
    #[error(
        "contrastive loss: `positive` of row {row} is {value}, but the keys have the rows 0..{keys}; correct \
         it, or use -100 for a query without a positive"
    )]
    PositiveOutOfRange {
        /// Row of the index.
        row: usize,
        /// Value of the index.
        value: i128,
        /// Number of keys.
        keys: usize,
    },
    /// The number of positives is not the number of queries.
    #[error(
        "contrastive loss: `positive` has {positives} indices for {queries} queries, expected one for each"
    )]
    Positives {
        /// Number of indices.
        positives: usize,
        /// Number of queries.
        queries: usize,
    },
    /// The loss over the similarities could not be computed.
    #[error("contrastive loss: of the similarities of queries (rows) to keys (classes), {0}")]
    Loss(Box<CrossEntropyError>),
    /// The modules of a momentum update have different parameters.
    #[error(
        "momentum update: the modules differ at parameter {parameter}: the online module has {online}, \
         the target {target}; make the target from the online module, with `online.valid()`"
    )]
    DifferentModules {
        /// Number of the parameter, counted from 0 in the order of visiting.
        parameter: usize,
        /// Parameter of the online module: path, kind and shape, or nothing.
        online: String,
        /// Parameter of the target: path, kind and shape, or nothing.
        target: String,
    },
}

impl From<CrossEntropyError> for ContrastiveError {
    /// Converts an error of the loss. Errors of the caller's tensors become errors of queries and keys.
    fn from(error: CrossEntropyError) -> Self {
        match error {
            CrossEntropyError::NoClasses { logits, .. } => Self::NoKeys { queries: logits[0] },
            CrossEntropyError::TargetOutOfRange {
                row,
                value,
                classes,
                ..
            } => Self::PositiveOutOfRange {
                row,
                value,
                keys: classes,
            },
            CrossEntropyError::ShapeMismatch {
                target, expected, ..
            } => Self::Positives {
                positives: target[0],
                queries: expected[0],
            },
            error => Self::Loss(Box::new(error)),
        }
    }
}

pub(super) fn unwrap<T>(result: Result<T, ContrastiveError>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

/// Checks a value that is a divisor or a factor.
pub(super) fn check_positive(field: &'static str, value: f64) -> Result<(), ContrastiveError> {
    // The arithmetic is in f32, except for features of f64.
    let (value_in_f32, inverse) = (value as f32, (1.0 / value) as f32);
    match value_in_f32.is_finite() && value_in_f32 > 0.0 && inverse.is_finite() {
        true => Ok(()),
        false => Err(invalid(field, value.to_string(), "positive and finite")),
    }
}

/// Error of a value of a loss's configuration.
pub(super) fn invalid(
    field: &'static str,
    value: String,
    expected: &'static str,
) -> ContrastiveError {
    ContrastiveError::InvalidConfig {
        part: "contrastive loss",
        field,
        value,
        expected,
    }
}
