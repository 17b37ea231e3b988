//! Two towers, one for images of digits and one for the words for them in six languages, that embed both in one
//! space, by the loss of CLIP and by that of SigLIP. No classifier is trained, and yet the words name the digits
//! of images that the training has not seen.
//!
//! `cargo run --release --example two_towers -- --help` explains the options.

#[path = "../common/canvas.rs"]
mod canvas;
#[path = "../common/digits.rs"]
mod digits;
#[path = "../common/interrupt.rs"]
mod interrupt;
mod picture;
#[path = "../common/probe.rs"]
mod probe;
mod towers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use burn::module::Module;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor};
use clap::{Parser, value_parser};
use digits::{CLASSES, Digits, Image, Split};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use towers::{Towers, WORDS, one_hot, unit_length};

const BATCH: usize = 128;
/// Learning rate of the first step; it falls evenly to 0.
const LEARNING_RATE: f64 = 3e-3;

/// Embed images of digits and the words for them in one space, by the losses of CLIP and SigLIP.
///
/// Each image is paired with a word for its digit, drawn from six languages. Then the words name the digits of 500
/// images that took no part in the training. Digits and words are part of the program.
#[derive(Parser)]
#[command(name = "two_towers", version)]
struct Arguments {
    /// A softmax over the batch (clip), a sigmoid for each pair (siglip), or one after the other.
    #[arg(long, default_value = "both", value_parser = ["clip", "siglip", "both"])]
    loss: String,
    /// Passes over the 1297 training images.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = value_parser!(u32).range(1..))]
    epochs: u32,
    /// Seed of the initial weights, the order of the images and the drawn words.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Folder for the picture of similarities.
    #[arg(long, value_name = "FOLDER", default_value = "two-towers-output")]
    output: PathBuf,
}

fn main() -> Result<ExitCode, String> {
    let interrupted = interrupt::watch()?;
    run(&Arguments::parse(), &interrupted)?;
    Ok(match interrupted.load(SeqCst) {
        true => ExitCode::from(interrupt::INTERRUPTED),
        false => ExitCode::SUCCESS,
    })
}

/// Trains with each loss, and returns the zero-shot accuracy and that of a linear probe.
fn run(arguments: &Arguments, interrupted: &AtomicBool) -> Result<Vec<[f64; 2]>, String> {
    let output = &arguments.output;
    std::fs::create_dir_all(output)
        .map_err(|error| format!("the folder {} cannot be made: {error}", output.display()))?;
    let names = ["clip", "siglip"].into_iter();
    let data = digits::load()?;
    let (mut accuracies, mut panels) = (Vec::new(), Vec::new());
    let mut table = "          zero-shot  linear probe  temperature".to_string();
    for name in names.filter(|name| [name, "both"].contains(&arguments.loss.as_str())) {
        let towers = train(arguments, name, &data.training, interrupted);
        let ([words, probe], panel) = measure(&towers, &data)?;
        let temperature = towers.temperature(name);
        table += &format!("\n  {name:<6}  {words:^9.3}  {probe:^12.3}  {temperature:^11.3}");
        accuracies.push([words, probe]);
        panels.push((name, panel));
        if interrupted.load(SeqCst) {
            println!("Interrupted; these are the results so far.");
            break;
        }
    }
    let picture = output.join("similarities.png");
    picture::draw(&first_of_each(&data.held_out), &panels, &picture)?;
    println!("\nAccuracy on the held-out images:\n\n{table}\n");
    println!(
        "Images and their similarity to all words: {}",
        picture.display()
    );
    Ok(accuracies)
}

/// Trains to the last epoch or the interruption.
fn train(arguments: &Arguments, name: &str, data: &Digits, interrupted: &AtomicBool) -> Towers {
    let device = Device::flex();
    device.seed(arguments.seed);
    let mut random = StdRng::seed_from_u64(arguments.seed);
    let mut towers = Towers::new(&device.clone().autodiff());
    // Adam has no weight decay, which would pull the learnt temperature and bias to 0.
    let mut optimizer = AdamConfig::new().init();
    let mut order: Vec<usize> = (0..data.len()).collect();
    for epoch in 1..=arguments.epochs {
        let rate = LEARNING_RATE * (1.0 - f64::from(epoch - 1) / f64::from(arguments.epochs));
        let mut last = 0.0;
        order.shuffle(&mut random);
        for batch in order.chunks_exact(BATCH) {
            let images: Vec<_> = batch.iter().map(|&at| data.images[at]).collect();
            let digits = batch.iter().map(|&at| data.labels[at]);
            let mut word = |digit: usize| *WORDS[digit].choose(&mut random).unwrap();
            let words: Vec<&str> = digits.clone().map(&mut word).collect();
            let digits: Vec<i64> = digits.map(|digit| digit as i64).collect();
            let digits = Tensor::<1, Int>::from_data(digits.as_slice(), &device);

            let images = towers.images(digits::to_tensor(&images, &device));
            let words = towers.words(one_hot(&words, &device));
            let loss = towers.loss(name, [images, words], digits);
            let gradients = GradientsParams::from_grads(loss.backward(), &towers);
            towers = optimizer.step(rate, towers, gradients);
            last = loss.into_scalar::<f32>();
            if interrupted.load(SeqCst) {
                return towers;
            }
        }
        if epoch % 10 == 0 || epoch == arguments.epochs {
            println!("{name:<6}  epoch {epoch:3}  loss {last:.3}");
        }
    }
    towers
}

/// The zero-shot accuracy and that of a linear probe, and the similarities for the picture.
fn measure(towers: &Towers, data: &Split) -> Result<([f64; 2], Vec<Vec<f32>>), String> {
    let (towers, device) = (towers.valid(), Device::flex());
    let embed = |images: &[Image]| towers.images(digits::to_tensor(images, &device));
    let words = towers.words(one_hot(&WORDS.concat(), &device));
    // A digit is where its words are on the average.
    let sizes = WORDS.map(<[&str]>::len).to_vec();
    let parts = words.clone().split_with_sizes(sizes, 0).into_iter();
    let means: Vec<_> = parts.map(|words| words.mean_dim(0)).collect();
    let means = unit_length(Tensor::cat(means, 0));
    let held_out = embed(&data.held_out.images);
    let named = held_out.clone().matmul(means.transpose()).argmax(1);
    let named: Vec<i64> = named.into_data().iter().collect();
    let pairs = named.iter().zip(&data.held_out.labels);
    let hits = pairs.filter(|(named, digit)| **named == **digit as i64);
    let zero_shot = hits.count() as f64 / named.len() as f64;

    let (labelled, held_out) = (rows(embed(&data.training.images)), rows(held_out));
    let labelled = (labelled.as_slice(), data.training.labels.as_slice());
    let held_out = (held_out.as_slice(), data.held_out.labels.as_slice());
    let probe = probe::accuracy(labelled, held_out, CLASSES, &device)?;
    let shown = embed(&first_of_each(&data.held_out)).matmul(words.transpose());
    Ok(([zero_shot, probe], rows(shown)))
}

/// An image of each digit.
fn first_of_each(digits: &Digits) -> Vec<Image> {
    let first = |digit| digits.labels.iter().position(|label| *label == digit);
    let shown = (0..CLASSES).filter_map(first);
    shown.map(|at| digits.images[at]).collect()
}

fn rows(tensor: Tensor<2>) -> Vec<Vec<f32>> {
    let columns = tensor.dims()[1];
    let values: Vec<f32> = tensor.into_data().iter().collect();
    values.chunks(columns).map(<[f32]>::to_vec).collect()
}

#[test]
fn words_name_digits_that_the_training_has_not_seen() {
    let output = std::env::temp_dir().join(format!("two-towers-{}", std::process::id()));
    let line = [
        "two_towers",
        "--epochs=15",
        "--output",
        output.to_str().unwrap(),
    ];
    let accuracies = run(&Arguments::parse_from(line), &AtomicBool::new(false)).unwrap();
    assert_eq!(accuracies.len(), 2);
    let all_above = |least| accuracies.iter().flatten().all(|share| *share > least);
    assert!(all_above(0.85), "{accuracies:?}");
    assert!(output.join("similarities.png").exists());
    std::fs::remove_dir_all(output).unwrap();
}
