//! The network, which has the loss as one of its fields, and its steps.

use burn::data::dataloader::batcher::Batcher;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use burn_cross_entropy::{CrossEntropyLoss, CrossEntropyLossConfig, CrossEntropyOutput};

use crate::digits::{self, CLASSES, Image};

/// Channels after the first and the second convolution.
const CHANNELS: [usize; 2] = [32, 64];
/// Places in the map of an image after the second convolution.
const PLACES: usize = 4 * 4;
const HIDDEN: usize = 64;

#[derive(Module, Debug)]
pub struct Classifier {
    strokes: Conv2d,
    shapes: Conv2d,
    hidden: Linear,
    output: Linear,
    loss: CrossEntropyLoss,
}

impl Classifier {
    pub fn new(label_smoothing: f64, device: &Device) -> Self {
        let same_size = PaddingConfig2d::Explicit(1, 1, 1, 1);
        Self {
            strokes: Conv2dConfig::new([1, CHANNELS[0]], [3, 3])
                .with_padding(same_size.clone())
                .init(device),
            shapes: Conv2dConfig::new(CHANNELS, [3, 3])
                .with_stride([2, 2])
                .with_padding(same_size)
                .init(device),
            hidden: LinearConfig::new(CHANNELS[1] * PLACES, HIDDEN).init(device),
            output: LinearConfig::new(HIDDEN, CLASSES).init(device),
            loss: CrossEntropyLossConfig::new()
                .with_label_smoothing(label_smoothing)
                .init(device),
        }
    }

    /// Computes the logits [images, classes], with the loss and everything that the metrics need.
    pub fn classify(&self, batch: Batch) -> CrossEntropyOutput<1> {
        let maps = relu(self.strokes.forward(batch.images));
        let maps = relu(self.shapes.forward(maps));
        let hidden = relu(self.hidden.forward(maps.flatten::<2>(1, 3)));
        let logits = self.output.forward(hidden);
        self.loss.forward_with_output(logits, batch.digits)
    }
}

impl TrainStep for Classifier {
    type Input = Batch;
    type Output = CrossEntropyOutput<1>;

    fn step(&self, batch: Batch) -> TrainOutput<CrossEntropyOutput<1>> {
        let output = self.classify(batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Classifier {
    type Input = Batch;
    type Output = CrossEntropyOutput<1>;

    fn step(&self, batch: Batch) -> CrossEntropyOutput<1> {
        self.classify(batch)
    }
}

/// The input of a step.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The images, of shape [images, 1, height, width].
    pub images: Tensor<4>,
    pub digits: Tensor<1, Int>,
}

/// Makes batches of images and their digits.
pub struct DigitBatcher;

impl Batcher<(Image, usize), Batch> for DigitBatcher {
    fn batch(&self, items: Vec<(Image, usize)>, device: &Device) -> Batch {
        let (images, labels): (Vec<Image>, Vec<i64>) = items
            .into_iter()
            .map(|(image, digit)| (image, digit as i64))
            .unzip();
        Batch {
            images: digits::to_tensor(&images, device),
            digits: Tensor::from_data(labels.as_slice(), device),
        }
    }
}
