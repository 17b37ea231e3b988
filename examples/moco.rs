//! Momentum contrast in one page: an encoder learns what handwritten digits look like without their labels.
//!
//! `cargo run --release --example moco` runs it; the example `contrastive` is the whole program.

#[path = "common/digits.rs"]
mod digits;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use burn_cross_entropy::{InfoNceLossConfig, NegativeQueueConfig, moco_logits, momentum_update};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use digits::{Image, SIDE};

const BATCH: usize = 128;
const FEATURES: usize = 32;
/// Keys of earlier steps that are the negatives of a step.
const QUEUE: usize = 1024;
const MOMENTUM: f64 = 0.99;
/// Training digits whose labels are used to measure.
const LABELLED: usize = 50;
const TEMPERATURE: f64 = 0.2;

#[derive(Module, Debug)]
struct Encoder {
    hidden: Linear,
    output: Linear,
}

impl Encoder {
    /// Turns images into vectors of length 1.
    fn forward(&self, images: Tensor<2>) -> Tensor<2> {
        let features = self.output.forward(relu(self.hidden.forward(images)));
        let length = (features.clone() * features.clone()).sum_dim(1).sqrt();
        features / (length + 1e-6)
    }
}

/// A random view of an image: moved by up to one pixel, and with noise.
fn view(image: &Image, random: &mut StdRng) -> Image {
    let [down, right] = [0, 1].map(|_| random.random_range(-1i32..=1));
    std::array::from_fn(|at| {
        let (row, column) = ((at / SIDE) as i32 - down, (at % SIDE) as i32 - right);
        let side = 0..SIDE as i32;
        let pixel = match side.contains(&row) && side.contains(&column) {
            true => image[row as usize * SIDE + column as usize],
            false => 0.0,
        };
        pixel + random.random_range(-0.3..0.3f32)
    })
}

fn tensor(images: &[Image], device: &Device) -> Tensor<2> {
    digits::to_tensor(images, device).flatten(1, 3)
}

/// The share of held-out digits that have the label of their nearest neighbour among the labelled digits. The
/// labels are for this measurement alone.
fn accuracy(encoder: &Encoder, data: &digits::Split, device: &Device) -> f64 {
    let embed = |images: &[Image]| encoder.forward(tensor(images, device));
    let labelled = embed(&data.training.images[..LABELLED]);
    let similarities = embed(&data.held_out.images).matmul(labelled.transpose());
    let nearest: Vec<i64> = similarities.argmax(1).into_data().iter().collect();
    let labels = nearest.iter().map(|at| data.training.labels[*at as usize]);
    let pairs = labels.zip(&data.held_out.labels);
    pairs.filter(|(one, other)| one == *other).count() as f64 / nearest.len() as f64
}

/// Trains, and returns the accuracy before and after.
fn train(epochs: usize) -> Result<[f64; 2], String> {
    let plain = Device::flex();
    plain.seed(1);
    let data = digits::load()?;
    let trained = plain.clone().autodiff();
    let mut encoder = Encoder {
        hidden: LinearConfig::new(digits::PIXELS, 256).init(&trained),
        output: LinearConfig::new(256, FEATURES).init(&trained),
    };
    // The momentum encoder makes the keys. It starts as a copy, and has no gradients.
    let mut momentum_encoder = encoder.valid();
    let mut queue = NegativeQueueConfig::new(QUEUE, FEATURES).init(&plain);
    let loss = InfoNceLossConfig::new()
        .with_temperature(TEMPERATURE)
        .init(&plain);
    let mut optimizer = AdamConfig::new().init();
    let mut random = StdRng::seed_from_u64(1);
    let before = accuracy(&momentum_encoder, &data, &plain);

    for epoch in 1..=epochs {
        let mut order: Vec<usize> = (0..data.training.len()).collect();
        order.shuffle(&mut random);
        let mut share = 0.0;
        for batch in order.chunks_exact(BATCH) {
            let mut views = || -> Vec<Image> {
                let images = batch.iter().map(|at| &data.training.images[*at]);
                images.map(|image| view(image, &mut random)).collect()
            };
            let (views, other_views) = (views(), views());
            let queries = encoder.forward(tensor(&views, &trained));
            let keys = momentum_encoder.forward(tensor(&other_views, &plain));

            // Logits are [own key, keys of the queue]: the positive stands at index 0, for every query.
            let value = loss.forward(queries.clone(), keys.clone(), queue.keys());
            share = share_of_positives_found(queries.inner(), keys.clone(), queue.keys());
            let gradients = GradientsParams::from_grads(value.backward(), &encoder);
            encoder = optimizer.step(0.001, encoder, gradients);
            momentum_encoder = momentum_update(&encoder, momentum_encoder, MOMENTUM);
            queue.push(keys);
        }
        if epoch % 10 == 0 {
            println!("epoch {epoch}: {share:.3} of the last queries find their key");
        }
    }
    let after = accuracy(&momentum_encoder, &data, &plain);
    Ok([before, after])
}

/// The share of queries to which their own key, at index 0, is the most similar.
fn share_of_positives_found(queries: Tensor<2>, keys: Tensor<2>, negatives: Tensor<2>) -> f32 {
    let logits = moco_logits(queries, keys, negatives, TEMPERATURE);
    logits
        .argmax(1)
        .equal_scalar(0)
        .int()
        .float()
        .mean()
        .into_scalar()
}

fn main() -> Result<(), String> {
    let [before, after] = train(60)?;
    println!(
        "accuracy by the nearest neighbour: {before:.3} before, {after:.3} after the training"
    );
    Ok(())
}

#[test]
fn it_learns_without_labels() {
    let [before, after] = train(60).unwrap();
    assert!(after > before + 0.03, "{before} {after}");
}
