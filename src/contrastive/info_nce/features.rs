//! Features before they are compared: whether they fit each other, and their length.

use burn::tensor::{DType, Tensor};

use crate::contrastive::error::ContrastiveError;

/// Squares of lengths below this are taken for it, so that no features are divided by 0.
const SMALLEST_SQUARE: f32 = 1e-24;

/// Two tensors have features of one number.
pub(super) fn check_features(
    (name, tensor): (&'static str, &Tensor<2>),
    (other_name, other): (&'static str, &Tensor<2>),
) -> Result<(), ContrastiveError> {
    match tensor.dims()[1] == other.dims()[1] {
        true => Ok(()),
        false => Err(ContrastiveError::OtherFeatures {
            one: (name, tensor.dims()),
            other: (other_name, other.dims()),
        }),
    }
}

/// Rows of length 1. Those of length 0 stay 0, with a finite gradient.
pub(super) fn unit_length(features: Tensor<2>) -> Tensor<2> {
    // Not every backend has sums over tensors without elements.
    if features.shape().num_elements() == 0 {
        return features;
    }
    let dtype = features.dtype();
    let wide = in_f32_at_least(features);
    let square = (wide.clone() * wide.clone()).sum_dim(1);
    let length = square.clamp_min(SMALLEST_SQUARE).sqrt();
    (wide / length).cast(dtype)
}

/// The similarity of each row to the same row of the other tensor.
pub(super) fn similarity_of_rows(one: Tensor<2>, other: Tensor<2>) -> Tensor<1> {
    let dtype = one.dtype();
    if one.shape().num_elements() == 0 {
        return Tensor::zeros([one.dims()[0]], (&one.device(), dtype));
    }
    let product = in_f32_at_least(one) * in_f32_at_least(other);
    product.sum_dim(1).cast(dtype).squeeze_dim(1)
}

/// Half precision widened: squares and sums of it have too few digits and too small a range.
pub(super) fn in_f32_at_least(features: Tensor<2>) -> Tensor<2> {
    match features.dtype() {
        DType::F16 | DType::BF16 => features.cast(DType::F32),
        _ => features,
    }
}
