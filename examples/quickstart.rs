//! A classifier of handwritten digits in one page: `cargo run --release --example quickstart`.

#[path = "common/digits.rs"]
mod digits;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor};
use burn_cross_entropy::{CrossEntropyLoss, CrossEntropyLossConfig};

#[derive(Module, Debug)]
struct Classifier {
    linear: Linear,
    loss: CrossEntropyLoss,
}

fn tensors(digits: &digits::Digits, device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
    let labels: Vec<i64> = digits.labels.iter().map(|label| *label as i64).collect();
    let images = digits::to_tensor(&digits.images, device).flatten(1, 3);
    (images, Tensor::from_ints(labels.as_slice(), device))
}

/// Trains on all images at once, and returns the share of held-out images that are told right.
fn train(steps: usize, device: &Device) -> Result<f32, String> {
    let data = digits::load()?;
    let loss = CrossEntropyLossConfig::new().with_label_smoothing(0.05);
    let mut model = Classifier {
        linear: LinearConfig::new(digits::PIXELS, digits::CLASSES).init(device),
        loss: loss.init(device),
    };
    let mut optimizer = AdamConfig::new().init();
    let (images, labels) = tensors(&data.training, device);
    for _ in 0..steps {
        let logits = model.linear.forward(images.clone());
        let loss = model.loss.forward(logits, labels.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(0.02, model, gradients);
    }
    let model = model.valid();
    let (images, labels) = tensors(&data.held_out, &device.clone().without_autodiff());
    let logits = model.linear.forward(images);
    let output = model.loss.forward_with_output(logits, labels);
    println!("loss {:.3}", output.loss.clone().into_scalar::<f32>());
    Ok(output.correct().int().float().mean().into_scalar())
}

fn main() -> Result<(), String> {
    let accuracy = train(200, &Device::flex().autodiff())?;
    println!("accuracy on 500 held-out digits: {accuracy:.3}");
    Ok(())
}

#[test]
fn it_learns_to_tell_digits() {
    let accuracy = train(50, &Device::flex().autodiff()).unwrap();
    assert!(accuracy > 0.9, "{accuracy}");
}
