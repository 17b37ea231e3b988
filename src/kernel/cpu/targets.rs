//! Targets as slices: which rows count, and what they weigh.

use std::ops::Range;

use super::float::Float;
use super::instructions::{Instructions, Task};
use super::storage::Floats;
use crate::operation::{Geometry, Options};

/// Targets of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Targets<'a> {
    /// One class per row.
    Indices(Indices<'a>),
    /// One distribution per row, laid out like the logits.
    Distributions(Floats<'a>),
    /// A few classes per row with their shares.
    Sparse(Sparse<'a>),
}

impl<'a> Targets<'a> {
    pub(crate) fn indices(self) -> Option<Indices<'a>> {
        match self {
            Self::Indices(indices) => Some(indices),
            Self::Distributions(_) | Self::Sparse(_) => None,
        }
    }

    pub(super) fn sparse(self) -> Option<Sparse<'a>> {
        match self {
            Self::Sparse(sparse) => Some(sparse),
            Self::Indices(_) | Self::Distributions(_) => None,
        }
    }
}

/// A few classes per row and their shares, each `[outer, entries, inner]`. With a tail there is one share more, the
/// last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sparse<'a> {
    pub(crate) classes: Indices<'a>,
    pub(crate) shares: Floats<'a>,
}

impl Sparse<'_> {
    /// Whether there is a share for the classes that are no entry.
    pub(crate) fn has_tail(&self) -> bool {
        self.shares.len() > self.classes.len()
    }

    /// Geometry of the shares beside logits of a geometry.
    pub(crate) fn geometry(&self, logits: &Geometry) -> Geometry {
        Geometry {
            classes: self.shares.len() / logits.rows().max(1),
            ..*logits
        }
    }
}

/// Index targets of any integer dtype.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Indices<'a> {
    I64(&'a [i64]),
    I32(&'a [i32]),
    I16(&'a [i16]),
    I8(&'a [i8]),
    U64(&'a [u64]),
    U32(&'a [u32]),
    U16(&'a [u16]),
    U8(&'a [u8]),
}

/// Index targets of `W` rows, resolved by the target rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowTargets<const W: usize> {
    /// Class of each row; 0 where the row does not count.
    pub(crate) class: [usize; W],
    /// Whether the row is neither ignored nor bad.
    pub(crate) counts: [bool; W],
}

impl<const W: usize> RowTargets<W> {
    /// Rows that all count, of any class.
    fn any() -> Self {
        Self {
            class: [0; W],
            counts: [true; W],
        }
    }

    /// The same, but rows of weight 0 do not count.
    fn without_weightless<A: Float>(mut self, weights: &[A]) -> Self {
        for (lane, &weight) in weights.iter().enumerate() {
            if weight == A::ZERO {
                self.counts[lane] = false;
                self.class[lane] = 0;
            }
        }
        self
    }
}

/// Index target, resolved by the target rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Class(usize),
    Ignored,
    /// Neither a class nor ignored.
    Bad,
}

/// Calls a generic function over the slice, for the dtype of the indices.
macro_rules! over_indices {
    ($indices:expr, $slice:ident => $value:expr) => {
        match $indices {
            Indices::I64($slice) => $value,
            Indices::I32($slice) => $value,
            Indices::I16($slice) => $value,
            Indices::I8($slice) => $value,
            Indices::U64($slice) => $value,
            Indices::U32($slice) => $value,
            Indices::U16($slice) => $value,
            Indices::U8($slice) => $value,
        }
    };
}

impl<'a> Indices<'a> {
    pub(crate) fn len(&self) -> usize {
        over_indices!(self, indices => indices.len())
    }

    /// Indices of consecutive rows.
    pub(crate) fn window(self, rows: Range<usize>) -> Indices<'a> {
        match self {
            Indices::I64(indices) => Indices::I64(&indices[rows]),
            Indices::I32(indices) => Indices::I32(&indices[rows]),
            Indices::I16(indices) => Indices::I16(&indices[rows]),
            Indices::I8(indices) => Indices::I8(&indices[rows]),
            Indices::U64(indices) => Indices::U64(&indices[rows]),
            Indices::U32(indices) => Indices::U32(&indices[rows]),
            Indices::U16(indices) => Indices::U16(&indices[rows]),
            Indices::U8(indices) => Indices::U8(&indices[rows]),
        }
    }

    /// Indices of some rows. An index beyond i64 becomes the largest i64, which is not a class either.
    pub(crate) fn gather(self, rows: &[usize]) -> Vec<i64> {
        let narrow = |wide: i128| i64::try_from(wide).unwrap_or(i64::MAX);
        over_indices!(self, indices => {
            rows.iter().map(|row| narrow(indices[*row].wide())).collect()
        })
    }

    /// One index, resolved.
    pub(super) fn target(self, at: usize, rule: &TargetRule<'_>) -> Target {
        over_indices!(self, indices => rule.target(indices[at]))
    }

    /// All indices, from any dtype.
    pub(crate) fn wide(self) -> Vec<i128> {
        over_indices!(self, indices => indices.iter().map(|index| index.wide()).collect())
    }

    /// Resolves the targets of consecutive rows. Lanes beyond them are rows that do not count.
    fn resolve<const W: usize>(&self, rows: Range<usize>, rule: &TargetRule<'_>) -> RowTargets<W> {
        over_indices!(self, indices => rule.resolve(&indices[rows]))
    }

    /// Loss and gradient of a row that does not count: 0 where it is ignored, NaN where its target is bad.
    fn value_of_dropped(&self, row: usize, rule: &TargetRule<'_>) -> f64 {
        match self.target(row, rule) {
            Target::Bad => f64::NAN,
            Target::Ignored | Target::Class(_) => 0.0,
        }
    }

    /// First bad target: its row and its value.
    pub(crate) fn first_bad(&self, rule: &TargetRule<'_>) -> Option<(usize, i128)> {
        over_indices!(self, indices => rule.first_bad(indices))
    }

    /// Divisors of a mean: the sum of the class weights over the counted rows, and the number of counted
    /// rows.
    fn divisors_of_mean<A: Float>(&self, weights: Option<&[A]>, rule: &TargetRule<'_>) -> [f64; 2] {
        over_indices!(self, indices => {
            let counted = rule.count(indices) as f64;
            match weights {
                None => [counted, counted],
                Some(weights) => [rule.total_weight(indices, weights), counted],
            }
        })
    }
}

/// Rule that tells which rows count: by their index targets, where they have such, and by their weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowRule<'a, A> {
    /// Absent for distributions.
    pub(crate) indices: Option<Indices<'a>>,
    pub(crate) rule: TargetRule<'a>,
    /// One weight per row. A row of weight 0 is ignored.
    pub(crate) row_weights: Option<&'a [A]>,
}

impl<A: Float> RowRule<'_, A> {
    /// Resolves the targets of consecutive rows. Lanes beyond them are rows that do not count, or with
    /// distributions any.
    pub(crate) fn resolve<const W: usize>(&self, rows: Range<usize>) -> RowTargets<W> {
        match (&self.indices, self.row_weights) {
            (Some(indices), None) => indices.resolve(rows, &self.rule),
            (None, None) => RowTargets::any(),
            (Some(indices), Some(weights)) => {
                let resolved = indices.resolve(rows.clone(), &self.rule);
                resolved.without_weightless(&weights[rows])
            }
            (None, Some(weights)) => RowTargets::any().without_weightless(&weights[rows]),
        }
    }

    /// Weight of a row.
    pub(crate) fn weight(&self, row: usize) -> A {
        self.row_weights.map_or(A::ONE, |weights| weights[row])
    }

    /// Loss and gradient of a row that does not count: 0 where it is ignored, NaN where its target is bad.
    pub(crate) fn value_of_dropped(&self, row: usize) -> f64 {
        match &self.indices {
            Some(indices) if self.weight(row) != A::ZERO => {
                indices.value_of_dropped(row, &self.rule)
            }
            _ => 0.0,
        }
    }

    /// Whether the row is neither ignored nor bad.
    pub(crate) fn counts(&self, row: usize) -> bool {
        self.resolve::<1>(row..row + 1).counts[0]
    }

    /// Whether the row is ignored. A row with a bad target is not: its loss is NaN.
    pub(crate) fn is_ignored(&self, row: usize) -> bool {
        !self.counts(row) && self.value_of_dropped(row) == 0.0
    }

    /// Divisors of a mean over so many rows: the sum of the weights of the counted rows, with their class
    /// weights and without.
    pub(crate) fn divisors_of_mean(&self, rows: usize, class_weights: Option<&[A]>) -> [f64; 2] {
        match (&self.indices, self.row_weights) {
            (None, None) => [rows as f64; 2],
            (Some(indices), None) => indices.divisors_of_mean(class_weights, &self.rule),
            (None, Some(row_weights)) => {
                let total = row_weights.iter().map(|weight| weight.to_f64()).sum();
                [total, total]
            }
            (Some(indices), Some(row_weights)) => {
                over_indices!(indices, indices => {
                    self.rule.total_weights(indices, row_weights, class_weights)
                })
            }
        }
    }
}

/// Target rule: tells which index targets are ignored, and which of the others are classes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TargetRule<'a> {
    pub(crate) classes: usize,
    pub(crate) ignored: &'a [i64],
}

impl<'a> TargetRule<'a> {
    pub(crate) fn new(classes: usize, options: &'a Options) -> Self {
        Self {
            classes,
            ignored: &options.ignore_indices,
        }
    }
}

impl TargetRule<'_> {
    fn target<I: Index>(&self, index: I) -> Target {
        if self.ignored.iter().any(|&ignored| index.equals(ignored)) {
            Target::Ignored
        } else if index.is_below(self.classes) {
            Target::Class(index.class())
        } else {
            Target::Bad
        }
    }

    fn resolve<I: Index, const W: usize>(&self, indices: &[I]) -> RowTargets<W> {
        let mut resolved = RowTargets {
            class: [0; W],
            counts: [false; W],
        };
        let places = resolved.class.iter_mut().zip(&mut resolved.counts);
        for ((class, counts), &index) in places.zip(indices) {
            *counts = match *self.ignored {
                [] => index.is_below(self.classes),
                [one] => index.is_below(self.classes) & !index.equals(one),
                _ => matches!(self.target(index), Target::Class(_)),
            };
            *class = if *counts { index.class() } else { 0 };
        }
        resolved
    }

    fn first_bad<I: Index>(&self, indices: &[I]) -> Option<(usize, i128)> {
        // Whole runs are checked first: a run without bad targets needs few comparisons.
        const RUN: usize = 1024;
        for (run, indices) in indices.chunks(RUN).enumerate() {
            let fine = self.count_with(indices, true);
            if fine < indices.len() {
                let is_bad = |index: &I| self.target(*index) == Target::Bad;
                let at = indices.iter().position(is_bad)?;
                return Some((run * RUN + at, indices[at].wide()));
            }
        }
        None
    }

    /// Number of rows that are neither ignored nor bad.
    fn count<I: Index>(&self, indices: &[I]) -> usize {
        self.count_with(indices, false)
    }

    /// Number of counted rows, and with `ignored` also of ignored rows.
    fn count_with<I: Index>(&self, indices: &[I], ignored: bool) -> usize {
        let rule = *self;
        Instructions::best().run(Counted {
            indices,
            rule,
            ignored,
        })
    }

    /// Sums of the rows' weights, with the weights of their classes and without.
    fn total_weights<I: Index, A: Float>(
        &self,
        indices: &[I],
        row_weights: &[A],
        class_weights: Option<&[A]>,
    ) -> [f64; 2] {
        let mut sums = [0.0; 2];
        for (index, weight) in indices.iter().zip(row_weights) {
            if let Target::Class(class) = self.target(*index) {
                let weight = weight.to_f64();
                let of_class = class_weights.map_or(1.0, |weights| weights[class].to_f64());
                sums[0] += weight * of_class;
                sums[1] += weight;
            }
        }
        sums
    }

    fn total_weight<I: Index, A: Float>(&self, indices: &[I], weights: &[A]) -> f64 {
        let weight = |&index: &I| match self.target(index) {
            Target::Class(class) => weights[class].to_f64(),
            Target::Ignored | Target::Bad => 0.0,
        };
        indices.iter().map(weight).sum()
    }
}

struct Counted<'a, I> {
    indices: &'a [I],
    rule: TargetRule<'a>,
    ignored: bool,
}

impl<I: Index> Task for Counted<'_, I> {
    type Output = usize;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> usize {
        let classes = self.rule.classes;
        let mut counted = 0;
        match *self.rule.ignored {
            [] => {
                for index in self.indices {
                    counted += usize::from(index.is_below(classes));
                }
            }
            [one] => {
                for index in self.indices {
                    let ignored = index.equals(one);
                    let class = index.is_below(classes) & !ignored;
                    counted += usize::from(class | (ignored & self.ignored));
                }
            }
            _ => {
                for &index in self.indices {
                    counted += usize::from(match self.rule.target(index) {
                        Target::Class(_) => true,
                        Target::Ignored => self.ignored,
                        Target::Bad => false,
                    });
                }
            }
        }
        counted
    }
}

trait Index: Copy {
    fn is_below(self, classes: usize) -> bool;
    fn equals(self, value: i64) -> bool;
    /// Class of an index that is known to be one.
    fn class(self) -> usize;
    fn wide(self) -> i128;
}

macro_rules! index {
    ($($int:ident: |$self:ident, $value:ident| $equals:expr),*) => {$(
        impl Index for $int {
            #[inline(always)]
            fn is_below(self, classes: usize) -> bool {
                // The cast makes a negative number larger than all classes.
                (self as u64) < classes as u64
            }

            #[inline(always)]
            fn equals($self, $value: i64) -> bool {
                $equals
            }

            #[inline(always)]
            fn class(self) -> usize {
                self as usize
            }

            fn wide(self) -> i128 {
                self.into()
            }
        }
    )*};
}

index!(
    i64: |self, value| self == value,
    i32: |self, value| i64::from(self) == value,
    i16: |self, value| i64::from(self) == value,
    i8: |self, value| i64::from(self) == value,
    u64: |self, value| value >= 0 && self == value as u64,
    u32: |self, value| i64::from(self) == value,
    u16: |self, value| i64::from(self) == value,
    u8: |self, value| i64::from(self) == value
);
