//! A small model trained from one start: with this loss and with `burn::nn`'s, with Burn's fusion and without
//! it.

use burn::module::{Module, Param};
use burn::nn::loss::CrossEntropyLossConfig as BurnLossConfig;
use burn::nn::{Linear, LinearConfig, Relu};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_cross_entropy::CrossEntropyLossConfig;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::backends::tests_on;
use crate::common::tolerance::behind_products;

const STEPS: usize = 100;
/// Difference of two courses, in which the roundings of every step add up.
const ALLOWED: f64 = 1e-4;
const FEATURES: usize = 12;
const CLASSES: usize = 7;
/// The padding, which is a class too, because `burn::nn` requires it.
const PAD: usize = 3;

#[derive(Module, Debug)]
struct Model {
    hidden: Linear,
    output: Linear,
    activation: Relu,
}

impl Model {
    /// Draws the same numbers each time. Burn draws from a generator that all tests of the process share, and
    /// how much a hundred steps teach depends on the start.
    fn new(device: &Device) -> Self {
        let mut rng = StdRng::seed_from_u64(7);
        let mut layer = |inputs: usize, outputs: usize| {
            let mut layer = LinearConfig::new(inputs, outputs).init(device);
            let bound = (inputs as f32).sqrt().recip();
            let mut drawn = |count: usize| -> Vec<f32> {
                let draw = |_| rng.random_range(-bound..bound);
                (0..count).map(draw).collect()
            };
            let weight = TensorData::new(drawn(inputs * outputs), [inputs, outputs]);
            let bias = TensorData::new(drawn(outputs), [outputs]);
            layer.weight = Param::from_data(weight, device);
            layer.bias = Some(Param::from_data(bias, device));
            layer
        };
        Self {
            hidden: layer(FEATURES, 24),
            output: layer(24, CLASSES),
            activation: Relu::new(),
        }
    }

    fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        let hidden = self.activation.forward(self.hidden.forward(features));
        self.output.forward(hidden)
    }
}

/// The features and targets of a step; the batches differ in size.
fn batch(step: usize) -> (TensorData, TensorData) {
    let mut rng = StdRng::seed_from_u64(step as u64 % 10);
    let rows = 9 + step % 4;
    let features: Vec<f32> = (0..rows * FEATURES)
        .map(|_| rng.random_range(-1.0..1.0))
        .collect();
    let class = |row: usize| {
        let of_row = &features[row * FEATURES..][..CLASSES];
        let largest = (0..CLASSES).max_by(|a, b| of_row[*a].total_cmp(&of_row[*b]));
        largest.expect("there are classes") as i64
    };
    let targets: Vec<i64> = (0..rows).map(class).collect();
    (
        TensorData::new(features, [rows, FEATURES]),
        TensorData::new(targets, [rows]),
    )
}

/// Trains the model and returns the loss of every step.
fn train(
    mut model: Model,
    device: &Device,
    loss: impl Fn(Tensor<2>, Tensor<1, Int>) -> Tensor<1>,
) -> Vec<f64> {
    let mut optimizer = SgdConfig::new().init();
    (0..STEPS)
        .map(|step| {
            let (features, targets) = batch(step);
            let logits = model.forward(Tensor::from_data(features, device));
            let value = loss(logits, Tensor::from_data(targets, device));
            let gradients = GradientsParams::from_grads(value.backward(), &model);
            model = optimizer.step(0.1f64, model.clone(), gradients);
            value.into_scalar::<f64>()
        })
        .collect()
}

#[track_caller]
fn assert_same_course(found: &[f64], expected: &[f64], allowed: f64) {
    for (step, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() < allowed,
            "step {step}: {found} for {expected}"
        );
    }
    let (first, last) = (&expected[..10], &expected[expected.len() - 10..]);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(
        mean(last) < 0.8 * mean(first),
        "nothing was learned: {} after {}",
        mean(last),
        mean(first)
    );
}

fn the_course_is_that_of_burns_loss(device: &Device) {
    let weights: Vec<f32> = (0..CLASSES).map(|class| 0.5 + class as f32 * 0.2).collect();
    let plain = (CrossEntropyLossConfig::new(), BurnLossConfig::new());
    let weighted = (
        CrossEntropyLossConfig::new()
            .with_weight(Some(weights.clone()))
            .with_label_smoothing(0.1)
            .with_ignore_indices(vec![PAD as i64]),
        BurnLossConfig::new()
            .with_weights(Some(weights))
            .with_smoothing(Some(0.1))
            .with_pad_tokens(Some(vec![PAD])),
    );
    for (ours, burns) in [plain, weighted] {
        let start = Model::new(device);
        let ours = ours.init(device);
        let burns = burns.init(device);
        let found = train(start.clone(), device, |logits, targets| {
            ours.forward(logits, targets)
        });
        let expected = train(start, device, |logits, targets| {
            burns.forward(logits, targets)
        });
        assert_same_course(&found, &expected, behind_products(ALLOWED, device));
    }
}

tests_on! {
    products: [
        the_course_is_that_of_burns_loss,
    ],
}

/// Trains in the operations of a backend itself, with Burn's fusion around it or without.
#[cfg(feature = "wgpu")]
mod fusion {
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Autodiff, AutodiffBackend, Backend, BackendTypes};
    use burn::tensor::DType;
    use burn_cross_entropy::backend::CrossEntropyOperation;
    use burn_cross_entropy::operation::{InputValues, Inputs, Logits, Options, Targets, Wanted};
    use burn_cubecl::CubeBackend;

    use super::*;

    fn options() -> Options {
        Options {
            ignore_indices: [PAD as i64].as_slice().into(),
            label_smoothing: 0.1,
            values: InputValues::Logits {
                scale: 1.5,
                softcap: None,
            },
            z_loss: 0.001,
            ..Options::default()
        }
    }

    fn numbers<B: Backend>(tensor: FloatTensor<B>) -> Vec<f64> {
        let data = burn::backend::read_sync(B::float_into_data(tensor));
        data.expect("the device computes").iter().collect()
    }

    /// Trains a linear model and returns the loss of every step.
    fn course<B>(device: &<B as BackendTypes>::Device) -> Vec<f64>
    where
        B: AutodiffBackend + CrossEntropyOperation,
    {
        let start: Vec<f32> = (0..FEATURES * CLASSES)
            .map(|at| (at * 37 % 101) as f32 / 101.0 - 0.5)
            .collect();
        let start = TensorData::new(start, [FEATURES, CLASSES]);
        let mut weight = B::float_from_data(start, device);
        (0..STEPS)
            .map(|step| {
                let (features, targets) = batch(step);
                let targets = targets.convert_dtype(DType::I32);
                let tracked = B::float_set_require_grad(weight.clone(), true);
                let features = B::float_from_data(features, device);
                let logits = B::float_matmul(features, tracked.clone());
                let inputs = Inputs::new(Targets::Indices(B::int_from_data(targets, device)));
                let logits = Logits::Tensor(logits);
                let loss = B::cross_entropy(logits, inputs, options(), Wanted::default()).loss;
                let value = numbers::<B>(loss.clone());
                let gradients = B::backward(loss);
                let gradient = B::grad(&tracked, &gradients).expect("it is tracked");
                let gradient = B::from_inner(gradient);
                let step = B::float_mul_scalar(gradient, 0.5.into());
                weight = B::float_detach(B::float_sub(weight.clone(), step));
                value[0]
            })
            .collect()
    }

    #[test]
    fn the_course_with_fusion_is_that_without() {
        type CubeDevice = <CubeBackend as BackendTypes>::Device;
        let device = CubeDevice::Wgpu(burn_wgpu::WgpuDevice::default());
        let fused = course::<Autodiff<burn::backend::Cube>>(&device);
        let unfused = course::<Autodiff<CubeBackend>>(&device);
        assert_same_course(&fused, &unfused, ALLOWED);
        #[cfg(feature = "flex")]
        assert_same_course(
            &fused,
            &course::<Autodiff<burn::backend::Flex>>(&Default::default()),
            ALLOWED,
        );
    }
}
