//! Calls over the entries of sparse distributions: operands whose index targets stand for them.

use std::borrow::Cow;

use burn::backend::TensorMetadata;
use burn::backend::ops::IntTensorOps;
use burn::tensor::{DType, IntDType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use super::{Operands, buffer_of, in_one, in_strides};
use crate::kernel::cube::{Buffer, Call, Entries, FromForwardBuffers, Weighed, lines};
use crate::operation::{
    Inputs, MaybeFloat, Options, Targets, Wanted, accumulation_dtype, row_shape,
};

/// Entries that index targets stand for.
pub(super) struct OfEntries {
    pub(super) resolved: Entries,
    /// Shape and dtype of the shares.
    shape: Shape,
    dtype: DType,
}

impl<'a> Operands<'a> {
    /// Operands of a call over sparse distributions.
    pub(super) fn over_entries(
        logits: CubeTensor,
        inputs: Inputs<CubeBackend>,
        options: &Options,
        wanted: Wanted,
    ) -> Self {
        let has_tail = inputs.targets.have_tails();
        let logits = in_strides(logits, options.class_dim);
        let (entries, evens) = OfEntries::new(&logits, &inputs, options, wanted);
        let resolved = &entries.resolved;
        let rows = row_shape(logits.meta.shape(), options.class_dim).num_elements();
        let tensor = |buffer: &Buffer, length: usize, dtype: DType| {
            let (client, device) = (logits.client.clone(), logits.device.clone());
            let shape = Shape::new([length]);
            CubeTensor::new_contiguous(client, device, shape, buffer.handle.clone(), dtype)
        };
        let arithmetic = accumulation_dtype(logits.dtype);
        let classes = tensor(&resolved.classes, 2 * rows, DType::I32);
        let lines = lines::of_inputs(has_tail);
        let numbers = tensor(&resolved.numbers, lines * rows, arithmetic.into());
        // Without even shares only the entries have weights of classes.
        let weights = match options.label_smoothing == 0.0 {
            true => MaybeFloat::None,
            false => inputs.weights,
        };
        let has_weights = weights.as_option().is_some();
        let has_row_weights = inputs.row_weights.as_option().is_some();
        let options = Options {
            ignore_indices: [].into(),
            ..options.clone()
        };
        let of_rows = Inputs {
            reduction: inputs.reduction,
            ..Inputs::new(Targets::Indices(classes))
        };
        let operands = Operands {
            weights: in_one(
                [weights, inputs.row_weights, MaybeFloat::Some(numbers)],
                arithmetic,
            ),
            weighed: Weighed {
                classes: has_weights,
                rows: has_row_weights,
                evens: false,
                entries: true,
                tail: has_tail,
                teacher: false,
            },
            entries: Some(entries),
            ..Operands::without_evens(logits, of_rows, Cow::Owned(options), wanted)
        };
        operands.with_evens(evens)
    }
}

/// The tensor, or where it has no element one number in its place: kernels have no buffers of no length.
fn or_placeholder(tensor: CubeTensor) -> CubeTensor {
    match tensor.shape().num_elements() {
        0 => {
            let (client, device) = (tensor.client, tensor.device);
            empty_device_contiguous_dtype(client, device, Shape::new([1]), tensor.dtype)
        }
        _ => tensor,
    }
}

impl OfEntries {
    /// The entries of sparse distributions, and the even shares of the rows where they have some of their own.
    fn new(
        logits: &CubeTensor,
        inputs: &Inputs<CubeBackend>,
        options: &Options,
        wanted: Wanted,
    ) -> (Self, MaybeFloat<CubeBackend>) {
        let Targets::Sparse { classes, shares } = inputs.targets.clone() else {
            unreachable!("the distributions are sparse");
        };
        let count = classes.shape()[options.class_dim];
        let (shape, dtype) = (shares.meta.shape().clone(), shares.dtype);
        let of_entries = Inputs {
            weights: inputs.weights.clone(),
            ..Inputs::new(Targets::Indices(or_placeholder(classes)))
        };
        let options = Cow::Borrowed(options);
        let operands = Operands::without_evens(logits.clone(), of_entries, options, wanted);
        let evens = operands.evens();
        let operands = operands.with_evens(evens.clone());
        let shares = buffer_of(&into_contiguous(or_placeholder(shares)));
        let call = operands.call();
        let marks = inputs.targets.have_tails().then(|| {
            let words = Shape::new([call.words_of_marks()]);
            let marks = CubeBackend::int_zeros(words, &logits.device, IntDType::I32);
            buffer_of(&marks)
        });
        let resolved = call.entries(&shares, count, marks.as_ref());
        let entries = Self {
            resolved,
            shape,
            dtype,
        };
        (entries, evens)
    }

    /// The gradient of the shares.
    pub(super) fn gradient(
        &self,
        call: &Call<'_>,
        from_forward: &FromForwardBuffers,
        logits: &CubeTensor,
    ) -> CubeTensor {
        let (client, device) = (logits.client.clone(), logits.device.clone());
        let gradient =
            empty_device_contiguous_dtype(client, device, self.shape.clone(), self.dtype);
        call.gradient_of_shares(&self.resolved, from_forward, &buffer_of(&gradient));
        gradient
    }
}
