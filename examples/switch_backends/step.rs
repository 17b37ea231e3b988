//! The training step. Nothing here names a backend.

use std::time::{Duration, Instant};

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData, TensorReadError};
use burn_cross_entropy::{CrossEntropyBackend, CrossEntropyLoss};
use rand::RngExt;

use crate::random::{generator, normals};

const ROWS: usize = 512;
const FEATURES: usize = 64;
const HIDDEN: usize = 128;
pub const CLASSES: usize = 100;
const LEARNING_RATE: f64 = 0.5;

#[derive(Module, Debug)]
struct Model {
    hidden: Linear,
    output: Linear,
}

impl Model {
    /// Turns [rows, features] into logits of [rows, classes].
    fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        self.output.forward(relu(self.hidden.forward(features)))
    }

    /// The gradients of all parameters, one after the other.
    fn gradient(&self, gradients: &Gradients) -> Result<Vec<f32>, TensorReadError> {
        let mut values = Vec::new();
        for layer in [&self.hidden, &self.output] {
            let bias = layer.bias.as_ref().and_then(|bias| bias.grad(gradients));
            let weight = layer
                .weight
                .grad(gradients)
                .map(|weight| weight.flatten(0, 1));
            for part in [weight, bias].into_iter().flatten() {
                let part: Tensor<1> = part;
                values.extend(part.try_into_vec_as::<f32>()?);
            }
        }
        Ok(values)
    }
}

/// The start that all backends share: numbers on the host.
pub struct Start {
    /// Weight and bias of the two layers.
    parameters: [TensorData; 4],
    features: TensorData,
    targets: TensorData,
}

/// The results of a step.
pub struct Outcome {
    pub loss_before: f64,
    pub loss_after: f64,
    pub gradient: Vec<f32>,
    /// The time of the forward, the backward, the optimizer's step, and the forward after it.
    pub time: Duration,
}

impl Start {
    pub fn new(seed: u64) -> Self {
        let mut random = generator([seed, 0, 0, 0]);
        let mut normal = |shape: [usize; 2], scale: f32| {
            let values = normals(&mut random).take(shape[0] * shape[1]);
            TensorData::new(values.map(|value| scale * value).collect(), shape)
        };
        let scale = |inputs: usize| (inputs as f32).sqrt().recip();
        let parameters = [
            normal([FEATURES, HIDDEN], scale(FEATURES)),
            TensorData::zeros::<f32, _>([HIDDEN]),
            normal([HIDDEN, CLASSES], scale(HIDDEN)),
            TensorData::zeros::<f32, _>([CLASSES]),
        ];
        let features = normal([ROWS, FEATURES], 1.0);
        // A tenth of the rows is ignored.
        let targets: Vec<i32> = (0..ROWS)
            .map(|row| match row % 10 {
                0 => -100,
                _ => random.random_range(0..CLASSES as i32),
            })
            .collect();
        Self {
            parameters,
            features,
            targets: TensorData::new(targets, [ROWS]),
        }
    }

    /// Runs the step on a device, with a loss that is bound to its backend or takes any.
    pub fn step<B: CrossEntropyBackend>(
        &self,
        loss: &CrossEntropyLoss<B>,
        device: &Device,
    ) -> Result<Outcome, String> {
        self.try_step(loss, device)
            .map_err(|error| error.to_string())
    }

    fn try_step<B: CrossEntropyBackend>(
        &self,
        loss: &CrossEntropyLoss<B>,
        device: &Device,
    ) -> Result<Outcome, TensorReadError> {
        let model = self.model(device);
        let features = Tensor::<2>::from_data(self.features.clone(), device);
        let targets = Tensor::<1, Int>::from_data(self.targets.clone(), device);
        let mut optimizer = SgdConfig::new().init();

        let begin = Instant::now();
        let before = loss.forward(model.forward(features.clone()), targets.clone());
        let gradients = before.backward();
        let gradient = model.gradient(&gradients)?;
        let gradients = GradientsParams::from_grads(gradients, &model);
        let model = optimizer.step(LEARNING_RATE, model, gradients);
        let after = loss.forward(model.forward(features), targets);
        Ok(Outcome {
            loss_before: before.try_into_scalar()?,
            loss_after: after.try_into_scalar()?,
            gradient,
            time: begin.elapsed(),
        })
    }

    fn model(&self, device: &Device) -> Model {
        let [hidden_weight, hidden_bias, output_weight, output_bias] = &self.parameters;
        let layer = |weight: &TensorData, bias: &TensorData| Linear {
            weight: Param::from_tensor(Tensor::from_data(weight.clone(), device)),
            bias: Some(Param::from_tensor(Tensor::from_data(bias.clone(), device))),
        };
        Model {
            hidden: layer(hidden_weight, hidden_bias),
            output: layer(output_weight, output_bias),
        }
    }
}

impl Outcome {
    pub fn gradient_norm(&self) -> f64 {
        let squares = self.gradient.iter().map(|value| f64::from(*value).powi(2));
        squares.sum::<f64>().sqrt()
    }

    /// The largest difference between two outcomes: of a loss as a share of it, or of an entry of the
    /// gradient as a share of the largest; infinite where there is no number.
    pub fn difference(&self, other: &Self) -> f64 {
        let losses = [
            (self.loss_before, other.loss_before),
            (self.loss_after, other.loss_after),
        ];
        let losses = losses.map(|(one, other)| (one - other).abs() / other.abs());
        let largest = other
            .gradient
            .iter()
            .fold(0f32, |all, value| all.max(value.abs()));
        let entries = self.gradient.iter().zip(&other.gradient);
        let entries = entries.map(|(one, other)| f64::from((one - other).abs() / largest));
        let shares = losses.into_iter().chain(entries);
        // `max` passes over NaN.
        let shares = shares.map(|share| if share.is_nan() { f64::INFINITY } else { share });
        shares.fold(0.0, f64::max)
    }
}
