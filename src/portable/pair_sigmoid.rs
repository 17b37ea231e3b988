//! Loss of each pair of a row and a column apart, of a yes or no, over the logits of a chunk:
//!
//! ```text
//! loss = sum_c ln(1 + exp(x[c]))        d loss / dx[c] = sigmoid(x[c])      x negated at the pairs that belong together
//! ```

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{FloatDType, Shape};

use super::counting::{Counting, Ignored};
use super::elementary::{cast, data, full, log1p, sum_all, sum_classes};
use super::sparse::densified;
use crate::operation::{
    Forward, Gradients, Inputs, Options, RowOutputs, RowReduction, Saved, Targets, Wanted,
    accumulation_dtype,
};

/// Losses of the rows `[rows]` of pairs that do not belong together, and the slopes of their logits `[rows, columns]`.
pub(crate) type Pairs<B> = (FloatTensor<B>, FloatTensor<B>);

/// Computes losses and slopes in plain tensor operations.
pub(crate) fn pairs<B: Backend>(x: FloatTensor<B>) -> Pairs<B> {
    let [rows, columns] = x.shape().dims();
    let float: FloatDType = x.dtype().into();
    let device = x.device();
    if rows * columns == 0 {
        return (data::<B>(Shape::new([rows]), 0.0, &device, float), x);
    }
    let bool_dtype = get_or_init_device_settings::<B>(&device).bool_dtype;
    let e = B::float_exp(B::float_neg(B::float_abs(x.clone())));
    let above = B::float_clamp_min(x.clone(), 0.0.into());
    let losses = B::float_add(above, log1p::<B>(e.clone(), bool_dtype));
    let losses = B::float_reshape(losses, Shape::new([rows, columns, 1]));
    let losses = B::float_reshape(sum_classes::<B>(losses), Shape::new([rows]));
    let is_above = B::float_greater_elem(x, 0.0.into(), bool_dtype);
    let part = B::float_mask_fill(e.clone(), is_above, 1.0.into());
    let slopes = B::float_div(part, B::float_add_scalar(e, 1.0.into()));
    (losses, slopes)
}

/// Computes the loss over logits `[rows, columns]`, with `pairs` as [`pairs`].
pub(crate) fn forward<B: Backend>(
    logits: FloatTensor<B>,
    inputs: Inputs<B>,
    options: &Options,
    wanted: Wanted,
    pairs: impl FnOnce(FloatTensor<B>) -> Pairs<B>,
) -> Forward<B> {
    let dtype = logits.dtype();
    let float = accumulation_dtype(dtype);
    let sign = signs::<B>(&logits, &inputs, options, float);
    let x = B::float_mul(cast::<B>(logits, float), sign.clone());
    let (losses, slopes) = pairs(x);
    let divisor = divisor_of(&inputs.reduction, losses.shape().num_elements(), float);
    let loss = match &divisor {
        Divisor::PerRow => losses,
        Divisor::Number(0.0) => {
            let empty = options.empty.value();
            data::<B>(Shape::new([1]), empty, &losses.device(), float)
        }
        Divisor::Number(divisor) => {
            let divisor = (*divisor).into();
            match losses.shape().num_elements() {
                0 => data::<B>(Shape::new([1]), 0.0, &losses.device(), float),
                _ => B::float_div_scalar(sum_all::<B>(losses), divisor),
            }
        }
        Divisor::Tensor(divisor) => B::float_div(sum_all::<B>(losses), divisor.clone()),
    };
    let saved = match wanted.gradients.any() {
        false => Saved::Nothing,
        true => {
            let slopes = B::float_mul(slopes, sign);
            let slopes = match divisor {
                Divisor::PerRow | Divisor::Number(0.0) => slopes,
                Divisor::Number(divisor) => B::float_div_scalar(slopes, divisor.into()),
                Divisor::Tensor(divisor) => {
                    let divisor = B::float_reshape(divisor, Shape::new([1, 1]));
                    B::float_div(slopes, divisor)
                }
            };
            Saved::Gradients {
                gradients: Gradients::of_loss(Some(slopes), None),
                dtype,
                upstream: 1.0,
            }
        }
    };
    Forward {
        loss,
        saved,
        outputs: RowOutputs::Nothing,
    }
}

/// What the losses are divided by.
enum Divisor<B: Backend> {
    /// Nothing: every row has its loss.
    PerRow,
    Number(f64),
    Tensor(FloatTensor<B>),
}

fn divisor_of<B: Backend>(
    reduction: &RowReduction<B>,
    rows: usize,
    float: FloatDType,
) -> Divisor<B> {
    match reduction {
        RowReduction::None => Divisor::PerRow,
        RowReduction::Mean => Divisor::Number(rows as f64),
        RowReduction::Sum { divisor } => Divisor::Number(*divisor),
        RowReduction::Normalized { divisors } => {
            let first = [burn::tensor::Slice::new(0, Some(1), 1)];
            Divisor::Tensor(cast::<B>(B::float_slice(divisors.clone(), &first), float))
        }
    }
}

/// -1 at the pairs that belong together, 1 elsewhere, in the shape of the logits. NaN in a row whose target is none.
fn signs<B: Backend>(
    logits: &FloatTensor<B>,
    inputs: &Inputs<B>,
    options: &Options,
    float: FloatDType,
) -> FloatTensor<B> {
    let shape = logits.shape();
    let device = logits.device();
    if shape.num_elements() == 0 {
        return full::<B>(shape, 1.0, &device, float);
    }
    let together = match &inputs.targets {
        Targets::Indices(indices) => {
            let rows = Shape::new([shape[0], 1]);
            let ignored = Ignored {
                indices: &options.ignore_indices,
                weights: None,
            };
            let counting =
                Counting::<B>::new(indices.clone(), rows.clone(), Some(shape[1]), ignored);
            let ones = full::<B>(rows.clone(), 1.0, &device, float);
            let ones = counting.settle(ones, rows);
            let zeros = full::<B>(shape, 0.0, &device, float);
            let update = burn::tensor::IndexingUpdateOp::Add;
            B::float_scatter(1, zeros, counting.index.clone(), ones, update)
        }
        _ => {
            let (inputs, _) = densified::<B>(inputs.clone(), logits, options);
            let Targets::Distributions(together) = inputs.targets else {
                unreachable!("a chunk has indices or distributions");
            };
            B::float_clamp_max(cast::<B>(together, float), 1.0.into())
        }
    };
    B::float_add_scalar(B::float_mul_scalar(together, (-2.0).into()), 1.0.into())
}
