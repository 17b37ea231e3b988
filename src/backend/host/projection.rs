//! Loss over a projection, on slices: brings the tensors into the dtype of the arithmetic and allocates
//! the gradients. The maths is in the kernels.
//!
//! Tensors of half precision are widened as a whole. Matrix products are in f32, and gradients too until
//! the backward has multiplied them by the upstream gradient.

use std::convert::Infallible;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Shape};

use super::inputs::{HostInputs, results, saved};
use super::tensor::{Arithmetic, HostBackend, HostTensor, in_arithmetic_of, numbers};
use super::times::in_dtypes;
use crate::kernel::cpu::{
    Matrix, ProjectedCall, Projection as ProjectionSlices, ProjectionBuffers, ProjectionGradients,
    SameIds,
};
use crate::operation::{
    Change, Excluded, Forward, Gradients, Inputs, Logits, MaybeFloat, Options, Projection, Role,
    Saved, Targets, Wanted, WantedGradients, accumulation_dtype,
};

pub(super) fn forward<B: HostBackend>(
    projection: Projection<B>,
    inputs: Inputs<B>,
    options: &Options,
    wanted: Wanted,
) -> Forward<B> {
    // Without a reduction each row has its own upstream gradient. The weight's gradient is a sum over the
    // rows and cannot be multiplied by it afterwards.
    let is_remade = !inputs.reduction.is_reduced() && wanted.gradients.any();
    let made = match is_remade {
        true => wanted.without_gradients(),
        false => wanted,
    };
    let forward = solved(projection.clone(), inputs, options, made, None);
    match is_remade {
        false => forward,
        true => Forward {
            saved: Saved::Logits(Logits::Projected(projection)),
            ..forward
        },
    }
}

/// Gradients of a projection that the forward kept.
pub(super) fn backward<B: HostBackend>(
    projection: Projection<B>,
    inputs: Inputs<B>,
    upstream: &B::Host,
    options: &Options,
    wanted: WantedGradients,
) -> Gradients<B> {
    let targets = inputs.targets.distributions_dtype();
    let dtype = projection.hidden.dtype();
    let wanted = Wanted::gradients(wanted);
    let forward = solved(projection, inputs, options, wanted, Some(upstream));
    match forward.saved {
        Saved::Gradients { gradients, .. } => in_dtypes::<B>(gradients, dtype, targets),
        _ => Gradients::default(),
    }
}

/// [`solve`] in the dtype of the arithmetic.
fn solved<B: HostBackend>(
    projection: Projection<B>,
    inputs: Inputs<B>,
    options: &Options,
    wanted: Wanted,
    upstream: Option<&B::Host>,
) -> Forward<B> {
    let given = projection.hidden.dtype();
    let mut widened = Widened {
        dtype: accumulation_dtype(given).into(),
        has_targets_gradient: wanted.gradients.targets,
    };
    let Ok(projection) = projection.change::<B, _>(&mut widened);
    let Ok(inputs) = inputs.change::<B, _>(&mut widened);
    let mut forward = in_arithmetic_of!(
        widened.dtype,
        solve::<_, B>(projection, inputs, options, wanted, upstream)
    );
    if let Saved::Gradients { dtype, .. } = &mut forward.saved {
        *dtype = given;
    }
    forward
}

/// Brings the tensors of a projection into the dtype of the arithmetic.
struct Widened {
    dtype: DType,
    /// Whether distributions get a gradient. Then they need the dtype of the arithmetic, in which the
    /// gradient is written; else they are read in any dtype.
    has_targets_gradient: bool,
}

impl<B: Backend> Change<B, B> for Widened {
    type Error = Infallible;

    fn float(&mut self, tensor: FloatTensor<B>, role: Role) -> Result<FloatTensor<B>, Infallible> {
        let is_wide = match role {
            Role::Hidden | Role::Weight | Role::Bias | Role::Positive | Role::Teacher => true,
            Role::Targets => self.has_targets_gradient,
            _ => false,
        };
        Ok(match is_wide && tensor.dtype() != self.dtype {
            true => B::float_cast(tensor, self.dtype.into()),
            false => tensor,
        })
    }

    fn int(&mut self, tensor: IntTensor<B>, _role: Role) -> Result<IntTensor<B>, Infallible> {
        Ok(tensor)
    }
}

/// Tensors of a projection in the host's memory.
struct HostProjection<H> {
    hidden: H,
    weight: H,
    bias: Option<H>,
    positive: Option<H>,
    excluded: Option<SameIds>,
    rows_per_chunk: usize,
}

impl<H: HostTensor> HostProjection<H> {
    fn open<B: HostBackend<Host = H>>(projection: Projection<B>) -> Self {
        let weight = B::open(projection.weight);
        let row_major = |tensor: MaybeFloat<B>| {
            let tensor = tensor.into_option();
            tensor.map(|tensor| B::open(tensor).row_major())
        };
        let ids = |tensor: IntTensor<B>| B::open(tensor).row_major().indices().wide();
        Self {
            hidden: B::open(projection.hidden).row_major(),
            weight: match weight.matrix() {
                Some(_) => weight,
                None => weight.row_major(),
            },
            bias: row_major(projection.bias),
            positive: row_major(projection.positive),
            excluded: match projection.excluded {
                Excluded::Nothing => None,
                Excluded::SameId { rows, columns } => Some(SameIds::new(ids(rows), &ids(columns))),
            },
            rows_per_chunk: projection.rows_per_chunk,
        }
    }

    fn slices<A: Arithmetic>(&self) -> ProjectionSlices<'_, A> {
        let same = "the tensors of a projection were brought into the dtype of the arithmetic";
        let (numbers, strides) = self
            .weight
            .matrix()
            .expect("the weight was brought into one slice");
        let size = self.weight.shape().dims();
        let slice = |tensor| A::slice(HostTensor::floats(tensor)).expect(same);
        ProjectionSlices {
            hidden: slice(&self.hidden),
            features: size[0],
            weight: Matrix::new(A::slice(numbers).expect(same), size, strides),
            bias: self.bias.as_ref().map(slice),
            positive: self.positive.as_ref().map(slice),
            excluded: self.excluded.as_ref(),
        }
    }
}

/// Tensors for the gradients that are wanted.
struct GradientTensors<H> {
    hidden: Option<H>,
    weight: Option<H>,
    bias: Option<H>,
    positive: Option<H>,
    targets: Option<H>,
}

impl<H: HostTensor> GradientTensors<H> {
    fn new(
        projection: &HostProjection<H>,
        inputs: &HostInputs<H>,
        wanted: WantedGradients,
    ) -> Self {
        let zeros = |wanted: bool, like: &H| wanted.then(|| H::zeros(like.shape(), like.dtype()));
        let given = |wanted, like: &Option<H>| like.as_ref().and_then(|like| zeros(wanted, like));
        Self {
            hidden: zeros(wanted.hidden, &projection.hidden),
            weight: wanted
                .weight
                .then(|| H::unwritten(projection.weight.shape(), projection.weight.dtype())),
            bias: given(wanted.bias, &projection.bias),
            positive: given(wanted.positive, &projection.positive),
            targets: inputs.targets_gradient(wanted.targets),
        }
    }

    fn slices<A: Arithmetic>(&mut self) -> ProjectionGradients<'_, A> {
        fn slice<A: Arithmetic, H: HostTensor>(tensor: &mut Option<H>) -> Option<&mut [A]> {
            let same = "gradients are made in the dtype of the arithmetic";
            let tensor = tensor.as_mut()?;
            Some(A::slice_mut(tensor.floats_mut()).expect(same))
        }
        ProjectionGradients {
            hidden: slice(&mut self.hidden),
            weight: slice(&mut self.weight),
            bias: slice(&mut self.bias),
            positive: slice(&mut self.positive),
            targets: slice(&mut self.targets),
        }
    }

    fn close<B: HostBackend<Host = H>>(self) -> Gradients<B> {
        let closed = |gradient: Option<H>| MaybeFloat::from(gradient.map(B::close));
        Gradients {
            logits: MaybeFloat::None,
            targets: closed(self.targets),
            hidden: closed(self.hidden),
            weight: closed(self.weight),
            bias: closed(self.bias),
            positive: closed(self.positive),
        }
    }
}

fn solve<A: Arithmetic, B: HostBackend>(
    projection: Projection<B>,
    inputs: Inputs<B>,
    options: &Options,
    wanted: Wanted,
    upstream: Option<&B::Host>,
) -> Forward<B> {
    let classes = projection.classes();
    let projection = HostProjection::open(projection);
    let teacher = match &inputs.targets {
        Targets::Projected(teacher) => Some(HostProjection::open(teacher.clone())),
        _ => None,
    };
    let inputs = HostInputs::open::<B>(inputs);
    let rows = projection.hidden.shape()[0];
    let mut gradients = GradientTensors::new(&projection, &inputs, wanted.gradients);
    let (weights, row_weights) = (inputs.weights::<A>(), inputs.row_weights::<A>());
    let upstream = upstream.map(numbers::<A, B::Host>);
    let call = ProjectedCall {
        projection: projection.slices::<A>(),
        teacher: teacher.as_ref().map(HostProjection::slices::<A>),
        rows,
        classes,
        rows_per_chunk: projection.rows_per_chunk,
        options,
        outputs: wanted.outputs,
        targets: inputs.targets(),
        weights: weights.as_deref(),
        row_weights: row_weights.as_deref(),
        upstream: upstream.as_deref(),
        reduction: inputs.reduction,
    };
    let rows_at_once = projection.rows_per_chunk.min(rows);
    let mut chunk = B::Host::unwritten(
        Shape::new([rows_at_once, classes]),
        projection.hidden.dtype(),
    );
    let mut teacher_chunk = teacher
        .as_ref()
        .map(|_| B::Host::unwritten(chunk.shape(), projection.hidden.dtype()));
    let same = "a chunk has the dtype of the arithmetic";
    let solution = call.solve(ProjectionBuffers {
        logits: A::slice_mut(chunk.floats_mut()).expect(same),
        teacher: teacher_chunk
            .as_mut()
            .map(|chunk| A::slice_mut(chunk.floats_mut()).expect(same)),
        gradients: gradients.slices(),
    });
    let logits = Shape::new([rows, classes]);
    let dtype = projection.hidden.dtype();
    Forward {
        saved: saved(gradients.close(), dtype, wanted.gradients),
        ..results::<A, B>(
            solution,
            inputs.reduction,
            &logits,
            options.class_dim,
            wanted,
        )
    }
}
