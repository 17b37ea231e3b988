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

/// What `W` rows come to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Losses<A, const W: usize> {
    pub(crate) main: [A; W],
    /// The z-losses.
    pub(crate) penalty: [A; W],
    /// The log-sum-exp; 0 of probabilities.
    pub(crate) lse: [A; W],
    /// The log-probability of the class of an index target.
    pub(crate) log_prob: [A; W],
}

/// What `W` rows come to besides their losses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Details<A, const W: usize> {
    /// The first of the classes of the largest score.
    pub(crate) predicted: [usize; W],
    /// How many classes stand before the target's.
    pub(crate) rank: [usize; W],
    /// The log-probability of the target; absent where the losses have it.
    pub(crate) log_prob: Option<[A; W]>,
    pub(crate) entropy: Option<[A; W]>,
}
