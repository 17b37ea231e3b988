//! The cross-entropy on slices, for backends whose tensors are in the host's memory.
//!
//! | File | Content |
//! |---|---|
//! | `call` | a whole call: parts, reduction |
//! | `threads`, `helpers` | the parts on several threads; threads that help the calling one |
//! | `part`, `slots` | one part of the rows, one unit of rows after the other; where their results go |
//! | `unit` | the steps of the computation over the rows of a unit |
//! | `row_loss`; `softmax`, `finish`, `logits`, `softcap`, `probabilities` | what a loss has to compute; the maths |
//! | `factor` | the factor of a row's loss by its target's probability |
//! | `row_value` | log-sum-exp and entropy in place of a loss |
//! | `ranks` | the order of a row's classes |
//! | `multiply` | the upstream gradient |
//! | `projection`, `products` | the projection before the loss, chunk by chunk |
//! | `pairs`, `pair_sigmoid` | pairs of its rows and columns; a loss of each pair apart |
//! | `tail` | the loss of sparse distributions whose other classes have a share together |
//! | `constants`, `rows`, `shares`, `targets`, `sparse`, `blocks` | the facts that the maths is about |
//! | `storage`, `number`, `ahead` | layouts and dtypes; what is fetched before it is read |
//! | `halves`, `half_instructions` | rows in half precision; their instructions |
//! | `float`, `instructions` | elementary functions, and what they are compiled for |
//!
//! A unit is one row, if its classes lie together and are many, else [`LANES`](blocks::LANES) rows
//! side by side. Logits are read from memory once. The gradient is written once, over the logits if
//! they may be overwritten.

// Loops over lanes read and write several arrays at the same index. Zipped iterators hide that, and
// become vector code less reliably.
#![allow(clippy::needless_range_loop)]

mod ahead;
mod blocks;
mod call;
mod constants;
mod factor;
mod finish;
mod float;
#[cfg(target_arch = "x86_64")]
mod half_instructions;
mod halves;
mod helpers;
mod instructions;
mod logits;
mod multiply;
mod number;
mod pair_sigmoid;
mod pairs;
mod part;
mod probabilities;
mod products;
mod projection;
mod ranks;
mod row_loss;
mod row_value;
mod rows;
mod shares;
mod slots;
mod softcap;
mod softmax;
mod sparse;
mod storage;
mod tail;
mod targets;
mod threads;
mod unit;

pub(crate) use self::call::{Buffers, Call, Reduction, Solution};
pub(crate) use self::halves::HalfRows;
pub(crate) use self::instructions::Instructions;
pub(crate) use self::multiply::multiply;
pub(crate) use self::pairs::{AlikeColumns, ExcludedPairs, SameIds};
pub(crate) use self::products::Matrix;
pub(crate) use self::projection::{
    MadeTargets, ProjectedCall, Projection, ProjectionBuffers, ProjectionGradients,
};
pub(crate) use self::rows::OutputLines;
pub(crate) use self::storage::{Floats, FloatsMut};
pub(crate) use self::targets::{Indices, RowRule, Sparse, TargetRule, Targets};
