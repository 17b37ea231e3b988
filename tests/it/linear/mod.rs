//! Compares the loss that includes the projection with the projection and the loss one after the other in
//! f64.

mod edges;
mod errors;
mod fixtures;
mod forms;
pub mod options;
mod precision;
pub mod projected;
