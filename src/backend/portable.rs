//! The operation on a backend without an implementation, and over a shard of the classes on every
//! backend: in the plain tensor operations of [`reference`], outside the graph, with the gradients
//! attached to the loss.

use std::convert::identity;

use burn::backend::ops::{BoolTensorOps, FloatTensorOps};
use burn::backend::{
    AutodiffBackend, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind,
    TensorMetadata, get_or_init_device_settings,
};
use burn::tensor::FloatDType;

use super::chunks;
use crate::operation::linear::{
    LinearForward, LinearGradients, LinearGradientsOf, LinearOptions, LinearSaved, MaybeFloat,
    Projection,
};
use crate::operation::shard::ShardCall;
use crate::operation::{
    Forward, Gradients, GradientsOf, Inputs, Options, RowReduction, Saved, Targets,
    accumulation_dtype,
};
use crate::reference;

/// The operation on a backend without an implementation.
///
/// Where autodiff is on, loss and gradient are computed outside the graph, and the gradient is
/// attached to the loss as the slope of a term of value 0, so that here too no graph of the
/// computation is recorded. All of that in the accumulation dtype, so that no gradient is rounded
/// to half precision before it meets the upstream gradient.
pub(super) fn cross_entropy(
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
    // Weights and normalizers come without autodiff.
    let plain = Inputs {
        targets: plain_targets,
        ..inputs
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
                details: details.map(|numbers| with_autodiff(numbers, autodiff), identity),
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
        details: details.map(|numbers| with_autodiff(numbers, autodiff), identity),
    }
}

/// The loss of a projection on a backend without an implementation.
///
/// A reduced loss has its gradients attached as in [`cross_entropy`]. Those of an unreduced loss hang
/// on the upstream gradient of every row, so there the logits of the chunks are part of the graph,
/// and stay in memory until the backward.
pub(super) fn linear_cross_entropy(
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
        projection.own.clone().into_option(),
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
        let projection = counted(projection, &inputs, &options.loss);
        return chunks::forward::<Dispatch, InGraph>(projection, inputs, &options);
    }
    // The gradients are made before the upstream gradient is known, and not rounded before it is.
    let float = accumulation_dtype(projection.input.dtype());
    let plain = |tensor| Dispatch::float_cast(without_autodiff(tensor), float);
    let projection = Projection {
        input: plain(projection.input),
        weight: plain(projection.weight),
        bias: projection.bias.into_option().map(plain).into(),
        own: projection.own.into_option().map(plain).into(),
        excluded: projection.excluded,
    };
    let inputs = Inputs {
        targets: match inputs.targets {
            Targets::Indices(indices) => Targets::Indices(indices),
            Targets::Distributions(targets) => Targets::Distributions(plain(targets)),
        },
        ..inputs
    };
    let [input, weight, bias, own, targets] = parents.each_ref().map(Option::is_some);
    let options = LinearOptions {
        loss: Options {
            keep: is_tracked,
            ..options.loss
        },
        gradients_of: LinearGradientsOf {
            input,
            weight,
            bias,
            own,
            targets,
        },
        dtype: float.into(),
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
            own,
            targets,
        } = chunks::backward::<Dispatch, chunks::Portable>(saved, inputs, upstream, &options);
        let gradients = [input, weight, bias, own, targets].map(MaybeFloat::into_option);
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
        details: details.map(|numbers| with_autodiff(numbers, autodiff), identity),
    }
}

/// The projection without the inputs of rows that do not count: the gradient of the weight in the
/// graph is a product with them, and so NaN where one of them holds it. An unreduced loss comes
/// without details, so nothing else is asked of these rows.
fn counted(
    projection: Projection<Dispatch>,
    inputs: &Inputs<Dispatch>,
    options: &Options,
) -> Projection<Dispatch> {
    match &inputs.targets {
        Targets::Indices(indices) if projection.input.shape()[0] > 0 => {
            let (indices, classes) = (indices.clone(), projection.classes());
            let input = projection.input;
            Projection {
                input: reference::counted_rows_of::<Dispatch>(input, indices, classes, options),
                ..projection
            }
        }
        _ => projection,
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
        cross_entropy(logits, inputs, options.clone())
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

/// What a shard of the classes contributes to its rows, outside every graph.
pub(super) fn shard_statistics(
    logits: DispatchTensor,
    shard: &ShardCall<Dispatch>,
) -> DispatchTensor {
    reference::shard_statistics::<Dispatch>(without_autodiff(logits), shard)
}

/// The loss of all classes, with the gradient of this shard's logits attached as in
/// [`cross_entropy`].
pub(super) fn shard_loss(
    logits: DispatchTensor,
    statistics: DispatchTensor,
    shard: &ShardCall<Dispatch>,
) -> DispatchTensor {
    let float = accumulation_dtype(logits.dtype());
    let logits = Dispatch::float_cast(logits, float);
    let plain = without_autodiff(logits.clone());
    let is_tracked = Dispatch::is_tracked(&logits);
    let (loss, gradient) = reference::shard_loss::<Dispatch>(plain, statistics, shard, is_tracked);
    match gradient {
        None => with_autodiff(loss, logits.autodiff),
        Some(gradient) => Dispatch::float_add(slope_of(logits, gradient, &shard.options), loss),
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
    use crate::backend::CrossEntropyBackend;
    use crate::operation::{ClassWeights, Denominators, DetailsOf, EmptyReduction, InputValues};
    use burn::tensor::{Device, Int, Tensor};

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
                let portable = solve(cross_entropy, reduction, soft);
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
        let Forward { loss, .. } = cross_entropy(logits, inputs, options(RowReduction::Sum));
        let loss = Tensor::<1>::from_dispatch(loss);
        assert_eq!(
            loss.device().gradient_checkpointing_strategy(),
            device.gradient_checkpointing_strategy()
        );
        assert!((loss * 2.0).into_scalar::<f32>().is_finite());
    }
}
