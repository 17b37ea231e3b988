//! What a run depends on: the options of the training, their defaults and their limits.

use clap::ArgMatches;
use clap::parser::ValueSource;
use serde::{Deserialize, Serialize};

use crate::data::Source;
use crate::method::Method;

/// Without `--epochs` so many images are seen, some of them again and again.
const IMAGES_SEEN: usize = 260_000;

/// The options that decide the result; the same settings on the same backend give the same result.
#[derive(clap::Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    #[command(flatten)]
    pub source: Source,

    /// Where the negatives come from.
    #[arg(long, value_enum, default_value_t = Method::Moco)]
    pub method: Method,

    /// Passes over the training images.
    #[arg(skip)]
    pub epochs: usize,

    /// Negatives in the queue of moco. More make the task harder.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub queue: usize,

    /// How much of itself the momentum encoder of moco keeps in each step, from 0 to 1.
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
    /// Takes the epochs of the command line, or a number that depends on that of the images.
    pub fn with_epochs(self, given: Option<usize>, training_images: usize) -> Self {
        let default = || (IMAGES_SEEN / training_images.max(1)).clamp(1, 1000);
        Self {
            epochs: given.unwrap_or_else(default),
            ..self
        }
    }

    /// Refuses values with which there is nothing to train.
    pub fn check(&self, training_images: usize) -> Result<(), String> {
        if self.epochs == 0 {
            return Err("--epochs is 0; at least 1 is needed".to_string());
        }
        if self.queue == 0 {
            return Err("--queue is 0; without negatives there is nothing to contrast with".into());
        }
        let least = match self.method {
            Method::Moco => 1,
            Method::Simclr => 2,
        };
        if self.batch < least || self.batch > training_images {
            return Err(format!(
                "--batch is {}; it must be from {least} to {training_images}, the number of training images",
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

    /// The settings of a resumed run: those of the checkpoint, of which the command line may change nothing
    /// but the epochs. Any other change would make it a different run.
    pub fn continuing(&self, saved: &Self, given: &ArgMatches) -> Result<Self, String> {
        let on_command_line = |name| given.value_source(name) == Some(ValueSource::CommandLine);
        for ((name, was), (_, asked)) in saved.options().into_iter().zip(self.options()) {
            if on_command_line(name) && was != asked {
                return Err(format!(
                    "the checkpoint was made with {}, not --{name} {asked}; leave --{name} away to \
                     resume it, or start anew without --resume",
                    match was.as_str() {
                        "" => format!("no --{name}"),
                        was => format!("--{name} {was}"),
                    }
                ));
            }
        }
        Ok(saved.clone())
    }

    /// All but the epochs, as they stand on the command line; nothing where they do not.
    fn options(&self) -> [(&'static str, String); 9] {
        let name = |method: Method| format!("{method:?}").to_lowercase();
        let folder = self.source.data.as_ref();
        [
            (
                "data",
                folder.map_or_else(String::new, |path| path.display().to_string()),
            ),
            ("size", self.source.size.to_string()),
            (
                "limit",
                self.source
                    .limit
                    .map_or_else(String::new, |limit| limit.to_string()),
            ),
            ("method", name(self.method)),
            ("queue", self.queue.to_string()),
            ("momentum", self.momentum.to_string()),
            ("temperature", self.temperature.to_string()),
            ("batch", self.batch.to_string()),
            ("seed", self.seed.to_string()),
        ]
    }
}
