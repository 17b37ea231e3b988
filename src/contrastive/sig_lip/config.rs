//! Options of the sigmoid loss.

use burn::config::Config;
use burn::module::Content;
use burn::nn::loss::Reduction;

use crate::contrastive::error::{ContrastiveError, check_positive, invalid};
use crate::dispatch::CrossEntropyBackend;
use crate::loss::{Chunk, CrossEntropyLoss, CrossEntropyLossConfig};

/// Configuration of [`SigLipLoss`](super::SigLipLoss).
///
/// ```
/// use burn::tensor::Device;
/// use burn_cross_entropy::contrastive::SigLipLossConfig;
///
/// let loss = SigLipLossConfig::new().init(&Device::flex());
/// assert!((loss.scale() - 10.0).abs() < 1e-5 && loss.bias() == -10.0);
/// ```
#[derive(Config, Debug)]
pub struct SigLipLossConfig {
    /// Factor of the similarities: positive and finite. A learnable scale starts with this value. Default: 10.
    #[config(default = 10.0)]
    pub scale: f64,
    /// Number that is added to the scaled similarities: finite. A learnable bias starts with this value. Default: -10.
    #[config(default = "-10.0")]
    pub bias: f64,
    /// Whether scale and bias are learnt. Default: `true`.
    #[config(default = true)]
    pub learnable: bool,
    /// Whether features are brought to length 1, rows and keys alike. Default: `true`.
    #[config(default = true)]
    pub normalize: bool,
    /// Way from the losses of the rows to the result: `Mean` (or `Auto`, the same), or `Sum`. Default: `Mean`.
    #[config(default = "Reduction::Mean")]
    pub reduction: Reduction,
    /// Number of bytes that similarities may take at one time, see
    /// [`LinearCrossEntropyLossConfig::chunk_bytes`](crate::LinearCrossEntropyLossConfig::chunk_bytes).
    /// Default: `None`, by the device.
    pub chunk_bytes: Option<usize>,
}

impl Default for SigLipLossConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// Options in the form that a call needs.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) scale: f64,
    pub(super) bias: f64,
    pub(super) normalize: bool,
    pub(super) chunk: Chunk,
    reduction: Reduction,
}

impl Settings {
    /// Makes the loss over the similarities.
    pub(super) fn loss<B: CrossEntropyBackend>(&self) -> CrossEntropyLoss<B> {
        let config = CrossEntropyLossConfig::new().with_reduction(self.reduction.clone());
        CrossEntropyLoss::of_pairs(&config)
    }

    pub(super) fn display(&self, content: Content) -> Option<Content> {
        content
            .add("scale", &self.scale)
            .add("bias", &self.bias)
            .add("normalize", &self.normalize)
            .add("reduction", &format!("{:?}", self.reduction))
            .add("chunk", &format!("{:?}", self.chunk))
            .optional()
    }
}

impl SigLipLossConfig {
    /// The first value that is out of its range, as an error.
    pub(super) fn check(&self) -> Result<(), ContrastiveError> {
        check_positive("scale", self.scale)?;
        if !(self.bias as f32).is_finite() {
            return Err(invalid("bias", self.bias.to_string(), "a finite number"));
        }
        match self.reduction {
            Reduction::BatchMean => Err(invalid(
                "reduction",
                format!("{:?}", self.reduction),
                "Mean, Auto or Sum",
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn settings(&self) -> Settings {
        Settings {
            scale: self.scale,
            bias: self.bias,
            normalize: self.normalize,
            chunk: Chunk::of_bytes(self.chunk_bytes),
            reduction: self.reduction.clone(),
        }
    }
}
