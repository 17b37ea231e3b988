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
//! gradients at the entries are written over those that come with `A p`. There a class of more than half the
//! probability needs the shares of the other classes, as for every target. The gradient of a share is `lse - x[y[j]]`.

use burn_cubecl::cubecl;
use cubecl::ir::{ElemType, IntKind};
use cubecl::prelude::*;

use super::backward::{Lanes, RowOfLane};
use super::from_forward::{FromForward, Statistics};
use super::launch::{Buffer, Call, FromForwardBuffers, Full, GradientBuffer};
use super::layout::{place_of_class, start_of_row, strides_in_vectors};
use super::plan::{Along, Tile};
use super::spec::{Extent, ExtentLaunch, Numbers, Spec, Uniforms, UniformsLaunch};
use super::state::{scaled_difference, scores};
use super::tail::{BITS, Marks, MarksLaunch, Sums};
use super::targets::{lines, target_of_row};
use crate::operation::Outputs;

/// Units of a cube.
const UNITS: u32 = 64;

/// Class of an entry that is ignored.
const IGNORED: i32 = -1;

/// Class of an entry that is neither a class nor ignored.
const BAD: i32 = -2;

/// Numbers of a launch besides the buffers.
#[derive(CubeType, CubeLaunch)]
struct Given {
    /// Number of entries of a row.
    count: usize,
    /// Place of the first row's weight.
    first_row_weight: usize,
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
    /// First share, and the distance between one and the next.
    first_share: usize,
    step: usize,
    /// First class, first logit, first weight, and first product of a weight and a share.
    classes: usize,
    logits: usize,
    weights: usize,
    products: usize,
    /// First even share, with label smoothing.
    evens: usize,
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
            step: inner,
            classes: 2 * rows + row * count,
            logits,
            weights: logits + rows * count,
            products: logits + 2 * rows * count,
            evens: logits + 3 * rows * count,
        }
    }
}

/// Resolved entries of a call.
#[derive(Clone, Debug)]
pub(crate) struct Entries {
    count: usize,
    /// `[2, rows]`, the class of each row's entry `h`, and for the outputs that of its largest share; then
    /// `[rows, count]`, the classes of the entries, [`IGNORED`] where one is ignored and [`BAD`] where it is neither a
    /// class nor ignored. I32.
    pub(crate) classes: Buffer,
    /// The [`lines`] of the rows; then `[3, rows, count]`, the logits of the entries, what their shares count with (the
    /// weights of their classes, times what label smoothing leaves), and the products of both; with label smoothing
    /// also the even shares of their classes. In the dtype of the arithmetic.
    pub(crate) numbers: Buffer,
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
    let (zero, count) = (A::new(0.0), given.count);
    let has_tail = resolved.marks.words.is_some().comptime();
    let of_row = start_of_row(row, extent.inner, &extent.logits, true);
    let places = PlacesOfRow::new(row, count, extent, has_tail);
    let first = row / extent.inner * count * extent.inner + row % extent.inner;
    let mut sums = Sums::<A, N>::nothing(numbers);
    let mut largest = numbers.lowest.get::<A>();
    let mut class_of_largest = 0i32.runtime();
    let mut has_entry = false.runtime();
    let mut total = zero;
    for at in 0..count {
        let place = first + at * extent.inner;
        let target = target_of_row::<I, K>(indices, place, extent.classes, &given.ignored);
        let class = target.class as usize;
        let logit =
            Vector::<A, N>::cast_from(logits[place_of_class(of_row, class, &extent.logits)]);
        let x = scores::<A, A, N>(logit, numbers, spec.values).extract(0usize);
        let mut weight = A::new(1.0);
        #[comptime]
        if let ComptimeOption::Some(weights) = &weights {
            weight = weights[class];
        }
        if comptime!(spec.is_spread) {
            resolved.numbers[places.evens + at] = weight * numbers.even.get::<A>();
            weight *= numbers.remaining.get::<A>();
        }
        let dropped = select(target.is_bad, numbers.nan.get::<A>(), zero);
        let share = select(
            target.counts,
            weight * A::cast_from(shares[places.first_share + at * extent.inner]),
            dropped,
        );
        if target.counts && (x > largest || !has_entry) {
            largest = x;
            class_of_largest = i32::cast_from(target.class);
            has_entry = true.runtime();
        }
        total += share;
        #[comptime]
        if let ComptimeOption::Some(words) = &mut resolved.marks.words {
            let place = row * extent.classes.div_ceil(comptime!(BITS)) + class / comptime!(BITS);
            let (word, bit) = (
                words[place],
                1u32 << (target.class % comptime!(BITS as u32)),
            );
            if target.counts {
                words[place] = word | bit;
            }
            // A class that stands twice is one of the row's classes once.
            let is_new = target.counts && word & bit == 0u32;
            let x = select(is_new, x, numbers.lowest.get::<A>());
            sums.take(Vector::new(x), numbers, comptime!(&spec));
        }
        let other = select(target.is_bad, BAD.runtime(), IGNORED.runtime());
        let class = select(target.counts, i32::cast_from(target.class), other);
        resolved.classes[places.classes + at] = class;
        resolved.numbers[places.logits + at] = logit.extract(0usize);
        resolved.numbers[places.weights + at] = weight;
        resolved.numbers[places.products + at] = share;
    }
    let mut further = zero;
    for at in 0..count {
        let share = resolved.numbers[places.products + at];
        let logit = resolved.numbers[places.logits + at];
        let gap = gap_below::<A, N>(largest, logit, numbers, comptime!(&spec));
        further += select(share == zero, zero, share * gap);
    }
    resolved.classes[row] = class_of_largest;
    resolved.numbers[row + comptime!(lines::SHARES) * extent.rows] = total;
    resolved.numbers[row + comptime!(lines::FURTHER) * extent.rows] = further;
    if comptime!(spec.outputs != Outputs::None) {
        resolved.classes[extent.rows + row] =
            label_of_row::<A, P>(shares, &resolved.classes, &places);
        let (own, further) = own_sums::<A, P, N>(
            shares,
            &resolved.classes,
            &resolved.numbers,
            largest,
            &places,
            numbers,
            comptime!(&spec),
        );
        resolved.numbers[row + comptime!(lines::OWN_SHARES) * extent.rows] = own;
        resolved.numbers[row + comptime!(lines::OWN_FURTHER) * extent.rows] = further;
    }
    if comptime!(has_tail) {
        let tail = A::cast_from(shares[places.first_share + count * extent.inner]);
        resolved.numbers[row + comptime!(lines::TAIL) * extent.rows] = tail;
        let maximum = sums.maximum.extract(0usize);
        resolved.numbers[row + comptime!(lines::MAXIMUM) * extent.rows] = maximum;
        resolved.numbers[row + comptime!(lines::SUM) * extent.rows] =
            sums.sum.value().extract(0usize);
    }
}

/// Class of the largest share of a row, of several the first; 0 where no share is above 0.
#[cube]
fn label_of_row<A: Float, P: Float>(shares: &[P], classes: &[i32], places: &PlacesOfRow) -> i32 {
    let zero = A::new(0.0);
    let mut label = 0i32.runtime();
    let mut largest = zero;
    for at in 0..places.count {
        let class = classes[places.classes + at];
        let mut share = zero;
        for other in 0..places.count {
            if classes[places.classes + other] == class {
                share += A::cast_from(shares[places.first_share + other * places.step]);
            }
        }
        let is_first = share == largest && class < label && share > zero;
        if class >= 0 && (share > largest || is_first) {
            largest = share;
            label = class;
        }
    }
    label
}

/// The sum of the shares of a row without the weights of classes, and what the entries add to the surprisal under them.
#[cube]
fn own_sums<A: Float, P: Float, N: Size>(
    shares: &[P],
    classes: &[i32],
    numbers_of_entries: &[A],
    largest: A,
    places: &PlacesOfRow,
    numbers: &Numbers,
    #[comptime] spec: &Spec,
) -> (A, A) {
    let zero = A::new(0.0);
    let (mut own, mut further) = (zero, zero);
    for at in 0..places.count {
        let class = classes[places.classes + at];
        let dropped = select(class == BAD.runtime(), numbers.nan.get::<A>(), zero);
        let share = A::cast_from(shares[places.first_share + at * places.step]);
        let share = select(class >= 0, share, dropped);
        let logit = numbers_of_entries[places.logits + at];
        own += share;
        let gap = gap_below::<A, N>(largest, logit, numbers, spec);
        further += select(share == zero, zero, share * gap);
    }
    (own, further)
}

/// Distance of the score of a logit below the largest.
#[cube]
fn gap_below<A: Float, N: Size>(
    largest: A,
    logit: A,
    numbers: &Numbers,
    #[comptime] spec: &Spec,
) -> A {
    let x = scores::<A, A, N>(Vector::new(logit), numbers, spec.values);
    // Equal infinities are not subtracted: the difference would be NaN.
    let gap = scaled_difference::<A, N>(Vector::new(largest), x, numbers, spec);
    select(
        x.extract(0usize) == largest,
        A::new(0.0),
        gap.extract(0usize),
    )
}

/// What the gradients at the entries of a row share.
#[derive(CubeType)]
struct RowOfEntries<A: Float, N: Size> {
    lanes: Lanes<A, N>,
    /// Factor of the gradient of the row's loss, with the row's weight.
    scale: A,
    /// Whether the row's weight is not 0.
    weighs: bool,
}

/// Weight of a row, among the weights of classes and rows.
#[cube]
fn weight_of_row<A: Float>(
    weights: ComptimeOption<&[A]>,
    row: usize,
    given: &Given,
    #[comptime] spec: &Spec,
) -> A {
    let mut weight = A::new(1.0);
    if comptime!(spec.has_row_weights) {
        #[comptime]
        if let ComptimeOption::Some(weights) = weights {
            weight = weights[given.first_row_weight + row];
        }
    }
    weight
}

/// Numbers of a row of this weight whose entries have the sum `share` at one class and `elsewhere` at the others.
#[cube]
fn numbers_of_row<A: Float, N: Size>(
    from_forward: &FromForward<A>,
    row: usize,
    weight: A,
    share: A,
    elsewhere: A,
    uniforms: &Uniforms,
    #[comptime] spec: &Spec,
) -> RowOfEntries<A, N> {
    let mut lanes = Lanes::<A, N>::new(row, &uniforms.extent, spec.tile);
    let of_lane = RowOfLane::<A> {
        row,
        share,
        scale: from_forward.scale_of_row(row, 0usize) * weight,
        penalty_scale: from_forward.scale_of_row(row, 1usize) * weight,
        lane: 0usize,
    };
    #[comptime]
    if let ComptimeOption::Some(statistics) = &from_forward.statistics {
        let mut given = Statistics::read(statistics, row, uniforms.extent.rows, spec);
        given.elsewhere += elsewhere;
        lanes.set_statistics(given, &of_lane, uniforms, spec);
    }
    RowOfEntries::<A, N> {
        lanes,
        scale: of_lane.scale,
        weighs: weight != A::new(0.0),
    }
}

/// Writes the gradient of the logits at the class of one entry in each unit. Entries of one class write one number.
#[cube(launch_unchecked, address_type = "dynamic")]
fn gradient_at_entries<F: Float, A: Float, N: Size>(
    classes: &[i32],
    numbers_of_entries: &[A],
    weights: ComptimeOption<&[A]>,
    from_forward: FromForward<A>,
    gradient: &mut [F],
    given: Given,
    uniforms: Uniforms,
    #[comptime] spec: Spec,
    #[define(F, A)] _dtypes: [ElemType; 2],
) {
    let (numbers, extent) = (&uniforms.numbers, &uniforms.extent);
    let entry = CUBE_POS * comptime!(UNITS as usize) + UNIT_POS as usize;
    let (count, rows) = (given.count, extent.rows);
    if entry >= rows * count {
        terminate!();
    }
    let row = entry / count;
    let weight = weight_of_row(weights, row, &given, comptime!(&spec));
    let class = classes[2 * rows + entry];
    if class < 0 {
        terminate!();
    }
    let first = comptime!(lines::count(spec.has_tail)) * rows;
    let shares_of_entries = first + 2 * rows * count;
    let mut share = A::new(0.0);
    let mut elsewhere = A::new(0.0);
    for at in row * count..(row + 1) * count {
        let other = numbers_of_entries[shares_of_entries + at];
        if classes[2 * rows + at] == class {
            share += other;
        } else {
            elsewhere += other;
        }
    }
    if comptime!(spec.has_tail) {
        elsewhere += numbers_of_entries[comptime!(lines::TAIL) * rows + row];
    }
    let of_row = numbers_of_row::<A, N>(
        &from_forward,
        row,
        weight,
        share,
        elsewhere,
        &uniforms,
        comptime!(&spec),
    );
    let logit = Vector::<A, N>::new(numbers_of_entries[first + entry]);
    let mut even = A::new(0.0);
    if comptime!(spec.is_spread) {
        even = numbers_of_entries[first + 3 * rows * count + entry];
    }
    let slope = of_row
        .lanes
        .slope_at_target(logit, even, numbers, comptime!(&spec));
    let slope = select(of_row.weighs, slope.extract(0usize), A::new(0.0));
    let start = start_of_row(row, extent.inner, &extent.gradient, true);
    gradient[place_of_class(start, class as usize, &extent.gradient)] = F::cast_from(slope);
}

/// Writes the gradient of the share of one entry, or of one tail, in each unit.
#[cube(launch_unchecked, address_type = "dynamic")]
fn gradient_of_shares<A: Float, P: Float, N: Size>(
    classes: &[i32],
    numbers_of_entries: &[A],
    weights: ComptimeOption<&[A]>,
    from_forward: FromForward<A>,
    gradient: &mut [P],
    given: Given,
    uniforms: Uniforms,
    #[comptime] spec: Spec,
    #[define(A, P)] _dtypes: [ElemType; 2],
) {
    let (numbers, extent) = (&uniforms.numbers, &uniforms.extent);
    let (zero, rows) = (A::new(0.0), extent.rows);
    let unit = CUBE_POS * comptime!(UNITS as usize) + UNIT_POS as usize;
    let mut shares_of_row = given.count;
    if comptime!(spec.has_tail) {
        shares_of_row += 1;
    }
    if unit >= rows * shares_of_row {
        terminate!();
    }
    let (row, at) = (unit / shares_of_row, unit % shares_of_row);
    let of_row = numbers_of_row::<A, N>(
        &from_forward,
        row,
        weight_of_row(weights, row, &given, comptime!(&spec)),
        zero,
        zero,
        &uniforms,
        comptime!(&spec),
    );
    let mut factor = A::new(1.0);
    let mut surprisal = zero;
    let mut class = 0i32.runtime();
    if at < given.count {
        let entry = row * given.count + at;
        let first = comptime!(lines::count(spec.has_tail)) * rows;
        class = classes[2 * rows + entry];
        factor = numbers_of_entries[first + rows * given.count + entry];
        let logit = Vector::<A, N>::new(numbers_of_entries[first + entry]);
        let x = scores::<A, A, N>(logit, numbers, spec.values);
        let of_entry = of_row.lanes.surprisal(x, numbers, comptime!(&spec));
        surprisal = of_entry.extract(0usize);
    } else if comptime!(spec.has_tail) {
        surprisal = numbers_of_entries[comptime!(lines::SURPRISAL) * rows + row];
    }
    let scaled = factor * of_row.scale;
    let infinite = zero - numbers.lowest.get::<A>();
    let is_nothing = factor == zero || scaled == zero && surprisal == infinite;
    let slope = select(is_nothing, zero, scaled * surprisal);
    let slope = select(class == BAD.runtime(), numbers.nan.get::<A>(), slope);
    let counts = of_row.weighs && class != IGNORED.runtime();
    let inner = extent.inner;
    let place = (row / inner * shares_of_row + at) * inner + row % inner;
    gradient[place] = P::cast_from(select(counts, slope, zero));
}

impl Call<'_> {
    /// Resolves the entries of sparse distributions, whose classes are the index targets of this call, `count` for each
    /// row, with these shares. Where each row has a share more, that of a tail, `marks` hold a 0 for every class.
    pub(crate) fn entries(&self, shares: &Buffer, count: usize, marks: Option<&Buffer>) -> Entries {
        let rows = self.geometry.rows();
        let lines = lines::count(marks.is_some());
        let of_entries = if self.options.is_spread(false) { 4 } else { 3 };
        let new = |dtype: ElemType, length: usize| Buffer::new(&self.client, dtype, length);
        let entries = Entries {
            count,
            classes: new(IntKind::I32.into(), (2 + count) * rows),
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
                self.address_type([shares.length, entries.numbers.length]),
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
                GivenLaunch::new(count, 0, self.ignored()),
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

    /// Writes the gradient of the logits at the entries, where [`gradients`](Self::gradients) has written it.
    pub(crate) fn gradient_at_entries(
        &self,
        entries: &Entries,
        from_forward: &FromForwardBuffers,
        place: &GradientBuffer,
    ) {
        let gradient = match place {
            GradientBuffer::InPlace => &self.logits,
            GradientBuffer::New(full) => full,
        };
        // SAFETY: units beyond the entries do nothing. A class is one of the row's.
        unsafe {
            gradient_at_entries::launch_unchecked(
                &self.client,
                self.cubes_for(entries.count),
                CubeDim::new_1d(UNITS),
                self.address_type([entries.numbers.length, gradient.buffer.length]),
                1,
                entries.classes.argument(),
                entries.numbers.argument(),
                self.weights.as_ref().map(Buffer::argument).into(),
                from_forward.arguments(),
                gradient.buffer.argument(),
                self.given_of_gradients(entries),
                UniformsLaunch::new(self.numbers(), self.extent_of_elements(gradient)),
                self.spec_of_elements(),
                [gradient.buffer.dtype, self.arithmetic()],
            );
        }
    }

    /// Writes the gradient of the shares, in the order of the shares.
    pub(crate) fn gradient_of_shares(
        &self,
        entries: &Entries,
        from_forward: &FromForwardBuffers,
        gradient: &Buffer,
    ) {
        // SAFETY: units beyond the entries do nothing, and each of the others writes the place of its entry.
        unsafe {
            gradient_of_shares::launch_unchecked(
                &self.client,
                self.cubes_for(entries.count + usize::from(self.weighed.tail)),
                CubeDim::new_1d(UNITS),
                self.address_type([entries.numbers.length]),
                1,
                entries.classes.argument(),
                entries.numbers.argument(),
                self.weights.as_ref().map(Buffer::argument).into(),
                from_forward.arguments(),
                gradient.argument(),
                self.given_of_gradients(entries),
                UniformsLaunch::new(self.numbers(), self.extent_of_elements(&self.logits)),
                self.spec_of_elements(),
                [self.arithmetic(), gradient.dtype],
            );
        }
    }

    /// Cubes with so many units for each row.
    fn cubes_for(&self, units: usize) -> CubeCount {
        let units = self.geometry.rows() * units;
        self.cube_count(units.div_ceil(UNITS as usize))
    }

    /// Numbers of the kernels of the gradients.
    fn given_of_gradients(&self, entries: &Entries) -> GivenLaunch {
        let first_row_weight = match self.weighed.classes {
            true => self.geometry.classes,
            false => 0,
        };
        GivenLaunch::new(entries.count, first_row_weight, [].into_iter().collect())
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
