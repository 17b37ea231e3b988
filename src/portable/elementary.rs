//! Sums and elementary functions that are accurate on every backend.

use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{BoolDType, DType, FloatDType, IntDType, Shape, Slice, TensorData};

use crate::operation::ScaleSteps;

/// Sum over dimension 1 of a tensor of three dimensions, shape `[_, 1, _]`. Adds in blocks: some backends
/// add one number after the other, and the rounding error grows with the longest such run. Blocks also
/// make the result independent of the backend's threads.
pub(super) fn sum_classes<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    const BLOCK: usize = 16;
    let [outer, classes, inner] = tensor.shape().dims();
    if classes <= 2 * BLOCK {
        return B::float_sum_dim(tensor, 1);
    }
    let blocks = classes / BLOCK;
    let part = |from: usize, to: usize| {
        let window = [(0, outer), (from, to), (0, inner)]
            .map(|(from, to)| Slice::new(from as isize, Some(to as isize), 1));
        B::float_slice(tensor.clone(), &window)
    };
    let whole = Shape::new([outer, blocks, BLOCK, inner]);
    let sums = B::float_sum_dim(B::float_reshape(part(0, blocks * BLOCK), whole), 2);
    let sums = sum_classes::<B>(B::float_reshape(sums, Shape::new([outer, blocks, inner])));
    if blocks * BLOCK == classes {
        return sums;
    }
    B::float_add(sums, B::float_sum_dim(part(blocks * BLOCK, classes), 1))
}

/// Sum of all elements, shape `[1]`, see [`sum_classes`].
pub(super) fn sum_all<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    let elements = tensor.shape().num_elements();
    let line = B::float_reshape(tensor, Shape::new([1, elements, 1]));
    B::float_reshape(sum_classes::<B>(line), Shape::new([1]))
}

pub(super) fn full<B: Backend>(
    shape: Shape,
    value: f64,
    device: &B::Device,
    dtype: FloatDType,
) -> FloatTensor<B> {
    B::float_full(shape, value.into(), device, dtype)
}

/// Tensor of one value, made from data. Burn's fusion may fuse an operation that fills a tensor with
/// operations over tensors without elements, and that kernel computes nothing.
pub(super) fn data<B: Backend>(
    shape: Shape,
    value: f64,
    device: &B::Device,
    dtype: FloatDType,
) -> FloatTensor<B> {
    let data = TensorData::full_dtype(shape, value, dtype.into());
    B::float_from_data(data, device)
}

pub(super) fn cast<B: Backend>(tensor: FloatTensor<B>, dtype: FloatDType) -> FloatTensor<B> {
    if tensor.dtype() == DType::from(dtype) {
        tensor
    } else {
        B::float_cast(tensor, dtype)
    }
}

/// Casts integers only where the dtype differs: Burn 0.22's remote server does not support casts of
/// integers and ends the session of a client that asks for one.
pub(crate) fn cast_int<B: Backend>(tensor: IntTensor<B>, dtype: IntDType) -> IntTensor<B> {
    if tensor.dtype() == DType::from(dtype) {
        tensor
    } else {
        B::int_cast(tensor, dtype)
    }
}

pub(super) fn reshape_scalar<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    B::float_reshape(tensor, Shape::new([1, 1, 1]))
}

/// `(a - b) scale`, in two steps.
pub(super) fn scaled_difference<B: Backend>(
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    scale: f64,
) -> FloatTensor<B> {
    if scale == 1.0 {
        return B::float_sub(a, b);
    }
    let ScaleSteps { before, after } = ScaleSteps::of(scale);
    let [a, b] = [a, b].map(|tensor| match before {
        1.0 => tensor,
        _ => B::float_mul_scalar(tensor, before.into()),
    });
    B::float_mul_scalar(B::float_sub(a, b), after.into())
}

/// `ln(1 + s)` for `s >= 0`, accurate for small `s` on devices whose `log1p` is `log(1 + s)`. Below a
/// quarter by the series of `2 atanh(s / (2 + s))`, cut off beneath the precision of f64.
pub(super) fn log1p<B: Backend>(s: FloatTensor<B>, bool_dtype: BoolDType) -> FloatTensor<B> {
    let z = B::float_div(s.clone(), B::float_add_scalar(s.clone(), 2.0.into()));
    let square = B::float_mul(z.clone(), z.clone());
    let highest = 2.0 / 17.0;
    let mut series = B::float_add_scalar(
        B::float_mul_scalar(square.clone(), highest.into()),
        (2.0 / 15.0).into(),
    );
    for denominator in [13.0f64, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        series = B::float_add_scalar(
            B::float_mul(series, square.clone()),
            (2.0 / denominator).into(),
        );
    }
    let small = B::float_lower_elem(s.clone(), 0.25.into(), bool_dtype);
    let log = B::float_log(B::float_add_scalar(s, 1.0.into()));
    B::float_mask_where(log, small, B::float_mul(series, z))
}

/// `1 - tanh(v)^2` as `4 t / (1 + t)^2` with `t = exp(-2 |v|)`, where nothing cancels.
pub(super) fn tanh_slope<B: Backend>(v: FloatTensor<B>) -> FloatTensor<B> {
    let t = B::float_exp(B::float_mul_scalar(B::float_abs(v), (-2.0).into()));
    let sum = B::float_add_scalar(t.clone(), 1.0.into());
    B::float_div(
        B::float_mul_scalar(t, 4.0.into()),
        B::float_mul(sum.clone(), sum),
    )
}

/// `tanh(v)`, accurate for small `v` on devices that compute it from exponentials. For small `v` by
/// Lambert's continued fraction `v / (1 + v^2 / (3 + v^2 / (5 + ..)))`, cut off beneath the precision of
/// f64.
pub(super) fn tanh<B: Backend>(v: FloatTensor<B>, bool_dtype: BoolDType) -> FloatTensor<B> {
    let square = B::float_mul(v.clone(), v.clone());
    let mut fraction = B::float_add_scalar(
        B::float_div_scalar(square.clone(), 19.0.into()),
        17.0.into(),
    );
    for odd in [15.0f64, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        fraction = B::float_add_scalar(B::float_div(square.clone(), fraction), odd.into());
    }
    let small = B::float_lower_elem(square, 0.25.into(), bool_dtype);
    B::float_mask_where(B::float_tanh(v.clone()), small, B::float_div(v, fraction))
}

pub(super) fn is_minus_infinity<B: Backend>(
    numbers: FloatTensor<B>,
    bool_dtype: BoolDType,
) -> BoolTensor<B> {
    let infinite = B::float_is_inf(numbers.clone(), bool_dtype);
    let negative = B::float_lower_elem(numbers, 0.0.into(), bool_dtype);
    B::bool_and(infinite, negative)
}
