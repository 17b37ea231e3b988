//! Times the fused loss beside the portable implementation and `burn::nn`'s, on the same logits and targets:
//! forward, and forward with backward.
//!
//! The fused loss takes part three times: alone, with its output, and with the entropy too.
//!
//! `cargo bench --bench cross_entropy` times Flex; `--features ndarray` or `--features wgpu` adds these
//! backends, and a word after `--` chooses by name. All of them must give the same loss and gradient before
//! they are timed. `benches/compare` adds PyTorch.

// Burn deprecates NdArray, which is timed too.
#![cfg_attr(feature = "ndarray", allow(deprecated))]

use std::hint::black_box;
use std::time::Duration;

use burn::backend::Dispatch;
use burn::nn::loss::CrossEntropyLossConfig as BurnLossConfig;
use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_cross_entropy::operation::{
    Forward, Inputs, Logits, Options, Targets, Wanted, WantedGradients,
};
use burn_cross_entropy::{CrossEntropyLossConfig, portable};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Rows, classes, and positions behind the classes.
const SHAPES: [[usize; 3]; 7] = [
    [64, 10, 1],
    [256, 1000, 1],
    [4096, 10, 1],
    [8192, 1000, 1],
    [512, 32000, 1],
    [8, 21, 128 * 128],
    [2, 19, 512 * 512],
];

/// Logits `[rows, classes, positions]`, targets `[rows, positions]`, on a device without autodiff.
struct Problem {
    logits: Tensor<3>,
    targets: Tensor<2, Int>,
}

/// A way to compute the loss of a problem, and its gradient.
struct Contender {
    name: &'static str,
    forward: fn(&Problem) -> Tensor<1>,
    forward_backward: fn(&Problem) -> (Tensor<1>, Tensor<3>),
}

const CONTENDERS: [Contender; 5] = [
    Contender {
        name: "fused",
        forward: |problem| fused(problem.logits.clone(), problem.targets.clone()),
        forward_backward: |problem| backward(problem, fused),
    },
    Contender {
        name: "fused-output",
        forward: |problem| fused_output(problem.logits.clone(), problem.targets.clone()),
        forward_backward: |problem| backward(problem, fused_output),
    },
    Contender {
        name: "fused-entropy",
        forward: |problem| fused_entropy(problem.logits.clone(), problem.targets.clone()),
        forward_backward: |problem| backward(problem, fused_entropy),
    },
    Contender {
        name: "portable",
        forward: portable_loss,
        forward_backward: portable_with_gradient,
    },
    Contender {
        name: "burn-nn",
        forward: |problem| burn_nn(problem.logits.clone(), problem.targets.clone()),
        forward_backward: |problem| backward(problem, burn_nn),
    },
];

fn fused(logits: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<1> {
    let loss = CrossEntropyLossConfig::new().init(&logits.device());
    loss.forward(logits, targets)
}

/// The loss with its output: what the same pass knows of every row.
fn fused_output(logits: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<1> {
    let loss = CrossEntropyLossConfig::new().init(&logits.device());
    black_box(loss.forward_with_output(logits, targets)).loss
}

/// The loss with its output and the entropy.
fn fused_entropy(logits: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<1> {
    let loss = CrossEntropyLossConfig::new().init(&logits.device());
    black_box(loss.forward_with_entropy(logits, targets)).loss
}

/// `burn::nn`'s loss, which takes rows of classes only.
fn burn_nn(logits: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<1> {
    let loss = BurnLossConfig::new().init(&logits.device());
    let [rows, classes, positions] = logits.dims();
    let logits = if positions == 1 {
        logits.reshape([rows, classes])
    } else {
        let rows = rows * positions;
        logits.swap_dims(1, 2).reshape([rows, classes])
    };
    loss.forward(logits, targets.reshape([rows * positions]))
}

fn backward(
    problem: &Problem,
    loss: fn(Tensor<3>, Tensor<2, Int>) -> Tensor<1>,
) -> (Tensor<1>, Tensor<3>) {
    let logits = problem.logits.clone().autodiff().require_grad();
    let loss = loss(logits.clone(), problem.targets.clone());
    let gradients = loss.backward();
    let gradient = logits.grad(&gradients).expect("the logits require it");
    (loss.without_autodiff(), gradient)
}

fn inputs(problem: &Problem) -> Inputs<Dispatch> {
    Inputs::new(Targets::Indices(problem.targets.clone().into_dispatch()))
}

/// The portable forward of the mean.
fn portable_forward(problem: &Problem, wanted: Wanted) -> Forward<Dispatch> {
    let logits = Logits::Tensor(problem.logits.clone().into_dispatch());
    portable::cross_entropy(logits, inputs(problem), &Options::default(), wanted)
}

fn portable_loss(problem: &Problem) -> Tensor<1> {
    Tensor::from_dispatch(portable_forward(problem, Wanted::default()).loss)
}

fn portable_with_gradient(problem: &Problem) -> (Tensor<1>, Tensor<3>) {
    let wanted = WantedGradients::LOGITS;
    let Forward { loss, saved, .. } = portable_forward(problem, Wanted::gradients(wanted));
    let loss = Tensor::<1>::from_dispatch(loss);
    let one = loss.ones_like().into_dispatch();
    let (inputs, options) = (inputs(problem), Options::default());
    let gradients = portable::cross_entropy_backward(saved, inputs, one, &options, wanted);
    let gradient = gradients.logits.into_option();
    let gradient = gradient.expect("the logits' gradient was asked for");
    (loss, Tensor::from_dispatch(gradient))
}

fn devices() -> Vec<(&'static str, Device)> {
    vec![
        #[cfg(feature = "flex")]
        ("flex", Device::flex()),
        #[cfg(feature = "ndarray")]
        ("ndarray", Device::ndarray()),
        #[cfg(feature = "wgpu")]
        (
            "wgpu",
            Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        ),
    ]
}

fn problem([rows, classes, positions]: [usize; 3], device: &Device) -> Problem {
    device.seed(7);
    let normal = Distribution::Normal(0.0, 3.0);
    let logits = Tensor::random([rows, classes, positions], normal, device);
    let uniform = Distribution::Uniform(0.0, classes as f64);
    let targets = Tensor::random([rows, positions], uniform, device);
    Problem { logits, targets }
}

/// Stops the program where two contenders differ.
fn check(problem: &Problem) {
    let [ours, others @ ..] = &CONTENDERS;
    let (loss, gradient) = (ours.forward_backward)(problem);
    let largest: f32 = gradient.clone().abs().max().into_scalar();
    for other in others {
        let (other_loss, other_gradient) = (other.forward_backward)(problem);
        let loss_off: f32 = (loss.clone() - other_loss).abs().into_scalar();
        let off: f32 = (gradient.clone() - other_gradient)
            .abs()
            .max()
            .into_scalar();
        // The allowed difference is what burn::nn loses by adding half a million rows in f32.
        assert!(
            loss_off < 2e-3 && off < 1e-4 * largest,
            "{} differs by {loss_off:e} in the loss, {off:e} in the gradient",
            other.name
        );
    }
}

fn cross_entropy(criterion: &mut Criterion) {
    for (backend, device) in devices() {
        for shape in SHAPES {
            let [rows, classes, positions] = shape;
            let problem = problem(shape, &device);
            check(&problem);
            let name = match positions {
                1 => format!("{backend}/{rows}x{classes}"),
                _ => format!("{backend}/{rows}x{classes}x{positions}"),
            };
            let mut group = criterion.benchmark_group(name);
            group
                .sample_size(10)
                .warm_up_time(Duration::from_millis(500))
                .measurement_time(Duration::from_secs(2))
                .throughput(Throughput::Elements((rows * classes * positions) as u64));
            for contender in &CONTENDERS {
                let id = BenchmarkId::new("forward", contender.name);
                group.bench_function(id, |bencher| {
                    bencher.iter(|| {
                        black_box((contender.forward)(&problem));
                        device.sync().expect("the device finishes");
                    })
                });
                let id = BenchmarkId::new("forward-backward", contender.name);
                group.bench_function(id, |bencher| {
                    bencher.iter(|| {
                        black_box((contender.forward_backward)(&problem));
                        device.sync().expect("the device finishes");
                    })
                });
            }
            group.finish();
        }
    }
}

criterion_group!(benches, cross_entropy);
criterion_main!(benches);
