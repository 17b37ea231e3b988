//! Even shares of the label smoothing over the classes of a row that are not masked.
//!
//! How many classes share is known only when the whole row has been read, and a share is needed with the first class
//! of the loss. So a kernel of its own counts them, which reads the logits once more. The shares stand behind the
//! weights (see [`Inputs`](super::targets::Inputs)).

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::launch::{Buffer, Call};
use super::numbers::{sum_over_row, write_number};
use super::plan::Tile;
use super::spec::{Uniforms, UniformsLaunch, span};
use super::sum::{ones, zeros};
use super::targets::masked_number;
use super::walk::RowPlace;
use crate::operation::InputValues;

/// Writes `e / V` of every row, with `V` the number of its classes that are not masked. `even` of the numbers is `e`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn evens_of_rows<F: Float, A: Float, N: Size>(
    logits: &[Vector<F, N>],
    evens: &mut [A],
    uniforms: Uniforms,
    #[comptime] tile: Tile,
    #[comptime] are_probabilities: bool,
    #[define(F, A)] _dtypes: [ElemType; 2],
) {
    let (numbers, extent) = (&uniforms.numbers, &uniforms.extent);
    let span = span(extent, tile);
    let place = RowPlace::new::<N>(span.slot, extent.logits, extent, tile);
    let masked = masked_number::<A, N>(numbers.lowest.get::<A>(), are_probabilities);
    let mut count = zeros::<A, N>();
    let mut base = span.begin;
    while base < span.end {
        let step = base + span.unit;
        if step < span.end {
            let x = Vector::<A, N>::cast_from(logits[place.of_step::<N>(step, tile.along)]);
            count += select_many(x.equal(&masked), zeros(), ones());
        }
        base += comptime!(tile.units as usize);
    }
    let number = Vector::new(numbers.even.get::<A>()) / sum_over_row::<A, N>(count, tile);
    write_number::<A, N>(number, &span, evens, tile);
}

impl Call<'_> {
    /// Even share of each row's valid classes, in the dtype of the arithmetic.
    pub(crate) fn evens_of_rows(&self) -> Buffer {
        let plan = self.plan_of_whole_vectors();
        let evens = Buffer::new(&self.client, self.arithmetic(), self.geometry.rows());
        // SAFETY: rows and classes are clamped, as in the launch of the losses.
        unsafe {
            evens_of_rows::launch_unchecked(
                &self.client,
                self.cube_count(plan.cubes()),
                CubeDim::new_1d(plan.units_per_cube()),
                self.address_type([evens.length]),
                plan.vector_size,
                self.logits.buffer.argument(),
                evens.argument(),
                UniformsLaunch::new(self.numbers(), self.extent(&plan, [None, None])),
                plan.tile,
                self.options.values == InputValues::Probabilities,
                [self.logits.buffer.dtype, self.arithmetic()],
            );
        }
        evens
    }
}
