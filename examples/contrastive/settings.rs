//! What a run depends on: the options of the training, their defaults and their limits.

use clap::ArgMatches;
use clap::parser::ValueSource;
use serde::{Deserialize, Serialize};

/// The options that decide the result; the same settings on the same backend give the same result.
#[derive(clap::Args, Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Passes over the training images.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub epochs: usize,

    /// Negatives in the queue. More make the task harder.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub queue: usize,

    /// How much of itself the momentum encoder keeps in each step, from 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.99)]
    pub momentum: f64,

    /// What the logits are divided by. Lower values look more at the closest negatives.
    #[arg(long, value_name = "T", default_value_t = 0.2)]
    pub temperature: f64,

    /// Images in a step.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub batch: usize,

    /// Seed of everything random in the training.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

impl Settings {
    /// Refuses values with which there is nothing to train.
    pub fn check(&self, training_images: usize) -> Result<(), String> {
        if self.epochs == 0 {
            return Err("--epochs is 0; at least 1 is needed".to_string());
        }
        if self.queue == 0 {
            return Err("--queue is 0; without negatives there is nothing to contrast with".into());
        }
        if self.batch == 0 || self.batch > training_images {
            return Err(format!(
                "--batch is {}; it must be from 1 to {training_images}, the number of training images",
                self.batch
            ));
        }
        if !(0.0..=1.0).contains(&self.momentum) {
            return Err(format!(
                "--momentum is {}; it must be from 0 to 1",
                self.momentum
            ));
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(format!(
                "--temperature is {}; it must be above 0",
                self.temperature
            ));
        }
        Ok(())
    }

    /// The settings of a resumed run: those of the checkpoint, with the number of epochs of the
    /// command line if it was given there. Any other change would make it a different run.
    pub fn continuing(&self, saved: &Self, given: &ArgMatches) -> Result<Self, String> {
        let on_command_line = |name| given.value_source(name) == Some(ValueSource::CommandLine);
        let pairs = [
            ("queue", saved.queue.to_string(), self.queue.to_string()),
            (
                "momentum",
                saved.momentum.to_string(),
                self.momentum.to_string(),
            ),
            (
                "temperature",
                saved.temperature.to_string(),
                self.temperature.to_string(),
            ),
            ("batch", saved.batch.to_string(), self.batch.to_string()),
            ("seed", saved.seed.to_string(), self.seed.to_string()),
        ];
        for (name, was, asked) in pairs {
            if on_command_line(name) && was != asked {
                return Err(format!(
                    "the checkpoint was made with --{name} {was}, not {asked}; leave --{name} away to \
                     resume it, or start anew without --resume"
                ));
            }
        }
        let epochs = if on_command_line("epochs") {
            self.epochs
        } else {
            saved.epochs
        };
        Ok(Self { epochs, ..*saved })
    }
}
