//! Sums and maxima over the units that share a row, in an order that never changes.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// Number of values of a unit that its group adds up at once.
pub(crate) const FIELDS: usize = 5;

/// Division of a cube's units into groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GroupSize {
    /// Units of a group, a power of two.
    pub(crate) units: u32,
    /// Groups of a cube, one for each of its rows.
    pub(crate) rows: u32,
    /// Size of a plane, where planes add up.
    pub(crate) planes: Option<u32>,
}

/// Consecutive units of a cube with the row that they share.
#[derive(CubeType)]
pub(crate) struct Group<A: Float> {
    /// A number per field and entry; an entry is a unit, or where planes add up a plane.
    entries: Shared<[A]>,
    #[cube(comptime)]
    size: GroupSize,
}

/// Entries of one cube.
fn entries_of_cube(size: GroupSize) -> usize {
    match entries_of_group(size) {
        // A group of one entry exchanges nothing.
        1 => 1,
        entries => (entries * size.rows) as usize,
    }
}

/// Shared memory of the groups of a cube, for numbers of a type.
pub(crate) fn bytes_of_group<A>(size: GroupSize) -> usize {
    FIELDS * entries_of_cube(size) * size_of::<A>()
}

/// Entries of one group.
fn entries_of_group(size: GroupSize) -> u32 {
    size.units / size.planes.unwrap_or(1)
}

/// Whether a plane has a unit for every entry of the group: its planes then come together behind one barrier, in
/// place of one for each halving.
fn has_plane_of_entries(size: GroupSize) -> bool {
    size.planes
        .is_some_and(|plane| (2..=plane).contains(&entries_of_group(size)))
}

#[cube]
impl<A: Float> Group<A> {
    pub(crate) fn new(#[comptime] size: GroupSize) -> Group<A> {
        Group::<A> {
            entries: Shared::new_slice(comptime!(FIELDS * entries_of_cube(size))),
            size,
        }
    }

    /// Largest value of the group.
    pub(crate) fn maximum(&mut self, value: A) -> A {
        let size = comptime!(self.size);
        let mut largest = value;
        if comptime!(size.planes.is_some()) {
            largest = plane_max(largest);
        }
        let entries = comptime!(entries_of_group(size));
        if comptime!(has_plane_of_entries(size)) {
            let at = place(size);
            if is_first_of_entry(size) {
                self.entries[at] = largest;
            }
            sync_cube();
            largest = plane_max(self.entries[entry_of_unit(size)]);
            sync_cube();
        } else if comptime!(entries > 1) {
            let at = place(size);
            if is_first_of_entry(size) {
                self.entries[at] = largest;
            }
            let within = at % comptime!(entries as usize);
            #[unroll]
            for step in 0..comptime!(entries.ilog2()) {
                let width = comptime!((entries >> (step + 1)) as usize);
                sync_cube();
                if is_first_of_entry(size) && within < width {
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

    /// Sums over the group, one for each value.
    pub(crate) fn sums(&mut self, values: Sequence<A>) -> Sequence<A> {
        let size = comptime!(self.size);
        let fields = comptime!(values.len());
        let mut of_entry = Sequence::<A>::new();
        #[unroll]
        for field in 0..fields {
            match comptime!(size.planes) {
                Some(_) => of_entry.push(plane_sum(values[field])),
                None => of_entry.push(values[field]),
            }
        }
        let entries = comptime!(entries_of_group(size));
        if comptime!(has_plane_of_entries(size)) {
            self.sums_by_plane(of_entry)
        } else if comptime!(entries > 1) {
            self.sums_by_halves(of_entry)
        } else {
            of_entry
        }
    }

    /// Writes the values of every entry.
    fn set_entries(&mut self, values: Sequence<A>) {
        let size = comptime!(self.size);
        let all = comptime!(entries_of_cube(size));
        let at = place(size);
        if is_first_of_entry(size) {
            #[unroll]
            for field in 0..comptime!(values.len()) {
                self.entries[at + field * all] = values[field];
            }
        }
    }

    /// Adds up the entries, in each plane with its unit for every entry.
    fn sums_by_plane(&mut self, values: Sequence<A>) -> Sequence<A> {
        let size = comptime!(self.size);
        let fields = comptime!(values.len());
        let all = comptime!(entries_of_cube(size));
        self.set_entries(values);
        sync_cube();
        // Further units of the plane would repeat the entries.
        let has_entry = lane_of_plane(size) < comptime!(entries_of_group(size));
        let at = entry_of_unit(size);
        let mut sums = Sequence::<A>::new();
        #[unroll]
        for field in 0..fields {
            let entry = self.entries[at + field * all];
            sums.push(plane_sum(select(has_entry, entry, A::new(0.0))));
        }
        // All units have read the entries before they are written again.
        sync_cube();
        sums
    }

    /// Adds up the entries by halves, in shared memory.
    fn sums_by_halves(&mut self, values: Sequence<A>) -> Sequence<A> {
        let size = comptime!(self.size);
        let fields = comptime!(values.len());
        let all = comptime!(entries_of_cube(size));
        let entries = comptime!(entries_of_group(size));
        let at = place(size);
        let within = at % comptime!(entries as usize);
        self.set_entries(values);
        #[unroll]
        for step in 0..comptime!(entries.ilog2()) {
            let width = comptime!((entries >> (step + 1)) as usize);
            sync_cube();
            if is_first_of_entry(size) && within < width {
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
        // All units have read the entries before they are written again.
        sync_cube();
        sums
    }
}

/// The entry of this unit.
#[cube]
fn place(#[comptime] size: GroupSize) -> usize {
    let units = comptime!(size.planes.unwrap_or(1));
    (UNIT_POS / units) as usize
}

/// An entry of the unit's group, each for the unit of the plane with its number.
#[cube]
fn entry_of_unit(#[comptime] size: GroupSize) -> usize {
    let entries = comptime!(entries_of_group(size) as usize);
    let at = place(size);
    at - at % entries + lane_of_plane(size) as usize % entries
}

/// Number of the unit in its plane.
#[cube]
fn lane_of_plane(#[comptime] size: GroupSize) -> u32 {
    UNIT_POS % comptime!(size.planes.unwrap_or(1))
}

/// Whether this unit writes its entry.
#[allow(clippy::manual_is_multiple_of)] // A kernel has the remainder only.
#[cube]
fn is_first_of_entry(#[comptime] size: GroupSize) -> bool {
    match comptime!(size.planes) {
        Some(plane) => UNIT_POS % plane == 0,
        None => true.runtime(),
    }
}
