//! Parameters of a loss, on the device of the features.

use burn::tensor::{Device, Tensor};

/// Moves a parameter to the device, if it is on another. Whether either is in autodiff does not matter.
pub(super) fn on_device(parameter: Tensor<1>, device: &Device) -> Tensor<1> {
    match parameter.device().without_autodiff() == device.clone().without_autodiff() {
        true => parameter,
        false => parameter.to_device(device),
    }
}
