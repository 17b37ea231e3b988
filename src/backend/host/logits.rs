//! Loss over logits that are a tensor, on slices.

use burn::backend::tensor::FloatTensor;

use super::inputs::{HostInputs, results, saved};
use super::order::{Ordered, ordered};
use super::tensor::{Arithmetic, HostBackend, HostTensor, in_arithmetic_of, numbers};
use crate::kernel::cpu::{Buffers, Call, Instructions};
use crate::operation::{
    Forward, Geometry, Gradients, Inputs, Logits, Options, Saved, Wanted, WantedGradients,
    has_gradient_in_f16,
};

pub(super) fn forward<B: HostBackend>(
    logits: FloatTensor<B>,
    inputs: Inputs<B>,
    options: &Options,
    wanted: Wanted,
) -> Forward<B> {
    let inputs = HostInputs::open::<B>(inputs);
    let logits = ordered::<B>(logits, options.class_dim, inputs.have_indices());
    let dtype = logits.host.dtype();
    if has_gradient_in_f16(wanted.gradients, dtype, inputs.distributions_dtype()) {
        let without_gradients = wanted.without_gradients();
        let kept = logits.clone();
        let forward = in_arithmetic_of!(
            dtype,
            solve::<_, B>(logits, &inputs, options, without_gradients, None)
        );
        return Forward {
            saved: Saved::Logits(Logits::Tensor(kept.close::<B>(options.class_dim))),
            ..forward
        };
    }
    in_arithmetic_of!(dtype, solve::<_, B>(logits, &inputs, options, wanted, None))
}

/// Gradients of logits that the forward kept.
pub(super) fn backward<B: HostBackend>(
    logits: FloatTensor<B>,
    inputs: Inputs<B>,
    upstream: &B::Host,
    options: &Options,
    wanted: WantedGradients,
) -> Gradients<B> {
    let inputs = HostInputs::open::<B>(inputs);
    let logits = ordered::<B>(logits, options.class_dim, inputs.have_indices());
    let wanted = Wanted::gradients(wanted);
    let upstream = Some(upstream);
    let forward = in_arithmetic_of!(
        logits.host.dtype(),
        solve::<_, B>(logits, &inputs, options, wanted, upstream)
    );
    match forward.saved {
        Saved::Gradients { gradients, .. } => gradients,
        _ => Gradients::default(),
    }
}

/// Computes the loss and the wanted gradients, for an upstream gradient of 1 if none is given.
fn solve<A: Arithmetic, B: HostBackend>(
    logits: Ordered<B::Host>,
    inputs: &HostInputs<B::Host>,
    options: &Options,
    wanted: Wanted,
    upstream: Option<&B::Host>,
) -> Forward<B> {
    let Ordered {
        host: mut logits,
        class_dim,
    } = logits;
    let (shape, dtype) = (logits.shape(), logits.dtype());
    let weights = inputs.weights::<A>();
    let upstream = upstream.map(numbers::<A, B::Host>);
    let call = Call {
        geometry: Geometry::new(&shape, class_dim),
        options,
        outputs: wanted.outputs,
        targets: inputs.targets(),
        weights: weights.as_deref(),
        upstream: upstream.as_deref(),
        reduction: inputs.reduction,
        instructions: Instructions::best(),
    };
    let mut targets = inputs.targets_gradient(wanted.gradients.targets);
    let targets_gradient = targets.as_mut().map(HostTensor::floats_mut);
    let (solution, gradient) = if !wanted.gradients.logits {
        let solution = call.solve(Buffers {
            logits: Some(logits.floats()),
            gradient: None,
            targets_gradient,
        });
        (solution, None)
    } else if logits.is_unshared() {
        let solution = call.solve(Buffers {
            logits: None,
            gradient: Some(logits.floats_mut()),
            targets_gradient,
        });
        (solution, Some(logits))
    } else {
        let mut gradient = B::Host::unwritten(shape.clone(), dtype);
        let solution = call.solve(Buffers {
            logits: Some(logits.floats()),
            gradient: Some(gradient.floats_mut()),
            targets_gradient,
        });
        (solution, Some(gradient))
    };
    let gradient = gradient.map(|host| Ordered { host, class_dim }.close::<B>(options.class_dim));
    let gradients = Gradients::of_loss(gradient, targets.map(B::close));
    Forward {
        saved: saved(gradients, dtype, wanted.gradients),
        ..results::<A, B>(solution, inputs.reduction, &shape, class_dim, wanted)
    }
}
