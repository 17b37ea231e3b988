//! Two towers, one for images of digits and one for the words for them in six languages, that embed both in one
//! space, by the loss of CLIP and by that of SigLIP. No classifier is trained, and yet the words name the digits
//! of images that the training has not seen.
//!
//! `cargo run --release --example two_towers -- --help` explains the options.

#[path = "../common/canvas.rs"]
mod canvas;
#[path = "../common/digits.rs"]
mod digits;
#[path = "../common/heat_map.rs"]
mod heat_map;
#[path = "../common/probe.rs"]
mod probe;
mod towers;

use burn::module::Module;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor};
use clap::{Parser, value_parser};
use digits::{CLASSES, Digits, Image, Split};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use towers::{Towers, one_hot, unit_length, vocabulary};

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
    /// Passes over the 1297 training images.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = value_parser!(u32).range(1..))]
    epochs: u32,
    /// Seed of the initial weights, the order of the images and the drawn words.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The picture of similarities to be written.
    #[arg(long, value_name = "FILE", default_value = "two-towers.png")]
    picture: std::path::PathBuf,
}

fn main() -> Result<(), String> {
    run(&Arguments::parse()).map(drop)
}

/// Trains with each loss, and returns the zero-shot accuracy and that of a linear probe.
fn run(arguments: &Arguments) -> Result<Vec<[f64; 2]>, String> {
    let data = digits::load()?;
    let (mut accuracies, mut panels) = (Vec::new(), Vec::new());
    let mut table = "          zero-shot  linear probe".to_string();
    for name in ["clip", "siglip"] {
        let towers = train(arguments, name, &data.training);
        let ([words, probe], panel) = measure(&towers, &data)?;
        table += &format!("\n  {name:<6}  {words:^9.3}  {probe:^12.3}");
        accuracies.push([words, probe]);
        let title = format!("{name}: similarity of digits and words, white 0 or less, dark 1");
        panels.push((title, panel));
    }
    let picture = &arguments.picture;
    heat_map::draw(&vocabulary().concat(), &panels, picture)?;
    println!("\nAccuracy on the held-out images:\n\n{table}\n");
    println!("Similarity of digits and words: {}", picture.display());
    Ok(accuracies)
}

fn train(arguments: &Arguments, name: &str, data: &Digits) -> Towers {
    let device = Device::flex();
    device.seed(arguments.seed);
    let mut random: StdRng = rand::SeedableRng::seed_from_u64(arguments.seed);
    let (vocabulary, mut towers) = (vocabulary(), Towers::new(&device.clone().autodiff()));
    // Adam has no weight decay, which would pull the learnt temperature and bias to 0.
    let mut optimizer = AdamConfig::new().init();
    let mut order: Vec<usize> = (0..data.len()).collect();
    for epoch in 0..arguments.epochs {
        let rate = LEARNING_RATE * (1.0 - f64::from(epoch) / f64::from(arguments.epochs));
        let mut last = 0.0;
        order.shuffle(&mut random);
        for batch in order.chunks_exact(BATCH) {
            let images: Vec<_> = batch.iter().map(|&at| data.images[at]).collect();
            let digits: Vec<_> = batch.iter().map(|&at| data.labels[at] as i64).collect();
            let mut word = |digit: &i64| *vocabulary[*digit as usize].choose(&mut random).unwrap();
            let words: Vec<&str> = digits.iter().map(&mut word).collect();
            let digits = Tensor::<1, Int>::from_data(digits.as_slice(), &device);

            let images = towers.images(digits::to_tensor(&images, &device));
            let words = towers.words(one_hot(&words, &device));
            let loss = towers.loss(name, [images, words], digits);
            let gradients = GradientsParams::from_grads(loss.backward(), &towers);
            towers = optimizer.step(rate, towers, gradients);
            last = loss.into_scalar::<f32>();
        }
        println!("{name:<6}  epoch {:3}  loss {last:.3}", epoch + 1);
    }
    towers
}

/// The zero-shot accuracy and that of a linear probe, and the mean similarity of each digit's images to each word.
fn measure(towers: &Towers, data: &Split) -> Result<([f64; 2], Vec<f32>), String> {
    let (towers, device) = (towers.valid(), Device::flex());
    let embed = |images: &[Image]| towers.images(digits::to_tensor(images, &device));
    let Digits { images, labels } = &data.held_out;
    let held_out = embed(images);
    let digits: Vec<i64> = labels.iter().map(|label| *label as i64).collect();
    let digits = Tensor::<1, Int>::from_data(digits.as_slice(), &device);
    // A digit is where its words are on the average.
    let embed_words = |words: Vec<&str>| towers.words(one_hot(&words, &device));
    let words: Vec<Tensor<2>> = vocabulary().into_iter().map(embed_words).collect();
    let mean = |words: &Tensor<2>| words.clone().mean_dim(0);
    let means = unit_length(Tensor::cat(words.iter().map(mean).collect(), 0));
    let similarities = held_out.clone().matmul(means.transpose());
    let named = similarities.argmax(1).squeeze_dim::<1>(1);
    let hits = named.equal(digits.clone()).float();
    let zero_shot = hits.mean().into_scalar::<f32>();

    let training = rows(embed(&data.training.images));
    let training = (&training[..], &data.training.labels[..]);
    let held_out_rows = rows(held_out.clone());
    let probe = probe::accuracy(training, (&held_out_rows, labels), CLASSES, &device)?;

    let similarities = held_out.matmul(Tensor::cat(words, 0).transpose());
    let images = digits.one_hot::<2>(CLASSES).float().transpose();
    let means = images.clone().matmul(similarities) / images.sum_dim(1);
    Ok((
        [zero_shot.into(), probe],
        means.into_data().iter().collect(),
    ))
}

fn rows(tensor: Tensor<2>) -> Vec<Vec<f32>> {
    let rows = tensor.iter_dim(0);
    rows.map(|row| row.into_data().iter().collect()).collect()
}

#[test]
fn words_name_digits_that_the_training_has_not_seen() {
    let picture = std::env::temp_dir().join(format!("two-towers-{}.png", std::process::id()));
    let accuracies = run(&Arguments {
        epochs: 15,
        seed: 1,
        picture: picture.clone(),
    })
    .unwrap();
    let all_above = |least| accuracies.iter().flatten().all(|share| *share > least);
    assert!(accuracies.len() == 2 && all_above(0.85), "{accuracies:?}");
    std::fs::remove_file(picture).unwrap();
}
