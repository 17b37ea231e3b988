//! The backends that a test body runs on. Each is a module, whose name appears in the test's output.
//!
//! A body is a function `fn name(device: &Device)`; the device has autodiff and is dispatched at run time.
//! Only `bound.rs` tests that a loss bound at compile time, and a device with gradient checkpointing, compute
//! the same.

use burn::tensor::Device;

#[cfg(feature = "flex")]
pub fn flex() -> Device {
    Device::flex()
}

#[cfg(feature = "ndarray")]
pub fn ndarray() -> Device {
    Device::ndarray()
}

/// CubeCL's processor runtime.
#[cfg(feature = "cpu")]
pub fn cpu() -> Device {
    Device::cpu()
}

#[cfg(feature = "wgpu")]
pub fn wgpu() -> Device {
    Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)
}

#[cfg(feature = "cuda")]
pub fn cuda() -> Device {
    Device::cuda(0)
}

/// Whether the backend computes on slices in the process's own memory: Flex and NdArray, not CubeCL's
/// processor runtime.
pub fn is_host(device: &Device) -> bool {
    let name = format!("{device:?}");
    name.contains("Flex") || name.contains("NdArray")
}

/// Whether the device computes logits of f64 in f64. Shader languages do not have an exponential of f64.
pub fn computes_f64(device: &Device) -> bool {
    !format!("{device:?}").contains("Wgpu")
}

/// Whether products of f32 may round their factors to TF32.
pub fn has_tf32(device: &Device) -> bool {
    format!("{device:?}").contains("Cuda")
}

/// Whether the device is CubeCL's processor runtime.
pub fn is_processor(device: &Device) -> bool {
    format!("{device:?}").contains("Cube(Cpu")
}

/// Makes a `#[test]` of each function, for each backend of its set that this build has:
///
/// | set | backends | for |
/// |---|---|---|
/// | `every_backend` | Flex, NdArray, CubeCL's processor runtime, wgpu, CUDA | the maths, and what a runtime may do differently |
/// | `host` | Flex, NdArray | what only slices can do, and sweeps in f64 |
/// | `cubecl` | the processor runtime, wgpu, CUDA | what only buffers do |
/// | `f64` | all but wgpu | arithmetic in f64 |
/// | `half` | all but NdArray | f16 and bf16, computed or refused |
/// | `one_of_each_kind` | Flex, the processor runtime, CUDA | code above the backends, where NdArray runs the lines that Flex runs and wgpu those of the processor |
/// | `products` | all but the processor runtime | losses behind Burn's matrix products, dozens of kernels of which Burn tries for each size: minutes on a processor |
/// | `one_runtime` | the processor runtime, CUDA | sweeps over many kernels, which the processor compiles several times faster than a shader compiler |
///
/// A build without Flex has NdArray in its place. A build without the processor runtime has wgpu in its
/// place, and one without wgpu has the processor runtime in its place.
macro_rules! tests_on {
    ($($set:ident: [$($test:ident),* $(,)?]),* $(,)?) => {
        #[cfg(feature = "flex")]
        mod flex {$(
            $crate::common::backends::in_set!(flex, $set, $($test),*);
        )*}
        #[cfg(feature = "ndarray")]
        mod ndarray {$(
            $crate::common::backends::in_set!(ndarray, $set, $($test),*);
        )*}
        #[cfg(feature = "cpu")]
        mod cpu {$(
            $crate::common::backends::in_set!(cpu, $set, $($test),*);
        )*}
        #[cfg(feature = "wgpu")]
        mod wgpu {$(
            $crate::common::backends::in_set!(wgpu, $set, $($test),*);
        )*}
        #[cfg(feature = "cuda")]
        mod cuda {$(
            $crate::common::backends::in_set!(cuda, $set, $($test),*);
        )*}
    };
}

/// Makes a `#[test]` of each function for every backend of this build.
#[allow(unused_macros, reason = "not every test binary has such tests")]
macro_rules! on_every_backend {
    ($($test:ident),* $(,)?) => {
        $crate::common::backends::tests_on! { every_backend: [$($test),*] }
    };
}

/// Makes the tests of a set on a backend, if the set contains it; an unknown set is an error.
macro_rules! in_set {
    ($device:ident, every_backend, $($test:ident),*) => {
        $crate::common::backends::on_device!($device, $($test),*);
    };
    (flex, host, $($test:ident),*) => {
        $crate::common::backends::on_device!(flex, $($test),*);
    };
    (ndarray, host, $($test:ident),*) => {
        $crate::common::backends::on_device!(ndarray, $($test),*);
    };
    ($device:ident, host, $($test:ident),*) => {};
    (flex, cubecl, $($test:ident),*) => {};
    (ndarray, cubecl, $($test:ident),*) => {};
    ($device:ident, cubecl, $($test:ident),*) => {
        $crate::common::backends::on_device!($device, $($test),*);
    };
    (wgpu, f64, $($test:ident),*) => {};
    ($device:ident, f64, $($test:ident),*) => {
        $crate::common::backends::on_device!($device, $($test),*);
    };
    (ndarray, half, $($test:ident),*) => {};
    ($device:ident, half, $($test:ident),*) => {
        $crate::common::backends::on_device!($device, $($test),*);
    };
    (cpu, products, $($test:ident),*) => {
        #[cfg(not(feature = "wgpu"))]
        $crate::common::backends::on_device!(cpu, $($test),*);
    };
    ($device:ident, products, $($test:ident),*) => {
        $crate::common::backends::on_device!($device, $($test),*);
    };
    (flex, one_of_each_kind, $($test:ident),*) => {
        $crate::common::backends::on_device!(flex, $($test),*);
    };
    (ndarray, one_of_each_kind, $($test:ident),*) => {
        #[cfg(not(feature = "flex"))]
        $crate::common::backends::on_device!(ndarray, $($test),*);
    };
    ($device:ident, one_of_each_kind, $($test:ident),*) => {
        $crate::common::backends::in_set!($device, one_runtime, $($test),*);
    };
    (flex, one_runtime, $($test:ident),*) => {};
    (ndarray, one_runtime, $($test:ident),*) => {};
    (wgpu, one_runtime, $($test:ident),*) => {
        #[cfg(not(feature = "cpu"))]
        $crate::common::backends::on_device!(wgpu, $($test),*);
    };
    ($device:ident, one_runtime, $($test:ident),*) => {
        $crate::common::backends::on_device!($device, $($test),*);
    };
}

macro_rules! on_device {
    ($device:ident, $($test:ident),*) => {$(
        #[test]
        fn $test() {
            super::$test(&$crate::common::backends::$device().autodiff());
        }
    )*};
}

#[allow(unused_imports, reason = "not every test binary has such tests")]
pub(crate) use on_every_backend;
pub(crate) use {in_set, on_device, tests_on};
