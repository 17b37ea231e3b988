//! Calls whose forward computes the gradient of the logits too, for an upstream gradient of 1.

use burn::backend::tensor::FloatTensor;
use burn::tensor::Shape;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::{Destination, Operands, buffer_of, cast};
use crate::kernel::cube::{FromForwardBuffers, multiply_by_upstream};
use crate::operation::{Forward, Gradients, Saved, accumulation_dtype};
use crate::portable::chunks;

impl Operands<'_> {
    /// Forward that keeps the gradient in the place of the logits.
    pub(super) fn forward_with_gradient(self) -> Forward<CubeBackend> {
        let destination = Destination::of(&self.logits);
        let call = self.call();
        let mut from_forward = FromForwardBuffers {
            statistics: None,
            divisors: Some(call.totals(None).1),
            upstream: None,
        };
        let place = destination.buffer(&self);
        let mut results = call.rows_with_gradient(&place, &from_forward);
        if let Some(entries) = &self.entries {
            from_forward.statistics = results.statistics.take();
            call.gradient_at_entries(&entries.resolved, &from_forward, &place);
        }
        let (loss, divisors) = self.loss(&call, results.losses.take());
        let outputs = self.outputs(&call, results, &divisors);
        drop((call, place, from_forward));
        let statistics = self.mark(&divisors);
        Forward {
            loss,
            saved: Saved::Statistics {
                logits: destination.finish(self.logits),
                statistics,
                divisors,
            },
            outputs,
        }
    }

    /// Statistics that stand for a gradient in the place of the logits: of the shape that fusion was told, and without
    /// strides, since there are none. Whether a call computes its gradient in the forward is known on its device alone.
    fn mark(&self, divisors: &CubeTensor) -> CubeTensor {
        let call = self.call();
        let lines = call.options.statistics_per_row(call.has_distributions());
        let mut mark = divisors.clone();
        mark.meta.shape = Shape::new([lines, call.geometry.rows()]);
        mark.meta.strides = [0, 0].into();
        mark
    }
}

/// Whether these statistics stand for a gradient in the place of the logits.
pub(super) fn are_of_gradient(statistics: &CubeTensor) -> bool {
    statistics.meta.strides().iter().all(|stride| *stride == 0)
}

/// Gradients of a loss from those for an upstream gradient of 1.
pub(super) fn multiplied(
    gradients: Gradients<CubeBackend>,
    upstream: &FloatTensor<CubeBackend>,
) -> Gradients<CubeBackend> {
    gradients.map(|gradient, _| match gradient.meta.num_elements() {
        0 => gradient,
        _ => product(gradient, upstream),
    })
}

/// Gradient for an upstream gradient from that for 1: where nobody else holds it, 1 is nothing to do.
fn product(gradient: CubeTensor, upstream: &FloatTensor<CubeBackend>) -> CubeTensor {
    // What is between the rows of a buffer is multiplied too, and read by nobody.
    let is_in_place = gradient.can_mut() && !gradient.meta.is_tiled();
    if !is_in_place && !fills_its_buffer(&gradient) {
        return chunks::product::<CubeBackend>(gradient, upstream);
    }
    let upstream = cast(upstream.clone(), accumulation_dtype(gradient.dtype));
    let upstream = into_contiguous(upstream);
    let (client, upstream) = (gradient.client.clone(), buffer_of(&upstream));
    let offset = gradient.handle.offset_start.unwrap_or(0) as usize / gradient.dtype.size();
    let given = (&buffer_of(&gradient), offset);
    if is_in_place {
        multiply_by_upstream(&client, given, &upstream, None);
        return gradient;
    }
    let products = with_places_of(&gradient);
    multiply_by_upstream(&client, given, &upstream, Some(&buffer_of(&products)));
    products
}

/// Whether most of a tensor's buffer are its elements.
fn fills_its_buffer(tensor: &CubeTensor) -> bool {
    let elements = tensor.meta.num_elements();
    tensor.is_nonoverlapping()
        && !tensor.meta.is_tiled()
        && buffer_of(tensor).length <= 2 * elements
}

/// New tensor without values, with the places of another tensor.
fn with_places_of(tensor: &CubeTensor) -> CubeTensor {
    let (client, device) = (tensor.client.clone(), tensor.device.clone());
    let handle = client.empty(tensor.handle.size_in_used() as usize);
    let meta = (*tensor.meta).clone();
    CubeTensor::new(client, handle, meta, device, tensor.dtype)
}
