//! Operation on NdArray, Burn's older CPU backend, which Burn deprecates in favour of Flex.

use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Shape, TensorData};
use burn_ndarray::{NdArray, NdArrayTensor, SharedArray};

use super::CrossEntropyOperation;
use super::host::{HostBackend, HostTensor, computes_on_host};
use crate::kernel::cpu::{Floats, FloatsMut, Indices};
use crate::operation::{
    Forward, Gradients, Inputs, Logits, Options, Saved, Wanted, WantedGradients,
};

computes_on_host!(NdArray);

impl HostBackend for NdArray {
    type Tensor = NdArrayTensor;
    type Host = HostArray;

    fn open(tensor: NdArrayTensor) -> HostArray {
        HostArray::open(tensor)
    }

    fn close(array: HostArray) -> NdArrayTensor {
        array.close()
    }
}

/// Tensor whose array is accessible; the array of burn-ndarray's own tensor is not.
macro_rules! host_array {
    ($($dtype:ident: $element:ident),*) => {
        #[derive(Clone)]
        pub(crate) enum HostArray {
            $($dtype(SharedArray<$element>)),*
        }

        impl HostArray {
            /// Opens the storage of a tensor. Copies it only if it was borrowed from a file.
            fn open(tensor: NdArrayTensor) -> Self {
                match tensor {
                    $(NdArrayTensor::$dtype(storage) => Self::$dtype(storage.into_owned()),)*
                    NdArrayTensor::Bool(_) => unreachable!("the loss takes no booleans"),
                }
            }

            fn close(self) -> NdArrayTensor {
                match self {
                    $(Self::$dtype(array) => array.into()),*
                }
            }
        }

        /// Calls a generic function over the array, for the dtype of the tensor.
        macro_rules! over_arrays {
            ($value:expr, $array:ident => $result:expr) => {
                match $value {
                    $(HostArray::$dtype($array) => $result),*
                }
            };
        }
    };
}

host_array!(F64: f64, F32: f32, I64: i64, I32: i32, I16: i16, I8: i8, U64: u64, U32: u32, U16: u16, U8: u8);

/// Reads the numbers of an array in row-major order.
macro_rules! numbers {
    ($array:expr) => {
        $array.as_slice().expect("the array is in row-major order")
    };
}

/// Numbers of a contiguous tensor to write over; a copy, if other tensors share them.
macro_rules! numbers_mut {
    ($array:expr) => {
        $array
            .as_slice_mut()
            .expect("the array is in row-major order")
    };
}

impl HostTensor for HostArray {
    fn shape(&self) -> Shape {
        over_arrays!(self, array => array.shape().to_vec().into())
    }

    fn dtype(&self) -> DType {
        match self {
            Self::F64(_) => DType::F64,
            Self::F32(_) => DType::F32,
            Self::I64(_) => DType::I64,
            Self::I32(_) => DType::I32,
            Self::I16(_) => DType::I16,
            Self::I8(_) => DType::I8,
            Self::U64(_) => DType::U64,
            Self::U32(_) => DType::U32,
            Self::U16(_) => DType::U16,
            Self::U8(_) => DType::U8,
        }
    }

    fn is_row_major(&self) -> bool {
        over_arrays!(self, array => array.is_standard_layout())
    }

    fn row_major(self) -> Self {
        macro_rules! row_major {
            ($array:ident) => {
                if $array.is_standard_layout() {
                    $array
                } else {
                    $array.as_standard_layout().into_owned().into_shared()
                }
                .into_dyn()
            };
        }
        let tensor: NdArrayTensor = over_arrays!(self, array => row_major!(array).into());
        Self::open(tensor)
    }

    fn floats(&self) -> Floats<'_> {
        match self {
            Self::F64(array) => Floats::F64(numbers!(array)),
            Self::F32(array) => Floats::F32(numbers!(array)),
            _ => unreachable!("logits are f32 or f64 on NdArray"),
        }
    }

    fn matrix(&self) -> Option<(Floats<'_>, [usize; 2])> {
        let strides = over_arrays!(self, array => array.strides().to_vec());
        let strides = [strides[0], strides[1]].map(usize::try_from);
        let [Ok(rows), Ok(columns)] = strides else {
            return None;
        };
        let floats = match self {
            Self::F64(array) => Floats::F64(array.as_slice_memory_order()?),
            Self::F32(array) => Floats::F32(array.as_slice_memory_order()?),
            _ => unreachable!("weights are f32 or f64 on NdArray"),
        };
        Some((floats, [rows, columns]))
    }

    fn indices(&self) -> Indices<'_> {
        match self {
            Self::I64(array) => Indices::I64(numbers!(array)),
            Self::I32(array) => Indices::I32(numbers!(array)),
            Self::I16(array) => Indices::I16(numbers!(array)),
            Self::I8(array) => Indices::I8(numbers!(array)),
            Self::U64(array) => Indices::U64(numbers!(array)),
            Self::U32(array) => Indices::U32(numbers!(array)),
            Self::U16(array) => Indices::U16(numbers!(array)),
            Self::U8(array) => Indices::U8(numbers!(array)),
            Self::F64(_) | Self::F32(_) => unreachable!("index targets are integers"),
        }
    }

    fn is_unshared(&self) -> bool {
        over_arrays!(self, array => array.is_unique() && array.is_standard_layout())
    }

    fn floats_mut(&mut self) -> FloatsMut<'_> {
        match self {
            Self::F64(array) => FloatsMut::F64(numbers_mut!(array)),
            Self::F32(array) => FloatsMut::F32(numbers_mut!(array)),
            _ => unreachable!("logits are f32 or f64 on NdArray"),
        }
    }

    fn zeros(shape: Shape, dtype: DType) -> Self {
        let length = shape.num_elements();
        match dtype {
            DType::F64 => Self::of_f64(vec![0.0; length], shape),
            _ => Self::of_f32(vec![0.0; length], shape),
        }
    }

    fn unwritten(shape: Shape, dtype: DType) -> Self {
        let mut array = Self::zeros(shape, dtype);
        if cfg!(debug_assertions) {
            array.floats_mut().fill_with_nan();
        }
        array
    }

    fn of_f32(numbers: Vec<f32>, shape: Shape) -> Self {
        Self::open(NdArrayTensor::from_data(TensorData::new(numbers, shape)))
    }

    fn of_f64(numbers: Vec<f64>, shape: Shape) -> Self {
        Self::open(NdArrayTensor::from_data(TensorData::new(numbers, shape)))
    }

    fn of_i32(numbers: Vec<i32>, shape: Shape) -> Self {
        Self::open(NdArrayTensor::from_data(TensorData::new(numbers, shape)))
    }
}
