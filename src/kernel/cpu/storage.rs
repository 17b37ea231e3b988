//! Tensors of the logits' size as slices: the division into parts for the threads, and the way of rows
//! into the arithmetic and back.
//!
//! Everything here is in row-major order as `[outer, classes, inner]`, see
//! [`Geometry`](crate::operation::Geometry). Where a part has only some of the inner indices, its rows
//! do not lie together. The part then holds one slice per class, so that no unsafe code is needed.

use std::ops::Range;

use burn::tensor::{bf16, f16};

use super::ahead::Ahead;
use super::blocks::LANES;
use super::float::Float;
use super::instructions::{Instructions, Task};
use super::number::Number;
use crate::operation::Geometry;

/// Numbers of any float dtype, to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Floats<'a> {
    F64(&'a [f64]),
    F32(&'a [f32]),
    F16(&'a [f16]),
    BF16(&'a [bf16]),
}

/// Numbers of any float dtype, to be written.
#[derive(Debug)]
// NdArray has no half precision.
#[cfg_attr(not(feature = "flex"), expect(dead_code))]
pub(crate) enum FloatsMut<'a> {
    F64(&'a mut [f64]),
    F32(&'a mut [f32]),
    F16(&'a mut [f16]),
    BF16(&'a mut [bf16]),
}

/// Rows of a part, in the tensor's dtype.
#[derive(Debug)]
pub(crate) enum Part<'a> {
    F64(Runs<'a, f64>),
    F32(Runs<'a, f32>),
    F16(Runs<'a, f16>),
    BF16(Runs<'a, bf16>),
}

/// Calls a generic function for the dtype of the value.
macro_rules! over_dtypes {
    ($enum:ident, $value:expr, $inner:ident => $result:expr) => {
        match $value {
            $enum::F64($inner) => $result,
            $enum::F32($inner) => $result,
            $enum::F16($inner) => $result,
            $enum::BF16($inner) => $result,
        }
    };
}

pub(crate) use over_dtypes;

impl<'a> Floats<'a> {
    /// All rows as a part that is only read.
    pub(crate) fn whole(self) -> Part<'a> {
        match self {
            Self::F64(slice) => Part::F64(Runs::Whole(slice)),
            Self::F32(slice) => Part::F32(Runs::Whole(slice)),
            Self::F16(slice) => Part::F16(Runs::Whole(slice)),
            Self::BF16(slice) => Part::BF16(Runs::Whole(slice)),
        }
    }

    pub(super) fn len(self) -> usize {
        over_dtypes!(Self, self, stored => stored.len())
    }

    /// One number.
    pub(super) fn number(self, at: usize) -> f64 {
        match self {
            Self::F64(slice) => slice[at],
            Self::F32(slice) => slice[at].into(),
            Self::F16(slice) => slice[at].into(),
            Self::BF16(slice) => slice[at].into(),
        }
    }

    /// Window of consecutive numbers.
    pub(crate) fn window(self, numbers: Range<usize>) -> Self {
        match self {
            Self::F64(slice) => Self::F64(&slice[numbers]),
            Self::F32(slice) => Self::F32(&slice[numbers]),
            Self::F16(slice) => Self::F16(&slice[numbers]),
            Self::BF16(slice) => Self::BF16(&slice[numbers]),
        }
    }

    /// Copies rows of so many numbers into the dtype of the arithmetic.
    pub(crate) fn gather<A: Float>(
        self,
        rows: &[usize],
        length: usize,
        instructions: Instructions,
    ) -> Vec<A> {
        let mut numbers = vec![A::ZERO; rows.len() * length];
        over_dtypes!(Self, self, stored => {
            for (row, numbers) in rows.iter().zip(numbers.chunks_exact_mut(length.max(1))) {
                let stored = &stored[row * length..][..length];
                Number::widen_with(instructions, stored, numbers);
            }
        });
        numbers
    }

    /// Copies the numbers into the dtype of the arithmetic.
    pub(crate) fn to_vec<A: Float>(self, instructions: Instructions) -> Vec<A> {
        over_dtypes!(Self, self, stored => {
            let mut numbers = vec![A::ZERO; stored.len()];
            Number::widen_with(instructions, stored, &mut numbers);
            numbers
        })
    }
}

impl FloatsMut<'_> {
    pub(crate) fn fill_with_nan(self) {
        match self {
            Self::F64(slice) => slice.fill(f64::NAN),
            Self::F32(slice) => slice.fill(f32::NAN),
            Self::F16(slice) => slice.fill(f16::NAN),
            Self::BF16(slice) => slice.fill(bf16::NAN),
        }
    }
}

impl<'a> FloatsMut<'a> {
    pub(crate) fn parts(self, geometry: &Geometry, cut: Cut) -> Vec<Part<'a>> {
        match self {
            Self::F64(slice) => Runs::parts(slice, geometry, cut).map(Part::F64).collect(),
            Self::F32(slice) => Runs::parts(slice, geometry, cut).map(Part::F32).collect(),
            Self::F16(slice) => Runs::parts(slice, geometry, cut).map(Part::F16).collect(),
            Self::BF16(slice) => Runs::parts(slice, geometry, cut).map(Part::BF16).collect(),
        }
    }
}

/// Division of a tensor into parts. It follows from the shape alone, so that the parts, and the order of
/// every sum, are the same for any number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// A part has this number of consecutive outer indices.
    Outer(usize),
    /// A part has one outer index and this number of consecutive inner indices.
    Inner(usize),
}

impl Cut {
    /// Number of elements of a part: enough to make the cost of handing it to a thread small, few enough to
    /// spread tensors that are worth spreading.
    const ELEMENTS: Range<usize> = 1 << 13..1 << 16;
    /// Shortest run of a class in a part, which keeps the list of runs small compared to the runs.
    const SHORTEST_RUN: usize = 4 * LANES;

    pub(crate) fn new(geometry: &Geometry) -> Self {
        let Geometry { classes, inner, .. } = *geometry;
        let elements = geometry.rows() * classes;
        let elements = (elements / 64).clamp(Self::ELEMENTS.start, Self::ELEMENTS.end);
        if classes * inner > elements && inner >= 2 * Self::SHORTEST_RUN {
            let run = elements / classes / LANES * LANES;
            return Self::Inner(run.max(Self::SHORTEST_RUN));
        }
        let outer = (elements / (classes * inner)).max(1);
        Self::Outer(if inner > 1 {
            // A part fills at least one unit of lanes, because units are computed whole.
            outer.max(LANES.div_ceil(inner))
        } else if outer > LANES {
            outer / LANES * LANES
        } else {
            outer
        })
    }

    /// Rows of each part, in order.
    pub(crate) fn rows(self, geometry: &Geometry) -> Vec<Range<usize>> {
        let ranges = |length: usize, step: usize| {
            (0..length)
                .step_by(step)
                .map(move |from| from..length.min(from + step))
        };
        let inner = geometry.inner;
        match self {
            Self::Outer(step) => ranges(geometry.outer, step)
                .map(|outer| outer.start * inner..outer.end * inner)
                .collect(),
            Self::Inner(step) => (0..geometry.outer)
                .flat_map(|outer| {
                    ranges(inner, step)
                        .map(move |range| outer * inner + range.start..outer * inner + range.end)
                })
                .collect(),
        }
    }
}

/// Some rows of a tensor: the runs of `inner` numbers that share an outer index and a class.
#[derive(Debug)]
pub(crate) enum Runs<'a, S> {
    /// The whole tensor, read only.
    Whole(&'a [S]),
    /// All rows of consecutive outer indices, from `first` on.
    Outer { first: usize, slice: &'a mut [S] },
    /// Rows of one outer index: a piece of the run of every class.
    Inner {
        first: usize,
        pieces: Vec<&'a mut [S]>,
    },
}

impl<'a, S: Number> Runs<'a, S> {
    fn parts(
        slice: &'a mut [S],
        geometry: &Geometry,
        cut: Cut,
    ) -> Box<dyn Iterator<Item = Self> + 'a> {
        let &Geometry { classes, inner, .. } = geometry;
        match cut {
            Cut::Outer(step) => {
                // Sparse distributions may have no entries.
                let parts = slice.chunks_mut((step * classes * inner).max(1));
                Box::new(parts.enumerate().map(move |(part, slice)| Self::Outer {
                    first: part * step,
                    slice,
                }))
            }
            Cut::Inner(step) => Box::new(slice.chunks_mut((classes * inner).max(1)).flat_map(
                move |outer| {
                    let count = inner.div_ceil(step);
                    let mut parts: Vec<_> =
                        (0..count).map(|_| Vec::with_capacity(classes)).collect();
                    for run in outer.chunks_mut(inner) {
                        for (part, piece) in parts.iter_mut().zip(run.chunks_mut(step)) {
                            part.push(piece);
                        }
                    }
                    parts
                        .into_iter()
                        .enumerate()
                        .map(move |(part, pieces)| Self::Inner {
                            first: part * step,
                            pieces,
                        })
                },
            )),
        }
    }

    /// Numbers of a class in some rows.
    #[inline(always)]
    fn run(&self, geometry: &Geometry, rows: &Stretch, class: usize) -> &[S] {
        match self {
            Self::Whole(slice) => &slice[place(geometry, rows, class, 0)..][..rows.length],
            Self::Outer { first, slice } => {
                &slice[place(geometry, rows, class, *first)..][..rows.length]
            }
            Self::Inner { first, pieces } => &pieces[class][rows.inner - first..][..rows.length],
        }
    }

    #[inline(always)]
    pub(crate) fn run_mut(
        &mut self,
        geometry: &Geometry,
        rows: &Stretch,
        class: usize,
    ) -> &mut [S] {
        match self {
            Self::Whole(_) => unreachable!("the whole tensor is read only"),
            Self::Outer { first, slice } => {
                &mut slice[place(geometry, rows, class, *first)..][..rows.length]
            }
            Self::Inner { first, pieces } => {
                &mut pieces[class][rows.inner - *first..][..rows.length]
            }
        }
    }

    /// All numbers, in pieces.
    #[inline(always)]
    pub(crate) fn all_mut(&mut self) -> &mut [&'a mut [S]] {
        match self {
            Self::Whole(_) => unreachable!("the whole tensor is read only"),
            Self::Outer { slice, .. } => std::slice::from_mut(slice),
            Self::Inner { pieces, .. } => pieces,
        }
    }

    /// Numbers of a row whose classes lie together.
    #[inline(always)]
    pub(crate) fn row(&self, geometry: &Geometry, row: usize) -> &[S] {
        let length = geometry.classes;
        match self {
            Self::Whole(slice) => &slice[row * length..][..length],
            Self::Outer { first, slice } => &slice[(row - first) * length..][..length],
            Self::Inner { .. } => unreachable!("rows of their own are cut by the outer dimension"),
        }
    }

    /// Numbers of a row that may be beyond the end.
    fn row_ahead(&self, geometry: &Geometry, row: usize) -> Ahead {
        let length = geometry.classes;
        let numbers = match self {
            Self::Whole(slice) => slice.get(row * length..),
            Self::Outer { first, slice } => slice.get((row - first) * length..),
            Self::Inner { .. } => None,
        };
        let row = numbers.and_then(|numbers| numbers.get(..length));
        row.map_or_else(Ahead::nothing, Ahead::of_row)
    }

    /// Numbers of the [`LANES`] rows from `row` on, if they lie together class by class.
    fn lanes_ahead(&self, geometry: &Geometry, row: usize) -> Ahead {
        let &Geometry { classes, inner, .. } = geometry;
        let (outer, at) = (row / inner, row % inner);
        if at + LANES > inner {
            return Ahead::nothing();
        }
        let first = match self {
            Self::Whole(slice) => slice.get(outer * classes * inner + at),
            Self::Outer { first, slice } => slice.get((outer - first) * classes * inner + at),
            Self::Inner { first, pieces } => pieces[0].get(at - first),
        };
        first.map_or_else(Ahead::nothing, |first| {
            Ahead::of_classes(first, inner, classes)
        })
    }

    #[inline(always)]
    pub(crate) fn row_mut(&mut self, geometry: &Geometry, row: usize) -> &mut [S] {
        let length = geometry.classes;
        match self {
            Self::Outer { first, slice } => &mut slice[(row - *first) * length..][..length],
            _ => unreachable!("rows of their own are cut by the outer dimension"),
        }
    }
}

/// Place of the first number of a class in a slice of the outer indices from `first` on.
#[inline(always)]
fn place(geometry: &Geometry, rows: &Stretch, class: usize, first: usize) -> usize {
    ((rows.outer - first) * geometry.classes + class) * geometry.inner + rows.inner
}

impl Part<'_> {
    /// Reads a row whose classes lie together.
    pub(crate) fn load_row<A: Float>(
        &self,
        geometry: &Geometry,
        row: usize,
        numbers: &mut [A],
        instructions: Instructions,
    ) {
        over_dtypes!(Self, self, runs => {
            let stored = runs.row(geometry, row);
            Number::widen_with(instructions, stored, numbers);
        });
    }

    /// A row whose classes lie together, to be fetched; nothing beyond the end.
    pub(super) fn row_ahead(&self, geometry: &Geometry, row: usize) -> Ahead {
        over_dtypes!(Self, self, runs => runs.row_ahead(geometry, row))
    }

    /// Rows that are to be fetched into lanes.
    pub(super) fn lanes_ahead(&self, geometry: &Geometry, row: usize) -> Ahead {
        over_dtypes!(Self, self, runs => runs.lanes_ahead(geometry, row))
    }

    pub(crate) fn store_row<A: Float>(
        &mut self,
        geometry: &Geometry,
        row: usize,
        numbers: &[A],
        instructions: Instructions,
    ) {
        over_dtypes!(Self, self, runs => {
            let stored = runs.row_mut(geometry, row);
            Number::narrow_with(instructions, numbers, stored);
        });
    }

    pub(crate) fn fill_row(&mut self, geometry: &Geometry, row: usize, value: f64) {
        over_dtypes!(Self, self, runs => {
            runs.row_mut(geometry, row).fill(Number::narrow(value));
        });
    }

    /// Reads rows into the lanes of blocks: for each [`LANES`] rows, one block per class.
    pub(crate) fn load_lanes<A: Float>(
        &self,
        geometry: &Geometry,
        rows: Range<usize>,
        numbers: &mut [A],
        instructions: Instructions,
    ) {
        over_dtypes!(Self, self, runs => {
            instructions.run(LoadLanes { runs, geometry, rows, numbers });
        });
    }

    /// Writes the lanes of blocks back to their rows.
    pub(crate) fn store_lanes<A: Float>(
        &mut self,
        geometry: &Geometry,
        rows: Range<usize>,
        numbers: &[A],
        instructions: Instructions,
    ) {
        over_dtypes!(Self, self, runs => {
            instructions.run(StoreLanes { runs, geometry, rows, numbers });
        });
    }
}

struct LoadLanes<'a, 'b, S, A> {
    runs: &'a Runs<'b, S>,
    geometry: &'a Geometry,
    rows: Range<usize>,
    numbers: &'a mut [A],
}

impl<S: Number, A: Float> Task for LoadLanes<'_, '_, S, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self {
            runs,
            geometry,
            rows,
            numbers,
        } = self;
        let classes = geometry.classes;
        let (blocks, _) = numbers.as_chunks_mut::<LANES>();
        if geometry.inner == 1 {
            for (lane, row) in rows.enumerate() {
                let blocks = &mut blocks[lane / LANES * classes..][..classes];
                for (block, &stored) in blocks.iter_mut().zip(runs.row(geometry, row)) {
                    block[lane % LANES] = stored.widen();
                }
            }
            return;
        }
        for stretch in stretches(geometry, rows) {
            for class in 0..classes {
                let mut run = runs.run(geometry, &stretch, class);
                let mut lane = stretch.lane;
                while !run.is_empty() {
                    let block = &mut blocks[lane / LANES * classes + class];
                    let length = run.len().min(LANES - lane % LANES);
                    match run.first_chunk::<LANES>() {
                        // With a length that is known at compile time this is a few wide moves.
                        Some(run) if length == LANES => S::widen_all(run, block),
                        _ => S::widen_all(&run[..length], &mut block[lane % LANES..][..length]),
                    }
                    run = &run[length..];
                    lane += length;
                }
            }
        }
    }
}

struct StoreLanes<'a, 'b, S, A> {
    runs: &'a mut Runs<'b, S>,
    geometry: &'a Geometry,
    rows: Range<usize>,
    numbers: &'a [A],
}

impl<S: Number, A: Float> Task for StoreLanes<'_, '_, S, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self {
            runs,
            geometry,
            rows,
            numbers,
        } = self;
        let classes = geometry.classes;
        let (blocks, _) = numbers.as_chunks::<LANES>();
        if geometry.inner == 1 {
            for (lane, row) in rows.enumerate() {
                let blocks = &blocks[lane / LANES * classes..][..classes];
                for (block, stored) in blocks.iter().zip(runs.row_mut(geometry, row)) {
                    *stored = S::narrow(block[lane % LANES]);
                }
            }
            return;
        }
        for stretch in stretches(geometry, rows) {
            for class in 0..classes {
                let mut run = runs.run_mut(geometry, &stretch, class);
                let mut lane = stretch.lane;
                while !run.is_empty() {
                    let block = &blocks[lane / LANES * classes + class];
                    let length = run.len().min(LANES - lane % LANES);
                    let (now, later) = run.split_at_mut(length);
                    match now.first_chunk_mut::<LANES>() {
                        Some(now) => S::narrow_all(block, now),
                        None => S::narrow_all(&block[lane % LANES..][..length], now),
                    }
                    run = later;
                    lane += length;
                }
            }
        }
    }
}

/// Consecutive rows that share an outer index.
pub(crate) struct Stretch {
    outer: usize,
    /// First inner index; `length` is the number of rows.
    inner: usize,
    length: usize,
    /// Number of the requested rows before this stretch.
    lane: usize,
}

impl Stretch {
    /// Range of the rows of this stretch.
    pub(crate) fn rows(&self, geometry: &Geometry) -> Range<usize> {
        let from = self.outer * geometry.inner + self.inner;
        from..from + self.length
    }
}

#[inline(always)]
pub(crate) fn stretches(geometry: &Geometry, rows: Range<usize>) -> impl Iterator<Item = Stretch> {
    let size = geometry.inner;
    let mut row = rows.start;
    std::iter::from_fn(move || {
        if row >= rows.end {
            return None;
        }
        let (outer, inner) = (row / size, row % size);
        let length = (size - inner).min(rows.end - row);
        let lane = row - rows.start;
        row += length;
        Some(Stretch {
            outer,
            inner,
            length,
            lane,
        })
    })
}

/// Dtype of the arithmetic; numbers that are stored in it need no conversion.
pub(crate) trait Native: Float + Number {
    fn slice(floats: Floats<'_>) -> Option<&[Self]>;
    fn slice_mut(floats: FloatsMut<'_>) -> Option<&mut [Self]>;
    fn floats(numbers: &[Self]) -> Floats<'_>;
    fn floats_mut(numbers: &mut [Self]) -> FloatsMut<'_>;
    fn runs<'p, 'a>(part: &'p Part<'a>) -> Option<&'p Runs<'a, Self>>;
    fn runs_mut<'p, 'a>(part: &'p mut Part<'a>) -> Option<&'p mut Runs<'a, Self>>;
}

macro_rules! native {
    ($($float:ident: $dtype:ident),*) => {$(
        impl Native for $float {
            fn slice(floats: Floats<'_>) -> Option<&[Self]> {
                match floats {
                    Floats::$dtype(numbers) => Some(numbers),
                    _ => None,
                }
            }

            fn slice_mut(floats: FloatsMut<'_>) -> Option<&mut [Self]> {
                match floats {
                    FloatsMut::$dtype(numbers) => Some(numbers),
                    _ => None,
                }
            }

            fn floats(numbers: &[Self]) -> Floats<'_> {
                Floats::$dtype(numbers)
            }

            fn floats_mut(numbers: &mut [Self]) -> FloatsMut<'_> {
                FloatsMut::$dtype(numbers)
            }

            fn runs<'p, 'a>(part: &'p Part<'a>) -> Option<&'p Runs<'a, Self>> {
                match part {
                    Part::$dtype(runs) => Some(runs),
                    _ => None,
                }
            }

            fn runs_mut<'p, 'a>(part: &'p mut Part<'a>) -> Option<&'p mut Runs<'a, Self>> {
                match part {
                    Part::$dtype(runs) => Some(runs),
                    _ => None,
                }
            }
        }
    )*};
}

native!(f64: F64, f32: F32);
