//! From a runtime-dispatched tensor to the implementation that takes it, and back.

use std::any::{Any, TypeId, type_name};

#[cfg(feature = "cube")]
use burn::backend::DispatchDevice;
use burn::backend::ops::IntTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{
    AutodiffBackend, Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor,
    DispatchTensorKind, TensorMetadata,
};
use burn::tensor::{DType, Device, Shape};
use burn_autodiff::Autodiff;

use super::{CrossEntropyBackend, portable};
use crate::error::CrossEntropyError;
use crate::operation::linear::{
    Excluded, LinearForward, LinearOptions, LinearSaved, MaybeFloat, Projection,
};
use crate::operation::shard::ShardCall;
use crate::operation::{ClassWeights, Denominators, Forward, Inputs, Options, Saved, Targets};

/// Runs the operation on the backend `B`, or, for `Dispatch`, on the backend of the tensors.
pub(crate) fn cross_entropy<B: CrossEntropyBackend>(
    logits: DispatchTensor,
    inputs: Inputs<Dispatch>,
    options: Options,
) -> Result<Forward<Dispatch>, CrossEntropyError> {
    if TypeId::of::<B>() != TypeId::of::<Dispatch>() {
        return bound::<B>(logits, inputs, options);
    }
    Ok(if has_implementation(&logits.kind) {
        Dispatch::cross_entropy(logits, inputs, options)
    } else {
        portable::cross_entropy(logits, inputs, options)
    })
}

/// The backends under the names that Burn's tensors use for them.
mod backends {
    #[cfg(feature = "cube")]
    pub(super) use burn::backend::Cube;
    #[cfg(feature = "flex")]
    pub(super) use burn::backend::Flex;
    #[cfg(feature = "ndarray")]
    pub(super) use burn::backend::NdArray;
}

/// Calls a macro with the name of every backend that has an implementation in this build.
macro_rules! with_each_backend {
    ($callback:ident) => {
        #[cfg(feature = "flex")]
        $callback!(Flex);
        #[cfg(feature = "ndarray")]
        $callback!(NdArray);
        #[cfg(feature = "cube")]
        $callback!(Cube);
    };
}

/// Whether the tensor's backend implements [`CrossEntropyBackend`] in this build.
fn has_implementation(kind: &DispatchTensorKind) -> bool {
    macro_rules! matches_backend {
        ($backend:ident) => {
            if let DispatchTensorKind::$backend(_) = kind {
                return true;
            }
        };
    }
    with_each_backend!(matches_backend);
    match kind {
        DispatchTensorKind::Autodiff(inner) => has_implementation(inner),
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

/// The first index target that is neither a class nor ignored, its row and its value, where they lie
/// in the host's memory.
#[allow(clippy::needless_return)] // By feature.
pub(crate) fn first_bad_index(
    indices: &DispatchTensor,
    classes: usize,
    ignored: &[i64],
) -> HostCheck {
    macro_rules! of_backend {
        ($backend:ident) => {
            if let DispatchTensorKind::$backend(BackendTensor::Int(indices)) = &indices.kind {
                return HostCheck::Done(super::host::first_bad_index::<backends::$backend>(
                    indices.clone(),
                    classes,
                    ignored,
                ));
            }
        };
    }
    #[cfg(feature = "flex")]
    of_backend!(Flex);
    #[cfg(feature = "ndarray")]
    of_backend!(NdArray);
    HostCheck::Elsewhere
}

/// What a look at values in the host's memory says.
pub(crate) enum HostCheck {
    /// The first bad row, if any.
    Done(Option<(usize, i128)>),
    /// The values lie on a device.
    Elsewhere,
}

/// Whether the operation gives right numbers for float tensors of the dtype on the device.
pub(crate) fn computes(device: &Device, dtype: DType) -> bool {
    #[cfg(feature = "cube")]
    if dtype == DType::F64
        && let DispatchDevice::Cube(device) = device.clone().without_autodiff().as_dispatch()
        && !super::cube::computes_f64(device)
    {
        return false;
    }
    matches!(
        dtype,
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 | DType::Flex32
    ) && device.supports_dtype(dtype)
}

/// The bytes that the largest buffer of the device may have, where there is a bound.
pub(crate) fn largest_buffer(device: &Device) -> Option<usize> {
    #[cfg(feature = "cube")]
    if let DispatchDevice::Cube(device) = device.clone().without_autodiff().as_dispatch() {
        return Some(super::cube::largest_buffer(device));
    }
    let _ = device;
    None
}

/// Index targets of any rank in one dimension.
pub(crate) fn flatten_indices(indices: DispatchTensor, rows: usize) -> DispatchTensor {
    Dispatch::int_reshape(indices, Shape::new([rows]))
}

/// The operation on a backend that is known at compile time.
fn bound<B: CrossEntropyBackend>(
    logits: DispatchTensor,
    inputs: Inputs<Dispatch>,
    options: Options,
) -> Result<Forward<Dispatch>, CrossEntropyError> {
    let autodiff = autodiff_of(&inputs).merge(logits.autodiff);
    let logits = bound_float::<B>(logits, "logits")?;
    let inputs = bound_inputs::<B>(inputs)?;
    let Forward { loss, details, .. } = B::cross_entropy(logits, inputs, options);
    Ok(Forward {
        loss: dispatched::<B>(loss, autodiff),
        saved: Saved::Nothing,
        details: details.map(
            |numbers| dispatched::<B>(numbers, autodiff),
            dispatched_int::<B>,
        ),
    })
}

/// [`cross_entropy`] of logits that a projection makes.
pub(crate) fn linear_cross_entropy<B: CrossEntropyBackend>(
    projection: Projection<Dispatch>,
    inputs: Inputs<Dispatch>,
    options: LinearOptions,
) -> Result<LinearForward<Dispatch>, CrossEntropyError> {
    if TypeId::of::<B>() == TypeId::of::<Dispatch>() {
        return Ok(if has_implementation(&projection.input.kind) {
            Dispatch::linear_cross_entropy(projection, inputs, options)
        } else {
            portable::linear_cross_entropy(projection, inputs, options)
        });
    }
    let Projection {
        input,
        weight,
        bias,
        own,
        excluded,
    } = projection;
    let mut autodiff = autodiff_of(&inputs)
        .merge(input.autodiff)
        .merge(weight.autodiff);
    let mut given = |tensor: MaybeFloat<Dispatch>, name| match tensor {
        MaybeFloat::None => Ok(MaybeFloat::None),
        MaybeFloat::Some(tensor) => {
            autodiff = autodiff.merge(tensor.autodiff);
            bound_float::<B>(tensor, name).map(MaybeFloat::Some)
        }
    };
    let (bias, own) = (given(bias, "bias")?, given(own, "own logit")?);
    let projection = Projection {
        input: bound_float::<B>(input, "input")?,
        weight: bound_float::<B>(weight, "projection weight")?,
        bias,
        own,
        excluded: match excluded {
            Excluded::Nothing => Excluded::Nothing,
            Excluded::SameId { rows, columns } => Excluded::SameId {
                rows: bound_indices::<B>(rows)?,
                columns: bound_indices::<B>(columns)?,
            },
        },
    };
    let inputs = bound_inputs::<B>(inputs)?;
    let LinearForward { loss, details, .. } = B::linear_cross_entropy(projection, inputs, options);
    Ok(LinearForward {
        loss: dispatched::<B>(loss, autodiff),
        saved: LinearSaved::Nothing,
        details: details.map(
            |numbers| dispatched::<B>(numbers, autodiff),
            dispatched_int::<B>,
        ),
    })
}

/// What a shard of the classes contributes to its rows.
pub(crate) fn shard_statistics<B: CrossEntropyBackend>(
    logits: DispatchTensor,
    shard: &ShardCall<Dispatch>,
) -> Result<DispatchTensor, CrossEntropyError> {
    check_bound::<B>(&logits, &shard.inputs)?;
    Ok(portable::shard_statistics(logits, shard))
}

/// The loss of all classes, with the gradient of this shard's logits.
pub(crate) fn shard_loss<B: CrossEntropyBackend>(
    logits: DispatchTensor,
    statistics: DispatchTensor,
    shard: &ShardCall<Dispatch>,
) -> Result<DispatchTensor, CrossEntropyError> {
    check_bound::<B>(&logits, &shard.inputs)?;
    Ok(portable::shard_loss(logits, statistics, shard))
}

/// Whether the tensors are those of the backend that the loss is bound to.
fn check_bound<B: CrossEntropyBackend>(
    logits: &DispatchTensor,
    inputs: &Inputs<Dispatch>,
) -> Result<(), CrossEntropyError> {
    if TypeId::of::<B>() == TypeId::of::<Dispatch>() {
        return Ok(());
    }
    bound_float::<B>(logits.clone(), "logits")?;
    if let Targets::Indices(indices) = &inputs.targets {
        bound_indices::<B>(indices.clone())?;
    }
    Ok(())
}

/// The autodiff setting of the targets that have one.
fn autodiff_of(inputs: &Inputs<Dispatch>) -> DispatchAutodiffContext {
    match &inputs.targets {
        Targets::Indices(_) => DispatchAutodiffContext::Disabled,
        Targets::Distributions(targets) => targets.autodiff,
    }
}

fn bound_inputs<B: CrossEntropyBackend>(
    inputs: Inputs<Dispatch>,
) -> Result<Inputs<B>, CrossEntropyError> {
    Ok(Inputs {
        targets: match inputs.targets {
            Targets::Indices(indices) => Targets::Indices(bound_indices::<B>(indices)?),
            Targets::Distributions(targets) => {
                Targets::Distributions(bound_float::<B>(targets, "target")?)
            }
        },
        weights: match inputs.weights {
            ClassWeights::Equal => ClassWeights::Equal,
            ClassWeights::PerClass(weights) => {
                ClassWeights::PerClass(bound_float::<B>(weights, "class weight")?)
            }
        },
        normalizer: match inputs.normalizer {
            Denominators::OfRows => Denominators::OfRows,
            Denominators::Given(numbers) => {
                Denominators::Given(bound_float::<B>(numbers, "normalizer")?)
            }
        },
    })
}

/// The tensor as `B`'s own. Where `B` is an autodiff backend, a tensor without autodiff comes in as
/// a constant, so that one loss serves training and validation.
fn bound_float<B: Backend>(
    tensor: DispatchTensor,
    name: &'static str,
) -> Result<FloatTensor<B>, CrossEntropyError> {
    let error = wrong_backend::<B>(&tensor, name);
    let primitive = match tensor.kind {
        DispatchTensorKind::Autodiff(inner) => tracked_float::<B>(*inner),
        kind => plain_float::<B>(kind),
    };
    primitive.ok_or(error)
}

fn tracked_float<B: Backend>(kind: DispatchTensorKind) -> Option<FloatTensor<B>> {
    macro_rules! of_backend {
        ($backend:ident) => {
            if let DispatchTensorKind::$backend(BackendTensor::Autodiff(tensor)) = kind {
                return same_type(tensor).ok();
            }
        };
    }
    with_each_backend!(of_backend);
    None
}

fn plain_float<B: Backend>(kind: DispatchTensorKind) -> Option<FloatTensor<B>> {
    macro_rules! of_backend {
        ($backend:ident) => {
            if let DispatchTensorKind::$backend(BackendTensor::Float(tensor)) = kind {
                return match same_type::<FloatTensor<backends::$backend>, _>(tensor) {
                    Ok(tensor) => Some(tensor),
                    Err(tensor) => {
                        same_type(Autodiff::<backends::$backend>::from_inner(tensor)).ok()
                    }
                };
            }
        };
    }
    with_each_backend!(of_backend);
    None
}

fn bound_indices<B: Backend>(tensor: DispatchTensor) -> Result<IntTensor<B>, CrossEntropyError> {
    let error = wrong_backend::<B>(&tensor, "target");
    let kind = tensor.kind;
    macro_rules! of_backend {
        ($backend:ident) => {
            if let DispatchTensorKind::$backend(BackendTensor::Int(tensor)) = kind {
                return same_type(tensor).map_err(|_| error);
            }
        };
    }
    with_each_backend!(of_backend);
    Err(error)
}

/// `B`'s own tensor as a runtime-dispatched one, with or without autodiff.
fn dispatched<B: Backend>(
    tensor: FloatTensor<B>,
    autodiff: DispatchAutodiffContext,
) -> DispatchTensor {
    let tensor = &mut Some(tensor);
    macro_rules! of_backend {
        ($backend:ident) => {
            if let Some(tensor) = take_as::<FloatTensor<backends::$backend>>(tensor) {
                return DispatchTensor {
                    kind: DispatchTensorKind::$backend(BackendTensor::Float(tensor)),
                    autodiff: DispatchAutodiffContext::Disabled,
                };
            }
            if let Some(tensor) = take_as::<FloatTensor<Autodiff<backends::$backend>>>(tensor) {
                let kind = match autodiff {
                    DispatchAutodiffContext::Disabled => {
                        DispatchTensorKind::$backend(BackendTensor::Float(tensor.into_primitive()))
                    }
                    DispatchAutodiffContext::Enabled(_) => DispatchTensorKind::Autodiff(Box::new(
                        DispatchTensorKind::$backend(BackendTensor::Autodiff(tensor)),
                    )),
                };
                return DispatchTensor { kind, autodiff };
            }
        };
    }
    with_each_backend!(of_backend);
    unreachable!("the inputs were tensors of one of these backends")
}

/// `B`'s own integer tensor as a runtime-dispatched one.
fn dispatched_int<B: Backend>(tensor: IntTensor<B>) -> DispatchTensor {
    let tensor = &mut Some(tensor);
    macro_rules! of_backend {
        ($backend:ident) => {
            if let Some(tensor) = take_as::<IntTensor<backends::$backend>>(tensor) {
                return DispatchTensor {
                    kind: DispatchTensorKind::$backend(BackendTensor::Int(tensor)),
                    autodiff: DispatchAutodiffContext::Disabled,
                };
            }
        };
    }
    with_each_backend!(of_backend);
    unreachable!("the inputs were tensors of one of these backends")
}

/// The value as the type that it is.
fn same_type<From: 'static, To: 'static>(value: From) -> Result<To, From> {
    let mut value = Some(value);
    match take_as(&mut value) {
        Some(same) => Ok(same),
        None => Err(value.expect("it was not taken")),
    }
}

fn take_as<To: 'static>(value: &mut (impl Any + 'static)) -> Option<To> {
    (value as &mut dyn Any)
        .downcast_mut::<Option<To>>()
        .and_then(Option::take)
}

fn wrong_backend<B: Backend>(tensor: &DispatchTensor, name: &'static str) -> CrossEntropyError {
    CrossEntropyError::WrongBackend {
        bound: without_paths(type_name::<B>()),
        tensor: name,
        device: format!("{:?}", Device::new(tensor.device())),
    }
}

/// A type's name without the modules it lies in.
fn without_paths(type_name: &str) -> String {
    type_name
        .split_inclusive(['<', '>', ',', ' '])
        .map(|part| part.rsplit("::").next().unwrap_or(part))
        .collect()
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::tensor::Tensor;

    #[test]
    fn flex_has_an_implementation_with_and_without_autodiff() {
        for device in [Device::flex(), Device::flex().autodiff()] {
            let tensor = Tensor::<1>::zeros([1], &device).into_dispatch();
            assert!(has_implementation(&tensor.kind));
        }
    }

    #[test]
    fn a_type_name_loses_its_paths_and_keeps_its_parameters() {
        assert_eq!(without_paths("a::b::C<d::E, f::g::H>"), "C<E, H>");
        assert_eq!(without_paths("a::Plain"), "Plain");
    }
}
