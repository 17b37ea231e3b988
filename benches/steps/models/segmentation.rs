//! A class for every pixel: convolutions down to a quarter of the size, and transposed ones back.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor};

use super::Model;
use crate::data::{self, Purpose};
use crate::side::Prediction;

const IMAGES: usize = 2;
const SIDE: usize = 256;
const CLASSES: usize = 19;
/// Channels of the images, and at the full, half and quarter size.
const COLOURS: usize = 3;
const CHANNELS: [usize; 3] = [16, 32, 64];

pub const LOGITS: [usize; 4] = [IMAGES, CLASSES, SIDE, SIDE];

#[derive(Module, Debug)]
pub struct Segmentation {
    half: Block,
    quarter: Block,
    around: Block,
    to_half: ConvTranspose2d,
    to_full: ConvTranspose2d,
    classes: Conv2d,
}

impl Segmentation {
    pub fn new(device: &Device) -> Self {
        let [full, half, quarter] = CHANNELS;
        let twice = |channels| {
            ConvTranspose2dConfig::new(channels, [2, 2])
                .with_stride([2, 2])
                .init(device)
        };
        Self {
            half: Block::new([COLOURS, half], 2, device),
            quarter: Block::new([half, quarter], 2, device),
            around: Block::new([quarter, quarter], 1, device),
            to_half: twice([quarter, half]),
            to_full: twice([half, full]),
            classes: Conv2dConfig::new([full, CLASSES], [1, 1]).init(device),
        }
    }
}

/// Images [images, colours, side, side] and the class of each pixel.
pub fn batch(device: &Device) -> (Tensor<4>, Tensor<3, Int>) {
    let images = data::pixels([IMAGES, COLOURS, SIDE, SIDE], device);
    let classes = data::indices([IMAGES, SIDE, SIDE], CLASSES, Purpose::Targets, device);
    (images, classes)
}

impl Model for Segmentation {
    type Batch = (Tensor<4>, Tensor<3, Int>);

    fn predict(&self, (images, classes): &Self::Batch) -> Prediction<'_> {
        let quarter = self.quarter.forward(self.half.forward(images.clone()));
        let quarter = self.around.forward(quarter);
        let half = relu(self.to_half.forward(quarter));
        let full = relu(self.to_full.forward(half));
        Prediction::Pixels(self.classes.forward(full), classes.clone())
    }
}

/// A convolution, a normalisation and a ReLU.
#[derive(Module, Debug)]
struct Block {
    conv: Conv2d,
    norm: BatchNorm,
}

impl Block {
    fn new(channels: [usize; 2], stride: usize, device: &Device) -> Self {
        Self {
            conv: Conv2dConfig::new(channels, [3, 3])
                .with_stride([stride, stride])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device),
            norm: BatchNormConfig::new(channels[1]).init(device),
        }
    }

    fn forward(&self, maps: Tensor<4>) -> Tensor<4> {
        relu(self.norm.forward(self.conv.forward(maps)))
    }
}
