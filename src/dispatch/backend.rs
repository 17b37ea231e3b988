//! Backends that a loss can be bound to.

use burn::backend::{Dispatch, DispatchTensor, DispatchTensorKind};

use super::{bound, fallback};
use crate::backend::CrossEntropyOperation;
use crate::error::CrossEntropyError;
use crate::operation::{Forward, Inputs, Logits, Options, Role, Wanted};

/// Backend that a [`CrossEntropyLoss`](crate::CrossEntropyLoss) can be bound to.
///
/// `Dispatch`, the default of the loss, finds the backend in the device of the tensors. Flex, NdArray and
/// every CubeCL runtime (each behind the feature of its name), and `Autodiff` of each of them, with and
/// without gradient checkpointing, are bound at compile time: the loss calls their implementation
/// statically, and refuses the tensors of other backends.
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
pub trait CrossEntropyBackend: CrossEntropyOperation {
    /// Runs the operation on this backend, or, for `Dispatch`, on the backend of the tensors.
    #[doc(hidden)]
    fn run(
        logits: Logits<Dispatch>,
        inputs: Inputs<Dispatch>,
        options: Options,
        wanted: Wanted,
    ) -> Result<Forward<Dispatch>, CrossEntropyError>;

    /// Checks that this backend takes the tensor.
    #[doc(hidden)]
    fn check(tensor: &DispatchTensor, role: Role) -> Result<(), CrossEntropyError>;
}

impl CrossEntropyBackend for Dispatch {
    fn run(
        logits: Logits<Dispatch>,
        inputs: Inputs<Dispatch>,
        options: Options,
        wanted: Wanted,
    ) -> Result<Forward<Dispatch>, CrossEntropyError> {
        Ok(match has_implementation(&logits.tensor().kind) {
            true => Dispatch::cross_entropy(logits, inputs, options, wanted),
            false => fallback::cross_entropy(logits, inputs, &options, wanted),
        })
    }

    fn check(_tensor: &DispatchTensor, _role: Role) -> Result<(), CrossEntropyError> {
        Ok(())
    }
}

/// Implements the trait for a backend, and for autodiff around it.
macro_rules! bound_backend {
    ($backend:ident) => {
        bound_backend!(burn::backend::$backend, None);
        bound_backend!(
            burn_autodiff::Autodiff<burn::backend::$backend>,
            Some(burn::tensor::GradientCheckpointingStrategy::Disabled)
        );
        bound_backend!(
            burn_autodiff::Autodiff<
                burn::backend::$backend,
                burn_autodiff::checkpoint::strategy::BalancedCheckpointing,
            >,
            Some(burn::tensor::GradientCheckpointingStrategy::Balanced)
        );
    };
    ($backend:ty, $strategy:expr) => {
        impl CrossEntropyBackend for $backend {
            fn run(
                logits: Logits<Dispatch>,
                inputs: Inputs<Dispatch>,
                options: Options,
                wanted: Wanted,
            ) -> Result<Forward<Dispatch>, CrossEntropyError> {
                bound::run::<Self>($strategy, logits, inputs, options, wanted)
            }

            fn check(tensor: &DispatchTensor, role: Role) -> Result<(), CrossEntropyError> {
                bound::check::<Self>($strategy, tensor, role)
            }
        }
    };
}

#[cfg(feature = "flex")]
bound_backend!(Flex);
#[cfg(feature = "ndarray")]
bound_backend!(NdArray);
#[cfg(feature = "cube")]
bound_backend!(Cube);

/// Whether the tensor's backend implements the operation in this build.
fn has_implementation(kind: &DispatchTensorKind) -> bool {
    match kind {
        #[cfg(feature = "flex")]
        DispatchTensorKind::Flex(_) => true,
        #[cfg(feature = "ndarray")]
        DispatchTensorKind::NdArray(_) => true,
        #[cfg(feature = "cube")]
        DispatchTensorKind::Cube(_) => true,
        DispatchTensorKind::Autodiff(inner) => has_implementation(inner),
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

// Checks that the alias that users bind a loss to is one of the backends above.
#[cfg(feature = "wgpu")]
const _: () = {
    const fn is_implemented<B: CrossEntropyBackend>() {}
    is_implemented::<burn_wgpu::Wgpu>();
};

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    #[test]
    fn flex_has_an_implementation_with_and_without_autodiff() {
        for device in [Device::flex(), Device::flex().autodiff()] {
            let tensor = Tensor::<1>::zeros([1], &device).into_dispatch();
            assert!(has_implementation(&tensor.kind));
        }
    }
}
