//! Pairs of the rows of a chunk and the columns of a projection: pairs that are excluded, and pairs that are alike.

use std::ops::Range;

use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{FloatDType, IntDType, Shape, TensorData};

use super::window::{int_window, ranges, window};
use crate::operation::{Excluded, Ids, MaybeFloat, MaybeInt, Projection, accumulation_dtype};
use crate::portable::elementary::{cast, cast_int};

/// Excludes logits of the product, `[rows, columns]`, to which no bias was added yet.
pub(super) fn above_bound<B: Backend>(
    product: FloatTensor<B>,
    excluded: &Excluded<B>,
    rows: &Range<usize>,
) -> FloatTensor<B> {
    let (MaybeFloat::Some(bound), false) = (&excluded.above, is_empty::<B>(&product)) else {
        return product;
    };
    let shape = product.shape();
    let bound = window::<B>(bound.clone(), rows);
    let bound = B::float_reshape(bound, Shape::new([rows.len(), 1]));
    let bound = cast::<B>(bound, product.dtype().into());
    let bool_dtype = get_or_init_device_settings::<B>(&product.device()).bool_dtype;
    let above = B::float_greater(product.clone(), B::float_expand(bound, shape), bool_dtype);
    B::float_mask_fill(product, above, f64::NEG_INFINITY.into())
}

/// Excludes logits by ids and by columns.
pub(super) fn excluded<B: Backend>(
    logits: FloatTensor<B>,
    excluded: &Excluded<B>,
    rows: &Range<usize>,
) -> FloatTensor<B> {
    if is_empty::<B>(&logits) {
        return logits;
    }
    let logits = match same_ids::<B>(&excluded.ids, rows) {
        None => logits,
        Some(same) => B::float_mask_fill(logits, same, f64::NEG_INFINITY.into()),
    };
    let logits = match same_ids::<B>(&excluded.unlike, rows) {
        None => logits,
        Some(same) => B::float_mask_fill(logits, B::bool_not(same), f64::NEG_INFINITY.into()),
    };
    without_columns::<B>(logits, &excluded.columns, rows)
}

/// Distributions of a chunk: equal shares of the columns that have the id of the row and are not excluded. Shape
/// `[rows, classes]`, with leading classes that have no share.
pub(super) fn alike<B: Backend>(
    projection: &Projection<B>,
    ids: &Ids<B>,
    rows: &Range<usize>,
) -> FloatTensor<B> {
    let (ones, counts) = alike_ones::<B>(projection, ids, rows);
    if is_empty::<B>(&ones) {
        return ones;
    }
    let counts = B::float_clamp_min(counts, 1.0.into());
    let shares = B::float_div(ones, counts);
    match projection.lead() {
        0 => shares,
        lead => {
            let float = shares.dtype().into();
            let none = Shape::new([rows.len(), lead]);
            let none = B::float_zeros(none, &shares.device(), float);
            B::float_cat(vec![none, shares], 1)
        }
    }
}

/// Number of columns that are alike, of every row `[rows]`, some rows at a time.
pub(crate) fn alike_counts<B: Backend>(projection: &Projection<B>, ids: &Ids<B>) -> FloatTensor<B> {
    let rows = projection.hidden.shape()[0];
    let mut counts: Vec<_> = ranges(rows, projection.rows_per_chunk)
        .map(|chunk| {
            let (_, counts) = alike_ones::<B>(projection, ids, &chunk);
            B::float_reshape(counts, Shape::new([chunk.len()]))
        })
        .collect();
    match counts.len() {
        1 => counts.remove(0),
        _ => B::float_cat(counts, 0),
    }
}

/// 1 at the columns that are alike, 0 elsewhere, and the sum of each row, `[rows, 1]`.
pub(super) fn alike_ones<B: Backend>(
    projection: &Projection<B>,
    ids: &Ids<B>,
    rows: &Range<usize>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let device = projection.hidden.device();
    let float = accumulation_dtype(projection.hidden.dtype());
    let columns = projection.weight.shape()[1];
    let shape = Shape::new([rows.len(), columns]);
    let zeros = |shape| B::float_zeros(shape, &device, float);
    let same = match same_ids::<B>(ids, rows) {
        Some(same) if shape.num_elements() > 0 => same,
        _ => return (zeros(shape), zeros(Shape::new([rows.len(), 1]))),
    };
    let ones = B::bool_into_float(same, float);
    let ones = match same_ids::<B>(&projection.excluded.ids, rows) {
        None => ones,
        Some(excluded) => B::float_mask_fill(ones, excluded, 0.0.into()),
    };
    let ones = without_columns::<B>(ones, &projection.excluded.columns, rows);
    let ones = B::float_clamp_min(ones, 0.0.into());
    let counts = B::float_sum_dim(ones.clone(), 1);
    (ones, counts)
}

/// Mask `[rows, columns]` of the pairs that have the same id.
fn same_ids<B: Backend>(ids: &Ids<B>, rows: &Range<usize>) -> Option<BoolTensor<B>> {
    let Ids::Given { rows: ids, columns } = ids else {
        return None;
    };
    let bool_dtype = get_or_init_device_settings::<B>(&ids.device()).bool_dtype;
    let shape = Shape::new([rows.len(), columns.shape()[0]]);
    if shape.num_elements() == 0 {
        return None;
    }
    let ids = int_window::<B>(ids.clone(), rows);
    let ids = B::int_reshape(ids, Shape::new([shape[0], 1]));
    let columns = B::int_reshape(columns.clone(), Shape::new([1, shape[1]]));
    Some(B::int_equal(
        B::int_expand(ids, shape.clone()),
        B::int_expand(columns, shape),
        bool_dtype,
    ))
}

/// Excludes some columns of each row: minus infinity is added to them, which may be added twice.
fn without_columns<B: Backend>(
    tensor: FloatTensor<B>,
    columns: &MaybeInt<B>,
    rows: &Range<usize>,
) -> FloatTensor<B> {
    let MaybeInt::Some(columns) = columns else {
        return tensor;
    };
    let columns = int_window::<B>(columns.clone(), rows);
    let device = columns.device();
    let bool_dtype = get_or_init_device_settings::<B>(&device).bool_dtype;
    // A negative number is no column: there 0 is added to column 0.
    let none = B::int_lower_elem(columns.clone(), 0i64.into(), bool_dtype);
    let index: IntTensor<B> = B::int_mask_fill(columns, none.clone(), 0i64.into());
    let float: FloatDType = tensor.dtype().into();
    let numbers = TensorData::full_dtype(index.shape(), f64::NEG_INFINITY, float.into());
    let numbers = B::float_from_data(numbers, &device);
    let numbers = B::float_mask_fill(numbers, none, 0.0.into());
    let index = cast_int::<B>(index, index_dtype::<B>(&device));
    B::float_scatter(
        1,
        tensor,
        index,
        numbers,
        burn::tensor::IndexingUpdateOp::Add,
    )
}

/// Dtype of indices of the device.
fn index_dtype<B: Backend>(device: &B::Device) -> IntDType {
    get_or_init_device_settings::<B>(device).int_dtype
}

fn is_empty<B: Backend>(tensor: &FloatTensor<B>) -> bool {
    tensor.shape().num_elements() == 0
}
