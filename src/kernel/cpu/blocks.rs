//! Rows in blocks of a fixed number of lanes: the form in which the arithmetic sees every layout.
//!
//! One row of many classes is a list of blocks whose lanes are its classes (`W = 1`: one row in all
//! lanes). Rows of few or of strided classes are taken [`LANES`] at a time: a list of blocks, one per
//! class, whose lanes are the rows (`W = LANES`). The arithmetic is the same. Where a row's classes lie
//! across the lanes, sums and maxima are folded over them.

use std::ops::Range;

use super::float::Float;

/// Number of lanes of a block: keeps several vector registers busy, so that an addition need not wait for
/// the previous one. With 32 the compiler unrolls the lanes and makes vectors across the blocks, which
/// it has to gather.
pub(crate) const LANES: usize = 64;

pub(crate) type Block<A> = [A; LANES];

/// Number of the row that lane `lane` belongs to.
#[inline(always)]
pub(crate) fn of_lane<A: Copy, const W: usize>(per_row: &[A; W], lane: usize) -> A {
    per_row[lane % W]
}

/// Block and lane of a class of a row.
#[inline(always)]
pub(crate) fn place<const W: usize>(class: usize, row: usize) -> (usize, usize) {
    if W == 1 {
        (class / LANES, class % LANES)
    } else {
        (class, row)
    }
}

/// Place of a class of a row in a unit's numbers.
#[inline(always)]
pub(crate) fn at<const W: usize>(class: usize, row: usize) -> usize {
    if W == 1 { class } else { class * LANES + row }
}

/// Numbers in blocks; the last block may be padded.
pub(crate) trait Blocks<A> {
    /// Whether the blocks that a visitor returns are kept.
    const REPLACED: bool;

    /// Number of blocks.
    fn steps(&self) -> usize;

    /// Number of a block, as it is now.
    fn number(&self, step: usize, lane: usize) -> A;

    /// Shows all blocks to a visitor whose own blocks are not kept.
    fn show(&self, visitor: &mut impl Visitor<A>);

    /// Shows blocks to the visitor. The blocks that it returns replace them where numbers can be written.
    fn visit(&mut self, steps: Range<usize>, visitor: &mut impl Visitor<A>);
}

/// Blocks whose numbers become a gradient.
pub(crate) trait Replaced<A>: Blocks<A> {
    /// Shows all blocks to the visitor. The blocks that it returns are the gradient.
    fn finish(&mut self, visitor: &mut impl Visitor<A>);

    /// Subtracts from the gradient at one class of each of `W` rows.
    fn subtract<const W: usize>(&mut self, classes: &[usize; W], amounts: &[A; W]);
}

/// Computation over blocks. A trait, because a closure cannot be forced inline into the loop, and outside
/// of it the processor's wide instructions are not used.
pub(crate) trait Visitor<A> {
    /// Returns the block that replaces `block`. Implementations have to be `#[inline(always)]`.
    fn visit(&mut self, step: usize, block: &Block<A>) -> Block<A>;
}

/// Numbers that are only read.
pub(crate) struct Read<'a, A> {
    whole: &'a [Block<A>],
    rest: &'a [A],
    tail: [Block<A>; 1],
}

impl<'a, A: Float> Read<'a, A> {
    #[inline(always)]
    pub(crate) fn new(numbers: &'a [A], filler: A) -> Self {
        let (whole, rest) = numbers.as_chunks::<LANES>();
        let tail = [padded(rest, filler)];
        Self { whole, rest, tail }
    }
}

impl<A: Float> Blocks<A> for Read<'_, A> {
    const REPLACED: bool = false;

    #[inline(always)]
    fn number(&self, step: usize, lane: usize) -> A {
        number_of(self.whole, &self.tail, step, lane)
    }

    #[inline(always)]
    fn steps(&self) -> usize {
        self.whole.len() + usize::from(!self.rest.is_empty())
    }

    #[inline(always)]
    fn show(&self, visitor: &mut impl Visitor<A>) {
        show(
            self.whole,
            &self.tail[..usize::from(!self.rest.is_empty())],
            visitor,
        );
    }

    #[inline(always)]
    fn visit(&mut self, steps: Range<usize>, visitor: &mut impl Visitor<A>) {
        let whole = self.whole.len();
        let tail = &self.tail[..usize::from(steps.end > whole)];
        let mut step = steps.start;
        for part in [&self.whole[steps.start..steps.end.min(whole)], tail] {
            for block in part {
                visitor.visit(step, block);
                step += 1;
            }
        }
    }
}

/// Numbers that are replaced.
pub(crate) struct Write<'a, A> {
    whole: &'a mut [Block<A>],
    rest: &'a mut [A],
    tail: [Block<A>; 1],
}

impl<'a, A: Float> Write<'a, A> {
    #[inline(always)]
    pub(crate) fn new(numbers: &'a mut [A], filler: A) -> Self {
        let (whole, rest) = numbers.as_chunks_mut::<LANES>();
        let tail = [padded(rest, filler)];
        Self { whole, rest, tail }
    }
}

impl<A: Float> Blocks<A> for Write<'_, A> {
    const REPLACED: bool = true;

    #[inline(always)]
    fn number(&self, step: usize, lane: usize) -> A {
        number_of(self.whole, &self.tail, step, lane)
    }

    #[inline(always)]
    fn steps(&self) -> usize {
        self.whole.len() + usize::from(!self.rest.is_empty())
    }

    #[inline(always)]
    fn show(&self, visitor: &mut impl Visitor<A>) {
        show(
            self.whole,
            &self.tail[..usize::from(!self.rest.is_empty())],
            visitor,
        );
    }

    #[inline(always)]
    fn visit(&mut self, steps: Range<usize>, visitor: &mut impl Visitor<A>) {
        let whole = self.whole.len();
        let with_tail = steps.end > whole;
        let tail = &mut self.tail[..usize::from(with_tail)];
        let mut step = steps.start;
        for part in [&mut self.whole[steps.start..steps.end.min(whole)], tail] {
            for block in part {
                *block = visitor.visit(step, block);
                step += 1;
            }
        }
        if with_tail {
            copy_few(&self.tail[0][..self.rest.len()], self.rest);
        }
    }
}

impl<A: Float> Replaced<A> for Write<'_, A> {
    #[inline(always)]
    fn finish(&mut self, visitor: &mut impl Visitor<A>) {
        self.visit(0..self.steps(), visitor);
    }

    #[inline(always)]
    fn subtract<const W: usize>(&mut self, classes: &[usize; W], amounts: &[A; W]) {
        for row in 0..W {
            let (step, lane) = place::<W>(classes[row], row);
            let number = match self.whole.get_mut(step) {
                // Rows in lanes fill whole blocks.
                None if W == 1 => &mut self.rest[lane],
                None => unreachable!("a class has a block"),
                Some(block) => &mut block[lane],
            };
            *number = *number - amounts[row];
        }
    }
}

#[inline(always)]
fn show<A>(whole: &[Block<A>], tail: &[Block<A>], visitor: &mut impl Visitor<A>) {
    // Two loops: one over a chain of both asks at every block which it is in.
    for (step, block) in whole.iter().enumerate() {
        visitor.visit(step, block);
    }
    for block in tail {
        visitor.visit(whole.len(), block);
    }
}

/// Number of a list of whole blocks that a padded one ends.
#[inline(always)]
fn number_of<A: Copy>(whole: &[Block<A>], tail: &[Block<A>; 1], step: usize, lane: usize) -> A {
    whole.get(step).unwrap_or(&tail[0])[lane]
}

/// Block that is padded with `filler`.
#[inline(always)]
pub(crate) fn padded<A: Float>(rest: &[A], filler: A) -> Block<A> {
    let mut block = [filler; LANES];
    copy_few(rest, &mut block[..rest.len()]);
    block
}

/// Copies less than a block, in pieces of a length that is known at compile time. A call of `memcpy` takes as
/// long as the arithmetic of several blocks.
#[inline(always)]
fn copy_few<A: Copy>(from: &[A], to: &mut [A]) {
    const { assert!(LANES == 64) };
    let mut at = 0;
    copy_piece::<A, 32>(from, to, &mut at);
    copy_piece::<A, 16>(from, to, &mut at);
    copy_piece::<A, 8>(from, to, &mut at);
    copy_piece::<A, 4>(from, to, &mut at);
    copy_piece::<A, 2>(from, to, &mut at);
    copy_piece::<A, 1>(from, to, &mut at);
}

/// Copies `N` numbers, if that is a digit of the length, and moves on.
#[inline(always)]
fn copy_piece<A: Copy, const N: usize>(from: &[A], to: &mut [A], at: &mut usize) {
    if from.len() & N != 0 {
        let piece: &[A; N] = from[*at..][..N].try_into().expect("a piece has N numbers");
        to[*at..][..N].copy_from_slice(piece);
        *at += N;
    }
}

/// Largest number of each row.
#[inline(always)]
pub(crate) fn fold_maximum<A: Float, const W: usize>(block: Block<A>) -> [A; W] {
    fold::<A, W>(block, larger)
}

/// Sum of each row, with lanes added in pairs.
#[inline(always)]
pub(crate) fn fold_sum<A: Float, const W: usize>(block: Block<A>) -> [A; W] {
    fold::<A, W>(block, sum)
}

#[inline(always)]
fn larger<A: Float>(a: A, b: A) -> A {
    if b > a { b } else { a }
}

#[inline(always)]
fn sum<A: Float>(a: A, b: A) -> A {
    a + b
}

#[inline(always)]
fn fold<A: Float, const W: usize>(mut block: Block<A>, join: impl Fn(A, A) -> A) -> [A; W] {
    let mut width = LANES;
    while width > W {
        width /= 2;
        for lane in 0..width {
            block[lane] = join(block[lane], block[lane + width]);
        }
    }
    let mut folded = [A::ZERO; W];
    folded.copy_from_slice(&block[..W]);
    folded
}

/// Number of blocks that are added one after the other before their sum goes into a [`Total`].
pub(crate) const RUN: usize = 32;

/// Compensated sum of runs: the rounding errors are kept aside, so that the error does not grow with the
/// number of classes.
#[derive(Clone, Copy)]
pub(crate) struct Total<A, const N: usize = LANES> {
    sum: [A; N],
    lost: [A; N],
}

impl<A: Float, const N: usize> Total<A, N> {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self {
            sum: [A::ZERO; N],
            lost: [A::ZERO; N],
        }
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, run: &[A; N]) {
        for lane in 0..N {
            let (old, term) = (self.sum[lane], run[lane]);
            let sum = old + term;
            let added = sum - old;
            self.lost[lane] += (old - (sum - added)) + (term - added);
            self.sum[lane] = sum;
        }
    }

    /// Sum of each lane.
    #[inline(always)]
    pub(crate) fn lanes(mut self) -> [A; N] {
        for lane in 0..N {
            // The rounding error of an infinite sum is NaN.
            if self.sum[lane].is_finite() {
                self.sum[lane] += self.lost[lane];
            }
        }
        self.sum
    }
}

impl<A: Float> Total<A> {
    /// Sum of each row.
    #[inline(always)]
    pub(crate) fn finish<const W: usize>(self) -> [A; W] {
        fold_sum::<A, W>(self.lanes())
    }
}
