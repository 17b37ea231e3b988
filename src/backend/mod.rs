//! One file per backend: where the operation meets Burn's tensors. No maths.

// Burn deprecates NdArray; to serve it its name must be said, here and in what the macros write.
#![cfg_attr(feature = "ndarray", allow(deprecated))]
// In a build without a backend of this crate everything goes the portable path.
#![cfg_attr(
    not(any(feature = "flex", feature = "ndarray", feature = "cube")),
    allow(unused)
)]

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};

use crate::operation::linear::{
    LinearForward, LinearGradients, LinearOptions, LinearSaved, Projection,
};
use crate::operation::{Forward, Gradients, Inputs, Options, Saved};
use crate::reference;

mod autodiff;
mod chunks;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod host;
#[cfg(feature = "ndarray")]
mod ndarray;
mod portable;
pub(crate) mod routing;

#[cfg(feature = "cube")]
use crate::operation::metadata;

/// A backend that computes the cross-entropy as one operation, forward and backward.
///
/// Implemented for Flex, NdArray and every CubeCL runtime (each behind the feature of its name), for
/// `Autodiff` of each of them with the closed-form gradient, for Burn's fusion, and for
/// [`Dispatch`](burn::backend::Dispatch), which finds the backend in the tensor's device.
///
/// The loss calls [`cross_entropy`](Self::cross_entropy), its gradient node
/// [`cross_entropy_backward`](Self::cross_entropy_backward). The portable implementation of
/// [`mod@reference`] is the body of both; Flex, NdArray and CubeCL's backend have kernels of their
/// own.
///
/// ```
/// use burn::backend::Flex;
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_cross_entropy::{CrossEntropyBackend, CrossEntropyLossConfig};
///
/// // As the bound of a function that trains on one backend, chosen where it is called.
/// fn loss_of_zeros<B: CrossEntropyBackend>(device: &Device) -> f32 {
///     let loss = CrossEntropyLossConfig::new().init_for::<B>(device);
///     let logits = Tensor::<2>::zeros([1, 4], device);
///     loss.forward(logits, Tensor::<1, Int>::zeros([1], device)).into_scalar()
/// }
/// assert!((loss_of_zeros::<Flex>(&Device::flex()) - 4f32.ln()).abs() < 1e-6);
/// ```
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
pub trait CrossEntropyBackend: Backend {
    /// The loss of `logits`, and what else the options ask for.
    #[fusion(meta = metadata::cross_entropy)]
    fn cross_entropy(
        logits: FloatTensor<Self>,
        #[extension_type] inputs: Inputs<Self>,
        options: Options,
    ) -> Forward<Self> {
        reference::cross_entropy::<Self>(logits, inputs, &options)
    }

    /// The gradients for an upstream gradient in the shape of the loss.
    #[fusion(meta = metadata::cross_entropy_backward)]
    fn cross_entropy_backward(
        #[extension_type] saved: Saved<Self>,
        #[extension_type] inputs: Inputs<Self>,
        upstream: FloatTensor<Self>,
        options: Options,
    ) -> Gradients<Self> {
        reference::cross_entropy_backward::<Self>(saved, inputs, upstream, &options)
    }

    /// The loss of logits that a projection makes, see [`operation::linear`](crate::operation::linear).
    #[fusion(meta = metadata::linear_cross_entropy)]
    fn linear_cross_entropy(
        #[extension_type] projection: Projection<Self>,
        #[extension_type] inputs: Inputs<Self>,
        options: LinearOptions,
    ) -> LinearForward<Self> {
        chunks::forward::<Self, chunks::Own>(projection, inputs, &options)
    }

    /// The gradients of what [`linear_cross_entropy`](Self::linear_cross_entropy) was given, for an
    /// upstream gradient in the shape of its loss.
    #[fusion(meta = metadata::linear_cross_entropy_backward)]
    fn linear_cross_entropy_backward(
        #[extension_type] saved: LinearSaved<Self>,
        #[extension_type] inputs: Inputs<Self>,
        upstream: FloatTensor<Self>,
        options: LinearOptions,
    ) -> LinearGradients<Self> {
        chunks::backward::<Self, chunks::Own>(saved, inputs, upstream, &options)
    }
}
