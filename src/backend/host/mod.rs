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

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Shape};

use crate::kernel::cpu::{
    Buffers, Call, Details, Floats, FloatsMut, Indices, Instructions, Own, Targets as TargetSlices,
    Valid, multiply,
};
use crate::operation::{
    self, ClassWeights, Denominators, Forward, Geometry, Gradients, GradientsOf, Inputs,
    NOTHING_SAVED, Options, RowReduction, Saved, Targets,
};

/// A tensor in the host's memory.
pub(super) trait HostTensor: Clone {
    fn shape(&self) -> Shape;
    fn dtype(&self) -> DType;
    /// The tensor in row-major order, copied only if it is in another.
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

mod linear;

pub(super) use linear::{linear_cross_entropy, linear_cross_entropy_backward};

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
