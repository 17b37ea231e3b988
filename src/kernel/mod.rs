//! The maths: what the backends run. It knows no tensor.

#[cfg(any(feature = "flex", feature = "ndarray"))]
pub(crate) mod cpu;
#[cfg(feature = "cube")]
pub(crate) mod cube;
