//! The network that turns an image into a unit vector.

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::data::{self, Image, Size};

/// Channels after the first convolution, and after the others.
const CHANNELS: [usize; 2] = [64, 128];
/// Places in a row or column that are few enough for the projection head.
const FEW_PLACES: usize = 3;
const HIDDEN: usize = 128;
/// Numbers in an embedding.
pub const EMBEDDING: usize = 64;
/// Images that are embedded together, outside of the training.
const CHUNK: usize = 256;

/// The layer from which a representation is taken.
#[derive(Clone, Copy)]
pub enum Layer {
    /// The output of the convolutions. Without training it is better than the embedding, because a random
    /// projection head only blurs it.
    Features,
    /// The output of the projection head: a unit vector. With training it is the better one.
    Embedding,
}

/// Convolutions, each of which halves height and width, and a projection head of two layers. Digits of 8 x 8
/// pixels take two convolutions, MNIST's 28 x 28 three.
#[derive(Module, Debug)]
pub struct Encoder {
    /// The first convolution, over overlapping patches of 4 x 4 pixels: 8 x 8 pixels become 4 x 4 places.
    patches: Conv2d,
    /// The other convolutions, each of which joins 2 x 2 places to one, until few are left.
    merges: Vec<Conv2d>,
    hidden: Linear,
    projection: Linear,
}

impl Encoder {
    /// Makes an encoder on a device with autodiff. The same seed gives the same weights on every backend.
    pub fn new(size: Size, seed: u64, device: &Device) -> Self {
        let patches = Conv2dConfig::new([1, CHANNELS[0]], [4, 4])
            .with_stride([2, 2])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .init(device);
        let (mut height, mut width) = (size.height / 2, size.width / 2);
        let mut channels = CHANNELS[0];
        let mut merges = Vec::new();
        // A side of one place cannot be halved.
        while height.max(width) > FEW_PLACES && height.min(width) > 1 {
            let merge = Conv2dConfig::new([channels, CHANNELS[1]], [2, 2]).with_stride([2, 2]);
            merges.push(merge.init(device));
            channels = CHANNELS[1];
            (height, width) = (height / 2, width / 2);
        }
        let encoder = Self {
            patches,
            merges,
            hidden: LinearConfig::new(channels * height * width, HIDDEN).init(device),
            projection: LinearConfig::new(HIDDEN, EMBEDDING).init(device),
        };
        encoder.map(&mut Draw {
            random: StdRng::seed_from_u64(seed),
            bound: 0.0,
        })
    }

    /// Turns images of [images, 1, height, width] into unit vectors of [images, embedding].
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let hidden = relu(self.hidden.forward(self.features(images)));
        unit_length(self.projection.forward(hidden))
    }

    /// The output of the convolutions, before the projection head.
    fn features(&self, images: Tensor<4>) -> Tensor<2> {
        let maps = relu(self.patches.forward(images));
        let merged = |maps, merge: &Conv2d| relu(merge.forward(maps));
        self.merges.iter().fold(maps, merged).flatten(1, 3)
    }

    /// Represents images by the output of a layer, without gradients.
    pub fn represent(
        &self,
        images: &[Image],
        size: Size,
        layer: Layer,
    ) -> Result<Vec<Vec<f32>>, String> {
        let encoder = self.valid();
        let device = self.device();
        let mut rows = Vec::with_capacity(images.len());
        for chunk in images.chunks(CHUNK) {
            let chunk = data::to_tensor(chunk, size, &device);
            let values = match layer {
                Layer::Features => encoder.features(chunk),
                Layer::Embedding => encoder.forward(chunk),
            };
            let width = values.dims()[1];
            let values: Vec<f32> = values.try_into_vec_as().map_err(|error| {
                format!("the representations cannot be read from the device: {error}")
            })?;
            rows.extend(values.chunks(width).map(<[f32]>::to_vec));
        }
        Ok(rows)
    }

    /// The device of the weights, without autodiff.
    pub fn device(&self) -> Device {
        self.projection.weight.device().without_autodiff()
    }

    /// The number of values that the training adjusts.
    pub fn parameters(&self) -> usize {
        self.num_params()
    }
}

/// Draws all weights and biases uniformly within plus and minus one over the root of a layer's inputs, as
/// Burn does. It uses a generator of the program's own, because a device has one sequence for all threads,
/// and every backend has another one.
struct Draw {
    random: StdRng,
    bound: f32,
}

impl ModuleMapper for Draw {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|value| {
            let shape = value.dims();
            // A bias comes after the weight of its layer.
            let inputs: Option<usize> = match shape.as_slice() {
                [_] => None,
                [inputs, _] => Some(*inputs),
                [_, inputs @ ..] => Some(inputs.iter().product()),
                [] => None,
            };
            if let Some(inputs) = inputs {
                self.bound = (inputs as f32).sqrt().recip();
            }
            let drawn = || self.random.random_range(-self.bound..=self.bound);
            let values: Vec<f32> = std::iter::repeat_with(drawn)
                .take(value.shape().num_elements())
                .collect();
            Tensor::from_data(TensorData::new(values, shape), &value.device()).require_grad()
        })
    }
}

/// Divides every row by its length.
fn unit_length(rows: Tensor<2>) -> Tensor<2> {
    let length = rows.clone().square().sum_dim(1).add_scalar(1e-12).sqrt();
    rows / length
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn the_weights_depend_on_the_seed_alone() {
        let device = Device::flex().autodiff();
        let size = Size {
            height: 8,
            width: 8,
        };
        let of = |seed| {
            let encoder = Encoder::new(size, seed, &device);
            let weights: Vec<f32> = encoder
                .hidden
                .weight
                .val()
                .into_data()
                .try_into_vec_as()
                .unwrap();
            assert!(encoder.hidden.weight.val().is_require_grad());
            weights
        };
        let weights = of(1);
        assert!(weights == of(1) && weights != of(2));
        // Uniform draws from within plus and minus b have the deviation b / sqrt(3).
        let square = weights.iter().map(|x| x * x).sum::<f32>() / weights.len() as f32;
        assert!((square.sqrt() * (3.0f32 * 512.0).sqrt() - 1.0).abs() < 0.01);
    }

    #[test]
    fn images_of_every_size_become_unit_vectors() {
        let device = Device::flex().autodiff();
        for (height, width) in [(8, 8), (28, 28), (4, 4), (5, 31), (4, 40)] {
            let encoder = Encoder::new(Size { height, width }, 1, &device);
            let embeddings = encoder.forward(Tensor::ones([2, 1, height, width], &device));
            assert_eq!(embeddings.dims(), [2, EMBEDDING]);
            let lengths: Vec<f32> = embeddings
                .square()
                .sum_dim(1)
                .into_data()
                .try_into_vec_as()
                .unwrap();
            assert!(lengths.iter().all(|length| (length - 1.0).abs() < 1e-5));
        }
    }
}
