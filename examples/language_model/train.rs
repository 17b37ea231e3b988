//! The training: its steps, its schedule, and what is measured on the way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::Device;
use burn_cross_entropy::{
    CrossEntropyLossConfig, LinearCrossEntropyLoss, LinearCrossEntropyLossConfig,
};
use indicatif::{ProgressBar, ProgressStyle};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::model::LanguageModel;
use crate::numbers::{MILLION, seed, whole};
use crate::text::{Batch, IGNORED, LENGTH, Split};

const LEARNING_RATE: f64 = 3e-3;
/// The share of the training in which the learning rate rises from 0, before it falls to 0 again.
const WARM_UP: f64 = 0.05;
const WEIGHT_DECAY: f32 = 0.05;
/// The norm to which each parameter's gradient is clipped.
const LARGEST_NORM: f32 = 1.0;
/// Measurements of the held-out text in a run.
const MEASUREMENTS: usize = 12;
/// Passages of the held-out text that are measured together.
const MEASURED_TOGETHER: usize = 32;

/// The measurements after some steps, in bits per character.
pub struct Measured {
    pub step: usize,
    /// The mean of the steps since the last measurement; each step is measured before the model learns from
    /// it.
    pub training: f64,
    pub held_out: f64,
}

/// The options that decide the result; the same settings on the same backend give the same result.
#[derive(clap::Args, Clone, Copy)]
pub struct Settings {
    /// Steps of the training, at most a million.
    #[arg(long, value_name = "N", default_value_t = 4500)]
    #[arg(value_parser = whole(1..=MILLION), allow_negative_numbers = true)]
    pub steps: usize,

    /// Passages of the text in a step, at most 1024.
    #[arg(long, value_name = "N", default_value_t = 8)]
    #[arg(value_parser = whole(1..=1024), allow_negative_numbers = true)]
    pub batch_size: usize,

    /// Seed of the initial weights, the passages and the generated text.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = seed, allow_negative_numbers = true)]
    pub seed: u64,
}

/// Everything that changes in the training.
pub struct Trainer {
    pub model: LanguageModel,
    pub history: Vec<Measured>,
    pub random: StdRng,
    settings: Settings,
    optimizer: ModuleOptimizer,
    loss: LinearCrossEntropyLoss,
    device: Device,
}

impl Trainer {
    pub fn new(settings: Settings, classes: usize, device: &Device) -> Self {
        device.seed(settings.seed);
        let loss = CrossEntropyLossConfig::new().with_ignore_indices(vec![i64::from(IGNORED)]);
        Self {
            model: LanguageModel::new(classes, &device.clone().autodiff()),
            history: Vec::new(),
            random: StdRng::seed_from_u64(settings.seed),
            settings,
            optimizer: AdamWConfig::new()
                .with_weight_decay(WEIGHT_DECAY)
                .with_epsilon(1e-8)
                .with_grad_clipping(Some(GradientClippingConfig::Norm(LARGEST_NORM)))
                .init(),
            loss: LinearCrossEntropyLossConfig::new()
                .with_loss(loss)
                .init(device),
            device: device.clone(),
        }
    }

    /// Trains up to the last step or the interruption.
    pub fn train(&mut self, split: &Split, interrupted: &AtomicBool) -> Result<(), String> {
        let steps = self.settings.steps;
        let bar = progress_bar(steps, "step");
        let every = steps.div_ceil(MEASUREMENTS);
        let (start, mut since) = (Instant::now(), Vec::new());
        for step in 1..=steps {
            since.push(self.step(step, &split.training)?);
            bar.inc(1);
            let read = (step * self.settings.batch_size * LENGTH) as f64;
            bar.set_message(format!(
                "{:.2} bits per character  {:.0} characters/s",
                since[since.len() - 1],
                read / start.elapsed().as_secs_f64()
            ));
            let stop = interrupted.load(Ordering::SeqCst);
            if stop || step.is_multiple_of(every) || step == steps {
                let measured = Measured {
                    step,
                    training: since.iter().sum::<f64>() / since.len() as f64,
                    held_out: self.bits(&split.held_out)?,
                };
                since.clear();
                bar.suspend(|| {
                    println!(
                        "step {step:5}  perplexity {:6.2}, of held-out text {:6.2}",
                        measured.training.exp2(),
                        measured.held_out.exp2()
                    );
                });
                self.history.push(measured);
            }
            if stop {
                break;
            }
        }
        bar.finish_and_clear();
        println!("Trained for {:.0} s.", start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Makes one step, counted from 1, and returns its bits per character.
    fn step(&mut self, step: usize, text: &[i32]) -> Result<f64, String> {
        let mut start = |_| self.random.random_range(0..text.len() - LENGTH);
        let starts: Vec<usize> = (0..self.settings.batch_size).map(&mut start).collect();
        let (inputs, targets) = Batch::new(text, &starts).to_tensors(&self.device);
        let hidden = self.model.hidden(inputs);
        let loss = self
            .loss
            .forward(hidden, self.model.projection(), None, targets);
        let gradients = GradientsParams::from_grads(loss.backward(), &self.model);
        self.model = self
            .optimizer
            .step(self.learning_rate(step), self.model.clone(), gradients);

        let loss: f32 = loss.try_into_scalar().map_err(unreadable)?;
        if loss.is_finite() {
            Ok(f64::from(loss) / std::f64::consts::LN_2)
        } else {
            Err(format!("the loss is {loss} in step {step}"))
        }
    }

    /// The learning rate of a step: it rises evenly during the warm-up and falls along a cosine.
    fn learning_rate(&self, step: usize) -> f64 {
        let share = step as f64 / self.settings.steps as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * share).cos());
        LEARNING_RATE * (share / WARM_UP).min(1.0) * cosine
    }

    /// The bits per character of a text. The first passage is guessed from its start on; every later
    /// character is guessed from at least half a passage before it.
    fn bits(&self, text: &[i32]) -> Result<f64, String> {
        let model = self.model.valid();
        let mut sum = 0.0;
        for batch in Batch::over(text, MEASURED_TOGETHER) {
            let (inputs, targets) = batch.to_tensors(&self.device);
            let hidden = model.hidden(inputs);
            let losses = self
                .loss
                .forward_no_reduction(hidden, model.projection(), None, targets);
            let loss: f32 = losses.sum().try_into_scalar().map_err(unreadable)?;
            sum += f64::from(loss);
        }
        Ok(sum / (text.len() - 1) as f64 / std::f64::consts::LN_2)
    }
}

pub fn unreadable(error: impl std::fmt::Display) -> String {
    format!("the result cannot be read from the device: {error}")
}

pub fn progress_bar(length: usize, of_what: &str) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    let template = format!("{{bar:30}} {of_what} {{pos}}/{{len}}  {{msg}}  {{eta}} left");
    match ProgressStyle::with_template(&template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::alone;

    #[test]
    fn the_same_seed_gives_the_same_result_and_another_seed_another() {
        let _alone = alone();
        let split = Split::of(
            (0..10 * (LENGTH as i32 + 1))
                .map(|at| at * at % 13)
                .collect(),
        )
        .unwrap();
        let train = |seed| {
            let settings = Settings {
                steps: 2,
                batch_size: 1,
                seed,
            };
            let mut trainer = Trainer::new(settings, 13, &Device::flex());
            trainer.train(&split, &AtomicBool::new(false)).unwrap();
            let found = trainer.history.iter();
            found
                .map(|one| (one.training, one.held_out))
                .collect::<Vec<_>>()
        };
        let one = train(1);
        assert_eq!(one.len(), 2);
        assert_eq!(one, train(1));
        assert_ne!(one, train(2));
    }
}
