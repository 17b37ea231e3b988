//! A call on a backend that is bound at compile time. Tensors go in and out by Burn's own conversion.

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

/// Runs the operation on `B`; `strategy` is that of an autodiff backend.
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

/// Whether `B` takes the tensor.
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

/// Takes tensors to a backend.
///
/// To an autodiff backend a tensor without autodiff comes as a constant, so that one loss serves training
/// and validation, and a tensor of another checkpointing strategy as it is: what the node keeps does not
/// depend on the strategy.
struct Entrance {
    /// The strategy of the backend, where it is an autodiff backend.
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

/// A tensor of `B` as a runtime-dispatched one, with the autodiff setting that the inputs had.
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

/// An integer tensor of `B` as a runtime-dispatched one.
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

/// A type's name without the modules it lies in.
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
