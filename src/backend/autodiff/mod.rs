//! The gradient node: forward and backward are operations of the backend below, so no graph of
//! tensor operations is recorded.

use std::convert::identity;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend};
use burn_autodiff::NodeId;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients as GradientStore;
use burn_autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};

mod linear;

use super::CrossEntropyBackend;
use crate::operation::linear::{
    LinearForward, LinearGradients, LinearOptions, LinearSaved, Projection,
};
use crate::operation::{
    ClassWeights, Denominators, Details, DetailsOf, Forward, Gradients, GradientsOf, Inputs,
    Options, Saved, Targets,
};

/// What the node keeps between forward and backward.
#[derive(Clone, Debug)]
struct State<B: CrossEntropyBackend> {
    saved: Saved<B>,
    inputs: Inputs<B>,
    options: Options,
}

impl<B: CrossEntropyBackend> State<B> {
    fn gradients(self, upstream: FloatTensor<B>) -> Gradients<B> {
        B::cross_entropy_backward(self.saved, self.inputs, upstream, self.options)
    }
}

/// The node over index targets: the logits are its one parent.
#[derive(Debug)]
struct IndexCrossEntropy;

impl<B: CrossEntropyBackend> Backward<B, 1> for IndexCrossEntropy {
    type State = State<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        store: &mut GradientStore,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = store.consume::<B>(&ops.node);
        let [logits] = ops.parents.map(|parent| parent.map(|node| node.id));
        register(store, logits, None, ops.state.gradients(upstream));
    }
}

/// The node over target distributions, which are its second parent.
#[derive(Debug)]
struct SoftCrossEntropy;

impl<B: CrossEntropyBackend> Backward<B, 2> for SoftCrossEntropy {
    type State = State<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        store: &mut GradientStore,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = store.consume::<B>(&ops.node);
        let [logits, targets] = ops.parents.map(|parent| parent.map(|node| node.id));
        register(store, logits, targets, ops.state.gradients(upstream));
    }
}

fn register<B: CrossEntropyBackend>(
    store: &mut GradientStore,
    logits_node: Option<NodeId>,
    targets_node: Option<NodeId>,
    gradients: Gradients<B>,
) {
    let (logits, targets) = match gradients {
        Gradients::Logits { logits } => (Some(logits), None),
        Gradients::Targets { targets } => (None, Some(targets)),
        Gradients::Both { logits, targets } => (Some(logits), Some(targets)),
    };
    for (node, gradient) in [(logits_node, logits), (targets_node, targets)] {
        if let (Some(node), Some(gradient)) = (node, gradient) {
            store.register::<B>(node, gradient);
        }
    }
}

impl<B: CrossEntropyBackend, C: CheckpointStrategy> CrossEntropyBackend for Autodiff<B, C> {
    fn cross_entropy(
        logits: FloatTensor<Self>,
        inputs: Inputs<Self>,
        options: Options,
    ) -> Forward<Self> {
        let weights = weights_as_given(inputs.weights);
        let normalizer = denominators_as_given(inputs.normalizer);
        match inputs.targets {
            Targets::Indices(indices) => {
                let inputs = Inputs {
                    targets: Targets::Indices(indices),
                    weights,
                    normalizer,
                };
                let options = Options {
                    gradients_of: GradientsOf::Logits,
                    ..options
                };
                let (logits, node) = logits.into_parts();
                record::<B, C, _, 1>(IndexCrossEntropy, [node], logits, inputs, options)
            }
            Targets::Distributions(targets) => {
                let gradients_of = match (logits.is_tracked(), targets.is_tracked()) {
                    (true, true) => GradientsOf::Both,
                    (false, true) => GradientsOf::Targets,
                    _ => GradientsOf::Logits,
                };
                let (logits, logits_node) = logits.into_parts();
                let (targets, targets_node) = targets.into_parts();
                let inputs = Inputs {
                    targets: Targets::Distributions(targets),
                    weights,
                    normalizer,
                };
                let options = Options {
                    gradients_of,
                    ..options
                };
                let nodes = [logits_node, targets_node];
                record::<B, C, _, 2>(SoftCrossEntropy, nodes, logits, inputs, options)
            }
        }
    }

    fn cross_entropy_backward(
        _saved: Saved<Self>,
        _inputs: Inputs<Self>,
        _upstream: FloatTensor<Self>,
        _options: Options,
    ) -> Gradients<Self> {
        first_order_only()
    }

    fn linear_cross_entropy(
        projection: Projection<Self>,
        inputs: Inputs<Self>,
        options: LinearOptions,
    ) -> LinearForward<Self> {
        linear::forward(projection, inputs, options)
    }

    fn linear_cross_entropy_backward(
        _saved: LinearSaved<Self>,
        _inputs: Inputs<Self>,
        _upstream: FloatTensor<Self>,
        _options: LinearOptions,
    ) -> LinearGradients<Self> {
        first_order_only()
    }
}

fn first_order_only() -> ! {
    panic!(
        "the gradient of the cross-entropy cannot be differentiated again: Burn's autodiff is of \
         first order"
    )
}

/// Runs the forward and, where a parent is tracked, records the node. The details are constants.
fn record<B, C, N, const PARENTS: usize>(
    node: N,
    parents: [NodeGuard; PARENTS],
    logits: FloatTensor<B>,
    inputs: Inputs<B>,
    options: Options,
) -> Forward<Autodiff<B, C>>
where
    B: CrossEntropyBackend,
    C: CheckpointStrategy,
    N: Backward<B, PARENTS, State = State<B>>,
{
    // Compute bound: recomputing the loss would need the logits kept alive, which is all it saves.
    let (loss, details) = match node.prepare::<C>(parents).compute_bound().stateful() {
        OpsKind::Tracked(preparation) => {
            let options = Options {
                keep: true,
                ..options
            };
            let Forward {
                loss,
                saved,
                details,
            } = B::cross_entropy(logits, inputs.clone(), options.clone());
            let state = State {
                saved,
                inputs,
                options: Options {
                    details: DetailsOf::Nothing,
                    ..options
                },
            };
            (preparation.finish(state, loss), details)
        }
        OpsKind::UnTracked(preparation) => {
            let options = Options {
                keep: false,
                ..options
            };
            let Forward { loss, details, .. } = B::cross_entropy(logits, inputs, options);
            (preparation.finish(loss), details)
        }
    };
    Forward {
        loss,
        saved: Saved::Nothing,
        details: details_as_constants::<B, C>(details),
    }
}

/// Class weights are constants.
fn weights_as_given<B: CrossEntropyBackend, C: CheckpointStrategy>(
    weights: ClassWeights<Autodiff<B, C>>,
) -> ClassWeights<B> {
    match weights {
        ClassWeights::Equal => ClassWeights::Equal,
        ClassWeights::PerClass(weights) => ClassWeights::PerClass(weights.into_primitive()),
    }
}

/// Divisors take no gradient: they come in as constants.
fn denominators_as_given<B: CrossEntropyBackend, C: CheckpointStrategy>(
    denominators: Denominators<Autodiff<B, C>>,
) -> Denominators<B> {
    match denominators {
        Denominators::OfRows => Denominators::OfRows,
        Denominators::Given(numbers) => Denominators::Given(numbers.into_primitive()),
    }
}

/// Details have no gradient: they go out as constants.
fn details_as_constants<B: CrossEntropyBackend, C: CheckpointStrategy>(
    details: Details<B>,
) -> Details<Autodiff<B, C>> {
    details.map(<Autodiff<B, C> as AutodiffBackend>::from_inner, identity)
}
