//! The loss of a projection on the host: its tensors as slices, the gradients it has, and what multiplies
//! them. Layout, dtype, allocation; no maths.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Shape};

use super::{Arithmetic, HostBackend, HostDetails, HostInputs, HostTargets, HostTensor, numbers};
use crate::kernel::cpu::{
    Instructions, LinearBuffers, LinearCall, Matrix, Projection as SliceProjection, SameIds,
    Targets as TargetSlices, multiply,
};
use crate::operation::linear::{
    Excluded, LinearForward, LinearGradients, LinearGradientsOf, LinearOptions, LinearSaved,
    MaybeFloat, Projection,
};
use crate::operation::{
    Geometry, Inputs, NOTHING_SAVED, RowReduction, Targets, accumulation_dtype,
};

/// The loss of a projection, on the buffers of its tensors. Those of half precision are widened as a
/// whole: their products, and the gradients until the backward has multiplied them, are in f32.
pub(in crate::backend) fn linear_cross_entropy<B: HostBackend>(
    projection: Projection<B>,
    inputs: Inputs<B>,
    options: LinearOptions,
) -> LinearForward<B> {
    let starts_again = options.loss.reduction == RowReduction::None;
    let of = match options.loss.keep && !starts_again {
        true => options.gradients_of,
        false => LinearGradientsOf::default(),
    };
    let solved = solved_linear::<B>(&projection, inputs, None, (&options, of));
    LinearForward {
        loss: B::close(solved.loss),
        details: solved.details.close::<B>(),
        saved: match (options.loss.keep, starts_again) {
            (false, _) => LinearSaved::Nothing,
            (true, true) => LinearSaved::AsGiven { projection },
            (true, false) => LinearSaved::Gradients {
                gradients: solved.gradients,
            },
        },
    }
}

pub(in crate::backend) fn linear_cross_entropy_backward<B: HostBackend>(
    saved: LinearSaved<B>,
    inputs: Inputs<B>,
    upstream: FloatTensor<B>,
    options: LinearOptions,
) -> LinearGradients<B> {
    let targets = match &inputs.targets {
        Targets::Distributions(targets) => targets.dtype(),
        Targets::Indices(_) => options.dtype,
    };
    let upstream = B::open(upstream).row_major();
    let (gradients, upstream) = match saved {
        LinearSaved::Gradients { gradients } => (gradients, Some(upstream)),
        LinearSaved::AsGiven { projection } => {
            let of = options.gradients_of;
            let solved = solved_linear::<B>(&projection, inputs, Some(upstream), (&options, of));
            (solved.gradients, None)
        }
        LinearSaved::Nothing => unreachable!("{NOTHING_SAVED}"),
    };
    let finished = |gradient: MaybeFloat<B>, dtype: DType| {
        let gradient = gradient.into_option().map(|gradient| {
            let gradient = match &upstream {
                None => gradient,
                Some(upstream) => {
                    let gradient = B::open(gradient);
                    B::close(in_arithmetic_of!(gradient, times_one(gradient, upstream)))
                }
            };
            in_dtype::<B>(gradient, dtype)
        });
        MaybeFloat::from(gradient)
    };
    LinearGradients {
        input: finished(gradients.input, options.dtype),
        weight: finished(gradients.weight, options.dtype),
        bias: finished(gradients.bias, options.dtype),
        own: finished(gradients.own, options.dtype),
        targets: finished(gradients.targets, targets),
    }
}

fn in_dtype<B: Backend>(tensor: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    match tensor.dtype() == dtype {
        true => tensor,
        false => B::float_cast(tensor, dtype.into()),
    }
}

/// [`solve_linear`] in the dtype that is computed in.
fn solved_linear<B: HostBackend>(
    projection: &Projection<B>,
    inputs: Inputs<B>,
    upstream: Option<B::Host>,
    options: (&LinearOptions, LinearGradientsOf),
) -> SolvedLinear<B> {
    let dtype = accumulation_dtype(projection.input.dtype()).into();
    let wide = |tensor: &FloatTensor<B>| in_dtype::<B>(tensor.clone(), dtype);
    let maybe_wide = |tensor: &MaybeFloat<B>| match tensor {
        MaybeFloat::None => MaybeFloat::None,
        MaybeFloat::Some(tensor) => MaybeFloat::Some(wide(tensor)),
    };
    let projection = Projection {
        input: wide(&projection.input),
        weight: wide(&projection.weight),
        bias: maybe_wide(&projection.bias),
        own: maybe_wide(&projection.own),
        excluded: projection.excluded.clone(),
    };
    let inputs = Inputs {
        targets: match inputs.targets {
            // Their gradient is written in the dtype that is computed in; else any is read.
            Targets::Distributions(targets) if options.1.targets => {
                Targets::Distributions(wide(&targets))
            }
            targets => targets,
        },
        ..inputs
    };
    match dtype {
        DType::F64 => solve_linear::<f64, B>(&projection, inputs, upstream, options),
        _ => solve_linear::<f32, B>(&projection, inputs, upstream, options),
    }
}

/// What a call over a projection has come to.
struct SolvedLinear<B: HostBackend> {
    loss: B::Host,
    details: HostDetails<B::Host>,
    gradients: LinearGradients<B>,
}

fn solve_linear<A: Arithmetic, B: HostBackend>(
    projection: &Projection<B>,
    inputs: Inputs<B>,
    upstream: Option<B::Host>,
    (options, of): (&LinearOptions, LinearGradientsOf),
) -> SolvedLinear<B> {
    let input = B::open(projection.input.clone()).row_major();
    let mut weight = B::open(projection.weight.clone());
    if weight.matrix().is_none() {
        weight = weight.row_major();
    }
    let given = |tensor: &MaybeFloat<B>| match tensor {
        MaybeFloat::None => None,
        MaybeFloat::Some(tensor) => Some(B::open(tensor.clone()).row_major()),
    };
    let (bias, own) = (given(&projection.bias), given(&projection.own));
    let excluded = match &projection.excluded {
        Excluded::Nothing => None,
        Excluded::SameId { rows, columns } => {
            let ids = |tensor: &IntTensor<B>| B::open(tensor.clone()).row_major().indices().wide();
            Some(SameIds::new(ids(rows), &ids(columns)))
        }
    };
    let host_inputs = HostInputs::open::<B>(inputs);
    let [rows, features] = input.shape().dims();
    let (columns, classes) = (weight.shape()[1], projection.classes());
    let dtype = input.dtype();
    let zeros = |wanted: bool, shape: Shape| wanted.then(|| B::Host::zeros(shape, dtype));
    let mut input_gradient = zeros(of.input, input.shape());
    let mut weight_gradient = zeros(of.weight, Shape::new([features, columns]));
    let mut bias_gradient = zeros(of.bias && bias.is_some(), Shape::new([columns]));
    let mut own_gradient = zeros(of.own && own.is_some(), Shape::new([rows]));
    let mut targets_gradient = match &host_inputs.targets {
        HostTargets::Distributions(targets) => zeros(of.targets, targets.shape()),
        HostTargets::Indices(_) => None,
    };

    let (numbers, strides) = weight
        .matrix()
        .expect("the weight was brought into one slice");
    let same = "the tensors of a projection have the dtype that is computed in";
    let class_weights = host_inputs.weights::<A>();
    let upstream = upstream.as_ref().map(self::numbers::<A, B::Host>);
    let call = LinearCall {
        rows,
        features,
        classes,
        rows_per_chunk: options.rows_per_chunk,
        options: &options.loss,
        targets: match &host_inputs.targets {
            HostTargets::Indices(indices) => TargetSlices::Indices(indices.indices()),
            HostTargets::Distributions(targets) => TargetSlices::Distributions(targets.floats()),
        },
        weights: class_weights.as_deref(),
        upstream: upstream.as_deref(),
        normalizer: host_inputs.normalizer,
    };
    let slices = SliceProjection {
        input: A::slice(input.floats()).expect(same),
        weight: Matrix::new(A::slice(numbers).expect(same), [features, columns], strides),
        bias: bias
            .as_ref()
            .map(|bias| A::slice(bias.floats()).expect(same)),
        own: own.as_ref().map(|own| A::slice(own.floats()).expect(same)),
        excluded: excluded.as_ref(),
    };
    fn slice_mut<A: Arithmetic, H: HostTensor>(host: &mut H) -> &mut [A] {
        let slice = A::slice_mut(host.floats_mut());
        slice.expect("gradients are made in the dtype that is computed in")
    }
    let solution = call.solve(
        slices,
        LinearBuffers {
            input: input_gradient.as_mut().map(slice_mut),
            weight: weight_gradient.as_mut().map(slice_mut),
            bias: bias_gradient.as_mut().map(slice_mut),
            own: own_gradient.as_mut().map(slice_mut),
            targets: targets_gradient.as_mut().map(slice_mut),
        },
    );
    let closed = |gradient: Option<B::Host>| MaybeFloat::from(gradient.map(B::close));
    let logits = Shape::new([rows, classes]);
    SolvedLinear {
        loss: A::host(solution.losses, options.loss.loss_shape(&logits)),
        details: HostDetails::new(solution.details, rows, &options.loss),
        gradients: LinearGradients {
            input: closed(input_gradient),
            weight: closed(weight_gradient),
            bias: closed(bias_gradient),
            own: closed(own_gradient),
            targets: closed(targets_gradient),
        },
    }
}

/// The product of a gradient with an upstream gradient of one number. What is 0, because no row that
/// counts has reached it, is so whatever the number.
fn times_one<A: Arithmetic, H: HostTensor>(mut gradient: H, upstream: &H) -> H {
    let factor = numbers::<A, H>(upstream)[0];
    if factor == A::ONE {
        return gradient;
    }
    if !factor.to_f64().is_finite() {
        let gradient_slice = A::slice_mut(gradient.floats_mut());
        for slope in gradient_slice.expect("it was made in this dtype") {
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
