//! Implementations of the operation over Burn's tensors, one file per backend. They handle layout, dtype
//! and allocation; the maths is in the kernels.

// Burn deprecates NdArray. Its implementation has to name it, here and in the code of the macros.
#![cfg_attr(feature = "ndarray", allow(deprecated))]
// A build without a backend feature uses the portable path only.
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

/// Cross-entropy as one operation of a backend, forward and backward.
///
/// Flex, NdArray and CubeCL's backend (each behind the feature of its name) implement it with kernels of
/// this crate, `Autodiff` of each of them with the closed-form gradient. Burn's macro writes the
/// implementations for fusion and for [`Dispatch`](burn::backend::Dispatch), which finds the backend in
/// the tensor's device.
///
/// [`CrossEntropyLoss`](crate::CrossEntropyLoss) checks shapes, dtypes and option values before a call.
/// The methods do not check them again.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Autodiff,
    Fusion: cfg(feature = "cube")
)]
pub trait CrossEntropyOperation: Backend {
    /// Computes the loss of `logits`, and the other wanted results.
    #[fusion(meta = metadata::cross_entropy)]
    fn cross_entropy(
        #[extension_type] logits: Logits<Self>,
        #[extension_type] inputs: Inputs<Self>,
        options: Options,
        wanted: Wanted,
    ) -> Forward<Self>;

    /// Computes the gradients for an upstream gradient in the shape of the loss.
    #[fusion(meta = metadata::cross_entropy_backward)]
    fn cross_entropy_backward(
        #[extension_type] saved: Saved<Self>,
        #[extension_type] inputs: Inputs<Self>,
        upstream: FloatTensor<Self>,
        options: Options,
        wanted: WantedGradients,
    ) -> Gradients<Self>;
}
