//! The tests of the public surface, one body for every backend.

// Burn deprecates NdArray, on which these tests run too.
#![cfg_attr(feature = "ndarray", allow(deprecated))]

mod common;

mod accumulation;
mod aliasing;
mod bound;
mod capabilities;
mod contrasts;
mod digits;
mod errors;
mod fixtures;
mod forms;
mod fused;
mod fuzz;
mod info_nce;
mod info_nce_edges;
mod linear;
mod meaning;
#[cfg(feature = "train")]
mod metrics;
mod modules;
mod momentum;
mod onnx;
mod oracles;
mod outputs;
mod properties;
mod queue;
mod queue_module;
mod reports;
mod row_factor;
mod row_values;
mod row_weights;
mod schedule;
mod seeds;
mod shards;
mod smoothing;
mod sparse;
mod tail;
mod teacher_fixtures;
mod teachers;
mod threads;
mod training;
#[cfg(any(feature = "cpu", feature = "wgpu", feature = "cuda"))]
mod unfused;
mod z_loss;
