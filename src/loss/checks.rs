//! Checks of a call: shapes, dtypes, devices, and the range of index targets.

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{Dispatch, DispatchAutodiffContext, DispatchTensor, TensorMetadata};
use burn::tensor::{DType, Device, Int, Shape, Tensor};

use super::target::{Tail, Target, TargetClasses};
pub(super) use crate::dispatch::device::device_of;
use crate::dispatch::device::{self, HostCheck};
use crate::error::CrossEntropyError;
use crate::operation::{Role, row_shape};

pub(super) fn check_target_shape(
    logits: &Shape,
    target: &Target,
    class_dim: usize,
) -> Result<(), CrossEntropyError> {
    let (given, expected) = match &target.classes {
        TargetClasses::Distributions(targets) => (targets.shape(), logits.clone()),
        TargetClasses::Sparse(sparse) => {
            let (classes, shares) = (&sparse.classes, &sparse.shares);
            let (given, mut expected) = (shares.shape(), logits.clone());
            if given.num_dims() == expected.num_dims() {
                expected[class_dim] = given[class_dim];
            }
            // Classes and shares have one shape, and a tail has one number for each row.
            match &sparse.tail {
                _ if given != expected => (given, expected),
                Some(Tail::Given(tail)) if classes.shape() == given => {
                    expected[class_dim] = 1;
                    (tail.shape(), expected)
                }
                _ => (classes.shape(), given),
            }
        }
        TargetClasses::Teacher(teacher) => (teacher.logits().shape(), logits.clone()),
        TargetClasses::Projected(teacher) => (teacher.logits_shape(), logits.clone()),
        TargetClasses::Alike(alike) => (alike.rows.shape(), row_shape(logits, class_dim)),
        TargetClasses::Indices(indices) => {
            let given = indices.shape();
            let expected = if given.num_dims() == logits.num_dims() {
                let mut unsqueezed = logits.clone();
                unsqueezed[class_dim] = 1;
                unsqueezed
            } else {
                row_shape(logits, class_dim)
            };
            (given, expected)
        }
    };
    if given != expected {
        return Err(CrossEntropyError::ShapeMismatch {
            logits: logits.to_vec(),
            target: given.to_vec(),
            class_dim,
            expected: expected.to_vec(),
        });
    }
    match &target.row_weights {
        None => Ok(()),
        Some(weights) => check_row_weights_shape(weights, &row_shape(logits, class_dim)),
    }
}

/// Checks that there is one weight for each row.
pub(super) fn check_row_weights_shape(
    weights: &DispatchTensor,
    rows: &Shape,
) -> Result<(), CrossEntropyError> {
    let given = weights.shape();
    if given == *rows {
        return Ok(());
    }
    Err(CrossEntropyError::RowWeightsShape {
        weights: given.to_vec(),
        expected: rows.to_vec(),
    })
}

pub(super) fn check_same_device(
    logits: &Device,
    tensor: &DispatchTensor,
    role: Role,
) -> Result<(), CrossEntropyError> {
    let device = device_of(tensor);
    if logits.clone().without_autodiff() == device.clone().without_autodiff() {
        return Ok(());
    }
    Err(CrossEntropyError::DeviceMismatch {
        logits: logits.clone().into(),
        tensor: role.name(),
        device: device.into(),
    })
}

/// Checks that all tensors of a call, given with names, have one checkpointing strategy. Tensors outside
/// autodiff fit all others.
pub(super) fn check_same_checkpointing(
    tensors: &[(&'static str, &DispatchTensor)],
) -> Result<(), CrossEntropyError> {
    let mut first = None;
    for (name, tensor) in tensors {
        let DispatchAutodiffContext::Enabled(strategy) = tensor.autodiff else {
            continue;
        };
        let (first, expected) = *first.get_or_insert((*name, strategy));
        if strategy != expected {
            return Err(CrossEntropyError::CheckpointingMismatch {
                tensor: first,
                strategy: expected,
                other: name,
                other_strategy: strategy,
            });
        }
    }
    Ok(())
}

pub(super) fn check_int_dtype(dtype: DType, device: &Device) -> Result<(), CrossEntropyError> {
    const INTEGERS: [DType; 8] = [
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U64,
        DType::U32,
        DType::U16,
        DType::U8,
    ];
    let usable = |dtype: DType| INTEGERS.contains(&dtype) && device.supports_dtype(dtype);
    if usable(dtype) {
        return Ok(());
    }
    Err(unsupported(
        "index targets",
        dtype,
        device,
        &INTEGERS,
        usable,
    ))
}

pub(super) fn check_float_dtype(
    tensor: &'static str,
    dtype: DType,
    device: &Device,
) -> Result<(), CrossEntropyError> {
    if device::computes(device, dtype) {
        return Ok(());
    }
    const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];
    Err(unsupported(tensor, dtype, device, &FLOATS, |dtype| {
        device::computes(device, dtype)
    }))
}

fn unsupported(
    tensor: &'static str,
    dtype: DType,
    device: &Device,
    candidates: &[DType],
    usable: impl Fn(DType) -> bool,
) -> CrossEntropyError {
    CrossEntropyError::UnsupportedDtype {
        tensor,
        dtype,
        device: device.clone().into(),
        supported: candidates
            .iter()
            .copied()
            .filter(|dtype| usable(*dtype))
            .collect(),
    }
}

/// Condition for a check of the values of index targets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RangeCheck {
    /// Checks values that lie in the host's memory.
    WhereFree,
    /// Checks all values, and waits for the device.
    Always,
}

/// Checks that every index target is a class or ignored, by its value or by a row weight of 0.
pub(super) fn check_range(
    indices: &DispatchTensor,
    row_weights: Option<&DispatchTensor>,
    classes: usize,
    ignored: &[i64],
    check: RangeCheck,
) -> Result<(), CrossEntropyError> {
    let found = match device::first_bad_index(indices, classes, ignored) {
        HostCheck::Done(found) => found,
        HostCheck::Elsewhere if check == RangeCheck::WhereFree => return Ok(()),
        HostCheck::Elsewhere => first_bad_on_device(indices, classes, ignored),
    };
    let found = match row_weights {
        Some(weights) if found.is_some() => {
            first_bad_on_device(&with_weight(indices, weights), classes, ignored)
        }
        _ => found,
    };
    match found {
        None => Ok(()),
        Some((row, value)) => Err(CrossEntropyError::TargetOutOfRange {
            row,
            value,
            classes,
            ignore_indices: ignored.to_vec(),
        }),
    }
}

/// Weights of rows for each entry of sparse distributions.
pub(super) fn of_entries(
    weights: &DispatchTensor,
    entries: &DispatchTensor,
    class_dim: usize,
) -> DispatchTensor {
    let shape = entries.shape();
    let mut of_rows = shape.clone();
    of_rows[class_dim] = 1;
    let weights = Dispatch::float_reshape(weights.clone(), of_rows);
    Dispatch::float_expand(weights, shape)
}

/// Index targets, with the first class in place of those whose row weighs nothing.
fn with_weight(indices: &DispatchTensor, weights: &DispatchTensor) -> DispatchTensor {
    let rows = Shape::new([indices.shape().num_elements()]);
    let weights = Dispatch::float_reshape(weights.clone(), rows.clone());
    let weights = Tensor::<1>::from_dispatch(weights);
    let flat = Dispatch::int_reshape(indices.clone(), rows);
    let flat = Tensor::<1, Int>::from_dispatch(flat);
    flat.mask_fill(weights.equal_elem(0.0), 0).into_dispatch()
}

/// First index target that is neither a class nor ignored: its row and its value. Waits for the device.
fn first_bad_on_device(
    indices: &DispatchTensor,
    classes: usize,
    ignored: &[i64],
) -> Option<(usize, i128)> {
    let is_bad = |value: i128| {
        !(0..classes as i128).contains(&value)
            && !ignored.iter().any(|ignored| i128::from(*ignored) == value)
    };
    let rows = indices.shape().num_elements();
    let flat = Dispatch::int_reshape(indices.clone(), Shape::new([rows]));
    let flat = Tensor::<1, Int>::from_dispatch(flat);
    let data = flat.into_data();
    let values: Box<dyn Iterator<Item = i128>> = if data.dtype() == DType::U64 {
        Box::new(data.iter::<u64>().map(i128::from))
    } else {
        Box::new(data.iter::<i64>().map(i128::from))
    };
    values.enumerate().find(|(_, value)| is_bad(*value))
}

/// Returns the value, or panics with the text of the error.
pub(super) fn unwrap<T>(result: Result<T, CrossEntropyError>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
