//! The training: its steps and its schedule.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::optim::{AdamConfig, AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use burn_cross_entropy::contrastive::MomentumSchedule;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::augment;
use crate::checkpoint::{Checkpoint, Saved};
use crate::data::{self, Image, Part, Size};
use crate::display::Display;
use crate::encoder::{Encoder, Layer};
use crate::evaluate::Protocol;
use crate::log::TrainingLog;
use crate::method::{Batch, Objective, Schedule};
use crate::random::generator;
use crate::settings::Settings;

const LEARNING_RATE: f64 = 2e-3;
/// The share of the training in which the learning rate rises from 0, before it falls to 0 again.
const WARM_UP: f64 = 0.02;
const WEIGHT_DECAY: f32 = 1e-4;
/// Evaluations and checkpoints in a run, if it has as many epochs.
const EVALUATIONS: usize = 10;

/// The end of a training.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Finished,
    Interrupted,
}

/// The measurements of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    pub loss: f64,
    /// The learning rate of the epoch's last step.
    pub learning_rate: f64,
    /// The accuracy, which is measured every few epochs.
    pub accuracy: Option<f64>,
}

/// The progress of a training.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// The epochs that are over.
    pub history: Vec<Epoch>,
    /// The losses of the steps in the current epoch.
    pub losses: Vec<f64>,
}

impl Progress {
    pub fn epochs_done(&self) -> usize {
        self.history.len()
    }
}

/// Everything that changes in the training, with the settings.
pub struct Trainer {
    pub settings: Settings,
    pub progress: Progress,
    pub encoder: Encoder,
    pub objective: Objective,
    pub optimizer: ModuleOptimizer,
    /// The optimizer of the loss's own parameters, which siglip alone has. Weight decay would pull them to 0.
    pub objective_optimizer: ModuleOptimizer,
    size: Size,
    device: Device,
}

impl Trainer {
    pub fn new(settings: Settings, size: Size, device: &Device) -> Result<Self, String> {
        let encoder = Encoder::new(size, settings.seed, &device.clone().autodiff());
        Ok(Self {
            progress: Progress::default(),
            objective: Objective::new(&settings, &encoder, device)?,
            encoder,
            optimizer: AdamWConfig::new()
                .with_weight_decay(WEIGHT_DECAY)
                .with_epsilon(1e-8)
                .init(),
            objective_optimizer: AdamConfig::new().with_epsilon(1e-8).init(),
            size,
            device: device.clone(),
            settings,
        })
    }

    /// Restores everything that was saved.
    pub fn restore(&mut self, saved: Saved) -> Result<(), String> {
        self.progress = saved.progress.clone();
        self.objective = saved.objective(self.objective.clone())?;
        self.encoder = saved.encoder(self.encoder.clone())?;
        let load = |optimizer: &ModuleOptimizer, record| optimizer.clone().load_record(record);
        self.optimizer = load(&self.optimizer, saved.optimizer);
        self.objective_optimizer = load(&self.objective_optimizer, saved.objective_optimizer);
        Ok(())
    }

    /// Trains up to the last epoch or the interruption, and leaves a checkpoint and a log.
    pub fn train(
        &mut self,
        training: &Part,
        protocol: &Protocol,
        output: &Path,
        interrupted: &AtomicBool,
    ) -> Result<Ending, String> {
        let checkpoint = Checkpoint::in_folder(output);
        let mut log = TrainingLog::in_folder(output, &self.progress.history)?;
        let display = Display::new(self, training.len() / self.settings.batch_size);
        let evaluate_every = (self.settings.epochs / EVALUATIONS).max(1);
        while self.progress.epochs_done() < self.settings.epochs {
            let order = self.shuffled(training.len());
            for batch in order
                .chunks_exact(self.settings.batch_size)
                .skip(self.progress.losses.len())
            {
                let loss = self.step(training, batch)?;
                self.progress.losses.push(loss);
                display.step_done(loss);
                if interrupted.load(Ordering::SeqCst) {
                    display.close();
                    checkpoint.save(self)?;
                    println!(
                        "Interrupted in epoch {} of {}; the checkpoint is saved. A second Ctrl-C ends at once.",
                        self.progress.epochs_done() + 1,
                        self.settings.epochs
                    );
                    return Ok(Ending::Interrupted);
                }
            }
            let epoch = self.progress.epochs_done() + 1;
            let evaluate = epoch.is_multiple_of(evaluate_every) || epoch == self.settings.epochs;
            let measured = self.close_epoch(evaluate.then_some(protocol), training.len())?;
            log.add(epoch, &measured)?;
            if evaluate {
                display.evaluated(epoch, &measured);
                checkpoint.save(self)?;
            }
        }
        display.close();
        Ok(Ending::Finished)
    }

    /// Adds the epoch to the history, with its accuracy if there is a protocol to measure it by.
    fn close_epoch(&mut self, protocol: Option<&Protocol>, images: usize) -> Result<Epoch, String> {
        let accuracy = |protocol: &Protocol| -> Result<f64, String> {
            let represented = protocol.by_encoder(&self.encoder, Layer::Embedding)?;
            Ok(protocol.neighbours(&represented).mean)
        };
        let accuracy = protocol.map(accuracy).transpose()?;
        let steps = images / self.settings.batch_size;
        let learning_rate = self.learning_rate(self.steps_done(steps).saturating_sub(1), steps);
        let losses = std::mem::take(&mut self.progress.losses);
        let epoch = Epoch {
            loss: losses.iter().sum::<f64>() / losses.len() as f64,
            learning_rate,
            accuracy,
        };
        self.progress.history.push(epoch.clone());
        Ok(epoch)
    }

    /// Makes one step on the images with these numbers, and returns the loss.
    fn step(&mut self, training: &Part, batch: &[usize]) -> Result<f64, String> {
        let steps = training.len() / self.settings.batch_size;
        let done = self.steps_done(steps);
        let labels: Vec<usize> = batch.iter().map(|&at| training.labels[at]).collect();
        let batch = Batch {
            views: [0, 1].map(|which| self.views(&training.images, batch, which)),
            images: batch,
            labels: &labels,
        };
        let (loss, keys) = self.objective.loss(&self.encoder, batch);

        let mut gradients = loss.backward();
        let rate = self.learning_rate(done, steps);
        let of_encoder = GradientsParams::from_module(&mut gradients, &self.encoder);
        let of_objective = GradientsParams::from_module(&mut gradients, &self.objective);
        self.encoder = self.optimizer.step(rate, self.encoder.clone(), of_encoder);
        let momentum = self.momentum(done, steps);
        self.objective = self
            .objective_optimizer
            .step(rate, self.objective.clone(), of_objective)
            .follow(&self.encoder, momentum, keys);

        let loss: f32 = loss
            .try_into_scalar()
            .map_err(|error| format!("the loss cannot be read from the device: {error}"))?;
        if loss.is_finite() {
            Ok(f64::from(loss))
        } else {
            Err(format!(
                "the loss is {loss} in epoch {}; a higher --temperature may help",
                self.progress.epochs_done() + 1
            ))
        }
    }

    /// Makes one random view of each image of the batch.
    fn views(&self, images: &[Image], batch: &[usize], which: u64) -> Tensor<4> {
        let epoch = self.progress.epochs_done() as u64;
        let views: Vec<Image> = batch
            .iter()
            .map(|&number| {
                let randomness = [self.settings.seed, epoch, number as u64, which];
                augment::view(&images[number], self.size, randomness)
            })
            .collect();
        data::to_tensor(&views, self.size, &self.device)
    }

    fn steps_done(&self, steps_per_epoch: usize) -> usize {
        self.progress.epochs_done() * steps_per_epoch + self.progress.losses.len()
    }

    /// The numbers of the training images in the order of the current epoch.
    fn shuffled(&self, images: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..images).collect();
        let epoch = self.progress.epochs_done() as u64;
        order.shuffle(&mut generator([self.settings.seed, epoch, u64::MAX, 0]));
        order
    }

    /// The learning rate of a step: it rises evenly during the warm-up and falls along a cosine.
    fn learning_rate(&self, step: usize, steps_per_epoch: usize) -> f64 {
        let share = (step + 1) as f64 / (self.settings.epochs * steps_per_epoch) as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * share).cos());
        LEARNING_RATE * (share / WARM_UP).min(1.0) * cosine
    }

    fn momentum(&self, step: usize, steps_per_epoch: usize) -> f64 {
        let first = self.settings.momentum;
        match self.settings.momentum_schedule {
            Schedule::Constant => first,
            Schedule::Cosine => {
                let steps = self.settings.epochs * steps_per_epoch;
                MomentumSchedule::cosine(first, steps).at(step)
            }
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests;
