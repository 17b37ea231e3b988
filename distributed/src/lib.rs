//! The loss on several devices, in code that runs: what `docs/distributed.md` describes.
//!
//! The devices of the tests and of the example are those of a server of Burn's remote backend on
//! this machine ([`Loopback`]): separate devices, with tensors that have to be sent from one to the
//! other, without a GPU.

pub mod data_parallel;
mod loopback;
mod sharded_head;

pub use loopback::Loopback;
pub use sharded_head::{Objective, ShardedHead};
