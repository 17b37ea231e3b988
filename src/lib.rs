//! A cross-entropy loss for [Burn](https://burn.dev), complete and exact on every backend.
//!
//! [`CrossEntropyLoss`] takes logits of any rank with the classes in any dimension, and class
//! indices or distributions as targets, with class weights, ignored targets, label smoothing, every
//! reduction, a logit scale and softcap, and the z-loss. Forward and backward are one operation of
//! the backend each; no graph of `log_softmax` and `gather` is recorded.
//!
//! ```
//! use burn::tensor::{Device, Int, Tensor};
//! use burn_cross_entropy::CrossEntropyLossConfig;
//!
//! // Another device is another backend; nothing else changes.
//! let device = Device::flex().autodiff();
//!
//! // Logits for 2 images of 4 x 4 pixels in 3 classes; the pixels labelled 255 do not count.
//! let logits = Tensor::<4>::zeros([2, 3, 4, 4], &device).require_grad();
//! let labels = Tensor::<3, Int>::full([2, 4, 4], 1, &device);
//!
//! let loss = CrossEntropyLossConfig::new()
//!     .with_ignore_indices(vec![255])
//!     .with_label_smoothing(0.1)
//!     .init(&device);
//! let value = loss.forward(logits.clone(), labels);
//! let gradient = logits.grad(&value.backward()).unwrap();
//! assert_eq!(gradient.dims(), [2, 3, 4, 4]);
//! ```
//!
//! # What it does
//!
//! | I want | Use |
//! |---|---|
//! | the loss of class indices, distributions, a few classes with shares, a teacher | [`CrossEntropyLoss::forward`] with a [`CrossEntropyTarget`]: integers, floats, [`SparseDistribution`], [`TeacherLogits`] |
//! | to weigh or to mask rows | [`TargetTensor::weighted`] |
//! | smoothing, class weights, ignored targets, focal loss, z-loss, softcap | the options of [`CrossEntropyLossConfig`] |
//! | the loss of each row, log-probabilities, entropies with gradients | [`forward_no_reduction`](CrossEntropyLoss::forward_no_reduction), [`log_prob`](CrossEntropyLoss::log_prob), [`entropy`](CrossEntropyLoss::entropy), [`lse`](CrossEntropyLoss::lse) |
//! | metrics from the same pass | [`forward_with_output`](CrossEntropyLoss::forward_with_output); with the feature `train` burn-train's metrics take the output as it is |
//! | a language model's loss without its logits | [`LinearCrossEntropyLoss`]: hidden states and the projection, with logits for some rows at a time |
//! | one mean over micro-batches or devices | [`Normalizer`] |
//! | a vocabulary that is divided among devices | [`VocabularyShard`] |
//! | contrastive learning: MoCo, SimCLR, CLIP, SupCon | [`InfoNceLoss`], with a [`NegativeQueue`], [`momentum_update`] and [`GradientCache`](contrastive::GradientCache) |
//! | SigLIP | [`SigLipLoss`] |
//! | errors as values | `try_forward`, [`CrossEntropyError`]; [`check`](CrossEntropyLoss::check) looks at every target |
//!
//! # Backends
//!
//! | Backend | Feature | Bound at compile time | Logits |
//! |---|---|---|---|
//! | Flex | `flex` (default) | `CrossEntropyLoss<Autodiff<Flex>>` | f32, f64, f16, bf16 |
//! | NdArray | `ndarray` | `CrossEntropyLoss<Autodiff<NdArray>>` | f32, f64 |
//! | wgpu, Vulkan, Metal, WebGPU | `wgpu`, `vulkan`, `metal`, `webgpu` | `CrossEntropyLoss<Autodiff<Wgpu>>` | f32, f16 where the device has it |
//! | CubeCL's processor runtime | `cpu` | `CrossEntropyLoss<Autodiff<Cpu>>` | f32, f64, f16, bf16 |
//! | CUDA, ROCm | `cuda`, `rocm` | `CrossEntropyLoss<Autodiff<Cuda>>` and so on | f32, f64, f16, bf16 where the device has them |
//! | any other | none | no | what its tensor operations take |
//!
//! `CrossEntropyLoss` without a parameter finds the backend in the device of the tensors. A backend
//! without an implementation in this build takes the portable path in plain tensor operations: the
//! same loss and gradient, but for logits that are not finite, which get a gradient of 0 there.
//!
//! All CubeCL runtimes are one backend type in Burn, of which `Wgpu`, `Cpu`, `Cuda` and `Rocm` are
//! names: a loss bound to one of them takes the tensors of the others. The feature `cube` alone holds
//! what they share and needs a runtime beside it. `cpu`, `cuda` and `rocm` link an LLVM that their
//! first build downloads.
//!
//! # Features
//!
//! | Feature | Brings |
//! |---|---|
//! | `flex` (default), `ndarray`, `wgpu`, `vulkan`, `metal`, `webgpu`, `cpu`, `cuda`, `rocm` | Burn's backend of that name, with kernels of this crate |
//! | `cube` | what the CubeCL runtimes share; it needs one of them, or Burn's own feature, beside it |
//! | `train` | adaptors for burn-train's metrics, and metrics of losses, overlap and calibration |
//! | `tui` | burn-train's dashboard in the examples |
//!
//! # Bound to a backend
//!
//! The same code takes a loss that dispatches at run time and one that is bound at compile time:
//!
//! ```
//! use burn::backend::{Autodiff, Flex};
//! use burn::tensor::{Device, Int, Tensor};
//! use burn_cross_entropy::{CrossEntropyBackend, CrossEntropyLoss, CrossEntropyLossConfig};
//!
//! fn step<B: CrossEntropyBackend>(
//!     loss: &CrossEntropyLoss<B>,
//!     logits: Tensor<2>,
//!     targets: Tensor<1, Int>,
//! ) -> f32 {
//!     loss.forward(logits, targets).into_scalar()
//! }
//!
//! let device = Device::flex().autodiff();
//! let config = CrossEntropyLossConfig::new();
//! let logits = Tensor::<2>::from_floats([[1.0, 2.0], [0.0, 3.0]], &device);
//! let targets = Tensor::<1, Int>::from_ints([0, 1], &device);
//!
//! let any = step(&config.init(&device), logits.clone(), targets.clone());
//! let bound = step(&config.init_for::<Autodiff<Flex>>(&device), logits, targets);
//! assert_eq!(any, bound);
//! ```
//!
//! # Guides
//!
//! In the package, and here as text: [moving from `burn::nn` or PyTorch][migration],
//! [recipes][recipes] (distillation, preferences, policy gradients), [contrastive learning][contrastive],
//! [several batches, several devices][distributed], [what is promised and which test shows it][correctness],
//! [performance][performance].
//!
//! [migration]: https://docs.rs/crate/burn-cross-entropy/latest/source/docs/migration.md
//! [recipes]: https://docs.rs/crate/burn-cross-entropy/latest/source/docs/recipes.md
//! [contrastive]: https://docs.rs/crate/burn-cross-entropy/latest/source/docs/contrastive.md
//! [distributed]: https://docs.rs/crate/burn-cross-entropy/latest/source/docs/distributed.md
//! [correctness]: https://docs.rs/crate/burn-cross-entropy/latest/source/docs/correctness.md
//! [performance]: https://docs.rs/crate/burn-cross-entropy/latest/source/docs/performance.md
#![warn(missing_docs)]

#[doc(hidden)]
pub mod backend;
pub mod contrastive;
mod dispatch;
mod error;
mod kernel;
mod loss;
#[doc(hidden)]
pub mod operation;
#[doc(hidden)]
pub mod portable;
#[cfg(feature = "train")]
pub mod train;

pub use contrastive::{
    InfoNceLoss, InfoNceLossConfig, NegativeQueue, NegativeQueueConfig, SigLipLoss,
    SigLipLossConfig, moco_logits, momentum_update,
};
pub use dispatch::CrossEntropyBackend;
pub use error::{CrossEntropyError, ProjectionError, ShardError};
pub use loss::{
    CrossEntropyLoss, CrossEntropyLossConfig, CrossEntropyOutput, CrossEntropyTarget,
    LinearCrossEntropyLoss, LinearCrossEntropyLossConfig, LogitsRank, LogitsSource, Normalizer,
    OutputOf, ProjectedLogits, RowLosses, ShardStatistics, SparseDistribution, TargetTensor,
    TeacherLogits, VocabularyShard, WeightedTarget, cross_entropy,
};
pub use operation::{EmptyReduction, RowFactor, SmoothingOver};

/// Gives memory that was kept for the next step back to the system.
///
/// On Flex and Linux, a gradient of at least 512 KiB that needs a tensor of its own lies in huge pages. When it is
/// dropped, its memory is kept for a gradient of its size, or of half of it and more, in the next step: up to four such,
/// each as large as a gradient that there was. While they are kept, the system may take their pages back where it runs short of
/// memory, and counts them until then. In a process that trains no more, this function returns them at once.
/// Everywhere else it does nothing.
///
/// [`use_huge_pages`] tells how to do without.
///
/// ```
/// burn_cross_entropy::release_memory();
/// ```
pub fn release_memory() {
    #[cfg(all(feature = "flex", target_os = "linux"))]
    backend::host::pages::release();
}

/// Chooses whether large gradients of Flex on Linux lie in huge pages ([`release_memory`] tells how), from the next
/// call on, and returns whether they did.
///
/// They do at first, unless the environment variable `BURN_CROSS_ENTROPY_HUGE_PAGES` is 0. Without them gradients
/// have the memory of every other tensor, and none is kept. That is for programs whose allocator counts or limits
/// memory: pages are mapped past it. Everywhere else it does nothing and returns false.
///
/// ```
/// let before = burn_cross_entropy::use_huge_pages(false);
/// // Here the allocator sees the memory of every tensor.
/// burn_cross_entropy::use_huge_pages(before);
/// ```
pub fn use_huge_pages(on: bool) -> bool {
    #[cfg(all(feature = "flex", target_os = "linux"))]
    return backend::host::pages::turn(on);
    #[cfg(not(all(feature = "flex", target_os = "linux")))]
    {
        let _ = on;
        false
    }
}

/// Controls of the GPU kernels for tests.
#[cfg(feature = "cube")]
#[doc(hidden)]
pub mod testing {
    pub use crate::kernel::cube::plan::{Forced, Strategy, forcing};
}

/// The code of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The code of the guide for those who come from elsewhere.
#[cfg(doctest)]
#[doc = include_str!("../docs/migration.md")]
struct Migration;

/// The code of the page on several devices, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../docs/distributed.md")]
struct Distributed;

/// The code of the page on contrastive learning, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../docs/contrastive.md")]
struct Contrastive;

/// The code of the recipes, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../docs/recipes.md")]
struct Recipes;
