//! Features before they are compared: checks that they fit each other, and normalisation.

use burn::tensor::{DType, Device, Tensor};

use super::error::ContrastiveError;

/// A tensor, with the name that the caller knows it by.
#[derive(Clone, Copy)]
pub(super) struct Named<'a> {
    name: &'static str,
    tensor: &'a Tensor<2>,
}

impl<'a> Named<'a> {
    pub(super) fn new(name: &'static str, tensor: &'a Tensor<2>) -> Self {
        Self { name, tensor }
    }
}

/// Checks that two tensors have the same number of rows.
pub(super) fn check_rows(one: Named<'_>, other: Named<'_>) -> Result<(), ContrastiveError> {
    let (rows, other_rows) = (one.tensor.dims(), other.tensor.dims());
    match rows[0] == other_rows[0] {
        true => Ok(()),
        false => Err(ContrastiveError::Rows {
            one: (one.name, rows),
            other: (other.name, other_rows),
        }),
    }
}

/// Checks that query, positive and negatives fit each other.
pub(super) fn check_with_positive(
    query: &Tensor<2>,
    positive: &Tensor<2>,
    negatives: &Tensor<2>,
) -> Result<(), ContrastiveError> {
    let query = Named::new("query", query);
    let positive = Named::new("positive", positive);
    let negatives = Named::new("negatives", negatives);
    check_rows(query, positive)?;
    check_beside(query, positive)?;
    check_beside(query, negatives)?;
    // Positive and negatives may be in autodiff where the query is not.
    check_beside(positive, negatives)
}

/// Refuses quantized features.
fn check_float(features: Named<'_>) -> Result<(), ContrastiveError> {
    match features.tensor.dtype() {
        dtype @ DType::QFloat(_) => Err(ContrastiveError::Quantized {
            tensor: features.name,
            dtype,
        }),
        _ => Ok(()),
    }
}

/// Checks that two tensors have the same number of features, dtype, device and autodiff.
pub(super) fn check_beside(one: Named<'_>, other: Named<'_>) -> Result<(), ContrastiveError> {
    let (shape, other_shape) = (one.tensor.dims(), other.tensor.dims());
    if shape[1] != other_shape[1] {
        return Err(ContrastiveError::OtherFeatures {
            one: (one.name, shape),
            other: (other.name, other_shape),
        });
    }
    check_float(one)?;
    check_float(other)?;
    let (dtype, other_dtype) = (one.tensor.dtype(), other.tensor.dtype());
    if dtype != other_dtype {
        return Err(ContrastiveError::Dtypes {
            one: (one.name, dtype),
            other: (other.name, other_dtype),
        });
    }
    check_devices(
        (one.name, one.tensor.device()),
        (other.name, other.tensor.device()),
    )?;
    let strategies = [one, other].map(|named| named.tensor.gradient_checkpointing_strategy());
    match strategies {
        [Some(strategy), Some(other_strategy)] if strategy != other_strategy => {
            Err(ContrastiveError::Checkpointing {
                one: (one.name, strategy),
                other: (other.name, other_strategy),
            })
        }
        _ => Ok(()),
    }
}

/// Checks that two tensors are on one device.
pub(super) fn check_devices(
    one: (&'static str, Device),
    other: (&'static str, Device),
) -> Result<(), ContrastiveError> {
    match one.1.clone().without_autodiff() == other.1.clone().without_autodiff() {
        true => Ok(()),
        false => Err(ContrastiveError::Devices {
            one: (one.0, one.1.into()),
            other: (other.0, other.1.into()),
        }),
    }
}

/// Rows of length 1. Those without a normal number of f32 are left as they are, with the gradient of what is
/// left as it is: that of a direction would be infinite there.
fn unit_length(features: Tensor<2>) -> Tensor<2> {
    // Some backends cannot sum over tensors without elements.
    if features.shape().num_elements() == 0 {
        return features;
    }
    // The largest number of a row becomes 1, so that no square leaves the range of the dtype. The direction
    // does not depend on it, and so the gradient does not go through it.
    let largest = features
        .clone()
        .detach()
        .set_require_grad(false)
        .abs()
        .max_dim(1);
    let nothing = largest.clone().lower_elem(f32::MIN_POSITIVE);
    let moderate = features / largest.mask_fill(nothing.clone(), 1.0);
    let square = (moderate.clone() * moderate.clone()).sum_dim(1);
    let length = square.mask_fill(nothing, 1.0).sqrt();
    moderate / length
}

/// Similarity of each row to the same row of the other tensor.
pub(super) fn similarity_of_rows(one: Tensor<2>, other: Tensor<2>) -> Tensor<1> {
    if one.shape().num_elements() == 0 {
        return Tensor::zeros([one.dims()[0]], (&one.device(), one.dtype()));
    }
    (one * other).sum_dim(1).squeeze_dim(1)
}

/// Similarities of each row to all rows of the other tensor, `[N, K]`.
pub(super) fn products(one: Tensor<2>, other: Tensor<2>) -> Tensor<2> {
    let [rows, features] = one.dims();
    match rows * features {
        // Some backends cannot multiply tensors without elements.
        0 => Tensor::zeros([rows, other.dims()[0]], (&one.device(), one.dtype())),
        _ => one.matmul(other.transpose()),
    }
}

/// Widens half precision: in it squares and sums have too few digits and too small a range, and a logit that
/// was rounded would not equal the same logit that was not.
pub(super) fn in_f32_at_least(features: Tensor<2>) -> Tensor<2> {
    match features.dtype() {
        DType::F16 | DType::BF16 => features.cast(DType::F32),
        _ => features,
    }
}

/// Features in f32 at least, of length 1 where that is wanted.
pub(super) fn normalised(features: Tensor<2>, normalize: bool) -> Tensor<2> {
    let features = in_f32_at_least(features);
    match normalize {
        true => unit_length(features),
        false => features,
    }
}

/// Divides by the temperature. Multiplies by the inverse, because the gradient of Burn's `div_scalar` has
/// the inverse in f32, also for f64.
pub(super) fn over(tensor: Tensor<2>, temperature: f64) -> Tensor<2> {
    tensor.mul_scalar(1.0 / temperature)
}
