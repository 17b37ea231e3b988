//! Contrastive learning, built on the loss: what lives from step to step.
//!
//! The keys of earlier steps are the negatives of a step ([`NegativeQueue`]), and the encoder that makes
//! them follows the one that is trained ([`momentum_update`]).

mod error;
mod momentum;
mod queue;
mod schedule;

pub use error::ContrastiveError;
pub use momentum::{Buffers, Momentum, momentum_update, try_momentum_update};
pub use queue::{NegativeQueue, NegativeQueueConfig};
pub use schedule::MomentumSchedule;
