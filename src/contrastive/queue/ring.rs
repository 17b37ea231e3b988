//! Places of the rows of a batch in a ring, as numbers of the host.

use std::ops::Range;

/// State of a ring: the rows that are filled, and the next row.
///
/// The `k`-th row since the ring was empty goes to row `k mod capacity`, in batches of any size: what lies
/// where does not depend on how the rows came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ring {
    capacity: usize,
    next: usize,
    len: usize,
}

/// Part of a batch, and the same number of rows of the ring that take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) batch: Range<usize>,
    pub(super) ring: Range<usize>,
}

impl Ring {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            next: 0,
            len: 0,
        }
    }

    /// Restores a ring; `None` for numbers that a ring cannot have.
    pub(super) fn restored(capacity: usize, next: usize, len: usize) -> Option<Self> {
        // Rows fill up from 0, so until the ring is full the next one is the first that is free.
        let possible = next < capacity && (len == capacity || len == next);
        possible.then_some(Self {
            capacity,
            next,
            len,
        })
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn next(&self) -> usize {
        self.next
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a batch of `rows` rows and returns its spans: one, or two if it wraps, none for an empty batch.
    /// Of a batch larger than the ring, the last rows are kept.
    pub(super) fn push(&mut self, rows: usize) -> Vec<Span> {
        let dropped = rows.saturating_sub(self.capacity);
        let first = (self.next + dropped % self.capacity) % self.capacity;
        let before_wrap = (rows - dropped).min(self.capacity - first);
        let wrap = dropped + before_wrap;
        self.next = (self.next + rows % self.capacity) % self.capacity;
        self.len = self.capacity.min(self.len.saturating_add(rows));
        [
            Span {
                batch: dropped..wrap,
                ring: first..first + before_wrap,
            },
            Span {
                batch: wrap..rows,
                ring: 0..rows - wrap,
            },
        ]
        .into_iter()
        .filter(|span| !span.batch.is_empty())
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(batch: Range<usize>, ring: Range<usize>) -> Span {
        Span { batch, ring }
    }

    #[test]
    fn a_batch_wraps() {
        let mut ring = Ring::new(5);
        assert_eq!(ring.push(3), [span(0..3, 0..3)]);
        assert_eq!((ring.next(), ring.len()), (3, 3));
        assert_eq!(ring.push(4), [span(0..2, 3..5), span(2..4, 0..2)]);
        assert_eq!((ring.next(), ring.len()), (2, 5));
    }

    #[test]
    fn a_batch_that_ends_at_the_end_does_not_wrap() {
        let mut ring = Ring::new(5);
        ring.push(2);
        assert_eq!(ring.push(3), [span(0..3, 2..5)]);
        assert_eq!((ring.next(), ring.len()), (0, 5));
    }

    #[test]
    fn the_last_rows_of_a_large_batch_are_kept() {
        let mut ring = Ring::new(5);
        ring.push(1);
        // Rows 8..13 of the batch are the numbers 9..14 of the ring's life.
        assert_eq!(ring.push(13), [span(8..9, 4..5), span(9..13, 0..4)]);
        assert_eq!((ring.next(), ring.len()), (4, 5));
        assert_eq!(ring.push(5), [span(0..1, 4..5), span(1..5, 0..4)]);
    }

    #[test]
    fn an_empty_batch_changes_nothing() {
        let mut ring = Ring::new(5);
        ring.push(2);
        let before = ring;
        assert_eq!(ring.push(0), []);
        assert_eq!(ring, before);
    }

    #[test]
    fn a_ring_is_restored_from_numbers_that_it_can_have() {
        assert!(Ring::restored(5, 0, 0).is_some());
        assert!(Ring::restored(5, 3, 3).is_some());
        assert!(Ring::restored(5, 3, 5).is_some());
        for (next, len) in [(5, 5), (3, 4), (0, 3), (2, 6), (7, 7)] {
            assert_eq!(Ring::restored(5, next, len), None, "{next} {len}");
        }
    }
}
