//! Classes that the lanes of a vector hold.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::plan::{Along, Tile};

/// Classes of a row.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct ClassesOfRow {
    /// Number of lanes before the first class in its vector.
    pub(crate) before: usize,
    /// Number of classes.
    pub(crate) count: usize,
}

#[cube]
impl ClassesOfRow {
    /// Classes of a step.
    pub(crate) fn of_step<N: Size>(&self, step: usize, #[comptime] tile: Tile) -> Classes {
        let class = match comptime!(tile.along) {
            Along::Classes => step * N::value().comptime(),
            Along::Positions => step,
        };
        let first = match comptime!(tile.shares_vectors()) {
            true => class - self.before,
            false => class,
        };
        Classes {
            first,
            of_row: self.count,
        }
    }
}

/// Classes of a step of a row.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Classes {
    /// Class of the first lane. Where that is a class of the row before, it has wrapped around to a number that is no class.
    pub(crate) first: usize,
    /// Number of the row's classes, at least as many as a vector has lanes.
    pub(crate) of_row: usize,
}

#[cube]
impl Classes {
    /// Class of each lane.
    pub(crate) fn of_lanes<N: Size>(&self, #[comptime] along: Along) -> Vector<u32, N> {
        let first = self.first as u32;
        let mut classes = Vector::<u32, N>::new(first);
        match comptime!(along) {
            Along::Positions => {}
            Along::Classes =>
            {
                #[unroll]
                for lane in 0..N::value().comptime() {
                    classes.insert(lane, first + comptime!(lane as u32));
                }
            }
        }
        classes
    }

    /// Whether all lanes are classes of the row.
    pub(crate) fn are_whole<N: Size>(&self, #[comptime] tile: Tile) -> bool {
        match comptime!(tile.masks_others()) {
            true => self.first <= self.of_row - N::value().comptime(),
            false => true.runtime(),
        }
    }

    /// `x` with another number in the lanes that are not the row's.
    pub(crate) fn masked<T: Scalar, N: Size>(
        &self,
        x: Vector<T, N>,
        other: T,
        #[comptime] tile: Tile,
    ) -> Vector<T, N> {
        let mut masked = x;
        if comptime!(tile.masks_others()) {
            // Most vectors need no mask.
            if !self.are_whole::<N>(tile) {
                let of_row = Vector::new(self.of_row as u32);
                let is_own = self.of_lanes::<N>(tile.along).less_than(&of_row);
                masked = select_many(is_own, x, Vector::new(other));
            }
        }
        masked
    }
}
