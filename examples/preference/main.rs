//! Preferences and rewards: a small language model, then DPO and GRPO, made of log-probabilities.
//!
//! `cargo run --release --example preference` runs it; docs/recipes.md has the formulas.

mod model;
mod passages;
#[allow(dead_code)] // This example cuts its own passages.
#[path = "../language_model/text.rs"]
mod text;

use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor};
use burn_cross_entropy::cross_entropy;
use clap::Parser;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::model::{Model, PROMPT};
use crate::passages::{pairs, reward};

/// Passages in a step, a prompt and an answer each.
const BATCH: usize = 64;
/// Answers to one prompt, which GRPO compares with each other.
const GROUP: usize = 8;

/// Teach a small language model preferences (DPO) and rewards (GRPO).
///
/// It first learns to write this project's documentation, character by character. From there DPO teaches it to
/// prefer true text to text with one wrong character, and GRPO, apart from that, to write vowels. What they
/// change is measured on text that was held out.
#[derive(Parser)]
#[command(name = "preference", version)]
struct Arguments {
    /// Seed of the weights, the passages and what is written.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// `-ln sigmoid(b (ln p - ln p_ref)(right) - b (ln p - ln p_ref)(wrong))`: a cross-entropy of two classes.
fn dpo_loss(model: &Model, reference: &Model, pair: [Tensor<2, Int>; 2]) -> Tensor<1> {
    let rewards = pair.map(|passages| {
        let gain = model.log_prob(&passages) - reference.log_prob(&passages).detach();
        gain.sum_dim(1) * 0.5
    });
    let right = Tensor::<1, Int>::zeros([BATCH], &rewards[0].device());
    cross_entropy(Tensor::cat(rewards.into(), 1), right)
}

/// The loss of a model by what it wrote when its log-probabilities were `old`.
fn grpo_loss(
    model: &Model,
    passages: &Tensor<2, Int>,
    [old, reference, advantages]: [Tensor<2>; 3],
) -> Tensor<1> {
    let log_prob = model.log_prob(passages);
    let ratio = (log_prob.clone() - old).exp();
    let clipped = ratio.clone().clamp(0.8, 1.2) * advantages.clone();
    let surrogate = (ratio * advantages).min_pair(clipped);
    let difference = reference - log_prob;
    let divergence = difference.clone().exp() - difference - 1.0;
    let entropy = model.loss.entropy(model.logits(passages));
    -(surrogate - divergence * 0.1 + entropy * 0.01).mean()
}

fn step(model: &mut Model, optimizer: &mut ModuleOptimizer, rate: f64, loss: Tensor<1>) {
    let gradients = GradientsParams::from_grads(loss.backward(), model);
    *model = optimizer.step(rate, model.clone(), gradients);
}

/// Runs the three trainings, and returns what is measured of the models that they make, a row of the table each.
fn run(steps: [usize; 3], seed: u64, device: &Device) -> Result<[[f32; 3]; 3], String> {
    device.seed(seed);
    let mut random = StdRng::seed_from_u64(seed);
    let text = text::read(None)?;
    let vocabulary = text::Vocabulary::of(&text);
    let vowels = vocabulary.encode("aeiou");
    let text = text::Split::of(vocabulary.encode(&text))?;
    let [right, wrong] = pairs(&text.held_out, 500, &mut random, device);
    let mut next = || pairs(&text.training, BATCH, &mut random, device);

    let adam = || AdamConfig::new().init();

    println!("Learning to write, {} steps.", steps[0]);
    let (mut model, mut optimizer) = (Model::new(vocabulary.len(), device), adam());
    for _ in 0..steps[0] {
        let loss = -model.log_prob(&next()[0]).mean();
        step(&mut model, &mut optimizer, 3e-3, loss);
    }
    println!("Learning preferences, {} steps of DPO.", steps[1]);
    let (mut dpo, mut optimizer) = (model.clone(), adam());
    for _ in 0..steps[1] {
        let loss = dpo_loss(&dpo, &model, next());
        step(&mut dpo, &mut optimizer, 3e-4, loss);
    }
    println!("Learning from rewards, {} rounds of GRPO.", steps[2]);
    let (mut grpo, mut optimizer) = (model.clone(), adam());
    for _ in 0..steps[2] {
        let prompts = next()[0].clone().slice([0..BATCH / GROUP, 0..PROMPT]);
        let passages = grpo.write(prompts.repeat_dim(0, GROUP));
        let rewards = reward(&passages, &vowels).reshape([GROUP, BATCH / GROUP]);
        let (variance, mean) = rewards.clone().var_mean(0);
        let advantages = ((rewards - mean) / (variance.sqrt() + 1e-4)).reshape([BATCH, 1]);
        let [old, reference] = [&grpo, &model].map(|of| of.log_prob(&passages).detach());
        for _ in 0..2 {
            let known = [old.clone(), reference.clone(), advantages.clone()];
            let loss = grpo_loss(&grpo, &passages, known);
            step(&mut grpo, &mut optimizer, 1e-3, loss);
        }
    }
    let measured = [model, dpo, grpo].map(|model| {
        let (log_prob, other) = (model.log_prob(&right), model.log_prob(&wrong));
        let margin = (log_prob.clone() - other).sum_dim(1).mean();
        let written = model.write(right.clone().narrow(1, 0, PROMPT));
        [margin, log_prob.mean(), reward(&written, &vowels).mean()].map(Tensor::into_scalar)
    });
    Ok(measured)
}

fn main() -> Result<(), String> {
    let seed = Arguments::parse().seed;
    let measured = run([600, 150, 30], seed, &Device::flex().autodiff())?;
    println!("\nOn held-out text, log-probabilities in nats:");
    println!("            right - wrong answer  right character  vowels written");
    for (name, [margin, log_prob, reward]) in
        ["pretrained", "with DPO", "with GRPO"].iter().zip(measured)
    {
        println!("{name:10}  {margin:20.2}  {log_prob:15.2}  {reward:14.2}");
    }
    Ok(())
}

#[test]
fn dpo_widens_the_margin_and_grpo_raises_the_reward() {
    let device = Device::flex().autodiff();
    let [pretrained, dpo, grpo] = run([40, 20, 3], 1, &device).unwrap();
    assert!(dpo[0] > pretrained[0] + 0.4, "{pretrained:?} {dpo:?}");
    assert!(grpo[2] > pretrained[2] + 0.1, "{pretrained:?} {grpo:?}");
}
