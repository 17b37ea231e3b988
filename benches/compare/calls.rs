//! Calls a loss on the data of an entry: times it, and gives its results for comparison.

use std::fmt::{self, Display};
use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use burn_cross_entropy::{CrossEntropyLossConfig, CrossEntropyTarget};

use crate::agreement::Outcome;
use crate::rounds::Contender;

/// Elements of a gradient that are read from the device at once: few enough to need little memory beside a
/// gradient of gigabytes.
const BLOCK: usize = 1 << 26;

/// The way in which the loss gets the logits.
#[derive(Clone, Copy, PartialEq)]
pub enum Way {
    /// The logits are moved: the gradient may be written over them.
    Owned,
    /// A clone of the logits is passed; the caller keeps the logits.
    Shared,
    /// The logits are outside autodiff: only the forward pass runs.
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

/// A loss on the data of one entry.
pub trait Workload {
    fn outcome(&self, way: Way, probes: &[usize]) -> Result<Outcome, String>;

    /// Seconds of one call, of those that are queued before the device is waited for. The clock does not cover
    /// making the logits and dropping the results.
    fn seconds(&self, way: Way) -> Result<f64, String>;

    /// Seconds of copying the logits into a new tensor.
    fn fresh_seconds(&self) -> Result<f64, String>;
}

/// A loss as a function of logits and targets.
pub type Loss<const D: usize, T> = Box<dyn Fn(Tensor<D>, T) -> Tensor<1>>;

/// This crate's loss.
pub fn here<const D: usize, T: CrossEntropyTarget<D>>(device: &Device) -> Loss<D, T> {
    let loss = CrossEntropyLossConfig::new().init(device);
    Box::new(move |logits, targets| loss.forward(logits, targets))
}

/// A loss with its logits and targets; `T` is the type of the targets.
pub struct Call<const D: usize, T> {
    /// The device, with autodiff where there is a backward pass.
    pub device: Device,
    pub logits: Tensor<D>,
    /// Copies the logits into a new tensor and writes every page of it.
    pub fresh: Box<dyn Fn() -> Tensor<D>>,
    pub targets: T,
    pub loss: Loss<D, T>,
    /// Calls that are made before the device is waited for.
    pub queued: usize,
}

impl<const D: usize, T: Clone> Call<D, T> {
    fn owned(&self) -> Result<f64, String> {
        let fresh = || (self.fresh)().require_grad();
        self.timed(fresh, |logits| {
            let loss = (self.loss)(logits, self.targets.clone());
            let gradients = loss.backward();
            (loss, gradients)
        })
    }

    fn shared(&self) -> Result<f64, String> {
        let leaf = || self.logits.clone().require_grad();
        self.timed(leaf, |leaf| {
            let loss = (self.loss)(leaf.clone(), self.targets.clone());
            let gradients = loss.backward();
            let gradient = leaf.grad(&gradients);
            (loss, (gradients, gradient))
        })
    }

    fn untracked(&self) -> Result<f64, String> {
        let logits = || self.logits.clone();
        self.timed(logits, |logits| {
            ((self.loss)(logits, self.targets.clone()), ())
        })
    }

    /// Seconds of one of the calls that are queued.
    fn timed<R>(
        &self,
        logits: impl Fn() -> Tensor<D>,
        call: impl Fn(Tensor<D>) -> (Tensor<1>, R),
    ) -> Result<f64, String> {
        let logits = Vec::from_iter((0..self.queued).map(|_| logits()));
        self.sync()?;
        let start = Instant::now();
        let results = Vec::from_iter(logits.into_iter().map(call));
        self.sync()?;
        let seconds = start.elapsed().as_secs_f64() / self.queued as f64;
        for (loss, gradients) in results {
            black_box(gradients);
            read(loss)?;
        }
        Ok(seconds)
    }

    /// Waits until the device has computed everything. A CPU backend has no work left at this point.
    fn sync(&self) -> Result<(), String> {
        let done = self.device.sync();
        done.map_err(|error| format!("the device failed: {error}"))
    }
}

/// Reads the loss. A device that failed to do its work says so only when results are read.
fn read(loss: Tensor<1>) -> Result<f64, String> {
    let value = loss.try_into_scalar::<f32>();
    let value = value.map_err(|error| format!("the loss cannot be read: {error}"))?;
    Ok(value.into())
}

impl<const D: usize, T: Clone> Workload for Call<D, T> {
    fn outcome(&self, way: Way, probes: &[usize]) -> Result<Outcome, String> {
        let targets = self.targets.clone();
        if way == Way::Untracked {
            let loss = (self.loss)(self.logits.clone(), targets);
            return Ok(Outcome::of_loss(read(loss)?));
        }
        let leaf = self.logits.clone().require_grad();
        // Logits that were moved away have no gradient to ask for. With a product by 1 the gradient reaches
        // the leaf, and the loss is the product's only owner.
        let logits = match way {
            Way::Owned => leaf.clone().mul_scalar(1.0),
            _ => leaf.clone(),
        };
        let loss = (self.loss)(logits, targets);
        let gradient = leaf.grad(&loss.backward()).expect("the leaf requires it");
        let mut outcome = Outcome::of_loss(read(loss)?);
        let outer = gradient.dims()[0];
        let inner = gradient.shape().num_elements() / outer;
        let block = (BLOCK / inner).clamp(1, outer);
        for first in (0..outer).step_by(block) {
            let length = block.min(outer - first);
            let entries = gradient.clone().narrow(0, first, length).try_into_data();
            let entries =
                entries.map_err(|error| format!("the gradient cannot be read: {error}"))?;
            let entries = entries.convert::<f32>();
            let entries = entries.as_slice::<f32>().expect("it was converted");
            outcome.add(entries, first * inner, probes);
        }
        Ok(outcome)
    }

    fn seconds(&self, way: Way) -> Result<f64, String> {
        match way {
            Way::Owned => self.owned(),
            Way::Shared => self.shared(),
            Way::Untracked => self.untracked(),
        }
    }

    fn fresh_seconds(&self) -> Result<f64, String> {
        self.sync()?;
        let start = Instant::now();
        // One alone: Burn's fusion makes one kernel of several, which reads the logits only once.
        let logits = (self.fresh)();
        self.sync()?;
        let seconds = start.elapsed().as_secs_f64();
        black_box(logits);
        Ok(seconds)
    }
}

/// The calls of a loss in one way, as a contender in the rounds.
pub struct Calls<'a> {
    pub workload: &'a dyn Workload,
    pub way: Way,
}

impl Contender for Calls<'_> {
    fn turn(&mut self, repetitions: usize) -> Result<Vec<f64>, String> {
        self.workload.seconds(self.way)?;
        (0..repetitions)
            .map(|_| self.workload.seconds(self.way))
            .collect()
    }
}
