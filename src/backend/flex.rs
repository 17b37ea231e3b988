//! Operation on Flex, Burn's CPU backend.

use burn::backend::tensor::FloatTensor;
use burn::tensor::{Bytes, DType, Shape, TensorData};
use burn_flex::{Flex, FlexTensor, Layout};

use super::CrossEntropyOperation;
use super::host::{HostBackend, HostTensor, computes_on_host};
use crate::kernel::cpu::{Floats, FloatsMut, Indices};
use crate::operation::{
    Forward, Gradients, Inputs, Logits, Options, Saved, Wanted, WantedGradients,
};

#[cfg(target_os = "linux")]
use super::host::pages::bytes as large_bytes;

/// Memory in huge pages, which only Linux is asked for.
#[cfg(not(target_os = "linux"))]
fn large_bytes(_: usize) -> Option<Bytes> {
    None
}

computes_on_host!(Flex);

impl HostBackend for Flex {
    type Tensor = FlexTensor;
    type Host = FlexTensor;

    fn open(tensor: FlexTensor) -> FlexTensor {
        tensor
    }

    fn close(tensor: FlexTensor) -> FlexTensor {
        tensor
    }
}

/// Reads the numbers of a contiguous tensor.
macro_rules! numbers {
    ($tensor:expr) => {
        $tensor
            .as_slice()
            .expect("the tensor is contiguous, and of this dtype")
    };
}

/// Numbers of a contiguous tensor to write over; a copy, if other tensors share them.
macro_rules! numbers_mut {
    ($tensor:expr) => {{
        let range = $tensor.layout().contiguous_offsets();
        let (start, end) = range.expect("the tensor is contiguous");
        &mut $tensor.storage_mut()[start..end]
    }};
}

impl HostTensor for FlexTensor {
    fn shape(&self) -> Shape {
        self.layout().shape().clone()
    }

    fn dtype(&self) -> DType {
        self.dtype()
    }

    fn is_row_major(&self) -> bool {
        self.is_contiguous()
    }

    fn row_major(self) -> Self {
        // `to_contiguous` would also copy a contiguous window of a larger buffer.
        if self.is_row_major() {
            self
        } else {
            self.to_contiguous()
        }
    }

    fn floats(&self) -> Floats<'_> {
        match self.dtype() {
            DType::F64 => Floats::F64(numbers!(self)),
            DType::F32 => Floats::F32(numbers!(self)),
            DType::F16 => Floats::F16(numbers!(self)),
            DType::BF16 => Floats::BF16(numbers!(self)),
            dtype => unreachable!("{dtype:?} is no float dtype of Flex"),
        }
    }

    fn matrix(&self) -> Option<(Floats<'_>, [usize; 2])> {
        let layout = self.layout();
        let (strides, start) = match layout.num_elements() {
            // For a tensor without elements Flex calls any strides contiguous, and the start may lie
            // behind the storage.
            0 => ([1, 1], 0),
            _ => {
                let strides = layout.strides();
                let strides = [strides[0], strides[1]].map(usize::try_from);
                let [Ok(rows), Ok(columns)] = strides else {
                    return None;
                };
                ([rows, columns], layout.start_offset())
            }
        };
        let floats = match self.dtype() {
            DType::F64 => Floats::F64(&self.storage()[start..]),
            DType::F32 => Floats::F32(&self.storage()[start..]),
            DType::F16 => Floats::F16(&self.storage()[start..]),
            DType::BF16 => Floats::BF16(&self.storage()[start..]),
            dtype => unreachable!("{dtype:?} is no float dtype of Flex"),
        };
        Some((floats, strides))
    }

    fn indices(&self) -> Indices<'_> {
        match self.dtype() {
            DType::I64 => Indices::I64(numbers!(self)),
            DType::I32 => Indices::I32(numbers!(self)),
            DType::I16 => Indices::I16(numbers!(self)),
            DType::I8 => Indices::I8(numbers!(self)),
            DType::U64 => Indices::U64(numbers!(self)),
            DType::U32 => Indices::U32(numbers!(self)),
            DType::U16 => Indices::U16(numbers!(self)),
            DType::U8 => Indices::U8(numbers!(self)),
            dtype => unreachable!("{dtype:?} is no integer dtype of Flex"),
        }
    }

    fn is_unshared(&self) -> bool {
        // A unique tensor may still not be writable: an expanded tensor has one number in
        // many places.
        self.is_unique() && self.is_contiguous()
    }

    fn floats_mut(&mut self) -> FloatsMut<'_> {
        match self.dtype() {
            DType::F64 => FloatsMut::F64(numbers_mut!(self)),
            DType::F32 => FloatsMut::F32(numbers_mut!(self)),
            DType::F16 => FloatsMut::F16(numbers_mut!(self)),
            DType::BF16 => FloatsMut::BF16(numbers_mut!(self)),
            dtype => unreachable!("{dtype:?} is no float dtype of Flex"),
        }
    }

    fn zeros(shape: Shape, dtype: DType) -> Self {
        // `FlexTensor::zeros` makes bytes first and then copies them for alignment. The system gives
        // zeros of integers without touching the memory, so that it becomes local to the threads that
        // write to it.
        let length = shape.num_elements();
        let bytes = match dtype {
            DType::F64 => Bytes::from_elems(vec![0u64; length]),
            DType::F16 | DType::BF16 => Bytes::from_elems(vec![0u16; length]),
            _ => Bytes::from_elems(vec![0u32; length]),
        };
        FlexTensor::new(bytes, Layout::contiguous(shape), dtype)
    }

    fn unwritten(shape: Shape, dtype: DType) -> Self {
        let layout = Layout::contiguous(shape.clone());
        let mut tensor = match large_bytes(shape.num_elements() * dtype.size()) {
            Some(bytes) => FlexTensor::new(bytes, layout, dtype),
            // The function of the same name, which copies, is Flex's.
            None => <Self as HostTensor>::zeros(shape, dtype),
        };
        if cfg!(debug_assertions) {
            tensor.floats_mut().fill_with_nan();
        }
        tensor
    }

    fn of_f32(numbers: Vec<f32>, shape: Shape) -> Self {
        FlexTensor::from_data(TensorData::new(numbers, shape))
    }

    fn of_f64(numbers: Vec<f64>, shape: Shape) -> Self {
        FlexTensor::from_data(TensorData::new(numbers, shape))
    }

    fn of_i32(numbers: Vec<i32>, shape: Shape) -> Self {
        FlexTensor::from_data(TensorData::new(numbers, shape))
    }
}
