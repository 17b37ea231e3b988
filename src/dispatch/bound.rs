//! Calls on a backend that is bound at compile time. Burn's own conversions convert the tensors.

use std::any::type_name;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{
    AutodiffBackend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchKindConversion,
    DispatchTensor, TensorMetadata,
};
use burn::tensor::{Device, GradientCheckpointingStrategy};

use super::fallback::without_autodiff;
use crate::backend::CrossEntropyOperation;
use crate::error::CrossEntropyError;
use crate::operation::{Change, Forward, Inputs, Logits, Options, Role, Saved, Wanted};

/// Runs the operation on `B`. `strategy` is the checkpointing strategy of an autodiff backend.
pub(super) fn run<B>(
    strategy: Option<GradientCheckpointingStrategy>,
    logits: Logits<Dispatch>,
    inputs: Inputs<Dispatch>,
    options: Options,
    wanted: Wanted,
) -> Result<Forward<Dispatch>, CrossEntropyError>
where
    B: CrossEntropyOperation,
    DispatchTensor: DispatchKindConversion<B>,
{
    let mut entrance = Entrance {
        strategy,
        autodiff: DispatchAutodiffContext::Disabled,
    };
    let logits = logits.change::<B, _>(&mut entrance)?;
    let inputs = inputs.change::<B, _>(&mut entrance)?;
    let forward = B::cross_entropy(logits, inputs, options, wanted);
    let autodiff = entrance.autodiff;
    Ok(Forward {
        loss: dispatched::<B>(forward.loss, autodiff),
        saved: Saved::Nothing,
        outputs: forward.outputs.map(
            |numbers| dispatched::<B>(numbers, autodiff),
            dispatched_int::<B>,
        ),
    })
}

/// Checks that `B` takes the tensor.
pub(super) fn check<B>(
    strategy: Option<GradientCheckpointingStrategy>,
    tensor: &DispatchTensor,
    role: Role,
) -> Result<(), CrossEntropyError>
where
    B: CrossEntropyOperation,
    DispatchTensor: DispatchKindConversion<B>,
{
    let mut entrance = Entrance {
        strategy,
        autodiff: DispatchAutodiffContext::Disabled,
    };
    let tensor = tensor.clone();
    match tensor.dtype().is_float() {
        true => Change::<Dispatch, B>::float(&mut entrance, tensor, role).map(|_| ()),
        false => Change::<Dispatch, B>::int(&mut entrance, tensor, role).map(|_| ()),
    }
}

/// Converts tensors to those of a backend.
///
/// For an autodiff backend a tensor without autodiff becomes a constant, so that one loss serves training
/// and validation. A tensor of another checkpointing strategy is taken as it is: the state of the node
/// does not depend on the strategy.
struct Entrance {
    /// Checkpointing strategy of the backend, if it is an autodiff backend.
    strategy: Option<GradientCheckpointingStrategy>,
    /// Autodiff setting of all tensors so far.
    autodiff: DispatchAutodiffContext,
}

impl Entrance {
    fn convert<B>(
        &self,
        tensor: DispatchTensor,
        role: Role,
    ) -> Result<BackendTensor<B>, CrossEntropyError>
    where
        B: CrossEntropyOperation,
        DispatchTensor: DispatchKindConversion<B>,
    {
        let device = Device::new(tensor.device());
        let tensor = match self.strategy {
            None => tensor,
            Some(strategy) => DispatchTensor {
                autodiff: DispatchAutodiffContext::Enabled(strategy),
                ..tensor
            },
        };
        DispatchTensor::try_into_backend(tensor).map_err(|_| CrossEntropyError::WrongBackend {
            bound: without_paths(type_name::<B>()),
            tensor: role.name(),
            device: device.into(),
        })
    }
}

impl<B> Change<Dispatch, B> for Entrance
where
    B: CrossEntropyOperation,
    DispatchTensor: DispatchKindConversion<B>,
{
    type Error = CrossEntropyError;

    fn float(
        &mut self,
        tensor: DispatchTensor,
        role: Role,
    ) -> Result<FloatTensor<B>, CrossEntropyError> {
        self.autodiff = self.autodiff.merge(tensor.autodiff);
        let is_plain = matches!(tensor.autodiff, DispatchAutodiffContext::Disabled);
        let tensor = match is_plain && self.strategy.is_some() {
            true => Dispatch::from_inner(tensor),
            false => tensor,
        };
        match self.convert::<B>(tensor, role)? {
            BackendTensor::Float(tensor) => Ok(tensor),
            _ => unreachable!("the kind of the tensor was checked"),
        }
    }

    fn int(
        &mut self,
        tensor: DispatchTensor,
        role: Role,
    ) -> Result<IntTensor<B>, CrossEntropyError> {
        match self.convert::<B>(tensor, role)? {
            BackendTensor::Int(tensor) => Ok(tensor),
            _ => unreachable!("the kind of the tensor was checked"),
        }
    }
}

/// Converts a tensor of `B` to a runtime-dispatched tensor with the autodiff setting of the inputs.
fn dispatched<B>(tensor: FloatTensor<B>, autodiff: DispatchAutodiffContext) -> DispatchTensor
where
    B: CrossEntropyOperation,
    DispatchTensor: DispatchKindConversion<B>,
{
    let tensor = DispatchTensor::from_backend(BackendTensor::<B>::Float(tensor));
    match autodiff {
        DispatchAutodiffContext::Disabled => without_autodiff(tensor),
        DispatchAutodiffContext::Enabled(_) => DispatchTensor { autodiff, ..tensor },
    }
}

/// Converts an integer tensor of `B` to a runtime-dispatched tensor.
fn dispatched_int<B>(tensor: IntTensor<B>) -> DispatchTensor
where
    B: CrossEntropyOperation,
    DispatchTensor: DispatchKindConversion<B>,
{
    DispatchTensor {
        autodiff: DispatchAutodiffContext::Disabled,
        ..DispatchTensor::from_backend(BackendTensor::<B>::Int(tensor))
    }
}

/// Name of a type without the paths of its modules.
fn without_paths(type_name: &str) -> String {
    type_name
        .split_inclusive(['<', '>', ',', ' '])
        .map(|part| part.rsplit("::").next().unwrap_or(part))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_name_loses_its_paths_and_keeps_its_parameters() {
        assert_eq!(without_paths("a::b::C<d::E, f::g::H>"), "C<E, H>");
        assert_eq!(without_paths("a::Plain"), "Plain");
    }
}
