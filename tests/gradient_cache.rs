//! The gradients of pieces are those of the whole batch. In a program of its own, since the random numbers of a device are
//! common to all tests of a program.
#![cfg(any(feature = "flex", feature = "ndarray"))]
// Burn deprecates NdArray, on which these tests run too.
#![cfg_attr(feature = "ndarray", allow(deprecated))]

use std::sync::{Mutex, PoisonError};

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Distribution, Tensor};
use burn_cross_entropy::contrastive::{GradientCache, InBatch};
use burn_cross_entropy::{InfoNceLoss, InfoNceLossConfig};

/// Two towers and a loss with a learnt temperature.
#[derive(Module, Debug)]
struct Model {
    images: Linear,
    texts: Linear,
    dropout: Dropout,
    loss: InfoNceLoss,
}

const ROWS: usize = 11;
const PIECES: [std::ops::Range<usize>; 4] = [0..3, 3..6, 6..10, 10..11];

impl Model {
    fn new(dropout: f64, device: &Device) -> Self {
        let loss = InfoNceLossConfig::new()
            .with_learnable(true)
            .with_in_batch(InBatch::Symmetric);
        Self {
            images: LinearConfig::new(6, 4).init(device),
            texts: LinearConfig::new(5, 4).init(device),
            dropout: DropoutConfig::new(dropout).init(),
            loss: loss.init(device),
        }
    }

    fn embed(&self, images: Tensor<2>, texts: Tensor<2>) -> [Tensor<2>; 2] {
        let images = self.dropout.forward(self.images.forward(images));
        [images, self.texts.forward(texts)]
    }
}

fn gradients_of(model: &Model, mut gradients: GradientsParams) -> Vec<Vec<f64>> {
    let of = |gradients: &mut GradientsParams, linear: &Linear| {
        let bias = linear.bias.as_ref().expect("it has one").id;
        let weight = gradients
            .remove::<2>(linear.weight.id)
            .expect("it is trained");
        let bias = gradients.remove::<1>(bias).expect("it is trained");
        [numbers(weight), numbers(bias)]
    };
    let mut all: Vec<Vec<f64>> = of(&mut gradients, &model.images).into();
    all.extend(of(&mut gradients, &model.texts));
    // What is left is the temperature's.
    assert_eq!(gradients.len(), 1);
    struct Temperature<'a>(&'a mut GradientsParams, Vec<f64>);
    impl burn::module::ModuleVisitor for Temperature<'_> {
        fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
            self.1 = numbers(self.0.remove::<D>(param.id).expect("it is trained"));
        }
    }
    let mut temperature = Temperature(&mut gradients, Vec::new());
    model.loss.visit(&mut temperature);
    all.push(temperature.1);
    all
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// Asserts that numbers agree to a share of the largest of them: two orders of sums of f32.
#[track_caller]
fn assert_same(name: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected
        .iter()
        .fold(0.0, |largest: f64, x| largest.max(x.abs()));
    for (found, expected) in found.iter().zip(expected) {
        let off = (found - expected).abs();
        assert!(
            off <= 1e-6 * largest,
            "{name}: {found:e}, expected {expected:e}"
        );
    }
}

fn batch(device: &Device) -> [Tensor<2>; 2] {
    [6, 5].map(|features| Tensor::random([ROWS, features], Distribution::Normal(0.0, 1.0), device))
}

/// Gradients by pieces.
fn by_pieces(
    model: &Model,
    [images, texts]: &[Tensor<2>; 2],
    cache: GradientCache,
) -> (f64, Vec<Vec<f64>>) {
    let embed = |piece: usize| {
        let rows = PIECES[piece].clone();
        model.embed(
            images.clone().slice([rows.clone()]),
            texts.clone().slice([rows]),
        )
    };
    let mut cached = cache.loss(PIECES.len(), embed, |[images, texts]| {
        model.loss.forward_in_batch(images, texts)
    });
    assert_eq!(cached.pieces(), PIECES.len());
    let mut sum = GradientsAccumulator::new();
    sum.accumulate(
        model,
        GradientsParams::from_module(cached.gradients(), model),
    );
    for piece in 0..cached.pieces() {
        let gradients = cached.replay(piece, embed).backward();
        sum.accumulate(model, GradientsParams::from_grads(gradients, model));
    }
    (numbers(cached.loss())[0], gradients_of(model, sum.grads()))
}

fn pieces_have_the_gradients_of_the_batch(device: &Device) {
    let model = Model::new(0.0, device);
    let [images, texts] = batch(device);
    let embedded = model.embed(images.clone(), texts.clone());
    let [of_images, of_texts] = embedded;
    let value = model.loss.forward_in_batch(of_images, of_texts);
    let expected = GradientsParams::from_grads(value.clone().backward(), &model);
    let expected = gradients_of(&model, expected);
    let (loss, found) = by_pieces(&model, &[images, texts], GradientCache::new());
    assert_same("loss", &[loss], &numbers(value));
    for (found, expected) in found.iter().zip(&expected) {
        assert_same("gradients", found, expected);
    }
}

/// With the random numbers of the first pass in the second, the gradients are those of the same dropout: nothing is
/// dropped in one pass and not in the other.
fn random_numbers_are_replayed(device: &Device) {
    let model = Model::new(0.5, device);
    let views = batch(device);
    // A layer draws its parameters when it is first used.
    model.embed(views[0].clone(), views[1].clone());
    let seeded = || GradientCache::new().with_seed(device, 17);
    let (loss, found) = by_pieces(&model, &views, seeded());

    // The same dropout over the whole batch: each piece with its own numbers, in one graph.
    let [images, texts] = &views;
    let pieces = PIECES.iter().enumerate().map(|(piece, rows)| {
        device.seed(17 + piece as u64);
        model.embed(
            images.clone().slice([rows.clone()]),
            texts.clone().slice([rows.clone()]),
        )
    });
    let (of_images, of_texts): (Vec<_>, Vec<_>) = pieces.map(|[a, b]| (a, b)).unzip();
    let value = model
        .loss
        .forward_in_batch(Tensor::cat(of_images, 0), Tensor::cat(of_texts, 0));
    let expected = GradientsParams::from_grads(value.clone().backward(), &model);
    let expected = gradients_of(&model, expected);
    assert_same("loss", &[loss], &numbers(value));
    for (found, expected) in found.iter().zip(&expected) {
        assert_same("gradients", found, expected);
    }
}

/// Runs one test at a time.
fn alone(test: fn(&Device), device: Device) {
    static LOCK: Mutex<()> = Mutex::new(());
    let _lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    test(&device.autodiff());
}

#[cfg(feature = "flex")]
#[test]
fn flex_pieces_have_the_gradients_of_the_batch() {
    alone(pieces_have_the_gradients_of_the_batch, Device::flex());
}

#[cfg(feature = "ndarray")]
#[test]
fn ndarray_pieces_have_the_gradients_of_the_batch() {
    alone(pieces_have_the_gradients_of_the_batch, Device::ndarray());
}

#[cfg(feature = "flex")]
#[test]
fn flex_random_numbers_are_replayed() {
    alone(random_numbers_are_replayed, Device::flex());
}

#[cfg(feature = "ndarray")]
#[test]
fn ndarray_random_numbers_are_replayed() {
    alone(random_numbers_are_replayed, Device::ndarray());
}
