//! Tensors in the host's memory, and the backends that have such.

use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Shape};

use crate::kernel::cpu::{Floats, FloatsMut, Indices, Instructions, Native};

/// A tensor in the host's memory.
pub(crate) trait HostTensor: Clone {
    fn shape(&self) -> Shape;
    fn dtype(&self) -> DType;
    /// The tensor in row-major order, copied only if it is in another.
    fn row_major(self) -> Self;
    /// The numbers of a float tensor in row-major order.
    fn floats(&self) -> Floats<'_>;
    /// The numbers of a float matrix from its first on, and its strides; `None` where the numbers do not
    /// lie in one slice.
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

/// A backend whose tensors lie in the host's memory, or do once they are opened.
pub(crate) trait HostBackend:
    Backend<FloatTensorPrimitive = Self::Tensor, IntTensorPrimitive = Self::Tensor>
{
    type Tensor: TensorMetadata;
    type Host: HostTensor;

    fn open(tensor: Self::Tensor) -> Self::Host;
    fn close(host: Self::Host) -> Self::Tensor;
}

/// The dtype of the arithmetic: f32 or f64.
pub(super) trait Arithmetic: Native {
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

/// The numbers of a small tensor in row-major order.
pub(super) fn numbers<A: Arithmetic, H: HostTensor>(tensor: &H) -> Vec<A> {
    tensor.floats().to_vec(Instructions::best())
}
