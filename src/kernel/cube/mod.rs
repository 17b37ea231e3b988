//! The loss and its gradients on every CubeCL runtime. It knows buffers and their strides; no
//! tensor.
//!
//! - [`forward`] reads the logits once and writes a loss and a few numbers per row;
//! - [`totals`] makes one number of the losses;
//! - [`backward`] reads the logits once more and writes the gradient.
//!
//! They share [`state`] (what the classes of a row add up to), [`details`] (what is known of a row
//! besides, for whoever asks), [`targets`] (which rows count, the
//! classes' shares), [`group`] (sums over units) and [`elementary`] (logarithm and hyperbolic
//! tangent). [`plan`] chooses who computes what, [`layout`] says where it lies.

mod backward;
mod details;
mod elementary;
mod forward;
mod group;
mod launch;
mod layout;
pub(crate) mod plan;
mod spec;
mod state;
mod targets;
mod totals;
mod walk;

pub(crate) use launch::{Buffer, Call, Full, GradientBuffer, Kept, Targets};
pub(crate) use layout::Layout;
