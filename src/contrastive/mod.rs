//! Contrastive learning, built on the loss.
//!
//! [`InfoNceLoss`] compares queries with their positives and negatives, [`SigLipLoss`] asks for each pair apart, and
//! [`GradientCache`] has the gradients of batches that are too large for one graph. In momentum contrast the keys of
//! earlier steps are the negatives ([`NegativeQueue`]), and the encoder that makes them follows the trained one
//! ([`momentum_update`]).

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
