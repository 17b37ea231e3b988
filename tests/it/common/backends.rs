//! The backends that a test body runs on, each a module whose name stands in the test's output.

use burn::tensor::Device;

#[cfg(feature = "flex")]
pub fn flex() -> Device {
    Device::flex()
}

#[cfg(feature = "ndarray")]
pub fn ndarray() -> Device {
    Device::ndarray()
}

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

/// Whether the device is one of Burn's CPU backends.
pub fn is_cpu(device: &Device) -> bool {
    let name = format!("{device:?}");
    name.contains("Flex") || name.contains("NdArray")
}

/// Makes a `#[test]` of each of the generic functions `fn name<B: CrossEntropyBackend>(device:
/// &Device)` beside it, for every backend of this build: `B` the runtime dispatch, with and without
/// gradient checkpointing, and `B` bound at compile time. The device has autodiff.
macro_rules! on_every_backend {
    ($($test:ident),* $(,)?) => {
        $crate::common::backends::on_every_cpu_backend!($($test),*);
        #[cfg(feature = "cpu")]
        mod cpu {
            $crate::common::backends::on_backend!(cpu, burn::backend::Cpu, $($test),*);
        }
        #[cfg(feature = "wgpu")]
        mod wgpu {
            $crate::common::backends::on_backend!(wgpu, burn::backend::Wgpu, $($test),*);
        }
        #[cfg(feature = "cuda")]
        mod cuda {
            $crate::common::backends::on_backend!(cuda, burn::backend::Cuda, $($test),*);
        }
    };
}

/// As [`on_every_backend`], without the devices.
macro_rules! on_every_cpu_backend {
    ($($test:ident),* $(,)?) => {
        #[cfg(feature = "flex")]
        mod flex {
            $crate::common::backends::on_backend!(flex, burn::backend::Flex, $($test),*);
        }
        #[cfg(feature = "ndarray")]
        mod ndarray {
            $crate::common::backends::on_backend!(ndarray, burn::backend::NdArray, $($test),*);
        }
    };
}

macro_rules! on_backend {
    ($device:ident, $backend:path, $($test:ident),*) => {
        mod dynamic {$(
            #[test]
            fn $test() {
                let device = $crate::common::backends::$device().autodiff();
                super::super::$test::<burn::backend::Dispatch>(&device);
            }
        )*}
        mod dynamic_checkpointing {$(
            #[test]
            fn $test() {
                let device = $crate::common::backends::$device()
                    .autodiff()
                    .gradient_checkpointing();
                super::super::$test::<burn::backend::Dispatch>(&device);
            }
        )*}
        mod bound {
            type Bound = burn::backend::Autodiff<$backend>;
            $(
                #[test]
                fn $test() {
                    let device = $crate::common::backends::$device().autodiff();
                    super::super::$test::<Bound>(&device);
                }
            )*
        }
        mod bound_checkpointing {
            use burn::backend::autodiff::checkpoint::strategy::BalancedCheckpointing;

            type Bound = burn::backend::Autodiff<$backend, BalancedCheckpointing>;
            $(
                #[test]
                fn $test() {
                    let device = $crate::common::backends::$device()
                        .autodiff()
                        .gradient_checkpointing();
                    super::super::$test::<Bound>(&device);
                }
            )*
        }
    };
}

/// Makes a `#[test]` of each of the functions `fn name(device: &Device)` beside it, for both CPU
/// backends, through the runtime dispatch alone: for tests whose time goes into many or large
/// problems.
macro_rules! on_the_cpu {
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

/// As [`on_the_cpu`], for what CubeCL drives: the processor, wgpu and CUDA.
macro_rules! on_every_gpu {
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

/// As [`on_every_gpu`], for generic functions, through the runtime dispatch alone: for code in plain tensor
/// operations, of which Burn's fusion compiles many kernels.
macro_rules! on_every_gpu_dispatched {
    ($($test:ident),* $(,)?) => {
        #[cfg(feature = "cpu")]
        mod cpu {
            $crate::common::backends::on_device_dispatched!(cpu, $($test),*);
        }
        #[cfg(feature = "wgpu")]
        mod wgpu {
            $crate::common::backends::on_device_dispatched!(wgpu, $($test),*);
        }
        #[cfg(feature = "cuda")]
        mod cuda {
            $crate::common::backends::on_device_dispatched!(cuda, $($test),*);
        }
    };
}

/// [`on_every_cpu_backend`] and [`on_every_gpu_dispatched`].
macro_rules! on_every_cpu_backend_and_gpu {
    ($($test:ident),* $(,)?) => {
        $crate::common::backends::on_every_cpu_backend!($($test),*);
        $crate::common::backends::on_every_gpu_dispatched!($($test),*);
    };
}

#[cfg(any(feature = "cpu", feature = "wgpu", feature = "cuda"))]
macro_rules! on_device_dispatched {
    ($device:ident, $($test:ident),*) => {$(
        #[test]
        fn $test() {
            let device = $crate::common::backends::$device().autodiff();
            super::$test::<burn::backend::Dispatch>(&device);
        }
    )*};
}

macro_rules! on_device {
    ($device:ident, $($test:ident),*) => {$(
        #[test]
        fn $test() {
            super::$test(&$crate::common::backends::$device().autodiff());
        }
    )*};
}

#[cfg(any(feature = "cpu", feature = "wgpu", feature = "cuda"))]
pub(crate) use on_device_dispatched;
pub(crate) use {
    on_backend, on_device, on_every_backend, on_every_cpu_backend, on_every_cpu_backend_and_gpu,
    on_every_gpu, on_every_gpu_dispatched, on_the_cpu,
};
