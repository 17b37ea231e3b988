//! Contrastive learning, built on the loss.
//!
//! [`InfoNceLoss`] is the loss of queries, their positives and their negatives, [`SigLipLoss`] that of pairs each
//! apart, [`GradientCache`] the way to batches that are too large for one graph. The keys of earlier steps are the negatives of a step ([`NegativeQueue`]), and the encoder that makes
//! them follows the one that is trained ([`momentum_update`]).

mod autodiff;
mod error;
mod features;
mod gradient_cache;
mod ids;
mod info_nce;
mod momentum;
mod parameter;
mod positives;
mod queue;
mod schedule;
mod sig_lip;

pub use error::ContrastiveError;
pub use gradient_cache::{CachedLoss, GradientCache};
pub use ids::SampleIds;
pub use info_nce::{Contrast, InBatch, InfoNceLoss, InfoNceLossConfig, SupCon, moco_logits};
pub use momentum::{Buffers, Momentum, momentum_update, try_momentum_update};
pub use positives::Positives;
pub use queue::{NegativeQueue, NegativeQueueConfig};
pub use schedule::MomentumSchedule;
pub use sig_lip::{SigLipLoss, SigLipLossConfig};
