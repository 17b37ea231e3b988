//! Contrastive learning, built on the loss.
//!
//! [`InfoNceLoss`] is the loss of queries, their positives and their negatives.
//! The keys of earlier steps are the negatives of a step ([`NegativeQueue`]), and the encoder that makes
//! them follows the one that is trained ([`momentum_update`]).

mod autodiff;
mod error;
mod info_nce;
mod momentum;
mod queue;
mod schedule;

pub use error::ContrastiveError;
pub use info_nce::{InBatch, InfoNceLoss, InfoNceLossConfig, SampleIds, moco_logits};
pub use momentum::{Buffers, Momentum, momentum_update, try_momentum_update};
pub use queue::{NegativeQueue, NegativeQueueConfig};
pub use schedule::MomentumSchedule;
