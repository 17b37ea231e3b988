//! Gradients of the logits at the entries of sparse distributions, and of their shares.
//!
//! A class of more than half the probability needs the shares of the other classes, as for every target. Of the entries
//! only `h` can be that class, so that one number of each row, made with the entries, is enough. The gradient of a share
//! is `lse - x[y[j]]`, or `-ln p[y[j]]` over probabilities.

use burn_cubecl::cubecl;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::{BAD, Entries, Given, IGNORED, UNITS};
use crate::kernel::cube::backward::{Lanes, RowOfLane};
use crate::kernel::cube::from_forward::{FromForward, Statistics};
use crate::kernel::cube::launch::{Buffer, Call, FromForwardBuffers, GradientBuffer};
use crate::kernel::cube::layout::{place_of_class, start_of_row};
use crate::kernel::cube::spec::{Spec, Uniforms, UniformsLaunch};
use crate::kernel::cube::state::scores;
use crate::kernel::cube::targets::lines;

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
            weight = weights[given.first_of_rows + row];
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
    match &from_forward.statistics {
        ComptimeOption::Some(statistics) => {
            let mut given = Statistics::read(statistics, row, uniforms.extent.rows, spec);
            given.elsewhere += elsewhere;
            lanes.set_statistics(given, &of_lane, uniforms, spec);
        }
        ComptimeOption::None => lanes.set_share(&of_lane, spec),
    }
    RowOfEntries::<A, N> {
        lanes,
        scale: of_lane.scale,
        weighs: weight != A::new(0.0),
    }
}

/// Writes the gradient of the logits at the class of one entry in each unit. Of several entries of one class the first
/// writes it.
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
    let of_class = numbers_of_entries[first + 2 * rows * count + entry];
    let share = of_class * numbers_of_entries[first + rows * count + entry];
    let share = select(of_class == A::new(0.0), A::new(0.0), share);
    // Only the largest can need the digits of what the others have, and has them in a number of its own.
    let mut elsewhere = numbers_of_entries[comptime!(lines::SHARES) * rows + row] - share;
    if class == classes[row] {
        elsewhere = numbers_of_entries[comptime!(lines::ELSEWHERE) * rows + row];
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
    /// Writes the gradient of the logits at the entries, where [`gradients`](Self::gradients) has written it.
    pub(crate) fn gradient_at_entries(
        &self,
        entries: &Entries,
        from_forward: &FromForwardBuffers,
        place: &GradientBuffer,
    ) {
        if entries.count == 0 {
            return;
        }
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
                self.given(entries.count, [].into_iter().collect()),
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
        let shares_of_row = entries.count + usize::from(self.weighed.tail);
        if shares_of_row == 0 {
            return;
        }
        // SAFETY: units beyond the entries do nothing, and each of the others writes the place of its entry.
        unsafe {
            gradient_of_shares::launch_unchecked(
                &self.client,
                self.cubes_for(shares_of_row),
                CubeDim::new_1d(UNITS),
                self.address_type([entries.numbers.length]),
                1,
                entries.classes.argument(),
                entries.numbers.argument(),
                self.weights.as_ref().map(Buffer::argument).into(),
                from_forward.arguments(),
                gradient.argument(),
                self.given(entries.count, [].into_iter().collect()),
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
}
