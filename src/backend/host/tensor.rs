//! Tensors in the host's memory, and the backends with such tensors.

use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Shape};

use crate::kernel::cpu::{Floats, FloatsMut, HalfRows, Indices, Instructions};

/// Tensor in the host's memory.
pub(crate) trait HostTensor: Clone {
    fn shape(&self) -> Shape;
    fn dtype(&self) -> DType;
    fn is_row_major(&self) -> bool;
    /// Tensor in row-major order, copied only if it has another order.
    fn row_major(self) -> Self;
    /// Numbers of a float tensor that is in row-major order.
    fn floats(&self) -> Floats<'_>;
    /// Numbers of a float matrix from the first number on, and the strides of the matrix; `None` where the
    /// numbers do not lie in one slice.
    fn matrix(&self) -> Option<(Floats<'_>, [usize; 2])>;
    /// Numbers of an integer tensor that is in row-major order.
    fn indices(&self) -> Indices<'_>;
    /// Whether the tensor is in row-major order, and no other tensor shares its buffer.
    fn is_unshared(&self) -> bool;
    /// Numbers of a tensor in row-major order to write over; a copy, if other tensors share them.
    fn floats_mut(&mut self) -> FloatsMut<'_>;
    fn zeros(shape: Shape, dtype: DType) -> Self;
    /// Tensor of any numbers, all of which the caller writes. In builds with debug assertions they are NaN, so that
    /// tests see a number that is not written.
    fn unwritten(shape: Shape, dtype: DType) -> Self;
    fn of_f32(numbers: Vec<f32>, shape: Shape) -> Self;
    fn of_f64(numbers: Vec<f64>, shape: Shape) -> Self;
    fn of_i32(numbers: Vec<i32>, shape: Shape) -> Self;
}

/// Backend whose tensors lie in the host's memory, at least once they are opened.
pub(crate) trait HostBackend:
    Backend<FloatTensorPrimitive = Self::Tensor, IntTensorPrimitive = Self::Tensor>
{
    type Tensor: TensorMetadata;
    type Host: HostTensor;

    fn open(tensor: Self::Tensor) -> Self::Host;
    fn close(host: Self::Host) -> Self::Tensor;
}

/// Dtype of the arithmetic: f32 or f64.
pub(super) trait Arithmetic: HalfRows {
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
    ($dtype:expr, $function:ident::<_, $backend:ty>($($argument:expr),*)) => {
        match $dtype {
            burn::tensor::DType::F64 => $function::<f64, $backend>($($argument),*),
            _ => $function::<f32, $backend>($($argument),*),
        }
    };
}

pub(super) use in_arithmetic_of;

/// Copies the numbers of a small tensor that is in row-major order.
pub(super) fn numbers<A: Arithmetic, H: HostTensor>(tensor: &H) -> Vec<A> {
    tensor.floats().to_vec(Instructions::best())
}
