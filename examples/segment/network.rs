//! A small network in the shape of a U, which joins fine maps (what is where) with coarse maps (what is
//! around).

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use crate::shapes::CLASSES;

/// Channels at the full, half and quarter size.
const CHANNELS: [usize; 3] = [8, 32, 64];

#[derive(Module, Debug)]
pub struct Network {
    full: Block,
    half: Block,
    quarter: Block,
    around: Block,
    further_around: Block,
    to_half: ConvTranspose2d,
    half_joined: Block,
    to_full: ConvTranspose2d,
    full_joined: Block,
    classes: Conv2d,
}

impl Network {
    pub fn new(device: &Device) -> Self {
        let [full, half, quarter] = CHANNELS;
        let block = |channels, stride, dilation| Block::new(channels, stride, dilation, device);
        let twice = |channels| {
            ConvTranspose2dConfig::new(channels, [2, 2])
                .with_stride([2, 2])
                .init(device)
        };
        Self {
            full: block([1, full], 1, 1),
            half: block([full, half], 2, 1),
            quarter: block([half, quarter], 2, 1),
            around: block([quarter, quarter], 1, 1),
            further_around: block([quarter, quarter], 1, 2),
            to_half: twice([quarter, half]),
            half_joined: block([2 * half, half], 1, 1),
            to_full: twice([half, full]),
            full_joined: block([2 * full, full], 1, 1),
            classes: Conv2dConfig::new([full, CLASSES], [1, 1]).init(device),
        }
    }

    /// Turns images of [images, 1, height, width] into logits of [images, classes, height, width].
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let full = self.full.forward(images);
        let half = self.half.forward(full.clone());
        let quarter = self.around.forward(self.quarter.forward(half.clone()));
        let quarter = self.further_around.forward(quarter);
        let joined = Tensor::cat(vec![self.to_half.forward(quarter), half], 1);
        let half = self.half_joined.forward(joined);
        let joined = Tensor::cat(vec![self.to_full.forward(half), full], 1);
        self.classes.forward(self.full_joined.forward(joined))
    }
}

/// A convolution, a normalisation and a ReLU.
#[derive(Module, Debug)]
struct Block {
    conv: Conv2d,
    norm: BatchNorm,
}

impl Block {
    fn new(channels: [usize; 2], stride: usize, dilation: usize, device: &Device) -> Self {
        let around = PaddingConfig2d::Explicit(dilation, dilation, dilation, dilation);
        Self {
            conv: Conv2dConfig::new(channels, [3, 3])
                .with_stride([stride, stride])
                .with_dilation([dilation, dilation])
                .with_padding(around)
                .init(device),
            norm: BatchNormConfig::new(channels[1]).init(device),
        }
    }

    fn forward(&self, maps: Tensor<4>) -> Tensor<4> {
        relu(self.norm.forward(self.conv.forward(maps)))
    }
}
