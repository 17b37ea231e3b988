//! Operation on a backend without an implementation, and over a shard of the classes on every backend:
//! in plain tensor operations, outside the graph, with the gradients attached to the loss.

use std::convert::Infallible;

use burn::backend::ops::{BoolTensorOps, FloatTensorOps};
use burn::backend::{
    AutodiffBackend, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind,
    TensorMetadata, get_or_init_device_settings,
};
use burn::tensor::{FloatDType, Shape};

use crate::operation::shard::ShardCall;
use crate::operation::{
    Change, Forward, Inputs, Logits, Options, Projection, Role, RowValue, Saved, Wanted,
    WantedGradients, accumulation_dtype,
};
use crate::portable::{self, chunks};

/// Runs the operation on a backend without an implementation.
///
/// With autodiff, loss and gradient are computed outside the graph, and the gradient is attached to the
/// loss as the slope of a term of value 0, so that no graph of the computation is recorded. All of this
/// is in the accumulation dtype, so that no gradient is rounded to half precision before it is multiplied
/// by the upstream gradient.
///
/// The gradients of an unreduced loss over a projection depend on the upstream gradient of every row, so
/// there the logits of the chunks are part of the graph, and stay in memory until the backward.
pub(super) fn cross_entropy(
    logits: Logits<Dispatch>,
    inputs: Inputs<Dispatch>,
    options: &Options,
    wanted: Wanted,
) -> Forward<Dispatch> {
    let mut parents = Parents::new(accumulation_dtype(logits.tensor().dtype()));
    let Ok(plain) = logits.clone().change::<Dispatch, _>(&mut parents);
    let Ok(plain_inputs) = inputs.clone().change::<Dispatch, _>(&mut parents);
    if let Logits::Projected(projection) = logits
        && !inputs.reduction.is_reduced()
        && parents.wanted.any()
    {
        let projection = counted(projection, &inputs, options);
        let on_chunk = |logits, inputs| cross_entropy(logits, inputs, options, wanted);
        return chunks::losses(&projection, inputs, options, on_chunk);
    }
    let wanted = Wanted {
        gradients: parents.wanted,
        ..wanted
    };
    let forward = portable::cross_entropy(plain, plain_inputs.clone(), options, wanted);
    let autodiff = parents.autodiff;
    let loss = match wanted.gradients.any() {
        false => with_autodiff(forward.loss, autodiff),
        true => {
            let loss = forward.loss;
            let one = Dispatch::float_ones(loss.shape(), &loss.device(), loss.dtype().into());
            let (saved, gradients) = (forward.saved, wanted.gradients);
            let mut gradients =
                portable::cross_entropy_backward(saved, plain_inputs, one, options, gradients);
            let class_dim = options.class_dim;
            parents
                .tracked
                .into_iter()
                .fold(loss, |loss, (role, parent)| {
                    let Some(gradient) = gradients.take(role) else {
                        return loss;
                    };
                    let slope = slope_of(parent, gradient, class_dim, loss.shape(), &inputs);
                    Dispatch::float_add(slope, loss)
                })
        }
    };
    Forward {
        loss,
        saved: Saved::Nothing,
        outputs: forward.outputs.map(
            |numbers| with_autodiff(numbers, autodiff),
            |classes| classes,
        ),
    }
}

/// Takes the tensors of a call out of the graph, in the accumulation dtype, and collects the tracked ones.
struct Parents {
    float: FloatDType,
    autodiff: DispatchAutodiffContext,
    wanted: WantedGradients,
    tracked: Vec<(Role, DispatchTensor)>,
}

impl Parents {
    fn new(float: FloatDType) -> Self {
        Self {
            float,
            autodiff: DispatchAutodiffContext::Disabled,
            wanted: WantedGradients::default(),
            tracked: Vec::new(),
        }
    }
}

impl Change<Dispatch, Dispatch> for Parents {
    type Error = Infallible;

    fn float(&mut self, tensor: DispatchTensor, role: Role) -> Result<DispatchTensor, Infallible> {
        // Class weights and divisors have no autodiff.
        if matches!(role, Role::ClassWeights | Role::RowWeights | Role::Divisors) {
            return Ok(tensor);
        }
        if role == Role::Teacher {
            return Ok(Dispatch::float_cast(without_autodiff(tensor), self.float));
        }
        self.autodiff = self.autodiff.merge(tensor.autodiff);
        let tensor = Dispatch::float_cast(tensor, self.float);
        if Dispatch::is_tracked(&tensor) {
            self.wanted.insert(role);
            self.tracked.push((role, tensor.clone()));
        }
        Ok(without_autodiff(tensor))
    }

    fn int(&mut self, tensor: DispatchTensor, _role: Role) -> Result<DispatchTensor, Infallible> {
        Ok(tensor)
    }
}

/// Projection with hidden states of 0 in rows that do not count. The gradient of the weight in the graph
/// is a product with the hidden states, so a NaN in such a row would reach it. An unreduced loss has no
/// outputs, so nothing else reads these rows.
fn counted(
    projection: Projection<Dispatch>,
    inputs: &Inputs<Dispatch>,
    options: &Options,
) -> Projection<Dispatch> {
    // Pairs count in every row.
    if projection.hidden.shape()[0] == 0 || options.value == RowValue::PairSigmoid {
        return projection;
    }
    let classes = projection.classes();
    let hidden = projection.hidden;
    Projection {
        hidden: portable::counted_rows_of::<Dispatch>(hidden, inputs, classes, options),
        ..projection
    }
}

/// Statistics of the rows over a shard of the classes, outside every graph.
pub(crate) fn shard_statistics(
    logits: DispatchTensor,
    shard: &ShardCall<Dispatch>,
) -> DispatchTensor {
    portable::shard_statistics::<Dispatch>(without_autodiff(logits), shard)
}

/// Loss of all classes, with the gradient of this shard's logits attached as in [`cross_entropy`].
pub(crate) fn shard_loss(
    logits: DispatchTensor,
    statistics: DispatchTensor,
    shard: &ShardCall<Dispatch>,
) -> DispatchTensor {
    let float = accumulation_dtype(logits.dtype());
    let logits = Dispatch::float_cast(logits, float);
    let plain = without_autodiff(logits.clone());
    let is_tracked = Dispatch::is_tracked(&logits);
    let (loss, gradient) = portable::shard_loss::<Dispatch>(plain, statistics, shard, is_tracked);
    match gradient {
        None => with_autodiff(loss, logits.autodiff),
        Some(gradient) => {
            let (class_dim, shape) = (shard.options.class_dim, loss.shape());
            let slope = slope_of(logits, gradient, class_dim, shape, &shard.inputs);
            Dispatch::float_add(slope, loss)
        }
    }
}

/// Term of value 0, in the shape of the loss, whose derivative by `parent` is `gradient`.
///
/// Elements of the parent that are not finite are left out, because 0 times infinity is NaN.
fn slope_of(
    parent: DispatchTensor,
    gradient: DispatchTensor,
    class_dim: usize,
    loss: Shape,
    inputs: &Inputs<Dispatch>,
) -> DispatchTensor {
    let bool_dtype = get_or_init_device_settings::<Dispatch>(&parent.device()).bool_dtype;
    let infinite = Dispatch::float_is_inf(parent.clone(), bool_dtype);
    let not_a_number = Dispatch::float_is_nan(parent.clone(), bool_dtype);
    let parent = Dispatch::float_mask_fill(
        parent,
        Dispatch::bool_or(infinite, not_a_number),
        0.0.into(),
    );
    let step = Dispatch::float_sub(parent.clone(), Dispatch::float_detach(parent));
    let slope = Dispatch::float_mul(step, gradient);
    let slope = match inputs.reduction.is_reduced() {
        true => Dispatch::float_sum(slope),
        false => Dispatch::float_sum_dim(slope, class_dim),
    };
    Dispatch::float_reshape(slope, loss)
}

/// Untracked tensor with the autodiff setting of the inputs.
fn with_autodiff(tensor: DispatchTensor, autodiff: DispatchAutodiffContext) -> DispatchTensor {
    match autodiff {
        DispatchAutodiffContext::Disabled => tensor,
        DispatchAutodiffContext::Enabled(_) => DispatchTensor {
            autodiff,
            ..Dispatch::from_inner(tensor)
        },
    }
}

/// Untracked tensor with the autodiff setting of another.
pub(crate) fn with_autodiff_of(other: &DispatchTensor, tensor: DispatchTensor) -> DispatchTensor {
    with_autodiff(without_autodiff(tensor), other.autodiff)
}

/// The tensor outside every graph.
pub(crate) fn without_autodiff(tensor: DispatchTensor) -> DispatchTensor {
    match tensor.kind {
        DispatchTensorKind::Autodiff(_) => Dispatch::inner(tensor),
        _ => tensor,
    }
}
