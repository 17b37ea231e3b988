//! Batches for the programs: handwritten digits, and the project's documentation.

use std::io::Read;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use flate2::read::GzDecoder;

use crate::digits;

const STEPS: usize = 12;

/// Images as the examples' batchers make them, `[images, height, width]`, and what they show.
#[derive(Clone, Debug)]
pub struct ImageBatch {
    pub images: Tensor<3>,
    pub targets: Tensor<1, Int>,
}

/// Characters of passages, `[passages, LENGTH]`.
#[derive(Clone, Debug)]
pub struct TextBatch {
    pub tokens: Tensor<2, Int>,
    /// The character that follows each.
    pub next: Tensor<2, Int>,
    /// The padding behind the end of a passage.
    pub mask_pad: Tensor<2, Bool>,
    /// The part of the text that each passage is from.
    pub labels: Tensor<1, Int>,
}

/// Characters of a passage.
pub const LENGTH: usize = 20;
/// Classes of ASCII; others have the class of the padding.
pub const VOCABULARY: usize = 128;
pub const PAD: usize = 0;
/// Parts of the text.
pub const PARTS: usize = 3;

pub fn device() -> Device {
    Device::flex().autodiff()
}

pub fn images(device: &Device) -> Vec<ImageBatch> {
    const IMAGES: usize = 48;
    let digits = digits::load().expect("they are part of the repository");
    let digits = digits.training;
    (0..STEPS)
        .map(|step| {
            let of_step = step * IMAGES..(step + 1) * IMAGES;
            let labels = digits.labels[of_step.clone()].iter();
            let labels: Vec<i64> = labels.map(|label| *label as i64).collect();
            ImageBatch {
                images: digits::to_tensor(&digits.images[of_step], device).squeeze_dim(1),
                targets: Tensor::from_ints(labels.as_slice(), device),
            }
        })
        .collect()
}

pub fn text(device: &Device) -> Vec<TextBatch> {
    const PASSAGES: usize = 12;
    let mut text = String::new();
    let packed = include_bytes!("../../examples/data/documentation.txt.gz");
    let read = GzDecoder::new(packed.as_slice()).read_to_string(&mut text);
    read.expect("the text is part of the repository");
    let class = |byte: u8| if byte.is_ascii() { i64::from(byte) } else { 0 };
    let classes: Vec<i64> = text.bytes().map(class).collect();
    let part = classes.len() / PARTS;
    let batch = |step: usize| {
        let (mut tokens, mut next, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        for passage in 0..PASSAGES {
            let label = passage % PARTS;
            let start = label * part + (step * PASSAGES + passage) * 61 % (part - LENGTH - 1);
            // Passages have different lengths.
            let length = LENGTH - passage % 4;
            let of = |from: usize| {
                let mut passage = classes[from..from + length].to_vec();
                passage.resize(LENGTH, PAD as i64);
                passage
            };
            tokens.extend(of(start));
            next.extend(of(start + 1));
            labels.push(label as i64);
        }
        let ints = |values: Vec<i64>| {
            let data = TensorData::new(values, [PASSAGES, LENGTH]);
            Tensor::<2, Int>::from_data(data, device)
        };
        let tokens = ints(tokens);
        TextBatch {
            next: ints(next),
            mask_pad: tokens.clone().equal_elem(PAD as i64),
            labels: Tensor::from_ints(labels.as_slice(), device),
            tokens,
        }
    };
    (0..STEPS).map(batch).collect()
}
