//! The gradient node of a loss with the projection before it. Its parents are whatever is given of
//! hidden states, weights, biases, own logits and target distributions; only those that are tracked get a
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
    Excluded, LinearForward, LinearGradientsOf, LinearOptions, LinearSaved, MaybeFloat, Projection,
};
use crate::operation::{DetailsOf, Inputs, Options, Targets};

/// Which tensor a parent is.
#[derive(Clone, Copy, Debug)]
enum Role {
    Input,
    Weight,
    Bias,
    Own,
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
                Role::Own => &mut gradients.own,
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
    let mut parents = vec![(Role::Input, input_node), (Role::Weight, weight_node)];
    let mut given = |tensor: MaybeFloat<Autodiff<B, C>>, role| match tensor {
        MaybeFloat::None => (MaybeFloat::None, false),
        MaybeFloat::Some(tensor) => {
            let is_tracked = tensor.is_tracked();
            let (tensor, node) = tensor.into_parts();
            parents.push((role, node));
            (MaybeFloat::Some(tensor), is_tracked)
        }
    };
    let (bias, own);
    (bias, of.bias) = given(projection.bias, Role::Bias);
    (own, of.own) = given(projection.own, Role::Own);
    let targets = match inputs.targets {
        Targets::Indices(indices) => Targets::Indices(indices),
        Targets::Distributions(targets) => {
            of.targets = targets.is_tracked();
            let (targets, node) = targets.into_parts();
            parents.push((Role::Targets, node));
            Targets::Distributions(targets)
        }
    };
    let call = Call {
        projection: Projection {
            input,
            weight,
            bias,
            own,
            excluded: match projection.excluded {
                Excluded::Nothing => Excluded::Nothing,
                Excluded::SameId { rows, columns } => Excluded::SameId { rows, columns },
            },
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
    // A node has its parents in an array.
    match parents.len() {
        2 => call.record::<C, 2>(parents),
        3 => call.record::<C, 3>(parents),
        4 => call.record::<C, 4>(parents),
        _ => call.record::<C, 5>(parents),
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
        parents: Vec<(Role, NodeGuard)>,
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
        let (roles, nodes): (Vec<Role>, Vec<NodeGuard>) = parents.into_iter().unzip();
        let (Ok(roles), Ok(nodes)) = (<[_; PARENTS]>::try_from(roles), nodes.try_into()) else {
            unreachable!("their number was looked at");
        };
        let node = LinearCrossEntropy::<PARENTS> { roles };
        let (loss, details): (FloatTensor<Autodiff<B, C>>, _) =
            match node.prepare::<C>(nodes).compute_bound().stateful() {
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
