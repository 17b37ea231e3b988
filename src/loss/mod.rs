//! Public interface of the losses: modules, configuration, targets and logits.
//!
//! | File | Subject |
//! |---|---|
//! | `config`, `burn_names` | the options; the names that Burn has for some of them |
//! | `target`, `sparse`, `teacher`, `logits` | the tensors that a call takes |
//! | `normalizer`, `output` | the divisors of a mean; the outputs of rows |
//! | `checks` | whether tensors fit each other |
//! | `cross_entropy` | the module, and the way from its tensors to the operation |
//! | `forward` | the calls of the module |
//! | `linear` | the loss with the projection before it |
//! | `shard` | the loss over a vocabulary that is divided among devices |

mod burn_names;
mod checks;
mod config;
mod cross_entropy;
mod forward;
mod linear;
mod logits;
mod normalizer;
mod output;
mod shard;
mod sparse;
mod target;
mod teacher;

pub(crate) use checks::RangeCheck;
pub use config::CrossEntropyLossConfig;
pub use cross_entropy::{CrossEntropyLoss, cross_entropy};
pub(crate) use cross_entropy::{Request, RequestedReduction};
pub use linear::{LinearCrossEntropyLoss, LinearCrossEntropyLossConfig};
pub(crate) use logits::{Chunk, GivenLogits, ProjectedTensors};
pub use logits::{LogitsSource, ProjectedLogits};
pub use normalizer::Normalizer;
pub use output::CrossEntropyOutput;
#[cfg(feature = "train")]
pub(crate) use output::{CallOfOutput, Divisor};
pub use shard::{ShardStatistics, VocabularyShard};
pub use sparse::SparseDistribution;
pub(crate) use target::Target;
pub use target::{
    CrossEntropyTarget, LogitsRank, OutputOf, RowLosses, TargetTensor, WeightedTarget,
};
pub use teacher::TeacherLogits;
