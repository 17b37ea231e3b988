//! Conversions between the `N` logits of a vector and the `M` rows that they belong to. Along positions
//! each lane is a row, and `M` is `N`. Along classes all lanes belong to one row, and `M` is 1.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::plan::Along;
use super::sum::zeros;

/// Sum of the lanes that belong to the same row.
#[cube]
pub(crate) fn sum_of_rows<A: Float, N: Size, M: Size>(
    x: Vector<A, N>,
    #[comptime] along: Along,
) -> Vector<A, M> {
    match comptime!(along) {
        Along::Classes => Vector::new(x.vector_sum()),
        Along::Positions => same_lanes::<A, N, M>(x),
    }
}

/// Largest of the lanes that belong to the same row.
#[cube]
pub(crate) fn largest_of_rows<A: Float, N: Size, M: Size>(
    x: Vector<A, N>,
    #[comptime] along: Along,
) -> Vector<A, M> {
    match comptime!(along) {
        Along::Classes => {
            let mut largest = x.extract(0usize);
            #[unroll]
            for lane in 1..N::value().comptime() {
                largest = max(largest, x.extract(lane));
            }
            Vector::new(largest)
        }
        Along::Positions => same_lanes::<A, N, M>(x),
    }
}

/// Repeats a number of each row for every logit of the row.
#[cube]
pub(crate) fn for_every_logit<A: Float, M: Size, N: Size>(
    x: Vector<A, M>,
    #[comptime] along: Along,
) -> Vector<A, N> {
    match comptime!(along) {
        Along::Classes => Vector::new(x.extract(0usize)),
        Along::Positions => same_lanes::<A, M, N>(x),
    }
}

/// Gives a vector the type of another size that has the same value. Costs no machine code.
#[cube]
fn same_lanes<A: Float, N: Size, M: Size>(x: Vector<A, N>) -> Vector<A, M> {
    let mut same = zeros::<A, M>();
    #[unroll]
    for lane in 0..N::value().comptime() {
        same.insert(lane, x.extract(lane));
    }
    same
}
