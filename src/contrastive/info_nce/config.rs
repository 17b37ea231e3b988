//! Options of the contrastive loss.

use burn::config::Config;
use burn::module::Content;
use burn::nn::loss::Reduction;

use crate::contrastive::error::ContrastiveError;
use crate::dispatch::CrossEntropyBackend;
use crate::loss::{Chunk, CrossEntropyLoss, CrossEntropyLossConfig};

/// Choice of the rows of a batch that are the negatives of a row, see [`InfoNceLoss::forward_in_batch`](crate::InfoNceLoss::forward_in_batch).
#[derive(Config, Copy, Debug, PartialEq, Eq)]
pub enum InBatch {
    /// A row of the first view has all other rows of the second as negatives. The loss of MoCo v3, with the
    /// queries `q1` and `q2` of two views and the keys `k1` and `k2` of the momentum encoder, is
    /// `2 t (loss(q1, k2) + loss(q2, k1))`.
    OneSided,
    /// The mean of [`OneSided`](Self::OneSided) and of the same with the views exchanged, as in CLIP.
    Symmetric,
    /// NT-Xent of SimCLR: a row of either view has all other rows of both views as negatives.
    NtXent,
}

/// Configuration of [`InfoNceLoss`](crate::InfoNceLoss).
///
/// ```
/// use burn::tensor::Device;
/// use burn_cross_entropy::contrastive::InBatch;
/// use burn_cross_entropy::InfoNceLossConfig;
///
/// let simclr = InfoNceLossConfig::new()
///     .with_temperature(0.5)
///     .with_in_batch(InBatch::NtXent)
///     .init(&Device::flex());
/// let clip = InfoNceLossConfig::new().with_learnable(true).init(&Device::flex());
/// assert!((clip.temperature() - 0.07).abs() < 1e-6);
/// ```
#[derive(Config, Debug)]
pub struct InfoNceLossConfig {
    /// Divisor of the similarities: positive and finite. A learnable temperature starts with this value.
    /// Default: 0.07, from MoCo and CLIP.
    #[config(default = 0.07)]
    pub temperature: f64,
    /// Whether the temperature is learnt: the logarithm of one over the temperature is then a parameter.
    /// Default: `false`.
    #[config(default = false)]
    pub learnable: bool,
    /// Largest factor of the similarities, one over the temperature, of a learnable temperature. Default:
    /// 100, from CLIP.
    #[config(default = 100.0)]
    pub max_scale: f64,
    /// Whether features are brought to length 1, queries, positives and negatives alike. Default: `true`.
    #[config(default = true)]
    pub normalize: bool,
    /// Choice of the negatives in [`InfoNceLoss::forward_in_batch`](crate::InfoNceLoss::forward_in_batch). Default: [`InBatch::Symmetric`].
    #[config(default = "InBatch::Symmetric")]
    pub in_batch: InBatch,
    /// Way from the losses of the rows to the result: `Mean` (or `Auto`, the same), or `Sum`. Default:
    /// `Mean`.
    #[config(default = "Reduction::Mean")]
    pub reduction: Reduction,
    /// Number of bytes that similarities may take at one time, see
    /// [`LinearCrossEntropyLossConfig::chunk_bytes`](crate::LinearCrossEntropyLossConfig::chunk_bytes).
    /// Default: 64 MiB.
    #[config(default = "64 << 20")]
    pub chunk_bytes: usize,
}

impl Default for InfoNceLossConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// Options in the form that a call needs.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) temperature: f64,
    pub(super) max_scale: f64,
    pub(super) normalize: bool,
    pub(super) in_batch: InBatch,
    pub(super) chunk: Chunk,
    reduction: Reduction,
}

impl Settings {
    /// Makes the loss over the similarities.
    pub(super) fn loss<B: CrossEntropyBackend>(&self) -> CrossEntropyLoss<B> {
        let config = CrossEntropyLossConfig::new().with_reduction(self.reduction.clone());
        // A learnt factor of the similarities begins with this one.
        let magnitude = match self.normalize {
            true => 1.0 / self.temperature,
            false => 0.0,
        };
        CrossEntropyLoss::of_similarities(&config, magnitude)
    }

    pub(super) fn display(&self, content: Content) -> Option<Content> {
        content
            .add("temperature", &self.temperature)
            .add("max_scale", &self.max_scale)
            .add("normalize", &self.normalize)
            .add("in_batch", &format!("{:?}", self.in_batch))
            .add("reduction", &format!("{:?}", self.reduction))
            .add("chunk", &format!("{:?}", self.chunk))
            .optional()
    }
}

impl InfoNceLossConfig {
    /// The first value that is out of its range, as an error.
    pub(super) fn check(&self) -> Result<(), ContrastiveError> {
        check_positive("temperature", self.temperature)?;
        check_positive("max_scale", self.max_scale)?;
        if matches!(self.reduction, Reduction::BatchMean) {
            return Err(invalid(
                "reduction",
                format!("{:?}", self.reduction),
                "Mean, Auto or Sum",
            ));
        }
        if self.learnable && 1.0 / self.temperature > self.max_scale {
            return Err(invalid(
                "temperature",
                self.temperature.to_string(),
                "at least one over `max_scale`, where it is learnable",
            ));
        }
        Ok(())
    }

    pub(super) fn settings(&self) -> Settings {
        Settings {
            temperature: self.temperature,
            max_scale: self.max_scale,
            normalize: self.normalize,
            in_batch: self.in_batch,
            chunk: Chunk::Bytes(self.chunk_bytes),
            reduction: self.reduction.clone(),
        }
    }
}

pub(super) fn check_positive(field: &'static str, value: f64) -> Result<(), ContrastiveError> {
    // The arithmetic is in f32, except for features of f64.
    let (value_in_f32, inverse) = (value as f32, (1.0 / value) as f32);
    match value_in_f32.is_finite() && value_in_f32 > 0.0 && inverse.is_finite() {
        true => Ok(()),
        false => Err(invalid(field, value.to_string(), "positive and finite")),
    }
}

fn invalid(field: &'static str, value: String, expected: &'static str) -> ContrastiveError {
    ContrastiveError::InvalidConfig {
        part: "contrastive loss",
        field,
        value,
        expected,
    }
}
