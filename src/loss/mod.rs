//! What a user touches: the modules, their configuration, the targets they take.

mod checks;
mod config;
mod cross_entropy;
mod target;

pub use config::CrossEntropyLossConfig;
pub use cross_entropy::{CrossEntropyLoss, cross_entropy};
pub use target::{CrossEntropyTarget, LogitsRank, RowLosses, TargetTensor};
