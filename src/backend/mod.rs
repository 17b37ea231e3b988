//! One file per backend: where the operation meets Burn's tensors. Layout, dtype, allocation; no maths.

// Burn deprecates NdArray; to serve it its name must be said, here and in what the macros write.
#![cfg_attr(feature = "ndarray", allow(deprecated))]
// In a build without a backend of this crate everything goes the portable path.
#![cfg_attr(
    not(any(feature = "flex", feature = "ndarray", feature = "cube")),
    allow(unused)
)]

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};

use crate::operation::{
    Forward, Gradients, Inputs, Logits, Options, Saved, Wanted, WantedGradients,
};

mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(any(feature = "flex", feature = "ndarray"))]
pub(crate) mod host;
#[cfg(feature = "ndarray")]
mod ndarray;

#[cfg(feature = "cube")]
use crate::operation::metadata;

/// The cross-entropy as one operation of a backend, forward and backward.
///
/// Flex, NdArray and CubeCL's backend (each behind the feature of its name) implement it with kernels of
/// this crate, `Autodiff` of each of them with the closed-form gradient. Burn's macro writes the
/// implementations for fusion and for [`Dispatch`](burn::backend::Dispatch), which finds the backend in
/// the tensor's device.
///
/// Shapes, dtypes and option values are checked by [`CrossEntropyLoss`](crate::CrossEntropyLoss)
/// before it calls; the methods rely on it.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Autodiff,
    Fusion: cfg(feature = "cube")
)]
pub trait CrossEntropyOperation: Backend {
    /// The loss of `logits`, and what else is wanted.
    #[fusion(meta = metadata::cross_entropy)]
    fn cross_entropy(
        #[extension_type] logits: Logits<Self>,
        #[extension_type] inputs: Inputs<Self>,
        options: Options,
        wanted: Wanted,
    ) -> Forward<Self>;

    /// The gradients for an upstream gradient in the shape of the loss.
    #[fusion(meta = metadata::cross_entropy_backward)]
    fn cross_entropy_backward(
        #[extension_type] saved: Saved<Self>,
        #[extension_type] inputs: Inputs<Self>,
        upstream: FloatTensor<Self>,
        options: Options,
        wanted: WantedGradients,
    ) -> Gradients<Self>;
}
