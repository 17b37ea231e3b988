//! Random numbers that depend only on a few given numbers.

use std::f32::consts::TAU;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Makes a separate generator for each four numbers.
pub fn generator(numbers: [u64; 4]) -> StdRng {
    StdRng::from_seed(std::array::from_fn(|index| {
        numbers[index / 8].to_le_bytes()[index % 8]
    }))
}

/// An endless sequence of standard normal numbers, by the Box-Muller method.
pub fn normals(random: &mut StdRng) -> impl Iterator<Item = f32> {
    std::iter::repeat_with(|| {
        let radius = (-2.0 * (1.0 - random.random::<f32>()).ln()).sqrt();
        let (sine, cosine) = (TAU * random.random::<f32>()).sin_cos();
        [radius * cosine, radius * sine]
    })
    .flatten()
}
