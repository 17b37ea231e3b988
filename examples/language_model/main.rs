//! A small transformer that learns to write, character by character: the command line and the story
//! of a run.
//!
//! `cargo run --release --example language_model -- --help` explains the options.

#[path = "../common/backend.rs"]
mod backend;
#[allow(dead_code)] // `RAISED` is for vertically centred text, which this example does not draw.
#[path = "../common/canvas.rs"]
mod canvas;
#[allow(dead_code)] // This example does not read the sum of all allocations.
#[path = "../../tests/memory/counting.rs"]
mod counting;
mod counts;
#[path = "../common/files.rs"]
mod files;
mod generate;
#[path = "../common/interrupt.rs"]
mod interrupt;
mod memory;
mod model;
#[path = "../common/numbers.rs"]
mod numbers;
mod picture;
mod report;
mod text;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use burn::module::Module;
use clap::Parser;

use crate::backend::BackendName;
use crate::interrupt::INTERRUPTED;
use crate::model::FEATURES;
use crate::numbers::{MILLION, whole};
use crate::text::{LENGTH, Split, Vocabulary};
use crate::train::{Settings, Trainer};

/// Characters of the training text that the model continues.
const GIVEN: usize = 60;
/// Rows, features and classes of a large loss: the vocabulary of GPT-2 with a third of its features, so that
/// measuring is quick.
const LARGE: [usize; 3] = [2048, 256, 50_257];

/// Learn to write, character by character: a small transformer, trained without a logits tensor.
///
/// The loss takes the hidden states and the transposed embedding, and makes the logits for some rows at a
/// time. The result is measured on the last tenth of the text, which the training does not see, and compared
/// with counts of which character follows which. The memory of the loss is compared with the memory of the
/// same loss over a logits tensor. The text, this project's own documentation, is part of the program. The
/// default run takes some three minutes on two CPU cores.
///
/// Ctrl-C ends the training, and the model so far is measured and writes its sample; it is not kept itself. A
/// second Ctrl-C ends the program at once.
#[derive(Parser)]
#[command(name = "language_model", version)]
struct Arguments {
    /// Backend to compute on. The build must have its Cargo feature.
    #[arg(long, value_enum, default_value_t = BackendName::Flex)]
    backend: BackendName,

    #[command(flatten)]
    settings: Settings,

    /// Text of your own to learn instead, in UTF-8; 100 kB or more give a better idea. Of a large text, the
    /// first 20,000 characters of the last tenth are measured, and the last 2,000,000 before them are
    /// counted.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// Characters that the model writes at the end, at most a million.
    #[arg(long, value_name = "N", default_value_t = 600)]
    #[arg(value_parser = whole(0..=MILLION), allow_negative_numbers = true)]
    sample: usize,

    /// Folder for `perplexity.png` and `sample.txt`; those of an earlier run are replaced.
    #[arg(long, value_name = "FOLDER", default_value = "language-model-output")]
    output: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(sentence) => {
            eprintln!("error: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    let interrupted = interrupt::watch()?;
    let device = arguments.backend.device()?;
    let text = text::read(arguments.text.as_deref())?;
    let vocabulary = Vocabulary::of(&text);
    let classes = vocabulary.len();
    let split = Split::of(vocabulary.encode(&text))?;
    files::make_folder(&arguments.output)?;
    let settings = arguments.settings;
    let mut trainer = Trainer::new(settings, classes, &device);
    println!(
        "{} characters to learn from and {} held out, {classes} different ones; {} parameters; \
         backend {}.",
        split.training.len(),
        split.held_out.len(),
        trainer.model.num_params(),
        arguments.backend,
    );
    println!("Counting which characters follow which, to compare with.");
    let mut guesses = report::baselines(&split, classes);

    trainer.train(&split, &interrupted)?;
    let stopped = || interrupted.load(Ordering::SeqCst);
    let last = trainer.history.last().ok_or("there was no step")?;
    let in_training = stopped();
    if in_training {
        println!(
            "Interrupted after step {} of {}; what there is will be written. A second Ctrl-C ends \
             at once.",
            last.step, settings.steps
        );
    }
    files::replace_file(&arguments.output.join("perplexity.png"), |path| {
        picture::draw(&trainer.history, &guesses[1..], path)
    })?;
    let given = &split.training[split.training.len() - GIVEN..];
    let model = trainer.model.valid();
    // An interrupted training still writes its sample.
    let stop = || stopped() && !in_training;
    let written = generate::go_on(&model, given, arguments.sample, &mut trainer.random, stop)?;
    if written.len() < arguments.sample {
        println!(
            "Interrupted after character {} of {}; what there is will be written. A second Ctrl-C \
             ends at once.",
            written.len(),
            arguments.sample
        );
    }
    report::show_sample(
        &vocabulary.decode(given),
        &vocabulary.decode(&written),
        &arguments.output,
    )?;
    guesses.push(("the model".to_string(), last.held_out));
    report::print_guesses(&guesses, split.held_out.len() - 1);
    if stopped() {
        println!("The memory of the loss was not measured.");
    } else if matches!(arguments.backend, BackendName::Flex | BackendName::Ndarray) {
        let own = [settings.batch_size * LENGTH, FEATURES, classes];
        report::print_memory(&[own, LARGE], &device);
    } else {
        println!(
            "The memory of the loss is not measured on {}: the counter sees that of the CPU.",
            arguments.backend
        );
    }
    println!(
        "\nThe picture and the sample are in {}.",
        arguments.output.display()
    );
    Ok(if stopped() {
        ExitCode::from(INTERRUPTED)
    } else {
        ExitCode::SUCCESS
    })
}

#[test]
fn sizes_that_no_machine_has_are_refused() {
    for option in ["--steps", "--batch-size", "--sample"] {
        let parse = |value| Arguments::try_parse_from(["language_model", option, value]);
        assert!(parse("1000").is_ok(), "{option}");
        for value in ["18446744073709551615", "-1"] {
            let error = parse(value).err().unwrap().to_string();
            assert!(error.contains("it must be a whole number from"), "{error}");
        }
    }
}

/// Locks out other tests that draw from the backend's random numbers or count memory, because both belong to
/// the process.
#[cfg(test)]
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    LOCK.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
