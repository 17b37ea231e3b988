//! Random numbers that depend on a few numbers and nothing else.

use std::f32::consts::TAU;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A generator of its own for each four numbers.
pub fn generator(numbers: [u64; 4]) -> StdRng {
    StdRng::from_seed(std::array::from_fn(|index| {
        numbers[index / 8].to_le_bytes()[index % 8]
    }))
}

/// Standard normal numbers without end, by the Box-Muller method.
pub fn normals(random: &mut StdRng) -> impl Iterator<Item = f32> {
    std::iter::repeat_with(|| {
        let radius = (-2.0 * (1.0 - random.random::<f32>()).ln()).sqrt();
        let (sine, cosine) = (TAU * random.random::<f32>()).sin_cos();
        [radius * cosine, radius * sine]
    })
    .flatten()
}
