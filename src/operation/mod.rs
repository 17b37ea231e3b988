//! What one call of the cross-entropy operation takes and gives.
//!
//! | File | Subject |
//! |---|---|
//! | `logits` | where logits come from: a tensor, or a projection |
//! | `inputs` | targets, class weights, reduction |
//! | `options` | the options of the loss; what a call asks for |
//! | `results` | loss, saved tensors, outputs of rows, gradients |
//! | `geometry` | the shape of the logits as rows and classes |
//! | `metadata` | shapes and dtypes of results that Burn's fusion computes later |
//! | `shard` | a call over a part of the classes |
//!
//! These types travel between the loss, which fills them in from the user's tensors, the backends
//! and the portable implementation. They hold tensors, shapes and numbers; no maths.

// A call moves these enums a few times; a box would be an allocation. The attribute stands here to cover
// what the derive macros write, too.
#![allow(clippy::large_enum_variant)]

mod geometry;
mod inputs;
mod logits;
#[cfg(feature = "cube")]
pub(crate) mod metadata;
mod options;
mod results;
pub(crate) mod shard;

pub use geometry::{Geometry, accumulation_dtype, row_shape};
pub use inputs::{Inputs, RowReduction, Targets};
pub(crate) use logits::{Change, has_gradient_in_f16};
pub use logits::{Excluded, Logits, MaybeFloat, Projection};
pub use options::{EmptyReduction, InputValues, Options, Outputs, Wanted, WantedGradients};
pub use results::{Forward, Gradients, RowOutputs, Saved};

#[cfg(feature = "cube")]
pub(crate) use {
    inputs::{InputsMetadata, RowReductionMetadata, TargetsMetadata},
    logits::{LogitsMetadata, MaybeFloatMetadata, ProjectionMetadata},
    results::{ForwardMetadata, GradientsMetadata, RowOutputsMetadata, SavedMetadata},
};

#[cfg(all(test, feature = "cube"))]
pub(crate) use logits::ExcludedMetadata;

/// Which tensor of a call a tensor is.
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
    /// Logit of class 0 beside the product of a projection.
    Positive,
    /// Sample ids of a contrastive loss.
    Ids,
    /// The target of every row.
    Targets,
    /// The rescaling weight of each class.
    ClassWeights,
    /// Divisors of a normalised loss.
    Divisors,
}

impl Role {
    /// The tensor as error messages call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Logits => "logits",
            Self::Hidden => "input",
            Self::Weight => "projection weight",
            Self::Bias => "bias",
            Self::Positive => "positive logits",
            Self::Ids => "sample ids",
            Self::Targets => "target",
            Self::ClassWeights => "class weight",
            Self::Divisors => "normalizer",
        }
    }
}
