//! The tests of the public surface, one body for every backend.

// Burn deprecates NdArray, which these tests run on as well.
#![cfg_attr(feature = "ndarray", allow(deprecated))]

mod common;

mod errors;
mod fixtures;
mod forms;
mod meaning;
mod modules;
mod properties;
mod seeds;
