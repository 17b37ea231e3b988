//! Handwritten digits classified with burn-train's `Learner`: the command line and the story of a run.
//!
//! `cargo run --release --example classify --features tui -- --help` explains the options.

#[path = "../common/backend.rs"]
mod backend;
#[path = "../common/canvas.rs"]
mod canvas;
mod checkpoints;
mod confusion;
#[path = "../common/digits.rs"]
mod digits;
mod epoch_lines;
#[path = "../common/files.rs"]
mod files;
mod model;
#[path = "../common/numbers.rs"]
mod numbers;
mod training;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::train::Interrupter;
use clap::Parser;

use crate::backend::BackendName;
use crate::checkpoints::Checkpoints;
use crate::confusion::Confusion;
use crate::training::{Course, Settings};

/// The exit code of shells for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Learn to classify handwritten digits with burn-train's Learner and this crate's loss.
///
/// A small convolutional network learns from 1297 images of 8 x 8 pixels; 500 others, always the
/// same, are held out for the metrics and the confusion matrix. The data is part of the program. The
/// default run takes some ten seconds on two CPU cores.
///
/// It prints a line per epoch. Ctrl-C ends it, and the checkpoint of the last whole epoch is left for
/// --resume. Built with `--features tui` and run in a terminal it shows burn-train's dashboard instead:
/// there `q`, then `s`, stops it and keeps what is saved, `k` aborts, and Ctrl-C does nothing.
#[derive(Parser)]
#[command(name = "classify", version)]
struct Arguments {
    /// Backend to compute on. The build must have its Cargo feature.
    #[arg(long, value_enum, default_value_t = BackendName::Flex)]
    backend: BackendName,

    #[command(flatten)]
    settings: Settings,

    /// Folder for the checkpoints, burn-train's metric logs and the picture.
    #[arg(long, value_name = "FOLDER", default_value = "classify-output")]
    output: PathBuf,

    /// Continue after the last epoch that is saved in the output folder. A larger --epochs prolongs a
    /// finished run.
    #[arg(long)]
    resume: bool,

    /// Replace the run in the output folder. Without --overwrite or --resume the program refuses a folder
    /// with checkpoints.
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,

    /// Print a line per epoch in a terminal too, where a build with `--features tui` shows burn-train's
    /// dashboard.
    #[arg(long)]
    no_dashboard: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(sentence) => {
            eprintln!("error: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, String> {
    let Arguments {
        backend,
        settings,
        output,
        resume,
        overwrite,
        no_dashboard,
    } = arguments;
    let checkpoints = Checkpoints::in_folder(&output);
    if !resume && !overwrite {
        checkpoints.must_not_exist()?;
    }
    let device = backend.device()?;
    let interrupter = Interrupter::new();
    watch_for_interrupts(interrupter.clone())?;
    let split = digits::load()?;
    files::make_folder(&output)?;
    let done = if resume {
        Some(checkpoints.last_epoch(&settings)?)
    } else {
        checkpoints.start(&settings)?;
        None
    };
    match done {
        Some(done) if done < settings.epochs => {
            println!("Resuming after epoch {done} of {}.", settings.epochs)
        }
        Some(done) => {
            println!("The {done} epochs in the folder are over; a larger --epochs prolongs them.")
        }
        None => println!(
            "{} images to learn from, {} held out.",
            split.training.len(),
            split.held_out.len()
        ),
    }

    let course = Course {
        folder: &output,
        done,
        dashboard: !no_dashboard,
        interrupter,
    };
    let model = training::train(&settings, &split, course, &device)?;
    let finished = checkpoints.newest_epoch();
    if finished < settings.epochs {
        match finished {
            0 => println!("Interrupted in the first epoch; nothing is saved yet."),
            _ => println!(
                "Interrupted in epoch {} of {}; what was learnt before it is in {}. To go on, \
                 repeat the command with --resume{}.",
                finished + 1,
                settings.epochs,
                output.display(),
                if overwrite {
                    " in place of --overwrite"
                } else {
                    ""
                },
            ),
        }
        return Ok(ExitCode::from(INTERRUPTED));
    }

    let confusion = Confusion::of(&model, &split.held_out, &device)?;
    files::replace_file(&output.join("confusion.png"), |path| confusion.draw(path))?;
    println!();
    println!(
        "Accuracy on the {} held-out images: {:.4}",
        split.held_out.len(),
        confusion.accuracy()
    );
    println!(
        "The confusion matrix (confusion.png), the metrics and the model (checkpoint/model-{finished}.bpk) are in {}.",
        output.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Ends the training at the next batch on the first Ctrl-C, and the program at once on the second one, which
/// leaves the checkpoints of earlier epochs.
fn watch_for_interrupts(interrupter: Interrupter) -> Result<(), String> {
    let asked = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED.into());
        }
        interrupter.stop(Some("Ctrl-C"));
    })
    .map_err(|error| format!("Ctrl-C cannot be watched for: {error}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_option_has_the_type_of_its_field() {
        Arguments::command().debug_assert();
        // A default of another type panics here.
        let arguments = Arguments::try_parse_from(["classify"]).expect("no option is needed");
        assert!(!arguments.resume && !arguments.overwrite && !arguments.no_dashboard);
    }

    #[test]
    fn numbers_that_cannot_be_are_told_what_is_expected() {
        let error = |option, value| {
            let parsed = Arguments::try_parse_from(["classify", option, value]);
            parsed.err().unwrap().to_string()
        };
        for (option, expected) in [
            ("--epochs", "a whole number from 1 to"),
            ("--batch-size", "a whole number from 1 to"),
            ("--learning-rate", "a finite number above 0"),
            ("--label-smoothing", "a number from 0 to 1"),
            ("--seed", "a whole number from 0 to"),
        ] {
            for value in ["-1", "x"] {
                let error = error(option, value);
                assert!(
                    error.contains(option) && error.contains(expected),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn a_run_is_either_continued_or_replaced() {
        assert!(Arguments::try_parse_from(["classify", "--resume", "--overwrite"]).is_err());
    }
}
