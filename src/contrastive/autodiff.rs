//! Conversion of tensors back to an autodiff setting.

use burn::tensor::kind::Autodiff;
use burn::tensor::{GradientCheckpointingStrategy, Tensor};

/// Converts a tensor to autodiff with the given checkpointing strategy, or to no autodiff.
pub(super) fn in_autodiff<const D: usize, K: Autodiff>(
    tensor: Tensor<D, K>,
    strategy: Option<GradientCheckpointingStrategy>,
) -> Tensor<D, K> {
    match strategy {
        None => tensor,
        Some(strategy) => tensor
            .autodiff()
            .with_gradient_checkpointing_strategy(strategy),
    }
}
