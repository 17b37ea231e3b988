//! Sparse distributions: a few classes of each row with their shares, of which no tensor of rows x classes is made. A
//! row of many classes takes its entries one by one, as it takes an index target; for rows in lanes, outputs and
//! the gradient of the shares they are spread over the classes of a unit while it is computed.

use std::ops::Range;

use super::blocks::{LANES, at};
use super::float::Float;
use super::shares::Shares;
use super::targets::{Sparse, Target, TargetRule};
use crate::operation::Geometry;

/// Sparse distributions of a call. An ignored class has no share, and one that is none makes its row NaN.
pub(crate) struct SparseRows<'a> {
    pub(super) sparse: Sparse<'a>,
    pub(super) geometry: Geometry,
    pub(super) rule: TargetRule<'a>,
}

/// Entries of one row beside its logits.
#[derive(Clone, Copy)]
pub(crate) struct Entries<'a, A> {
    pub(super) classes: &'a [usize],
    /// Shares as they are in the loss.
    pub(super) shares: &'a [A],
    /// Logits of the classes.
    pub(super) logits: &'a [A],
}

/// Memory for the entries of one row.
pub(crate) struct EntriesOfRow<A> {
    classes: Vec<usize>,
    shares: Vec<A>,
    logits: Vec<A>,
}

impl<A: Float> EntriesOfRow<A> {
    pub(super) fn new() -> Self {
        Self {
            classes: Vec::new(),
            shares: Vec::new(),
            logits: Vec::new(),
        }
    }

    /// The entries beside the logits `x` of their row.
    pub(super) fn beside(&mut self, x: &[A]) -> Entries<'_, A> {
        self.logits.clear();
        self.logits
            .extend(self.classes.iter().map(|class| x[*class]));
        Entries {
            classes: &self.classes,
            shares: &self.shares,
            logits: &self.logits,
        }
    }
}

impl SparseRows<'_> {
    /// Resolves the entries of a row, whose shares are `weight[c] remaining share` in the loss.
    pub(super) fn resolve<A: Float>(
        &self,
        row: usize,
        shares: &Shares<'_, A>,
        entries: &mut EntriesOfRow<A>,
    ) {
        entries.classes.clear();
        entries.shares.clear();
        for entry in self.entries(row) {
            let (class, share) = match self.sparse.classes.target(entry, &self.rule) {
                Target::Class(class) => (class, A::of(self.sparse.shares.number(entry))),
                Target::Ignored => continue,
                Target::Bad => (0, A::of(f64::NAN)),
            };
            let weight = shares.weights.map_or(A::ONE, |weights| weights[class]);
            entries.classes.push(class);
            entries.shares.push(shares.remaining * share * weight);
        }
    }

    /// Places of the entries of a row.
    fn entries(&self, row: usize) -> impl Iterator<Item = usize> {
        let Geometry { classes, inner, .. } = self.geometry;
        let (outer, position) = (row / inner, row % inner);
        (0..classes).map(move |entry| (outer * classes + entry) * inner + position)
    }

    /// Writes the distributions of the rows of a unit. A class that a row has twice has both shares.
    pub(super) fn spread<A: Float, const W: usize>(&self, rows: Range<usize>, place: &mut [A]) {
        place.fill(A::ZERO);
        for (lane, row) in rows.enumerate() {
            for entry in self.entries(row) {
                match self.sparse.classes.target(entry, &self.rule) {
                    Target::Class(class) => {
                        place[at::<W>(class, lane)] += A::of(self.sparse.shares.number(entry));
                    }
                    Target::Ignored => {}
                    Target::Bad => place[at::<W>(0, lane)] = A::of(f64::NAN),
                }
            }
        }
    }

    /// Collects the gradients of the shares of a unit from those of its distributions.
    pub(super) fn collect<A: Float, const W: usize>(
        &self,
        rows: Range<usize>,
        gradient: &[A],
        place: &mut [A],
        row_weights: Option<&[A]>,
    ) {
        for (lane, row) in rows.enumerate() {
            let is_ignored = row_weights.is_some_and(|weights| weights[row] == A::ZERO);
            for (nth, entry) in self.entries(row).enumerate() {
                let slope = match self.sparse.classes.target(entry, &self.rule) {
                    Target::Class(class) => gradient[at::<W>(class, lane)],
                    Target::Ignored => A::ZERO,
                    Target::Bad if is_ignored => A::ZERO,
                    Target::Bad => A::of(f64::NAN),
                };
                let width = if W == 1 { 1 } else { LANES };
                place[nth * width + lane] = slope;
            }
        }
    }
}
