//! Loss over logits that are a tensor, on slices.

use burn::backend::tensor::FloatTensor;

use super::inputs::{HostInputs, results, saved};
use super::order::{Ordered, ordered};
use super::tensor::{Arithmetic, HostBackend, HostTensor, in_arithmetic_of, numbers};
use crate::kernel::cpu::{Buffers, Call, Instructions};
use crate::operation::{
    Forward, Geometry, Gradients, InputValues, Inputs, Logits, Options, RowValue, Saved, Wanted,
    WantedGradients, has_gradient_in_f16,
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
        let geometry = Geometry::new(&logits.host.shape(), logits.class_dim);
        if let Some(made_for) = upstream_in_f16(&inputs, options, &geometry) {
            let upstream = Upstream::Same(made_for);
            let mut forward = solve::<f32, B>(logits, &inputs, options, wanted, upstream);
            if let Saved::Gradients { upstream, .. } = &mut forward.saved {
                *upstream = made_for;
            }
            return forward;
        }
        let without_gradients = wanted.without_gradients();
        let kept = logits.clone();
        let forward = in_arithmetic_of!(
            dtype,
            solve::<_, B>(logits, &inputs, options, without_gradients, Upstream::One)
        );
        return Forward {
            saved: Saved::Logits(Logits::Tensor(kept.close::<B>(options.class_dim))),
            ..forward
        };
    }
    in_arithmetic_of!(
        dtype,
        solve::<_, B>(logits, &inputs, options, wanted, Upstream::One)
    )
}

/// Upstream gradient for which no number of the gradient is beyond f16, and the largest may be near its end: a
/// power of two. `None` where the gradient has no such bound, or weights that differ by much would leave the
/// rows of small ones without digits.
fn upstream_in_f16<H: HostTensor>(
    inputs: &HostInputs<H>,
    options: &Options,
    geometry: &Geometry,
) -> Option<f64> {
    /// Half of the largest power of two.
    const NEAR_THE_END: f64 = 16384.0;
    /// Largest quotient of two class weights.
    const MOST: f64 = 16.0;
    let InputValues::Logits { scale, .. } = options.values else {
        return None;
    };
    let is_unbounded =
        options.z_loss != 0.0 || options.row_factor.is_some() || options.value != RowValue::Loss;
    if !inputs.have_indices() || inputs.have_row_weights() || is_unbounded {
        return None;
    }
    let weights = inputs.weights::<f32>();
    let (mut least, mut largest) = (1.0f64, 1.0f64);
    if let Some(weights) = &weights {
        least = weights
            .iter()
            .fold(f64::INFINITY, |least, &weight| least.min(weight.into()));
        largest = weights
            .iter()
            .fold(0.0, |largest, &weight| largest.max(weight.into()));
    }
    let divisor = inputs.divisor(weights.as_deref(), geometry, options);
    let upstream = (NEAR_THE_END * divisor / (largest * scale.abs()))
        .log2()
        .floor()
        .exp2();
    let is_fit = largest <= MOST * least && upstream.is_normal() && (upstream as f32).is_normal();
    is_fit.then_some(upstream)
}

/// Upstream gradient that gradients are made for.
enum Upstream<'a, H> {
    One,
    /// The same number for the loss or each row's loss.
    Same(f64),
    Given(&'a H),
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
    let forward = in_arithmetic_of!(
        logits.host.dtype(),
        solve::<_, B>(logits, &inputs, options, wanted, Upstream::Given(upstream))
    );
    match forward.saved {
        Saved::Gradients { gradients, .. } => gradients,
        _ => Gradients::default(),
    }
}

/// Computes the loss and the wanted gradients.
fn solve<A: Arithmetic, B: HostBackend>(
    logits: Ordered<B::Host>,
    inputs: &HostInputs<B::Host>,
    options: &Options,
    wanted: Wanted,
    upstream: Upstream<'_, B::Host>,
) -> Forward<B> {
    let Ordered {
        host: mut logits,
        class_dim,
    } = logits;
    let (shape, dtype) = (logits.shape(), logits.dtype());
    let (weights, row_weights) = (inputs.weights::<A>(), inputs.row_weights::<A>());
    let geometry = Geometry::new(&shape, class_dim);
    let upstream = match upstream {
        Upstream::One => None,
        Upstream::Same(number) => Some(vec![A::of(number); inputs.losses(&geometry)]),
        Upstream::Given(upstream) => Some(numbers::<A, B::Host>(upstream)),
    };
    let call = Call {
        geometry,
        options,
        outputs: wanted.outputs,
        targets: inputs.targets(),
        weights: weights.as_deref(),
        row_weights: row_weights.as_deref(),
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
