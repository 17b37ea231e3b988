//! Random views of an image: an affine crop, another stroke width and noise, in plain Rust.

use std::f32::consts::TAU;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::data::{Image, Size};
use crate::random::{generator, normals};

/// Largest rotation, in radians.
const ROTATION: f32 = 15.0 * TAU / 360.0;
/// Largest change of the logarithm of width and height.
const LOG_SCALE: f32 = 0.2;
/// Largest shear, in pixels per pixel.
const SHEAR: f32 = 0.2;
/// Largest shift in each direction, as a share of height or width.
const SHIFT: f32 = 1.0 / 8.0;
/// Largest logarithm of the power that thins (above 0) or thickens (below 0) the strokes.
const LOG_POWER: f32 = 0.4;
/// Standard deviation of the noise; white is 1.
const NOISE: f32 = 0.2;

/// One of the two views of an image. The same arguments give the same view on every backend.
pub fn view(image: &Image, size: Size, randomness: [u64; 4]) -> Image {
    let mut random = generator(randomness);
    let affine = Affine::random(size, &mut random);
    let power = within(&mut random, LOG_POWER).exp();
    let mut view: Image = (0..image.len())
        .map(|index| {
            let (x, y) = affine.source(index % size.width, index / size.width);
            brightness_at(image, size, x, y).powf(power)
        })
        .collect();
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
    centre: (f32, f32),
    to_x: [f32; 3],
    to_y: [f32; 3],
}

impl Affine {
    fn random(size: Size, random: &mut StdRng) -> Self {
        let mut within = |limit| within(random, limit);
        let (sine, cosine) = within(ROTATION).sin_cos();
        let (width, height) = (within(LOG_SCALE).exp(), within(LOG_SCALE).exp());
        let shear = within(SHEAR);
        let (across, down) = (size.width as f32 * SHIFT, size.height as f32 * SHIFT);
        Self {
            centre: centre(size),
            to_x: [cosine * width, shear - sine * height, within(across)],
            to_y: [sine * width, cosine * height, within(down)],
        }
    }

    fn source(&self, column: usize, row: usize) -> (f32, f32) {
        let (middle_x, middle_y) = self.centre;
        let (x, y) = (column as f32 - middle_x, row as f32 - middle_y);
        let along = |[by_x, by_y, shift]: [f32; 3]| by_x * x + by_y * y + shift;
        (along(self.to_x) + middle_x, along(self.to_y) + middle_y)
    }
}

fn centre(size: Size) -> (f32, f32) {
    let middle = |pixels: usize| (pixels - 1) as f32 / 2.0;
    (middle(size.width), middle(size.height))
}

/// The brightness at a place, by bilinear interpolation; black outside the image.
fn brightness_at(image: &Image, size: Size, x: f32, y: f32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let (right_share, bottom_share) = (x - left, y - top);
    let pixel = |column: f32, row: f32| {
        let inside = |place: f32, pixels: usize| place >= 0.0 && place < pixels as f32;
        if inside(column, size.width) && inside(row, size.height) {
            image[row as usize * size.width + column as usize]
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

    const SIZE: Size = Size {
        height: 8,
        width: 5,
    };

    #[test]
    fn a_view_depends_on_its_four_numbers_and_nothing_else() {
        let image: Image = (0..40).map(|index| index as f32 / 40.0).collect();
        let of = |numbers| view(&image, SIZE, numbers);
        assert_eq!(of([1, 2, 3, 0]), of([1, 2, 3, 0]));
        for other in [[2, 2, 3, 0], [1, 1, 3, 0], [1, 2, 2, 0], [1, 2, 3, 1]] {
            assert_ne!(of([1, 2, 3, 0]), of(other));
        }
    }

    #[test]
    fn the_affine_map_that_changes_nothing_shows_the_image() {
        let image: Image = (0..40).map(|index| (index as f32).sin()).collect();
        let affine = Affine {
            centre: centre(SIZE),
            to_x: [1.0, 0.0, 0.0],
            to_y: [0.0, 1.0, 0.0],
        };
        let at = |x, y| brightness_at(&image, SIZE, x, y);
        for (index, pixel) in image.iter().enumerate() {
            let (x, y) = affine.source(index % SIZE.width, index / SIZE.width);
            assert_eq!(at(x, y), *pixel);
        }
        assert_eq!(at(0.5, 0.0), (image[0] + image[1]) / 2.0);
        assert_eq!(at(-2.0, 3.0), 0.0);
    }
}
