//! A small network of the U shape: what is where (fine) joined with what is around it (coarse).

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use crate::shapes::CLASSES;

/// Channels at the full, half and quarter size.
const CHANNELS: [usize; 3] = [16, 32, 64];

#[derive(Module, Debug)]
pub struct Network {
    full: Conv2d,
    half: Conv2d,
    quarter: Conv2d,
    around: Conv2d,
    to_half: ConvTranspose2d,
    half_joined: Conv2d,
    to_full: ConvTranspose2d,
    full_joined: Conv2d,
    classes: Conv2d,
}

impl Network {
    pub fn new(device: &Device) -> Self {
        let [full, half, quarter] = CHANNELS;
        let conv = |channels, stride, dilation| {
            Conv2dConfig::new(channels, [3, 3])
                .with_stride([stride, stride])
                .with_dilation([dilation, dilation])
                .with_padding(PaddingConfig2d::Explicit(
                    dilation, dilation, dilation, dilation,
                ))
                .init(device)
        };
        let twice = |channels| {
            ConvTranspose2dConfig::new(channels, [2, 2])
                .with_stride([2, 2])
                .init(device)
        };
        Self {
            full: conv([1, full], 1, 1),
            half: conv([full, half], 2, 1),
            quarter: conv([half, quarter], 2, 1),
            around: conv([quarter, quarter], 1, 2),
            to_half: twice([quarter, half]),
            half_joined: conv([2 * half, half], 1, 1),
            to_full: twice([half, full]),
            full_joined: conv([2 * full, full], 1, 1),
            classes: Conv2dConfig::new([full, CLASSES], [1, 1]).init(device),
        }
    }

    /// Images of [images, 1, height, width] to logits of [images, classes, height, width].
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let full = relu(self.full.forward(images));
        let half = relu(self.half.forward(full.clone()));
        let quarter = relu(self.quarter.forward(half.clone()));
        let around = relu(self.around.forward(quarter));
        let joined = Tensor::cat(vec![self.to_half.forward(around), half], 1);
        let half = relu(self.half_joined.forward(joined));
        let joined = Tensor::cat(vec![self.to_full.forward(half), full], 1);
        self.classes.forward(relu(self.full_joined.forward(joined)))
    }
}
