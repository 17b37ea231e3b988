//! A language model's last layer with its vocabulary on two devices, compared with the same layer on one.
//!
//! ```sh
//! cargo run --manifest-path distributed/Cargo.toml --example vocabulary_shards
//! ```
//!
//! Both models start from the same weights and see the same tokens, of an invented language in which each
//! token has three successors. The table shows that the two models stay equal, that they learn, and what the
//! loss sends between the devices in a step.

use std::error::Error;

use burn::module::{Module, Param};
use burn::optim::{GradientsParams, SgdConfig, momentum::MomentumConfig};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use burn_cross_entropy::{CrossEntropyLoss, CrossEntropyLossConfig};
use distributed::{Loopback, ShardedHead};

const CLASSES: usize = 2048;
const HIDDEN: usize = 24;
const ROWS: usize = 96;
const STEPS: usize = 61;
const LEARNING_RATE: f64 = 4.0;
const PADDING: i64 = -100;
const BYTES: usize = size_of::<f32>();

/// The model on one device.
#[derive(Module, Debug)]
struct Whole {
    embedding: Param<Tensor<2>>,
    head: Param<Tensor<2>>,
    loss: CrossEntropyLoss,
}

/// The model whose vocabulary is divided.
#[derive(Module, Debug)]
struct Divided {
    embedding: Param<Tensor<2>>,
    head: ShardedHead,
}

/// Pseudorandom numbers, the same in every run.
struct Numbers(u64);

impl Numbers {
    /// The next number in `[0, 1)`.
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn tensor(&mut self, shape: [usize; 2], device: &Device) -> Tensor<2> {
        let numbers = (0..shape[0] * shape[1]).map(|_| (self.next() - 0.5) as f32);
        Tensor::from_data(
            TensorData::new(numbers.collect::<Vec<f32>>(), shape),
            device,
        )
    }

    /// Tokens and their successors. One successor in eight is unknown.
    fn batch(&mut self) -> (Vec<i64>, Vec<i64>) {
        let pair = |_| {
            let token = (self.next() * CLASSES as f64) as i64;
            let choice = [0.7, 0.9, 1.0].iter().position(|end| self.next() < *end);
            let step = 17 * choice.unwrap_or(2) as i64 + 7;
            let successor = (31 * token + step) % CLASSES as i64;
            let is_known = self.next() < 0.875;
            (token, if is_known { successor } else { PADDING })
        };
        (0..ROWS).map(pair).unzip()
    }
}

fn indices(values: &[i64], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

fn hidden(embedding: &Param<Tensor<2>>, tokens: &[i64]) -> Tensor<2> {
    let embedding = embedding.val();
    let tokens = indices(tokens, &embedding.device().without_autodiff());
    embedding.select(0, tokens).tanh()
}

fn floats(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// The largest difference of two gradients, as a share of the largest entry.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    let largest = expected
        .iter()
        .fold(0f32, |largest, e| largest.max(e.abs()));
    let pairs = found.iter().zip(expected);
    pairs.fold(0f32, |far, (f, e)| far.max((f - e).abs())) / largest
}

impl Divided {
    /// The gradient of the head's weights, the shards side by side, on `device`.
    fn head_gradient(&self, gradients: &Gradients, device: &Device) -> Tensor<2> {
        let parts = self.head.weights.iter().map(|part| {
            let gradient = part.val().grad(gradients).expect("the head is learned");
            Tensor::from_data(gradient.into_data(), device)
        });
        Tensor::cat(parts.collect(), 1)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let server = Loopback::start(2)?;
    let devices = server.devices();
    let single = Device::flex().autodiff();
    let config = CrossEntropyLossConfig::new()
        .with_ignore_indices(vec![PADDING])
        .with_z_loss(1e-4);

    let mut numbers = Numbers(2026);
    let embedding = numbers.tensor([CLASSES, HIDDEN], &single);
    let head = numbers.tensor([HIDDEN, CLASSES], &single);
    let mut whole = Whole {
        embedding: Param::from_tensor(embedding.clone()),
        head: Param::from_tensor(head.clone()),
        loss: config.init(&single),
    };
    let mut divided = Divided {
        embedding: Param::from_tensor(Tensor::from_data(embedding.into_data(), &devices[0])),
        head: ShardedHead::new(head, config.init(&devices[0]), &devices),
    };
    let optimizer = SgdConfig::new().with_momentum(Some(MomentumConfig::new()));
    let (mut whole_optimizer, mut divided_optimizer) = (optimizer.init(), optimizer.init());

    println!(
        "{CLASSES} classes, {ROWS} rows, {HIDDEN} hidden numbers; ln {CLASSES} = {:.4}",
        (CLASSES as f32).ln()
    );
    println!();
    println!("step   loss on one   loss on two   difference   head's gradient, of its largest");
    // Every step sees the same few batches, so that they can be learned in a minute.
    let batches: Vec<_> = (0..2).map(|_| numbers.batch()).collect();
    let mut sent = 0;
    for step in 0..STEPS {
        let (tokens, successors) = &batches[step % batches.len()];

        let logits = hidden(&whole.embedding, tokens).matmul(whole.head.val());
        let on_one = whole.loss.forward(logits, indices(successors, &single));
        let on_one_value: f32 = on_one.clone().into_scalar();
        let gradients = on_one.backward();
        let expected = whole
            .head
            .val()
            .grad(&gradients)
            .expect("the head is learned");
        let gradients = GradientsParams::from_grads(gradients, &whole);
        whole = whole_optimizer.step(LEARNING_RATE, whole, gradients);

        let states = hidden(&divided.embedding, tokens);
        let on_two = divided
            .head
            .forward(states, indices(successors, &devices[0]));
        let on_two_value: f32 = on_two.loss.clone().into_scalar();
        sent = on_two.numbers_sent * BYTES;
        let gradients = on_two.loss.backward();
        let found = divided.head_gradient(&gradients, &Device::flex());
        let gradients = GradientsParams::from_grads(gradients, &divided);
        divided = divided_optimizer.step(LEARNING_RATE, divided, gradients);

        if step % 6 == 0 {
            println!(
                "{step:4}   {on_one_value:11.6}   {on_two_value:11.6}   {:10.1e}   {:10.1e}",
                (on_one_value - on_two_value).abs(),
                distance(&floats(found), &floats(expected)),
            );
        }
    }

    // Bytes of sending the second device's logits to the first, and their gradient back.
    let logits = 2 * ROWS * CLASSES / 2 * BYTES;
    let states = 2 * ROWS * HIDDEN * BYTES;
    println!();
    println!("Sent between the devices in a step:");
    println!("  hidden states and their gradient, either way   {states:9} bytes");
    println!("  the loss's statistics                          {sent:9} bytes");
    println!(
        "  instead of logits and their gradient           {logits:9} bytes, {} times as many",
        logits / sent
    );
    Ok(())
}
