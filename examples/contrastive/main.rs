//! Momentum contrast (MoCo) on handwritten digits: the command line and the story of a run.
//!
//! `cargo run --release --example contrastive -- --help` explains the options.

mod augment;
#[path = "../common/backend.rs"]
mod backend;
#[path = "../common/canvas.rs"]
mod canvas;
mod checkpoint;
#[path = "../common/digits.rs"]
mod digits;
mod display;
mod encoder;
mod evaluate;
#[path = "../common/files.rs"]
mod files;
mod folders;
#[path = "../common/interrupt.rs"]
mod interrupt;
mod moco;
mod pca;
mod pictures;
#[path = "../common/random.rs"]
mod random;
mod report;
mod settings;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};

use crate::backend::BackendName;
use crate::checkpoint::Checkpoint;
use crate::digits::Split;
use crate::encoder::Layer;
use crate::evaluate::Protocol;
use crate::interrupt::INTERRUPTED;
use crate::report::{Baselines, Report};
use crate::settings::Settings;
use crate::train::{Ending, Trainer};

/// Learn to recognise handwritten digits without labels, by momentum contrast (MoCo).
///
/// Two random views of an image are pulled together and away from a queue of other images: a
/// cross-entropy loss in which the positive stands at index 0, so that every label is 0. The
/// result is measured with 10 labelled images per class, beside raw pixels and the untrained
/// encoder. The data, 1797 images of 8 x 8 pixels, is part of the program.
#[derive(Parser)]
#[command(name = "contrastive", version)]
struct Arguments {
    /// Where to compute. The build must have the backend's Cargo feature.
    #[arg(long, value_enum, default_value_t = BackendName::Flex)]
    backend: BackendName,

    #[command(flatten)]
    settings: Settings,

    /// Folder for the pictures, the metrics and the checkpoint.
    #[arg(long, value_name = "FOLDER", default_value = "contrastive-output")]
    output: PathBuf,

    /// Go on from the checkpoint in the output folder, with its settings. A larger --epochs
    /// prolongs a finished run.
    #[arg(long)]
    resume: bool,
}

fn main() -> ExitCode {
    let matches = Arguments::command().get_matches();
    let arguments = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    match run(arguments, &matches) {
        Ok(Ending::Finished) => ExitCode::SUCCESS,
        Ok(Ending::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(sentence) => {
            eprintln!("error: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Arguments, given: &ArgMatches) -> Result<Ending, String> {
    let interrupted = interrupt::watch()?;
    let device = arguments.backend.device()?;
    let checkpoint = Checkpoint::in_folder(&arguments.output);
    let saved = if arguments.resume {
        let saved = checkpoint.load()?;
        arguments.settings = arguments.settings.continuing(&saved.settings, given)?;
        Some(saved)
    } else {
        None
    };

    let split = digits::load()?;
    arguments.settings.check(split.training.len())?;
    files::make_folder(&arguments.output)?;
    let protocol = Protocol::new(&split);
    let mut trainer = Trainer::new(arguments.settings, &device);
    println!(
        "{} images to learn from without labels, {} held out for the accuracy; {} parameters; backend {}.",
        split.training.len(),
        split.held_out.len(),
        trainer.encoder.parameters(),
        arguments.backend,
    );
    let baselines = Baselines {
        raw_pixels: protocol.accuracy_of_pixels(&split),
        untrained_features: protocol.accuracy_of_encoder(
            &trainer.encoder,
            Layer::Features,
            &split,
        )?,
        untrained: protocol.accuracy_of_encoder(&trainer.encoder, Layer::Embedding, &split)?,
    };

    if let Some(saved) = saved {
        trainer.restore(saved)?;
        let done = trainer.progress.epochs_done();
        if done < trainer.settings.epochs {
            println!(
                "Resuming after epoch {done} of {}.",
                trainer.settings.epochs
            );
        } else {
            println!(
                "The {done} epochs of the checkpoint are over; a larger --epochs prolongs them."
            );
        }
    } else if checkpoint.exists() {
        println!(
            "{} holds the checkpoint of an earlier run, which this run will replace; --resume would continue it.",
            arguments.output.display()
        );
    }
    let ending = trainer.train(&split, &protocol, &checkpoint, &interrupted)?;
    finish(ending, &trainer, &split, &protocol, &baselines, &arguments)?;
    Ok(ending)
}

/// Draws, writes and prints what the run achieved, whether it is over or interrupted.
fn finish(
    ending: Ending,
    trainer: &Trainer,
    split: &Split,
    protocol: &Protocol,
    baselines: &Baselines,
    arguments: &Arguments,
) -> Result<(), String> {
    let report = Report {
        baselines,
        trained: protocol.accuracy_of_encoder(&trainer.encoder, Layer::Embedding, split)?,
        history: &trainer.progress.history,
        embeddings: trainer
            .encoder
            .represent(&split.held_out.images, Layer::Embedding)?,
        labels: &split.held_out.labels,
    };
    report.write(&arguments.output)?;
    report.print();
    match ending {
        Ending::Finished => println!(
            "The pictures, the metrics and the encoder are in {}.",
            arguments.output.display()
        ),
        Ending::Interrupted => println!(
            "Interrupted in epoch {} of {}; everything up to there is in {}. To go on, repeat the command with --resume.",
            trainer.progress.epochs_done() + 1,
            trainer.settings.epochs,
            arguments.output.display()
        ),
    }
    Ok(())
}
