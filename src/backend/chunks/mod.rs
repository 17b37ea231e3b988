//! The loss of a projection, one chunk of rows after the other: the logits of a chunk, their loss and
//! gradient by the operation on logits, and from that the gradients of the projection.
//!
//! A reduced loss has its gradients made in the forward, while the logits of a chunk exist: three
//! matrix products instead of four. What the sums are divided by is known from the targets before the
//! first chunk. An unreduced loss has an upstream gradient for every row, so its logits are made once
//! more in the backward; and so are those of f16, whose gradients must not be rounded before what
//! scales the loss up has reached them.

mod collected;

use std::marker::PhantomData;
use std::ops::Range;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{FloatDType, Shape, Slice};

use self::collected::{Accumulated, Parts};
use super::CrossEntropyBackend;
use crate::operation::linear::{
    Excluded, LinearForward, LinearGradients, LinearOptions, LinearSaved, MaybeFloat, Projection,
};
use crate::operation::{
    Denominators, Forward, Gradients, GradientsOf, Inputs, NOTHING_SAVED, Options, RowReduction,
    Saved, Targets, accumulation_dtype,
};
use crate::reference;

/// The operation on logits.
pub(super) trait OnLogits<B: Backend> {
    fn forward(logits: FloatTensor<B>, inputs: Inputs<B>, options: &Options) -> Forward<B>;

    fn backward(
        saved: Saved<B>,
        inputs: Inputs<B>,
        upstream: FloatTensor<B>,
        options: &Options,
    ) -> Gradients<B>;
}

/// The backend's own.
pub(super) struct Own;

impl<B: CrossEntropyBackend> OnLogits<B> for Own {
    fn forward(logits: FloatTensor<B>, inputs: Inputs<B>, options: &Options) -> Forward<B> {
        B::cross_entropy(logits, inputs, options.clone())
    }

    fn backward(
        saved: Saved<B>,
        inputs: Inputs<B>,
        upstream: FloatTensor<B>,
        options: &Options,
    ) -> Gradients<B> {
        B::cross_entropy_backward(saved, inputs, upstream, options.clone())
    }
}

/// In plain tensor operations.
pub(super) struct Portable;

impl<B: Backend> OnLogits<B> for Portable {
    fn forward(logits: FloatTensor<B>, inputs: Inputs<B>, options: &Options) -> Forward<B> {
        reference::cross_entropy::<B>(logits, inputs, options)
    }

    fn backward(
        saved: Saved<B>,
        inputs: Inputs<B>,
        upstream: FloatTensor<B>,
        options: &Options,
    ) -> Gradients<B> {
        reference::cross_entropy_backward::<B>(saved, inputs, upstream, options)
    }
}

pub(super) fn forward<B: Backend, L: OnLogits<B>>(
    projection: Projection<B>,
    inputs: Inputs<B>,
    options: &LinearOptions,
) -> LinearForward<B> {
    let chunks = Chunks::<B, L>::new(&projection, inputs, options);
    let is_reduced = options.loss.reduction != RowReduction::None;
    let keeps_projection = chunks.keeps_projection(&projection);
    let makes_gradients = options.loss.keep && !keeps_projection;
    let mut parts = Parts::default();
    let mut gradients = Accumulated::new(&projection, &chunks, makes_gradients);
    for rows in chunks.ranges() {
        let input = chunks.input(&projection, &rows);
        let logits = chunks.logits(input.clone(), &rows, &projection);
        let inputs = chunks.inputs(&rows);
        let options = chunks.loss_options(makes_gradients);
        let forward = L::forward(logits, inputs.clone(), &options);
        if makes_gradients {
            let input = chunks.counted(input, &inputs);
            let one = ones_like::<B>(&forward.loss);
            let of_logits = L::backward(forward.saved, inputs, one, &options);
            gradients.add(&rows, input, &projection, of_logits);
        }
        parts.add(forward.loss, forward.details);
    }
    let (loss, details) = parts.finish(is_reduced);
    LinearForward {
        loss,
        details,
        saved: match (options.loss.keep, makes_gradients) {
            (false, _) => LinearSaved::Nothing,
            (true, false) => LinearSaved::AsGiven { projection },
            (true, true) => LinearSaved::Gradients {
                gradients: gradients.finish(&projection),
            },
        },
    }
}

pub(super) fn backward<B: Backend, L: OnLogits<B>>(
    saved: LinearSaved<B>,
    inputs: Inputs<B>,
    upstream: FloatTensor<B>,
    options: &LinearOptions,
) -> LinearGradients<B> {
    let projection = match saved {
        LinearSaved::AsGiven { projection } => projection,
        LinearSaved::Gradients { gradients } => return multiplied::<B>(gradients, upstream),
        LinearSaved::Nothing => unreachable!("{NOTHING_SAVED}"),
    };
    let chunks = Chunks::<B, L>::new(&projection, inputs, options);
    let mut gradients = Accumulated::new(&projection, &chunks, true);
    for rows in chunks.ranges() {
        let input = chunks.input(&projection, &rows);
        let logits = chunks.logits(input.clone(), &rows, &projection);
        let inputs = chunks.inputs(&rows);
        let options = chunks.loss_options(true);
        let upstream = match options.reduction {
            RowReduction::None => window::<B>(upstream.clone(), &rows),
            _ => upstream.clone(),
        };
        let input = chunks.counted(input, &inputs);
        let forward = L::forward(logits, inputs.clone(), &options);
        let of_logits = L::backward(forward.saved, inputs, upstream, &options);
        gradients.add(&rows, input, &projection, of_logits);
    }
    gradients.finish(&projection)
}

/// The gradients of a reduced loss, which were made for an upstream gradient of 1.
fn multiplied<B: Backend>(
    gradients: LinearGradients<B>,
    upstream: FloatTensor<B>,
) -> LinearGradients<B> {
    let multiply = |gradient: MaybeFloat<B>| {
        let product = gradient.into_option().map(|gradient| {
            // CubeCL fills no tensors without elements.
            if gradient.shape().num_elements() == 0 {
                return gradient;
            }
            let shape = vec![1; gradient.shape().num_dims()];
            let upstream = B::float_reshape(upstream.clone(), Shape::from(shape));
            let dtype = gradient.dtype();
            let float = accumulation_dtype(dtype);
            let gradient = B::float_cast(gradient, float);
            // What is 0, because no row that counts has reached it, is so whatever the upstream.
            let bool_dtype = get_or_init_device_settings::<B>(&gradient.device()).bool_dtype;
            let nothing = B::float_equal_elem(gradient.clone(), 0.0.into(), bool_dtype);
            let product = B::float_mul(gradient, B::float_cast(upstream, float));
            B::float_cast(
                B::float_mask_fill(product, nothing, 0.0.into()),
                dtype.into(),
            )
        });
        MaybeFloat::from(product)
    };
    LinearGradients {
        input: multiply(gradients.input),
        weight: multiply(gradients.weight),
        bias: multiply(gradients.bias),
        own: multiply(gradients.own),
        targets: multiply(gradients.targets),
    }
}

/// A call, and how its rows are divided.
struct Chunks<'a, B: Backend, L> {
    inputs: Inputs<B>,
    options: &'a LinearOptions,
    /// `Normalized` for every reduced loss.
    reduction: RowReduction,
    rows: usize,
    classes: usize,
    device: B::Device,
    on_logits: PhantomData<L>,
}

impl<'a, B: Backend, L: OnLogits<B>> Chunks<'a, B, L> {
    fn new(projection: &Projection<B>, inputs: Inputs<B>, options: &'a LinearOptions) -> Self {
        let rows = projection.input.shape()[0];
        let classes = projection.classes();
        let device = projection.input.device();
        let float = accumulation_dtype(projection.input.dtype());
        let number = |number: f64| B::float_full(Shape::new([2]), number.into(), &device, float);
        let normalizer = match (options.loss.reduction, &inputs.targets) {
            (RowReduction::None, _) => Denominators::OfRows,
            (RowReduction::Normalized, _) => inputs.normalizer.clone(),
            (RowReduction::Mean, Targets::Indices(indices)) => {
                Denominators::Given(reference::denominators_of_mean::<B>(
                    indices.clone(),
                    &inputs.weights,
                    classes,
                    &options.loss,
                    float,
                ))
            }
            (RowReduction::Mean, Targets::Distributions(_)) => {
                Denominators::Given(number(rows as f64))
            }
            (RowReduction::BatchMean(samples), _) => Denominators::Given(number(samples as f64)),
            (RowReduction::Sum, _) => Denominators::Given(number(1.0)),
        };
        Self {
            inputs: Inputs {
                normalizer,
                ..inputs
            },
            reduction: match options.loss.reduction {
                RowReduction::None => RowReduction::None,
                _ => RowReduction::Normalized,
            },
            options,
            rows,
            classes,
            device,
            on_logits: PhantomData,
        }
    }

    /// The rows of each chunk; without any rows one chunk of none.
    fn ranges(&self) -> Vec<Range<usize>> {
        let starts = (0..self.rows.max(1)).step_by(self.options.rows_per_chunk);
        starts
            .map(|start| start..self.rows.min(start + self.options.rows_per_chunk))
            .collect()
    }

    fn loss_options(&self, keep: bool) -> Options {
        let gradients_of = self.options.gradients_of;
        Options {
            reduction: self.reduction,
            keep,
            gradients_of: match (gradients_of.logits(), gradients_of.targets) {
                (_, false) => GradientsOf::Logits,
                (false, true) => GradientsOf::Targets,
                (true, true) => GradientsOf::Both,
            },
            ..self.options.loss.clone()
        }
    }

    fn keeps_projection(&self, projection: &Projection<B>) -> bool {
        let targets = match &self.inputs.targets {
            Targets::Indices(indices) => indices.dtype(),
            Targets::Distributions(targets) => targets.dtype(),
        };
        self.options
            .keeps_projection(projection.input.dtype(), targets)
    }

    fn input(&self, projection: &Projection<B>, rows: &Range<usize>) -> FloatTensor<B> {
        window::<B>(projection.input.clone(), rows)
    }

    /// The logits of rows with this input.
    fn logits(
        &self,
        input: FloatTensor<B>,
        rows: &Range<usize>,
        projection: &Projection<B>,
    ) -> FloatTensor<B> {
        let features = input.shape()[1];
        let columns = projection.weight.shape()[1];
        let shape = Shape::new([rows.len(), columns]);
        let dtype: FloatDType = input.dtype().into();
        let logits = if rows.is_empty() || features == 0 || columns == 0 {
            B::float_zeros(shape.clone(), &self.device, dtype)
        } else {
            B::float_matmul(input, projection.weight.clone())
        };
        let logits = match &projection.bias {
            MaybeFloat::None => logits,
            MaybeFloat::Some(bias) => {
                let bias = B::float_reshape(bias.clone(), Shape::new([1, columns]));
                B::float_add(logits, bias)
            }
        };
        let logits = match &projection.excluded {
            Excluded::SameId {
                rows: ids,
                columns: others,
            } if shape.num_elements() > 0 => {
                let ids = int_window::<B>(ids.clone(), rows);
                let ids = B::int_reshape(ids, Shape::new([rows.len(), 1]));
                let others = B::int_reshape(others.clone(), Shape::new([1, columns]));
                let bool_dtype = get_or_init_device_settings::<B>(&self.device).bool_dtype;
                let same = B::int_equal(
                    B::int_expand(ids, shape.clone()),
                    B::int_expand(others, shape),
                    bool_dtype,
                );
                B::float_mask_fill(logits, same, f64::NEG_INFINITY.into())
            }
            _ => logits,
        };
        match &projection.own {
            MaybeFloat::None => logits,
            // CubeCL puts no tensors without elements together.
            MaybeFloat::Some(_) if rows.is_empty() => {
                B::float_zeros(Shape::new([0, self.classes]), &self.device, dtype)
            }
            MaybeFloat::Some(own) => {
                let own = window::<B>(own.clone(), rows);
                let own = B::float_reshape(own, Shape::new([rows.len(), 1]));
                match columns {
                    0 => own,
                    _ => B::float_cat(vec![own, logits], 1),
                }
            }
        }
    }

    /// The input for the gradient of the weight, to which a row that does not count adds 0 times its
    /// own numbers: NaN, if it holds one.
    fn counted(&self, input: FloatTensor<B>, inputs: &Inputs<B>) -> FloatTensor<B> {
        match &inputs.targets {
            Targets::Indices(indices) if self.options.gradients_of.weight && self.rows > 0 => {
                let options = &self.options.loss;
                reference::counted_rows_of::<B>(input, indices.clone(), self.classes, options)
            }
            _ => input,
        }
    }

    fn inputs(&self, rows: &Range<usize>) -> Inputs<B> {
        Inputs {
            targets: match &self.inputs.targets {
                Targets::Indices(indices) => {
                    Targets::Indices(int_window::<B>(indices.clone(), rows))
                }
                Targets::Distributions(targets) => {
                    Targets::Distributions(window::<B>(targets.clone(), rows))
                }
            },
            ..self.inputs.clone()
        }
    }
}

fn rows_slice(rows: &Range<usize>) -> Slice {
    Slice::new(rows.start as isize, Some(rows.end as isize), 1)
}

/// Consecutive rows of a tensor.
fn window<B: Backend>(tensor: FloatTensor<B>, rows: &Range<usize>) -> FloatTensor<B> {
    if *rows == (0..tensor.shape()[0]) {
        return tensor;
    }
    let mut window = vec![Slice::full(); tensor.shape().num_dims()];
    window[0] = rows_slice(rows);
    B::float_slice(tensor, &window)
}

fn int_window<B: Backend>(tensor: IntTensor<B>, rows: &Range<usize>) -> IntTensor<B> {
    if *rows == (0..tensor.shape()[0]) {
        return tensor;
    }
    B::int_slice(tensor, &[rows_slice(rows)])
}

fn ones_like<B: Backend>(tensor: &FloatTensor<B>) -> FloatTensor<B> {
    B::float_ones(tensor.shape(), &tensor.device(), tensor.dtype().into())
}
