//! Products of gradients from the forward with the upstream gradient.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::DType;

use super::inputs::HostInputs;
use super::order::{Ordered, ordered};
use super::tensor::{Arithmetic, HostBackend, HostTensor, in_arithmetic_of, numbers};
use crate::kernel::cpu::{Instructions, Reduction, multiply};
use crate::operation::{Geometry, Gradients, Inputs, Options, Role};

/// The upstream gradient, and the one that the gradients were made for.
pub(super) struct Ratio<'a, H> {
    pub(super) upstream: &'a H,
    pub(super) made_for: f64,
}

impl<H: HostTensor> Ratio<'_, H> {
    fn factors<A: Arithmetic>(&self) -> Vec<A> {
        let mut factors = numbers::<A, H>(self.upstream);
        if self.made_for != 1.0 {
            for factor in &mut factors {
                *factor = A::of(factor.to_f64() / self.made_for);
            }
        }
        factors
    }
}

/// Multiplies the gradients by the upstream gradient, and returns each in the dtype of its tensor.
pub(super) fn by_upstream<B: HostBackend>(
    gradients: Gradients<B>,
    dtype: DType,
    inputs: Inputs<B>,
    ratio: Ratio<'_, B::Host>,
    options: &Options,
) -> Gradients<B> {
    let targets = inputs.targets.distributions_dtype();
    let inputs = HostInputs::open::<B>(inputs);
    let multiplied = gradients.map(|gradient, role| {
        let dtype = gradient.dtype();
        match role {
            Role::Logits | Role::Targets => {
                let gradient = ordered::<B>(gradient, options.class_dim, true);
                let gradient = in_arithmetic_of!(
                    dtype,
                    rows_times::<_, B>(gradient, &inputs, &ratio, options)
                );
                gradient.close::<B>(options.class_dim)
            }
            _ => {
                let gradient = B::open(gradient);
                B::close(in_arithmetic_of!(
                    dtype,
                    all_times::<_, B>(gradient, &ratio)
                ))
            }
        }
    });
    in_dtypes::<B>(multiplied, dtype, targets)
}

/// Converts each gradient to the dtype of its tensor.
pub(super) fn in_dtypes<B: Backend>(
    gradients: Gradients<B>,
    dtype: DType,
    targets: Option<DType>,
) -> Gradients<B> {
    gradients.map(|gradient: FloatTensor<B>, role| {
        let dtype = match (role, targets) {
            (Role::Targets, Some(targets)) => targets,
            _ => dtype,
        };
        match gradient.dtype() == dtype {
            true => gradient,
            false => B::float_cast(gradient, dtype.into()),
        }
    })
}

/// Multiplies the gradient of each row by the row's upstream gradient, or all rows by a single one.
fn rows_times<A: Arithmetic, B: HostBackend>(
    mut gradient: Ordered<B::Host>,
    inputs: &HostInputs<B::Host>,
    ratio: &Ratio<'_, B::Host>,
    options: &Options,
) -> Ordered<B::Host> {
    let mut factors = ratio.factors::<A>();
    let geometry = Geometry::new(&gradient.host.shape(), gradient.class_dim);
    // Distributions without entries have rows, but no shares.
    if geometry.full().num_elements() == 0 || factors.iter().all(|&factor| factor == A::ONE) {
        return gradient;
    }
    if factors.iter().any(|factor| !factor.is_finite()) {
        factors = match factors_of_counted_rows(factors, inputs, &geometry, options) {
            Some(factors) => factors,
            None => return gradient,
        };
    }
    multiply(
        gradient.host.floats_mut(),
        &geometry,
        &factors,
        Instructions::best(),
    );
    gradient
}

/// One factor per row, 1 where the row does not count, so that its gradient stays 0 for any upstream
/// gradient. `None` where the divisors are 0, so that all gradients are 0.
fn factors_of_counted_rows<A: Arithmetic, H: HostTensor>(
    factors: Vec<A>,
    inputs: &HostInputs<H>,
    geometry: &Geometry,
    options: &Options,
) -> Option<Vec<A>> {
    let has_gradient = |[divisor, z_loss_divisor]: [f64; 2]| {
        divisor != 0.0 || (options.z_loss != 0.0 && z_loss_divisor != 0.0)
    };
    if let Reduction::Over(divisors) = inputs.reduction
        && !has_gradient(divisors)
    {
        return None;
    }
    let (weights, row_weights) = (inputs.weights::<A>(), inputs.row_weights::<A>());
    let rule = inputs.rule(row_weights.as_deref(), geometry, options);
    if inputs.reduction == Reduction::Mean
        && !has_gradient(rule.divisors_of_mean(geometry.rows(), weights.as_deref()))
    {
        return None;
    }
    let factor = |row| match factors[..] {
        [factor] => factor,
        _ => factors[row],
    };
    let rows = 0..geometry.rows();
    Some(
        rows.map(|row| match rule.counts(row) {
            true => factor(row),
            false => A::ONE,
        })
        .collect(),
    )
}

/// Multiplies the gradient of a projection's tensor by an upstream gradient of one number. A gradient of
/// 0, to which no counted row has contributed, stays 0 for any number.
fn all_times<A: Arithmetic, B: HostBackend>(
    mut gradient: B::Host,
    ratio: &Ratio<'_, B::Host>,
) -> B::Host {
    let factor = ratio.factors::<A>()[0];
    if factor == A::ONE {
        return gradient;
    }
    if !factor.to_f64().is_finite() {
        let slopes = A::slice_mut(gradient.floats_mut());
        for slope in slopes.expect("the gradient was made in this dtype") {
            if *slope != A::ZERO {
                *slope = A::of(slope.to_f64() * factor.to_f64());
            }
        }
        return gradient;
    }
    let geometry = Geometry {
        outer: 1,
        classes: gradient.shape().num_elements(),
        inner: 1,
    };
    if geometry.classes > 0 {
        let instructions = Instructions::best();
        multiply(gradient.floats_mut(), &geometry, &[factor], instructions);
    }
    gradient
}
