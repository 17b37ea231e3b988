//! The contenders on a device: this crate's loss, `burn::nn`'s, and a copy of the logits; and the tolerances
//! of the losses.

use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_cross_entropy::CrossEntropyTarget;

use crate::agreement::{Outcome, Tolerance};
use crate::calls::{Call, Loss, Way, Workload, here};
use crate::entries::{Entry, Phase, Precision};
use crate::rounds::Contender;

/// The losses of this crate and of `burn::nn`, on the same logits and targets.
pub struct Sides {
    pub here: Box<dyn Workload>,
    pub burn_nn: Box<dyn Workload>,
}

impl Sides {
    /// Calls are `queued` before the device is waited for.
    pub fn new(entry: &Entry, logits: TensorData, device: &Device, queued: usize) -> Self {
        let device = match entry.phase {
            Phase::Forward => device.clone(),
            Phase::ForwardBackward => device.clone().autodiff(),
        };
        let classes = entry.class_indices();
        match entry.shape.len() {
            2 => Self::of::<2, 1>(logits, classes, device, queued),
            4 => Self::of::<4, 3>(logits, classes, device, queued),
            rank => unreachable!("no entry for devices has rank {rank}"),
        }
    }

    fn of<const D: usize, const T: usize>(
        logits: TensorData,
        classes: TensorData,
        device: Device,
        queued: usize,
    ) -> Self
    where
        Tensor<T, Int>: CrossEntropyTarget<D>,
    {
        let dtype = logits.dtype();
        let logits = Tensor::<D>::from_data(logits, (&device, dtype));
        let targets = Tensor::<T, Int>::from_data(classes, &device);
        let call = |loss: Loss<D, Tensor<T, Int>>| -> Box<dyn Workload> {
            let source = logits.clone();
            Box::new(Call {
                device: device.clone(),
                logits: logits.clone(),
                fresh: Box::new(move || copied(&source)),
                targets: targets.clone(),
                loss,
                queued,
            })
        };
        Self {
            here: call(here(&device)),
            burn_nn: call(burn_nn(&device)),
        }
    }

    pub fn check_here(&self, entry: &Entry, way: Way, exact: &Outcome) -> Result<(), String> {
        let here = self.here.outcome(way, &entry.probes())?;
        exact_tolerance(entry, exact).check(("this crate", &here), ("f64 on the host", exact))
    }

    pub fn check_burn_nn(&self, entry: &Entry, way: Way, exact: &Outcome) -> Result<(), String> {
        let burn_nn = self.burn_nn.outcome(way, &entry.probes())?;
        burn_tolerance(entry, exact).check(("burn::nn", &burn_nn), ("f64 on the host", exact))
    }
}

/// A copy on the device. A clone would be a second name for the same buffer. A product needs a new buffer,
/// because its factor is still in use, so it reads and writes every byte once. Burn's fusion does not defer
/// it: the caller waits for the copy.
fn copied<const D: usize>(source: &Tensor<D>) -> Tensor<D> {
    source.clone().mul_scalar(1.0)
}

/// The floor: reads and writes the logits' bytes once on the device, with the overhead of Burn.
pub struct Copies<'a>(pub &'a dyn Workload);

impl Contender for Copies<'_> {
    fn turn(&mut self, repetitions: usize) -> Result<Vec<f64>, String> {
        self.0.fresh_seconds()?;
        (0..repetitions).map(|_| self.0.fresh_seconds()).collect()
    }
}

/// `burn::nn`'s loss. It takes rows of classes only; with more dimensions its users move the classes to the
/// end, which is part of its time.
fn burn_nn<const D: usize, const T: usize>(device: &Device) -> Loss<D, Tensor<T, Int>> {
    let loss = CrossEntropyLossConfig::new().init(device);
    Box::new(move |logits, targets| {
        let [outer, classes, positions] = {
            let dims = logits.dims();
            [dims[0], dims[1], dims[2..].iter().product()]
        };
        let rows = outer * positions;
        let logits = match positions {
            1 => logits.reshape([rows, classes]),
            _ => {
                let logits = logits.reshape([outer, classes, positions]);
                logits.swap_dims(1, 2).reshape([rows, classes])
            }
        };
        loss.forward(logits, targets.reshape([rows]))
    })
}

/// The allowed difference of this crate from the exact values.
fn exact_tolerance(entry: &Entry, exact: &Outcome) -> Tolerance {
    let f32 = Tolerance::of_f32(exact.gradient_sum / entry.size() as f64);
    match entry.precision {
        Precision::F32 => f32,
        // This crate computes in f32 here too. Entries of the gradient are rounded, by shares of up to 2^-9
        // for bf16 and 2^-12 for f16, up as often as down.
        Precision::Bf16 => Tolerance {
            gradient_sum: 1e-3,
            probe: f64::exp2(-8.0),
            ..f32
        },
        // Entries below 2^-14 are rounded by up to 2^-25, and the smallest ones to 0.
        Precision::F16 => Tolerance {
            gradient_sum: 1e-2,
            probe: f64::exp2(-11.0),
            probe_floor: f64::exp2(-24.0),
            ..f32
        },
    }
}

/// The allowed difference of `burn::nn` from the exact values.
fn burn_tolerance(entry: &Entry, exact: &Outcome) -> Tolerance {
    let f32 = Tolerance::of_f32(exact.gradient_sum / entry.size() as f64);
    match entry.precision {
        // `burn::nn` adds up in f32, in an order that the device chooses: losses by the million and
        // exponentials by the hundred thousand. Each addition is off by up to 2^-24 of the sum, in either
        // direction.
        Precision::F32 => Tolerance {
            loss: 1e-5 + f64::exp2(-22.0) * (entry.rows() as f64).sqrt(),
            gradient_sum: 1e-4,
            ..f32
        },
        // `burn::nn` rounds the logits less their maximum, the logarithm of their sum, and the difference of
        // both to the dtype of the logits.
        Precision::Bf16 | Precision::F16 => Tolerance {
            loss: 2e-2,
            gradient_sum: 1e-2,
            probe: 7.5e-2,
            probe_floor: f64::exp2(-24.0),
        },
    }
}
