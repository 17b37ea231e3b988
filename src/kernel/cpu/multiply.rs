//! Product of a gradient with the upstream gradient, in place.

use std::ops::Range;

use super::blocks::LANES;
use super::float::Float;
use super::instructions::{Instructions, Task};
use super::number::{Converter, ConvertingTask, Number};
use super::storage::{Cut, FloatsMut, Part, Runs, over_dtypes};
use super::threads::{for_each, is_worth_spreading};
use crate::operation::Geometry;

/// Multiplies the gradient of each row by the row's factor, or all rows by a single factor.
pub(crate) fn multiply<A: Float>(
    gradient: FloatsMut<'_>,
    geometry: &Geometry,
    factors: &[A],
    instructions: Instructions,
) {
    let cut = Cut::new(geometry);
    let parts = gradient.parts(geometry, cut).into_iter();
    let parts: Vec<_> = cut.rows(geometry).into_iter().zip(parts).collect();
    let spread = is_worth_spreading(geometry);
    for_each(
        parts,
        spread,
        || (),
        |(rows, mut part), _| {
            over_dtypes!(Part, &mut part, runs => {
                match A::as_f32s(factors) {
                    Some(factors) => {
                        let multiply = Multiply { runs, geometry, rows, factors };
                        Number::converting(instructions, multiply);
                    }
                    None => instructions.run(Multiply { runs, geometry, rows, factors }),
                }
            });
        },
    );
}

struct Multiply<'a, 'b, S, A> {
    runs: &'a mut Runs<'b, S>,
    geometry: &'a Geometry,
    rows: Range<usize>,
    factors: &'a [A],
}

impl<S: Number, A: Float> Task for Multiply<'_, '_, S, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        self.run_by(ByNumber);
    }
}

impl<S: Number> ConvertingTask<S> for Multiply<'_, '_, S, f32> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self, converter: impl Converter<S>) {
        self.run_by(ByBlock(converter));
    }
}

impl<S: Number, A: Float> Multiply<'_, '_, S, A> {
    #[inline(always)]
    fn run_by(self, way: impl Way<S, A>) {
        let Self {
            runs,
            geometry,
            rows,
            factors,
        } = self;
        if let [factor] = *factors {
            for run in runs.all_mut() {
                way.multiply(run, factor);
            }
            return;
        }
        if geometry.inner == 1 {
            for row in rows {
                way.multiply(runs.row_mut(geometry, row), factors[row]);
            }
            return;
        }
        for stretch in super::storage::stretches(geometry, rows) {
            let factors = &factors[stretch.rows(geometry)];
            for class in 0..geometry.classes {
                let run = runs.run_mut(geometry, &stretch, class);
                for (number, &factor) in run.iter_mut().zip(factors) {
                    *number = S::narrow(product(number.widen::<A>(), factor));
                }
            }
        }
    }
}

/// Product of a slope with the upstream gradient. Nothing of an infinite slope arrives through a gradient of
/// 0.
#[inline(always)]
fn product<A: Float>(slope: A, factor: A) -> A {
    let is_infinite = slope == A::INFINITY || slope == -A::INFINITY;
    let product = slope * factor;
    if is_infinite && factor == A::ZERO {
        A::ZERO
    } else {
        product
    }
}

/// Product of numbers that lie together with one factor.
trait Way<S, A>: Copy {
    fn multiply(self, run: &mut [S], factor: A);
}

#[derive(Clone, Copy)]
struct ByNumber;

impl<S: Number, A: Float> Way<S, A> for ByNumber {
    #[inline(always)]
    fn multiply(self, run: &mut [S], factor: A) {
        for number in run {
            *number = S::narrow(product(number.widen::<A>(), factor));
        }
    }
}

#[derive(Clone, Copy)]
struct ByBlock<C>(C);

impl<S: Number, C: Converter<S>> Way<S, f32> for ByBlock<C> {
    #[inline(always)]
    fn multiply(self, run: &mut [S], factor: f32) {
        let (blocks, rest) = run.as_chunks_mut::<LANES>();
        for block in blocks {
            let mut numbers = self.0.widen(block);
            for lane in 0..LANES {
                numbers[lane] = product(numbers[lane], factor);
            }
            *block = self.0.narrow(&numbers);
        }
        ByNumber.multiply(rest, factor);
    }
}
