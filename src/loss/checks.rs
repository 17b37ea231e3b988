//! The checks of a call that need no look at the values.

use burn::backend::{DispatchAutodiffContext, DispatchTensor, TensorMetadata};
use burn::tensor::{DType, Device, Shape};

use super::target::Target;
use crate::backend::routing;
use crate::error::CrossEntropyError;
use crate::operation::row_shape;

pub(super) fn device_of(tensor: &DispatchTensor) -> Device {
    Device::new(tensor.device())
}

pub(super) fn check_target_shape(
    logits: &Shape,
    target: &Target,
    class_dim: usize,
) -> Result<(), CrossEntropyError> {
    let (given, expected) = match target {
        Target::Distributions(targets) => (targets.shape(), logits.clone()),
        Target::Indices(indices) => {
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
    if given == expected {
        return Ok(());
    }
    Err(CrossEntropyError::ShapeMismatch {
        logits: logits.to_vec(),
        target: given.to_vec(),
        class_dim,
        expected: expected.to_vec(),
    })
}

pub(super) fn check_same_device(
    logits: &Device,
    target: &DispatchTensor,
) -> Result<(), CrossEntropyError> {
    let target = device_of(target);
    if logits.clone().without_autodiff() == target.clone().without_autodiff() {
        return Ok(());
    }
    Err(CrossEntropyError::DeviceMismatch {
        logits: format!("{logits:?}"),
        target: format!("{target:?}"),
    })
}

/// All tensors of a call, with their names; those outside autodiff go with all others.
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
                strategy: format!("{expected:?}"),
                other: name,
                other_strategy: format!("{strategy:?}"),
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
    if routing::computes(device, dtype) {
        return Ok(());
    }
    const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];
    Err(unsupported(tensor, dtype, device, &FLOATS, |dtype| {
        routing::computes(device, dtype)
    }))
}

fn unsupported(
    tensor: &'static str,
    dtype: DType,
    device: &Device,
    candidates: &[DType],
    usable: impl Fn(DType) -> bool,
) -> CrossEntropyError {
    let supported: Vec<String> = candidates
        .iter()
        .filter(|candidate| usable(**candidate))
        .map(|candidate| format!("{candidate:?}"))
        .collect();
    CrossEntropyError::UnsupportedDtype {
        tensor,
        dtype: format!("{dtype:?}"),
        device: format!("{device:?}"),
        supported: supported.join(", "),
    }
}
