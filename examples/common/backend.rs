//! The device that a `--backend` name stands for in this build.

mod start;

use std::fmt::{self, Display};

use burn::tensor::{Device, Tensor};
use clap::ValueEnum;
use start::started;

/// The backends that the examples know by name.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    /// Burn's CPU backend.
    Flex,
    /// Burn's older CPU backend.
    Ndarray,
    /// The GPU kernels, compiled for the processor.
    Cpu,
    /// GPUs through wgpu.
    Wgpu,
    /// NVIDIA GPUs through CUDA.
    Cuda,
}

impl BackendName {
    /// Returns the device once it has answered, or a sentence that says what is missing.
    pub fn device(self) -> Result<Device, String> {
        let device = self.device_of_this_build()?;
        let started = started(|| {
            let answer = Tensor::<1>::zeros([1], &device).try_into_data();
            answer.map_err(|error| error.to_string())
        });
        started.map(|_| device).map_err(|reason| {
            format!(
                "the backend {self} does not start on this machine ({reason}); without --backend \
                 the example runs on the CPU"
            )
        })
    }

    fn device_of_this_build(self) -> Result<Device, String> {
        match self {
            #[cfg(feature = "flex")]
            Self::Flex => Ok(Device::flex()),
            #[cfg(feature = "ndarray")]
            #[allow(deprecated)]
            // Burn deprecates this backend; this crate still supports it.
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
