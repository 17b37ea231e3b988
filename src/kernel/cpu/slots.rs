//! Places of the results of rows, for one part of them after the other.

use super::float::Float;
use super::rows::OutputLines;

/// Places of the results of rows.
pub(super) struct Slots<'a, A> {
    /// Places of the losses; empty if only the sum is wanted.
    pub(super) losses: &'a mut [A],
    /// Places of the log-sum-exps; like all outputs empty if not wanted.
    pub(super) lse: &'a mut [A],
    pub(super) log_prob: &'a mut [A],
    pub(super) max_log_prob: &'a mut [A],
    pub(super) entropy: &'a mut [A],
    pub(super) predicted: &'a mut [i32],
    pub(super) rank: &'a mut [i32],
    pub(super) target: &'a mut [i32],
}

impl<'a, A: Float> Slots<'a, A> {
    pub(super) fn new(losses: &'a mut [A], outputs: &'a mut OutputLines<A>, rows: usize) -> Self {
        let mut numbers = outputs.numbers.chunks_mut(rows);
        let mut classes = outputs.classes.chunks_mut(rows);
        Self {
            losses,
            lse: numbers.next().unwrap_or_default(),
            log_prob: numbers.next().unwrap_or_default(),
            max_log_prob: numbers.next().unwrap_or_default(),
            entropy: numbers.next().unwrap_or_default(),
            predicted: classes.next().unwrap_or_default(),
            rank: classes.next().unwrap_or_default(),
            target: classes.next().unwrap_or_default(),
        }
    }

    /// Splits off the slots of the next `rows` rows.
    pub(super) fn take(&mut self, rows: usize) -> Self {
        fn take<'a, T>(slots: &mut &'a mut [T], rows: usize) -> &'a mut [T] {
            let here = rows.min(slots.len());
            let (now, later) = std::mem::take(slots).split_at_mut(here);
            *slots = later;
            now
        }
        Self {
            losses: take(&mut self.losses, rows),
            lse: take(&mut self.lse, rows),
            log_prob: take(&mut self.log_prob, rows),
            max_log_prob: take(&mut self.max_log_prob, rows),
            entropy: take(&mut self.entropy, rows),
            predicted: take(&mut self.predicted, rows),
            rank: take(&mut self.rank, rows),
            target: take(&mut self.target, rows),
        }
    }
}
