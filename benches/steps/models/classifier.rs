//! A classifier of small images: two convolutions and two linear layers.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{AdaptiveAvgPool2d, AdaptiveAvgPool2dConfig};
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor};

use super::Model;
use crate::data::{self, Purpose};
use crate::side::Prediction;

const IMAGES: usize = 256;
const SIDE: usize = 28;
const CLASSES: usize = 10;
/// Channels after the first and the second convolution.
const CHANNELS: [usize; 2] = [8, 16];
/// The side of the map that the linear layers see.
const POOLED: usize = 8;
const HIDDEN: usize = 512;

pub const LOGITS: [usize; 2] = [IMAGES, CLASSES];

#[derive(Module, Debug)]
pub struct Classifier {
    strokes: Conv2d,
    shapes: Conv2d,
    pool: AdaptiveAvgPool2d,
    dropout: Dropout,
    hidden: Linear,
    classes: Linear,
}

impl Classifier {
    pub fn new(device: &Device) -> Self {
        let places = POOLED * POOLED;
        Self {
            strokes: Conv2dConfig::new([1, CHANNELS[0]], [3, 3]).init(device),
            shapes: Conv2dConfig::new(CHANNELS, [3, 3]).init(device),
            pool: AdaptiveAvgPool2dConfig::new([POOLED, POOLED]).init(),
            dropout: DropoutConfig::new(0.5).init(),
            hidden: LinearConfig::new(CHANNELS[1] * places, HIDDEN).init(device),
            classes: LinearConfig::new(HIDDEN, CLASSES).init(device),
        }
    }
}

/// Images [images, 1, side, side] and their classes.
pub fn batch(device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
    let images = data::pixels([IMAGES, 1, SIDE, SIDE], device);
    let classes = data::indices([IMAGES], CLASSES, Purpose::Targets, device);
    (images, classes)
}

impl Model for Classifier {
    type Batch = (Tensor<4>, Tensor<1, Int>);

    fn predict(&self, (images, classes): &Self::Batch) -> Prediction<'_> {
        let maps = relu(self.strokes.forward(images.clone()));
        let maps = relu(self.shapes.forward(maps));
        let maps = self.pool.forward(maps).flatten::<2>(1, 3);
        let hidden = relu(self.hidden.forward(self.dropout.forward(maps)));
        let logits = self.classes.forward(self.dropout.forward(hidden));
        Prediction::Rows(logits, classes.clone())
    }
}
