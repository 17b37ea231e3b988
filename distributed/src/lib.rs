//! The loss on several devices, in code that runs; `docs/distributed.md` describes it.
//!
//! The tests and the example use the devices of a server of Burn's remote backend on this machine
//! ([`Loopback`]). These devices are separate, and tensors must be sent from one to the other, but they do
//! not need a GPU.

pub mod data_parallel;
mod loopback;
mod sharded_head;

pub use loopback::Loopback;
pub use sharded_head::{Objective, ShardedHead};
