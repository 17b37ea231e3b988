//! The training: its steps and its schedule.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use burn_cross_entropy::InfoNceLoss;
use burn_cross_entropy::contrastive::MomentumSchedule;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::augment;
use crate::checkpoint::{Checkpoint, Saved};
use crate::data::{self, Image, Size};
use crate::display::Display;
use crate::encoder::{Encoder, Layer};
use crate::evaluate::Protocol;
use crate::log::TrainingLog;
use crate::method::{self, Keys, Method, MomentumSide, Schedule};
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
    /// The momentum encoder and the queue; only momentum contrast has them.
    pub momentum_side: Option<MomentumSide>,
    pub optimizer: ModuleOptimizer,
    loss: InfoNceLoss,
    size: Size,
    device: Device,
}

impl Trainer {
    pub fn new(settings: Settings, size: Size, device: &Device) -> Result<Self, String> {
        let encoder = Encoder::new(size, settings.seed, &device.clone().autodiff());
        let momentum_side = || MomentumSide::new(&encoder, settings.queue, device);
        Ok(Self {
            progress: Progress::default(),
            momentum_side: (settings.method == Method::Moco)
                .then(momentum_side)
                .transpose()?,
            encoder,
            optimizer: AdamWConfig::new()
                .with_weight_decay(WEIGHT_DECAY)
                .with_epsilon(1e-8)
                .init(),
            loss: method::loss(settings.temperature, device)?,
            size,
            device: device.clone(),
            settings,
        })
    }

    /// Restores everything that was saved.
    pub fn restore(&mut self, saved: Saved) -> Result<(), String> {
        self.progress = saved.progress.clone();
        self.momentum_side = saved.momentum_side(self.momentum_side.take())?;
        self.encoder = saved.encoder(self.encoder.clone())?;
        self.optimizer = self.optimizer.clone().load_record(saved.optimizer);
        Ok(())
    }

    /// Trains up to the last epoch or the interruption, and leaves a checkpoint and a log.
    pub fn train(
        &mut self,
        images: &[Image],
        protocol: &Protocol,
        output: &Path,
        interrupted: &AtomicBool,
    ) -> Result<Ending, String> {
        let checkpoint = Checkpoint::in_folder(output);
        let mut log = TrainingLog::in_folder(output, &self.progress.history)?;
        let display = Display::new(self, images.len() / self.settings.batch);
        let evaluate_every = (self.settings.epochs / EVALUATIONS).max(1);
        while self.progress.epochs_done() < self.settings.epochs {
            let order = self.shuffled(images.len());
            for batch in order
                .chunks_exact(self.settings.batch)
                .skip(self.progress.losses.len())
            {
                let loss = self.step(images, batch)?;
                self.progress.losses.push(loss);
                display.step_done(loss);
                if interrupted.load(Ordering::SeqCst) {
                    display.close();
                    checkpoint.save(self)?;
                    return Ok(Ending::Interrupted);
                }
            }
            let epoch = self.progress.epochs_done() + 1;
            let evaluate = epoch.is_multiple_of(evaluate_every) || epoch == self.settings.epochs;
            let measured = self.close_epoch(evaluate.then_some(protocol), images.len())?;
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
        let steps = images / self.settings.batch;
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
    fn step(&mut self, images: &[Image], batch: &[usize]) -> Result<f64, String> {
        let steps = images.len() / self.settings.batch;
        let done = self.steps_done(steps);
        let query = self.encoder.forward(self.views(images, batch, 0));
        let other = self.views(images, batch, 1);
        let keys = self.momentum_side.as_ref().map(|side| Keys {
            rows: side.encoder.forward(other.clone()),
            images: side.numbers(batch),
        });
        let loss = match (&self.momentum_side, &keys) {
            (Some(side), Some(keys)) => side.loss(&self.loss, query, keys),
            _ => self
                .loss
                .forward_in_batch(query, self.encoder.forward(other)),
        };

        let gradients = GradientsParams::from_grads(loss.backward(), &self.encoder);
        let rate = self.learning_rate(done, steps);
        self.encoder = self.optimizer.step(rate, self.encoder.clone(), gradients);
        if let (Some(side), Some(keys)) = (self.momentum_side.take(), keys) {
            let momentum = self.momentum(done, steps);
            self.momentum_side = Some(side.follow(&self.encoder, momentum, keys));
        }

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
