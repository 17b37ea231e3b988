//! The options of the loss, and the check of their values.

use std::fmt::Debug;

use burn::backend::Dispatch;
use burn::config::Config;
use burn::nn::loss::Reduction;
use burn::tensor::{Device, Tensor};

use super::cross_entropy::{CrossEntropyLoss, Settings};
use crate::backend::CrossEntropyBackend;
use crate::error::CrossEntropyError;
use crate::operation::EmptyReduction;

/// Configuration of [`CrossEntropyLoss`].
///
/// | Option | Meaning | Default |
/// |---|---|---|
/// | [`weight`](Self::weight) | rescaling weight of each class | none |
/// | [`ignore_indices`](Self::ignore_indices) | index targets that count for nothing | `[-100]` |
/// | [`label_smoothing`](Self::label_smoothing) | share of the target spread over all classes | 0 |
/// | [`reduction`](Self::reduction) | `Mean`, `Sum` or `BatchMean` | `Mean` |
/// | [`logits`](Self::logits) | `false`: the input holds probabilities | `true` |
/// | [`class_dim`](Self::class_dim) | the dimension of the classes | 1 (0 for rank 1) |
/// | [`logit_scale`](Self::logit_scale) | multiplies the logits first | 1 |
/// | [`logit_softcap`](Self::logit_softcap) | `cap * tanh(x / cap)` after the scale | none |
/// | [`z_loss`](Self::z_loss) | adds `z_loss * lse^2` | 0 |
/// | [`empty`](Self::empty) | the mean over nothing: `Nan` or `Zero` | `Nan` |
///
/// ```
/// use burn_cross_entropy::CrossEntropyLossConfig;
/// use burn::tensor::Device;
///
/// let loss = CrossEntropyLossConfig::new()
///     .with_label_smoothing(0.1)
///     .with_ignore_indices(vec![255])
///     .init(&Device::flex());
/// ```
#[derive(Config, Debug)]
pub struct CrossEntropyLossConfig {
    /// Rescaling weight of each class: finite, at least 0, one per class. Default: every class
    /// weighs 1.
    ///
    /// The mean divides by the sum of the weights of the targets, as PyTorch does.
    pub weight: Option<Vec<f32>>,
    /// Index targets that count for nothing: neither in the loss, nor in its gradient, nor in the
    /// mean's denominator. Any values, negative or not, also valid classes. Default: `[-100]`.
    #[config(default = "vec![-100]")]
    pub ignore_indices: Vec<i64>,
    /// Share `e` of every target that is spread evenly over the `C` classes, in `[0, 1]`:
    /// `q = (1 - e) p + e / C`, the definition of Szegedy et al. (2016) and PyTorch. Default: 0.
    #[config(default = 0.0)]
    pub label_smoothing: f32,
    /// How the losses of the rows become one number. `Auto` is `Mean`. Default: `Mean`.
    ///
    /// - `Mean`: the sum over the total weight, see [`CrossEntropyLoss::total_weight`]
    /// - `Sum`: the sum
    /// - `BatchMean`: the sum over the number of samples: the size of dimension 0, or of dimension 1
    ///   where dimension 0 holds the classes (1 for logits of rank 1)
    #[config(default = "Reduction::Mean")]
    pub reduction: Reduction,
    /// Whether the input holds logits; `false`: probabilities `s`, whose loss is `-ln s[target]`.
    /// Default: `true`.
    ///
    /// `logit_scale`, `logit_softcap` and `z_loss` are for logits only.
    #[config(default = true)]
    pub logits: bool,
    /// The dimension of the input that holds the classes; negative counts from the end. Default: 1,
    /// which for logits of rank 1 means 0.
    #[config(default = 1)]
    pub class_dim: isize,
    /// Multiplies the logits before anything else: one over the temperature. Finite, above 0.
    /// Default: 1.
    #[config(default = 1.0)]
    pub logit_scale: f32,
    /// Bends the scaled logits to `cap * tanh(x / cap)`. Finite, above 0. Default: off.
    pub logit_softcap: Option<f32>,
    /// Adds `z_loss * lse^2` to every counted row, which keeps the logits from drifting (PaLM,
    /// Chowdhery et al. 2022). Under `Mean` it is averaged over the counted rows, whatever they
    /// weigh. Finite, at least 0. Default: 0.
    #[config(default = 0.0)]
    pub z_loss: f32,
    /// What the mean over nothing is. Default: [`EmptyReduction::Nan`].
    #[config(default = "EmptyReduction::Nan")]
    pub empty: EmptyReduction,
}

impl Default for CrossEntropyLossConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl CrossEntropyLossConfig {
    /// The loss for tensors of every backend: the one in use is that of the tensors' device.
    ///
    /// The class weights are put on `device`, and from there follow each call's logits.
    ///
    /// # Panics
    ///
    /// If a value is out of its range; the text names the field and the value.
    pub fn init(&self, device: &Device) -> CrossEntropyLoss {
        self.init_for::<Dispatch>(device)
    }

    /// The loss bound to the backend `B` at compile time, such as `Autodiff<Flex>`; a tensor of
    /// another backend is an error.
    ///
    /// # Panics
    ///
    /// If a value is out of its range; the text names the field and the value.
    pub fn init_for<B: CrossEntropyBackend>(&self, device: &Device) -> CrossEntropyLoss<B> {
        self.try_init_for(device)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`init_for`](Self::init_for) that returns what is wrong with the configuration.
    ///
    /// # Errors
    ///
    /// [`CrossEntropyError::InvalidConfig`] for the first value that is out of its range.
    pub fn try_init_for<B: CrossEntropyBackend>(
        &self,
        device: &Device,
    ) -> Result<CrossEntropyLoss<B>, CrossEntropyError> {
        self.check()?;
        // A constant to the model's gradients, so it needs no place in a graph.
        let device = device.clone().without_autodiff();
        let weight = self.weight.as_ref().map(|weight| {
            Tensor::<1>::from_data(weight.as_slice(), (&device, burn::tensor::DType::F32))
        });
        Ok(CrossEntropyLoss::from_parts(weight, Settings::new(self)))
    }

    fn check(&self) -> Result<(), CrossEntropyError> {
        let finite_and_at_least_0 = |value: f32| value.is_finite() && value >= 0.0;
        let finite_and_above_0 = |value: f32| value.is_finite() && value > 0.0;
        if let Some(weight) = &self.weight
            && let Some((class, value)) = weight
                .iter()
                .enumerate()
                .find(|(_, value)| !finite_and_at_least_0(**value))
        {
            return Err(CrossEntropyError::InvalidConfig {
                field: "weight",
                value: format!("{value} for class {class}"),
                expected: "finite numbers of at least 0",
            });
        }
        demand(
            (0.0..=1.0).contains(&self.label_smoothing),
            "label_smoothing",
            self.label_smoothing,
            "a number in [0, 1]",
        )?;
        demand(
            finite_and_above_0(self.logit_scale),
            "logit_scale",
            self.logit_scale,
            "a finite number above 0 (one over the temperature)",
        )?;
        if let Some(cap) = self.logit_softcap {
            demand(
                finite_and_above_0(cap),
                "logit_softcap",
                cap,
                "a finite number above 0, or None",
            )?;
        }
        demand(
            finite_and_at_least_0(self.z_loss),
            "z_loss",
            self.z_loss,
            "a finite number of at least 0",
        )?;
        if self.logits {
            return Ok(());
        }
        demand(
            self.logit_scale == 1.0,
            "logit_scale",
            self.logit_scale,
            "1 where `logits` is false: probabilities are not scaled",
        )?;
        demand(
            self.logit_softcap.is_none(),
            "logit_softcap",
            self.logit_softcap,
            "None where `logits` is false: probabilities are not capped",
        )?;
        demand(
            self.z_loss == 0.0,
            "z_loss",
            self.z_loss,
            "0 where `logits` is false: probabilities have no log-sum-exp",
        )
    }
}

fn demand(
    holds: bool,
    field: &'static str,
    value: impl Debug,
    expected: &'static str,
) -> Result<(), CrossEntropyError> {
    if holds {
        return Ok(());
    }
    Err(CrossEntropyError::InvalidConfig {
        field,
        value: format!("{value:?}"),
        expected,
    })
}
