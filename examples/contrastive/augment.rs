//! Random views of an image: an affine crop, another stroke width and noise, in plain Rust.

use std::f32::consts::TAU;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::digits::{Image, SIDE};
use crate::random::{generator, normals};

/// Largest rotation, in radians.
const ROTATION: f32 = 15.0 * TAU / 360.0;
/// Largest change of the logarithm of width and height.
const LOG_SCALE: f32 = 0.2;
/// Largest shear, in pixels per pixel.
const SHEAR: f32 = 0.2;
/// Largest shift in each direction, in pixels.
const SHIFT: f32 = 1.0;
/// Largest logarithm of the power that thins (above 0) or thickens (below 0) the strokes.
const LOG_POWER: f32 = 0.4;
/// Standard deviation of the noise; white is 1.
const NOISE: f32 = 0.2;

/// One of the two views of an image. The same arguments give the same view, on every backend.
pub fn view(image: &Image, randomness: [u64; 4]) -> Image {
    let mut random = generator(randomness);
    let affine = Affine::random(&mut random);
    let power = within(&mut random, LOG_POWER).exp();
    let mut view: Image = std::array::from_fn(|index| {
        let (x, y) = affine.source(index % SIDE, index / SIDE);
        brightness_at(image, x, y).powf(power)
    });
    for (pixel, noise) in view.iter_mut().zip(normals(&mut random)) {
        *pixel += NOISE * noise;
    }
    view
}

fn within(random: &mut StdRng, limit: f32) -> f32 {
    random.random_range(-limit..=limit)
}

/// Maps a pixel of the view to the place in the image that it shows.
struct Affine {
    to_x: [f32; 3],
    to_y: [f32; 3],
}

impl Affine {
    fn random(random: &mut StdRng) -> Self {
        let mut within = |limit| within(random, limit);
        let (sine, cosine) = within(ROTATION).sin_cos();
        let (width, height) = (within(LOG_SCALE).exp(), within(LOG_SCALE).exp());
        let shear = within(SHEAR);
        Self {
            to_x: [cosine * width, shear - sine * height, within(SHIFT)],
            to_y: [sine * width, cosine * height, within(SHIFT)],
        }
    }

    fn source(&self, column: usize, row: usize) -> (f32, f32) {
        let centre = (SIDE - 1) as f32 / 2.0;
        let (x, y) = (column as f32 - centre, row as f32 - centre);
        let along = |[by_x, by_y, shift]: [f32; 3]| by_x * x + by_y * y + shift + centre;
        (along(self.to_x), along(self.to_y))
    }
}

/// Bilinear interpolation; black outside the image.
fn brightness_at(image: &Image, x: f32, y: f32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let (right_share, bottom_share) = (x - left, y - top);
    let pixel = |column: f32, row: f32| {
        let inside = |place: f32| place >= 0.0 && place < SIDE as f32;
        if inside(column) && inside(row) {
            image[row as usize * SIDE + column as usize]
        } else {
            0.0
        }
    };
    let mix =
        |row: f32| pixel(left, row) * (1.0 - right_share) + pixel(left + 1.0, row) * right_share;
    mix(top) * (1.0 - bottom_share) + mix(top + 1.0) * bottom_share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_depends_on_its_four_numbers_and_nothing_else() {
        let image: Image = std::array::from_fn(|index| index as f32 / 64.0);
        assert_eq!(view(&image, [1, 2, 3, 0]), view(&image, [1, 2, 3, 0]));
        for other in [[2, 2, 3, 0], [1, 1, 3, 0], [1, 2, 2, 0], [1, 2, 3, 1]] {
            assert_ne!(view(&image, [1, 2, 3, 0]), view(&image, other));
        }
    }

    #[test]
    fn the_affine_map_that_changes_nothing_shows_the_image() {
        let image: Image = std::array::from_fn(|index| (index as f32).sin());
        let affine = Affine {
            to_x: [1.0, 0.0, 0.0],
            to_y: [0.0, 1.0, 0.0],
        };
        for index in 0..image.len() {
            let (x, y) = affine.source(index % SIDE, index / SIDE);
            assert_eq!(brightness_at(&image, x, y), image[index]);
        }
        assert_eq!(brightness_at(&image, 0.5, 0.0), (image[0] + image[1]) / 2.0);
        assert_eq!(brightness_at(&image, -2.0, 3.0), 0.0);
    }
}
