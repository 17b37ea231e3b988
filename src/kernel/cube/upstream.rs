//! The upstream gradient of a gradient that was computed for 1. It is read on the device, so that the host does not wait.

use burn_cubecl::cubecl;
use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{Buffer, arithmetic_of};

/// Units of a cube.
const UNITS: u32 = 64;
/// Most cubes: enough for every multiprocessor, few enough to end at once where there is nothing to do.
const MOST_CUBES: usize = 4096;

/// Writes the products of a gradient and the upstream gradient. In place nothing is written for 1.
///
/// A gradient of 0, to which no counted row has contributed, stays 0 for every upstream gradient. Nothing of an infinite one
/// arrives through an upstream gradient of 0.
#[cube(launch_unchecked, address_type = "dynamic")]
fn times_upstream<F: Float, A: Float, N: Size>(
    gradient: &[Vector<F, N>],
    upstream: &[A],
    products: &mut [Vector<F, N>],
    infinite: InputScalar,
    #[comptime] is_in_place: bool,
    #[define(F, A)] _dtypes: [ElemType; 2],
) {
    let factor = upstream[0];
    let has_nothing_to_do = match comptime!(is_in_place) {
        true => factor == A::new(1.0),
        false => false.runtime(),
    };
    if has_nothing_to_do {
        terminate!();
    }
    let zeros = Vector::<A, N>::new(A::new(0.0));
    let infinite = Vector::<A, N>::new(infinite.get::<A>());
    let mut at = ABSOLUTE_POS;
    let step = CUBE_COUNT * comptime!(UNITS as usize);
    while at < gradient.len() {
        let slope = Vector::<A, N>::cast_from(gradient[at]);
        let is_infinite = slope.equal(&infinite).or(slope.equal(&(zeros - infinite)));
        let is_lost = is_infinite.vec_and(Vector::new(factor).equal(&zeros));
        let is_nothing = slope.equal(&zeros).or(is_lost);
        let product = select_many(is_nothing, zeros, slope * Vector::new(factor));
        products[at] = Vector::cast_from(product);
        at += step;
    }
}

/// Multiplies all numbers of a buffer, which begins with element `offset` of a device's memory, by an upstream gradient in
/// the dtype of the arithmetic: in place, or into another buffer of the same order.
pub(crate) fn multiply_by_upstream(
    client: &Client,
    (gradient, offset): (&Buffer, usize),
    upstream: &Buffer,
    products: Option<&Buffer>,
) {
    let arithmetic = arithmetic_of(gradient.dtype);
    let mut sizes = client.io_optimized_vector_sizes(gradient.dtype.size());
    let fits = |size: &usize| (gradient.length | offset).is_multiple_of(*size);
    let vector_size = sizes.find(fits).unwrap_or(1);
    let vectors = gradient.length / vector_size;
    let cubes = vectors.div_ceil(UNITS as usize).clamp(1, MOST_CUBES);
    let target = match products {
        Some(products) => products.argument(),
        None => BufferArg::alias(0, gradient.length),
    };
    // SAFETY: units beyond the vectors do nothing. In place each element is written by the unit that read it.
    unsafe {
        times_upstream::launch_unchecked(
            client,
            CubeCount::Static(cubes as u32, 1, 1),
            CubeDim::new_1d(UNITS),
            // The last step goes beyond the end.
            AddressType::from_len(gradient.length + MOST_CUBES * UNITS as usize),
            vector_size,
            gradient.argument(),
            upstream.argument(),
            target,
            InputScalar::new(f64::INFINITY, arithmetic),
            products.is_none(),
            [gradient.dtype, arithmetic],
        );
    }
}
