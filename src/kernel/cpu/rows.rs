//! Rows with their resolved targets, their losses and their outputs.

/// `W` rows that are computed together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<A, const W: usize> {
    /// The class of an index target; any class where `share` is 0.
    pub(crate) class: [usize; W],
    /// Share that an index target adds to its class: `(1 - e) weight[class]`, or that the only entry of a sparse
    /// distribution adds, times its share; 0 for distributions.
    pub(crate) share: [A; W],
    /// Factor of the gradient of the row's loss.
    pub(crate) scale: [A; W],
    /// Factor of the gradient of the row's z-loss.
    pub(crate) penalty_scale: [A; W],
}

/// Losses of `W` rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Losses<A, const W: usize> {
    pub(crate) main: [A; W],
    /// Z-losses of the rows.
    pub(crate) penalty: [A; W],
    /// Log-sum-exp; 0 over probabilities.
    pub(crate) lse: [A; W],
    /// Log-probability of the class of an index target.
    pub(crate) log_prob: [A; W],
    /// Largest log-probability; of no meaning over probabilities.
    pub(crate) max_log_prob: [A; W],
}

/// Outputs of `W` rows besides their losses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowOutputs<A, const W: usize> {
    /// First class of the largest score.
    pub(crate) predicted: [usize; W],
    /// Number of classes before the target.
    pub(crate) rank: [usize; W],
    /// The target, of a distribution its largest class.
    pub(crate) target: [usize; W],
    /// Log-probability of the target; absent where the losses have it.
    pub(crate) log_prob: Option<[A; W]>,
    /// Largest log-probability; absent where the losses have it.
    pub(crate) max_log_prob: Option<[A; W]>,
    pub(crate) entropy: Option<[A; W]>,
}

/// Outputs of all rows of a call, line by line; empty where outputs are not wanted.
#[derive(Default)]
pub(crate) struct OutputLines<A> {
    /// `[numbers, rows]`, see [`operation::RowOutputs`](crate::operation::RowOutputs).
    pub(crate) numbers: Vec<A>,
    /// `[3, rows]`.
    pub(crate) classes: Vec<i32>,
    /// Divisors of a mean: of the losses and of the z-losses.
    pub(crate) divisors: [f64; 2],
}
