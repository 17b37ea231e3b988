//! Consecutive rows of a tensor.

use std::ops::Range;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::Slice;

/// Ranges of so many rows each; no rows are one empty range.
pub(super) fn ranges(rows: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    let starts = (0..rows.max(1)).step_by(step);
    starts.map(move |start| start..rows.min(start + step))
}

pub(super) fn rows_slice(rows: &Range<usize>) -> Slice {
    Slice::new(rows.start as isize, Some(rows.end as isize), 1)
}

pub(super) fn window<B: Backend>(tensor: FloatTensor<B>, rows: &Range<usize>) -> FloatTensor<B> {
    if *rows == (0..tensor.shape()[0]) {
        return tensor;
    }
    let mut window = vec![Slice::full(); tensor.shape().num_dims()];
    window[0] = rows_slice(rows);
    B::float_slice(tensor, &window)
}

pub(super) fn int_window<B: Backend>(tensor: IntTensor<B>, rows: &Range<usize>) -> IntTensor<B> {
    if *rows == (0..tensor.shape()[0]) {
        return tensor;
    }
    let mut window = vec![Slice::full(); tensor.shape().num_dims()];
    window[0] = rows_slice(rows);
    B::int_slice(tensor, &window)
}
