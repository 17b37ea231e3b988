//! Sums and maxima over the units that share a row, always in the same order.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::plan::Tile;

/// Values of a unit that its group adds up at once.
pub(crate) const FIELDS: usize = 5;

/// Consecutive units of a cube with the row that they share.
#[derive(CubeType)]
pub(crate) struct Group<A: Float> {
    /// A number per field and entry; an entry is a unit, or where planes add up a plane.
    entries: Shared<[A]>,
    #[cube(comptime)]
    tile: Tile,
}

/// Entries of one cube.
fn entries_of_cube(tile: Tile) -> usize {
    match entries_of_group(tile) {
        // Nothing to exchange.
        1 => 1,
        entries => (entries * tile.rows) as usize,
    }
}

/// Entries of one group.
fn entries_of_group(tile: Tile) -> u32 {
    tile.units / tile.planes.unwrap_or(1)
}

#[cube]
impl<A: Float> Group<A> {
    pub(crate) fn new(#[comptime] tile: Tile) -> Group<A> {
        Group::<A> {
            entries: Shared::new_slice(comptime!(FIELDS * entries_of_cube(tile))),
            tile,
        }
    }

    /// The largest value of the group.
    pub(crate) fn maximum(&mut self, value: A) -> A {
        let tile = comptime!(self.tile);
        let mut largest = value;
        if comptime!(tile.planes.is_some()) {
            largest = plane_max(largest);
        }
        let entries = comptime!(entries_of_group(tile));
        if comptime!(entries > 1) {
            let at = place(tile);
            if is_first_of_entry(tile) {
                self.entries[at] = largest;
            }
            let within = at % comptime!(entries as usize);
            #[unroll]
            for step in 0..comptime!(entries.ilog2()) {
                let width = comptime!((entries >> (step + 1)) as usize);
                sync_cube();
                if is_first_of_entry(tile) && within < width {
                    let other = self.entries[at + width];
                    self.entries[at] = self.entries[at].max(other);
                }
            }
            sync_cube();
            largest = self.entries[at - within];
            sync_cube();
        }
        largest
    }

    /// The sums of the group, of each value by itself.
    pub(crate) fn sums(&mut self, values: Sequence<A>) -> Sequence<A> {
        let tile = comptime!(self.tile);
        let fields = comptime!(values.len());
        let mut of_entry = Sequence::<A>::new();
        #[unroll]
        for field in 0..fields {
            match comptime!(tile.planes) {
                Some(_) => of_entry.push(plane_sum(values[field])),
                None => of_entry.push(values[field]),
            }
        }
        let entries = comptime!(entries_of_group(tile));
        if comptime!(entries > 1) {
            self.sums_of_entries(of_entry)
        } else {
            of_entry
        }
    }

    /// By halves, in shared memory.
    fn sums_of_entries(&mut self, values: Sequence<A>) -> Sequence<A> {
        let tile = comptime!(self.tile);
        let fields = comptime!(values.len());
        let all = comptime!(entries_of_cube(tile));
        let entries = comptime!(entries_of_group(tile));
        let at = place(tile);
        let within = at % comptime!(entries as usize);
        if is_first_of_entry(tile) {
            #[unroll]
            for field in 0..fields {
                self.entries[at + field * all] = values[field];
            }
        }
        #[unroll]
        for step in 0..comptime!(entries.ilog2()) {
            let width = comptime!((entries >> (step + 1)) as usize);
            sync_cube();
            if is_first_of_entry(tile) && within < width {
                #[unroll]
                for field in 0..fields {
                    let other = self.entries[at + width + field * all];
                    self.entries[at + field * all] += other;
                }
            }
        }
        sync_cube();
        let mut sums = Sequence::<A>::new();
        #[unroll]
        for field in 0..fields {
            sums.push(self.entries[at - within + field * all]);
        }
        // Before the entries are written again.
        sync_cube();
        sums
    }
}

/// The entry of this unit.
#[cube]
fn place(#[comptime] tile: Tile) -> usize {
    let size = comptime!(tile.planes.unwrap_or(1));
    (UNIT_POS / size) as usize
}

/// Whether this unit speaks for its entry.
#[allow(clippy::manual_is_multiple_of)] // A kernel has the remainder only.
#[cube]
fn is_first_of_entry(#[comptime] tile: Tile) -> bool {
    match comptime!(tile.planes) {
        Some(size) => UNIT_POS % size == 0,
        None => true.runtime(),
    }
}
