//! The settings of a run: the options of the training, their defaults and their limits.

use clap::parser::ValueSource;
use clap::{ArgMatches, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::data::Source;
use crate::method::{Method, Schedule};

/// Images seen in a run without `--epochs`; an image that is seen again counts again.
const IMAGES_SEEN: usize = 260_000;

/// The options that decide the result; the same settings on the same backend give the same result.
#[derive(clap::Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    #[command(flatten)]
    pub source: Source,

    /// Way to contrast.
    #[arg(long, value_enum, default_value_t = Method::Moco)]
    pub method: Method,

    /// Passes over the training images.
    #[arg(skip)]
    pub epochs: usize,

    /// Negatives in the queue of moco. More make the task harder.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub queue: usize,

    /// Share of itself that the momentum encoder of moco keeps in each step, from 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.99)]
    pub momentum: f64,

    /// Whether the momentum stays or grows over the run.
    #[arg(long, value_enum, value_name = "SCHEDULE", default_value_t = Schedule::Constant)]
    pub momentum_schedule: Schedule,

    /// Divisor of the logits. Lower values look more at the closest negatives. siglip starts from it and learns
    /// another [default: 0.2, for supcon 0.1].
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,

    /// Images in a step.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub batch: usize,

    /// Seed of everything random in the training.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

impl Settings {
    /// Takes the epochs of the command line, or a default that depends on the number of images.
    pub fn with_epochs(self, given: Option<usize>, training_images: usize) -> Self {
        let default = || (IMAGES_SEEN / training_images.max(1)).clamp(1, 1000);
        Self {
            epochs: given.unwrap_or_else(default),
            ..self
        }
    }

    /// The temperature, by default the method's.
    pub fn temperature(&self) -> f64 {
        self.temperature
            .unwrap_or_else(|| self.method.temperature())
    }

    /// Refuses values that leave nothing to train.
    pub fn check(&self, training_images: usize) -> Result<(), String> {
        if self.epochs == 0 {
            return Err("--epochs is 0; at least 1 is needed".to_string());
        }
        if self.method == Method::Moco && self.queue == 0 {
            return Err("--queue is 0; without negatives there is nothing to contrast with".into());
        }
        let least = match self.method {
            Method::Moco => 1,
            Method::Simclr | Method::Supcon | Method::Siglip => 2,
        };
        if training_images < least {
            return Err(format!(
                "the training images are {training_images}; --method {} needs {least} at least",
                name(self.method)
            ));
        }
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
        Ok(())
    }

    /// The settings of a resumed run: those of the checkpoint. The command line may change only the epochs;
    /// any other change would make it a different run.
    pub fn continuing(&self, saved: &Self, given: &ArgMatches) -> Result<Self, String> {
        let on_command_line =
            |field: &str| given.value_source(field) == Some(ValueSource::CommandLine);
        for ((name, was), (_, asked)) in saved.options().into_iter().zip(self.options()) {
            // The command line knows an option by the name of its field.
            if on_command_line(&name.replace('-', "_")) && was != asked {
                return Err(format!(
                    "the checkpoint was made with {}, not --{name} {asked}; leave --{name} away to \
                     resume it, or start anew with --overwrite in place of --resume",
                    match was.as_str() {
                        "" => format!("no --{name}"),
                        was => format!("--{name} {was}"),
                    }
                ));
            }
        }
        Ok(saved.clone())
    }

    /// All options but the epochs, as a user types them; an absent option has an empty text.
    fn options(&self) -> [(&'static str, String); 10] {
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
            ("momentum-schedule", name(self.momentum_schedule)),
            ("temperature", self.temperature().to_string()),
            ("batch", self.batch.to_string()),
            ("seed", self.seed.to_string()),
        ]
    }
}

/// The name of an option's value on the command line.
fn name(value: impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_string())
}

#[cfg(test)]
impl Settings {
    /// The settings of a short run by this method.
    pub fn of(method: Method) -> Self {
        Self {
            source: Source::default(),
            method,
            epochs: 2,
            queue: 40,
            momentum: 0.9,
            momentum_schedule: Schedule::Constant,
            temperature: None,
            batch: 32,
            seed: 5,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::Arguments;

    /// The settings of these options, and the parsed command line.
    fn given(options: &[&str]) -> (Settings, ArgMatches) {
        let line = ["contrastive"].iter().chain(options);
        let matches = Arguments::command().try_get_matches_from(line).unwrap();
        let arguments = Arguments::from_arg_matches(&matches).unwrap();
        let epochs = arguments.epochs.or(Some(3));
        (arguments.settings.with_epochs(epochs, 100), matches)
    }

    #[test]
    fn what_cannot_be_trained_with_is_refused_by_name() {
        for (options, images, part) in [
            (&["--epochs", "0"][..], 300, "--epochs is 0"),
            (&["--queue", "0"], 300, "--queue is 0"),
            (
                &["--batch", "0"],
                300,
                "--batch is 0; it must be from 1 to 300",
            ),
            (&["--batch", "301"], 300, "--batch is 301"),
            (
                &["--method", "simclr", "--batch", "1"],
                300,
                "from 2 to 300",
            ),
            (&["--method", "simclr"], 1, "--method simclr needs 2"),
            (
                &["--method", "siglip", "--batch", "1"],
                300,
                "from 2 to 300",
            ),
            (&["--method", "supcon"], 1, "--method supcon needs 2"),
            (&["--momentum", "1.1"], 300, "--momentum is 1.1"),
            (&["--momentum", "NaN"], 300, "--momentum is NaN"),
        ] {
            let error = given(options).0.check(images).unwrap_err();
            assert!(error.contains(part), "{options:?}: {error}");
        }
        for options in [
            &["--batch", "300", "--momentum", "1", "--queue", "1"][..],
            &["--batch", "1", "--momentum", "0"],
            // SimCLR does not have a queue.
            &["--method", "simclr", "--queue", "0", "--batch", "2"],
        ] {
            assert_eq!(given(options).0.check(300), Ok(()), "{options:?}");
        }
    }

    #[test]
    fn a_resumed_run_keeps_its_settings_but_for_the_epochs() {
        let (saved, _) = given(&["--batch", "64", "--momentum-schedule", "cosine"]);
        for (option, value) in [("--batch", "32"), ("--momentum-schedule", "constant")] {
            let (settings, matches) = given(&[option, value]);
            let error = settings.continuing(&saved, &matches).unwrap_err();
            assert!(error.contains(&format!("not {option} {value}")), "{error}");
        }
        // The last is the temperature of moco.
        for options in [
            &[][..],
            &["--batch", "64"],
            &["--epochs", "9"],
            &["--temperature", "0.2"],
        ] {
            let (settings, matches) = given(options);
            assert_eq!(settings.continuing(&saved, &matches).as_ref(), Ok(&saved));
        }
    }
}
