//! Facts of a call, and the vectors that its rows can be read in.

use super::{Along, Forced, SharedVectors};
use crate::kernel::cube::layout::Layout;

/// Least vectors of a row that are worth the mask of the last; chosen, not measured.
const VECTORS_WORTH_A_MASK: usize = 8;
/// Least logits, and vectors of a row, that are worth a launch for the gradients in shared vectors; chosen, not measured.
const LOGITS_WORTH_SHARING: usize = 2_000_000;
const VECTORS_WORTH_SHARING: usize = 64;

/// Facts of a call that its plan depends on.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) rows: usize,
    pub(crate) classes: usize,
    /// Number of rows side by side behind the class dimension.
    pub(crate) inner: usize,
    /// Layouts of every tensor of the logits' size, each with the number of elements of its buffer.
    pub(crate) layouts: Vec<(Layout, usize)>,
    /// Vector sizes that the device loads at once, the largest first.
    pub(crate) vector_sizes: Vec<usize>,
    /// Whether the arithmetic is in f64.
    pub(crate) is_double: bool,
    /// Whether the logits are of half precision.
    pub(crate) is_half: bool,
    pub(crate) has_distributions: bool,
    /// Whether numbers of the rows besides their losses are wanted.
    pub(crate) has_outputs: bool,
    /// Whether the kernel can mask numbers of a vector that are not the row's.
    pub(crate) masks_others: bool,
}

impl Problem {
    pub(super) fn along(&self) -> Along {
        let along_classes = self.layouts.iter().all(|(layout, _)| layout.class == 1);
        let along_positions = self.layouts.iter().all(|(layout, _)| layout.inner == 1);
        if !along_classes && along_positions && self.inner > 1 {
            Along::Positions
        } else {
            Along::Classes
        }
    }

    /// Number of logits that a unit loads before it computes. They wait in registers as numbers of the
    /// arithmetic. A number of f64 takes two registers, its exponential a dozen more.
    pub(super) fn elements_in_flight(&self) -> usize {
        // Distributions are loaded beside the logits and have three more sums, along positions in
        // every lane. With these numbers the kernels for CUDA do not spill.
        match (self.is_double, self.has_distributions, self.along()) {
            (false, false, _) => 32,
            (false, true, Along::Classes) => 16,
            (false, true, Along::Positions) => 12,
            (true, false, _) => 4,
            (true, true, _) => 2,
        }
    }

    /// Number of logits that a unit holds from the sums of a row to its gradient. With these numbers the kernels for
    /// CUDA do not spill.
    pub(super) fn elements_held(&self) -> usize {
        match (self.is_double, self.has_distributions, self.has_outputs) {
            (false, false, false) => 64,
            (false, false, true) => 32,
            (false, true, _) => 16,
            (true, false, _) => 8,
            (true, true, _) => 2,
        }
    }

    /// Largest vectors that the kernel can take, and what else they hold.
    pub(super) fn vectors(&self, along: Along, forced: Option<Forced>) -> (usize, SharedVectors) {
        let whole = (self.vector_size(along), SharedVectors::None);
        if along == Along::Positions || !self.masks_others {
            return whole;
        }
        let largest = |fits: &dyn Fn(usize) -> bool| {
            let sizes = self.vector_sizes.iter().copied();
            sizes.filter(|size| fits(*size)).max().unwrap_or(1)
        };
        let gaps = largest(&|size| self.has_gaps_for(size, forced));
        let rows = largest(&|size| self.shares_vectors_of(size, forced));
        [(gaps, SharedVectors::Gaps), (rows, SharedVectors::Rows)]
            .into_iter()
            .fold(whole, |best, other| match other.0 > best.0 {
                true => other,
                false => best,
            })
    }

    /// Whether the rows of every tensor begin with vectors of this size, with gaps behind them that end with a vector.
    fn has_gaps_for(&self, size: usize, forced: Option<Forced>) -> bool {
        let is_worth = match forced {
            Some(forced) => forced.shared_vectors && self.classes >= size,
            None => self.classes >= VECTORS_WORTH_A_MASK * size,
        };
        is_worth && self.ends_in_vectors(size, |stride, _| stride.is_multiple_of(size))
    }

    /// Whether every tensor has a row's classes at the same lanes of vectors of this size, wherever the row begins, and the
    /// gradients in the vectors of two rows are worth another launch.
    fn shares_vectors_of(&self, size: usize, forced: Option<Forced>) -> bool {
        let is_worth = match forced {
            Some(forced) => forced.shared_vectors && self.classes >= 2 * size,
            None => {
                self.classes >= VECTORS_WORTH_SHARING * size
                    && self.rows * self.classes >= LOGITS_WORTH_SHARING
            }
        };
        is_worth && self.ends_in_vectors(size, |stride, of_first| stride % size == of_first % size)
    }

    /// Whether the classes of every tensor lie side by side, its rows at strides that suit those of the first tensor, and all
    /// vectors of this size within its buffer.
    fn ends_in_vectors(&self, size: usize, suits: impl Fn(usize, usize) -> bool) -> bool {
        let outer = self.rows / self.inner;
        let (first, _) = &self.layouts[0];
        self.layouts.iter().all(|(layout, length)| {
            let last_row = (outer - 1) * layout.outer + (self.inner - 1) * layout.inner;
            layout.class == 1
                && layout.offset.is_multiple_of(size)
                && (outer == 1 || suits(layout.outer, first.outer))
                && (self.inner == 1 || suits(layout.inner, first.inner))
                && (last_row + self.classes).next_multiple_of(size) <= *length
        })
    }
    fn vector_size(&self, along: Along) -> usize {
        let outer = self.rows / self.inner;
        let fits = |size: &usize| {
            let size = *size;
            self.layouts.iter().all(|(layout, _)| {
                let fits = |stride: usize, count: usize| count == 1 || stride.is_multiple_of(size);
                layout.offset.is_multiple_of(size)
                    && fits(layout.outer, outer)
                    && match along {
                        Along::Classes => {
                            layout.class == 1
                                && self.classes.is_multiple_of(size)
                                && fits(layout.inner, self.inner)
                        }
                        Along::Positions => {
                            layout.inner == 1
                                && self.inner.is_multiple_of(size)
                                && fits(layout.class, self.classes)
                        }
                    }
            })
        };
        self.vector_sizes.iter().copied().find(fits).unwrap_or(1)
    }
}
