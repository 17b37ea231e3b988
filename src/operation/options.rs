//! The options of the loss, resolved against the shape of the logits, and what a call asks for.

use std::sync::Arc;

use burn::config::Config;

use super::Role;

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

/// The options of the loss, checked and resolved against the shape of the logits.
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
    /// The mean over nothing.
    pub empty: EmptyReduction,
}

impl Default for Options {
    /// The defaults of [`CrossEntropyLossConfig`](crate::CrossEntropyLossConfig), for logits with the
    /// classes in dimension 1.
    fn default() -> Self {
        Self {
            class_dim: 1,
            ignore_indices: [-100].as_slice().into(),
            label_smoothing: 0.0,
            values: InputValues::Logits {
                scale: 1.0,
                softcap: None,
            },
            z_loss: 0.0,
            empty: EmptyReduction::Nan,
        }
    }
}

#[cfg(feature = "cube")]
impl Options {
    /// Whether classes besides an index target have a share of the loss.
    pub(crate) fn is_spread(&self, distributions: bool) -> bool {
        distributions || self.label_smoothing != 0.0
    }

    /// Numbers of each row that the fused kernels keep for the backward: the maximum and the others,
    /// and where the shares are spread their sum at the maximum and elsewhere.
    pub(crate) fn statistics_per_row(&self, distributions: bool) -> usize {
        if self.is_spread(distributions) { 4 } else { 2 }
    }
}

/// Results that a forward is asked for besides the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Outputs of each row.
    pub outputs: Outputs,
    /// Gradients that a backward will ask for; without any no backward follows.
    pub gradients: WantedGradients,
}

impl Wanted {
    /// Gradients alone.
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
    /// All but the entropy.
    Rows,
    /// All.
    RowsAndEntropy,
}

impl Outputs {
    /// Float numbers of each row.
    pub(crate) fn numbers(self) -> usize {
        match self {
            Self::None => 0,
            Self::Rows => 2,
            Self::RowsAndEntropy => 3,
        }
    }
}

/// Tensors that a gradient is wanted for. Those of a projection are wanted instead of the logits'.
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
    /// Gradient of the positive logits beside a projection.
    pub positive: bool,
}

impl WantedGradients {
    /// The logits alone.
    pub const LOGITS: Self = Self {
        logits: true,
        targets: false,
        hidden: false,
        weight: false,
        bias: false,
        positive: false,
    };

    /// Whether a backward follows.
    pub fn any(self) -> bool {
        self.of_logits() || self.targets
    }

    /// Whether a gradient of the logits is needed, itself or for what made them.
    pub fn of_logits(self) -> bool {
        self.logits || self.hidden || self.weight || self.bias || self.positive
    }

    /// The gradients of a projection's logits.
    pub(crate) fn over_logits(self) -> Self {
        Self {
            logits: self.of_logits(),
            targets: self.targets,
            ..Self::default()
        }
    }

    /// Asks for the gradient of a tensor. Ids, class weights and divisors have none.
    pub(crate) fn insert(&mut self, role: Role) {
        match role {
            Role::Logits => self.logits = true,
            Role::Targets => self.targets = true,
            Role::Hidden => self.hidden = true,
            Role::Weight => self.weight = true,
            Role::Bias => self.bias = true,
            Role::Positive => self.positive = true,
            Role::Ids | Role::ClassWeights | Role::Divisors => {}
        }
    }
}
