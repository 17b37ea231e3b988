//! What one call over a part of the classes takes, where they are divided among devices.

use burn::backend::Backend;

use super::{Inputs, Options};

/// A contiguous part of all classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClassWindow {
    /// The first class of the part.
    pub(crate) first: usize,
    /// The number of all classes.
    pub(crate) of: usize,
}

/// What a call over a part of the classes is resolved to.
pub(crate) struct ShardCall<B: Backend> {
    /// Index targets counted over all classes, the weights of all classes.
    pub(crate) inputs: Inputs<B>,
    pub(crate) window: ClassWindow,
    pub(crate) options: Options,
}
