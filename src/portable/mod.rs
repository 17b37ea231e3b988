//! Cross-entropy and its gradients in plain tensor operations.
//!
//! The portable path is for tensors on a backend without a fused implementation. Tests and timings
//! compare the fused implementations with it. While it computes, it holds several tensors of the size of
//! the logits, which the fused implementations avoid.
//!
//! Every function first views the logits as `[outer, classes, inner]`
//! ([`Geometry`](crate::operation::Geometry)), so that all ranks and class dimensions are one case, and
//! casts to the accumulation dtype. Both kinds of target become *shares* `a[c]`, the factor of `-ln p[c]`
//! in the loss of a row:
//!
//! ```text
//! q[c] = (1 - e) p[c] + e / C       p one-hot for an index, e the label smoothing, which may
//!                                   also be spread over the classes that are not masked
//! a[c] = w[c] q[c]                  w the class weights
//! loss = sum_c a[c] (lse - x[c])    a share of 0 adds nothing, also where x[c] is -inf
//! dx   = (sum_c a[c]) softmax(x) - a
//! ```
//!
//! [`CrossEntropyLoss`](crate::CrossEntropyLoss) is the usual entrance. A direct call, for a test or a
//! measurement, does not check shapes and options:
//!
//! ```
//! use burn::backend::Dispatch;
//! use burn::tensor::{Device, Int, Tensor};
//! use burn_cross_entropy::operation::{Inputs, Logits, Options, RowReduction, Targets, Wanted};
//! use burn_cross_entropy::portable;
//!
//! let device = Device::flex();
//! let logits = Logits::Tensor(Tensor::<2>::zeros([3, 2], &device).into_dispatch());
//! let targets = Tensor::<1, Int>::zeros([3], &device).into_dispatch();
//! let inputs = Inputs {
//!     reduction: RowReduction::Sum { divisor: 1.0 },
//!     ..Inputs::new(Targets::Indices(targets))
//! };
//! let (options, wanted) = (Options::default(), Wanted::default());
//! let result = portable::cross_entropy::<Dispatch>(logits, inputs, &options, wanted);
//! let loss = Tensor::<1>::from_dispatch(result.loss).into_scalar::<f32>();
//! assert!((loss - 3.0 * 2f32.ln()).abs() < 1e-6);
//! ```

mod call;
pub(crate) mod chunks;
mod counting;
mod elementary;
mod factor;
mod gradient;
mod loss;
mod outputs;
pub(crate) mod pair_sigmoid;
mod row_value;
mod shard;
mod sparse;
mod tail;

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

use self::chunks::OnLogits;
pub(crate) use self::counting::counted_rows_of;
pub use self::counting::total_weight;
pub(crate) use self::elementary::cast_int;
#[cfg(feature = "cube")]
pub(crate) use self::outputs::largest_class;
pub(crate) use self::shard::{
    combined_statistics, shard_loss, shard_statistics, statistics_per_row,
};
use self::sparse::densified;
use self::tail::{backward as backward_with_tails, forward as forward_with_tails};
pub(crate) use self::tail::{rest_of_shares, with_tails};
use crate::operation::{
    Forward, Gradients, Inputs, Logits, Options, RowValue, Saved, Wanted, WantedGradients,
};

/// Computes the loss in the shape of [`Inputs::loss_shape`], and the other wanted results.
pub fn cross_entropy<B: Backend>(
    logits: Logits<B>,
    inputs: Inputs<B>,
    options: &Options,
    wanted: Wanted,
) -> Forward<B> {
    match logits {
        Logits::Tensor(logits) if options.value == RowValue::PairSigmoid => {
            pair_sigmoid::forward::<B>(logits, inputs, options, wanted, pair_sigmoid::pairs::<B>)
        }
        Logits::Tensor(logits) => {
            let plain = |logits, inputs| {
                let (inputs, _) = densified::<B>(inputs, &logits, options);
                loss::loss(logits, inputs, options, wanted)
            };
            forward_with_tails::<B>(logits, inputs, options, plain)
        }
        Logits::Projected(projection) => {
            chunks::forward::<B, Portable>(projection, inputs, options, wanted)
        }
    }
}

/// Computes the gradients for an upstream gradient in the shape of the loss.
pub fn cross_entropy_backward<B: Backend>(
    saved: Saved<B>,
    inputs: Inputs<B>,
    upstream: FloatTensor<B>,
    options: &Options,
    wanted: WantedGradients,
) -> Gradients<B> {
    match saved {
        Saved::Nothing => Gradients::default(),
        Saved::Statistics {
            logits, statistics, ..
        } => backward_over_logits(logits, Some(statistics), inputs, upstream, options, wanted),
        Saved::Logits(Logits::Tensor(logits)) => {
            backward_over_logits(logits, None, inputs, upstream, options, wanted)
        }
        Saved::Logits(Logits::Projected(projection)) => {
            chunks::backward::<B, Portable>(projection, inputs, upstream, options, wanted)
        }
        Saved::Gradients { gradients, .. } => chunks::multiplied(gradients, &upstream),
    }
}

fn backward_over_logits<B: Backend>(
    logits: FloatTensor<B>,
    statistics: Option<FloatTensor<B>>,
    inputs: Inputs<B>,
    upstream: FloatTensor<B>,
    options: &Options,
    wanted: WantedGradients,
) -> Gradients<B> {
    let plain = |logits, inputs, upstream| {
        let (inputs, entries) = densified::<B>(inputs, &logits, options);
        let gradients = gradient::gradients(logits, statistics, inputs, upstream, options, wanted);
        match entries {
            None => gradients,
            Some(entries) => entries.of_gradients(gradients),
        }
    };
    backward_with_tails::<B>(logits, inputs, upstream, options, wanted, plain)
}

/// Portable path over the logits of a chunk.
struct Portable;

impl<B: Backend> OnLogits<B> for Portable {
    fn forward(
        logits: Logits<B>,
        inputs: Inputs<B>,
        options: &Options,
        wanted: Wanted,
    ) -> Forward<B> {
        cross_entropy(logits, inputs, options, wanted)
    }

    fn backward(
        saved: Saved<B>,
        inputs: Inputs<B>,
        upstream: FloatTensor<B>,
        options: &Options,
        wanted: WantedGradients,
    ) -> Gradients<B> {
        cross_entropy_backward(saved, inputs, upstream, options, wanted)
    }
}
