//! One number of each row: the sum over the units that share it, and its place among those of all rows.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::group::Group;
use super::plan::{Along, Tile};
use super::spec::Span;

/// Sum over a row, in every lane that belongs to it.
#[cube]
pub(crate) fn sum_over_row<A: Float, N: Size>(
    of_unit: Vector<A, N>,
    #[comptime] tile: Tile,
) -> Vector<A, N> {
    match comptime!(tile.along) {
        Along::Positions => of_unit,
        Along::Classes => {
            let mut sum = A::new(0.0);
            #[unroll]
            for lane in 0..N::value().comptime() {
                sum += of_unit.extract(lane);
            }
            let mut sums = Sequence::<A>::new();
            sums.push(sum);
            let mut group = Group::<A>::new(comptime!(tile.group()));
            let sums = group.sums(sums);
            Vector::new(sums[0])
        }
    }
}

/// Writes the number of each row that the unit's vector belongs to.
#[cube]
pub(crate) fn write_number<A: Float, N: Size>(
    number: Vector<A, N>,
    span: &Span,
    numbers: &mut [A],
    #[comptime] tile: Tile,
) {
    match comptime!(tile.along) {
        Along::Positions => {
            let lanes = N::value().comptime();
            #[unroll]
            for lane in 0..lanes {
                if span.exists {
                    numbers[span.slot * lanes + lane] = number.extract(lane);
                }
            }
        }
        Along::Classes => {
            if span.unit == 0 && span.exists {
                numbers[span.slot] = number.extract(0usize);
            }
        }
    }
}
