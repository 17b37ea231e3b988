//! The backends that a test body runs on, each a module whose name stands in the test's output.
//!
//! A body is a function `fn name(device: &Device)`; the device has autodiff and is dispatched at run time.
//! That a loss bound at compile time, and a device with gradient checkpointing, compute the same is for
//! `bound.rs` alone to say.

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

/// Whether logits of f64 are computed as such. Shader languages have no exponential of f64.
pub fn computes_f64(device: &Device) -> bool {
    !format!("{device:?}").contains("Wgpu")
}

/// Whether the device is CubeCL's processor runtime.
pub fn is_processor(device: &Device) -> bool {
    format!("{device:?}").contains("Cube(Cpu")
}

/// Makes a `#[test]` of each function for every backend of this build.
#[allow(
    unused_macros,
    reason = "not every test binary has tests for these backends"
)]
macro_rules! on_every_backend {
    ($($test:ident),* $(,)?) => {
        $crate::common::backends::on_host_backends!($($test),*);
        $crate::common::backends::on_cubecl_runtimes!($($test),*);
    };
}

/// Makes a `#[test]` of each function for Flex and NdArray.
#[allow(
    unused_macros,
    reason = "not every test binary has tests for these backends"
)]
macro_rules! on_host_backends {
    ($($test:ident),* $(,)?) => {
        #[cfg(feature = "flex")]
        mod flex {
            $crate::common::backends::on_device!(flex, $($test),*);
        }
        #[cfg(feature = "ndarray")]
        mod ndarray {
            $crate::common::backends::on_device!(ndarray, $($test),*);
        }
    };
}

/// Makes a `#[test]` of each function for what CubeCL drives: the processor, wgpu and CUDA.
macro_rules! on_cubecl_runtimes {
    ($($test:ident),* $(,)?) => {
        #[cfg(feature = "cpu")]
        mod cpu {
            $crate::common::backends::on_device!(cpu, $($test),*);
        }
        #[cfg(feature = "wgpu")]
        mod wgpu {
            $crate::common::backends::on_device!(wgpu, $($test),*);
        }
        #[cfg(feature = "cuda")]
        mod cuda {
            $crate::common::backends::on_device!(cuda, $($test),*);
        }
    };
}

/// Makes a `#[test]` of each function for one host backend and one of CubeCL's runtimes, and for CUDA: for
/// code above the backends, where NdArray runs the lines that Flex runs and wgpu those of the processor.
#[allow(
    unused_macros,
    reason = "not every test binary has tests for these backends"
)]
macro_rules! on_one_of_each_kind {
    ($($test:ident),* $(,)?) => {
        mod one_of_each_kind {
            #[allow(unused_imports, reason = "a build may have neither")]
            use super::{$($test),*};

            #[cfg(feature = "flex")]
            mod flex {
                $crate::common::backends::on_device!(flex, $($test),*);
            }
            #[cfg(all(feature = "ndarray", not(feature = "flex")))]
            mod ndarray {
                $crate::common::backends::on_device!(ndarray, $($test),*);
            }
        }
        $crate::common::backends::on_one_cubecl_runtime!($($test),*);
    };
}

/// Makes a `#[test]` of each function for one of CubeCL's runtimes without a GPU, and for CUDA: for sweeps over
/// many kernels, which the processor compiles several times faster than a shader compiler.
#[allow(
    unused_macros,
    reason = "not every test binary has tests for these backends"
)]
macro_rules! on_one_cubecl_runtime {
    ($($test:ident),* $(,)?) => {
        mod one_runtime {
            #[allow(unused_imports, reason = "a build may have none")]
            use super::{$($test),*};

            #[cfg(feature = "cpu")]
            mod cpu {
                $crate::common::backends::on_device!(cpu, $($test),*);
            }
            #[cfg(all(feature = "wgpu", not(feature = "cpu")))]
            mod wgpu {
                $crate::common::backends::on_device!(wgpu, $($test),*);
            }
            #[cfg(feature = "cuda")]
            mod cuda {
                $crate::common::backends::on_device!(cuda, $($test),*);
            }
        }
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

#[allow(
    unused_imports,
    reason = "a test binary need not have tests for every set of backends"
)]
pub(crate) use {
    on_cubecl_runtimes, on_device, on_every_backend, on_host_backends, on_one_cubecl_runtime,
    on_one_of_each_kind,
};
