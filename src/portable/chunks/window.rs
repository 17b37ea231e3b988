//! Consecutive rows of a tensor.

use std::ops::Range;

use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{Shape, Slice};

/// Ranges of so many rows each; no rows are one empty range.
pub(super) fn ranges(rows: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    let starts = (0..rows.max(1)).step_by(step);
    starts.map(move |start| start..rows.min(start + step))
}

/// Slices of the rows of a tensor of a shape, in its first dimension.
pub(super) fn slices(rows: &Range<usize>, shape: &Shape) -> Vec<Slice> {
    let mut slices = vec![Slice::full(); shape.num_dims()];
    slices[0] = Slice::new(rows.start as isize, Some(rows.end as isize), 1);
    slices
}

/// Whether the rows are all rows of a tensor of a shape, which is then its own window.
pub(super) fn are_all(rows: &Range<usize>, shape: &Shape) -> bool {
    *rows == (0..shape[0])
}

pub(super) fn window<B: Backend>(tensor: FloatTensor<B>, rows: &Range<usize>) -> FloatTensor<B> {
    match tensor.shape() {
        shape if are_all(rows, &shape) => tensor,
        shape => B::float_slice(tensor, &slices(rows, &shape)),
    }
}

pub(super) fn int_window<B: Backend>(tensor: IntTensor<B>, rows: &Range<usize>) -> IntTensor<B> {
    match tensor.shape() {
        shape if are_all(rows, &shape) => tensor,
        shape => B::int_slice(tensor, &slices(rows, &shape)),
    }
}

pub(super) fn bool_window<B: Backend>(tensor: BoolTensor<B>, rows: &Range<usize>) -> BoolTensor<B> {
    match tensor.shape() {
        shape if are_all(rows, &shape) => tensor,
        shape => B::bool_slice(tensor, &slices(rows, &shape)),
    }
}
