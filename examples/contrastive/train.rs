//! The training: its steps and its schedule.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor};
use burn_cross_entropy::{CrossEntropyLoss, CrossEntropyLossConfig};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::augment;
use crate::checkpoint::{Checkpoint, Saved};
use crate::digits::{self, Image, Split};
use crate::display::Display;
use crate::encoder::{Encoder, Layer};
use crate::evaluate::Protocol;
use crate::moco::{self, Queue};
use crate::random::generator;
use crate::settings::Settings;

const LEARNING_RATE: f64 = 2e-3;
/// The share of the training in which the learning rate rises from 0, before it falls to 0 again.
const WARM_UP: f64 = 0.02;
const WEIGHT_DECAY: f32 = 1e-4;
/// Epochs from one evaluation and checkpoint to the next.
const EVALUATE_EVERY: usize = 20;

/// How the training came to an end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Finished,
    Interrupted,
}

/// What was measured in an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    pub loss: f64,
    /// Measured every few epochs.
    pub accuracy: Option<f64>,
}

/// How far the training is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// The epochs that are over.
    pub history: Vec<Epoch>,
    /// The losses of the steps of the epoch that is not over.
    pub losses: Vec<f64>,
}

impl Progress {
    pub fn epochs_done(&self) -> usize {
        self.history.len()
    }
}

/// Everything that changes in the training.
pub struct Trainer {
    pub settings: Settings,
    pub progress: Progress,
    pub encoder: Encoder,
    /// Follows `encoder` slowly and has no gradients.
    pub momentum_encoder: Encoder,
    pub queue: Queue,
    pub optimizer: ModuleOptimizer,
    loss: CrossEntropyLoss,
    device: Device,
}

impl Trainer {
    pub fn new(settings: Settings, device: &Device) -> Self {
        device.seed(settings.seed);
        let encoder = Encoder::new(&device.clone().autodiff());
        Self {
            progress: Progress::default(),
            momentum_encoder: encoder.valid(),
            encoder,
            queue: Queue::random(settings.queue, settings.seed, device),
            optimizer: AdamWConfig::new()
                .with_weight_decay(WEIGHT_DECAY)
                .with_epsilon(1e-8)
                .init(),
            loss: CrossEntropyLossConfig::new()
                .with_logit_scale((1.0 / settings.temperature) as f32)
                .init(device),
            device: device.clone(),
            settings,
        }
    }

    /// Takes over everything that was saved.
    pub fn restore(&mut self, saved: Saved) -> Result<(), String> {
        self.progress = saved.progress.clone();
        (self.momentum_encoder, self.queue.negatives) =
            saved.momentum_side(self.momentum_encoder.clone(), self.queue.negatives.clone())?;
        self.encoder = saved.encoder(self.encoder.clone())?;
        self.optimizer = self.optimizer.clone().load_record(saved.optimizer);
        Ok(())
    }

    /// Trains up to the last epoch or the interruption, and leaves a checkpoint.
    pub fn train(
        &mut self,
        split: &Split,
        protocol: &Protocol,
        checkpoint: &Checkpoint,
        interrupted: &AtomicBool,
    ) -> Result<Ending, String> {
        let images = &split.training.images;
        let display = Display::new(self, images.len() / self.settings.batch);
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
            self.close_epoch();
            let epoch = self.progress.epochs_done();
            if epoch.is_multiple_of(EVALUATE_EVERY) || epoch == self.settings.epochs {
                let accuracy =
                    protocol.accuracy_of_encoder(&self.encoder, Layer::Embedding, split)?;
                if let Some(last) = self.progress.history.last_mut() {
                    last.accuracy = Some(accuracy.mean);
                    display.evaluated(epoch, last);
                }
                checkpoint.save(self)?;
            }
        }
        display.close();
        Ok(Ending::Finished)
    }

    fn close_epoch(&mut self) {
        let losses = std::mem::take(&mut self.progress.losses);
        let loss = losses.iter().sum::<f64>() / losses.len() as f64;
        self.progress.history.push(Epoch {
            loss,
            accuracy: None,
        });
    }

    /// One step on the images with these numbers; gives the loss.
    fn step(&mut self, images: &[Image], batch: &[usize]) -> Result<f64, String> {
        let queries = self.encoder.forward(self.views(images, batch, 0));
        let keys = self.momentum_encoder.forward(self.views(images, batch, 1));
        let logits = moco::logits(queries, keys.clone(), self.queue.negatives.clone());
        let labels = Tensor::<1, Int>::zeros([batch.len()], &self.device);
        let loss = self.loss.forward(logits, labels);

        let gradients = GradientsParams::from_grads(loss.backward(), &self.encoder);
        let rate = self.learning_rate(images.len() / self.settings.batch);
        self.encoder = self.optimizer.step(rate, self.encoder.clone(), gradients);
        self.momentum_encoder = moco::momentum_update(
            self.momentum_encoder.clone(),
            &self.encoder,
            self.settings.momentum,
        );
        self.queue.push(keys);

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

    /// One random view of each image of the batch.
    fn views(&self, images: &[Image], batch: &[usize], which: u64) -> Tensor<4> {
        let epoch = self.progress.epochs_done() as u64;
        let views: Vec<Image> = batch
            .iter()
            .map(|&number| {
                augment::view(
                    &images[number],
                    [self.settings.seed, epoch, number as u64, which],
                )
            })
            .collect();
        digits::to_tensor(&views, &self.device)
    }

    /// The numbers of the training images in the order of the current epoch.
    fn shuffled(&self, images: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..images).collect();
        let epoch = self.progress.epochs_done() as u64;
        order.shuffle(&mut generator([self.settings.seed, epoch, u64::MAX, 0]));
        order
    }

    /// Rises evenly during the warm-up and falls along a cosine.
    fn learning_rate(&self, steps_per_epoch: usize) -> f64 {
        let step = self.progress.epochs_done() * steps_per_epoch + self.progress.losses.len();
        let share = (step + 1) as f64 / (self.settings.epochs * steps_per_epoch) as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * share).cos());
        LEARNING_RATE * (share / WARM_UP).min(1.0) * cosine
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_and_resumed_run_is_the_run_without_interruption() {
        let mut split = digits::load().unwrap();
        for digits in [&mut split.training, &mut split.held_out] {
            digits.images.truncate(96);
            digits.labels.truncate(96);
        }
        let settings = Settings {
            epochs: 2,
            queue: 40,
            momentum: 0.9,
            temperature: 0.2,
            batch: 32,
            seed: 5,
        };
        let folder = crate::files::TestFolder::new("resumed");
        let checkpoint = |name| Checkpoint::in_folder(&folder.0.join(name));
        let train = |trainer: &mut Trainer, checkpoint: &Checkpoint, interrupted| {
            trainer
                .train(
                    &split,
                    &Protocol::new(&split),
                    checkpoint,
                    &AtomicBool::new(interrupted),
                )
                .unwrap()
        };

        let mut whole = Trainer::new(settings, &Device::flex());
        assert!(train(&mut whole, &checkpoint("whole"), false) == Ending::Finished);

        let parts = checkpoint("parts");
        let mut part = Trainer::new(settings, &Device::flex());
        for _ in 0..4 {
            assert!(train(&mut part, &parts, true) == Ending::Interrupted);
            part = Trainer::new(settings, &Device::flex());
            part.restore(parts.load().unwrap()).unwrap();
        }
        assert_eq!(part.progress.losses.len(), 1);
        assert!(train(&mut part, &parts, false) == Ending::Finished);

        let represent = |trainer: &Trainer| {
            trainer
                .encoder
                .represent(&split.held_out.images, Layer::Embedding)
                .unwrap()
        };
        assert_eq!(represent(&part), represent(&whole));
        assert_eq!(part.progress.history, whole.progress.history);
    }
}
