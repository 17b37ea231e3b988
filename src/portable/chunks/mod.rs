//! Loss over a projection, one chunk of rows after the other: the logits of a chunk, the loss and the
//! gradient of these by the operation on logits, and from that the gradients of the projection.
//!
//! The gradients of a reduced loss are computed in the forward, while the logits of a chunk exist: three
//! matrix products instead of four. The divisors are known from the targets before the first chunk. An
//! unreduced loss has an upstream gradient for every row, so its logits are computed again in the
//! backward. Logits of f16 are computed again too: their gradients must not be rounded before the
//! factor that scales the loss up has reached them.

mod collected;
mod pairs;
mod window;

use std::ops::Range;

use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{FloatDType, Shape};

use self::collected::{Accumulated, Parts};
pub(crate) use self::pairs::alike_counts;
use self::window::{bool_window, int_window, ranges, window};
use super::counting::{divisors_of_mean, dropped_rows, without_rows};
use crate::operation::{
    Forward, Gradients, Ids, Inputs, Logits, MaybeFloat, Options, Projection, RowReduction,
    RowValue, Saved, Targets, Wanted, WantedGradients, accumulation_dtype, has_gradient_in_f16,
};

/// Implementation of the operation over the logits of a chunk, and of the sums over rows that a backend has in a wider
/// dtype than its operands.
pub(crate) trait OnLogits<B: Backend> {
    fn forward(
        logits: Logits<B>,
        inputs: Inputs<B>,
        options: &Options,
        wanted: Wanted,
    ) -> Forward<B>;

    fn backward(
        saved: Saved<B>,
        inputs: Inputs<B>,
        upstream: FloatTensor<B>,
        options: &Options,
        wanted: WantedGradients,
    ) -> Gradients<B>;

    /// Gradients for an upstream gradient of 1, where the forward of a reduced loss has computed them; else what it
    /// saved.
    fn computed(saved: Saved<B>) -> Result<Gradients<B>, Saved<B>> {
        Err(saved)
    }

    /// Product of two matrices in the dtype `float`.
    fn product(lhs: FloatTensor<B>, rhs: FloatTensor<B>, float: FloatDType) -> FloatTensor<B> {
        B::float_cast(B::float_matmul(lhs, rhs), float)
    }

    /// Sums of the columns of a matrix, `[1, columns]`, in the dtype `float`.
    fn column_sums(matrix: FloatTensor<B>, float: FloatDType) -> FloatTensor<B> {
        B::float_sum_dim(B::float_cast(matrix, float), 0)
    }
}

pub(crate) fn forward<B: Backend, L: OnLogits<B>>(
    projection: Projection<B>,
    inputs: Inputs<B>,
    options: &Options,
    wanted: Wanted,
) -> Forward<B> {
    let gradients = wanted.gradients;
    let distributions = inputs.targets.distributions_dtype();
    let is_remade = !inputs.reduction.is_reduced()
        || has_gradient_in_f16(gradients, projection.hidden.dtype(), distributions);
    if is_remade || !gradients.any() {
        let wanted = wanted.without_gradients();
        let on_chunk = |logits, inputs| L::forward(logits, inputs, options, wanted);
        let mut forward = losses(&projection, inputs, options, on_chunk);
        if gradients.any() {
            forward.saved = Saved::Logits(Logits::Projected(projection));
        }
        return forward;
    }
    let chunks = Chunks::new(&projection, inputs, options);
    let dropped = chunks.dropped(gradients);
    let mut parts = Parts::default();
    let mut sums = Accumulated::new(&projection, &chunks.inputs, gradients);
    let over_logits = Wanted {
        gradients: gradients.over_logits(),
        ..wanted
    };
    for rows in chunks.ranges() {
        let chunk = chunks.chunk(&rows);
        let forward = L::forward(
            Logits::Tensor(chunk.logits),
            chunk.inputs.clone(),
            options,
            over_logits,
        );
        let hidden = counted::<B>(chunk.hidden, &dropped, &rows);
        let wanted = over_logits.gradients;
        let of_logits = match L::computed(forward.saved) {
            Ok(gradients) => gradients,
            Err(saved) => {
                let one = ones_like::<B>(&forward.loss);
                L::backward(saved, chunk.inputs, one, options, wanted)
            }
        };
        sums.add::<L>(&rows, hidden, &projection, of_logits);
        parts.add(forward.loss, forward.outputs);
    }
    let (loss, outputs) = parts.finish(true);
    Forward {
        loss,
        outputs,
        saved: Saved::Gradients {
            gradients: sums.finish(&projection),
            dtype: projection.hidden.dtype(),
            upstream: 1.0,
        },
    }
}

fn ones_like<B: Backend>(tensor: &FloatTensor<B>) -> FloatTensor<B> {
    B::float_ones(tensor.shape(), &tensor.device(), tensor.dtype().into())
}

/// Losses of the chunks, without gradients.
pub(crate) fn losses<B: Backend>(
    projection: &Projection<B>,
    inputs: Inputs<B>,
    options: &Options,
    on_chunk: impl Fn(Logits<B>, Inputs<B>) -> Forward<B>,
) -> Forward<B> {
    let chunks = Chunks::new(projection, inputs, options);
    let mut parts = Parts::default();
    for rows in chunks.ranges() {
        let chunk = chunks.chunk(&rows);
        let forward = on_chunk(Logits::Tensor(chunk.logits), chunk.inputs);
        parts.add(forward.loss, forward.outputs);
    }
    let (loss, outputs) = parts.finish(chunks.inputs.reduction.is_reduced());
    Forward {
        loss,
        outputs,
        saved: Saved::Nothing,
    }
}

/// Gradients of a projection whose logits are computed again.
pub(crate) fn backward<B: Backend, L: OnLogits<B>>(
    projection: Projection<B>,
    inputs: Inputs<B>,
    upstream: FloatTensor<B>,
    options: &Options,
    wanted: WantedGradients,
) -> Gradients<B> {
    let chunks = Chunks::new(&projection, inputs, options);
    let dropped = chunks.dropped(wanted);
    let mut sums = Accumulated::new(&projection, &chunks.inputs, wanted);
    let over_logits = wanted.over_logits();
    for rows in chunks.ranges() {
        let chunk = chunks.chunk(&rows);
        let upstream = match chunk.inputs.reduction.is_reduced() {
            true => upstream.clone(),
            false => window::<B>(upstream.clone(), &rows),
        };
        let hidden = counted::<B>(chunk.hidden, &dropped, &rows);
        let Forward { saved, .. } = L::forward(
            Logits::Tensor(chunk.logits),
            chunk.inputs.clone(),
            options,
            Wanted::gradients(over_logits),
        );
        let of_logits = L::backward(saved, chunk.inputs, upstream, options, over_logits);
        sums.add::<L>(&rows, hidden, &projection, of_logits);
    }
    sums.finish(&projection)
}

/// Multiplies gradients that were computed for an upstream gradient of 1 by the upstream gradient, or those of rows by
/// the upstream gradients of the rows.
pub(crate) fn multiplied<B: Backend>(
    gradients: Gradients<B>,
    upstream: &FloatTensor<B>,
) -> Gradients<B> {
    gradients.map(|gradient, _| match gradient.shape().num_elements() {
        // CubeCL cannot fill tensors without elements.
        0 => gradient,
        _ => product::<B>(gradient, upstream),
    })
}

/// Product of a gradient, or of those of rows, and the upstream gradient, or those of the rows.
pub(crate) fn product<B: Backend>(
    gradient: FloatTensor<B>,
    upstream: &FloatTensor<B>,
) -> FloatTensor<B> {
    let mut shape = vec![1; gradient.shape().num_dims()];
    shape[0] = upstream.shape().num_elements();
    let upstream = B::float_reshape(upstream.clone(), Shape::from(shape));
    let dtype = gradient.dtype();
    let float = accumulation_dtype(dtype);
    let gradient = B::float_cast(gradient, float);
    let upstream = B::float_cast(upstream, float);
    // A gradient of 0, to which no counted row has contributed, stays 0 for any upstream gradient. Nothing
    // of an infinite one arrives through an upstream gradient of 0.
    let bool_dtype = get_or_init_device_settings::<B>(&gradient.device()).bool_dtype;
    let nothing = B::float_equal_elem(gradient.clone(), 0.0.into(), bool_dtype);
    let none = B::float_equal_elem(upstream.clone(), 0.0.into(), bool_dtype);
    let none = B::bool_expand(none, gradient.shape());
    let lost = B::bool_and(B::float_is_inf(gradient.clone(), bool_dtype), none);
    let nothing = B::bool_or(nothing, lost);
    let product = B::float_mul(gradient, upstream);
    let product = B::float_mask_fill(product, nothing, 0.0.into());
    B::float_cast(product, dtype.into())
}

/// Call over a projection, and the division of its rows into chunks.
struct Chunks<'a, B: Backend> {
    projection: &'a Projection<B>,
    /// Inputs of the call; a mean has become a sum with divisors, which the targets give before the first
    /// chunk.
    inputs: Inputs<B>,
    options: &'a Options,
    rows: usize,
    classes: usize,
}

/// Tensors of consecutive rows.
struct Chunk<B: Backend> {
    hidden: FloatTensor<B>,
    logits: FloatTensor<B>,
    inputs: Inputs<B>,
}

impl<'a, B: Backend> Chunks<'a, B> {
    fn new(projection: &'a Projection<B>, inputs: Inputs<B>, options: &'a Options) -> Self {
        let rows = projection.hidden.shape()[0];
        let classes = projection.classes();
        let float = accumulation_dtype(projection.hidden.dtype());
        let inputs = match &inputs.targets {
            Targets::Alike(ids) if options.value == RowValue::Loss => {
                let weights = weights_of_alike::<B>(projection, ids, &inputs.row_weights);
                Inputs {
                    row_weights: MaybeFloat::Some(weights),
                    ..inputs
                }
            }
            _ => inputs,
        };
        let reduction = match inputs.reduction {
            // Pairs count in every row.
            RowReduction::Mean if options.value == RowValue::PairSigmoid => RowReduction::Sum {
                divisor: rows as f64,
            },
            RowReduction::Mean => {
                match divisors_of_mean::<B>(&inputs, [rows, classes], options, float) {
                    Some(divisors) => RowReduction::Normalized { divisors },
                    None => RowReduction::Sum {
                        divisor: rows as f64,
                    },
                }
            }
            ref given => given.clone(),
        };
        Self {
            inputs: Inputs {
                reduction,
                ..inputs
            },
            options,
            rows,
            classes,
            projection,
        }
    }

    /// Rows of each chunk; a call without rows has one empty chunk.
    fn ranges(&self) -> Vec<Range<usize>> {
        ranges(self.rows, self.projection.rows_per_chunk).collect()
    }

    fn chunk(&self, rows: &Range<usize>) -> Chunk<B> {
        let hidden = window::<B>(self.projection.hidden.clone(), rows);
        Chunk {
            logits: logits::<B>(self.projection, hidden.clone(), rows),
            hidden,
            inputs: self.inputs(rows),
        }
    }

    /// Mask of all rows that do not count, for the gradient of the weight. It takes a dozen operations, which are made
    /// once.
    fn dropped(&self, wanted: WantedGradients) -> Option<BoolTensor<B>> {
        let is_pairs = self.options.value == RowValue::PairSigmoid;
        match wanted.weight && self.rows > 0 && !is_pairs {
            true => dropped_rows::<B>(&self.inputs, [self.rows, self.classes], self.options),
            false => None,
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
                Targets::Sparse { classes, shares } => Targets::Sparse {
                    classes: int_window::<B>(classes.clone(), rows),
                    shares: window::<B>(shares.clone(), rows),
                },
                Targets::Projected(teacher) => {
                    let hidden = window::<B>(teacher.hidden.clone(), rows);
                    Targets::Distributions(logits::<B>(teacher, hidden, rows))
                }
                Targets::Alike(ids) => Targets::Distributions(match self.options.value {
                    RowValue::PairSigmoid => pairs::alike_ones::<B>(self.projection, ids, rows).0,
                    _ => pairs::alike::<B>(self.projection, ids, rows),
                }),
            },
            row_weights: match &self.inputs.row_weights {
                MaybeFloat::None => MaybeFloat::None,
                MaybeFloat::Some(weights) => MaybeFloat::Some(window::<B>(weights.clone(), rows)),
            },
            ..self.inputs.clone()
        }
    }
}

/// Hidden states of a chunk for the gradient of the weight, with 0 for rows that do not count: such a row would add 0
/// times its numbers, NaN where the numbers are not finite.
fn counted<B: Backend>(
    hidden: FloatTensor<B>,
    dropped: &Option<BoolTensor<B>>,
    rows: &Range<usize>,
) -> FloatTensor<B> {
    let dropped = dropped.clone();
    without_rows::<B>(
        hidden,
        dropped.map(|dropped| bool_window::<B>(dropped, rows)),
    )
}

/// Logits of rows with these hidden states.
pub(crate) fn logits<B: Backend>(
    projection: &Projection<B>,
    hidden: FloatTensor<B>,
    rows: &Range<usize>,
) -> FloatTensor<B> {
    let device = hidden.device();
    let features = hidden.shape()[1];
    let columns = projection.weight.shape()[1];
    let shape = Shape::new([rows.len(), columns]);
    let dtype: FloatDType = hidden.dtype().into();
    let logits = if rows.is_empty() || features == 0 || columns == 0 {
        B::float_zeros(shape.clone(), &device, dtype)
    } else {
        B::float_matmul(hidden, projection.weight.clone())
    };
    let logits = pairs::above_bound::<B>(logits, &projection.excluded, rows);
    let logits = match &projection.bias {
        MaybeFloat::None => logits,
        MaybeFloat::Some(bias) => {
            let bias = B::float_reshape(bias.clone(), Shape::new([1, columns]));
            B::float_add(logits, bias)
        }
    };
    let logits = pairs::excluded::<B>(logits, &projection.excluded, rows);
    match &projection.leading {
        MaybeFloat::None => logits,
        // CubeCL cannot concatenate tensors without elements.
        MaybeFloat::Some(_) if rows.is_empty() => {
            B::float_zeros(Shape::new([0, projection.classes()]), &device, dtype)
        }
        MaybeFloat::Some(leading) => {
            let leading = window::<B>(leading.clone(), rows);
            match columns {
                0 => leading,
                _ => B::float_cat(vec![leading, logits], 1),
            }
        }
    }
}

/// Weights of the rows for targets that are alike: a row without a column that is alike is ignored.
fn weights_of_alike<B: Backend>(
    projection: &Projection<B>,
    ids: &Ids<B>,
    given: &MaybeFloat<B>,
) -> FloatTensor<B> {
    let rows = projection.hidden.shape()[0];
    let weights = alike_counts::<B>(projection, ids);
    if rows == 0 {
        return weights;
    }
    let weights = B::float_clamp_max(weights, 1.0.into());
    match given {
        MaybeFloat::None => weights,
        MaybeFloat::Some(given) => {
            let given = B::float_cast(given.clone(), weights.dtype().into());
            B::float_mul(weights, B::float_reshape(given, Shape::new([rows])))
        }
    }
}
