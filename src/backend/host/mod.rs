//! What Flex and NdArray share: their tensors lie in the host's memory, and the kernels of
//! [`cpu`](crate::kernel::cpu) compute on them. Layout, dtype, allocation; no maths.
//!
//! | File | Subject |
//! |---|---|
//! | `tensor` | tensors in the host's memory, and backends that have such |
//! | `inputs` | targets, class weights and reduction as slices |
//! | `logits` | the loss over logits that are a tensor |
//! | `projection` | the loss over a projection |
//! | `times` | gradients by the upstream gradient |
//!
//! The gradient is made in the forward, while a row is in cache. It goes over the logits if nobody
//! else holds their buffer and they lie in row-major order, else into one new tensor. Logits in any
//! other order of memory are copied into that order first, and the copy is written over.
//!
//! f16 alone is different: its gradient is made in the backward, over the logits that were kept.
//! The numbers of f16 end at 6e-8, and the gradient of a mean over many rows lies below; what scales
//! the loss up for that reason comes with the upstream gradient, and has to be in before rounding.

mod inputs;
mod logits;
mod projection;
mod tensor;
mod times;

use burn::backend::tensor::FloatTensor;

pub(crate) use self::inputs::first_bad_index;
pub(crate) use self::tensor::HostBackend;
pub(super) use self::tensor::HostTensor;
use crate::operation::{
    Forward, Gradients, Inputs, Logits, Options, Saved, Wanted, WantedGradients,
};

/// Makes a backend compute with the functions below.
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
        Saved::Gradients { gradients, dtype } => {
            times::by_upstream::<B>(gradients, dtype, inputs, &upstream, &options)
        }
        Saved::Logits(Logits::Tensor(logits)) | Saved::Statistics { logits, .. } => {
            logits::backward::<B>(logits, inputs, &upstream, &options, wanted)
        }
        Saved::Logits(Logits::Projected(projection)) => {
            projection::backward::<B>(projection, inputs, &upstream, &options, wanted)
        }
    }
}
