//! Options of the contrastive loss.

use burn::config::Config;
use burn::module::Content;
use burn::nn::loss::Reduction;

use crate::contrastive::error::{ContrastiveError, check_positive, invalid};
use crate::dispatch::CrossEntropyBackend;
use crate::loss::{Chunk, CrossEntropyLoss, CrossEntropyLossConfig};

/// Choice of the rows of a batch that are the negatives of a row, for
/// [`InfoNceLoss::forward_in_batch`](crate::InfoNceLoss::forward_in_batch).
///
/// Sources: Chen, Xie and He (MoCo v3), <https://arxiv.org/abs/2104.02057>; Radford et al. (CLIP),
/// <https://arxiv.org/abs/2103.00020>; Chen et al. (SimCLR), <https://arxiv.org/abs/2002.05709>.
#[derive(Config, Copy, Debug, PartialEq, Eq)]
pub enum InBatch {
    /// A row of the first view has all other rows of the second as negatives: `N - 1` in views of `N` rows.
    ///
    /// The loss of MoCo v3, with the queries `q1` and `q2` of two views and the keys `k1` and `k2` of the momentum
    /// encoder, is `2 t (loss(q1, k2) + loss(q2, k1))`.
    OneSided,
    /// The mean of [`OneSided`](Self::OneSided) and of the same with the views exchanged, as in CLIP.
    Symmetric,
    /// NT-Xent of SimCLR: a row of either view has all other rows of both views as negatives, `2 N - 2`.
    NtXent,
}

/// Way from the several positives of a row to its loss.
///
/// With `x` the logits of the keys that a row is compared with, and `P` the positives among these, the loss of the row is
///
/// ```text
/// Out   -1/|P| sum_{p in P} ( x[p] - lse(x) )
/// In    -( ln( 1/|P| sum_{p in P} exp(x[p]) ) - lse(x) )
/// ```
///
/// With one positive they are the same. `Out` wants every positive alike, `In` is content with one that is. `In` takes
/// twice the products, since it is no cross-entropy, and needs positives by label.
///
/// Source: Khosla et al., "Supervised Contrastive Learning", 2020, <https://arxiv.org/abs/2004.11362>, equations 2 and 3.
#[derive(Config, Copy, Debug, PartialEq, Eq)]
pub enum SupCon {
    /// The mean of the positives' losses, outside of the logarithm.
    Out,
    /// The loss of the positives' mean, inside of the logarithm.
    In,
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
    /// Divisor of the similarities: positive and finite. A learnable temperature starts with this value, within its
    /// bounds. Default: 0.07, from MoCo and CLIP.
    #[config(default = 0.07)]
    pub temperature: f64,
    /// Whether the temperature is learnt: the logarithm of one over the temperature is then a parameter.
    /// Default: `false`.
    #[config(default = false)]
    pub learnable: bool,
    /// Largest factor of the similarities, one over the temperature, where that is learnt: positive and finite.
    /// Default: 100, from CLIP.
    #[config(default = 100.0)]
    pub max_scale: f64,
    /// Smallest factor of the similarities where the temperature is learnt, at most `max_scale`; 0 for none. Where keys
    /// cannot be told apart yet, an optimizer may drive the factor down until nothing is learnt any more; CLIP keeps it
    /// at 1 or more. Default: 0.
    #[config(default = 0.0)]
    pub min_scale: f64,
    /// Number that is subtracted from the similarity of the positive, before the temperature: a positive has to be more
    /// similar than the negatives by that much. 0 or more, finite; for forms of one positive only. Default: 0.
    ///
    /// Source: Wang et al., "CosFace", 2018, <https://arxiv.org/abs/1801.09414>.
    #[config(default = 0.0)]
    pub margin: f64,
    /// Bound for negatives: one that is more similar than the positive plus this number (without the margin) is left
    /// out, since it is likely a positive that has no label. May be negative; for forms of one positive only.
    /// Default: `None`.
    ///
    /// Sources: Solatorio, "GISTEmbed", 2024, <https://arxiv.org/abs/2402.16829>, and Moreira et al., "NV-Retriever",
    /// 2024, <https://arxiv.org/abs/2407.15831>, with the encoder itself as the guide.
    #[config(default = "None")]
    pub exclude_above: Option<f64>,
    /// Way from several positives to a row's loss, in the forms whose rows may have several. Default: [`SupCon::Out`].
    #[config(default = "SupCon::Out")]
    pub sup_con: SupCon,
    /// Whether features are brought to length 1, queries, positives and negatives alike. Default: `true`.
    #[config(default = true)]
    pub normalize: bool,
    /// Choice of the negatives in [`InfoNceLoss::forward_in_batch`](crate::InfoNceLoss::forward_in_batch).
    /// Default: [`InBatch::Symmetric`].
    #[config(default = "InBatch::Symmetric")]
    pub in_batch: InBatch,
    /// Way from the losses of the rows to the result: `Mean` (or `Auto`, the same), or `Sum`. Default:
    /// `Mean`.
    #[config(default = "Reduction::Mean")]
    pub reduction: Reduction,
    /// Number of bytes that similarities may take at one time, see
    /// [`LinearCrossEntropyLossConfig::chunk_bytes`](crate::LinearCrossEntropyLossConfig::chunk_bytes).
    /// Default: `None`, by the device.
    pub chunk_bytes: Option<usize>,
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
    pub(super) min_scale: f64,
    pub(super) margin: f64,
    pub(super) exclude_above: Option<f64>,
    pub(super) sup_con: SupCon,
    pub(super) normalize: bool,
    pub(super) in_batch: InBatch,
    pub(super) chunk: Chunk,
    pub(super) reduction: Reduction,
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
            .add("min_scale", &self.min_scale)
            .add("margin", &self.margin)
            .add("exclude_above", &format!("{:?}", self.exclude_above))
            .add("sup_con", &format!("{:?}", self.sup_con))
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
        let min_scale = self.min_scale;
        if !(0.0..=self.max_scale).contains(&min_scale) {
            let expected = "a number in 0..=`max_scale`";
            return Err(invalid("min_scale", min_scale.to_string(), expected));
        }
        if !(self.margin >= 0.0 && (self.margin as f32).is_finite()) {
            let margin = self.margin.to_string();
            return Err(invalid("margin", margin, "0 or a positive, finite number"));
        }
        if let Some(above) = self.exclude_above
            && !(above as f32).is_finite()
        {
            return Err(invalid(
                "exclude_above",
                above.to_string(),
                "a finite number",
            ));
        }
        if matches!(self.reduction, Reduction::BatchMean) {
            return Err(invalid(
                "reduction",
                format!("{:?}", self.reduction),
                "Mean, Auto or Sum",
            ));
        }
        let scale = 1.0 / self.temperature;
        if self.learnable && !(self.min_scale..=self.max_scale).contains(&scale) {
            return Err(invalid(
                "temperature",
                self.temperature.to_string(),
                "at least one over `max_scale` and at most one over `min_scale`, where it is learnable",
            ));
        }
        Ok(())
    }

    pub(super) fn settings(&self) -> Settings {
        Settings {
            temperature: self.temperature,
            max_scale: self.max_scale,
            min_scale: self.min_scale,
            margin: self.margin,
            exclude_above: self.exclude_above,
            sup_con: self.sup_con,
            normalize: self.normalize,
            in_batch: self.in_batch,
            chunk: Chunk::of_bytes(self.chunk_bytes),
            reduction: self.reduction.clone(),
        }
    }
}
