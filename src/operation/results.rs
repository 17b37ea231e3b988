//! Results of a call: the loss, saved tensors for the backward, outputs of rows, gradients.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType};
use burn::tensor::DType;

use super::Role;
use super::logits::{Logits, MaybeFloat};

/// Result of a forward.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub struct Forward<B: Backend> {
    /// Loss, in the shape of [`Inputs::loss_shape`](super::Inputs::loss_shape).
    pub loss: FloatTensor<B>,
    /// Saved tensors for the backward.
    #[extension_type]
    pub saved: Saved<B>,
    /// Outputs that [`Wanted::outputs`](super::Wanted::outputs) asks for.
    #[extension_type]
    pub outputs: RowOutputs<B>,
}

/// Saved tensors, which the backward needs from the forward besides inputs and options.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum Saved<B: Backend> {
    /// Nothing, because no gradient is wanted.
    Nothing,
    /// The logits as they came in, and a few numbers per row.
    Statistics {
        /// The logits as they came in; on CubeCL their gradient in some calls, as the statistics tell there.
        logits: FloatTensor<B>,
        /// The largest value of each row, then the row's others: the sum of `exp(x - maximum)`
        /// without the 1 of the maximum, then further numbers of the implementation; shape
        /// `[numbers, rows]`. `p[c]` is `exp(x[c] - maximum) / (1 + others)`: computed from the
        /// log-sum-exp, it would have the rounding error of numbers as large as the logits.
        statistics: FloatTensor<B>,
        /// Divisor of the losses and divisor of the z-losses, shape `[2]`; arbitrary numbers without
        /// a reduction.
        divisors: FloatTensor<B>,
    },
    /// The logits or the projection, as they came in: the backward starts from them.
    Logits(#[extension_type] Logits<B>),
    /// The gradients for a known upstream gradient; the backward only multiplies them.
    Gradients {
        /// Gradients; those of a projection may have a wider dtype than the tensors of the projection.
        #[extension_type]
        gradients: Gradients<B>,
        /// Dtype of the tensors of the call, except the targets.
        dtype: DType,
        /// The upstream gradient: 1, except where the smallest numbers of f16 are too large for the gradient.
        upstream: f64,
    },
}

/// Outputs of the rows besides their losses.
#[derive(Clone, Debug, ExtensionType)]
#[extension_type(fusion: cfg(feature = "cube"))]
pub enum RowOutputs<B: Backend> {
    /// No outputs are wanted.
    Nothing,
    /// One column per row.
    PerRow {
        /// The log-sum-exp (0 over probabilities), the log-probability of the target, the largest
        /// log-probability, and the entropy where it is wanted; shape `[numbers, rows]`, in the dtype of
        /// the loss. The log-probability of the target is 0 where the row is ignored, NaN where its target
        /// is not a class.
        numbers: FloatTensor<B>,
        /// The class of the largest logit (of several the first; NaN is below all numbers), the number
        /// of classes before the target in this order, and the class of the target; shape `[3, rows]`,
        /// i32. The latter two are -1 where the row does not count. The target of a distribution is its
        /// largest class.
        classes: IntTensor<B>,
        /// The divisors of a mean: the weight of the counted rows and the number of counted rows;
        /// shape `[2]`, in the dtype of the loss.
        divisors: FloatTensor<B>,
    },
}

impl<B: Backend> RowOutputs<B> {
    /// Changes every tensor of the outputs: `floats` changes the numbers, `ints` the classes.
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

/// Wanted gradients, each in the shape and dtype of its tensor.
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
    /// Gradient of the leading logits `[rows, n]`.
    #[extension_type]
    pub leading: MaybeFloat<B>,
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
            leading: MaybeFloat::None,
        }
    }
}

impl<B: Backend> Gradients<B> {
    /// Gradients of logits and target distributions.
    pub(crate) fn of_loss(logits: Option<FloatTensor<B>>, targets: Option<FloatTensor<B>>) -> Self {
        Self {
            logits: logits.into(),
            targets: targets.into(),
            ..Self::default()
        }
    }

    /// Changes every gradient that is present.
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
            leading: change(self.leading, Role::Leading),
        }
    }

    /// Takes out the gradient of a tensor.
    pub(crate) fn take(&mut self, role: Role) -> Option<FloatTensor<B>> {
        match role {
            Role::Logits => self.logits.take(),
            Role::Targets => self.targets.take(),
            Role::Hidden => self.hidden.take(),
            Role::Weight => self.weight.take(),
            Role::Bias => self.bias.take(),
            Role::Leading => self.leading.take(),
            Role::Teacher
            | Role::Ids
            | Role::Bound
            | Role::ClassWeights
            | Role::RowWeights
            | Role::Divisors => None,
        }
    }
}
