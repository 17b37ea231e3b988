//! Classifies every pixel of generated images: the command line and the training.
//!
//! `cargo run --release --example segment -- --help` explains the options.

#[path = "../common/backend.rs"]
mod backend;
#[path = "../common/canvas.rs"]
mod canvas;
mod evaluate;
#[path = "../common/files.rs"]
mod files;
#[path = "../common/interrupt.rs"]
mod interrupt;
mod network;
#[path = "../common/numbers.rs"]
mod numbers;
mod picture;
#[path = "../common/random.rs"]
mod random;
mod shapes;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::Device;
use burn_cross_entropy::{CrossEntropyLoss, CrossEntropyLossConfig};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use crate::backend::BackendName;
use crate::evaluate::Segmentation;
use crate::interrupt::INTERRUPTED;
use crate::network::Network;
use crate::numbers::{MILLION, seed, whole};
use crate::shapes::{CLASSES, IGNORED, NAMES, Purpose, Scene};

/// The learning rate of the first step; it falls evenly to 0.
const LEARNING_RATE: f64 = 6e-3;
/// Scenes from which the share of each class is counted.
const COUNTED_SCENES: u64 = 200;
const HELD_OUT_SCENES: u64 = 96;
/// Steps from one printed line to the next.
const REPORT_EVERY: usize = 100;

/// Learn to tell circles, squares and triangles from a noisy background, pixel by pixel.
///
/// The loss takes logits of [images, classes, height, width]. The pixels along an outline have the label 255
/// and are ignored, and rarer classes weigh more. The images are generated: the training never sees one
/// twice, and 96 others measure the result. The default run takes about a minute on two CPU cores.
///
/// Ctrl-C ends the training, and what it has learned is measured and drawn; the network itself is not kept. A
/// second Ctrl-C ends the program at once.
#[derive(Parser)]
#[command(name = "segment", version)]
struct Arguments {
    /// Backend to compute on. The build must have its Cargo feature.
    #[arg(long, value_enum, default_value_t = BackendName::Flex)]
    backend: BackendName,

    /// Steps of the training, at most a million.
    #[arg(long, value_name = "N", default_value_t = 900)]
    #[arg(value_parser = whole(1..=MILLION), allow_negative_numbers = true)]
    steps: usize,

    /// Images in a step, at most 1024.
    #[arg(long, value_name = "N", default_value_t = 8)]
    #[arg(value_parser = whole(1..=1024), allow_negative_numbers = true)]
    batch_size: usize,

    /// Seed of the images and of the initial weights.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = seed, allow_negative_numbers = true)]
    seed: u64,

    /// Folder for `segmentation.png`; that of an earlier run is replaced.
    #[arg(long, value_name = "FOLDER", default_value = "segment-output")]
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
    files::make_folder(&arguments.output)?;
    let weights = class_weights(arguments.seed);
    println!("class weights, 1 / (share of the pixels x number of classes):");
    for (name, weight) in NAMES.iter().zip(weights) {
        println!("  {name:<10}  {weight:.2}");
    }
    let loss = CrossEntropyLossConfig::new()
        .with_ignore_indices(vec![i64::from(IGNORED)])
        .with_weight(Some(weights.to_vec()))
        .init(&device);
    let network = train(arguments, &loss, &interrupted, &device)?;
    let code = match interrupted.load(Ordering::SeqCst) {
        true => ExitCode::from(INTERRUPTED),
        false => ExitCode::SUCCESS,
    };

    let held_out: Vec<Scene> = (0..HELD_OUT_SCENES)
        .map(|number| shapes::scene(arguments.seed, Purpose::HeldOut, number))
        .collect();
    let result = Segmentation::of(&network.valid(), &loss, &held_out, &device)?;
    let picture = arguments.output.join("segmentation.png");
    files::replace_file(&picture, |path| picture::draw(&held_out, &result, path))?;
    println!();
    println!(
        "Intersection over union on {HELD_OUT_SCENES} held-out images, ignored pixels left out:"
    );
    for (name, share) in NAMES.iter().zip(result.intersection_over_union) {
        println!("  {name:<10}  {share:.3}");
    }
    println!("  mean        {:.3}", result.mean());
    println!(
        "Some of them as the network sees them: {}",
        picture.display()
    );
    Ok(code)
}

/// Trains up to the last step or the interruption.
fn train(
    arguments: &Arguments,
    loss: &CrossEntropyLoss,
    interrupted: &AtomicBool,
    device: &Device,
) -> Result<Network, String> {
    device.seed(arguments.seed);
    let training = device.clone().autodiff();
    let mut network = Network::new(&training);
    let mut optimizer = AdamWConfig::new().init();
    let bar = progress_bar(arguments.steps);
    let start = Instant::now();
    let mut done = 0;
    for step in 0..arguments.steps {
        let first = (step * arguments.batch_size) as u64;
        let scenes: Vec<Scene> = (first..first + arguments.batch_size as u64)
            .map(|number| shapes::scene(arguments.seed, Purpose::Training, number))
            .collect();
        let (images, targets) = shapes::to_tensors(&scenes, &training);

        let value = loss.forward(network.forward(images), targets);
        let gradients = GradientsParams::from_grads(value.backward(), &network);
        let rate = LEARNING_RATE * (1.0 - step as f64 / arguments.steps as f64);
        network = optimizer.step(rate, network, gradients);

        let value: f32 = value
            .try_into_scalar()
            .map_err(|error| format!("the loss cannot be read from the device: {error}"))?;
        if !value.is_finite() {
            return Err(format!("the loss is {value} in step {}", step + 1));
        }
        bar.inc(1);
        bar.set_message(format!("loss {value:.3}"));
        if (step + 1).is_multiple_of(REPORT_EVERY) {
            bar.suspend(|| println!("step {:4}  loss {value:.3}", step + 1));
        }
        done = step + 1;
        if interrupted.load(Ordering::SeqCst) {
            let all = arguments.steps;
            bar.suspend(|| {
                println!(
                    "Interrupted after step {done} of {all}; what there is will be drawn. A second Ctrl-C ends at once."
                );
            });
            break;
        }
    }
    bar.finish_and_clear();
    println!("{done} steps in {:.1} s.", start.elapsed().as_secs_f64());
    Ok(network)
}

/// The weight of each class: one over its share of the pixels that count, scaled to 1 where all classes are
/// equally frequent.
fn class_weights(seed: u64) -> [f32; CLASSES] {
    let mut counts = [0usize; CLASSES];
    for number in 0..COUNTED_SCENES {
        for label in shapes::scene(seed, Purpose::Training, number).labels {
            if label != IGNORED {
                counts[usize::from(label)] += 1;
            }
        }
    }
    let total: usize = counts.iter().sum();
    counts.map(|count| total as f32 / (CLASSES * count.max(1)) as f32)
}

fn progress_bar(steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64);
    let template = "{bar:30} step {pos}/{len}  {msg}  {eta} left";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::shapes::SIDE;

    #[test]
    fn a_training_ends_in_a_class_for_every_pixel() {
        let arguments = Arguments::parse_from(["segment", "--steps", "2", "--batch-size", "2"]);
        let device = Device::flex();
        let loss = CrossEntropyLossConfig::new()
            .with_ignore_indices(vec![255])
            .init(&device);
        let never = AtomicBool::new(false);
        let network = train(&arguments, &loss, &never, &device).unwrap().valid();
        let scenes = [0, 1, 2].map(|number| shapes::scene(1, Purpose::HeldOut, number));
        let result = Segmentation::of(&network, &loss, &scenes, &device).unwrap();
        let pixels: Vec<usize> = result.predicted.iter().map(Vec::len).collect();
        assert_eq!(pixels, [SIDE * SIDE; 3]);
        assert!(
            result
                .predicted
                .iter()
                .flatten()
                .all(|class| usize::from(*class) < CLASSES)
        );
    }

    #[test]
    fn numbers_that_cannot_be_are_told_what_is_expected() {
        for option in ["--steps", "--batch-size", "--seed"] {
            let parsed = Arguments::try_parse_from(["segment", option, "-1"]);
            let error = parsed.err().unwrap().to_string();
            assert!(error.contains("it must be a whole number from"), "{error}");
        }
    }

    #[test]
    fn every_class_weighs_as_much_as_any_other() {
        let weights = class_weights(1);
        let mut totals = [0.0; CLASSES];
        for number in 0..COUNTED_SCENES {
            for label in shapes::scene(1, Purpose::Training, number).labels {
                if let Some(total) = totals.get_mut(usize::from(label)) {
                    *total += f64::from(weights[usize::from(label)]);
                }
            }
        }
        for total in totals {
            assert!((total / totals[0] - 1.0).abs() < 1e-3);
        }
    }
}
