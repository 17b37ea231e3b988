//! Measures what a loss holds in a device's memory, as the device's own pools count it.
//!
//! The binary has one test, so that nothing else allocates in the process meanwhile.
#![cfg(feature = "wgpu")]

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{Backend, BackendTypes};
use burn::tensor::{DType, TensorData};
use burn_cross_entropy::backend::CrossEntropyOperation;
use burn_cross_entropy::operation::{
    Forward, Inputs, Logits, MaybeFloat, Options, RowReduction, Targets, Wanted, WantedGradients,
};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

type CubeDevice = <CubeBackend as BackendTypes>::Device;

const ROWS: usize = 512;
const CLASSES: usize = 1000;
const LOGITS: u64 = (ROWS * CLASSES * 4) as u64;
const ONE_PERCENT: u64 = LOGITS / 100;

/// Waits for the device, so that freed memory counts as free.
fn in_use(device: &CubeDevice) -> u64 {
    CubeBackend::sync(device).expect("the device computes");
    let usage = CubeBackend::memory_pool_usage(device);
    usage.expect("the device has pools").bytes_in_use
}

fn logits(device: &CubeDevice) -> CubeTensor {
    let values: Vec<f32> = (0..ROWS * CLASSES)
        .map(|at| (at % 97) as f32 / 9.0)
        .collect();
    CubeBackend::float_from_data(TensorData::new(values, [ROWS, CLASSES]), device)
}

fn targets(device: &CubeDevice) -> Targets<CubeBackend> {
    let labels: Vec<i32> = (0..ROWS).map(|row| (row * 31 % CLASSES) as i32).collect();
    let labels = TensorData::new(labels, [ROWS]);
    Targets::Indices(CubeBackend::int_from_data(labels, device))
}

fn upstream(reduction: &RowReduction<CubeBackend>, device: &CubeDevice) -> CubeTensor {
    let rows = match reduction {
        RowReduction::None => ROWS,
        _ => 1,
    };
    let ones = TensorData::new(vec![1.5f32; rows], [rows]);
    CubeBackend::float_from_data(ones, device)
}

#[test]
fn besides_the_logits_a_loss_holds_less_than_one_percent_of_them() {
    let device = CubeDevice::Wgpu(burn_wgpu::WgpuDevice::default());
    let targets = targets(&device);
    for (reduction, label_smoothing, z_loss) in [
        (RowReduction::Mean, 0.0, 0.0),
        (RowReduction::Sum { divisor: 1.0 }, 0.1, 0.01),
        (RowReduction::None, 0.1, 0.01),
    ] {
        let options = Options {
            label_smoothing,
            z_loss,
            ..Options::default()
        };
        let upstream = upstream(&reduction, &device);
        let inputs = Inputs {
            reduction,
            ..Inputs::new(targets.clone())
        };
        for kept in [false, true] {
            let before = in_use(&device);
            let logits = logits(&device);
            assert_eq!(logits.dtype, DType::F32);
            let copy = kept.then(|| logits.clone());
            let with_logits = in_use(&device) - before;
            assert!((LOGITS..LOGITS + ONE_PERCENT).contains(&with_logits));

            let Forward { loss, saved, .. } = CubeBackend::cross_entropy(
                Logits::Tensor(logits),
                inputs.clone(),
                options.clone(),
                Wanted::gradients(WantedGradients::LOGITS),
            );
            let after_forward = in_use(&device) - before;
            assert!(after_forward < LOGITS + ONE_PERCENT, "{after_forward}");

            let gradients = CubeBackend::cross_entropy_backward(
                saved,
                inputs.clone(),
                upstream.clone(),
                options.clone(),
                WantedGradients::LOGITS,
            );
            let after_backward = in_use(&device) - before;
            let tensors = if kept { 2 * LOGITS } else { LOGITS };
            let allowed = tensors..tensors + ONE_PERCENT;
            assert!(allowed.contains(&after_backward), "{after_backward}");
            let MaybeFloat::Some(gradient) = &gradients.logits else {
                panic!("the logits' gradient was asked for");
            };
            assert_eq!(gradient.dtype, DType::F32);
            drop((loss, gradients, copy));
            // Only a few numbers that the kernels received are left.
            assert!(in_use(&device) < before + ONE_PERCENT);
        }
    }
}
