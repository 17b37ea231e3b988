//! From a runtime-dispatched tensor to the implementation that takes it, and back.

use std::any::{Any, TypeId, type_name};

#[cfg(feature = "cube")]
use burn::backend::DispatchDevice;
use burn::backend::ops::{BoolTensorOps, FloatTensorOps, IntTensorOps};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{
    AutodiffBackend, Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor,
    DispatchTensorKind, TensorMetadata, get_or_init_device_settings,
};
use burn::tensor::{DType, Device, FloatDType, Shape};
use burn_autodiff::Autodiff;

use super::{CrossEntropyBackend, chunks};
use crate::error::CrossEntropyError;
use crate::operation::linear::{
    LinearForward, LinearGradients, LinearGradientsOf, LinearOptions, LinearSaved, MaybeFloat,
    Projection,
};
use crate::operation::{
    ClassWeights, Denominators, Details, Forward, Gradients, GradientsOf, Inputs, Options,
    RowReduction, Saved, Targets, accumulation_dtype,
};
use crate::reference::{self, ShardCall};

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
        portable(logits, inputs, options)
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
        details: dispatched_details::<B>(details, autodiff),
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
            portable_linear(projection, inputs, options)
        });
    }
    let Projection {
        input,
        weight,
        bias,
    } = projection;
    let mut autodiff = autodiff_of(&inputs)
        .merge(input.autodiff)
        .merge(weight.autodiff);
    let bias = match bias {
        MaybeFloat::None => MaybeFloat::None,
        MaybeFloat::Some(bias) => {
            autodiff = autodiff.merge(bias.autodiff);
            MaybeFloat::Some(bound_float::<B>(bias, "bias")?)
        }
    };
    let projection = Projection {
        input: bound_float::<B>(input, "input")?,
        weight: bound_float::<B>(weight, "projection weight")?,
        bias,
    };
    let inputs = bound_inputs::<B>(inputs)?;
    let LinearForward { loss, details, .. } = B::linear_cross_entropy(projection, inputs, options);
    Ok(LinearForward {
        loss: dispatched::<B>(loss, autodiff),
        saved: LinearSaved::Nothing,
        details: dispatched_details::<B>(details, autodiff),
    })
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

fn dispatched_details<B: CrossEntropyBackend>(
    details: Details<B>,
    autodiff: DispatchAutodiffContext,
) -> Details<Dispatch> {
    match details {
        Details::Nothing => Details::Nothing,
        Details::PerRow {
            numbers,
            classes,
            totals,
        } => Details::PerRow {
            numbers: dispatched::<B>(numbers, autodiff),
            classes: dispatched_int::<B>(classes),
            totals: dispatched::<B>(totals, autodiff),
        },
    }
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

/// The operation on a backend without an implementation.
///
/// Where autodiff is on, loss and gradient are computed outside the graph, and the gradient is
/// attached to the loss as the slope of a term of value 0, so that here too no graph of the
/// computation is recorded. All of that in the accumulation dtype, so that no gradient is rounded
/// to half precision before it meets the upstream gradient.
fn portable(
    logits: DispatchTensor,
    inputs: Inputs<Dispatch>,
    options: Options,
) -> Forward<Dispatch> {
    let float = accumulation_dtype(logits.dtype());
    let logits = Dispatch::float_cast(logits, float);
    let mut autodiff = logits.autodiff;
    let (plain_targets, tracked_targets) = match inputs.targets {
        Targets::Indices(indices) => (Targets::Indices(indices), None),
        Targets::Distributions(targets) => {
            autodiff = autodiff.merge(targets.autodiff);
            let targets = Dispatch::float_cast(targets, float);
            let plain = without_autodiff(targets.clone());
            let tracked = Dispatch::is_tracked(&targets).then_some(targets);
            (Targets::Distributions(plain), tracked)
        }
    };
    let plain = Inputs {
        targets: plain_targets,
        weights: inputs.weights,
        normalizer: match inputs.normalizer {
            Denominators::OfRows => Denominators::OfRows,
            Denominators::Given(numbers) => Denominators::Given(without_autodiff(numbers)),
        },
    };
    let tracked_logits = Dispatch::is_tracked(&logits).then(|| logits.clone());
    let gradients_of = match (&tracked_logits, &tracked_targets) {
        (None, None) => {
            let logits = without_autodiff(logits);
            let Forward { loss, details, .. } =
                reference::cross_entropy::<Dispatch>(logits, plain, &options);
            return Forward {
                loss: with_autodiff(loss, autodiff),
                saved: Saved::Nothing,
                details: details_with_autodiff(details, autodiff),
            };
        }
        (Some(_), None) => GradientsOf::Logits,
        (None, Some(_)) => GradientsOf::Targets,
        (Some(_), Some(_)) => GradientsOf::Both,
    };
    let options = Options {
        gradients_of,
        keep: true,
        ..options
    };
    let Forward {
        loss,
        saved,
        details,
    } = reference::cross_entropy::<Dispatch>(without_autodiff(logits), plain.clone(), &options);
    let upstream = Dispatch::float_ones(loss.shape(), &loss.device(), loss.dtype().into());
    let gradients = reference::cross_entropy_backward::<Dispatch>(saved, plain, upstream, &options);
    let (logits_gradient, targets_gradient) = match gradients {
        Gradients::Logits { logits } => (Some(logits), None),
        Gradients::Targets { targets } => (None, Some(targets)),
        Gradients::Both { logits, targets } => (Some(logits), Some(targets)),
    };
    let loss = [
        tracked_logits.zip(logits_gradient),
        tracked_targets.zip(targets_gradient),
    ]
    .into_iter()
    .flatten()
    .fold(loss, |loss, (parent, gradient)| {
        let slope = slope_of(parent, gradient, &options);
        Dispatch::float_add(slope, loss)
    });
    Forward {
        loss,
        saved: Saved::Nothing,
        details: details_with_autodiff(details, autodiff),
    }
}

/// What a shard of the classes contributes to its rows, outside every graph.
pub(crate) fn shard_statistics<B: CrossEntropyBackend>(
    logits: DispatchTensor,
    shard: &ShardCall<Dispatch>,
) -> Result<DispatchTensor, CrossEntropyError> {
    check_bound::<B>(&logits, &shard.inputs)?;
    let logits = without_autodiff(logits);
    Ok(reference::shard_statistics::<Dispatch>(logits, shard))
}

/// The loss of all classes, with the gradient of this shard's logits attached as in [`portable`].
pub(crate) fn shard_loss<B: CrossEntropyBackend>(
    logits: DispatchTensor,
    statistics: DispatchTensor,
    shard: &ShardCall<Dispatch>,
) -> Result<DispatchTensor, CrossEntropyError> {
    check_bound::<B>(&logits, &shard.inputs)?;
    let float = accumulation_dtype(logits.dtype());
    let logits = Dispatch::float_cast(logits, float);
    let plain = without_autodiff(logits.clone());
    let is_tracked = Dispatch::is_tracked(&logits);
    let (loss, gradient) = reference::shard_loss::<Dispatch>(plain, statistics, shard, is_tracked);
    Ok(match gradient {
        None => with_autodiff(loss, logits.autodiff),
        Some(gradient) => Dispatch::float_add(slope_of(logits, gradient, &shard.options), loss),
    })
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

/// The loss of a projection on a backend without an implementation.
///
/// A reduced loss has its gradients attached as in [`portable`]. Those of an unreduced loss hang on
/// the upstream gradient of every row, so there the logits of the chunks are part of the graph, and
/// stay in memory until the backward.
fn portable_linear(
    projection: Projection<Dispatch>,
    inputs: Inputs<Dispatch>,
    options: LinearOptions,
) -> LinearForward<Dispatch> {
    let bias = projection.bias.clone().into_option();
    let targets = match &inputs.targets {
        Targets::Indices(_) => None,
        Targets::Distributions(targets) => Some(targets.clone()),
    };
    let given = [
        Some(projection.input.clone()),
        Some(projection.weight.clone()),
        bias,
        targets,
    ];
    let autodiff = given
        .iter()
        .flatten()
        .fold(DispatchAutodiffContext::Disabled, |autodiff, tensor| {
            autodiff.merge(tensor.autodiff)
        });
    let parents = given.map(|tensor| tensor.filter(Dispatch::is_tracked));
    let is_tracked = parents.iter().any(Option::is_some);
    if options.loss.reduction == RowReduction::None && is_tracked {
        return chunks::forward::<Dispatch, InGraph>(projection, inputs, &options);
    }
    let projection = Projection {
        input: without_autodiff(projection.input),
        weight: without_autodiff(projection.weight),
        bias: projection.bias.into_option().map(without_autodiff).into(),
    };
    let inputs = Inputs {
        targets: match inputs.targets {
            Targets::Indices(indices) => Targets::Indices(indices),
            Targets::Distributions(targets) => Targets::Distributions(without_autodiff(targets)),
        },
        ..inputs
    };
    let [input, weight, bias, targets] = parents.each_ref().map(Option::is_some);
    let options = LinearOptions {
        loss: Options {
            keep: is_tracked,
            ..options.loss
        },
        gradients_of: LinearGradientsOf {
            input,
            weight,
            bias,
            targets,
        },
        ..options
    };
    let LinearForward {
        loss,
        saved,
        details,
    } = chunks::forward::<Dispatch, chunks::Portable>(projection, inputs.clone(), &options);
    let loss = if is_tracked {
        let upstream = Dispatch::float_ones(loss.shape(), &loss.device(), loss.dtype().into());
        let LinearGradients {
            input,
            weight,
            bias,
            targets,
        } = chunks::backward::<Dispatch, chunks::Portable>(saved, inputs, upstream, &options);
        let gradients = [input, weight, bias, targets].map(MaybeFloat::into_option);
        let pairs = parents.into_iter().zip(gradients);
        pairs
            .filter_map(|(parent, gradient)| parent.zip(gradient))
            .fold(loss, |loss, (parent, gradient)| {
                let float: FloatDType = loss.dtype().into();
                let parent = Dispatch::float_cast(parent, float);
                let gradient = Dispatch::float_cast(gradient, float);
                let slope = slope_of(parent, gradient, &options.loss);
                Dispatch::float_add(slope, loss)
            })
    } else {
        with_autodiff(loss, autodiff)
    };
    LinearForward {
        loss,
        saved: LinearSaved::Nothing,
        details: details_with_autodiff(details, autodiff),
    }
}

/// The loss of logits that are in the graph.
struct InGraph;

impl chunks::OnLogits<Dispatch> for InGraph {
    fn forward(
        logits: DispatchTensor,
        inputs: Inputs<Dispatch>,
        options: &Options,
    ) -> Forward<Dispatch> {
        portable(logits, inputs, options.clone())
    }

    fn backward(
        _saved: Saved<Dispatch>,
        _inputs: Inputs<Dispatch>,
        _upstream: DispatchTensor,
        _options: &Options,
    ) -> Gradients<Dispatch> {
        unreachable!("the graph has the backward")
    }
}

fn details_with_autodiff(
    details: Details<Dispatch>,
    autodiff: DispatchAutodiffContext,
) -> Details<Dispatch> {
    match details {
        Details::Nothing => Details::Nothing,
        Details::PerRow {
            numbers,
            classes,
            totals,
        } => Details::PerRow {
            numbers: with_autodiff(numbers, autodiff),
            classes,
            totals: with_autodiff(totals, autodiff),
        },
    }
}

/// A term of value 0, in the shape of the loss, whose derivative by `parent` is `gradient`.
///
/// A parent that is not finite takes no part: 0 times infinity is no 0.
fn slope_of(parent: DispatchTensor, gradient: DispatchTensor, options: &Options) -> DispatchTensor {
    let bool_dtype = get_or_init_device_settings::<Dispatch>(&parent.device()).bool_dtype;
    let loss_shape = options.loss_shape(&parent.shape());
    let infinite = Dispatch::float_is_inf(parent.clone(), bool_dtype);
    let not_a_number = Dispatch::float_is_nan(parent.clone(), bool_dtype);
    let parent = Dispatch::float_mask_fill(
        parent,
        Dispatch::bool_or(infinite, not_a_number),
        0.0.into(),
    );
    let step = Dispatch::float_sub(parent.clone(), Dispatch::float_detach(parent));
    let slope = Dispatch::float_mul(step, gradient);
    let slope = match options.reduction {
        RowReduction::None => Dispatch::float_sum_dim(slope, options.class_dim),
        _ => Dispatch::float_sum(slope),
    };
    Dispatch::float_reshape(slope, loss_shape)
}

/// An untracked tensor with the autodiff setting that the inputs had.
fn with_autodiff(tensor: DispatchTensor, autodiff: DispatchAutodiffContext) -> DispatchTensor {
    match autodiff {
        DispatchAutodiffContext::Disabled => tensor,
        DispatchAutodiffContext::Enabled(_) => DispatchTensor {
            autodiff,
            ..Dispatch::from_inner(tensor)
        },
    }
}

fn without_autodiff(tensor: DispatchTensor) -> DispatchTensor {
    match tensor.kind {
        DispatchTensorKind::Autodiff(_) => Dispatch::inner(tensor),
        _ => tensor,
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::operation::{DetailsOf, EmptyReduction, InputValues};
    use burn::tensor::{Int, Tensor};

    const REDUCTIONS: [RowReduction; 4] = [
        RowReduction::None,
        RowReduction::Mean,
        RowReduction::Sum,
        RowReduction::BatchMean(2),
    ];

    fn options(reduction: RowReduction) -> Options {
        Options {
            class_dim: 1,
            ignore_indices: [-100].as_slice().into(),
            label_smoothing: 0.1,
            values: InputValues::Logits {
                scale: 0.5,
                softcap: Some(3.0),
            },
            z_loss: 0.01,
            reduction,
            empty: EmptyReduction::Nan,
            gradients_of: GradientsOf::Logits,
            keep: false,
            details: DetailsOf::Nothing,
        }
    }

    type Implementation = fn(DispatchTensor, Inputs<Dispatch>, Options) -> Forward<Dispatch>;

    /// The loss, the gradient of the logits and that of the targets, under an upstream gradient
    /// that is not 1.
    fn solve(
        implementation: Implementation,
        reduction: RowReduction,
        soft: bool,
    ) -> (Vec<f32>, Vec<f32>, Option<Vec<f32>>) {
        let device = Device::flex().autodiff();
        let logits = Tensor::<3>::from_floats(
            [
                [[1.0, 0.0], [2.0, -1.0], [0.5, 4.0]],
                [[0.1, 0.2], [f32::NEG_INFINITY, 1.0], [2.0, 3.0]],
            ],
            &device,
        )
        .require_grad();
        let shares = Tensor::<3>::from_floats(
            [
                [[0.2, 0.3], [0.3, 0.1], [0.5, 0.9]],
                [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]],
            ],
            &device,
        )
        .require_grad();
        let targets = if soft {
            Targets::Distributions(shares.clone().into_dispatch())
        } else {
            let indices = Tensor::<2, Int>::from_ints([[2, -100], [0, 1]], &device);
            Targets::Indices(indices.without_autodiff().into_dispatch())
        };
        let weights = Tensor::<1>::from_floats([1.0, 0.0, 2.0], &Device::flex());
        let inputs = Inputs {
            targets,
            weights: ClassWeights::PerClass(weights.into_dispatch()),
            normalizer: Denominators::OfRows,
        };
        let Forward { loss, .. } =
            implementation(logits.clone().into_dispatch(), inputs, options(reduction));
        let floats = |data: burn::tensor::TensorData| data.try_to_vec::<f32>().expect("f32");
        let (values, sum) = if reduction == RowReduction::None {
            let loss = Tensor::<2>::from_dispatch(loss);
            (floats(loss.to_data()), loss.sum())
        } else {
            let loss = Tensor::<1>::from_dispatch(loss);
            (floats(loss.to_data()), loss)
        };
        let gradients = (sum * -2.5).backward();
        (
            values,
            floats(logits.grad(&gradients).expect("tracked").into_data()),
            soft.then(|| floats(shares.grad(&gradients).expect("tracked").into_data())),
        )
    }

    #[track_caller]
    fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    /// What a tensor of a backend without an implementation gets.
    #[test]
    fn the_portable_path_has_the_loss_and_gradients_of_the_node() {
        for soft in [false, true] {
            for reduction in REDUCTIONS {
                let portable = solve(portable, reduction, soft);
                let node = solve(Dispatch::cross_entropy, reduction, soft);
                assert_close(&portable.0, &node.0);
                assert_close(&portable.1, &node.1);
                assert_eq!(portable.2.is_some(), soft);
                if let (Some(portable), Some(node)) = (&portable.2, &node.2) {
                    assert_close(portable, node);
                }
            }
        }
    }

    #[test]
    fn the_portable_loss_of_untracked_logits_stays_on_their_autodiff_device() {
        let device = Device::flex().autodiff().gradient_checkpointing();
        let logits = Tensor::<2>::zeros([1, 3], &device).into_dispatch();
        let indices = Tensor::<1, Int>::zeros([1], &Device::flex()).into_dispatch();
        let inputs = Inputs {
            targets: Targets::Indices(indices),
            weights: ClassWeights::Equal,
            normalizer: Denominators::OfRows,
        };
        let Forward { loss, .. } = portable(logits, inputs, options(RowReduction::Sum));
        let loss = Tensor::<1>::from_dispatch(loss);
        assert_eq!(
            loss.device().gradient_checkpointing_strategy(),
            device.gradient_checkpointing_strategy()
        );
        assert!((loss * 2.0).into_scalar::<f32>().is_finite());
    }

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
