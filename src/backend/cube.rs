//! Every CubeCL runtime: wgpu, Vulkan, Metal, WebGPU, CUDA, ROCm. Which of them runs is a property
//! of the tensor's device.

use burn_cubecl::CubeBackend;

use super::CrossEntropyBackend;

impl CrossEntropyBackend for CubeBackend {}
