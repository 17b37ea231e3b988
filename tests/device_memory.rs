//! Measures what a loss holds in a device's memory, as the device's own pools count it.
//!
//! The binary has one test, so that nothing else allocates in the process meanwhile.
#![cfg(feature = "wgpu")]

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{Backend, BackendTypes};
use burn::tensor::{DType, Device, DeviceKind, Distribution, Int, Tensor, TensorData};
use burn_cross_entropy::backend::CrossEntropyOperation;
use burn_cross_entropy::contrastive::SigLipLossConfig;
use burn_cross_entropy::operation::{
    Forward, Inputs, Logits, MaybeFloat, Options, Outputs, RowReduction, TargetValues, Targets,
    Wanted, WantedGradients,
};
use burn_cross_entropy::testing::{Forced, Strategy, forcing};
use burn_cross_entropy::{InfoNceLossConfig, LinearCrossEntropyLossConfig};
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

/// Sparse distributions of two entries for each row, with a tail or without.
fn entries(has_tails: bool, device: &CubeDevice) -> Targets<CubeBackend> {
    let of_row = if has_tails { 3 } else { 2 };
    let classes: Vec<i32> = (0..2 * ROWS).map(|at| (at * 31 % CLASSES) as i32).collect();
    let classes = TensorData::new(classes, [ROWS, 2]);
    let shares = TensorData::new(vec![0.25f32; of_row * ROWS], [ROWS, of_row]);
    Targets::Sparse {
        classes: CubeBackend::int_from_data(classes, device),
        shares: CubeBackend::float_from_data(shares, device),
    }
}

/// A call, and what it may hold.
struct Measured {
    inputs: Inputs<CubeBackend>,
    options: Options,
    outputs: Outputs,
    /// Whether somebody else holds the logits.
    kept: bool,
    /// Whether the forward computes the gradient.
    one_pass: bool,
    /// What the call may hold beside logits and gradient.
    beside: u64,
}

fn measure(call: &Measured, device: &CubeDevice) {
    let upstream = upstream(&call.inputs.reduction, device);
    let before = in_use(device);
    let logits = logits(device);
    assert_eq!(logits.dtype, DType::F32);
    let copy = call.kept.then(|| logits.clone());
    let with_logits = in_use(device) - before;
    assert!((LOGITS..LOGITS + ONE_PERCENT).contains(&with_logits));

    let Forward { loss, saved, .. } = CubeBackend::cross_entropy(
        Logits::Tensor(logits),
        call.inputs.clone(),
        call.options.clone(),
        Wanted {
            outputs: call.outputs,
            gradients: WantedGradients::LOGITS,
        },
    );
    let after_forward = in_use(device) - before;
    let tensors = if call.kept { 2 * LOGITS } else { LOGITS };
    let of_forward = if call.one_pass { tensors } else { LOGITS };
    let allowed = of_forward..of_forward + call.beside;
    assert!(allowed.contains(&after_forward), "{after_forward}");

    let gradients = CubeBackend::cross_entropy_backward(
        saved,
        call.inputs.clone(),
        upstream,
        call.options.clone(),
        WantedGradients::LOGITS,
    );
    let after_backward = in_use(device) - before;
    let allowed = tensors..tensors + call.beside;
    assert!(allowed.contains(&after_backward), "{after_backward}");
    let MaybeFloat::Some(gradient) = &gradients.logits else {
        panic!("the logits' gradient was asked for");
    };
    assert_eq!(gradient.dtype, DType::F32);
    drop((loss, gradients, copy));
    // Only a few numbers that the kernels received are left.
    assert!(in_use(device) < before + ONE_PERCENT);
}

#[test]
fn a_loss_holds_little() {
    besides_the_logits_a_loss_holds_little();
    the_graph_of_a_loss_in_chunks_holds_no_logits();
}

/// Rows and features of a batch, and bytes of a chunk of its similarities.
const BATCH: [usize; 2] = [2048, 16];
const CHUNK: usize = 1 << 20;

/// What a loss over a projection or over similarities keeps for the backward, and what comes out of it, are less than two
/// chunks.
fn the_graph_of_a_loss_in_chunks_holds_no_logits() {
    let pools = CubeDevice::Wgpu(burn_wgpu::WgpuDevice::default());
    let device = Device::wgpu(DeviceKind::DefaultDevice).autodiff();
    let config = || InfoNceLossConfig::new().with_chunk_bytes(Some(CHUNK));
    let labels = || {
        let plain = device.clone().without_autodiff();
        Tensor::<1, Int>::arange(0..BATCH[0] as i64, &plain).remainder_scalar(100)
    };
    let forms: [Box<dyn Fn(Tensor<2>, Tensor<2>) -> Tensor<1>>; 5] = [
        Box::new(|a, b| config().init(&device).forward(a, b.clone(), b)),
        Box::new(|a, b| config().init(&device).forward_in_batch(a, b)),
        Box::new(|a, _| config().init(&device).forward_labels(a, labels())),
        Box::new(|a, b| {
            let loss = SigLipLossConfig::new().with_chunk_bytes(Some(CHUNK));
            loss.init(&device).forward(a, b)
        }),
        Box::new(|a, b| {
            let loss = LinearCrossEntropyLossConfig::new().with_chunk_bytes(Some(CHUNK));
            loss.init(&device).forward(a, b.transpose(), None, labels())
        }),
    ];
    let random =
        || Tensor::<2>::random(BATCH, Distribution::Normal(0.0, 1.0), &device).require_grad();
    let (a, b) = (random(), random());
    let most = 2 * CHUNK as u64;
    for (at, form) in forms.iter().enumerate() {
        // What earlier work has left is freed with the next work.
        form(a.clone(), b.clone()).backward();
        device.sync().expect("the device computes");
        let before = in_use(&pools);
        let loss = form(a.clone(), b.clone());
        device.sync().expect("the device computes");
        let of_graph = in_use(&pools) - before;
        let gradients = loss.clone().backward();
        device.sync().expect("the device computes");
        let of_gradients = in_use(&pools) - before;
        assert!(a.grad(&gradients).is_some());
        assert!(
            of_graph.max(of_gradients) < most && most < (BATCH[0] * BATCH[0]) as u64,
            "form {at}: {of_graph} and {of_gradients} bytes"
        );
    }
}

fn besides_the_logits_a_loss_holds_little() {
    let device = CubeDevice::Wgpu(burn_wgpu::WgpuDevice::default());
    let (indices, teacher) = (targets(&device), Targets::Distributions(logits(&device)));
    let [entries, with_tails] = [false, true].map(|has_tails| entries(has_tails, &device));
    for (reduction, label_smoothing, z_loss) in [
        (RowReduction::Mean, 0.0, 0.0),
        (RowReduction::Sum { divisor: 1.0 }, 0.1, 0.01),
        (RowReduction::None, 0.1, 0.01),
    ] {
        // Entries have some numbers each, and with a tail, which no label smoothing has, a bit for each class.
        let mut calls = vec![
            (indices.clone(), Outputs::None, ONE_PERCENT),
            (entries.clone(), Outputs::Rows, 4 * ONE_PERCENT),
            (teacher.clone(), Outputs::None, ONE_PERCENT),
        ];
        if label_smoothing == 0.0 {
            calls.push((with_tails.clone(), Outputs::Rows, 9 * ONE_PERCENT));
        }
        for (targets, outputs, beside) in calls {
            for (kept, one_pass) in [(false, false), (true, false), (false, true), (true, true)] {
                let one_pass = one_pass && !matches!(reduction, RowReduction::None);
                let forced = Forced {
                    strategy: Strategy::Unit,
                    in_parts: false,
                    planes: false,
                    few_buffers: false,
                    shared_vectors: true,
                    parked: false,
                    one_pass,
                };
                let call = Measured {
                    inputs: Inputs {
                        reduction: reduction.clone(),
                        ..Inputs::new(targets.clone())
                    },
                    options: Options {
                        // Distributions are the logits of a teacher.
                        targets: TargetValues::Logits { scale: 0.5 },
                        label_smoothing,
                        z_loss,
                        ..Options::default()
                    },
                    outputs,
                    kept,
                    one_pass,
                    beside,
                };
                forcing(forced, || measure(&call, &device));
            }
        }
    }
}
