//! Gradient node of the operation. Forward and backward are operations of the inner backend, so no graph
//! of tensor operations is recorded.
//!
//! The parents of the node are the tensors of the call that can have a gradient. Only tracked tensors get
//! a gradient, and nothing is computed for the others.

use std::convert::Infallible;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend};
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients as GradientStore;
use burn_autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};

use super::CrossEntropyOperation;
use crate::operation::{
    Change, Forward, Gradients, Inputs, Logits, Options, Role, Saved, Wanted, WantedGradients,
};

/// Node of the graph, with the role of each of its parents.
#[derive(Debug)]
struct CrossEntropy<const PARENTS: usize> {
    roles: [Role; PARENTS],
}

/// State that the node keeps between forward and backward.
#[derive(Clone, Debug)]
struct Kept<B: CrossEntropyOperation> {
    saved: Saved<B>,
    inputs: Inputs<B>,
    options: Options,
    wanted: WantedGradients,
}

impl<B: CrossEntropyOperation, const PARENTS: usize> Backward<B, PARENTS>
    for CrossEntropy<PARENTS>
{
    type State = Kept<B>;

    fn backward(
        self,
        ops: Ops<Self::State, PARENTS>,
        store: &mut GradientStore,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = store.consume::<B>(&ops.node);
        let Kept {
            saved,
            inputs,
            options,
            wanted,
        } = ops.state;
        let mut gradients = B::cross_entropy_backward(saved, inputs, upstream, options, wanted);
        for (role, parent) in self.roles.into_iter().zip(ops.parents) {
            if let (Some(parent), Some(gradient)) = (parent, gradients.take(role)) {
                store.register::<B>(parent.id, gradient);
            }
        }
    }
}

impl<B: CrossEntropyOperation, C: CheckpointStrategy> CrossEntropyOperation for Autodiff<B, C> {
    fn cross_entropy(
        logits: Logits<Self>,
        inputs: Inputs<Self>,
        options: Options,
        wanted: Wanted,
    ) -> Forward<Self> {
        let mut parents = Parents::default();
        let logits = unwrapped(logits.change(&mut parents));
        let inputs = unwrapped(inputs.change(&mut parents));
        let call = Call::<B> {
            logits,
            inputs,
            options,
            wanted: Wanted {
                gradients: parents.wanted,
                ..wanted
            },
        };
        // The number of parents of a node is a constant of its type.
        match parents.count {
            1 => call.record::<C, 1>(parents.nodes),
            2 => call.record::<C, 2>(parents.nodes),
            3 => call.record::<C, 3>(parents.nodes),
            4 => call.record::<C, 4>(parents.nodes),
            _ => call.record::<C, 5>(parents.nodes),
        }
    }

    fn cross_entropy_backward(
        _saved: Saved<Self>,
        _inputs: Inputs<Self>,
        _upstream: FloatTensor<Self>,
        _options: Options,
        _wanted: WantedGradients,
    ) -> Gradients<Self> {
        panic!(
            "the gradient of the cross-entropy cannot be differentiated again: Burn's autodiff is \
             of first order"
        )
    }
}

fn unwrapped<T>(result: Result<T, Infallible>) -> T {
    let Ok(value) = result;
    value
}

/// Takes the tensors of a call out of the graph, and collects the nodes of these tensors.
#[derive(Default)]
struct Parents {
    wanted: WantedGradients,
    /// In an array, because a call must not allocate.
    nodes: Nodes,
    count: usize,
}

/// Parents of a node: at most hidden states, weight, bias, leading logits and distributions.
type Nodes = [Option<(Role, NodeGuard)>; 5];

impl<B: CrossEntropyOperation, C: CheckpointStrategy> Change<Autodiff<B, C>, B> for Parents {
    type Error = Infallible;

    fn float(
        &mut self,
        tensor: FloatTensor<Autodiff<B, C>>,
        role: Role,
    ) -> Result<FloatTensor<B>, Infallible> {
        if matches!(
            role,
            Role::Teacher | Role::Bound | Role::ClassWeights | Role::RowWeights | Role::Divisors
        ) {
            return Ok(tensor.into_primitive());
        }
        if tensor.is_tracked() {
            self.wanted.insert(role);
        }
        let (tensor, node) = tensor.into_parts();
        self.nodes[self.count] = Some((role, node));
        self.count += 1;
        Ok(tensor)
    }

    fn int(&mut self, tensor: IntTensor<B>, _role: Role) -> Result<IntTensor<B>, Infallible> {
        Ok(tensor)
    }
}

/// Call on the inner backend.
struct Call<B: CrossEntropyOperation> {
    logits: Logits<B>,
    inputs: Inputs<B>,
    options: Options,
    wanted: Wanted,
}

impl<B: CrossEntropyOperation> Call<B> {
    /// Runs the forward and, where a parent is tracked, records the node. Outputs are constants of the graph.
    fn record<C: CheckpointStrategy, const PARENTS: usize>(
        self,
        mut nodes: Nodes,
    ) -> Forward<Autodiff<B, C>> {
        let Self {
            logits,
            inputs,
            options,
            wanted,
        } = self;
        let parents: [_; PARENTS] =
            std::array::from_fn(|at| nodes[at].take().expect("each parent was collected"));
        let node = CrossEntropy {
            roles: parents.each_ref().map(|(role, _)| *role),
        };
        let nodes = parents.map(|(_, node)| node);
        // Compute bound: to recompute the loss, the logits would have to be kept, which are all that
        // checkpointing could free.
        let (loss, outputs) = match node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(preparation) => {
                let forward = B::cross_entropy(logits, inputs.clone(), options.clone(), wanted);
                let kept = Kept {
                    saved: forward.saved,
                    inputs,
                    options,
                    wanted: wanted.gradients,
                };
                (preparation.finish(kept, forward.loss), forward.outputs)
            }
            OpsKind::UnTracked(preparation) => {
                let forward = B::cross_entropy(logits, inputs, options, wanted);
                (preparation.finish(forward.loss), forward.outputs)
            }
        };
        Forward {
            loss,
            saved: Saved::Nothing,
            outputs: outputs.map(<Autodiff<B, C> as AutodiffBackend>::from_inner, |classes| {
                classes
            }),
        }
    }
}
