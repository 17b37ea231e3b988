//! Options of the loss, resolved against the shape of the logits, and the wanted results of a call.

use std::sync::Arc;

use burn::config::Config;

use super::{Role, RowFactor};

/// Value of an empty mean: a mean over no counted row, or with a total weight of 0.
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
    /// NaN, as in PyTorch: the loss shows that no row was counted.
    Nan,
    /// 0: an empty micro-batch adds nothing.
    Zero,
}

impl EmptyReduction {
    /// The mean over no counted row.
    pub(crate) fn value(self) -> f64 {
        match self {
            Self::Nan => f64::NAN,
            Self::Zero => 0.0,
        }
    }
}

/// Classes that the label smoothing `e` is spread over.
///
/// With `p` the target as a distribution (1 at the class of an index), `C` the number of classes and `V` the
/// number of classes of a row that are not masked, the smoothed target is
///
/// ```text
/// Classes        q[c] = (1 - e) p[c] + e / C
/// OtherClasses   q[c] = (1 - e') p[c] + e' / C     e' = e C / (C - 1)
/// ValidClasses   q[c] = (1 - e) p[c] + e / V       at a masked class (1 - e) p[c]
/// ```
///
/// Class weights, row factors and z-losses apply in the same way to all three.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_cross_entropy::{CrossEntropyLossConfig, SmoothingOver};
///
/// let device = Device::flex();
/// let loss = |over, logits| {
///     let config = CrossEntropyLossConfig::new().with_label_smoothing(0.3);
///     let config = config.with_smoothing_over(over);
///     let logits = Tensor::<2>::from_floats([logits], &device);
///     let target = Tensor::<1, Int>::zeros([1], &device);
///     config.init(&device).forward(logits, target).into_scalar::<f32>()
/// };
/// let masked = [0.0, 0.0, f32::NEG_INFINITY];
/// assert_eq!(loss(SmoothingOver::Classes, masked), f32::INFINITY);
/// assert!((loss(SmoothingOver::ValidClasses, masked) - 2f32.ln()).abs() < 1e-6);
///
/// // The target keeps 0.7, and each of the two others gets 0.15.
/// let lse = (2f32.exp() + 2.0).ln();
/// let others = loss(SmoothingOver::OtherClasses, [2.0, 0.0, 0.0]);
/// assert!((others - (lse - 0.7 * 2.0)).abs() < 1e-6);
/// ```
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum SmoothingOver {
    /// All classes, the target among them: Szegedy et al. (2016), <https://arxiv.org/abs/1512.00567>, and PyTorch.
    Classes,
    /// The classes besides the target, which keeps `1 - e`; each other class gets `e / (C - 1)`. Of a distribution
    /// every class keeps `1 - e` of its share, and the others get the rest: what its formula says for shares that
    /// sum to 1.
    ///
    /// `e` is at most `(C - 1) / C`: with more, the target would have less than every other class. With one class
    /// there is no other, and nothing is spread.
    ///
    /// Source: Megatron-LM, `label_smoothing` of `vocab_parallel_cross_entropy`, and NeMo's `SmoothedCrossEntropyLoss`.
    /// Over a [`VocabularyShard`](crate::VocabularyShard) `C` is the whole vocabulary, in Megatron-LM the part of
    /// one device.
    OtherClasses,
    /// The classes of a row that are not masked: whose logit is not `-inf`, or whose probability is not 0. A masked
    /// class has no share of the smoothing, so that it does not make the loss infinite.
    ///
    /// A target on a masked class still gives `+inf`, and a row of masked classes only is NaN (of probabilities
    /// `+inf`). A capped logit of `-inf` stays `-inf`, and masked.
    ValidClasses,
}

/// Meaning of the values of the input tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InputValues {
    /// Logits: multiplied by `scale`, then bent to `cap * tanh(x / cap)` where there is a `cap`.
    Logits {
        /// Factor applied first.
        scale: f64,
        /// Bound of the logits' magnitude.
        softcap: Option<f64>,
    },
    /// Probabilities.
    Probabilities,
}

/// Meaning of the numbers of target distributions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum TargetValues {
    /// Shares of the classes.
    #[default]
    Shares,
    /// Logits of a teacher, multiplied by `scale`: the shares are their softmax. They have no gradient.
    Logits {
        /// One over the temperature.
        scale: f64,
    },
}

/// What a call computes of each row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RowValue {
    /// The loss.
    #[default]
    Loss,
    /// The log-sum-exp of the logits. Targets and all options of the loss are of no meaning, so the caller gives targets
    /// that count, and leaves the options off.
    LogSumExp,
    /// The entropy of the probabilities of the logits, in nats, likewise.
    Entropy,
    /// The loss of each class apart, of a yes or no: the sum over the classes of `-ln sigmoid(x)` at the targets and
    /// `-ln sigmoid(-x)` elsewhere. Over the product of a projection alone. An ignored row has no target.
    PairSigmoid,
}

/// Order of classes that have equal scores, in the outputs of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Ties {
    /// The earlier class is first, as in the argmax of other libraries.
    #[default]
    ByClass,
    /// The target is last, also among scores that differ by no more than the rounding of a product of two
    /// features. Contrastive losses have their positive at a fixed class, and a model that cannot tell the
    /// keys apart must not look as if it did.
    TargetLoses {
        /// Largest magnitude of a score where it is known, as for features of length 1: a product near 0 is
        /// rounded as the larger terms that it is a sum of. Otherwise 0.
        magnitude: f64,
    },
}

/// Rounding that a target's score is lowered by where it loses ties.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slack {
    /// Share of the score's own magnitude.
    pub(crate) share: f64,
    /// Least number.
    pub(crate) least: f64,
}

impl Slack {
    /// Rounding of scores with this `epsilon` and this smallest number of full precision.
    pub(crate) fn new(magnitude: f64, epsilon: f64, smallest: f64) -> Self {
        Self::of_share(ROUNDINGS_OF_A_PRODUCT * epsilon, magnitude, smallest)
    }

    /// Rounding of products in TF32.
    #[cfg_attr(not(feature = "cube"), expect(dead_code))]
    pub(crate) fn of_tf32(magnitude: f64) -> Self {
        Self::of_share(ROUNDING_OF_TF32, magnitude, f32::MIN_POSITIVE.into())
    }

    fn of_share(share: f64, magnitude: f64, smallest: f64) -> Self {
        Self {
            share,
            least: (share * magnitude).max(smallest),
        }
    }
}

/// Rounding of a product of two features, in units of its last place: two orders of adding some thousand
/// terms rarely differ by more.
const ROUNDINGS_OF_A_PRODUCT: f64 = 16.0;
/// Rounding of a product of two features whose factors are rounded to the 11 bits of TF32 before.
const ROUNDING_OF_TF32: f64 = 1.0 / 1024.0;

/// Factor of the differences of scores in two steps. With a factor below 1 the difference itself might
/// overflow where the result does not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScaleSteps {
    /// Power of two that multiplies the scores before their difference is taken.
    pub(crate) before: f64,
    /// Factor of that difference.
    pub(crate) after: f64,
}

impl ScaleSteps {
    pub(crate) fn of(scale: f64) -> Self {
        let before = if scale < 1.0 { 0.5 } else { 1.0 };
        Self {
            before,
            after: scale / before,
        }
    }
}

/// `scale / cap`: factor of the logits in a softcap's hyperbolic tangent, kept within f32, because infinity
/// times a logit of 0 would be NaN.
pub(crate) fn bend_of(scale: f64, cap: f64) -> f64 {
    (scale / cap).min(f32::MAX.into())
}

/// Options of the loss, checked and resolved against the shape of the logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Dimension that holds the classes.
    pub class_dim: usize,
    /// Index targets that are ignored.
    pub ignore_indices: Arc<[i64]>,
    /// Share of every target that is spread evenly over the classes, the target among them.
    pub label_smoothing: f64,
    /// Whether that share is spread over the classes of a row that are not masked.
    pub smooths_valid: bool,
    /// Meaning of the values of the input tensor.
    pub values: InputValues,
    /// Meaning of the numbers of target distributions.
    pub targets: TargetValues,
    /// What to compute of each row.
    pub value: RowValue,
    /// Factor of the squared log-sum-exp.
    pub z_loss: f64,
    /// Factor of a row's loss by the probability of its target.
    pub row_factor: RowFactor,
    /// Value of an empty mean.
    pub empty: EmptyReduction,
    /// Order of equal scores.
    pub ties: Ties,
}

impl Default for Options {
    /// Defaults of [`CrossEntropyLossConfig`](crate::CrossEntropyLossConfig), for logits with the classes in
    /// dimension 1.
    fn default() -> Self {
        Self {
            class_dim: 1,
            ignore_indices: [-100].as_slice().into(),
            label_smoothing: 0.0,
            smooths_valid: false,
            values: InputValues::Logits {
                scale: 1.0,
                softcap: None,
            },
            targets: TargetValues::Shares,
            value: RowValue::Loss,
            z_loss: 0.0,
            row_factor: RowFactor::None,
            empty: EmptyReduction::Nan,
            ties: Ties::ByClass,
        }
    }
}

impl Options {
    /// Factor of the differences of scores. A softcap has applied the scale to the scores.
    pub(crate) fn scale_of_scores(&self) -> f64 {
        match self.values {
            InputValues::Logits {
                scale,
                softcap: None,
            } => scale,
            _ => 1.0,
        }
    }
}

impl Options {
    /// Value of a masked class, where it has no share of the label smoothing.
    pub(crate) fn masked(&self) -> Option<f64> {
        let masked = match self.values {
            InputValues::Logits { .. } => f64::NEG_INFINITY,
            InputValues::Probabilities => 0.0,
        };
        (self.smooths_valid && self.label_smoothing != 0.0).then_some(masked)
    }
}

#[cfg(feature = "cube")]
impl Options {
    /// Whether classes besides an index target have a share of the loss.
    pub(crate) fn is_spread(&self, distributions: bool) -> bool {
        distributions || self.label_smoothing != 0.0
    }

    /// Outputs that a kernel has to compute: an entropy in place of the loss is made as the output of that name.
    pub(crate) fn computed_outputs(&self, wanted: Outputs) -> Outputs {
        match self.value {
            RowValue::Entropy => Outputs::RowsAndEntropy,
            RowValue::Loss | RowValue::LogSumExp | RowValue::PairSigmoid => wanted,
        }
    }

    /// Part of the label smoothing that each of so many classes gets; all of it where rows divide it by their number
    /// of valid classes.
    pub(crate) fn even(&self, classes: usize) -> f64 {
        match self.masked() {
            None => self.label_smoothing / classes as f64,
            Some(_) => self.label_smoothing,
        }
    }

    /// Count of numbers per row that the fused kernels keep for the backward: the maximum and the others,
    /// and where shares are spread, the sums of the shares at the maximum and elsewhere; at the end the two
    /// numbers of a row factor, if there is one. For an entropy its own value follows.
    pub(crate) fn statistics_per_row(&self, distributions: bool) -> usize {
        let sums = if self.is_spread(distributions) { 4 } else { 2 };
        let of_value = usize::from(self.value == RowValue::Entropy);
        sums + if self.row_factor.is_some() { 2 } else { 0 } + of_value
    }
}

/// Wanted results of a forward besides the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Outputs of each row.
    pub outputs: Outputs,
    /// Gradients of the backward; without any no backward follows.
    pub gradients: WantedGradients,
}

impl Wanted {
    /// The same outputs without gradients: no backward follows.
    pub(crate) fn without_gradients(self) -> Self {
        Self {
            gradients: WantedGradients::default(),
            ..self
        }
    }

    /// Wants gradients and no outputs.
    pub fn gradients(gradients: WantedGradients) -> Self {
        Self {
            outputs: Outputs::None,
            gradients,
        }
    }
}

/// Outputs of each row besides its loss, see [`RowOutputs`](super::RowOutputs).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Outputs {
    /// No outputs.
    #[default]
    None,
    /// All outputs but the entropy.
    Rows,
    /// All outputs.
    RowsAndEntropy,
}

impl Outputs {
    /// Count of float numbers per row.
    pub(crate) fn numbers(self) -> usize {
        match self {
            Self::None => 0,
            Self::Rows => 3,
            Self::RowsAndEntropy => 4,
        }
    }

    /// Count of classes and ranks per row.
    pub(crate) fn classes(self) -> usize {
        match self {
            Self::None => 0,
            Self::Rows | Self::RowsAndEntropy => 3,
        }
    }
}

/// Tensors that need a gradient. The tensors of a projection replace the logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WantedGradients {
    /// Gradient of the logits (or probabilities).
    pub logits: bool,
    /// Gradient of the target distributions.
    pub targets: bool,
    /// Gradient of a projection's hidden states.
    pub hidden: bool,
    /// Gradient of a projection's weight.
    pub weight: bool,
    /// Gradient of a projection's bias.
    pub bias: bool,
    /// Gradient of the leading logits beside a projection.
    pub leading: bool,
}

impl WantedGradients {
    /// Gradient of the logits only.
    pub const LOGITS: Self = Self {
        logits: true,
        targets: false,
        hidden: false,
        weight: false,
        bias: false,
        leading: false,
    };

    /// Whether a backward follows.
    pub fn any(self) -> bool {
        self.of_logits() || self.targets
    }

    /// Whether the gradient of the logits is needed, for itself or for the tensors of a projection.
    pub fn of_logits(self) -> bool {
        self.logits || self.hidden || self.weight || self.bias || self.leading
    }

    /// Gradients to compute over the logits of a projection.
    pub(crate) fn over_logits(self) -> Self {
        Self {
            logits: self.of_logits(),
            targets: self.targets,
            ..Self::default()
        }
    }

    /// Adds the gradient of a tensor. Teachers, ids, weights of classes and rows, and divisors have no gradient.
    pub(crate) fn insert(&mut self, role: Role) {
        match role {
            Role::Logits => self.logits = true,
            Role::Targets => self.targets = true,
            Role::Hidden => self.hidden = true,
            Role::Weight => self.weight = true,
            Role::Bias => self.bias = true,
            Role::Leading => self.leading = true,
            Role::Teacher
            | Role::Ids
            | Role::Bound
            | Role::ClassWeights
            | Role::RowWeights
            | Role::Divisors => {}
        }
    }
}
