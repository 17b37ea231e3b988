//! The gradient node of a loss with the projection before it. Its parents are whatever is given of
//! hidden states, weights, biases and target distributions; only those that are tracked get a
//! gradient, and nothing is computed for the others.

use burn::backend::Autodiff;
use burn::backend::tensor::FloatTensor;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients as GradientStore;
use burn_autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};

use super::{denominators_as_given, details_as_constants, weights_as_given};
use crate::backend::CrossEntropyBackend;
use crate::operation::linear::{
    LinearForward, LinearGradientsOf, LinearOptions, LinearSaved, MaybeFloat, Projection,
};
use crate::operation::{DetailsOf, Inputs, Options, Targets};

/// Which tensor a parent is.
#[derive(Clone, Copy, Debug)]
enum Role {
    Input,
    Weight,
    Bias,
    Targets,
}

/// The node, with the role of each of its parents.
#[derive(Debug)]
struct LinearCrossEntropy<const PARENTS: usize> {
    roles: [Role; PARENTS],
}

/// What the node keeps between forward and backward.
#[derive(Clone, Debug)]
struct State<B: CrossEntropyBackend> {
    saved: LinearSaved<B>,
    inputs: Inputs<B>,
    options: LinearOptions,
}

impl<B: CrossEntropyBackend, const PARENTS: usize> Backward<B, PARENTS>
    for LinearCrossEntropy<PARENTS>
{
    type State = State<B>;

    fn backward(
        self,
        ops: Ops<Self::State, PARENTS>,
        store: &mut GradientStore,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = store.consume::<B>(&ops.node);
        let State {
            saved,
            inputs,
            options,
        } = ops.state;
        let mut gradients = B::linear_cross_entropy_backward(saved, inputs, upstream, options);
        for (role, parent) in self.roles.into_iter().zip(ops.parents) {
            let gradient = match role {
                Role::Input => &mut gradients.input,
                Role::Weight => &mut gradients.weight,
                Role::Bias => &mut gradients.bias,
                Role::Targets => &mut gradients.targets,
            };
            let gradient = std::mem::replace(gradient, MaybeFloat::None);
            if let (Some(parent), MaybeFloat::Some(gradient)) = (parent, gradient) {
                store.register::<B>(parent.id, gradient);
            }
        }
    }
}

pub(super) fn forward<B: CrossEntropyBackend, C: CheckpointStrategy>(
    projection: Projection<Autodiff<B, C>>,
    inputs: Inputs<Autodiff<B, C>>,
    options: LinearOptions,
) -> LinearForward<Autodiff<B, C>> {
    let mut of = LinearGradientsOf {
        input: projection.input.is_tracked(),
        weight: projection.weight.is_tracked(),
        ..LinearGradientsOf::default()
    };
    let (input, input_node) = projection.input.into_parts();
    let (weight, weight_node) = projection.weight.into_parts();
    let (bias, bias_node) = match projection.bias {
        MaybeFloat::None => (MaybeFloat::None, None),
        MaybeFloat::Some(bias) => {
            of.bias = bias.is_tracked();
            let (bias, node) = bias.into_parts();
            (MaybeFloat::Some(bias), Some(node))
        }
    };
    let (targets, targets_node) = match inputs.targets {
        Targets::Indices(indices) => (Targets::Indices(indices), None),
        Targets::Distributions(targets) => {
            of.targets = targets.is_tracked();
            let (targets, node) = targets.into_parts();
            (Targets::Distributions(targets), Some(node))
        }
    };
    let call = Call {
        projection: Projection {
            input,
            weight,
            bias,
        },
        inputs: Inputs {
            targets,
            weights: weights_as_given(inputs.weights),
            normalizer: denominators_as_given(inputs.normalizer),
        },
        options: LinearOptions {
            gradients_of: of,
            ..options
        },
    };
    use Role::{Bias, Input, Targets as Soft, Weight};
    match (bias_node, targets_node) {
        (None, None) => call.record([Input, Weight], [input_node, weight_node]),
        (Some(bias), None) => call.record([Input, Weight, Bias], [input_node, weight_node, bias]),
        (None, Some(soft)) => call.record([Input, Weight, Soft], [input_node, weight_node, soft]),
        (Some(bias), Some(soft)) => call.record(
            [Input, Weight, Bias, Soft],
            [input_node, weight_node, bias, soft],
        ),
    }
}

/// A call on the backend below.
struct Call<B: CrossEntropyBackend> {
    projection: Projection<B>,
    inputs: Inputs<B>,
    options: LinearOptions,
}

impl<B: CrossEntropyBackend> Call<B> {
    /// Runs the forward and, where a parent is tracked, records the node.
    fn record<C: CheckpointStrategy, const PARENTS: usize>(
        self,
        roles: [Role; PARENTS],
        parents: [NodeGuard; PARENTS],
    ) -> LinearForward<Autodiff<B, C>> {
        let Self {
            projection,
            inputs,
            options,
        } = self;
        let keeping = |keep: bool| LinearOptions {
            loss: Options {
                keep,
                ..options.loss.clone()
            },
            ..options.clone()
        };
        let node = LinearCrossEntropy { roles };
        let (loss, details): (FloatTensor<Autodiff<B, C>>, _) =
            match node.prepare::<C>(parents).compute_bound().stateful() {
                OpsKind::Tracked(preparation) => {
                    let options = keeping(true);
                    let LinearForward {
                        loss,
                        saved,
                        details,
                    } = B::linear_cross_entropy(projection, inputs.clone(), options.clone());
                    let state = State {
                        saved,
                        inputs,
                        options: without_details(options),
                    };
                    (preparation.finish(state, loss), details)
                }
                OpsKind::UnTracked(preparation) => {
                    let LinearForward { loss, details, .. } =
                        B::linear_cross_entropy(projection, inputs, keeping(false));
                    (preparation.finish(loss), details)
                }
            };
        LinearForward {
            loss,
            saved: LinearSaved::Nothing,
            details: details_as_constants::<B, C>(details),
        }
    }
}

/// The backward has no use for them.
fn without_details(options: LinearOptions) -> LinearOptions {
    LinearOptions {
        loss: Options {
            details: DetailsOf::Nothing,
            ..options.loss
        },
        ..options
    }
}
