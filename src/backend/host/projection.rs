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
    AlikeColumns, ExcludedPairs, MadeTargets, Matrix, ProjectedCall,
    Projection as ProjectionSlices, ProjectionBuffers, ProjectionGradients, SameIds,
};
use crate::operation::{
    Change, Excluded, Forward, Gradients, Ids, Inputs, Logits, MaybeFloat, Options, Projection,
    Role, RowValue, Saved, Targets, Wanted, WantedGradients, accumulation_dtype,
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
            Role::Hidden
            | Role::Weight
            | Role::Bias
            | Role::Leading
            | Role::Bound
            | Role::Teacher => true,
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
struct HostProjection<H, A> {
    hidden: H,
    weight: H,
    bias: Option<H>,
    leading: Option<H>,
    excluded: ExcludedPairs<A>,
    rows_per_chunk: usize,
}

impl<H: HostTensor, A: Arithmetic> HostProjection<H, A> {
    fn open<B: HostBackend<Host = H>>(projection: Projection<B>) -> Self {
        let weight = B::open(projection.weight);
        let row_major = |tensor: MaybeFloat<B>| {
            let tensor = tensor.into_option();
            tensor.map(|tensor| B::open(tensor).row_major())
        };
        Self {
            hidden: B::open(projection.hidden).row_major(),
            weight: match weight.matrix() {
                Some(_) => weight,
                None => weight.row_major(),
            },
            bias: row_major(projection.bias),
            leading: row_major(projection.leading),
            excluded: excluded::<A, B>(projection.excluded),
            rows_per_chunk: projection.rows_per_chunk,
        }
    }

    fn slices(&self) -> ProjectionSlices<'_, A> {
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
            leading: self.leading.as_ref().map_or(&[], slice),
            lead: (self.leading.as_ref()).map_or(0, |leading| leading.shape()[1]),
            excluded: &self.excluded,
        }
    }
}

/// Pairs that are excluded.
fn excluded<A: Arithmetic, B: HostBackend>(excluded: Excluded<B>) -> ExcludedPairs<A> {
    let columns = excluded.columns.into_option();
    let columns_of_row = (columns.as_ref()).map_or(0, |columns| columns.shape()[1]);
    let above = excluded.above.into_option();
    ExcludedPairs {
        ids: same_ids::<B>(excluded.ids),
        unlike: same_ids::<B>(excluded.unlike),
        columns: columns.map_or_else(Vec::new, ints::<B>),
        columns_of_row,
        above: above.map(|above| numbers(&B::open(above).row_major())),
    }
}

/// Ids of rows and columns, if they are given.
fn same_ids<B: HostBackend>(ids: Ids<B>) -> Option<SameIds> {
    match ids {
        Ids::Nothing => None,
        Ids::Given { rows, columns } => Some(SameIds::new(ints::<B>(rows), &ints::<B>(columns))),
    }
}

fn ints<B: HostBackend>(tensor: IntTensor<B>) -> Vec<i128> {
    B::open(tensor).row_major().indices().wide()
}

/// Targets that are made for a chunk of rows at a time.
enum Made<H, A> {
    Nothing,
    Teacher(HostProjection<H, A>),
    Alike(SameIds),
}

impl<H: HostTensor, A: Arithmetic> Made<H, A> {
    fn open<B: HostBackend<Host = H>>(targets: &Targets<B>) -> Self {
        match targets {
            Targets::Projected(teacher) => Self::Teacher(HostProjection::open(teacher.clone())),
            Targets::Alike(ids) => same_ids(ids.clone()).map_or(Self::Nothing, Self::Alike),
            Targets::Indices(_) | Targets::Distributions(_) | Targets::Sparse { .. } => {
                Self::Nothing
            }
        }
    }

    fn slices(&self) -> MadeTargets<'_, A> {
        match self {
            Self::Nothing => MadeTargets::Nothing,
            Self::Teacher(teacher) => MadeTargets::Teacher(teacher.slices()),
            Self::Alike(ids) => MadeTargets::Alike(ids),
        }
    }

    /// Whether the targets become distributions.
    fn is_distribution(&self, options: &Options) -> bool {
        match self {
            Self::Nothing => false,
            Self::Teacher(_) => true,
            Self::Alike(_) => options.value != RowValue::PairSigmoid,
        }
    }
}

/// Tensors for the gradients that are wanted.
struct GradientTensors<H> {
    hidden: Option<H>,
    weight: Option<H>,
    bias: Option<H>,
    leading: Option<H>,
    targets: Option<H>,
}

impl<H: HostTensor> GradientTensors<H> {
    fn new<A>(
        projection: &HostProjection<H, A>,
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
            leading: given(wanted.leading, &projection.leading),
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
            leading: slice(&mut self.leading),
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
            leading: closed(self.leading),
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
    let projection = HostProjection::<_, A>::open(projection);
    let made = Made::open(&inputs.targets);
    let inputs = HostInputs::open::<B>(inputs);
    let rows = projection.hidden.shape()[0];
    let mut gradients = GradientTensors::new(&projection, &inputs, wanted.gradients);
    let (weights, mut row_weights) = (inputs.weights::<A>(), inputs.row_weights::<A>());
    if let (Made::Alike(ids), RowValue::Loss) = (&made, options.value) {
        let excluded = &projection.excluded;
        let weights = AlikeColumns { ids, excluded }.weights(rows, row_weights.as_deref());
        row_weights = Some(weights);
    }
    let upstream = upstream.map(numbers::<A, B::Host>);
    let call = ProjectedCall {
        projection: projection.slices(),
        made: made.slices(),
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
    let mut targets_chunk = (made.is_distribution(options))
        .then(|| B::Host::unwritten(chunk.shape(), projection.hidden.dtype()));
    let same = "a chunk has the dtype of the arithmetic";
    let solution = call.solve(ProjectionBuffers {
        logits: A::slice_mut(chunk.floats_mut()).expect(same),
        targets: targets_chunk
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
