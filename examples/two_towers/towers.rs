//! The two towers, the words that one of them reads, and the losses that tie them.

use burn::module::Module;
use burn::nn::conv::{Conv1d, Conv1dConfig, Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig1d};
use burn::tensor::{Device, Int, Tensor, TensorData, activation::relu};
use burn_cross_entropy::contrastive::{Contrast, Positives, SampleIds};
use burn_cross_entropy::contrastive::{SigLipLoss, SigLipLossConfig};
use burn_cross_entropy::{InfoNceLoss, InfoNceLossConfig};

const LETTERS: usize = 26;
/// Letters of the longest word.
const PLACES: usize = 9;
const EMBEDDING: usize = 32;

/// The words for each digit.
pub fn vocabulary() -> Vec<Vec<&'static str>> {
    let lines = include_str!("../data/words.txt").lines();
    lines.map(|line| line.split(' ').collect()).collect()
}

/// Words as one tensor of [words, letters, places]: 1 where the letter is at the place.
pub fn one_hot(words: &[&str], device: &Device) -> Tensor<3> {
    let mut values = vec![0f32; words.len() * LETTERS * PLACES];
    for (word, values) in words.iter().zip(values.chunks_mut(LETTERS * PLACES)) {
        for (place, letter) in word.bytes().enumerate() {
            values[usize::from(letter - b'a') * PLACES + place] = 1.0;
        }
    }
    Tensor::from_data(
        TensorData::new(values, [words.len(), LETTERS, PLACES]),
        device,
    )
}

/// A tower for images, a tower for words, and both losses, of which a run uses one.
#[derive(Module, Debug)]
pub struct Towers {
    strokes: Conv2d,
    of_image: Linear,
    syllables: Conv1d,
    of_word: Linear,
    clip: InfoNceLoss,
    siglip: SigLipLoss,
}

impl Towers {
    pub fn new(device: &Device) -> Self {
        let strokes = Conv2dConfig::new([1, 64], [4, 4]).with_stride([2, 2]);
        let syllables = Conv1dConfig::new(LETTERS, 32, 3).with_padding(PaddingConfig1d::Same);
        Self {
            strokes: strokes.init(device),
            of_image: LinearConfig::new(64 * 3 * 3, EMBEDDING).init(device),
            syllables: syllables.init(device),
            of_word: LinearConfig::new(32 * PLACES, EMBEDDING).init(device),
            clip: InfoNceLossConfig::new().with_learnable(true).init(device),
            siglip: SigLipLossConfig::new().init(device),
        }
    }

    /// Embeds images [n, 1, 8, 8] as unit vectors.
    pub fn images(&self, images: Tensor<4>) -> Tensor<2> {
        unit_length(
            self.of_image
                .forward(relu(self.strokes.forward(images)).flatten(1, 3)),
        )
    }

    /// Embeds words [n, letters, places] as unit vectors.
    pub fn words(&self, words: Tensor<3>) -> Tensor<2> {
        unit_length(
            self.of_word
                .forward(relu(self.syllables.forward(words)).flatten(1, 2)),
        )
    }

    /// The loss of embedded images and words, of which the same rows are pairs, with the digit of each pair.
    pub fn loss(&self, name: &str, [a, b]: [Tensor<2>; 2], digits: Tensor<1, Int>) -> Tensor<1> {
        if name == "clip" {
            // A word of another pair that fits the image is no negative of it: digits are ids.
            let pairs = Contrast::in_batch(a, b).with_ids(SampleIds::same(digits));
            return self.clip.forward_contrast(pairs);
        }
        // Every word of the batch that fits the image belongs to it: digits are labels.
        let (rows, keys) = (digits.clone(), digits);
        self.siglip
            .forward_positives(a, b, Positives::Labels { rows, keys })
    }
}

pub fn unit_length(rows: Tensor<2>) -> Tensor<2> {
    let length = rows.clone().square().sum_dim(1).add_scalar(1e-12).sqrt();
    rows / length
}
