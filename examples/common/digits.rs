//! The handwritten digits and their split into training and held-out images.

use burn::tensor::{Device, Tensor, TensorData};
use flate2::read::GzDecoder;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// Height and width of an image.
pub const SIDE: usize = 8;
/// Values in an image.
pub const PIXELS: usize = SIDE * SIDE;
/// The digits 0 to 9.
pub const CLASSES: usize = 10;

/// The largest value in the file.
const BRIGHTEST: f32 = 16.0;
const HELD_OUT: usize = 500;
/// The split is the same for every `--seed`, so that the accuracies of runs can be compared.
const SPLIT_SEED: u64 = 0;

/// The brightness of each pixel, row by row, from 0 to 1.
pub type Image = [f32; PIXELS];

/// Images, and the digit that each of them shows.
pub struct Digits {
    pub images: Vec<Image>,
    pub labels: Vec<usize>,
}

impl Digits {
    #[allow(dead_code)] // Not every example asks for it.
    pub fn len(&self) -> usize {
        self.images.len()
    }
}

/// The images of the training and the held-out ones. The training does not use the held-out images, even
/// without their labels.
pub struct Split {
    pub training: Digits,
    pub held_out: Digits,
}

/// Reads the images, which are part of the program.
pub fn load() -> Result<Split, String> {
    let packed = include_bytes!("../data/digits.csv.gz");
    let mut lines = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(GzDecoder::new(packed.as_slice()));
    let mut digits = Vec::new();
    for line in lines.deserialize() {
        let values: Vec<u8> =
            line.map_err(|error| format!("the digits cannot be read: {error}"))?;
        digits.push(parse(&values)?);
    }
    digits.shuffle(&mut StdRng::seed_from_u64(SPLIT_SEED));
    let training = digits.split_off(HELD_OUT);
    Ok(Split {
        training: unzip(training),
        held_out: unzip(digits),
    })
}

fn parse(values: &[u8]) -> Result<(Image, usize), String> {
    match values {
        [pixels @ .., label] if pixels.len() == PIXELS && usize::from(*label) < CLASSES => {
            let image = std::array::from_fn(|index| f32::from(pixels[index]) / BRIGHTEST);
            Ok((image, usize::from(*label)))
        }
        _ => Err(format!(
            "a line of the digits is not {PIXELS} pixels and a digit: {values:?}"
        )),
    }
}

fn unzip(digits: Vec<(Image, usize)>) -> Digits {
    let (images, labels) = digits.into_iter().unzip();
    Digits { images, labels }
}

/// The images as one tensor of [images, 1, height, width].
pub fn to_tensor(images: &[Image], device: &Device) -> Tensor<4> {
    let data = TensorData::new(images.concat(), [images.len(), 1, SIDE, SIDE]);
    Tensor::from_data(data, device)
}
