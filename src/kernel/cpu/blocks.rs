//! Rows in blocks of a fixed number of lanes, which is what the arithmetic sees of every layout.
//!
//! One row of many classes is a list of blocks whose lanes are its classes (`W = 1`: one row in the
//! lanes together). Of rows of few or of strided classes, [`LANES`] at a time are a list of blocks,
//! one block per class, whose lanes are the rows (`W = LANES`). The arithmetic is the same; where a
//! row's classes lie across the lanes, sums and maxima are folded over them.

use super::float::Float;

/// Wide enough to keep several vector registers busy, so that one addition need not wait for the
/// last; at 128 lanes the sums no longer fit the registers.
pub(crate) const LANES: usize = 64;

pub(crate) type Block<A> = [A; LANES];

/// A row's number for lane `lane`.
#[inline(always)]
pub(crate) fn of_lane<A: Copy, const W: usize>(per_row: &[A; W], lane: usize) -> A {
    per_row[lane % W]
}

/// Numbers in blocks, of which the last may be filled up.
pub(crate) trait Blocks<A> {
    fn steps(&self) -> usize;
    fn get(&self, step: usize) -> &Block<A>;
    /// Does nothing where the numbers are only read.
    fn put(&mut self, step: usize, block: Block<A>);
}

/// Numbers that are only read.
pub(crate) struct Read<'a, A> {
    whole: &'a [Block<A>],
    tail: Option<Block<A>>,
}

impl<'a, A: Float> Read<'a, A> {
    #[inline(always)]
    pub(crate) fn new(numbers: &'a [A], filler: A) -> Self {
        let (whole, rest) = numbers.as_chunks::<LANES>();
        let tail = (!rest.is_empty()).then(|| padded(rest, filler));
        Self { whole, tail }
    }
}

impl<A: Float> Blocks<A> for Read<'_, A> {
    #[inline(always)]
    fn steps(&self) -> usize {
        self.whole.len() + usize::from(self.tail.is_some())
    }

    #[inline(always)]
    fn get(&self, step: usize) -> &Block<A> {
        match &self.tail {
            Some(tail) if step == self.whole.len() => tail,
            _ => &self.whole[step],
        }
    }

    #[inline(always)]
    fn put(&mut self, _step: usize, _block: Block<A>) {}
}

/// Numbers that are replaced.
pub(crate) struct Write<'a, A> {
    whole: &'a mut [Block<A>],
    rest: &'a mut [A],
    tail: Block<A>,
}

impl<'a, A: Float> Write<'a, A> {
    #[inline(always)]
    pub(crate) fn new(numbers: &'a mut [A], filler: A) -> Self {
        let (whole, rest) = numbers.as_chunks_mut::<LANES>();
        let tail = padded(rest, filler);
        Self { whole, rest, tail }
    }
}

impl<A: Float> Blocks<A> for Write<'_, A> {
    #[inline(always)]
    fn steps(&self) -> usize {
        self.whole.len() + usize::from(!self.rest.is_empty())
    }

    #[inline(always)]
    fn get(&self, step: usize) -> &Block<A> {
        if step == self.whole.len() {
            &self.tail
        } else {
            &self.whole[step]
        }
    }

    #[inline(always)]
    fn put(&mut self, step: usize, block: Block<A>) {
        if step == self.whole.len() {
            self.rest.copy_from_slice(&block[..self.rest.len()]);
            self.tail = block;
        } else {
            self.whole[step] = block;
        }
    }
}

/// A short block filled up.
#[inline(always)]
pub(crate) fn padded<A: Float>(rest: &[A], filler: A) -> Block<A> {
    let mut block = [filler; LANES];
    block[..rest.len()].copy_from_slice(rest);
    block
}

/// The largest number of each row.
#[inline(always)]
pub(crate) fn fold_maximum<A: Float, const W: usize>(block: Block<A>) -> [A; W] {
    fold::<A, W>(block, |a, b| if b > a { b } else { a })
}

/// The sum of each row, lanes added in pairs.
#[inline(always)]
pub(crate) fn fold_sum<A: Float, const W: usize>(block: Block<A>) -> [A; W] {
    fold::<A, W>(block, |a, b| a + b)
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

/// How many blocks are added one after the other before their sum goes into a [`Total`].
pub(crate) const RUN: usize = 32;

/// Sums of runs, added with what the rounding loses kept aside, so that the error does not grow with
/// the number of classes.
#[derive(Clone, Copy)]
pub(crate) struct Total<A> {
    sum: Block<A>,
    lost: Block<A>,
}

impl<A: Float> Total<A> {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self {
            sum: [A::ZERO; LANES],
            lost: [A::ZERO; LANES],
        }
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, run: &Block<A>) {
        for lane in 0..LANES {
            let (old, term) = (self.sum[lane], run[lane]);
            let sum = old + term;
            let added = sum - old;
            self.lost[lane] += (old - (sum - added)) + (term - added);
            self.sum[lane] = sum;
        }
    }

    #[inline(always)]
    pub(crate) fn finish<const W: usize>(mut self) -> [A; W] {
        for lane in 0..LANES {
            // What an infinite sum lost is not a number.
            if self.sum[lane].is_finite() {
                self.sum[lane] += self.lost[lane];
            }
        }
        fold_sum::<A, W>(self.sum)
    }
}
