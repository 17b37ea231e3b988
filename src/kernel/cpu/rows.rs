//! What is known of rows from their targets alone, and what they come to.

/// `W` rows that are computed together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<A, const W: usize> {
    /// The class of an index target; any class where `share` is 0.
    pub(crate) class: [usize; W],
    /// What an index target adds to the share of its class: `(1 - e) weight[class]`. 0 for
    /// distributions.
    pub(crate) share: [A; W],
    /// What the gradient of the row's loss is multiplied by.
    pub(crate) scale: [A; W],
    /// What the gradient of the row's z-loss is multiplied by.
    pub(crate) penalty_scale: [A; W],
}

/// The losses of `W` rows and their z-losses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Losses<A, const W: usize> {
    pub(crate) main: [A; W],
    pub(crate) penalty: [A; W],
}
