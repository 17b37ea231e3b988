//! The results of a call: the loss, what the backward needs, outputs of rows, gradients.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType};
use burn::tensor::DType;

use super::Role;
use super::logits::{Logits, MaybeFloat};

/// The result of a forward.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub struct Forward<B: Backend> {
    /// The loss, in the shape of [`Inputs::loss_shape`](super::Inputs::loss_shape).
    pub loss: FloatTensor<B>,
    /// What the backward needs.
    #[extension_type]
    pub saved: Saved<B>,
    /// The outputs that [`Wanted::outputs`](super::Wanted::outputs) asks for.
    #[extension_type]
    pub outputs: RowOutputs<B>,
}

/// What the backward needs from the forward besides inputs and options.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum Saved<B: Backend> {
    /// Nothing: no gradient is wanted.
    Nothing,
    /// The logits as they came in, and a few numbers per row.
    Statistics {
        /// The logits as they came in.
        logits: FloatTensor<B>,
        /// The largest value of each row, then the row's sum of `exp(x - maximum)` without the
        /// maximum's own 1, then what else the implementation wants to know of a row; shape
        /// `[numbers, rows]`. `p[c]` is `exp(x[c] - maximum) / (1 + others)`: by way of the
        /// log-sum-exp it would inherit the rounding of numbers as large as the logits.
        statistics: FloatTensor<B>,
        /// Divisor of the losses and divisor of the z-losses, shape `[2]`; without a meaning where the
        /// losses were not added up.
        divisors: FloatTensor<B>,
    },
    /// The logits, or what they are made of, as they came in: the backward starts from there.
    Logits(#[extension_type] Logits<B>),
    /// The gradients for an upstream gradient of 1, which only need multiplying.
    Gradients {
        /// Gradients, where the logits are projected maybe in a wider dtype than their tensors.
        #[extension_type]
        gradients: Gradients<B>,
        /// Dtype of the tensors, the targets aside.
        dtype: DType,
    },
}

/// Outputs of the rows besides their losses.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum RowOutputs<B: Backend> {
    /// No outputs were asked for.
    Nothing,
    /// One column per row.
    PerRow {
        /// The log-sum-exp (0 of probabilities), the log-probability of the target, and where it is
        /// asked for the entropy; shape `[numbers, rows]`, in the dtype of the loss. The second is 0
        /// where the row is ignored, NaN where its target is not a class.
        numbers: FloatTensor<B>,
        /// The class of the largest logit (of several the first; NaN is below all numbers), and how
        /// many classes stand before that of the target in this order; shape `[2, rows]`, i32. The
        /// second is -1 where the row does not count. The target of a distribution is its largest
        /// class.
        classes: IntTensor<B>,
        /// The divisors of a mean: the weight of the rows that count and their number; shape `[2]`, in
        /// the dtype of the loss.
        divisors: FloatTensor<B>,
    },
}

impl<B: Backend> RowOutputs<B> {
    /// Outputs with every tensor changed: `floats` the numbers, `ints` the classes.
    pub(crate) fn map<C: Backend>(
        self,
        floats: impl Fn(FloatTensor<B>) -> FloatTensor<C>,
        ints: impl FnOnce(IntTensor<B>) -> IntTensor<C>,
    ) -> RowOutputs<C> {
        match self {
            Self::Nothing => RowOutputs::Nothing,
            Self::PerRow {
                numbers,
                classes,
                divisors,
            } => RowOutputs::PerRow {
                numbers: floats(numbers),
                classes: ints(classes),
                divisors: floats(divisors),
            },
        }
    }
}

/// The gradients that were asked for, each in the shape and dtype of its tensor.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub struct Gradients<B: Backend> {
    /// Gradient of the logits (or probabilities).
    #[extension_type]
    pub logits: MaybeFloat<B>,
    /// Gradient of the target distributions.
    #[extension_type]
    pub targets: MaybeFloat<B>,
    /// Gradient of a projection's hidden states `[rows, features]`.
    #[extension_type]
    pub hidden: MaybeFloat<B>,
    /// Gradient of a projection's weight `[features, columns]`.
    #[extension_type]
    pub weight: MaybeFloat<B>,
    /// Gradient of a projection's bias `[columns]`.
    #[extension_type]
    pub bias: MaybeFloat<B>,
    /// Gradient of the positive logits `[rows]`.
    #[extension_type]
    pub positive: MaybeFloat<B>,
}

impl<B: Backend> Default for Gradients<B> {
    /// No gradient.
    fn default() -> Self {
        Self {
            logits: MaybeFloat::None,
            targets: MaybeFloat::None,
            hidden: MaybeFloat::None,
            weight: MaybeFloat::None,
            bias: MaybeFloat::None,
            positive: MaybeFloat::None,
        }
    }
}

impl<B: Backend> Gradients<B> {
    /// The gradients of logits and target distributions.
    pub(crate) fn of_loss(logits: Option<FloatTensor<B>>, targets: Option<FloatTensor<B>>) -> Self {
        Self {
            logits: logits.into(),
            targets: targets.into(),
            ..Self::default()
        }
    }

    /// Every gradient that there is, changed.
    pub(crate) fn map(self, change: impl Fn(FloatTensor<B>, Role) -> FloatTensor<B>) -> Self {
        let change = |gradient: MaybeFloat<B>, role| {
            let changed = gradient
                .into_option()
                .map(|gradient| change(gradient, role));
            MaybeFloat::from(changed)
        };
        Self {
            logits: change(self.logits, Role::Logits),
            targets: change(self.targets, Role::Targets),
            hidden: change(self.hidden, Role::Hidden),
            weight: change(self.weight, Role::Weight),
            bias: change(self.bias, Role::Bias),
            positive: change(self.positive, Role::Positive),
        }
    }

    /// The gradient of a tensor, taken out.
    pub(crate) fn take(&mut self, role: Role) -> Option<FloatTensor<B>> {
        match role {
            Role::Logits => self.logits.take(),
            Role::Targets => self.targets.take(),
            Role::Hidden => self.hidden.take(),
            Role::Weight => self.weight.take(),
            Role::Bias => self.bias.take(),
            Role::Positive => self.positive.take(),
            Role::Ids | Role::ClassWeights | Role::Divisors => None,
        }
    }
}
