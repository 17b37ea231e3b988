//! Sparse distributions by their entries, without dense ones: what the kernels over the rows cannot know of a few
//! classes is computed before them and after them.
//!
//! With `y[j]` and `s[j]` the entries of a row, `A` the sum of their shares, and `h` the entry of the largest logit:
//!
//! ```text
//! loss  = A (lse - x[y[h]]) + sum_j s[j] (x[y[h]] - x[y[j]])
//! dx[c] = A p[c] - sum_{y[j] = c} s[j]
//! ```
//!
//! The first term and `A p` are those of an index target with a share of its own, and nothing cancels in the sum. With
//! label smoothing the shares are what it leaves of them, and the even shares are those of every row of logits. The
//! gradients at the entries are written over those that come with `A p`, by [`gradients`]. Over probabilities the whole
//! sum of `-s[j] ln p[y[j]]` is added, and the index target has no share.
//!
//! A class may stand twice. Each row has a table of the classes it has met, so that the time of a row grows with the
//! number of its entries and not with their pairs.

use burn_cubecl::cubecl;
use cubecl::ir::{ElemType, IntKind};
use cubecl::prelude::*;

use super::elementary::ln;
use super::launch::{Buffer, Call, Full};
use super::layout::{place_of_class, start_of_row, strides_in_vectors};
use super::plan::{Along, SharedVectors, Tile};
use super::spec::{Extent, ExtentLaunch, Numbers, Spec, Uniforms, UniformsLaunch, Values};
use super::state::{scaled_difference, scores};
use super::tail::{BITS, Marks, MarksLaunch, Sums};
use super::targets::{Target, Weighed, lines, masked_number, target_of_row};
use crate::operation::Outputs;

mod gradients;

/// Units of a cube.
const UNITS: u32 = 64;

/// Class of an entry that is ignored.
const IGNORED: i32 = -1;

/// Class of an entry that is neither a class nor ignored.
const BAD: i32 = -2;

/// Class of an entry whose share has been added to an earlier one of the same class.
const REPEATED: i32 = -3;

/// Slot of a table that holds no entry.
const EMPTY: i32 = -1;

/// Factor that spreads neighbouring classes over a table: 2^32 over the golden ratio, as Knuth has it.
const SPREAD: u32 = 0x9E37_79B1;

/// Numbers of a launch besides the buffers.
#[derive(CubeType, CubeLaunch)]
struct Given {
    /// Number of entries of a row, and of the slots of its table.
    count: usize,
    slots: usize,
    /// Place of the rows' numbers behind the weights of the classes: even shares, or in the backward the rows' weights.
    first_of_rows: usize,
    #[cube(comptime)]
    weighed: Weighed,
    ignored: Sequence<InputScalar>,
}

/// Buffers of [`Entries`], and the marks that only tails need.
#[derive(CubeType, CubeLaunch)]
struct Resolved<A: Float> {
    classes: Box<[i32]>,
    numbers: Box<[A]>,
    marks: Marks,
}

/// Places of what one row has of its entries.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct PlacesOfRow {
    /// Number of the entries.
    count: usize,
    /// First share. `inner` lies between one and the next.
    first_share: usize,
    /// First class, first logit, first weight, and first share of a class.
    classes: usize,
    logits: usize,
    weights: usize,
    shares: usize,
    /// First even share, with label smoothing.
    evens: usize,
    /// First slot of the table, and the distance between one and the next.
    table: usize,
    rows: usize,
}

#[cube]
impl PlacesOfRow {
    fn new(row: usize, count: usize, extent: &Extent, #[comptime] has_tail: bool) -> PlacesOfRow {
        let (rows, inner) = (extent.rows, extent.inner);
        let mut shares_of_row = count;
        if comptime!(has_tail) {
            shares_of_row += 1;
        }
        let logits = comptime!(lines::count(has_tail)) * rows + row * count;
        PlacesOfRow {
            count,
            first_share: row / inner * shares_of_row * inner + row % inner,
            classes: 2 * rows + row * count,
            logits,
            weights: logits + rows * count,
            shares: logits + 2 * rows * count,
            evens: logits + 3 * rows * count,
            // The units of a cube have their slots side by side.
            table: (2 + count) * rows + row,
            rows,
        }
    }
}

/// Resolved entries of a call.
#[derive(Clone, Debug)]
pub(crate) struct Entries {
    count: usize,
    /// `[2, rows]`, the class of each row's entry `h`, and for the outputs that of its largest share; then
    /// `[rows, count]`, the classes of the entries, [`IGNORED`], [`BAD`] or [`REPEATED`] where one is that; then
    /// `[slots, rows]`, the tables. I32.
    pub(crate) classes: Buffer,
    /// The [`lines`] of the rows; then `[3, rows, count]`, the logits of the entries, what their shares count with (the
    /// weights of their classes, times what label smoothing leaves), and the sum of the shares of their class; with
    /// label smoothing also the even shares of their classes. In the dtype of the arithmetic.
    pub(crate) numbers: Buffer,
}

/// An entry as the row has it.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Entry<A: Float> {
    target: Target,
    logit: A,
    x: A,
    share: A,
}

#[cube]
impl<A: Float> Entry<A> {
    fn new<N: Size>(
        target: Target,
        logit: Vector<A, N>,
        share: A,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) -> Entry<A> {
        Entry::<A> {
            target,
            logit: logit.extract(0usize),
            x: scores::<A, A, N>(logit, numbers, spec.values).extract(0usize),
            share,
        }
    }
}

/// Resolves the entries of one row in each unit.
#[cube(launch_unchecked, address_type = "dynamic")]
fn entries_of_rows<F: Float, A: Float, P: Float, I: Int, K: Int, N: Size>(
    logits: &[Vector<F, N>],
    indices: &[I],
    shares: &[P],
    weights: ComptimeOption<&[A]>,
    mut resolved: Resolved<A>,
    given: Given,
    uniforms: Uniforms,
    #[comptime] spec: Spec,
    #[define(F, A, P, I, K)] _dtypes: [ElemType; 5],
) {
    let (numbers, extent) = (&uniforms.numbers, &uniforms.extent);
    let row = CUBE_POS * comptime!(UNITS as usize) + UNIT_POS as usize;
    if row >= extent.rows {
        terminate!();
    }
    let has_tail = resolved.marks.words.is_some().comptime();
    let of_row = start_of_row(row, extent.inner, &extent.logits, true);
    let places = PlacesOfRow::new(row, given.count, extent, has_tail);
    let first = row / extent.inner * given.count * extent.inner + row % extent.inner;
    resolved.clear(&places, given.slots);
    let mut of_entries = Sums::<A, N>::nothing(numbers);
    let mut largest = numbers.lowest.get::<A>();
    let mut class_of_largest = 0i32.runtime();
    let mut has_entry = false.runtime();
    for at in 0..given.count {
        let place = first + at * extent.inner;
        let target = target_of_row::<I, K>(indices, place, extent.classes, &given.ignored);
        let place = place_of_class(of_row, target.class as usize, &extent.logits);
        let share = A::cast_from(shares[places.first_share + at * extent.inner]);
        let entry = Entry::<A>::new::<N>(
            target,
            Vector::cast_from(logits[place]),
            share,
            numbers,
            comptime!(&spec),
        );
        if entry.target.counts && (entry.x > largest || !has_entry) {
            largest = entry.x;
            class_of_largest = i32::cast_from(entry.target.class);
            has_entry = true.runtime();
        }
        let is_first = resolved.take(at, &entry, &places, given.slots, numbers);
        let (weight, even) =
            weights_of_class::<A>(weights, row, &entry, &given, numbers, comptime!(&spec));
        resolved.numbers[places.weights + at] = weight;
        if comptime!(spec.is_spread) {
            resolved.numbers[places.evens + at] = even;
        }
        if comptime!(has_tail) {
            resolved.mark(row, &entry, extent.classes);
            // A class that stands twice is one of the row's classes once.
            let x = select(is_first, entry.x, numbers.lowest.get::<A>());
            of_entries.take(Vector::new(x), numbers, comptime!(&spec));
        }
    }
    resolved.classes[row] = class_of_largest;
    resolved.add_up::<N>(row, largest, &places, numbers, comptime!(&spec));
    if comptime!(has_tail) {
        let tail = shares[places.first_share + given.count * extent.inner];
        resolved.write_tail::<N>(row, A::cast_from(tail), &of_entries, extent.rows);
    }
}

/// What the share of an entry counts with, and the even share of its class.
#[cube]
fn weights_of_class<A: Float>(
    weights: ComptimeOption<&[A]>,
    row: usize,
    entry: &Entry<A>,
    given: &Given,
    numbers: &Numbers,
    #[comptime] spec: &Spec,
) -> (A, A) {
    let mut weight = A::new(1.0);
    let mut even = A::new(0.0);
    if comptime!(given.weighed.classes) {
        #[comptime]
        if let ComptimeOption::Some(weights) = weights {
            weight = weights[entry.target.class as usize];
        }
    }
    if comptime!(spec.is_spread) {
        even = weight * numbers.even.get::<A>();
        if comptime!(given.weighed.evens) {
            #[comptime]
            if let ComptimeOption::Some(weights) = weights {
                even = weight * weights[given.first_of_rows + row];
            }
            let are_probabilities = comptime!(spec.values == Values::Probabilities);
            let masked = masked_number::<A, Const<1>>(numbers.lowest.get::<A>(), are_probabilities);
            even = select(entry.x == masked.extract(0usize), A::new(0.0), even);
        }
        weight *= numbers.remaining.get::<A>();
    }
    (weight, even)
}

#[cube]
impl<A: Float> Resolved<A> {
    /// Empties the table of a row.
    fn clear(&mut self, places: &PlacesOfRow, slots: usize) {
        for slot in 0..slots {
            self.classes[places.table + slot * places.rows] = EMPTY.runtime();
        }
    }

    /// Takes in an entry of a row, whose share goes to the first entry of its class. Whether it is the first.
    fn take(
        &mut self,
        at: usize,
        entry: &Entry<A>,
        places: &PlacesOfRow,
        slots: usize,
        numbers: &Numbers,
    ) -> bool {
        let zero = A::new(0.0);
        let mut first = at;
        if entry.target.counts {
            first = self.first_of_class(at, entry.target.class, places, slots);
        }
        let is_first = entry.target.counts && first == at;
        let dropped = select(entry.target.is_bad, numbers.nan.get::<A>(), zero);
        self.numbers[places.shares + at] = select(is_first, entry.share, dropped);
        let other = select(entry.target.is_bad, BAD.runtime(), IGNORED.runtime());
        let other = select(entry.target.counts, REPEATED.runtime(), other);
        self.classes[places.classes + at] =
            select(is_first, i32::cast_from(entry.target.class), other);
        if entry.target.counts && first != at {
            self.numbers[places.shares + first] += entry.share;
        }
        self.numbers[places.logits + at] = entry.logit;
        is_first
    }

    /// First entry of the row that has this class: `at` itself where no earlier one has it. The table has more slots than
    /// the row has classes, or one slot for one entry, so that the search ends.
    fn first_of_class(
        &mut self,
        at: usize,
        class: u32,
        places: &PlacesOfRow,
        slots: usize,
    ) -> usize {
        let last = slots as u32 - 1u32;
        let hash = class * SPREAD;
        let mut slot = (hash ^ (hash >> 15u32)) & last;
        let mut first = self.classes[places.table + slot as usize * places.rows];
        let mut is_other = self.is_other(first, class, places);
        while is_other {
            slot = (slot + 1u32) & last;
            first = self.classes[places.table + slot as usize * places.rows];
            is_other = self.is_other(first, class, places);
        }
        if first == EMPTY.runtime() {
            first = i32::cast_from(at);
            self.classes[places.table + slot as usize * places.rows] = first;
        }
        first as usize
    }

    /// Whether a slot holds an entry of another class.
    fn is_other(&self, first: i32, class: u32, places: &PlacesOfRow) -> bool {
        // Both sides of a condition are computed, also beside an empty slot.
        let held = self.classes[places.classes + first.max(0i32) as usize];
        first != EMPTY.runtime() && held != i32::cast_from(class)
    }

    /// Marks the class of an entry.
    fn mark(&mut self, row: usize, entry: &Entry<A>, classes: usize) {
        #[comptime]
        if let ComptimeOption::Some(words) = &mut self.marks.words {
            let words_of_row = classes.div_ceil(comptime!(BITS));
            let place = row * words_of_row + entry.target.class as usize / comptime!(BITS);
            let word = words[place];
            let bit = 1u32 << (entry.target.class % comptime!(BITS as u32));
            if entry.target.counts {
                words[place] = word | bit;
            }
        }
    }

    /// Writes the share of a row's tail, and maximum and sum of the entries' exponentials.
    fn write_tail<N: Size>(&mut self, row: usize, tail: A, of_entries: &Sums<A, N>, rows: usize) {
        self.numbers[row + comptime!(lines::TAIL) * rows] = tail;
        let maximum = of_entries.maximum.extract(0usize);
        self.numbers[row + comptime!(lines::MAXIMUM) * rows] = maximum;
        let sum = of_entries.sum.value().extract(0usize);
        self.numbers[row + comptime!(lines::SUM) * rows] = sum;
    }

    /// Writes the sums over the classes of a row.
    fn add_up<N: Size>(
        &mut self,
        row: usize,
        largest: A,
        places: &PlacesOfRow,
        numbers: &Numbers,
        #[comptime] spec: &Spec,
    ) {
        let zero = A::new(0.0);
        let are_probabilities = comptime!(spec.values == Values::Probabilities);
        let class_of_largest = self.classes[row];
        let (mut total, mut elsewhere, mut further) = (zero, zero, zero);
        let (mut own, mut own_further, mut largest_share) = (zero, zero, zero);
        let mut label = 0i32.runtime();
        for at in 0..places.count {
            let class = self.classes[places.classes + at];
            let share = self.numbers[places.shares + at];
            let weighted = share * self.numbers[places.weights + at];
            let weighted = select(share == zero, zero, weighted);
            let logit = self.numbers[places.logits + at];
            let gap = gap_below::<A, N>(largest, logit, numbers, spec);
            total += weighted;
            elsewhere += select(class == class_of_largest, zero, weighted);
            further += select(weighted == zero, zero, weighted * gap);
            if comptime!(spec.outputs != Outputs::None) {
                own += share;
                own_further += select(share == zero, zero, share * gap);
                let is_first = share == largest_share && class < label && share > zero;
                if class >= 0 && (share > largest_share || is_first) {
                    largest_share = share;
                    label = class;
                }
            }
        }
        if comptime!(are_probabilities) {
            total = zero;
        }
        self.numbers[row + comptime!(lines::SHARES) * places.rows] = total;
        self.numbers[row + comptime!(lines::ELSEWHERE) * places.rows] = elsewhere;
        self.numbers[row + comptime!(lines::FURTHER) * places.rows] = further;
        if comptime!(spec.outputs != Outputs::None) {
            self.classes[places.rows + row] = label;
            self.numbers[row + comptime!(lines::OWN_SHARES) * places.rows] = own;
            self.numbers[row + comptime!(lines::OWN_FURTHER) * places.rows] = own_further;
        }
    }
}

/// Distance of the score of a logit below the largest; of a probability, what it is itself above zero.
#[cube]
fn gap_below<A: Float, N: Size>(
    largest: A,
    logit: A,
    numbers: &Numbers,
    #[comptime] spec: &Spec,
) -> A {
    let x = scores::<A, A, N>(Vector::new(logit), numbers, spec.values);
    match comptime!(spec.values) {
        Values::Probabilities => A::new(0.0) - ln(x).extract(0usize),
        Values::Logits | Values::Scaled | Values::Capped => {
            // Equal infinities are not subtracted: the difference would be NaN.
            let gap = scaled_difference::<A, N>(Vector::new(largest), x, numbers, spec);
            let is_largest = x.extract(0usize) == largest;
            select(is_largest, A::new(0.0), gap.extract(0usize))
        }
    }
}

impl Call<'_> {
    /// Resolves the entries of sparse distributions, whose classes are the index targets of this call, `count` for each
    /// row, with these shares. Where each row has a share more, that of a tail, `marks` hold a 0 for every class.
    pub(crate) fn entries(&self, shares: &Buffer, count: usize, marks: Option<&Buffer>) -> Entries {
        let rows = self.geometry.rows();
        let lines = lines::count(marks.is_some());
        let of_entries = if self.options.is_spread(false) { 4 } else { 3 };
        let slots = slots_for(count);
        let new = |dtype: ElemType, length: usize| Buffer::new(&self.client, dtype, length);
        let entries = Entries {
            count,
            classes: new(IntKind::I32.into(), (2 + count + slots) * rows),
            numbers: new(self.arithmetic(), (lines + of_entries * count) * rows),
        };
        let indices = self.indices().expect("the entries have classes");
        let spec = self.spec_of_elements();
        let [logits, arithmetic, _, index, comparison] = self.dtypes();
        // SAFETY: units beyond the rows do nothing, and classes are clamped to those of a row, whatever the targets
        // hold.
        unsafe {
            entries_of_rows::launch_unchecked(
                &self.client,
                self.cube_count(rows.div_ceil(UNITS as usize)),
                CubeDim::new_1d(UNITS),
                self.address_type([
                    shares.length,
                    entries.classes.length,
                    entries.numbers.length,
                ]),
                1,
                self.logits.buffer.argument(),
                indices.argument(),
                shares.argument(),
                self.weights.as_ref().map(Buffer::argument).into(),
                ResolvedLaunch::new(
                    entries.classes.argument(),
                    entries.numbers.argument(),
                    MarksLaunch::new(marks.map(Buffer::argument).into()),
                ),
                self.given(count, self.ignored()),
                UniformsLaunch::new(self.numbers(), self.extent_of_elements(&self.logits)),
                spec,
                [logits, arithmetic, shares.dtype, index, comparison],
            );
        }
        if let Some(marks) = marks {
            self.tails_of_rows(marks, &entries.numbers);
        }
        entries
    }

    /// Numbers of a kernel over `count` entries of each row.
    fn given(&self, count: usize, ignored: SequenceArg<InputScalar>) -> GivenLaunch {
        let first_of_rows = match self.weighed.classes {
            true => self.geometry.classes,
            false => 0,
        };
        GivenLaunch::new(
            count,
            slots_for(count),
            first_of_rows,
            self.weighed,
            ignored,
        )
    }

    /// Constants of a kernel that takes one row, or one entry, in each unit, whatever the plan of the rows.
    fn spec_of_elements(&self) -> Spec {
        let plan = self.plan([]);
        Spec {
            tile: Tile {
                along: Along::Classes,
                units: 1,
                rows: 1,
                unroll: 1,
                is_single_block: false,
                planes: None,
                has_positions: false,
                in_parts: false,
                shared: SharedVectors::None,
                parked: 0,
                certain_of_last: 0,
            },
            ..self.spec(&plan)
        }
    }

    /// Extent of a kernel that takes one row, or one entry, in each unit.
    fn extent_of_elements(&self, full: &Full) -> ExtentLaunch {
        let geometry = &self.geometry;
        let strides = || strides_in_vectors(&full.layout, 1);
        ExtentLaunch::new(
            geometry.rows(),
            geometry.classes,
            geometry.rows(),
            geometry.inner,
            geometry.classes,
            1,
            strides(),
            strides(),
            strides(),
            strides(),
        )
    }
}

/// Slots of a table for so many entries: a third of them stays empty, so that few searches pass a second slot.
fn slots_for(count: usize) -> usize {
    (count + count / 2).next_power_of_two()
}
