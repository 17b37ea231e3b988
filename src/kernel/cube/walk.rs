//! Way of a unit through its share of a row's classes, in blocks of vectors. A block is loaded whole before
//! anything is computed from it.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::layout::{Strides, place_of_class, start_of_row};
use super::plan::{Along, Tile};
use super::spec::{Extent, Span};
use super::targets::Inputs;

/// Place of a row's numbers in memory.
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

    /// Place of a step: of a vector of the row's classes, or of one class of several rows. Vectors of
    /// several classes lie side by side and need no stride.
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

/// Steps that a unit has still to take.
#[derive(CubeType)]
pub(crate) struct Walk {
    /// First step of the next block. All units of a group loop equally often, each over its own steps: plane
    /// operations need units that leave the loop together.
    pub(crate) base: usize,
    /// Step behind the last step.
    pub(crate) end: usize,
    unit: usize,
    logits: RowPlace,
    targets: RowPlace,
}

/// Numbers of one step that a unit has read.
#[derive(CubeType)]
pub(crate) struct Step<F: Float, P: Float, N: Size> {
    pub(crate) at: usize,
    pub(crate) logits: Vector<F, N>,
    /// Vector of the distributions; zeros without distributions.
    pub(crate) targets: Vector<P, N>,
}

/// Steps of one block that a unit has read.
#[derive(CubeType)]
pub(crate) struct Block<F: Float, P: Float, N: Size> {
    pub(crate) steps: Sequence<Step<F, P, N>>,
    /// Number of steps that exist for every unit. A later step may lie beyond the last step, which then
    /// replaces it.
    #[cube(comptime)]
    pub(crate) certain: u32,
}

/// Number of steps that all units take in one block.
pub(crate) fn steps_of_block(tile: Tile) -> usize {
    (tile.units * tile.unroll) as usize
}

#[cube]
impl Walk {
    /// Walk over all steps of the unit, or over none.
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

    /// Step behind the last whole block.
    pub(crate) fn end_of_blocks(&self, #[comptime] tile: Tile) -> usize {
        let length = comptime!(steps_of_block(tile));
        self.base + (self.end - self.base) / length * length
    }

    /// Loads the next block, of which the first `certain` steps exist for every unit. The others are clamped
    /// to the last step, because a load behind a branch would wait for the load before it.
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
