//! Way of a unit through its share of a row's classes, in blocks of vectors. A block is loaded whole before
//! anything is computed from it.
//!
//! A row's first and last vector may hold numbers that are not the row's. They are masked as they are loaded, and their
//! shares are 0.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::classes::{Classes, ClassesOfRow};
use super::layout::{Strides, place_of_class, start_of_row};
use super::plan::{Along, Tile};
use super::spec::{Extent, Numbers, Span, Uniforms};
use super::targets::Inputs;

/// Place of a row's numbers in memory.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct RowPlace {
    /// Place of the first class, or of the vector that holds it.
    start: usize,
    /// Number of elements before the first class in its vector.
    before: usize,
    strides: Strides,
}

#[cube]
impl RowPlace {
    pub(crate) fn new<N: Size>(
        slot: usize,
        strides: Strides,
        extent: &Extent,
        #[comptime] tile: Tile,
    ) -> RowPlace {
        let size = N::value().comptime();
        let start = start_of_row(slot, extent.inner, &strides, tile.has_positions);
        match comptime!(tile.shares_vectors()) {
            true => RowPlace {
                start: start / size,
                before: start % size,
                strides,
            },
            false => RowPlace {
                start,
                before: 0usize.runtime(),
                strides,
            },
        }
    }

    /// Classes of the row.
    pub(crate) fn classes(&self, extent: &Extent) -> ClassesOfRow {
        ClassesOfRow {
            before: self.before,
            count: extent.classes,
        }
    }

    /// Step that holds a class.
    pub(crate) fn step_of_class<N: Size>(&self, class: usize, #[comptime] tile: Tile) -> usize {
        let size = N::value().comptime();
        match comptime!(tile.along) {
            Along::Positions => class,
            Along::Classes => match comptime!(tile.shares_vectors()) {
                true => (class + self.before) / size,
                false => class / size,
            },
        }
    }

    /// Place of the step that holds a class. With the stride of vectors side by side, which is 1, NVIDIA's compiler spills
    /// no registers; with an addition in its place it did.
    pub(crate) fn of_class<N: Size>(&self, class: usize, #[comptime] tile: Tile) -> usize {
        let step = self.step_of_class::<N>(class, tile);
        place_of_class(self.start, step, &self.strides)
    }

    /// Lane of a class in a vector of classes.
    pub(crate) fn lane_of_class<N: Size>(&self, class: usize, #[comptime] tile: Tile) -> usize {
        let size = N::value().comptime();
        match comptime!(tile.shares_vectors()) {
            true => (class + self.before) % size,
            false => class % size,
        }
    }

    /// Number of steps of the row.
    fn steps<N: Size>(&self, extent: &Extent, #[comptime] tile: Tile) -> usize {
        match comptime!(tile.shares_vectors()) {
            true => (self.before + extent.classes).div_ceil(N::value().comptime()),
            false => extent.steps,
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
    /// First step of the first block.
    begin: usize,
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
    row: ClassesOfRow,
    pub(crate) logits: Vector<F, N>,
    /// Vector of the distributions; zeros without distributions.
    pub(crate) targets: Vector<P, N>,
}

#[cube]
impl<F: Float, P: Float, N: Size> Step<F, P, N> {
    pub(crate) fn new(
        at: usize,
        row: ClassesOfRow,
        logits: Vector<F, N>,
        targets: Vector<P, N>,
    ) -> Step<F, P, N> {
        Step::<F, P, N> {
            at,
            row,
            logits,
            targets,
        }
    }

    /// Classes of the lanes, computed where they are needed: they would wait in registers.
    pub(crate) fn classes(&self, #[comptime] tile: Tile) -> Classes {
        self.row.of_step::<N>(self.at, tile)
    }
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
    pub(crate) fn new<N: Size>(
        span: &Span,
        takes_any: bool,
        extent: &Extent,
        #[comptime] tile: Tile,
    ) -> Walk {
        let logits = RowPlace::new::<N>(span.slot, extent.logits, extent, tile);
        let steps = logits.steps::<N>(extent, tile);
        let (mut begin, mut end) = (span.begin, span.end);
        if comptime!(tile.shares_vectors()) {
            begin = begin.min(steps);
            end = end.min(steps);
        }
        Walk {
            base: begin,
            begin,
            end: select(takes_any, end, begin),
            unit: span.unit,
            logits,
            targets: RowPlace::new::<N>(span.slot, extent.targets, extent, tile),
        }
    }

    /// Step behind the last whole block.
    pub(crate) fn end_of_blocks(&self, #[comptime] tile: Tile) -> usize {
        let length = comptime!(steps_of_block(tile));
        self.base + (self.end - self.base) / length * length
    }

    /// Goes to a block, counted from 0.
    pub(crate) fn go_to(&mut self, block: usize, #[comptime] tile: Tile) {
        self.base = self.begin + block * comptime!(steps_of_block(tile));
    }

    /// Step of the unit in a block, counted from 0.
    pub(crate) fn step_of_block(
        &self,
        block: usize,
        #[comptime] nth: u32,
        #[comptime] tile: Tile,
    ) -> usize {
        let base = self.begin + block * comptime!(steps_of_block(tile));
        base + self.unit + comptime!((nth * tile.units) as usize)
    }

    /// Classes of the row.
    pub(crate) fn classes(&self, extent: &Extent) -> ClassesOfRow {
        self.logits.classes(extent)
    }

    /// Loads the next block, of which the first `certain` steps exist for every unit. The others are clamped
    /// to the last step, because a load behind a branch would wait for the load before it.
    pub(crate) fn load<F: Float, A: Float, P: Float, I: Int, N: Size>(
        &self,
        logits: &[Vector<F, N>],
        inputs: &Inputs<A, P, I, N>,
        uniforms: &Uniforms,
        #[comptime] certain: u32,
        #[comptime] tile: Tile,
    ) -> Block<F, P, N> {
        let extent = &uniforms.extent;
        let mut loaded = Sequence::<Step<F, P, N>>::new();
        #[unroll]
        for nth in 0..tile.unroll {
            let at = self.base + self.unit + comptime!((nth * tile.units) as usize);
            let mut read = at;
            if comptime!(nth >= certain) {
                read = at.min(self.end - 1);
            }
            loaded.push(Step::<F, P, N> {
                at,
                row: self.classes(extent),
                logits: logits[self.logits.of_step::<N>(read, tile.along)],
                targets: inputs.distribution(self.targets.of_step::<N>(read, tile.along)),
            });
        }
        let mut steps = Sequence::<Step<F, P, N>>::new();
        #[unroll]
        for nth in 0..tile.unroll as usize {
            steps.push(masked(&loaded[nth], inputs, &uniforms.numbers, tile));
        }
        Block::<F, P, N> { steps, certain }
    }
}

/// A step without the classes of other rows, after the loads of a block: a load behind a branch would wait for it.
#[cube]
fn masked<F: Float, A: Float, P: Float, I: Int, N: Size>(
    step: &Step<F, P, N>,
    inputs: &Inputs<A, P, I, N>,
    numbers: &Numbers,
    #[comptime] tile: Tile,
) -> Step<F, P, N> {
    let lowest = numbers.lowest.get::<A>();
    let (classes, share) = (step.classes(tile), inputs.masked_share(lowest));
    Step::<F, P, N> {
        at: step.at,
        row: step.row,
        logits: classes.masked::<F, N>(step.logits, F::cast_from(lowest), tile),
        targets: classes.masked::<P, N>(step.targets, share, tile),
    }
}
