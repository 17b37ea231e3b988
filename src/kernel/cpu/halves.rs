//! Rows in half precision: converted block by block in the passes that read and write memory, so that
//! neither conversion has a pass of its own.
//!
//! The first two passes (maximum, exponentials) read the stored logits; the exponentials stand in f32
//! meanwhile; the last pass writes the rounded gradient over the logits.

use std::ops::Range;

use super::blocks::{Block, Blocks, LANES, Replaced, Visitor};
use super::constants::Constants;
use super::logits::Softmax;
use super::number::{Converter, ConvertingTask, Number};
use super::rows::Losses;
use super::storage::{Native, Part, Runs};
use super::unit::Unit;

/// Arithmetic whose rows may be stored in half precision.
pub(crate) trait HalfRows: Native {
    /// Losses of a row of logits in the first part, or in the second, where their gradient goes; `None` where
    /// the row is not in half precision, or more is wanted of it than losses and gradient.
    fn losses_of_halves(
        constants: &Constants<'_, Self>,
        row: usize,
        unit: &mut Unit<'_, Self, 1>,
        logits: (Option<&Part<'_>>, Option<&mut Part<'_>>),
        numbers: &mut Vec<Self>,
    ) -> Option<Losses<Self, 1>>;
}

impl HalfRows for f64 {
    fn losses_of_halves(
        _constants: &Constants<'_, Self>,
        _row: usize,
        _unit: &mut Unit<'_, Self, 1>,
        _logits: (Option<&Part<'_>>, Option<&mut Part<'_>>),
        _numbers: &mut Vec<Self>,
    ) -> Option<Losses<Self, 1>> {
        None
    }
}

impl HalfRows for f32 {
    fn losses_of_halves(
        constants: &Constants<'_, Self>,
        row: usize,
        unit: &mut Unit<'_, Self, 1>,
        logits: (Option<&Part<'_>>, Option<&mut Part<'_>>),
        numbers: &mut Vec<Self>,
    ) -> Option<Losses<Self, 1>> {
        let loss = constants.only_softmax(unit)?;
        let row_of_halves = RowOfHalves {
            loss,
            constants,
            row,
        };
        macro_rules! runs_of {
            ($part:expr, $half:ident) => {
                $part.map(|part| match part {
                    Part::$half(runs) => runs,
                    _ => unreachable!("the gradient has the dtype of the logits"),
                })
            };
        }
        match logits {
            (_, Some(Part::F16(output))) => {
                Some(row_of_halves.gradient(runs_of!(logits.0, F16), output, numbers))
            }
            (_, Some(Part::BF16(output))) => {
                Some(row_of_halves.gradient(runs_of!(logits.0, BF16), output, numbers))
            }
            (Some(Part::F16(logits)), None) => Some(row_of_halves.losses(logits)),
            (Some(Part::BF16(logits)), None) => Some(row_of_halves.losses(logits)),
            _ => None,
        }
    }
}

/// A row whose dtype is known.
struct RowOfHalves<'a> {
    loss: Softmax<'a, f32, 1>,
    constants: &'a Constants<'a, f32>,
    row: usize,
}

impl RowOfHalves<'_> {
    fn losses<S: Number>(&self, logits: &Runs<'_, S>) -> Losses<f32, 1> {
        let task = LossesOfHalves {
            loss: self.loss,
            stored: logits.row(&self.constants.geometry, self.row),
        };
        Number::converting(self.constants.instructions, task)
    }

    /// Losses of the logits, which stand in the place of their gradient if they are not given.
    fn gradient<S: Number>(
        &self,
        logits: Option<&Runs<'_, S>>,
        output: &mut Runs<'_, S>,
        numbers: &mut Vec<f32>,
    ) -> Losses<f32, 1> {
        let geometry = &self.constants.geometry;
        let stored = output.row_mut(geometry, self.row);
        if let Some(logits) = logits {
            stored.copy_from_slice(logits.row(geometry, self.row));
        }
        let task = GradientOfHalves {
            loss: self.loss,
            stored,
            numbers,
        };
        Number::converting(self.constants.instructions, task)
    }
}

struct LossesOfHalves<'a, S> {
    loss: Softmax<'a, f32, 1>,
    stored: &'a [S],
}

impl<S: Number> ConvertingTask<S> for LossesOfHalves<'_, S> {
    type Output = Losses<f32, 1>;

    #[inline(always)]
    fn run<const FMA: bool>(self, converter: impl Converter<S>) -> Losses<f32, 1> {
        self.loss
            .losses_of::<FMA>(&mut ReadHalves::new(self.stored, converter))
    }
}

struct GradientOfHalves<'a, S> {
    loss: Softmax<'a, f32, 1>,
    stored: &'a mut [S],
    numbers: &'a mut Vec<f32>,
}

impl<S: Number> ConvertingTask<S> for GradientOfHalves<'_, S> {
    type Output = Losses<f32, 1>;

    #[inline(always)]
    fn run<const FMA: bool>(self, converter: impl Converter<S>) -> Losses<f32, 1> {
        let length = self.stored.len().next_multiple_of(LANES);
        self.numbers.resize(length, 0.0);
        let (numbers, _) = self.numbers.as_chunks_mut::<LANES>();
        let mut halves = Halves::new(self.stored, numbers, self.loss.rows.class[0], converter);
        self.loss.gradient_in::<FMA>(&mut halves)
    }
}

/// Stored numbers that are only read.
struct ReadHalves<'a, S, C> {
    whole: &'a [Block<S>],
    rest: &'a [S],
    tail: Block<f32>,
    converter: C,
}

impl<'a, S: Number, C: Converter<S>> ReadHalves<'a, S, C> {
    #[inline(always)]
    fn new(stored: &'a [S], converter: C) -> Self {
        let (whole, rest) = stored.as_chunks::<LANES>();
        Self {
            whole,
            rest,
            tail: tail_of(rest),
            converter,
        }
    }
}

/// End of a row in the arithmetic's dtype; the lanes beyond it are -inf.
#[inline(always)]
fn tail_of<S: Number>(rest: &[S]) -> Block<f32> {
    let mut tail = [f32::NEG_INFINITY; LANES];
    for (number, stored) in tail.iter_mut().zip(rest) {
        *number = stored.widen();
    }
    tail
}

/// Number of stored blocks that a padded one ends.
#[inline(always)]
fn stored_number<S: Number>(
    whole: &[Block<S>],
    tail: &Block<f32>,
    step: usize,
    lane: usize,
) -> f32 {
    match whole.get(step) {
        Some(block) => block[lane].widen(),
        None => tail[lane],
    }
}

/// Shows stored blocks, and behind them the padded one if there is a rest.
#[inline(always)]
fn show_stored<S: Number>(
    whole: &[Block<S>],
    tail: Option<&Block<f32>>,
    converter: impl Converter<S>,
    visitor: &mut impl Visitor<f32>,
) {
    for (step, block) in whole.iter().enumerate() {
        visitor.visit(step, &converter.widen(block));
    }
    if let Some(tail) = tail {
        visitor.visit(whole.len(), tail);
    }
}

impl<S: Number, C: Converter<S>> Blocks<f32> for ReadHalves<'_, S, C> {
    const REPLACED: bool = false;

    #[inline(always)]
    fn steps(&self) -> usize {
        self.whole.len() + usize::from(!self.rest.is_empty())
    }

    #[inline(always)]
    fn number(&self, step: usize, lane: usize) -> f32 {
        stored_number(self.whole, &self.tail, step, lane)
    }

    #[inline(always)]
    fn show(&self, visitor: &mut impl Visitor<f32>) {
        let tail = (!self.rest.is_empty()).then_some(&self.tail);
        show_stored(self.whole, tail, self.converter, visitor);
    }

    #[inline(always)]
    fn visit(&mut self, steps: Range<usize>, visitor: &mut impl Visitor<f32>) {
        let whole = self.whole.len();
        for step in steps.start..steps.end.min(whole) {
            visitor.visit(step, &self.converter.widen(&self.whole[step]));
        }
        if steps.end > whole {
            visitor.visit(whole, &self.tail);
        }
    }
}

/// Stored logits, their exponentials, and the stored gradient.
struct Halves<'a, S, C> {
    whole: &'a mut [Block<S>],
    rest: &'a mut [S],
    /// Exponentials, as soon as they have been visited.
    numbers: &'a mut [Block<f32>],
    are_visited: bool,
    tail: Block<f32>,
    converter: C,
    /// Block and lane of the class that is subtracted from.
    kept: (usize, usize),
    /// The gradient of that block before rounding.
    kept_block: Block<f32>,
}

impl<'a, S: Number, C: Converter<S>> Halves<'a, S, C> {
    #[inline(always)]
    fn new(stored: &'a mut [S], numbers: &'a mut [Block<f32>], class: usize, converter: C) -> Self {
        let (whole, rest) = stored.as_chunks_mut::<LANES>();
        let tail = tail_of(rest);
        Self {
            whole,
            rest,
            numbers,
            are_visited: false,
            tail,
            converter,
            kept: (class / LANES, class % LANES),
            kept_block: tail,
        }
    }
}

impl<S: Number, C: Converter<S>> Blocks<f32> for Halves<'_, S, C> {
    const REPLACED: bool = true;

    #[inline(always)]
    fn steps(&self) -> usize {
        self.numbers.len()
    }

    #[inline(always)]
    fn number(&self, step: usize, lane: usize) -> f32 {
        if self.are_visited {
            return self.numbers[step][lane];
        }
        stored_number(self.whole, &self.tail, step, lane)
    }

    #[inline(always)]
    fn show(&self, visitor: &mut impl Visitor<f32>) {
        let tail = (!self.rest.is_empty()).then_some(&self.tail);
        show_stored(self.whole, tail, self.converter, visitor);
    }

    #[inline(always)]
    fn visit(&mut self, steps: Range<usize>, visitor: &mut impl Visitor<f32>) {
        self.are_visited = true;
        let whole = self.whole.len();
        let range = steps.start..steps.end.min(whole);
        let numbers = self.numbers[range.clone()].iter_mut();
        for ((step, block), numbers) in range.clone().zip(&self.whole[range]).zip(numbers) {
            *numbers = visitor.visit(step, &self.converter.widen(block));
        }
        if steps.end > whole {
            self.numbers[whole] = visitor.visit(whole, &self.tail);
        }
    }
}

impl<S: Number, C: Converter<S>> Replaced<f32> for Halves<'_, S, C> {
    #[inline(always)]
    fn finish(&mut self, visitor: &mut impl Visitor<f32>) {
        let whole = self.whole.len();
        for (step, (block, numbers)) in self.whole.iter_mut().zip(&*self.numbers).enumerate() {
            let gradient = visitor.visit(step, numbers);
            if step == self.kept.0 {
                self.kept_block = gradient;
            }
            *block = self.converter.narrow(&gradient);
        }
        if !self.rest.is_empty() {
            let gradient = visitor.visit(whole, &self.numbers[whole]);
            if whole == self.kept.0 {
                self.kept_block = gradient;
            }
            for (stored, &number) in self.rest.iter_mut().zip(&gradient) {
                *stored = S::narrow(number);
            }
        }
    }

    #[inline(always)]
    fn subtract<const W: usize>(&mut self, classes: &[usize; W], amounts: &[f32; W]) {
        let (step, lane) = self.kept;
        debug_assert_eq!(classes[..], [step * LANES + lane]);
        let number = S::narrow(self.kept_block[lane] - amounts[0]);
        match self.whole.get_mut(step) {
            Some(block) => block[lane] = number,
            None => self.rest[lane] = number,
        }
    }
}
