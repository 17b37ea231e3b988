//! What a user touches: the modules, their configuration, the targets they take.

mod checks;
mod config;
mod cross_entropy;
mod linear;
mod normalizer;
mod output;
mod shard;
mod source;
mod target;

pub use config::CrossEntropyLossConfig;
pub(crate) use cross_entropy::RangeCheck;
pub use cross_entropy::{CrossEntropyLoss, cross_entropy};
pub use linear::{LinearCrossEntropyLoss, LinearCrossEntropyLossConfig};
pub use normalizer::Normalizer;
pub use output::CrossEntropyOutput;
pub use shard::{ShardStatistics, VocabularyShard};
pub(crate) use source::{Chunk, Projected, SameId};
pub use target::{CrossEntropyTarget, LogitsRank, RowClasses, RowLosses, TargetTensor};
