//! Arguments of a call over a part of the classes, where the classes are divided among devices.

use burn::backend::Backend;

use super::{Inputs, Options};

/// Contiguous part of all classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClassWindow {
    /// First class of the part.
    pub(crate) first: usize,
    /// Number of all classes.
    pub(crate) of: usize,
}

/// Call over a part of the classes, checked and resolved.
pub(crate) struct ShardCall<B: Backend> {
    /// Index targets counted over all classes, the weights of all classes.
    pub(crate) inputs: Inputs<B>,
    pub(crate) window: ClassWindow,
    pub(crate) options: Options,
}
