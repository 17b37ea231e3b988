//! Counted rows, and what they weigh.

use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{DType, FloatDType, IntDType, Shape};

use super::elementary::{cast, cast_int, data, full, sum_all};
use crate::operation::{Inputs, MaybeFloat, Options, Targets};

/// Divisor of a mean over index targets, shape `[1]`: the sum of
/// `row_weights weights[target]` over the counted rows, in f32.
pub fn total_weight<B: Backend>(
    indices: IntTensor<B>,
    weights: MaybeFloat<B>,
    row_weights: MaybeFloat<B>,
    ignore_indices: &[i64],
) -> FloatTensor<B> {
    let rows = Shape::new([indices.shape().num_elements()]);
    let classes = weights
        .as_option()
        .map(|weights| weights.shape().num_elements());
    let row_weights = RowWeights::new(&row_weights, rows.clone(), FloatDType::F32);
    let ignored = Ignored {
        indices: ignore_indices,
        weights: row_weights.as_ref(),
    };
    let counting = Counting::<B>::new(indices, rows, classes, ignored);
    counting.total_weight(&weights, row_weights.as_ref(), FloatDType::F32)
}

/// Divisors of a mean over the rows of a projection: of the losses and of the z-losses, shape `[2]`. `None`
/// where both are the number of rows.
pub(crate) fn divisors_of_mean<B: Backend>(
    inputs: &Inputs<B>,
    [rows, classes]: [usize; 2],
    options: &Options,
    float: FloatDType,
) -> Option<FloatTensor<B>> {
    let shape = Shape::new([rows]);
    let row_weights = RowWeights::<B>::new(&inputs.row_weights, shape.clone(), float);
    match &inputs.targets {
        Targets::Indices(indices) => {
            let ignored = Ignored {
                indices: &options.ignore_indices,
                weights: row_weights.as_ref(),
            };
            let counting = Counting::<B>::new(indices.clone(), shape, Some(classes), ignored);
            Some(counting.divisors_of_mean(&inputs.weights, row_weights.as_ref(), float))
        }
        Targets::Distributions(_)
        | Targets::Sparse { .. }
        | Targets::Projected(_)
        | Targets::Alike(_) => row_weights.map(|weights| weights.divisors_of_mean()),
    }
}

/// Rows of a tensor `[rows, _]`, replaced by 0 where a row does not count.
pub(crate) fn counted_rows_of<B: Backend>(
    tensor: FloatTensor<B>,
    inputs: &Inputs<B>,
    classes: usize,
    options: &Options,
) -> FloatTensor<B> {
    let dropped = dropped_rows::<B>(inputs, [tensor.shape()[0], classes], options);
    without_rows::<B>(tensor, dropped)
}

/// Mask `[rows, 1]` of the rows that do not count; `None` where all count.
pub(crate) fn dropped_rows<B: Backend>(
    inputs: &Inputs<B>,
    [rows, classes]: [usize; 2],
    options: &Options,
) -> Option<BoolTensor<B>> {
    let rows = Shape::new([rows, 1]);
    let row_weights = RowWeights::<B>::new(&inputs.row_weights, rows.clone(), FloatDType::F32);
    match &inputs.targets {
        Targets::Indices(indices) => {
            let ignored = Ignored {
                indices: &options.ignore_indices,
                weights: row_weights.as_ref(),
            };
            let counting = Counting::<B>::new(indices.clone(), rows, Some(classes), ignored);
            Some(counting.dropped())
        }
        _ => row_weights.map(|weights| weights.none),
    }
}

/// Rows of a tensor `[rows, _]`, replaced by 0 where the mask `[rows, 1]` drops them.
pub(crate) fn without_rows<B: Backend>(
    tensor: FloatTensor<B>,
    dropped: Option<BoolTensor<B>>,
) -> FloatTensor<B> {
    match dropped {
        None => tensor,
        Some(dropped) => {
            let dropped = B::bool_expand(dropped, tensor.shape());
            B::float_mask_fill(tensor, dropped, 0.0.into())
        }
    }
}

/// Weights of the rows.
pub(super) struct RowWeights<B: Backend> {
    /// Weight of every row, in the shape that `new` was given.
    pub(super) weights: FloatTensor<B>,
    /// Mask of the rows of weight 0, which are ignored.
    pub(super) none: BoolTensor<B>,
}

impl<B: Backend> RowWeights<B> {
    /// Weights in the shape `per_row`, where they are given.
    pub(super) fn new(weights: &MaybeFloat<B>, per_row: Shape, float: FloatDType) -> Option<Self> {
        let weights = weights.as_option()?.clone();
        let weights = cast::<B>(B::float_reshape(weights, per_row), float);
        let bool_dtype = get_or_init_device_settings::<B>(&weights.device()).bool_dtype;
        Some(Self {
            none: B::float_equal_elem(weights.clone(), 0.0.into(), bool_dtype),
            weights,
        })
    }

    /// The weights for each entry of sparse distributions, `[outer, entries, inner]`.
    pub(super) fn of_entries(self, entries: &Shape) -> Self {
        Self {
            weights: B::float_expand(self.weights, entries.clone()),
            none: B::bool_expand(self.none, entries.clone()),
        }
    }

    /// Divisors of a mean over distributions: the sum of the weights, twice; shape `[2]`.
    pub(super) fn divisors_of_mean(&self) -> FloatTensor<B> {
        let float = self.weights.dtype().into();
        if self.weights.shape().num_elements() == 0 {
            return data::<B>(Shape::new([2]), 0.0, &self.weights.device(), float);
        }
        let total = sum_all::<B>(self.weights.clone());
        B::float_cat(vec![total.clone(), total], 0)
    }
}

/// What makes the target rule ignore a row: its target, or its weight of 0.
pub(super) struct Ignored<'a, B: Backend> {
    pub(super) indices: &'a [i64],
    pub(super) weights: Option<&'a RowWeights<B>>,
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
        ignored: Ignored<'_, B>,
    ) -> Self {
        let device = indices.device();
        let bool_dtype = get_or_init_device_settings::<B>(&device).bool_dtype;
        let dtype = comparison_dtype::<B>(indices.dtype(), &device);
        // An unsigned target that the cast wraps to a negative number is bad, not ignored.
        let unsigned = indices.dtype().is_uint();
        let index = cast_int::<B>(B::int_reshape(indices, per_row), dtype);
        let weightless = ignored.weights.map(|weights| weights.none.clone());
        let ignored = ignored
            .indices
            .iter()
            .filter(|&&value| dtype == IntDType::I64 || i32::try_from(value).is_ok())
            .filter(|&&value| !(unsigned && value < 0))
            .map(|&value| B::int_equal_elem(index.clone(), value.into(), bool_dtype))
            .chain(weightless)
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
        row_weights: Option<&RowWeights<B>>,
        float: FloatDType,
    ) -> FloatTensor<B> {
        // Some backends cannot sum over tensors without elements.
        if self.index.shape().num_elements() == 0 {
            return data::<B>(Shape::new([1]), 0.0, &self.index.device(), float);
        }
        let per_row = self.target_weights(weights, float);
        let per_row = match row_weights {
            None => per_row,
            Some(row_weights) => B::float_mul(per_row, row_weights.weights.clone()),
        };
        sum_all::<B>(B::float_mask_fill(per_row, self.dropped(), 0.0.into()))
    }

    /// Divisors of a mean: the weight of the counted rows with and without class weights; shape `[2]`.
    pub(super) fn divisors_of_mean(
        &self,
        weights: &MaybeFloat<B>,
        row_weights: Option<&RowWeights<B>>,
        float: FloatDType,
    ) -> FloatTensor<B> {
        let counted = self.total_weight(&MaybeFloat::None, row_weights, float);
        let total = match weights {
            MaybeFloat::None => counted.clone(),
            MaybeFloat::Some(_) => self.total_weight(weights, row_weights, float),
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
