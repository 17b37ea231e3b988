//! Sparse distributions: a few classes of each row with their shares, made dense, and the gradients of the shares
//! from those of the dense distributions.

use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{BoolDType, FloatDType, IndexingUpdateOp, Shape};

use super::counting::{Counting, Ignored, RowWeights};
use super::elementary::cast;
use crate::operation::{
    Geometry, Gradients, Inputs, MaybeFloat, Options, Targets, accumulation_dtype,
};

/// Entries of sparse distributions, resolved.
pub(crate) struct Entries<B: Backend> {
    counting: Counting<B>,
    /// Shape and dtype of the shares as they came in.
    shape: Shape,
    dtype: FloatDType,
    logits: Shape,
    class_dim: usize,
}

/// The inputs with dense distributions in place of sparse ones, and the entries of these.
///
/// An ignored class has no share. One that is not a class makes its row NaN, through a share at class 0: an index
/// outside of the classes must not reach the device.
pub(crate) fn densified<B: Backend>(
    inputs: Inputs<B>,
    logits: &FloatTensor<B>,
    options: &Options,
) -> (Inputs<B>, Option<Entries<B>>) {
    let Targets::Sparse { classes, shares } = inputs.targets.clone() else {
        return (inputs, None);
    };
    let (shape, class_dim) = (logits.shape(), options.class_dim);
    let entries = Entries::<B>::new(classes, &shares, logits, &inputs.row_weights, options);
    let float = accumulation_dtype(logits.dtype());
    let of_entries = entries.geometry().full();
    let dense = Geometry::new(&shape, class_dim).full();
    let zeros = B::float_zeros(dense.clone(), &logits.device(), float);
    let distributions = if of_entries.num_elements() == 0 || dense.num_elements() == 0 {
        // CubeCL cannot scatter tensors without elements.
        zeros
    } else {
        let shares = cast::<B>(B::float_reshape(shares, of_entries.clone()), float);
        let shares = entries.counting.settle(shares, of_entries);
        let index = entries.counting.index.clone();
        B::float_scatter(1, zeros, index, shares, IndexingUpdateOp::Add)
    };
    let inputs = Inputs {
        targets: Targets::Distributions(B::float_reshape(distributions, shape)),
        ..inputs
    };
    (inputs, Some(entries))
}

impl<B: Backend> Entries<B> {
    /// Entries of sparse distributions without tails.
    pub(super) fn of(inputs: &Inputs<B>, logits: &FloatTensor<B>, options: &Options) -> Self {
        let Targets::Sparse { classes, shares } = &inputs.targets else {
            unreachable!("the distributions are sparse");
        };
        Self::new(
            classes.clone(),
            shares,
            logits,
            &inputs.row_weights,
            options,
        )
    }

    /// Mask of the classes that are an entry of their row, `[outer, classes, inner]`.
    pub(super) fn mask(&self, float: FloatDType, bool: BoolDType) -> BoolTensor<B> {
        let (device, of_entries) = (self.counting.index.device(), self.geometry().full());
        let marks = Geometry::new(&self.logits, self.class_dim).full();
        let marks = B::float_zeros(marks, &device, float);
        let marks = if of_entries.num_elements() == 0 {
            marks
        } else {
            let ones = B::float_ones(of_entries, &device, float);
            let ones = B::float_mask_fill(ones, self.counting.dropped(), 0.0.into());
            let index = self.counting.index.clone();
            B::float_scatter(1, marks, index, ones, IndexingUpdateOp::Add)
        };
        B::float_greater_elem(marks, 0.0.into(), bool)
    }

    fn new(
        classes: IntTensor<B>,
        shares: &FloatTensor<B>,
        logits: &FloatTensor<B>,
        row_weights: &MaybeFloat<B>,
        options: &Options,
    ) -> Self {
        let (shape, logits) = (shares.shape(), logits.shape());
        let class_dim = options.class_dim;
        let geometry = Geometry::new(&shape, class_dim);
        let full = geometry.full();
        // The entries of a row of weight 0 are ignored as the row is.
        let weights = RowWeights::<B>::new(row_weights, geometry.per_row(), FloatDType::F32);
        let weights = weights.map(|weights| weights.of_entries(&full));
        let ignored = Ignored {
            indices: &options.ignore_indices,
            weights: weights.as_ref(),
        };
        Self {
            counting: Counting::new(classes, full, Some(logits[class_dim]), ignored),
            dtype: shares.dtype().into(),
            shape,
            logits,
            class_dim,
        }
    }

    fn geometry(&self) -> Geometry {
        Geometry::new(&self.shape, self.class_dim)
    }

    /// The gradients with those of the shares in place of those of the dense distributions.
    pub(crate) fn of_gradients(&self, gradients: Gradients<B>) -> Gradients<B> {
        let Some(dense) = gradients.targets.into_option() else {
            return Gradients {
                targets: MaybeFloat::None,
                ..gradients
            };
        };
        let full = self.geometry().full();
        let float = accumulation_dtype(dense.dtype());
        let shares = if full.num_elements() == 0 {
            B::float_zeros(full, &dense.device(), float)
        } else {
            let logits = Geometry::new(&self.logits, self.class_dim).full();
            let dense = cast::<B>(B::float_reshape(dense, logits), float);
            let shares = B::float_gather(1, dense, self.counting.index.clone());
            self.counting.settle(shares, full)
        };
        let shares = B::float_cast(B::float_reshape(shares, self.shape.clone()), self.dtype);
        Gradients {
            targets: MaybeFloat::Some(shares),
            ..gradients
        }
    }
}
