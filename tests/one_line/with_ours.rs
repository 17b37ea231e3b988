//! The programs with this crate's loss.

use burn_cross_entropy as loss;

#[path = "programs.rs"]
pub mod programs;
