//! Blocks of a row in shared memory, from its sums to its gradient. Each unit keeps its own there, as it keeps the first in its
//! registers, so nobody waits for them.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::plan::Tile;
use super::spec::Uniforms;
use super::sum::zeros;
use super::targets::Inputs;
use super::walk::{Block, Step, Walk};

/// Vectors of all units of a cube.
#[derive(CubeType)]
pub(crate) struct Parked<F: Float, N: Size> {
    vectors: Shared<[Vector<F, N>]>,
    #[cube(comptime)]
    tile: Tile,
}

/// Number of vectors that the units of a cube park; an array has at least one.
fn vectors_of_cube(tile: Tile) -> usize {
    (tile.parked * tile.unroll * tile.units * tile.rows).max(1) as usize
}

/// Place of the unit's vector of a step of a block. Neighbouring units have neighbouring places.
#[cube]
fn place_of(block: usize, #[comptime] step: u32, #[comptime] tile: Tile) -> usize {
    let nth = (block - 1) * comptime!(tile.unroll as usize) + comptime!(step as usize);
    nth * comptime!((tile.units * tile.rows) as usize) + UNIT_POS as usize
}

#[cube]
impl<F: Float, N: Size> Parked<F, N> {
    pub(crate) fn new(#[comptime] tile: Tile) -> Parked<F, N> {
        Parked::<F, N> {
            vectors: Shared::new_slice(comptime!(vectors_of_cube(tile))),
            tile,
        }
    }

    /// Loads the logits of a block of the walk, which counts from 0 in the registers, and parks them.
    pub(crate) fn load<A: Float, P: Float, I: Int>(
        &mut self,
        block: usize,
        #[comptime] certain: u32,
        logits: &[Vector<F, N>],
        inputs: &Inputs<A, P, I, N>,
        walk: &mut Walk,
        uniforms: &Uniforms,
    ) -> Block<F, P, N> {
        let tile = comptime!(self.tile);
        walk.go_to(block, tile);
        let loaded = walk.load(logits, inputs, uniforms, certain, tile);
        #[unroll]
        for nth in 0..tile.unroll {
            let step = &loaded.steps[comptime!(nth as usize)];
            self.vectors[place_of(block, nth, tile)] = step.logits;
        }
        loaded
    }

    /// The same block, later.
    pub(crate) fn block<P: Float>(
        &self,
        block: usize,
        #[comptime] certain: u32,
        walk: &Walk,
        uniforms: &Uniforms,
    ) -> Block<F, P, N> {
        let tile = comptime!(self.tile);
        let mut steps = Sequence::<Step<F, P, N>>::new();
        #[unroll]
        for nth in 0..tile.unroll {
            let logits = self.vectors[place_of(block, nth, tile)];
            let row = walk.classes(&uniforms.extent);
            steps.push(Step::new(
                walk.step_of_block(block, nth, tile),
                row,
                logits,
                zeros(),
            ));
        }
        Block::<F, P, N> { steps, certain }
    }
}
