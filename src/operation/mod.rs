//! Arguments and results of one call of the cross-entropy operation.
//!
//! | File | Subject |
//! |---|---|
//! | `logits` | the logits: a tensor, or a projection |
//! | `inputs` | targets, weights of classes and rows, reduction |
//! | `options`, `factor` | the options of the loss; the wanted results |
//! | `results` | loss, saved tensors, outputs of rows, gradients |
//! | `geometry` | the shape of the logits as rows and classes |
//! | `metadata` | shapes and dtypes of results that Burn's fusion computes later |
//! | `shard` | a call over a part of the classes |
//!
//! The loss makes these types from the user's tensors; backends and the portable path read them. They
//! hold tensors, shapes and numbers, but do not compute.

// A call moves these enums a few times, and a box would be an allocation. The attribute is here, so that
// it also applies to the code of the derive macros.
#![allow(clippy::large_enum_variant)]

mod factor;
mod geometry;
mod inputs;
mod logits;
#[cfg(feature = "cube")]
pub(crate) mod metadata;
mod options;
mod results;
pub(crate) mod shard;

pub use factor::RowFactor;
pub use geometry::{Geometry, accumulation_dtype, row_shape};
pub use inputs::{Inputs, RowReduction, Targets};
pub(crate) use logits::{Change, has_gradient_in_f16};
pub use logits::{Excluded, Ids, Logits, MaybeFloat, MaybeInt, Projection};
pub use options::{
    EmptyReduction, InputValues, Options, Outputs, RowValue, SmoothingOver, TargetValues, Ties,
    Wanted, WantedGradients,
};
pub(crate) use options::{ScaleSteps, Slack, bend_of};
pub use results::{Forward, Gradients, RowOutputs, Saved};

#[cfg(feature = "cube")]
pub(crate) use {
    inputs::{InputsMetadata, RowReductionMetadata, TargetsMetadata},
    logits::{LogitsMetadata, MaybeFloatMetadata, ProjectionMetadata},
    results::{ForwardMetadata, GradientsMetadata, RowOutputsMetadata, SavedMetadata},
};

#[cfg(all(test, feature = "wgpu"))]
pub(crate) use logits::{ExcludedMetadata, IdsMetadata, MaybeIntMetadata};

/// Role of a tensor in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The logits, or probabilities.
    Logits,
    /// Hidden states of a projection.
    Hidden,
    /// Weight of a projection.
    Weight,
    /// Bias of a projection.
    Bias,
    /// Logits of the first classes, beside the product of a projection.
    Leading,
    /// Sample ids of a contrastive loss.
    Ids,
    /// Largest similarities that a contrastive loss takes.
    Bound,
    /// Targets of all rows.
    Targets,
    /// Hidden states, weight or bias of a projection that makes a teacher's logits.
    Teacher,
    /// Rescaling weights of the classes.
    ClassWeights,
    /// Weights of the rows.
    RowWeights,
    /// Divisors of a normalised loss.
    Divisors,
}

impl Role {
    /// Name of the tensor in error messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Logits => "logits",
            Self::Hidden => "input",
            Self::Weight => "projection weight",
            Self::Bias => "bias",
            Self::Leading => "leading logits",
            Self::Ids => "sample ids",
            Self::Bound => "largest similarities",
            Self::Targets => "target",
            Self::Teacher => "teacher's projection",
            Self::ClassWeights => "class weight",
            Self::RowWeights => "row weight",
            Self::Divisors => "normalizer",
        }
    }
}
