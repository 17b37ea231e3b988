//! Contrastive learning on images, by default momentum contrast (MoCo) on handwritten digits: the command
//! line and the story of a run.
//!
//! `cargo run --release --example contrastive -- --help` explains the options.

mod augment;
#[path = "../common/backend.rs"]
mod backend;
#[path = "../common/canvas.rs"]
mod canvas;
mod checkpoint;
mod contrast;
mod data;
#[allow(dead_code)] // `to_tensor` for digits is used by other examples only.
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
mod log;
mod method;
#[path = "../common/numbers.rs"]
mod numbers;
mod pca;
mod pictures;
#[path = "../common/probe.rs"]
mod probe;
#[path = "../common/random.rs"]
mod random;
mod report;
mod settings;
mod train;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};

use crate::backend::BackendName;
use crate::checkpoint::Checkpoint;
use crate::data::Dataset;
use crate::encoder::{Encoder, Layer};
use crate::evaluate::{Measured, Protocol, Represented};
use crate::interrupt::INTERRUPTED;
use crate::numbers::{MILLION, whole};
use crate::report::{Baselines, Report};
use crate::settings::Settings;
use crate::train::{Ending, Trainer};

/// Learn to recognise images by contrasting them: without labels by momentum contrast (MoCo), SimCLR or SigLIP,
/// with labels by SupCon.
///
/// Two random views of an image are pulled together and pushed away from other images. With moco, the default,
/// that is a cross-entropy loss in which the positive is at index 0, so that every label is 0. The result is
/// measured with 10 labelled images per class and by a linear probe, and compared with raw pixels and the
/// untrained encoder. Without --data the images are 1797 handwritten digits of 8 x 8 pixels, which are part of
/// the program. The default run takes half a minute to a minute on two CPU cores.
///
/// Ctrl-C ends the training and saves a checkpoint, from which --resume continues; what was learnt so far is then
/// measured and drawn. A second Ctrl-C ends the program at once.
#[derive(Parser)]
#[command(name = "contrastive", version)]
struct Arguments {
    /// Backend to compute on. The build must have its Cargo feature.
    #[arg(long, value_enum, default_value_t = BackendName::Flex)]
    backend: BackendName,

    #[command(flatten)]
    settings: Settings,

    /// Passes over the training images [default: 200 for the digits, fewer for more images].
    #[arg(long, value_name = "N")]
    #[arg(value_parser = whole(1..=MILLION), allow_negative_numbers = true)]
    epochs: Option<usize>,

    /// Folder for the pictures, the metrics and the checkpoint.
    #[arg(long, value_name = "FOLDER", default_value = "contrastive-output")]
    output: PathBuf,

    /// Continue from the checkpoint in the output folder, with its settings. A larger --epochs prolongs a
    /// finished run.
    #[arg(long)]
    resume: bool,

    /// Replace the run in the output folder. Without --overwrite or --resume the program refuses a folder
    /// with a checkpoint.
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
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
    if !arguments.resume && !arguments.overwrite {
        checkpoint.must_not_exist()?;
    }
    let saved = arguments.resume.then(|| checkpoint.load()).transpose()?;
    let mut epochs = arguments.epochs;
    if let Some(saved) = &saved {
        arguments.settings = arguments.settings.continuing(&saved.settings, given)?;
        epochs = epochs.or(Some(saved.settings.epochs));
    }
    arguments.settings.refuse_unused(given)?;

    let dataset = data::load(&arguments.settings.source)?;
    let settings = arguments
        .settings
        .with_epochs(epochs, dataset.training.len());
    settings.check(dataset.training.len())?;
    let mut trainer = Trainer::new(settings, dataset.size, &device)?;
    files::make_folder(&arguments.output)?;
    let protocol = Protocol::new(&dataset);
    println!(
        "{} images of {} x {} pixels to learn from {} labels, {} held out for the accuracy; \
         {} parameters; backend {}.",
        dataset.training.len(),
        dataset.size.height,
        dataset.size.width,
        match trainer.settings.method.sees_labels() {
            true => "with their",
            false => "without",
        },
        dataset.held_out.len(),
        trainer.encoder.parameters(),
        arguments.backend,
    );
    println!("Measuring the raw pixels and the untrained encoder, to compare with.");
    let baselines = measure_baselines(&trainer.encoder, &protocol)?;
    if interrupted.load(Ordering::SeqCst) {
        println!(
            "Interrupted before the training; nothing was written to {}.",
            arguments.output.display()
        );
        return Ok(Ending::Interrupted);
    }
    if let Some(saved) = saved {
        trainer.restore(saved)?;
        println!("{}", where_it_goes_on(&trainer));
    }
    let ending = trainer.train(
        &dataset.training,
        &protocol,
        &arguments.output,
        &interrupted,
    )?;
    finish(
        &trainer,
        (&dataset, &protocol),
        &baselines,
        &arguments.output,
    )?;
    if ending == Ending::Interrupted {
        println!();
        println!(
            "To go on with the training, repeat the command with --resume{}.",
            match arguments.overwrite {
                true => " in place of --overwrite",
                false => "",
            },
        );
    }
    Ok(ending)
}

fn where_it_goes_on(trainer: &Trainer) -> String {
    let done = trainer.progress.epochs_done();
    let epochs = trainer.settings.epochs;
    if done < epochs {
        format!("Resuming in epoch {} of {epochs}.", done + 1)
    } else {
        format!("The {done} epochs of the checkpoint are over; a larger --epochs prolongs them.")
    }
}

fn measure_baselines(untrained: &Encoder, protocol: &Protocol) -> Result<Baselines, String> {
    let device = untrained.device();
    Ok(Baselines {
        raw_pixels: protocol.measure(&protocol.pixels(), &device)?,
        untrained_features: measure(untrained, Layer::Features, protocol)?.1,
        untrained: measure(untrained, Layer::Embedding, protocol)?.1,
        similarities: contrast::similarities(untrained, protocol)?,
    })
}

fn measure(
    encoder: &Encoder,
    layer: Layer,
    protocol: &Protocol,
) -> Result<(Represented, Measured), String> {
    let represented = protocol.by_encoder(encoder, layer)?;
    let measured = protocol.measure(&represented, &encoder.device())?;
    Ok((represented, measured))
}

/// Draws, writes and prints the results of a run, finished or interrupted.
fn finish(
    trainer: &Trainer,
    (dataset, protocol): (&Dataset, &Protocol),
    baselines: &Baselines,
    output: &Path,
) -> Result<(), String> {
    println!("Measuring and drawing what was learnt.");
    let encoder = &trainer.encoder;
    let (embeddings, trained) = measure(encoder, Layer::Embedding, protocol)?;
    let report = Report {
        method: trainer.settings.method,
        learnt: trainer.objective.learnt(),
        baselines,
        trained_features: measure(encoder, Layer::Features, protocol)?.1,
        trained,
        similarities: contrast::similarities(encoder, protocol)?,
        history: &trainer.progress.history,
        same_class: report::same_class(&embeddings, &protocol.labelled, &protocol.held_out),
        embeddings,
        labelled: &protocol.labelled,
        held_out: &protocol.held_out,
        classes: &dataset.classes,
        size: dataset.size,
    };
    report.write(output)?;
    report.print_table();
    report.print_story(output);
    Ok(())
}
