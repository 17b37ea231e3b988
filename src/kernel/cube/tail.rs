//! The tail of sparse distributions: the share that the classes besides a row's entries have together.
//!
//! With `E` and `R` the sums of exponentials over the entries and over the rest, both beside the larger maximum `m`, `S`
//! their sum, `R'` the sum over the rest beside its own maximum `m_R`, `t` the tail and `A` the sum of the entries' shares:
//!
//! ```text
//! loss  = that of the entries + t (lse - lse_rest)                      lse - lse_rest = ln(1 + E / R)
//! dx[c] = exp(x[c] - m_R) (A exp(m_R - m) / S - t (E / S) / R')         at a class of the rest
//!       = (A + t) p[c] - sum_{y[j] = c} s[j]                            at an entry
//! ```
//!
//! `R` is no difference of other sums, which would have no digits where the entries have almost everything. So a kernel
//! of its own reads the logits once more and leaves the entries out, whose classes are marked with a bit each.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::classes::Classes;
use super::elementary::{ln, ln_1p};
use super::group::Group;
use super::launch::{Buffer, Call};
use super::plan::{Along, Tile};
use super::spec::{Numbers, Spec, Uniforms, UniformsLaunch, span};
use super::state::{scale_of_scores, scaled_difference, scores};
use super::sum::{Sum, ones, zeros};
use super::targets::lines;
use super::walk::RowPlace;

/// Steps that one run of a sum adds up.
const RUN: u32 = 64;

/// Bits of a word of marks.
pub(super) const BITS: usize = 32;

/// A bit for each class of each row that is one of its entries, `[rows, classes / BITS]`.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Marks {
    pub(super) words: ComptimeOption<Box<[u32]>>,
}

/// Maximum of some scores, and the sum of their exponentials beside it; minus infinity and 0 without any.
#[derive(CubeType)]
pub(super) struct Sums<A: Float, N: Size> {
    pub(super) maximum: Vector<A, N>,
    pub(super) sum: Sum<A, N>,
}

#[cube]
impl<A: Float, N: Size> Sums<A, N> {
    pub(super) fn nothing(numbers: &Numbers) -> Sums<A, N> {
        Sums::<A, N> {
            maximum: Vector::new(numbers.lowest.get::<A>()),
            sum: Sum::of(zeros()),
        }
    }

    fn of(maximum: A, sum: A) -> Sums<A, N> {
        Sums::<A, N> {
            maximum: Vector::new(maximum),
            sum: Sum::of(Vector::new(sum)),
        }
    }

    /// Takes in a score in each lane; minus infinity adds nothing.
    pub(super) fn take(&mut self, x: Vector<A, N>, numbers: &Numbers, #[comptime] spec: &Spec) {
        let is_above = x.greater_than(&self.maximum);
        let larger = select_many(is_above, x, self.maximum);
        let smaller = select_many(is_above, self.maximum, x);
        let exponential = scaled_difference::<A, N>(smaller, larger, numbers, spec).exp();
        let stays = larger.equal(&self.maximum);
        let is_nothing = x.equal(&Vector::new(numbers.lowest.get::<A>()));
        let risen = self.sum.value() * exponential + ones();
        self.sum.unless(stays, risen);
        let term = select_many(is_nothing.or(is_above), zeros(), exponential);
        self.sum.add(term);
        self.maximum = larger;
    }
}

/// The sum beside another maximum, which is not below its own.
#[cube]
fn beside<A: Float>(sum: A, own: A, maximum: A, numbers: &Numbers, #[comptime] spec: &Spec) -> A {
    let gap =
        scaled_difference::<A, Const<1>>(Vector::new(own), Vector::new(maximum), numbers, spec);
    // Equal infinities are not subtracted: the difference would be NaN where there is nothing.
    let exponential = gap.exp().extract(0usize);
    select(sum == A::new(0.0), A::new(0.0), sum * exponential)
}

/// Completes the lines of every row with a tail.
#[cube(launch_unchecked, address_type = "dynamic")]
fn tails_of_rows<F: Float, A: Float, N: Size>(
    logits: &[Vector<F, N>],
    marks: &[u32],
    of_rows: &mut [A],
    uniforms: Uniforms,
    #[comptime] spec: Spec,
    #[define(F, A)] _dtypes: [ElemType; 2],
) {
    let (numbers, extent) = (&uniforms.numbers, &uniforms.extent);
    let tile = comptime!(spec.tile);
    let span = span(extent, tile);
    let place = RowPlace::new::<N>(span.slot, extent.logits, extent, tile);
    let mut rest = Sums::<A, N>::nothing(numbers);
    let mut of_run = 0u32;
    let mut base = span.begin;
    while base < span.end {
        let step = base + span.unit;
        if step < span.end {
            let x = logits[place.of_step::<N>(step, tile.along)];
            let x = scores::<F, A, N>(x, numbers, spec.values);
            let classes = place.classes(extent).of_step::<N>(step, tile);
            let x = without_entries::<A, N>(x, marks, span.slot, classes, &uniforms, tile);
            rest.take(x, numbers, comptime!(&spec));
        }
        of_run += 1;
        if of_run == RUN {
            rest.sum.end_run();
            of_run = 0;
        }
        base += comptime!(tile.units as usize);
    }
    match comptime!(tile.along) {
        Along::Positions =>
        {
            #[unroll]
            for lane in 0..N::value().comptime() {
                let row = span.slot * N::value().comptime() + lane;
                let (maximum, sum) = (rest.maximum.extract(lane), rest.sum.value().extract(lane));
                if span.exists {
                    complete::<A>(of_rows, row, maximum, sum, &uniforms, comptime!(&spec));
                }
            }
        }
        Along::Classes => {
            let sums = of_group::<A, N>(rest, numbers, comptime!(&spec));
            if span.unit == 0 && span.exists {
                let (maximum, sum) = (
                    sums.maximum.extract(0usize),
                    sums.sum.value().extract(0usize),
                );
                complete::<A>(
                    of_rows,
                    span.slot,
                    maximum,
                    sum,
                    &uniforms,
                    comptime!(&spec),
                );
            }
        }
    }
}

/// Scores of a step, minus infinity at the entries.
#[cube]
fn without_entries<A: Float, N: Size>(
    x: Vector<A, N>,
    marks: &[u32],
    slot: usize,
    classes: Classes,
    uniforms: &Uniforms,
    #[comptime] tile: Tile,
) -> Vector<A, N> {
    let along = comptime!(tile.along);
    let lanes = N::value().comptime();
    let words = uniforms.extent.classes.div_ceil(comptime!(BITS));
    let classes = classes.of_lanes::<N>(along);
    let lowest = uniforms.numbers.lowest.get::<A>();
    let mut kept = x;
    #[unroll]
    for lane in 0..lanes {
        let class = classes.extract(lane);
        let row = match comptime!(along) {
            Along::Positions => slot * lanes + lane,
            Along::Classes => slot,
        };
        let word = marks[row * words + (class / comptime!(BITS as u32)) as usize];
        let is_entry = (word >> (class % comptime!(BITS as u32))) & 1u32 == 1u32;
        kept.insert(lane, select(is_entry, lowest, x.extract(lane)));
    }
    kept
}

/// Maximum and sum over the lanes and the units that share a row.
#[cube]
fn of_group<A: Float, N: Size>(
    of_unit: Sums<A, N>,
    numbers: &Numbers,
    #[comptime] spec: &Spec,
) -> Sums<A, Const<1>> {
    let mut largest = of_unit.maximum.extract(0usize);
    #[unroll]
    for lane in 1..N::value().comptime() {
        largest = largest.max(of_unit.maximum.extract(lane));
    }
    let mut group = Group::<A>::new(comptime!(spec.tile.group()));
    let maximum = group.maximum(largest);
    let mut sum = A::new(0.0);
    #[unroll]
    for lane in 0..N::value().comptime() {
        let (own, of_lane) = (
            of_unit.maximum.extract(lane),
            of_unit.sum.value().extract(lane),
        );
        sum += beside::<A>(of_lane, own, maximum, numbers, spec);
    }
    let mut sums = Sequence::<A>::new();
    sums.push(sum);
    let sums = group.sums(sums);
    Sums::<A, Const<1>>::of(maximum, sums[0])
}

/// Writes what a row's tail adds to its loss, and the numbers of its gradient, from the sum over the rest.
#[cube]
fn complete<A: Float>(
    of_rows: &mut [A],
    row: usize,
    m_rest: A,
    rest: A,
    uniforms: &Uniforms,
    #[comptime] spec: &Spec,
) {
    let numbers = &uniforms.numbers;
    let (zero, one) = (A::new(0.0), A::new(1.0));
    let (first, rows) = (row, uniforms.extent.rows);
    let m_entries = of_rows[first + comptime!(lines::MAXIMUM) * rows];
    let entries = of_rows[first + comptime!(lines::SUM) * rows];
    let tail = of_rows[first + comptime!(lines::TAIL) * rows];
    let total = of_rows[first + comptime!(lines::SHARES) * rows];
    let maximum = m_rest.max(m_entries);
    let e = beside::<A>(entries, m_entries, maximum, numbers, spec);
    let r = beside::<A>(rest, m_rest, maximum, numbers, spec);
    let whole = e + r;
    let inner = scale_of_scores::<A>(numbers, spec);
    let gap = scaled_difference::<A, Const<1>>(
        Vector::new(m_entries),
        Vector::new(m_rest),
        numbers,
        spec,
    );
    let of_sums = ln_of::<A>(entries) - ln_of::<A>(rest);
    let far = gap.extract(0usize) + of_sums + ln_1p::<A>(r / e);
    let infinite = zero - numbers.lowest.get::<A>();
    let surprisal = select(e > r, far, ln_1p::<A>(e / r));
    let surprisal = select(rest == zero, infinite, surprisal);
    let share = beside::<A>(one, m_rest, maximum, numbers, spec) / whole;
    // Without a rest only masked classes have this gradient. A row of nothing else has none.
    let has_rest = rest != zero;
    let of_rest = total * share - tail * (e / whole) / rest;
    let of_rest = select(has_rest, of_rest, zero / whole);
    of_rows[first + comptime!(lines::FURTHER) * rows] +=
        select(tail == zero, zero, tail * surprisal);
    of_rows[first + comptime!(lines::MAXIMUM_OF_REST) * rows] = select(has_rest, m_rest, zero);
    of_rows[first + comptime!(lines::AT_REST) * rows] = of_rest;
    of_rows[first + comptime!(lines::SHARE_OF_REST) * rows] = select(has_rest, share, zero);
    of_rows[first + comptime!(lines::LSE) * rows] = maximum * inner + ln_of::<A>(whole);
    of_rows[first + comptime!(lines::SURPRISAL) * rows] = surprisal;
}

#[cube]
fn ln_of<A: Float>(number: A) -> A {
    ln::<A, Const<1>>(Vector::new(number)).extract(0usize)
}

impl Call<'_> {
    /// Number of words of the marks of all rows.
    pub(crate) fn words_of_marks(&self) -> usize {
        self.geometry.rows() * self.geometry.classes.div_ceil(BITS)
    }

    /// Completes the lines of the rows, see [`lines`], of sparse distributions with tails, whose entries are marked.
    pub(super) fn tails_of_rows(&self, marks: &Buffer, of_rows: &Buffer) {
        let plan = self.plan_of_whole_vectors();
        // SAFETY: rows and classes are clamped, as in the launch of the losses, and a word of marks is one of its row.
        unsafe {
            tails_of_rows::launch_unchecked(
                &self.client,
                self.cube_count(plan.cubes()),
                CubeDim::new_1d(plan.units_per_cube()),
                self.address_type([marks.length, of_rows.length]),
                plan.vector_size,
                self.logits.buffer.argument(),
                marks.argument(),
                of_rows.argument(),
                UniformsLaunch::new(self.numbers(), self.extent(&plan, [None, None])),
                self.spec(&plan),
                [self.logits.buffer.dtype, self.arithmetic()],
            );
        }
    }
}
