//! Sparse distributions: a few classes of each row with their shares, of which no tensor of rows x classes is made. A
//! row of many classes takes its entries one by one, as it takes an index target, and a row in a lane takes its entry,
//! where rows have no more than one. More of them in lanes, and all of them for outputs and the gradient of the shares,
//! are spread over the classes of a unit while it is computed.

use std::ops::Range;

use super::blocks::at;
use super::float::Float;
use super::rows::Rows;
use super::shares::{Entries, Shares, share_slope};
use super::tail::TailRows;
use super::targets::{Sparse, Target, TargetRule};
use crate::operation::Geometry;

/// Sparse distributions of a call. An ignored class has no share, and one that is none makes its row NaN.
pub(crate) struct SparseRows<'a> {
    pub(super) sparse: Sparse<'a>,
    /// Geometry of the shares.
    pub(super) geometry: Geometry,
    pub(super) rule: TargetRule<'a>,
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
        for (class, share) in self.weighed_shares(row, shares) {
            entries.classes.push(class);
            entries.shares.push(share);
        }
    }

    /// Whether no row has more than one entry, or a tail.
    pub(super) fn have_one_entry(&self) -> bool {
        self.geometry.classes == 1 && !self.has_tails()
    }

    /// Gives rows of one entry its class and share, as if it were their index target.
    pub(super) fn resolve_one<A: Float, const W: usize>(
        &self,
        of_rows: Range<usize>,
        shares: &Shares<'_, A>,
        rows: &mut Rows<A, W>,
    ) {
        for (lane, row) in of_rows.enumerate() {
            if let Some((class, share)) = self.weighed_shares(row, shares).next() {
                rows.class[lane] = class;
                rows.share[lane] = share;
            }
        }
    }

    /// Classes of a row with what their shares are in the loss.
    fn weighed_shares<A: Float>(
        &self,
        row: usize,
        shares: &Shares<'_, A>,
    ) -> impl Iterator<Item = (usize, A)> {
        let (remaining, weights) = (shares.remaining, shares.weights);
        self.shares_of(row).map(move |(class, share): (usize, A)| {
            let weight = weights.map_or(A::ONE, |weights| weights[class]);
            (class, remaining * share * weight)
        })
    }

    /// Resolves the entries and the tails of the rows of a unit.
    pub(super) fn resolve_with_tails<A: Float>(&self, rows: Range<usize>, tails: &mut TailRows<A>) {
        tails.clear();
        for row in rows {
            let tail = self.place(row, self.geometry.classes - 1, self.geometry.classes);
            let tail = A::of(self.sparse.shares.number(tail));
            tails.add(self.shares_of(row), tail);
        }
    }

    /// Whether there is a share for the classes that are no entry.
    pub(super) fn has_tails(&self) -> bool {
        self.sparse.has_tail()
    }

    /// Number of entries of a row, without the tail.
    fn count(&self) -> usize {
        self.geometry.classes - usize::from(self.has_tails())
    }

    /// Place of one of so many numbers of a row.
    fn place(&self, row: usize, nth: usize, of: usize) -> usize {
        let inner = self.geometry.inner;
        (row / inner * of + nth) * inner + row % inner
    }

    /// Target of each entry of a row, and the place of its share.
    fn entries(&self, row: usize) -> impl Iterator<Item = (Target, usize)> {
        let count = self.count();
        (0..count).map(move |nth| {
            let class = self.place(row, nth, count);
            let target = self.sparse.classes.target(class, &self.rule);
            (target, self.place(row, nth, self.geometry.classes))
        })
    }

    /// Classes of a row with their shares; a share at class 0 that is NaN stands for one that is no class.
    fn shares_of<A: Float>(&self, row: usize) -> impl Iterator<Item = (usize, A)> {
        self.entries(row)
            .filter_map(|(target, place)| match target {
                Target::Class(class) => Some((class, A::of(self.sparse.shares.number(place)))),
                Target::Ignored => None,
                Target::Bad => Some((0, A::of(f64::NAN))),
            })
    }

    /// Writes the distributions of the rows of a unit. A class that a row has twice has both shares.
    pub(super) fn spread<A: Float, const W: usize>(&self, rows: Range<usize>, place: &mut [A]) {
        place.fill(A::ZERO);
        for (lane, row) in rows.enumerate() {
            for (class, share) in self.shares_of(row) {
                place[at::<W>(class, lane)] += share;
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
            for (nth, (target, _)) in self.entries(row).enumerate() {
                place[at::<W>(nth, lane)] = match target {
                    Target::Class(class) => gradient[at::<W>(class, lane)],
                    Target::Ignored => A::ZERO,
                    Target::Bad if is_ignored => A::ZERO,
                    Target::Bad => A::of(f64::NAN),
                };
            }
        }
    }

    /// Writes the gradients of the shares of a unit whose rows have tails; `scale` is the factor of each row's.
    pub(super) fn collect_with_tails<A: Float, const W: usize>(
        &self,
        rows: Range<usize>,
        tails: &TailRows<A>,
        scale: &[A; W],
        place: &mut [A],
        row_weights: Option<&[A]>,
    ) {
        let count = self.count();
        for (lane, row) in rows.enumerate() {
            if row_weights.is_some_and(|weights| weights[row] == A::ZERO) {
                for nth in 0..=count {
                    place[at::<W>(nth, lane)] = A::ZERO;
                }
                continue;
            }
            let slope = |surprisal| share_slope(A::ONE, scale[lane], surprisal);
            for (nth, (target, _)) in self.entries(row).enumerate() {
                place[at::<W>(nth, lane)] = match target {
                    Target::Class(class) => slope(tails.surprisal(lane, class)),
                    Target::Ignored => A::ZERO,
                    Target::Bad => A::of(f64::NAN),
                };
            }
            place[at::<W>(count, lane)] = slope(tails.surprisal_of_tail(lane));
        }
    }
}
