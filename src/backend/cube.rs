//! Every CubeCL runtime: wgpu, Vulkan, Metal, WebGPU, CUDA, ROCm. Which of them runs is a property
//! of the tensor's device.

use burn_cubecl::{CubeBackend, CubeDevice};

use super::CrossEntropyBackend;

impl CrossEntropyBackend for CubeBackend {}

/// Whether the device has exponentials and logarithms of f64. Shader languages have the type but
/// not the functions, and what Burn compiles there returns wrong numbers instead of an error.
pub(crate) fn computes_f64(device: &CubeDevice) -> bool {
    !matches!(device, CubeDevice::Wgpu(_) | CubeDevice::Metal(_))
}

// The alias that users bind a loss to is one of the backends above.
#[cfg(feature = "wgpu")]
const _: () = {
    const fn is_implemented<B: CrossEntropyBackend>() {}
    is_implemented::<burn_wgpu::Wgpu>();
};
