//! Loss of each pair of a row and a column apart, of a yes or no, with its slope in place of the logit:
//!
//! ```text
//! loss = sum_c ln(1 + exp(x[c]))        slope = sigmoid(x[c])
//!
//! with e = exp(-|x|):   ln(1 + exp(x)) = max(x, 0) + ln(1 + e)        sigmoid(x) = (x < 0 ? e : 1) / (1 + e)
//! ```
//!
//! The logarithms of a run of classes are one: that of the product of the `1 + e`. What is kept is the product less 1,
//! so that pairs that are told apart well keep the digits of their small losses.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::elementary::ln_1p;
use super::launch::{Buffer, Call};
use super::numbers::{sum_over_row, write_number};
use super::plan::Tile;
use super::spec::{Uniforms, UniformsLaunch, span};
use super::sum::zeros;
use super::walk::RowPlace;

/// Steps whose logarithms are one: the product of as many factors, each 2 at most, stays in the range of f32.
const RUN: u32 = 64;

/// Writes the loss of every row, and slopes over the logits `x`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn pairs_of_rows<A: Float, N: Size>(
    x: &mut [Vector<A, N>],
    losses: &mut [A],
    uniforms: Uniforms,
    #[comptime] tile: Tile,
    #[define(A)] _dtype: ElemType,
) {
    let extent = &uniforms.extent;
    let span = span(extent, tile);
    let place = RowPlace::new::<N>(span.slot, extent.logits, extent, tile);
    let mut loss = zeros::<A, N>();
    let mut above = zeros::<A, N>();
    let mut product = zeros::<A, N>();
    let mut of_run = 0u32;
    let mut base = span.begin;
    while base < span.end {
        let step = base + span.unit;
        // A group beyond the last row would write over that row while another reads it.
        if step < span.end && span.exists {
            let at = place.of_step::<N>(step, tile.along);
            let logits = x[at];
            let is_above = logits.greater_than(&zeros());
            let height = select_many(is_above, logits, zeros());
            let e = select_many(is_above, zeros::<A, N>() - logits, logits).exp();
            above += height;
            product = product * e + (product + e);
            let one = Vector::<A, N>::new(A::new(1.0));
            x[at] = select_many(is_above, one, e) / (one + e);
        }
        of_run += 1;
        if of_run == RUN {
            loss += of_product::<A, N>(product) + above;
            product = zeros();
            above = zeros();
            of_run = 0;
        }
        base += comptime!(tile.units as usize);
    }
    loss += of_product::<A, N>(product) + above;
    let number = sum_over_row::<A, N>(loss, tile);
    write_number::<A, N>(number, &span, losses, tile);
}

/// Logarithm of a product, of which 1 was taken off.
#[cube]
fn of_product<A: Float, N: Size>(product: Vector<A, N>) -> Vector<A, N> {
    let mut logarithm = zeros::<A, N>();
    #[unroll]
    for lane in 0..N::value().comptime() {
        logarithm.insert(lane, ln_1p::<A>(product.extract(lane)));
    }
    logarithm
}

impl Call<'_> {
    /// Loss of each row, in the dtype of the arithmetic, which is that of the logits. Slopes replace the logits, which
    /// nobody else may hold.
    pub(crate) fn pairs_of_rows(&self) -> Buffer {
        let plan = self.plan_of_whole_vectors();
        let losses = Buffer::new(&self.client, self.arithmetic(), self.geometry.rows());
        // SAFETY: rows and classes are clamped, as in the launch of the losses.
        unsafe {
            pairs_of_rows::launch_unchecked(
                &self.client,
                self.cube_count(plan.cubes()),
                CubeDim::new_1d(plan.units_per_cube()),
                self.address_type([losses.length]),
                plan.vector_size,
                self.logits.buffer.argument(),
                losses.argument(),
                UniformsLaunch::new(self.numbers(), self.extent(&plan, [None, None])),
                plan.tile,
                self.arithmetic(),
            );
        }
        losses
    }
}
