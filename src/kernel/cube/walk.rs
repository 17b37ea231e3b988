//! How a unit goes through its share of a row's classes: in blocks of vectors, all of which are loaded
//! before anything is computed from them.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::layout::{Strides, place_of_class, start_of_row};
use super::plan::{Along, Tile};
use super::spec::{Extent, Span};
use super::targets::Inputs;

/// Where a row's numbers lie.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct RowPlace {
    start: usize,
    strides: Strides,
}

#[cube]
impl RowPlace {
    pub(crate) fn new(
        slot: usize,
        strides: Strides,
        extent: &Extent,
        #[comptime] tile: Tile,
    ) -> RowPlace {
        RowPlace {
            start: start_of_row(slot, extent.inner, &strides, tile.has_positions),
            strides,
        }
    }

    /// The place of a step: of a vector of the row's classes, or of a class of several rows. Vectors of
    /// several classes stand side by side, which saves their stride.
    pub(crate) fn of_step<N: Size>(&self, step: usize, #[comptime] along: Along) -> usize {
        let size = N::value().comptime();
        let is_side_by_side = comptime!(along == Along::Classes && size > 1);
        if comptime!(is_side_by_side) {
            self.start + step
        } else {
            place_of_class(self.start, step, &self.strides)
        }
    }
}

/// The steps of a unit that are still to be taken.
#[derive(CubeType)]
pub(crate) struct Walk {
    /// The first step of the next block. Every unit of a group loops from here, as often as the others,
    /// and takes the steps that are its own: planes add up when their units come out together.
    pub(crate) base: usize,
    /// The step behind the last.
    pub(crate) end: usize,
    unit: usize,
    logits: RowPlace,
    targets: RowPlace,
}

/// What a unit has read of a step.
#[derive(CubeType)]
pub(crate) struct Step<F: Float, P: Float, N: Size> {
    pub(crate) at: usize,
    pub(crate) logits: Vector<F, N>,
    /// The vector of the distributions; zeros where there are none.
    pub(crate) targets: Vector<P, N>,
}

/// What a unit has read of a block.
#[derive(CubeType)]
pub(crate) struct Block<F: Float, P: Float, N: Size> {
    pub(crate) steps: Sequence<Step<F, P, N>>,
    /// Steps that are there for every unit. Those behind them may lie beyond the last step, which then
    /// stands in their place.
    #[cube(comptime)]
    pub(crate) certain: u32,
}

/// Steps of a block of all units.
pub(crate) fn steps_of_block(tile: Tile) -> usize {
    (tile.units * tile.unroll) as usize
}

#[cube]
impl Walk {
    /// All steps of the unit, or none of them.
    pub(crate) fn new(
        span: &Span,
        takes_any: bool,
        extent: &Extent,
        #[comptime] tile: Tile,
    ) -> Walk {
        Walk {
            base: span.begin,
            end: select(takes_any, span.end, span.begin),
            unit: span.unit,
            logits: RowPlace::new(span.slot, extent.logits, extent, tile),
            targets: RowPlace::new(span.slot, extent.targets, extent, tile),
        }
    }

    /// The step behind the last whole block.
    pub(crate) fn end_of_blocks(&self, #[comptime] tile: Tile) -> usize {
        let length = comptime!(steps_of_block(tile));
        self.base + (self.end - self.base) / length * length
    }

    /// Loads the next block, of which the first `certain` steps are there for every unit. A load behind a
    /// branch would wait for the one before, so the others are no further than the last step.
    pub(crate) fn load<F: Float, A: Float, P: Float, I: Int, N: Size>(
        &self,
        logits: &[Vector<F, N>],
        inputs: &Inputs<A, P, I, N>,
        #[comptime] certain: u32,
        #[comptime] tile: Tile,
    ) -> Block<F, P, N> {
        let mut steps = Sequence::<Step<F, P, N>>::new();
        #[unroll]
        for nth in 0..tile.unroll {
            let at = self.base + self.unit + comptime!((nth * tile.units) as usize);
            let mut read = at;
            if comptime!(nth >= certain) {
                read = at.min(self.end - 1);
            }
            steps.push(Step::<F, P, N> {
                at,
                logits: logits[self.logits.of_step::<N>(read, tile.along)],
                targets: inputs.distribution(self.targets.of_step::<N>(read, tile.along)),
            });
        }
        Block::<F, P, N> { steps, certain }
    }
}
