//! The network that turns an image into a unit vector.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use crate::digits::{self, Image};

/// Channels after the first and the second convolution.
const CHANNELS: [usize; 2] = [64, 128];
/// Places that are left of an image after the second convolution.
const PLACES: usize = 2 * 2;
const HIDDEN: usize = 128;
/// Numbers in an embedding.
pub const EMBEDDING: usize = 64;
/// Images that are embedded at once outside of the training.
const CHUNK: usize = 256;

/// Where a representation is taken from.
#[derive(Clone, Copy)]
pub enum Layer {
    /// After the convolutions. Without training this is better than the embedding, which a random
    /// projection head only blurs.
    Features,
    /// After the projection head: a unit vector. With training this is the better one.
    Embedding,
}

/// Two convolutions and a projection head of two layers.
#[derive(Module, Debug)]
pub struct Encoder {
    /// Overlapping patches of 4 x 4 pixels: 8 x 8 pixels become 4 x 4 places.
    patches: Conv2d,
    /// Joins 2 x 2 places to one.
    merge: Conv2d,
    hidden: Linear,
    projection: Linear,
}

impl Encoder {
    pub fn new(device: &Device) -> Self {
        Self {
            patches: Conv2dConfig::new([1, CHANNELS[0]], [4, 4])
                .with_stride([2, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device),
            merge: Conv2dConfig::new(CHANNELS, [2, 2])
                .with_stride([2, 2])
                .init(device),
            hidden: LinearConfig::new(CHANNELS[1] * PLACES, HIDDEN).init(device),
            projection: LinearConfig::new(HIDDEN, EMBEDDING).init(device),
        }
    }

    /// Images of [images, 1, height, width] to unit vectors of [images, embedding].
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let hidden = relu(self.hidden.forward(self.features(images)));
        unit_length(self.projection.forward(hidden))
    }

    /// What the convolutions make of the images, before the projection head.
    fn features(&self, images: Tensor<4>) -> Tensor<2> {
        let maps = relu(self.patches.forward(images));
        relu(self.merge.forward(maps)).flatten(1, 3)
    }

    /// What the encoder makes of images, without gradients.
    pub fn represent(&self, images: &[Image], layer: Layer) -> Result<Vec<Vec<f32>>, String> {
        let encoder = self.valid();
        let device = self.projection.weight.device().inner();
        let mut rows = Vec::with_capacity(images.len());
        for chunk in images.chunks(CHUNK) {
            let chunk = digits::to_tensor(chunk, &device);
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

    /// How many numbers the training adjusts.
    pub fn parameters(&self) -> usize {
        self.num_params()
    }
}

/// Every row divided by its length.
pub fn unit_length(rows: Tensor<2>) -> Tensor<2> {
    let length = rows.clone().square().sum_dim(1).add_scalar(1e-12).sqrt();
    rows / length
}
