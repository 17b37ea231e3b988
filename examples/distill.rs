//! Distillation in one page: a small network learns digits from sixty images, alone and beside a teacher.
//!
//! `cargo run --release --example distill` runs it; `-- --help` explains the options.

#[path = "common/digits.rs"]
mod digits;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor};
use burn_cross_entropy::{CrossEntropyLossConfig, TeacherLogits};
use clap::{Parser, value_parser};

use crate::digits::{CLASSES, Digits, PIXELS, Split};

/// Hidden neurons of the teacher and of the student.
const NEURONS: [usize; 2] = [256, 16];
const STEPS: usize = 200;
const LEARNING_RATE: f64 = 0.01;
/// Divisor of the logits: the higher, the more the teacher tells of digits that are alike.
const TEMPERATURE: f64 = 4.0;
/// Share of the teacher in the loss of a student that has labels too.
const SHARE: f64 = 0.9;

/// Distil a classifier of handwritten digits into one with a sixteenth of its neurons.
///
/// The teacher learns from 1297 images of 8 x 8 pixels. Three students start from the same weights: one learns the
/// labels of a few images; one these labels and what the teacher says of these images; one what the teacher says of
/// all images, without a label. Accuracies are those on 500 other images. The data is part of the program.
#[derive(Parser)]
#[command(name = "distill", version)]
struct Arguments {
    /// Images whose labels the students may know.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = value_parser!(u64).range(1..=1297))]
    labels: u64,

    /// Repetitions, each with other weights and other images that have labels.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(u64).range(2..=1000))]
    seeds: u64,
}

#[derive(Module, Debug)]
struct Network {
    hidden: Linear,
    output: Linear,
}

impl Network {
    fn new(neurons: usize, device: &Device) -> Self {
        Self {
            hidden: LinearConfig::new(PIXELS, neurons).init(device),
            output: LinearConfig::new(neurons, CLASSES).init(device),
        }
    }

    fn logits(&self, images: &Tensor<2>) -> Tensor<2> {
        self.output
            .forward(relu(self.hidden.forward(images.clone())))
    }

    /// Trains on all images at once, by a loss of their logits.
    fn train(mut self, images: &Tensor<2>, loss: impl Fn(Tensor<2>) -> Tensor<1>) -> Self {
        let mut optimizer = AdamConfig::new().init();
        for _ in 0..STEPS {
            let gradients = loss(self.logits(images)).backward();
            let gradients = GradientsParams::from_grads(gradients, &self);
            self = optimizer.step(LEARNING_RATE, self, gradients);
        }
        self
    }

    fn accuracy(&self, (images, labels): (Tensor<2>, Tensor<1, Int>)) -> f64 {
        let predicted = self.logits(&images).argmax(1).squeeze_dim::<1>(1);
        let right = predicted.equal(labels).float().mean();
        f64::from(right.into_scalar::<f32>())
    }
}

fn tensors(digits: &Digits, device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
    let labels: Vec<i64> = digits.labels.iter().map(|label| *label as i64).collect();
    let images = digits::to_tensor(&digits.images, device).flatten(1, 3);
    (images, Tensor::from_ints(labels.as_slice(), device))
}

/// Trains a teacher and three students, and returns their accuracies.
fn repetition(count: usize, seed: u64, data: &Split, device: &Device) -> [f64; 4] {
    device.seed(seed);
    let loss = CrossEntropyLossConfig::new().init(device);
    let (images, labels) = tensors(&data.training, device);
    let [teacher, student] = NEURONS.map(|neurons| Network::new(neurons, device));
    let teacher = teacher.train(&images, |logits| loss.forward(logits, labels.clone()));

    // Other images for each seed, until there are none left.
    let first = seed as usize * count % (data.training.len() - count + 1);
    let few_images = images.clone().narrow(0, first, count);
    let few_labels = labels.narrow(0, first, count);
    let told = |images: &Tensor<2>| {
        TeacherLogits::new(teacher.logits(images).detach())
            .with_temperature(TEMPERATURE)
            .with_squared_temperature()
    };
    let (told_of_few, told_of_all) = (told(&few_images), told(&images));

    let by_labels = |logits| loss.forward(logits, few_labels.clone());
    let by_both = |logits: Tensor<2>| {
        let by_teacher = loss.forward(logits.clone(), told_of_few.clone());
        by_teacher * SHARE + by_labels(logits) * (1.0 - SHARE)
    };
    let alone = student.clone().train(&few_images, by_labels);
    let taught = student.clone().train(&few_images, by_both);
    let unlabelled = student.train(&images, |logits| loss.forward(logits, told_of_all.clone()));
    let held_out = tensors(&data.held_out, device);
    [teacher, alone, taught, unlabelled].map(|network| network.accuracy(held_out.clone()))
}

fn main() -> Result<(), String> {
    let Arguments { labels, seeds } = Arguments::parse();
    let data = digits::load()?;
    println!("         teacher  students: {labels:4} labels  and the teacher  the teacher alone");
    let line = |name: String, [teacher, alone, taught, unlabelled]: [f64; 4]| {
        println!("{name:7}  {teacher:7.3}  {alone:21.3}  {taught:15.3}  {unlabelled:17.3}");
    };
    let mut found = Vec::new();
    for seed in 1..=seeds {
        let accuracies = repetition(labels as usize, seed, &data, &Device::flex().autodiff());
        line(format!("seed {seed}"), accuracies);
        found.push(accuracies);
    }
    let mean = |of: &dyn Fn(&[f64; 4]) -> f64| found.iter().map(of).sum::<f64>() / seeds as f64;
    let means: [f64; 4] = std::array::from_fn(|column| mean(&|one| one[column]));
    line("mean".to_string(), means);
    let gain = means[2] - means[1];
    let variance = mean(&|one| (one[2] - one[1] - gain).powi(2)) / (seeds - 1) as f64;
    let error = variance.sqrt();
    println!("\nBeside the same labels the teacher adds {gain:.3} (standard error {error:.3}).");
    Ok(())
}

#[test]
fn the_teacher_helps() {
    let data = digits::load().unwrap();
    let device = Device::flex().autodiff();
    let [teacher, alone, taught, unlabelled] = repetition(60, 1, &data, &device);
    assert!(teacher > 0.95, "{teacher}");
    assert!(taught > alone + 0.02, "{alone} {taught}");
    assert!(unlabelled > 0.93, "{unlabelled}");
}
