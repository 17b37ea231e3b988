//! Which device a `--backend` name stands for in this build.

use std::fmt::{self, Display};
use std::panic::catch_unwind;

use burn::tensor::{Device, Tensor};
use clap::ValueEnum;

/// The backends that the examples know by name.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    /// Burn's CPU backend.
    Flex,
    /// Burn's older CPU backend.
    Ndarray,
    /// The kernels of the GPUs, compiled for the processor.
    Cpu,
    /// GPUs through wgpu.
    Wgpu,
    /// NVIDIA GPUs through CUDA.
    Cuda,
}

impl BackendName {
    /// The device, once it has answered, or a sentence that says what is missing.
    pub fn device(self) -> Result<Device, String> {
        let started = catch_unwind(|| {
            let device = self.device_of_this_build()?;
            let answer = Tensor::<1>::zeros([1], &device).try_into_data();
            answer
                .map(|_| device)
                .map_err(|error| format!("the backend {self} fails: {error}"))
        });
        started.unwrap_or_else(|_| {
            Err(format!(
                "the backend {self} does not start on this machine, for the reason above; \
                 without --backend the example runs on the CPU"
            ))
        })
    }

    fn device_of_this_build(self) -> Result<Device, String> {
        match self {
            #[cfg(feature = "flex")]
            Self::Flex => Ok(Device::flex()),
            #[cfg(feature = "ndarray")]
            #[allow(deprecated)]
            // Burn deprecates the backend, and this crate still supports it.
            Self::Ndarray => Ok(Device::ndarray()),
            #[cfg(feature = "cpu")]
            Self::Cpu => Ok(Device::cpu()),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(feature = "cuda")]
            Self::Cuda => Ok(Device::cuda(0)),
            #[allow(unreachable_patterns)] // With every feature on, nothing is left over.
            missing => Err(format!(
                "this build has no {missing} backend; add {missing} to the --features of `cargo run`"
            )),
        }
    }
}

impl Display for BackendName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Flex => "flex",
            Self::Ndarray => "ndarray",
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::Cuda => "cuda",
        })
    }
}
