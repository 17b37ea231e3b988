//! The programs with Burn's loss.

use burn::nn::loss;

#[path = "programs.rs"]
pub mod programs;
