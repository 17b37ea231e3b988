//! The settings of a run: the options of the training, their defaults and their limits.

use clap::parser::ValueSource;
use clap::{ArgMatches, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::data::Source;
use crate::method::{Method, Schedule};
use crate::numbers::{MILLION, seed, whole};

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
    #[arg(value_parser = whole(1..=MILLION), allow_negative_numbers = true)]
    pub queue: usize,

    /// Share of itself that the momentum encoder of moco keeps in each step, from 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.99)]
    #[arg(value_parser = share, allow_negative_numbers = true)]
    pub momentum: f64,

    /// Whether the momentum of moco stays or grows over the run.
    #[arg(long, value_enum, value_name = "SCHEDULE", default_value_t = Schedule::Constant)]
    pub momentum_schedule: Schedule,

    /// Divisor of the logits, above 0. Lower values look more at the closest negatives. siglip starts from it and learns
    /// another [default: 0.2, for supcon 0.1].
    #[arg(long, value_name = "T")]
    #[arg(value_parser = temperature, allow_negative_numbers = true)]
    pub temperature: Option<f64>,

    /// Images in a step.
    #[arg(long, value_name = "N", default_value_t = 128, alias = "batch")]
    #[arg(value_parser = whole(1..=MILLION), allow_negative_numbers = true)]
    #[serde(alias = "batch")]
    pub batch_size: usize,

    /// Seed of everything random in the training.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = seed, allow_negative_numbers = true)]
    pub seed: u64,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok();
    share
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "it must be a number from 0 to 1".to_string())
}

/// The library, which has its own limits, looks at the value again.
fn temperature(text: &str) -> Result<f64, String> {
    let temperature = text.parse().ok();
    temperature
        .filter(|temperature: &f64| temperature.is_finite() && *temperature > 0.0)
        .ok_or_else(|| "it must be a finite number above 0".to_string())
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
        if self.batch_size < least || self.batch_size > training_images {
            return Err(format!(
                "--batch-size is {}; it must be from {least} to {training_images}, the number of training \
                 images",
                self.batch_size
            ));
        }
        Ok(())
    }

    /// Refuses options on the command line that would have no effect.
    pub fn refuse_unused(&self, given: &ArgMatches) -> Result<(), String> {
        if let Some(reason) = self.source.ignores_size()
            && on_command_line(given, "size")
        {
            return Err(format!("--size has no effect: {reason}"));
        }
        if self.method == Method::Moco {
            return Ok(());
        }
        let of_moco = ["queue", "momentum", "momentum-schedule"];
        let mut unused = of_moco.iter().filter(|name| on_command_line(given, name));
        unused.next().map_or(Ok(()), |option| {
            Err(format!(
                "--{option} has no effect with --method {}; leave it away, or choose --method moco",
                name(self.method)
            ))
        })
    }

    /// The settings of a resumed run: those of the checkpoint. The command line may change only the epochs;
    /// any other change would make it a different run.
    pub fn continuing(&self, saved: &Self, given: &ArgMatches) -> Result<Self, String> {
        for ((name, was), (_, asked)) in saved.options().into_iter().zip(self.options()) {
            if on_command_line(given, name) && was != asked {
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
            ("batch-size", self.batch_size.to_string()),
            ("seed", self.seed.to_string()),
        ]
    }
}

fn on_command_line(given: &ArgMatches, option: &str) -> bool {
    // clap knows an option by the name of its field.
    given.value_source(&option.replace('-', "_")) == Some(ValueSource::CommandLine)
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
            batch_size: 32,
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
    fn numbers_that_cannot_be_are_told_what_is_expected() {
        for (option, values, expected) in [
            ("--epochs", ["0", "-1"], "a whole number from 1 to"),
            ("--queue", ["0", "-1"], "a whole number from 1 to"),
            ("--batch-size", ["0", "-1"], "a whole number from 1 to"),
            ("--limit", ["0", "-1"], "a whole number from 1 to"),
            ("--size", ["3", "257"], "a whole number from 4 to 256"),
            ("--seed", ["-1", "x"], "a whole number from 0 to"),
            ("--momentum", ["1.1", "NaN"], "a number from 0 to 1"),
            ("--momentum", ["-0.5", "x"], "a number from 0 to 1"),
            ("--temperature", ["0", "-1"], "a finite number above 0"),
            ("--temperature", ["inf", "x"], "a finite number above 0"),
        ] {
            for value in values {
                let line = ["contrastive", option, value];
                let parsed = Arguments::command().try_get_matches_from(line);
                let error = parsed.unwrap_err().to_string();
                assert!(
                    error.contains(option) && error.contains(expected),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn a_batch_that_the_images_do_not_fill_is_refused_by_name() {
        for (options, images, part) in [
            (&["--batch-size", "301"][..], 300, "--batch-size is 301"),
            // The name that the option once had.
            (&["--batch", "301"], 300, "from 1 to 300"),
            (
                &["--method", "simclr", "--batch-size", "1"],
                300,
                "from 2 to 300",
            ),
            (&["--method", "simclr"], 1, "--method simclr needs 2"),
            (
                &["--method", "siglip", "--batch-size", "1"],
                300,
                "from 2 to 300",
            ),
            (&["--method", "supcon"], 1, "--method supcon needs 2"),
        ] {
            let error = given(options).0.check(images).unwrap_err();
            assert!(error.contains(part), "{options:?}: {error}");
        }
        for options in [
            &["--batch-size", "300", "--momentum", "1", "--queue", "1"][..],
            &["--batch-size", "1", "--momentum", "0"],
            &["--method", "simclr", "--batch-size", "2"],
        ] {
            assert_eq!(given(options).0.check(300), Ok(()), "{options:?}");
        }
    }

    #[test]
    fn options_without_effect_are_refused_by_name() {
        for options in [
            &["--queue", "512"][..],
            &["--momentum", "0.9"],
            &["--momentum-schedule", "cosine"],
        ] {
            for method in ["simclr", "supcon", "siglip"] {
                let all = [options, &["--method", method]].concat();
                let (settings, matches) = given(&all);
                let error = settings.refuse_unused(&matches).unwrap_err();
                assert!(
                    error.contains(options[0]) && error.contains(method),
                    "{error}"
                );
            }
            let (settings, matches) = given(options);
            assert_eq!(settings.refuse_unused(&matches), Ok(()));
        }
        let (settings, matches) = given(&["--size", "28"]);
        let error = settings.refuse_unused(&matches).unwrap_err();
        assert!(
            error.contains("--size") && error.contains("--data"),
            "{error}"
        );
        let (settings, matches) = given(&["--size", "28", "--data", "somewhere"]);
        assert_eq!(settings.refuse_unused(&matches), Ok(()));
        let (settings, matches) = given(&["--method", "simclr"]);
        assert_eq!(settings.refuse_unused(&matches), Ok(()));
    }

    #[test]
    fn a_resumed_run_keeps_its_settings_but_for_the_epochs() {
        let (saved, _) = given(&["--batch-size", "64", "--momentum-schedule", "cosine"]);
        for (option, value) in [("--batch-size", "32"), ("--momentum-schedule", "constant")] {
            let (settings, matches) = given(&[option, value]);
            let error = settings.continuing(&saved, &matches).unwrap_err();
            assert!(error.contains(&format!("not {option} {value}")), "{error}");
        }
        // The last is the temperature of moco.
        for options in [
            &[][..],
            &["--batch-size", "64"],
            &["--epochs", "9"],
            &["--temperature", "0.2"],
        ] {
            let (settings, matches) = given(options);
            assert_eq!(settings.continuing(&saved, &matches).as_ref(), Ok(&saved));
        }
    }
}
