//! Shared code of Flex and NdArray, whose tensors lie in the host's memory. It handles layout, dtype and
//! allocation; the kernels of [`cpu`](crate::kernel::cpu) compute.
//!
//! | File | Subject |
//! |---|---|
//! | `tensor` | tensors in the host's memory, and backends that have such |
//! | `inputs` | targets, class weights and reduction as slices |
//! | `logits` | the loss over logits that are a tensor |
//! | `order` | logits whose classes lie behind the other dimensions in memory |
//! | `pages` | memory of large gradients |
//! | `projection` | the loss over a projection |
//! | `times` | gradients by the upstream gradient |
//!
//! The forward computes the gradient, while a row is in cache. The gradient replaces the logits if nobody
//! else holds that buffer and they lie in row-major order, else it goes into one new tensor. With
//! index targets, views with the classes moved from the end are read as they lie; other views are first copied
//! into row-major order, and the gradient replaces the copy.
//!
//! The smallest number of f16 is 6e-8, and the gradient of a mean over many rows is below that. A factor that
//! scales the loss up comes with the upstream gradient. So the forward computes a gradient of f16 for an upstream
//! gradient that makes its largest number almost the largest of f16, and the backward multiplies it by the
//! quotient of both. Where no bound of the gradient is known (distributions, z-loss), the backward computes
//! it, over the logits that were kept.

mod inputs;
mod logits;
mod order;
#[cfg(all(feature = "flex", target_os = "linux"))]
pub(crate) mod pages;
mod projection;
mod tensor;
mod times;

use burn::backend::tensor::FloatTensor;

pub(crate) use self::inputs::first_bad_index;
pub(crate) use self::tensor::HostBackend;
pub(super) use self::tensor::HostTensor;
use self::times::Ratio;
use crate::operation::{
    Forward, Gradients, Inputs, Logits, Options, Saved, Wanted, WantedGradients,
};

/// Implements the operation for a backend with the functions of this module.
macro_rules! computes_on_host {
    ($backend:ty) => {
        impl CrossEntropyOperation for $backend {
            fn cross_entropy(
                logits: Logits<Self>,
                inputs: Inputs<Self>,
                options: Options,
                wanted: Wanted,
            ) -> Forward<Self> {
                $crate::backend::host::cross_entropy(logits, inputs, options, wanted)
            }

            fn cross_entropy_backward(
                saved: Saved<Self>,
                inputs: Inputs<Self>,
                upstream: FloatTensor<Self>,
                options: Options,
                wanted: WantedGradients,
            ) -> Gradients<Self> {
                $crate::backend::host::cross_entropy_backward(
                    saved, inputs, upstream, options, wanted,
                )
            }
        }
    };
}

pub(super) use computes_on_host;

pub(super) fn cross_entropy<B: HostBackend>(
    logits: Logits<B>,
    inputs: Inputs<B>,
    options: Options,
    wanted: Wanted,
) -> Forward<B> {
    match logits {
        Logits::Tensor(logits) => logits::forward::<B>(logits, inputs, &options, wanted),
        Logits::Projected(projection) => {
            projection::forward::<B>(projection, inputs, &options, wanted)
        }
    }
}

pub(super) fn cross_entropy_backward<B: HostBackend>(
    saved: Saved<B>,
    inputs: Inputs<B>,
    upstream: FloatTensor<B>,
    options: Options,
    wanted: WantedGradients,
) -> Gradients<B> {
    let upstream = B::open(upstream).row_major();
    match saved {
        Saved::Nothing => Gradients::default(),
        Saved::Gradients {
            gradients,
            dtype,
            upstream: made_for,
        } => {
            let ratio = Ratio {
                upstream: &upstream,
                made_for,
            };
            times::by_upstream::<B>(gradients, dtype, inputs, ratio, &options)
        }
        Saved::Logits(Logits::Tensor(logits)) | Saved::Statistics { logits, .. } => {
            logits::backward::<B>(logits, inputs, &upstream, &options, wanted)
        }
        Saved::Logits(Logits::Projected(projection)) => {
            projection::backward::<B>(projection, inputs, &upstream, &options, wanted)
        }
    }
}
