//! Options of the loss, and the check of the values.

use std::fmt::Debug;
use std::sync::Arc;

use burn::config::Config;
use burn::nn::loss::Reduction;

use crate::error::CrossEntropyError;
use crate::operation::{
    EmptyReduction, InputValues, Options, RowFactor, RowValue, SmoothingOver, TargetValues, Ties,
};

/// Configuration of [`CrossEntropyLoss`](crate::CrossEntropyLoss).
///
/// | Option | Meaning | Default |
/// |---|---|---|
/// | [`weight`](Self::weight) | rescaling weight of each class | none |
/// | [`ignore_indices`](Self::ignore_indices) | index targets that are ignored | `[-100]` |
/// | [`label_smoothing`](Self::label_smoothing) | share of the target spread over all classes | 0 |
/// | [`smoothing_over`](Self::smoothing_over) | classes that it is spread over: all, the others, those not masked | all |
/// | [`reduction`](Self::reduction) | `Mean`, `Sum` or `BatchMean` | `Mean` |
/// | [`logits`](Self::logits) | `false`: the input holds probabilities | `true` |
/// | [`class_dim`](Self::class_dim) | the dimension of the classes | 1 (0 for rank 1) |
/// | [`logit_scale`](Self::logit_scale) | multiplies the logits first | 1 |
/// | [`logit_softcap`](Self::logit_softcap) | `cap * tanh(x / cap)` after the scale | none |
/// | [`z_loss`](Self::z_loss) | adds `z_loss * lse^2` | 0 |
/// | [`row_factor`](Self::row_factor) | focal loss, Poly-1, the target's own probability | none |
/// | [`empty`](Self::empty) | value of an empty mean: `Nan` or `Zero` | `Nan` |
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
    /// Index targets that are ignored: in the loss, in its gradient, and in the divisor of the mean. Any
    /// values, negative or not, also valid classes. Default: `[-100]`.
    #[config(default = "vec![-100]")]
    pub ignore_indices: Vec<i64>,
    /// Share `e` of every target that is spread evenly over the `C` classes, in `[0, 1]`:
    /// `q = (1 - e) p + e / C`, the definition of [Szegedy et al.](https://arxiv.org/abs/1512.00567) and PyTorch.
    /// Default: 0.
    ///
    /// `smoothing_over` has other definitions.
    #[config(default = 0.0)]
    pub label_smoothing: f64,
    /// Classes that the label smoothing is spread over: all of them, all but the target, or those that are not
    /// masked. Default: [`SmoothingOver::Classes`].
    #[config(default = "SmoothingOver::Classes")]
    pub smoothing_over: SmoothingOver,
    /// Way from the losses of the rows to one number. `Auto` is `Mean`. Default: `Mean`.
    ///
    /// - `Mean`: the sum divided by the total weight, see
    ///   [`total_weight`](crate::CrossEntropyLoss::total_weight)
    /// - `Sum`: the sum
    /// - `BatchMean`: the sum divided by the number of samples: the size of dimension 0, or of dimension 1
    ///   where dimension 0 holds the classes (1 for logits of rank 1)
    #[config(default = "Reduction::Mean")]
    pub reduction: Reduction,
    /// Whether the input holds logits. With `false` it holds probabilities `s`, whose loss is
    /// `-ln s[target]`. Default: `true`.
    ///
    /// `logit_scale`, `logit_softcap` and `z_loss` are for logits only.
    #[config(default = true)]
    pub logits: bool,
    /// The dimension of the input that holds the classes; negative counts from the end. Default: 1,
    /// which for logits of rank 1 means 0.
    #[config(default = 1)]
    pub class_dim: isize,
    /// Factor of the logits, applied first: one over the temperature. Finite, above 0. Default: 1.
    #[config(default = 1.0)]
    pub logit_scale: f64,
    /// Bound of the scaled logits, which are bent to `cap * tanh(x / cap)`. Infinite logits are masks, not numbers:
    /// they stay. Finite, above 0. Default: off.
    pub logit_softcap: Option<f64>,
    /// Factor of `lse^2`, which is added to every counted row and keeps the logits from drifting
    /// ([PaLM](https://arxiv.org/abs/2204.02311), section 5). Under `Mean` it is averaged over the counted rows,
    /// whatever their classes weigh. Finite, at least 0. Default: 0.
    #[config(default = 0.0)]
    pub z_loss: f64,
    /// Factor of a row's loss by the probability of its index target, as in the focal loss. Default:
    /// [`RowFactor::None`].
    #[config(default = "RowFactor::None")]
    pub row_factor: RowFactor,
    /// Value of a mean over no counted row, or over a total weight of 0. Default: [`EmptyReduction::Nan`].
    #[config(default = "EmptyReduction::Nan")]
    pub empty: EmptyReduction,
}

impl Default for CrossEntropyLossConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl CrossEntropyLossConfig {
    /// Checks the values; the first value out of its range is the error.
    pub(super) fn check(&self) -> Result<(), CrossEntropyError> {
        // The arithmetic is in f32, except for logits of f64.
        let finite_and_at_least_0 = |value: f32| value.is_finite() && value >= 0.0;
        let finite_and_above_0 = |value: f64| (value as f32).is_finite() && value as f32 > 0.0;
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
            "a finite number above 0 that f32 holds (one over the temperature)",
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
            self.z_loss >= 0.0 && finite_and_at_least_0(self.z_loss as f32),
            "z_loss",
            self.z_loss,
            "a finite number of at least 0",
        )?;
        self.check_row_factor()?;
        match self.logits {
            true => Ok(()),
            false => self.check_for_probabilities(),
        }
    }

    fn check_row_factor(&self) -> Result<(), CrossEntropyError> {
        let is_finite = |number: f64| (number as f32).is_finite();
        let is_fit = match self.row_factor {
            RowFactor::None | RowFactor::TargetProbability => true,
            RowFactor::Focal { gamma } => gamma >= 0.0 && is_finite(gamma),
            RowFactor::Poly { epsilon } => epsilon >= -1.0 && is_finite(epsilon),
        };
        demand(
            is_fit,
            "row_factor",
            self.row_factor,
            "a finite `gamma` of at least 0, or a finite `epsilon` of at least -1",
        )
    }

    /// The first option that only logits can have, as an error.
    fn check_for_probabilities(&self) -> Result<(), CrossEntropyError> {
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
            !self.row_factor.is_some(),
            "row_factor",
            self.row_factor,
            "None where `logits` is false: only the losses of logits have factors",
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

/// Options of a configuration in the form that a call needs.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(super) ignore_indices: Arc<[i64]>,
    pub(super) label_smoothing: f64,
    pub(super) smoothing_over: SmoothingOver,
    pub(super) reduction: Reduction,
    pub(super) values: InputValues,
    pub(super) class_dim: isize,
    pub(super) z_loss: f64,
    pub(super) row_factor: RowFactor,
    pub(super) empty: EmptyReduction,
    /// Order of equal scores, which a contrastive loss sets.
    pub(super) ties: Ties,
    /// Meaning of the numbers of distributions.
    pub(super) targets: TargetValues,
    /// What to compute of each row.
    pub(super) value: RowValue,
}

impl Settings {
    pub(crate) fn new(config: &CrossEntropyLossConfig) -> Self {
        Self {
            ignore_indices: config.ignore_indices.as_slice().into(),
            label_smoothing: config.label_smoothing,
            smoothing_over: config.smoothing_over,
            reduction: config.reduction.clone(),
            values: if config.logits {
                InputValues::Logits {
                    scale: config.logit_scale,
                    softcap: config.logit_softcap,
                }
            } else {
                InputValues::Probabilities
            },
            class_dim: config.class_dim,
            z_loss: config.z_loss,
            row_factor: match config.row_factor {
                RowFactor::Focal { gamma: 0.0 } => RowFactor::None,
                factor => factor,
            },
            empty: config.empty,
            ties: Ties::ByClass,
            targets: TargetValues::Shares,
            value: RowValue::Loss,
        }
    }

    /// Options of a call over so many classes.
    pub(super) fn options(
        &self,
        class_dim: usize,
        classes: usize,
    ) -> Result<Options, CrossEntropyError> {
        Ok(Options {
            label_smoothing: self.smoothing_among(classes)?,
            ..self.options_without_smoothing(class_dim)
        })
    }

    fn options_without_smoothing(&self, class_dim: usize) -> Options {
        Options {
            class_dim,
            ignore_indices: self.ignore_indices.clone(),
            label_smoothing: 0.0,
            smooths_valid: self.smoothing_over == SmoothingOver::ValidClasses,
            values: self.values,
            targets: self.targets,
            value: self.value,
            z_loss: self.z_loss,
            row_factor: self.row_factor,
            empty: self.empty,
            ties: self.ties,
        }
    }

    /// Factor of the differences of scores.
    pub(super) fn scale_of_scores(&self) -> f64 {
        self.options_without_smoothing(0).scale_of_scores()
    }

    /// Share of a target that all classes get, the target among them.
    pub(super) fn smoothing_among(&self, classes: usize) -> Result<f64, CrossEntropyError> {
        let smoothing = self.label_smoothing;
        if self.smoothing_over != SmoothingOver::OtherClasses {
            return Ok(smoothing);
        }
        if classes <= 1 {
            return Ok(0.0);
        }
        let others = classes as f64 - 1.0;
        let among_all = smoothing * classes as f64 / others;
        // The largest that is allowed, `others / classes`, has been rounded.
        match (among_all - 1.0) / f64::EPSILON {
            ..-4.0 => Ok(among_all),
            ..=4.0 => Ok(1.0),
            _ => Err(CrossEntropyError::SmoothingOverOthers { smoothing, classes }),
        }
    }

    /// Settings for values of rows that need no target.
    pub(super) fn of_value(&self, value: RowValue) -> Self {
        Self {
            value,
            ignore_indices: [].into(),
            ..self.of_log_prob()
        }
    }

    /// Settings of a loss whose logits are divided by a temperature, and whose distributions are logits of a teacher.
    pub(super) fn at_temperature(&self, temperature: f64) -> Self {
        let over_temperature = 1.0 / temperature;
        Self {
            values: match self.values {
                InputValues::Logits { scale, softcap } => InputValues::Logits {
                    scale: scale * over_temperature,
                    // Capped logits are divided: `cap tanh(x / cap) / T`.
                    softcap: softcap.map(|cap| cap * over_temperature),
                },
                InputValues::Probabilities => InputValues::Probabilities,
            },
            targets: TargetValues::Logits {
                scale: over_temperature,
            },
            ..self.clone()
        }
    }

    /// Settings for the entropy of a teacher's distributions.
    pub(super) fn of_teacher_entropy(&self, temperature: f64) -> Self {
        Self {
            values: InputValues::Logits {
                scale: 1.0 / temperature,
                softcap: None,
            },
            ..self.of_value(RowValue::Entropy)
        }
    }

    /// Settings for log-probabilities, without label smoothing, z-loss and factor.
    pub(super) fn of_log_prob(&self) -> Self {
        Self {
            label_smoothing: 0.0,
            z_loss: 0.0,
            row_factor: RowFactor::None,
            ..self.clone()
        }
    }
}
