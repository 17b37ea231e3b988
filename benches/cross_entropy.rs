//! This crate's loss beside `burn::nn`'s, on the same logits and targets.
//!
//! `cargo bench --bench cross_entropy` times Flex; `--features ndarray` or `--features wgpu` adds
//! these backends. Every pair is checked to give the same loss and gradient before it is timed.

// Burn deprecates NdArray, which is timed as well.
#![cfg_attr(feature = "ndarray", allow(deprecated))]

use std::hint::black_box;

use burn::nn::loss::CrossEntropyLossConfig as BurnLossConfig;
use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_cross_entropy::CrossEntropyLossConfig;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Rows and classes.
const SHAPES: [[usize; 2]; 4] = [[64, 10], [256, 1000], [4096, 10], [512, 32000]];

type Loss<'a> = (&'a str, &'a dyn Fn(Tensor<2>, Tensor<1, Int>) -> Tensor<1>);

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

fn forward(loss: Loss, logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    (loss.1)(logits, targets)
}

fn forward_backward(loss: Loss, logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<2> {
    let logits = logits.require_grad();
    let gradients = (loss.1)(logits.clone(), targets).backward();
    logits.grad(&gradients).expect("the logits require it")
}

fn largest_difference<const D: usize>(left: Tensor<D>, right: Tensor<D>) -> f32 {
    (left - right).abs().max().into_scalar()
}

fn cross_entropy(criterion: &mut Criterion) {
    for (backend, device) in devices() {
        let tracked = device.clone().autodiff();
        let ours = CrossEntropyLossConfig::new().init(&device);
        let theirs = BurnLossConfig::new().init(&device);
        let ours: Loss = ("ours", &move |logits, targets| {
            ours.forward(logits, targets)
        });
        let theirs: Loss = ("burn-nn", &move |logits, targets| {
            theirs.forward(logits, targets)
        });
        for [rows, classes] in SHAPES {
            device.seed(7);
            let normal = Distribution::Normal(0.0, 3.0);
            let logits = Tensor::<2>::random([rows, classes], normal, &device);
            let classes_range = Distribution::Uniform(0.0, classes as f64);
            let targets = Tensor::<1, Int>::random([rows], classes_range, &device);
            let on_tape = Tensor::<2>::from_data(logits.to_data(), &tracked);

            let loss = largest_difference(
                forward(ours, logits.clone(), targets.clone()),
                forward(theirs, logits.clone(), targets.clone()),
            );
            let gradient = largest_difference(
                forward_backward(ours, on_tape.clone(), targets.clone()),
                forward_backward(theirs, on_tape.clone(), targets.clone()),
            );
            assert!(loss < 1e-4 && gradient < 1e-5, "{loss:e} {gradient:e}");

            let mut group = criterion.benchmark_group(format!("{backend}/{rows}x{classes}"));
            group
                .sample_size(10)
                .throughput(Throughput::Elements((rows * classes) as u64));
            for loss in [ours, theirs] {
                group.bench_function(BenchmarkId::new("forward", loss.0), |bencher| {
                    bencher.iter(|| {
                        black_box(forward(loss, logits.clone(), targets.clone()));
                        device.sync().expect("the device finishes");
                    })
                });
                group.bench_function(BenchmarkId::new("forward-backward", loss.0), |bencher| {
                    bencher.iter(|| {
                        black_box(forward_backward(loss, on_tape.clone(), targets.clone()));
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
