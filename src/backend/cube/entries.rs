//! Calls over the entries of sparse distributions: operands whose index targets stand for them.

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

/// Whether the kernels take the entries of sparse distributions, without dense ones.
pub(super) fn are_taken(logits: &Shape, inputs: &Inputs<CubeBackend>, options: &Options) -> bool {
    let Targets::Sparse { classes, .. } = &inputs.targets else {
        return false;
    };
    let class_dim = options.class_dim;
    options.takes_entries(classes.shape()[class_dim], logits[class_dim])
}

/// Options beside index targets that stand for entries: all of these are classes.
pub(super) fn options_of(options: &Options) -> Options {
    Options {
        ignore_indices: [].into(),
        ..options.clone()
    }
}

impl<'a> Operands<'a> {
    /// Operands of a call over sparse distributions with the options `given`, of which `options` are [`options_of`].
    pub(super) fn over_entries(
        logits: CubeTensor,
        inputs: Inputs<CubeBackend>,
        given: &Options,
        options: &'a Options,
        wanted: Wanted,
    ) -> Self {
        let has_tail = inputs.targets.have_tails();
        let Targets::Sparse { classes, shares } = inputs.targets else {
            unreachable!("the distributions are sparse");
        };
        let count = classes.shape()[options.class_dim];
        let (shape, dtype) = (shares.meta.shape().clone(), shares.dtype);
        let logits = in_strides(logits, options.class_dim);
        let resolved = {
            let of_entries = Inputs {
                weights: inputs.weights.clone(),
                ..Inputs::new(Targets::Indices(classes))
            };
            let of_entries = Operands::new(logits.clone(), of_entries, given, wanted);
            let (call, shares) = (of_entries.call(), buffer_of(&into_contiguous(shares)));
            let marks = has_tail.then(|| {
                let marks = Shape::new([call.words_of_marks()]);
                buffer_of(&CubeBackend::int_zeros(
                    marks,
                    &logits.device,
                    IntDType::I32,
                ))
            });
            call.entries(&shares, count, marks.as_ref())
        };
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
        let of_rows = Inputs {
            reduction: inputs.reduction,
            ..Inputs::new(Targets::Indices(classes))
        };
        Operands {
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
            entries: Some(OfEntries {
                resolved,
                shape,
                dtype,
            }),
            ..Operands::new(logits, of_rows, options, wanted)
        }
    }
}

impl OfEntries {
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
