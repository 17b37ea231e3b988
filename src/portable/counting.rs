//! Counted rows of index targets, and the weights of these rows.

use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{DType, FloatDType, IntDType, Shape};

use super::elementary::{cast, cast_int, data, full, sum_all};
use crate::operation::{MaybeFloat, Options};

/// Divisor of a mean over index targets, shape `[1]`: the sum of
/// `weights[target]` over the counted rows, in f32.
pub fn total_weight<B: Backend>(
    indices: IntTensor<B>,
    weights: MaybeFloat<B>,
    ignore_indices: &[i64],
) -> FloatTensor<B> {
    let rows = indices.shape().num_elements();
    let classes = weights
        .as_option()
        .map(|weights| weights.shape().num_elements());
    let counting = Counting::<B>::new(indices, Shape::new([rows]), classes, ignore_indices);
    counting.total_weight(&weights, FloatDType::F32)
}

/// Divisors of a mean over index targets: of the losses and of the z-losses, shape `[2]`.
pub(crate) fn divisors_of_mean<B: Backend>(
    indices: IntTensor<B>,
    weights: &MaybeFloat<B>,
    classes: usize,
    options: &Options,
    float: FloatDType,
) -> FloatTensor<B> {
    let rows = Shape::new([indices.shape().num_elements()]);
    let counting = Counting::<B>::new(indices, rows, Some(classes), &options.ignore_indices);
    counting.divisors_of_mean(weights, float)
}

/// Rows of a tensor `[rows, _]`, replaced by 0 where an index target does not count.
pub(crate) fn counted_rows_of<B: Backend>(
    tensor: FloatTensor<B>,
    indices: IntTensor<B>,
    classes: usize,
    options: &Options,
) -> FloatTensor<B> {
    let shape = tensor.shape();
    let rows = Shape::new([shape[0], 1]);
    let counting = Counting::<B>::new(indices, rows, Some(classes), &options.ignore_indices);
    let dropped = B::bool_expand(counting.dropped(), shape);
    B::float_mask_fill(tensor, dropped, 0.0.into())
}

/// Index targets, resolved: which rows are ignored, which are bad, and for every row an index that is a
/// class.
pub(super) struct Counting<B: Backend> {
    /// Class of every row, in the shape that `new` was given.
    pub(super) index: IntTensor<B>,
    ignored: Option<BoolTensor<B>>,
    bad: BoolTensor<B>,
}

impl<B: Backend> Counting<B> {
    /// Resolves index targets. `classes` is `None` where the number of classes is not known.
    pub(super) fn new(
        indices: IntTensor<B>,
        per_row: Shape,
        classes: Option<usize>,
        ignore_indices: &[i64],
    ) -> Self {
        let device = indices.device();
        let bool_dtype = get_or_init_device_settings::<B>(&device).bool_dtype;
        let dtype = comparison_dtype::<B>(indices.dtype(), &device);
        // An unsigned target that the cast wraps to a negative number is bad, not ignored.
        let unsigned = indices.dtype().is_uint();
        let index = cast_int::<B>(B::int_reshape(indices, per_row), dtype);
        let ignored = ignore_indices
            .iter()
            .filter(|&&value| dtype == IntDType::I64 || i32::try_from(value).is_ok())
            .filter(|&&value| !(unsigned && value < 0))
            .map(|&value| B::int_equal_elem(index.clone(), value.into(), bool_dtype))
            .reduce(B::bool_or);
        let mut outside = B::int_lower_elem(index.clone(), 0i64.into(), bool_dtype);
        if let Some(classes) = classes {
            let last = (classes as i64).into();
            let above = B::int_greater_equal_elem(index.clone(), last, bool_dtype);
            outside = B::bool_or(outside, above);
        }
        let bad = match &ignored {
            None => outside,
            Some(ignored) => B::bool_and(outside, B::bool_not(ignored.clone())),
        };
        let mut counting = Self {
            index,
            ignored,
            bad,
        };
        counting.index = B::int_mask_fill(counting.index.clone(), counting.dropped(), 0i64.into());
        counting
    }

    /// Mask of the rows that are ignored or bad.
    pub(super) fn dropped(&self) -> BoolTensor<B> {
        match &self.ignored {
            None => self.bad.clone(),
            Some(ignored) => B::bool_or(ignored.clone(), self.bad.clone()),
        }
    }

    /// Replaces the values of ignored rows by 0, of rows with a bad target by NaN. A row may have several
    /// values.
    pub(super) fn settle(&self, values: FloatTensor<B>, shape: Shape) -> FloatTensor<B> {
        let fill = |values, mask: &BoolTensor<B>, value: f64| {
            let mask = B::bool_expand(mask.clone(), shape.clone());
            B::float_mask_fill(values, mask, value.into())
        };
        let values = match &self.ignored {
            None => values,
            Some(ignored) => fill(values, ignored, 0.0),
        };
        fill(values, &self.bad, f64::NAN)
    }

    /// Sum of the weights of the rows that are neither ignored nor bad, shape `[1]`.
    pub(super) fn total_weight(
        &self,
        weights: &MaybeFloat<B>,
        float: FloatDType,
    ) -> FloatTensor<B> {
        // Some backends cannot sum over tensors without elements.
        if self.index.shape().num_elements() == 0 {
            return data::<B>(Shape::new([1]), 0.0, &self.index.device(), float);
        }
        let per_row = self.target_weights(weights, float);
        sum_all::<B>(B::float_mask_fill(per_row, self.dropped(), 0.0.into()))
    }

    /// Divisors of a mean: the weight of the counted rows, and the number of counted rows; shape `[2]`.
    pub(super) fn divisors_of_mean(
        &self,
        weights: &MaybeFloat<B>,
        float: FloatDType,
    ) -> FloatTensor<B> {
        let counted = self.total_weight(&MaybeFloat::None, float);
        let total = match weights {
            MaybeFloat::None => counted.clone(),
            MaybeFloat::Some(_) => self.total_weight(weights, float),
        };
        B::float_cat(vec![total, counted], 0)
    }

    /// Weight of each row's target, in the shape of the index. Rows that are ignored or bad have an arbitrary
    /// weight.
    pub(super) fn target_weights(
        &self,
        weights: &MaybeFloat<B>,
        float: FloatDType,
    ) -> FloatTensor<B> {
        let shape = self.index.shape();
        match weights {
            MaybeFloat::None => full::<B>(shape, 1.0, &self.index.device(), float),
            MaybeFloat::Some(weights) => {
                let flat = Shape::new([shape.num_elements()]);
                let index = B::int_reshape(self.index.clone(), flat);
                let per_row = B::float_select(cast::<B>(weights.clone(), float), 0, index);
                B::float_reshape(per_row, shape)
            }
        }
    }
}

/// Dtype of the device that is wide enough to compare every index.
fn comparison_dtype<B: Backend>(indices: DType, device: &B::Device) -> IntDType {
    match indices {
        DType::I64 | DType::U64 | DType::U32 if B::supports_dtype(device, DType::I64) => {
            IntDType::I64
        }
        _ => IntDType::I32,
    }
}
