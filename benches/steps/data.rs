//! Data: random, and the same in every run.

use std::iter;

use burn::tensor::{Device, Int, Shape, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The seed of the data, and that of weights and dropout.
pub const SEED: u64 = 1;

/// Numbers in [-1, 1).
pub fn pixels(shape: [usize; 4], device: &Device) -> Tensor<4> {
    let mut random = StdRng::seed_from_u64(SEED);
    let count = shape.iter().product();
    let values = (0..count).map(|_| random.random_range(-1.0..1.0));
    Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), shape), device)
}

/// Tokens or classes below `count`. `purpose` gives tokens and targets of one shape different numbers.
pub fn indices<const D: usize>(
    shape: [usize; D],
    count: usize,
    purpose: Purpose,
    device: &Device,
) -> Tensor<D, Int> {
    let mut random = StdRng::seed_from_u64(SEED + purpose as u64);
    let shape = Shape::from(shape);
    let values = (0..shape.num_elements()).map(|_| random.random_range(0..count as i64));
    Tensor::from_data(TensorData::new(values.collect::<Vec<i64>>(), shape), device)
}

/// Lengths of texts for so many steps, from half of the `longest` on. Those of the first two steps are the
/// longest: what a later step takes beyond them is no matter of length.
pub fn lengths(steps: usize, longest: usize) -> Vec<usize> {
    let mut random = StdRng::seed_from_u64(SEED);
    let drawn = iter::repeat_with(|| random.random_range(longest / 2..=longest));
    iter::repeat_n(longest, 2)
        .chain(drawn)
        .take(steps)
        .collect()
}

/// The use of random indices.
#[derive(Clone, Copy)]
pub enum Purpose {
    Tokens = 1,
    Targets = 2,
}
