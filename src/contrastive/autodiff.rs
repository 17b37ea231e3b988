//! Tensors brought back into the autodiff that they were in.

use burn::tensor::kind::Autodiff;
use burn::tensor::{GradientCheckpointingStrategy, Tensor};

/// With autodiff of that strategy of checkpointing, or without.
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
