//! What a user touches: the modules, their configuration, the targets they take, their errors.

mod config;
mod cross_entropy;
mod error;
mod target;

pub use config::{CrossEntropyLossConfig, EmptyReduction};
pub use cross_entropy::{CrossEntropyLoss, cross_entropy};
pub use error::CrossEntropyError;
pub use target::{CrossEntropyTarget, LogitsRank, RowLosses, TargetTensor};
