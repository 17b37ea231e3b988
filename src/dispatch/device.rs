//! Facts of a device, and index targets in the host's memory.

#[cfg(feature = "cube")]
use burn::backend::DispatchDevice;
#[cfg(any(feature = "flex", feature = "ndarray"))]
use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::backend::{DispatchTensor, TensorMetadata};
use burn::tensor::{DType, Device};

#[cfg(feature = "cube")]
use crate::backend::cube;
#[cfg(any(feature = "flex", feature = "ndarray"))]
use crate::backend::host;

/// Device of a tensor.
pub(crate) fn device_of(tensor: &DispatchTensor) -> Device {
    Device::new(tensor.device())
}

/// First index target that is neither a class nor ignored: its row and its value. Checks only targets in
/// the host's memory.
#[allow(clippy::needless_return)] // By feature.
#[cfg_attr(
    not(any(feature = "flex", feature = "ndarray")),
    allow(
        unused_macros,
        unused_variables,
        reason = "no backend has its tensors in the host's memory"
    )
)]
pub(crate) fn first_bad_index(
    indices: &DispatchTensor,
    classes: usize,
    ignored: &[i64],
) -> HostCheck {
    macro_rules! of_backend {
        ($backend:ident) => {
            if let DispatchTensorKind::$backend(BackendTensor::Int(indices)) = &indices.kind {
                return HostCheck::Done(host::first_bad_index::<burn::backend::$backend>(
                    indices.clone(),
                    classes,
                    ignored,
                ));
            }
        };
    }
    #[cfg(feature = "flex")]
    of_backend!(Flex);
    #[cfg(feature = "ndarray")]
    of_backend!(NdArray);
    HostCheck::Elsewhere
}

/// Result of a check of values in the host's memory.
pub(crate) enum HostCheck {
    /// The first bad row, if any.
    #[cfg_attr(not(any(feature = "flex", feature = "ndarray")), allow(dead_code))]
    Done(Option<(usize, i128)>),
    /// The values lie on a device.
    Elsewhere,
}

/// Whether the operation computes correct numbers for float tensors of the dtype on the device.
pub(crate) fn computes(device: &Device, dtype: DType) -> bool {
    #[cfg(feature = "cube")]
    if dtype == DType::F64
        && let DispatchDevice::Cube(device) = device.clone().without_autodiff().as_dispatch()
        && !cube::computes_f64(device)
    {
        return false;
    }
    matches!(
        dtype,
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 | DType::Flex32
    ) && device.supports_dtype(dtype)
}

/// Number of bytes of the largest buffer that the device allows, if it has a bound.
pub(crate) fn largest_buffer(device: &Device) -> Option<usize> {
    #[cfg(feature = "cube")]
    if let DispatchDevice::Cube(device) = device.clone().without_autodiff().as_dispatch() {
        return Some(cube::largest_buffer(device));
    }
    let _ = device;
    None
}
