//! This crate's side: one call of the loss, timed, and what it computes, to be compared.

use std::fmt::{self, Display};
use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_cross_entropy::{CrossEntropyLoss, CrossEntropyLossConfig, CrossEntropyTarget};

use crate::agreement::Outcome;
use crate::entries::{Entry, Kind, Phase};
use crate::rounds::Contender;

/// How the logits are handed to the loss.
#[derive(Clone, Copy, PartialEq)]
pub enum Way {
    /// Moved: the gradient may be written over them.
    Owned,
    /// A clone, while the caller keeps the logits.
    Shared,
    /// Without autodiff: the forward pass alone.
    Untracked,
}

impl Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Way::Owned => "moved into the loss",
            Way::Shared => "kept",
            Way::Untracked => "without autodiff",
        })
    }
}

/// The crate on the data of one entry.
pub trait Workload {
    fn outcome(&self, way: Way, probes: &[usize]) -> Outcome;

    /// Seconds of one call. Making the logits and dropping the results is outside.
    fn seconds(&self, way: Way) -> f64;
}

pub fn workload(entry: &Entry) -> Box<dyn Workload> {
    let device = match entry.phase {
        Phase::Forward => Device::flex(),
        Phase::ForwardBackward => Device::flex().autodiff(),
    };
    let indices = || entry.class_indices();
    match (entry.kind, entry.shape.len()) {
        (Kind::Index, 2) => {
            let targets = Tensor::<1, Int>::from_data(indices(), &device);
            Box::new(Call::<2, _>::new(entry, targets, device))
        }
        (Kind::Index, 4) => {
            let targets = Tensor::<3, Int>::from_data(indices(), &device);
            Box::new(Call::<4, _>::new(entry, targets, device))
        }
        (Kind::Soft, 2) => {
            let targets = Tensor::<2>::from_data(entry.shares(), &device);
            Box::new(Call::<2, _>::new(entry, targets, device))
        }
        (_, rank) => unreachable!("no entry has {} targets of rank {rank}", entry.kind),
    }
}

struct Call<const D: usize, T> {
    loss: CrossEntropyLoss,
    device: Device,
    data: TensorData,
    logits: Tensor<D>,
    targets: T,
}

impl<const D: usize, T: CrossEntropyTarget<D> + Clone> Call<D, T> {
    fn new(entry: &Entry, targets: T, device: Device) -> Self {
        let data = entry.logits();
        Self {
            loss: CrossEntropyLossConfig::new().init(&device),
            logits: fresh(&data, &device),
            data,
            targets,
            device,
        }
    }

    fn owned(&self) -> f64 {
        let logits = fresh::<D>(&self.data, &self.device).require_grad();
        let targets = self.targets.clone();
        let start = Instant::now();
        let gradients = self.loss.forward(logits, targets).backward();
        let seconds = start.elapsed().as_secs_f64();
        black_box(gradients);
        seconds
    }

    fn shared(&self) -> f64 {
        let leaf = self.logits.clone().require_grad();
        let targets = self.targets.clone();
        let start = Instant::now();
        let gradients = self.loss.forward(leaf.clone(), targets).backward();
        let gradient = leaf.grad(&gradients);
        let seconds = start.elapsed().as_secs_f64();
        black_box((gradients, gradient));
        seconds
    }

    fn untracked(&self) -> f64 {
        let (logits, targets) = (self.logits.clone(), self.targets.clone());
        let start = Instant::now();
        let loss = self.loss.forward(logits, targets);
        let seconds = start.elapsed().as_secs_f64();
        black_box(loss);
        seconds
    }
}

/// A tensor of its own, every page of it written.
fn fresh<const D: usize>(data: &TensorData, device: &Device) -> Tensor<D> {
    Tensor::from_data(data.clone(), (device, data.dtype()))
}

impl<const D: usize, T: CrossEntropyTarget<D> + Clone> Workload for Call<D, T> {
    fn outcome(&self, way: Way, probes: &[usize]) -> Outcome {
        let targets = self.targets.clone();
        if way == Way::Untracked {
            let loss = self.loss.forward(self.logits.clone(), targets);
            return Outcome::of_loss(loss.into_scalar::<f32>().into());
        }
        let leaf = self.logits.clone().require_grad();
        // Logits that are moved away have no gradient to ask for; those of a product by 1 reach
        // its leaf, and the loss is the product's only owner.
        let logits = match way {
            Way::Owned => leaf.clone().mul_scalar(1.0),
            _ => leaf.clone(),
        };
        let loss = self.loss.forward(logits, targets);
        let value = loss.clone().into_scalar::<f32>().into();
        let gradient = leaf.grad(&loss.backward()).expect("the leaf requires it");
        let gradient = gradient.into_data().convert::<f32>();
        let gradient = gradient.as_slice::<f32>().expect("it was converted");
        Outcome::new(value, gradient, probes)
    }

    fn seconds(&self, way: Way) -> f64 {
        match way {
            Way::Owned => self.owned(),
            Way::Shared => self.shared(),
            Way::Untracked => self.untracked(),
        }
    }
}

/// The crate's part in the rounds, in one way.
pub struct Ours<'a> {
    pub workload: &'a dyn Workload,
    pub way: Way,
}

impl Contender for Ours<'_> {
    fn turn(&mut self, repetitions: usize) -> Result<Vec<f64>, String> {
        self.workload.seconds(self.way);
        Ok((0..repetitions)
            .map(|_| self.workload.seconds(self.way))
            .collect())
    }
}
