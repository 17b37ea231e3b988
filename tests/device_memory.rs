//! What a loss holds in a device's memory, as the device's own pools count it.
//!
//! One test, so that nothing else is allocated in the process meanwhile.
#![cfg(feature = "wgpu")]

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{Backend, BackendTypes};
use burn::tensor::{DType, TensorData};
use burn_cross_entropy::operation::{
    ClassWeights, Denominators, DetailsOf, Forward, Gradients, GradientsOf, InputValues, Inputs,
    Options, RowReduction, Targets,
};
use burn_cross_entropy::{CrossEntropyBackend, EmptyReduction};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

type CubeDevice = <CubeBackend as BackendTypes>::Device;

const ROWS: usize = 512;
const CLASSES: usize = 1000;
const LOGITS: u64 = (ROWS * CLASSES * 4) as u64;
const ONE_PERCENT: u64 = LOGITS / 100;

fn options(reduction: RowReduction, label_smoothing: f64, z_loss: f64) -> Options {
    Options {
        class_dim: 1,
        ignore_indices: [-100].as_slice().into(),
        label_smoothing,
        values: InputValues::Logits {
            scale: 1.0,
            softcap: None,
        },
        z_loss,
        reduction,
        empty: EmptyReduction::Nan,
        gradients_of: GradientsOf::Logits,
        keep: true,
        details: DetailsOf::Nothing,
    }
}

/// Waits for the device, so that what was given back is counted as such.
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

fn inputs(device: &CubeDevice) -> Inputs<CubeBackend> {
    let labels: Vec<i32> = (0..ROWS).map(|row| (row * 31 % CLASSES) as i32).collect();
    let labels = TensorData::new(labels, [ROWS]);
    Inputs {
        targets: Targets::Indices(CubeBackend::int_from_data(labels, device)),
        weights: ClassWeights::Equal,
        normalizer: Denominators::OfRows,
    }
}

fn upstream(options: &Options, device: &CubeDevice) -> CubeTensor {
    let rows = match options.reduction {
        RowReduction::None => ROWS,
        _ => 1,
    };
    let ones = TensorData::new(vec![1.5f32; rows], [rows]);
    CubeBackend::float_from_data(ones, device)
}

#[test]
fn besides_the_logits_a_loss_holds_less_than_one_percent_of_them() {
    let device = CubeDevice::Wgpu(burn_wgpu::WgpuDevice::default());
    let inputs = inputs(&device);
    for options in [
        options(RowReduction::Mean, 0.0, 0.0),
        options(RowReduction::Sum, 0.1, 0.01),
        options(RowReduction::None, 0.1, 0.01),
    ] {
        let upstream = upstream(&options, &device);
        for kept in [false, true] {
            let before = in_use(&device);
            let logits = logits(&device);
            assert_eq!(logits.dtype, DType::F32);
            let copy = kept.then(|| logits.clone());
            let with_logits = in_use(&device) - before;
            assert!((LOGITS..LOGITS + ONE_PERCENT).contains(&with_logits));

            let Forward { loss, saved, .. } =
                CubeBackend::cross_entropy(logits, inputs.clone(), options.clone());
            let after_forward = in_use(&device) - before;
            assert!(after_forward < LOGITS + ONE_PERCENT, "{after_forward}");

            let gradients = CubeBackend::cross_entropy_backward(
                saved,
                inputs.clone(),
                upstream.clone(),
                options.clone(),
            );
            let after_backward = in_use(&device) - before;
            let tensors = if kept { 2 * LOGITS } else { LOGITS };
            let allowed = tensors..tensors + ONE_PERCENT;
            assert!(allowed.contains(&after_backward), "{after_backward}");
            let Gradients::Logits { logits: gradient } = &gradients else {
                panic!("that of the logits was asked for");
            };
            assert_eq!(gradient.dtype, DType::F32);
            drop((loss, gradients, copy));
            // But for a few numbers that the kernels were given.
            assert!(in_use(&device) < before + ONE_PERCENT);
        }
    }
}
