//! What Flex and NdArray share: their tensors lie in the host's memory, and the kernels of
//! [`cpu`](crate::kernel::cpu) compute on them. Layout, dtype, allocation; no maths.
//!
//! The gradient is made in the forward, while a row is in cache. It goes over the logits if nobody
//! else holds their buffer and they lie in row-major order, else into one new tensor. Logits in any
//! other order of memory are copied into that order first, and the copy is written over.
//!
//! f16 alone is different: its gradient is made in the backward, over the logits that were kept.
//! The numbers of f16 end at 6e-8, and the gradient of a mean over many rows lies below; what scales
//! the loss up for that reason comes with the upstream gradient, and has to be in before rounding.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Shape};

use crate::kernel::cpu::{
    Buffers, Call, Details, Floats, FloatsMut, Indices, Instructions, LinearBuffers, LinearCall,
    Matrix, Own, Projection as SliceProjection, SameIds, Targets as TargetSlices, Valid, multiply,
};
use crate::operation::linear::{
    Excluded, LinearForward, LinearGradients, LinearGradientsOf, LinearOptions, LinearSaved,
    MaybeFloat, Projection,
};
use crate::operation::{
    self, ClassWeights, Denominators, Forward, Geometry, Gradients, GradientsOf, Inputs,
    NOTHING_SAVED, Options, RowReduction, Saved, Targets, accumulation_dtype,
};

/// A tensor in the host's memory.
pub(super) trait HostTensor: Clone {
    fn shape(&self) -> Shape;
    fn dtype(&self) -> DType;
    /// The same in row-major order, copied only if it is not.
    fn row_major(self) -> Self;
    /// The numbers of a float tensor in row-major order.
    fn floats(&self) -> Floats<'_>;
    /// The numbers of a float matrix from its first on, and its strides; `None` where they do not lie in
    /// one slice.
    fn matrix(&self) -> Option<(Floats<'_>, [usize; 2])>;
    /// The numbers of an integer tensor in row-major order.
    fn indices(&self) -> Indices<'_>;
    /// Whether the tensor is in row-major order, and no other shares its buffer.
    fn is_unshared(&self) -> bool;
    /// The numbers of a tensor in row-major order to write over; in a copy, if others share them.
    fn floats_mut(&mut self) -> FloatsMut<'_>;
    fn zeros(shape: Shape, dtype: DType) -> Self;
    fn of_f32(numbers: Vec<f32>, shape: Shape) -> Self;
    fn of_f64(numbers: Vec<f64>, shape: Shape) -> Self;
    fn of_i32(numbers: Vec<i32>, shape: Shape) -> Self;
}

/// A backend whose tensors are such, or become such by being opened.
pub(super) trait HostBackend:
    Backend<FloatTensorPrimitive = Self::Tensor, IntTensorPrimitive = Self::Tensor>
{
    type Tensor: TensorMetadata;
    type Host: HostTensor;

    fn open(tensor: Self::Tensor) -> Self::Host;
    fn close(host: Self::Host) -> Self::Tensor;
}

/// Makes a backend compute with the functions below.
macro_rules! computes_on_host {
    ($backend:ty) => {
        impl CrossEntropyBackend for $backend {
            fn cross_entropy(
                logits: FloatTensor<Self>,
                inputs: Inputs<Self>,
                options: Options,
            ) -> Forward<Self> {
                $crate::backend::host::cross_entropy(logits, inputs, options)
            }

            fn cross_entropy_backward(
                saved: Saved<Self>,
                inputs: Inputs<Self>,
                upstream: FloatTensor<Self>,
                options: Options,
            ) -> Gradients<Self> {
                $crate::backend::host::cross_entropy_backward(saved, inputs, upstream, options)
            }

            fn linear_cross_entropy(
                projection: Projection<Self>,
                inputs: Inputs<Self>,
                options: LinearOptions,
            ) -> LinearForward<Self> {
                $crate::backend::host::linear_cross_entropy(projection, inputs, options)
            }

            fn linear_cross_entropy_backward(
                saved: LinearSaved<Self>,
                inputs: Inputs<Self>,
                upstream: FloatTensor<Self>,
                options: LinearOptions,
            ) -> LinearGradients<Self> {
                $crate::backend::host::linear_cross_entropy_backward(
                    saved, inputs, upstream, options,
                )
            }
        }
    };
}

pub(super) use computes_on_host;

/// What the arithmetic is done in: f32 or f64.
trait Arithmetic: Own {
    fn host<H: HostTensor>(numbers: Vec<Self>, shape: Shape) -> H;
}

impl Arithmetic for f32 {
    fn host<H: HostTensor>(numbers: Vec<Self>, shape: Shape) -> H {
        H::of_f32(numbers, shape)
    }
}

impl Arithmetic for f64 {
    fn host<H: HostTensor>(numbers: Vec<Self>, shape: Shape) -> H {
        H::of_f64(numbers, shape)
    }
}

/// Calls a function for the arithmetic that belongs to a tensor's dtype.
macro_rules! in_arithmetic_of {
    ($tensor:expr, $function:ident($($argument:expr),*)) => {
        match $tensor.dtype() {
            DType::F64 => $function::<f64, _>($($argument),*),
            _ => $function::<f32, _>($($argument),*),
        }
    };
}

pub(super) fn cross_entropy<B: HostBackend>(
    logits: FloatTensor<B>,
    inputs: Inputs<B>,
    options: Options,
) -> Forward<B> {
    let (logits, inputs) = (B::open(logits).row_major(), HostInputs::open::<B>(inputs));
    let gradient_comes_later = inputs.has_gradient_in_f16(&logits, &options);
    if !options.keep || gradient_comes_later {
        let (loss, details) = in_arithmetic_of!(logits, loss(&logits, &inputs, &options));
        return Forward {
            loss: B::close(loss),
            details: details.close::<B>(),
            saved: if options.keep {
                Saved::AsGiven {
                    input: B::close(logits),
                }
            } else {
                Saved::Nothing
            },
        };
    }
    let (loss, details, gradients) =
        in_arithmetic_of!(logits, loss_and_gradients(logits, &inputs, &options, None));
    Forward {
        loss: B::close(loss),
        details: details.close::<B>(),
        saved: Saved::Gradients {
            gradients: gradients.close::<B>(),
        },
    }
}

pub(super) fn cross_entropy_backward<B: HostBackend>(
    saved: Saved<B>,
    inputs: Inputs<B>,
    upstream: FloatTensor<B>,
    options: Options,
) -> Gradients<B> {
    let (upstream, inputs) = (B::open(upstream).row_major(), HostInputs::open::<B>(inputs));
    match saved {
        Saved::Gradients { gradients } => {
            let multiplied = |gradient: B::Tensor| {
                let gradient = B::open(gradient);
                B::close(in_arithmetic_of!(
                    gradient,
                    times(gradient, &inputs, &upstream, &options)
                ))
            };
            gradients.map(multiplied)
        }
        Saved::AsGiven { input: logits } | Saved::Logits { logits, .. } => {
            let logits = B::open(logits).row_major();
            let upstream = Some(&upstream);
            let (_, _, gradients) = in_arithmetic_of!(
                logits,
                loss_and_gradients(logits, &inputs, &options, upstream)
            );
            gradients.close::<B>()
        }
        Saved::Nothing => unreachable!("{NOTHING_SAVED}"),
    }
}

/// The loss of a projection, on the buffers of its tensors. Those of half precision are widened as a
/// whole: their products, and the gradients until the backward has multiplied them, are in f32.
pub(super) fn linear_cross_entropy<B: HostBackend>(
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

pub(super) fn linear_cross_entropy_backward<B: HostBackend>(
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

/// The first index target that is neither a class nor ignored: its row and its value.
pub(super) fn first_bad_index<B: HostBackend>(
    indices: B::Tensor,
    classes: usize,
    ignored: &[i64],
) -> Option<(usize, i128)> {
    let indices = B::open(indices).row_major();
    indices.indices().first_bad(&Valid { classes, ignored })
}

/// The inputs of a call in row-major order.
struct HostInputs<H> {
    /// Indices or distributions.
    targets: HostTargets<H>,
    weights: Option<H>,
    normalizer: Option<[f64; 2]>,
}

enum HostTargets<H> {
    Indices(H),
    Distributions(H),
}

impl<H: HostTensor> HostInputs<H> {
    fn open<B: HostBackend<Host = H>>(inputs: Inputs<B>) -> Self {
        Self {
            targets: match inputs.targets {
                Targets::Indices(indices) => HostTargets::Indices(B::open(indices).row_major()),
                Targets::Distributions(targets) => {
                    HostTargets::Distributions(B::open(targets).row_major())
                }
            },
            weights: match inputs.weights {
                ClassWeights::Equal => None,
                ClassWeights::PerClass(weights) => Some(B::open(weights).row_major()),
            },
            normalizer: match inputs.normalizer {
                Denominators::OfRows => None,
                Denominators::Given(given) => {
                    let given = numbers::<f64, H>(&B::open(given).row_major());
                    Some([given[0], given[1]])
                }
            },
        }
    }

    fn weights<A: Arithmetic>(&self) -> Option<Vec<A>> {
        self.weights.as_ref().map(numbers)
    }

    fn call<'a, A: Arithmetic>(
        &'a self,
        shape: &Shape,
        options: &'a Options,
        weights: Option<&'a [A]>,
        upstream: Option<&'a [A]>,
    ) -> Call<'a, A> {
        Call {
            geometry: Geometry::new(shape, options.class_dim),
            options,
            targets: match &self.targets {
                HostTargets::Indices(indices) => TargetSlices::Indices(indices.indices()),
                HostTargets::Distributions(targets) => {
                    TargetSlices::Distributions(targets.floats())
                }
            },
            weights,
            upstream,
            normalizer: self.normalizer,
            instructions: Instructions::best(),
        }
    }

    fn has_gradient_in_f16(&self, logits: &H, options: &Options) -> bool {
        let of_logits = options.gradients_of != GradientsOf::Targets;
        let of_targets = options.gradients_of != GradientsOf::Logits;
        let targets = match &self.targets {
            HostTargets::Distributions(targets) if of_targets => Some(targets.dtype()),
            _ => None,
        };
        (of_logits && logits.dtype() == DType::F16) || targets == Some(DType::F16)
    }

    /// One factor per row, 1 where the row does not count: its gradient of 0 stays 0, whatever it is
    /// multiplied by. `None` where that holds for all rows, in a mean over nothing.
    fn factors_of_counted_rows<A: Arithmetic>(
        &self,
        factors: Vec<A>,
        geometry: &Geometry,
        options: &Options,
    ) -> Option<Vec<A>> {
        let has_gradient =
            |[total, counted]: [f64; 2]| total != 0.0 || (options.z_loss != 0.0 && counted != 0.0);
        if self
            .normalizer
            .is_some_and(|normalizer| !has_gradient(normalizer))
        {
            return None;
        }
        let HostTargets::Indices(indices) = &self.targets else {
            return Some(factors);
        };
        let indices = indices.indices();
        let valid = Valid {
            classes: geometry.classes,
            ignored: &options.ignore_indices,
        };
        let weights = self.weights::<A>();
        let (total, counted) = indices.totals(weights.as_deref(), &valid);
        if options.reduction == RowReduction::Mean && !has_gradient([total, counted]) {
            return None;
        }
        let factor = |row| match factors[..] {
            [factor] => factor,
            _ => factors[row],
        };
        let rows = 0..geometry.rows();
        Some(
            rows.map(|row| match indices.counts(row, &valid) {
                true => factor(row),
                false => A::ONE,
            })
            .collect(),
        )
    }

    /// A buffer for the gradient of the distributions, if that is asked for.
    fn targets_gradient(&self, options: &Options) -> Option<H> {
        match (&self.targets, options.gradients_of) {
            (HostTargets::Indices(_), _) | (_, GradientsOf::Logits) => None,
            (HostTargets::Distributions(targets), _) => {
                Some(H::zeros(targets.shape(), targets.dtype()))
            }
        }
    }
}

/// The gradients that were asked for.
struct HostGradients<H> {
    logits: Option<H>,
    targets: Option<H>,
}

impl<H: HostTensor> HostGradients<H> {
    fn close<B: HostBackend<Host = H>>(self) -> Gradients<B> {
        match (self.logits.map(B::close), self.targets.map(B::close)) {
            (Some(logits), None) => Gradients::Logits { logits },
            (None, Some(targets)) => Gradients::Targets { targets },
            (Some(logits), Some(targets)) => Gradients::Both { logits, targets },
            (None, None) => unreachable!("a gradient of index targets is never asked for"),
        }
    }
}

/// The details that were asked for.
struct HostDetails<H> {
    of_rows: Option<HostRows<H>>,
}

/// As in [`operation::Details`].
struct HostRows<H> {
    numbers: H,
    classes: H,
    totals: H,
}

impl<H: HostTensor> HostDetails<H> {
    fn new<A: Arithmetic>(details: Details<A>, rows: usize, options: &Options) -> Self {
        let numbers = options.details.numbers();
        Self {
            of_rows: (numbers != 0).then(|| HostRows {
                numbers: A::host(details.numbers, Shape::new([numbers, rows])),
                classes: H::of_i32(details.classes, Shape::new([2, rows])),
                totals: A::host(details.totals.map(A::of).to_vec(), Shape::new([2])),
            }),
        }
    }

    fn close<B: HostBackend<Host = H>>(self) -> operation::Details<B> {
        match self.of_rows {
            None => operation::Details::Nothing,
            Some(HostRows {
                numbers,
                classes,
                totals,
            }) => operation::Details::PerRow {
                numbers: B::close(numbers),
                classes: B::close(classes),
                totals: B::close(totals),
            },
        }
    }
}

fn loss<A: Arithmetic, H: HostTensor>(
    logits: &H,
    inputs: &HostInputs<H>,
    options: &Options,
) -> (H, HostDetails<H>) {
    let shape = logits.shape();
    let weights = inputs.weights::<A>();
    let call = inputs.call(&shape, options, weights.as_deref(), None);
    let solution = call.solve(Buffers {
        logits: Some(logits.floats()),
        gradient: None,
        targets_gradient: None,
    });
    let rows = call.geometry.rows();
    (
        A::host(solution.losses, options.loss_shape(&shape)),
        HostDetails::new(solution.details, rows, options),
    )
}

fn loss_and_gradients<A: Arithmetic, H: HostTensor>(
    mut logits: H,
    inputs: &HostInputs<H>,
    options: &Options,
    upstream: Option<&H>,
) -> (H, HostDetails<H>, HostGradients<H>) {
    let shape = logits.shape();
    let weights = inputs.weights::<A>();
    let upstream = upstream.map(numbers::<A, H>);
    let call = inputs.call(&shape, options, weights.as_deref(), upstream.as_deref());
    let mut targets = inputs.targets_gradient(options);
    let targets_gradient = targets.as_mut().map(HostTensor::floats_mut);

    let (solution, logits) = if options.gradients_of == GradientsOf::Targets {
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
        let mut gradient = H::zeros(shape.clone(), logits.dtype());
        let solution = call.solve(Buffers {
            logits: Some(logits.floats()),
            gradient: Some(gradient.floats_mut()),
            targets_gradient,
        });
        (solution, Some(gradient))
    };
    let rows = call.geometry.rows();
    let loss = A::host(solution.losses, options.loss_shape(&shape));
    let details = HostDetails::new(solution.details, rows, options);
    (loss, details, HostGradients { logits, targets })
}

/// The product of a gradient with the upstream gradient.
fn times<A: Arithmetic, H: HostTensor>(
    mut gradient: H,
    inputs: &HostInputs<H>,
    upstream: &H,
    options: &Options,
) -> H {
    let mut factors = numbers::<A, H>(upstream);
    let geometry = Geometry::new(&gradient.shape(), options.class_dim);
    if geometry.rows() == 0 || factors.iter().all(|&factor| factor == A::ONE) {
        return gradient;
    }
    if factors.iter().any(|factor| !factor.is_finite()) {
        factors = match inputs.factors_of_counted_rows(factors, &geometry, options) {
            Some(factors) => factors,
            None => return gradient,
        };
    }
    multiply(
        gradient.floats_mut(),
        &geometry,
        &factors,
        Instructions::best(),
    );
    gradient
}

/// The numbers of a small tensor in row-major order.
fn numbers<A: Arithmetic, H: HostTensor>(tensor: &H) -> Vec<A> {
    tensor.floats().to_vec(Instructions::best())
}
