//! A cross-entropy loss for [Burn](https://burn.dev).
#![warn(missing_docs)]

pub mod backend;
mod loss;
pub mod operation;
pub mod reference;

pub use backend::CrossEntropyBackend;
pub use loss::{
    CrossEntropyError, CrossEntropyLoss, CrossEntropyLossConfig, CrossEntropyTarget,
    EmptyReduction, LogitsRank, RowLosses, TargetTensor, cross_entropy,
};
