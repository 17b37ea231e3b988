//! Measures how well the predicted pixels cover the true ones.

use burn::tensor::Device;
use burn_cross_entropy::CrossEntropyLoss;

use crate::network::Network;
use crate::shapes::{self, CLASSES, IGNORED, Scene};

/// Scenes that are evaluated together.
const CHUNK: usize = 16;

/// The network's predictions for scenes, and how good they are.
pub struct Segmentation {
    /// The class of each pixel of each scene, row by row.
    pub predicted: Vec<Vec<u8>>,
    /// The pixels that have a class and are predicted to have it, over the pixels for which either is true,
    /// for each class.
    pub intersection_over_union: [f64; CLASSES],
}

impl Segmentation {
    pub fn of(
        network: &Network,
        loss: &CrossEntropyLoss,
        scenes: &[Scene],
        device: &Device,
    ) -> Result<Self, String> {
        let mut predicted = Vec::with_capacity(scenes.len());
        for chunk in scenes.chunks(CHUNK) {
            let (images, targets) = shapes::to_tensors(chunk, device);
            let output = loss.forward_with_output(network.forward(images), targets);
            let classes: Vec<u8> = output.predicted.try_into_vec_as().map_err(|error| {
                format!("the predictions cannot be read from the device: {error}")
            })?;
            let pixels = classes.len() / chunk.len();
            predicted.extend(classes.chunks(pixels).map(<[u8]>::to_vec));
        }
        let pairs = scenes
            .iter()
            .zip(&predicted)
            .flat_map(|(scene, predicted)| {
                scene.labels.iter().copied().zip(predicted.iter().copied())
            });
        Ok(Self {
            intersection_over_union: intersection_over_union(pairs),
            predicted,
        })
    }

    pub fn mean(&self) -> f64 {
        self.intersection_over_union.iter().sum::<f64>() / CLASSES as f64
    }
}

/// The intersection over union of each class, from pairs of a label and a prediction; 1 for a class that
/// occurs in neither.
fn intersection_over_union(pairs: impl Iterator<Item = (u8, u8)>) -> [f64; CLASSES] {
    let (mut both, mut either) = ([0u32; CLASSES], [0u32; CLASSES]);
    for (label, predicted) in pairs.filter(|(label, _)| *label != IGNORED) {
        either[usize::from(label)] += 1;
        if label == predicted {
            both[usize::from(label)] += 1;
        } else {
            either[usize::from(predicted)] += 1;
        }
    }
    std::array::from_fn(|class| match either[class] {
        0 => 1.0,
        either => f64::from(both[class]) / f64::from(either),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_pixels_count_in_no_class() {
        let pairs = [(0, 0), (0, 1), (1, 1), (1, 1), (IGNORED, 2), (2, 0)];
        let shares = intersection_over_union(pairs.into_iter());
        assert_eq!(shares, [1.0 / 3.0, 2.0 / 3.0, 0.0, 1.0]);
    }
}
