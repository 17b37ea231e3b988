//! The images: shapes of any size, place and rotation on a noisy background, with their labels.

use std::f32::consts::TAU;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::random::{generator, normals};

/// Height and width of an image.
pub const SIDE: usize = 40;
pub const CLASSES: usize = 4;
/// The names of the classes.
pub const NAMES: [&str; CLASSES] = ["background", "circle", "square", "triangle"];
/// The label of the pixels along an outline, which belong to both sides.
pub const IGNORED: u8 = 255;

/// Shapes that the generator tries to place in an image; it leaves out those that would touch another.
const TRIED: usize = 16;
/// Half the width of the ignored border, in pixels.
const BORDER: f32 = 1.0;
/// Standard deviation of the noise; white is 1.
const NOISE: f32 = 0.1;

/// The purpose of a scene; no scene serves both.
#[derive(Clone, Copy)]
pub enum Purpose {
    Training,
    HeldOut,
}

/// An image and the label of each of its pixels, row by row.
pub struct Scene {
    pub pixels: Vec<f32>,
    pub labels: Vec<u8>,
}

/// Makes a scene. The same arguments give the same scene on every backend.
pub fn scene(seed: u64, purpose: Purpose, number: u64) -> Scene {
    let mut random = generator([seed, purpose as u64, number, 0]);
    let background = random.random_range(0.4..0.6);
    let slope = [0; 2].map(|_| random.random_range(-0.2..0.2) / SIDE as f32);
    let shapes = place_shapes(&mut random);
    let mut scene = Scene {
        pixels: Vec::with_capacity(SIDE * SIDE),
        labels: Vec::with_capacity(SIDE * SIDE),
    };
    for index in 0..SIDE * SIDE {
        let place = [(index % SIDE) as f32, (index / SIDE) as f32];
        let behind = background + slope[0] * place[0] + slope[1] * place[1];
        let nearest = shapes
            .iter()
            .map(|shape| (shape.distance(place), shape))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        let (distance, shape) = match nearest {
            Some((distance, shape)) => (distance, Some(shape)),
            None => (f32::INFINITY, None),
        };
        let covered = (0.5 - distance).clamp(0.0, 1.0);
        let contrast = shape.map_or(0.0, |shape| shape.contrast);
        scene.pixels.push(behind + covered * contrast);
        scene.labels.push(match shape {
            Some(_) if distance.abs() < BORDER => IGNORED,
            Some(shape) if distance < 0.0 => shape.class,
            _ => 0,
        });
    }
    for (pixel, noise) in scene.pixels.iter_mut().zip(normals(&mut random)) {
        *pixel += NOISE * noise;
    }
    scene
}

struct Shape {
    class: u8,
    centre: [f32; 2],
    radius: f32,
    turned: f32,
    contrast: f32,
}

fn place_shapes(random: &mut StdRng) -> Vec<Shape> {
    let mut shapes: Vec<Shape> = Vec::new();
    for _ in 0..TRIED {
        let radius = random.random_range(6.0..9.0);
        let reach = Shape::REACH * radius;
        let shape = Shape {
            class: random.random_range(1..CLASSES as u8),
            centre: [0; 2].map(|_| random.random_range(reach..SIDE as f32 - reach)),
            radius,
            turned: random.random_range(0.0..TAU),
            contrast: random.random_range(0.3..0.4) * [-1.0, 1.0][random.random_range(0..2)],
        };
        if shapes.iter().all(|other| !shape.touches(other)) {
            shapes.push(shape);
        }
    }
    shapes
}

impl Shape {
    /// The distance that a shape reaches from its centre, in radii.
    const REACH: f32 = 1.3;

    /// The signed distance of a place from the outline, negative inside.
    fn distance(&self, place: [f32; 2]) -> f32 {
        let (x, y) = (place[0] - self.centre[0], place[1] - self.centre[1]);
        let (sine, cosine) = self.turned.sin_cos();
        let (x, y) = (cosine * x + sine * y, cosine * y - sine * x);
        // Half an edge and the inner radius are chosen so that all shapes have about the same area.
        match self.class {
            1 => x.hypot(y) - self.radius,
            2 => x.abs().max(y.abs()) - 0.9 * self.radius,
            _ => {
                let slanted = 0.75f32.sqrt() * x.abs() - 0.5 * y;
                slanted.max(y) - 0.65 * self.radius
            }
        }
    }

    fn touches(&self, other: &Self) -> bool {
        let [x, y] = [0, 1].map(|axis| self.centre[axis] - other.centre[axis]);
        x.hypot(y) < Self::REACH * (self.radius + other.radius)
    }
}

/// The images [scenes, 1, height, width] and the labels [scenes, height, width] as tensors.
pub fn to_tensors(scenes: &[Scene], device: &Device) -> (Tensor<4>, Tensor<3, Int>) {
    let pixels: Vec<f32> = scenes
        .iter()
        .flat_map(|scene| scene.pixels.clone())
        .collect();
    let labels: Vec<i32> = scenes
        .iter()
        .flat_map(|scene| scene.labels.iter().map(|label| i32::from(*label)))
        .collect();
    (
        Tensor::from_data(
            TensorData::new(pixels, [scenes.len(), 1, SIDE, SIDE]),
            device,
        ),
        Tensor::from_data(TensorData::new(labels, [scenes.len(), SIDE, SIDE]), device),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_pixel_lies_between_every_shape_and_the_background() {
        for number in 0..50 {
            let labels = scene(7, Purpose::Training, number).labels;
            for (index, pair) in labels.windows(2).enumerate() {
                let neighbours = (index + 1) % SIDE != 0;
                let apart = pair[0] == pair[1] || pair.contains(&IGNORED);
                assert!(apart || !neighbours, "{pair:?}");
            }
        }
    }

    #[test]
    fn every_class_is_seen_and_no_scene_twice() {
        let scenes = |purpose| (0..50).map(move |number| scene(7, purpose, number));
        for class in 0..CLASSES as u8 {
            assert!(scenes(Purpose::Training).any(|scene| scene.labels.contains(&class)));
        }
        let first = scene(7, Purpose::HeldOut, 0).pixels;
        assert!(scenes(Purpose::Training).all(|scene| scene.pixels != first));
        assert_eq!(scene(7, Purpose::HeldOut, 0).pixels, first);
    }
}
