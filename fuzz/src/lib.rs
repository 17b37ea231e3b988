//! The problems that the fuzz targets make of bytes, and what is right for them in f64.
//!
//! | Module | Content |
//! |---|---|
//! | [`code`] | numbers and choices as bytes, in both directions |
//! | [`options`], [`asked`] | what problems over logits and over a projection have in common |
//! | [`loss`] | logits, targets and options; the oracle is that of the crate's tests, with some [`excuses`] |
//! | [`values`] | entropies and log-sum-exps, compared with their definitions |
//! | [`projection`] | the same with a projection that makes the logits; [`bounds`] and [`slopes`] say how far off a result may be |
//! | [`projected_call`] | the tensors of such a problem |
//! | [`contrastive`] | queries, keys and what belongs together; [`by_hand`] has the losses and their gradients |
//! | [`contrastive_queries`], [`contrastive_call`], [`contrastive_bounds`] | what is compared in such a problem; its call; how far off that may be |
//! | [`fixtures`] | the cases that PyTorch computed, as problems |
//! | [`randomness`] | hash maps that have the same order in every run |

use std::fmt::Debug;

use burn::tensor::Device;

mod asked;
mod bounds;
pub mod by_hand;
pub mod code;
mod common;
pub mod contrastive;
mod contrastive_bounds;
mod contrastive_call;
mod contrastive_queries;
mod excuses;
pub mod fixtures;
pub mod loss;
mod options;
mod projected_call;
pub mod projection;
mod randomness;
mod slopes;
mod values;

#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../../tests/it/linear/projected.rs"]
mod projected;

/// Checks a problem on Flex. A difference is a panic, which tells the fuzzer of it, with the problem.
pub fn run<C: Debug>(case: &C, check: fn(&C, &Device) -> Result<(), String>) {
    if let Err(difference) = check(case, &Device::flex().autodiff()) {
        panic!("{difference}\n{case:?}");
    }
}
