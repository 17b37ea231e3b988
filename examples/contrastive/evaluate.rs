//! Measures a representation: by nearest neighbours with few labelled images, and by a linear probe with all.

use burn::tensor::Device;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::data::{Dataset, Part, Size};
use crate::encoder::{Encoder, Layer};
use crate::probe;

/// Neighbours that vote.
pub const NEIGHBOURS: usize = 3;
/// Labelled images per class in a draw.
pub const LABELLED_PER_CLASS: usize = 10;
/// Draws of labelled images.
pub const DRAWS: usize = 20;
/// The seed of the draws. It is the same for every representation and `--seed`, so that accuracies can be
/// compared.
const DRAW_SEED: u64 = 0;
/// Most training images that are used for measuring.
const LABELLED_AT_MOST: usize = 5000;

/// Mean and standard deviation over the draws.
#[derive(Clone, Copy, Debug)]
pub struct Accuracy {
    pub mean: f64,
    pub deviation: f64,
}

/// The measured accuracies of a representation.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// The accuracy of nearest neighbours with few labels.
    pub neighbours: Accuracy,
    /// The accuracy of a linear classifier with all labels.
    pub probe: f64,
}

/// A representation of the labelled and of the held-out images.
pub struct Represented {
    pub labelled: Vec<Vec<f32>>,
    pub held_out: Vec<Vec<f32>>,
}

/// The images for measuring, and the draws of few labelled ones.
pub struct Protocol {
    pub labelled: Part,
    pub held_out: Part,
    pub size: Size,
    classes: usize,
    draws: Vec<Vec<usize>>,
}

impl Protocol {
    pub fn new(dataset: &Dataset) -> Self {
        let count = dataset.training.len();
        let measured: Vec<usize> = if count <= LABELLED_AT_MOST {
            (0..count).collect()
        } else {
            let all: Vec<usize> = (0..count).collect();
            let mut random = StdRng::seed_from_u64(DRAW_SEED);
            all.sample(&mut random, LABELLED_AT_MOST).copied().collect()
        };
        let labelled = dataset.training.of(&measured);
        let classes = dataset.classes.len();
        let mut random = StdRng::seed_from_u64(DRAW_SEED);
        let mut draw = || {
            (0..classes)
                .flat_map(|class| {
                    let members: Vec<usize> = (0..labelled.len())
                        .filter(|&index| labelled.labels[index] == class)
                        .collect();
                    members
                        .sample(&mut random, LABELLED_PER_CLASS)
                        .copied()
                        .collect::<Vec<_>>()
                })
                .collect()
        };
        Self {
            draws: (0..DRAWS).map(|_| draw()).collect(),
            labelled,
            held_out: dataset.held_out.clone(),
            size: dataset.size,
            classes,
        }
    }

    /// Represents the images by a layer of the encoder.
    pub fn by_encoder(&self, encoder: &Encoder, layer: Layer) -> Result<Represented, String> {
        Ok(Represented {
            labelled: encoder.represent(&self.labelled.images, self.size, layer)?,
            held_out: encoder.represent(&self.held_out.images, self.size, layer)?,
        })
    }

    /// Represents the images by their pixels.
    pub fn pixels(&self) -> Represented {
        Represented {
            labelled: self.labelled.images.clone(),
            held_out: self.held_out.images.clone(),
        }
    }

    pub fn measure(&self, represented: &Represented, device: &Device) -> Result<Measured, String> {
        let labelled = (
            represented.labelled.as_slice(),
            self.labelled.labels.as_slice(),
        );
        let held_out = (
            represented.held_out.as_slice(),
            self.held_out.labels.as_slice(),
        );
        Ok(Measured {
            neighbours: self.neighbours(represented),
            probe: probe::accuracy(labelled, held_out, self.classes, device)?,
        })
    }

    /// The accuracy of the votes of nearest neighbours.
    pub fn neighbours(&self, represented: &Represented) -> Accuracy {
        let shares: Vec<f64> = self
            .draws
            .iter()
            .map(|draw| self.share_of_hits(draw, represented))
            .collect();
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        let variance = shares
            .iter()
            .map(|share| (share - mean).powi(2))
            .sum::<f64>()
            / shares.len() as f64;
        Accuracy {
            mean,
            deviation: variance.sqrt(),
        }
    }

    fn share_of_hits(&self, draw: &[usize], represented: &Represented) -> f64 {
        let queries = &represented.held_out;
        let hits = queries
            .iter()
            .zip(&self.held_out.labels)
            .filter(|(query, label)| self.vote(draw, &represented.labelled, query) == **label)
            .count();
        hits as f64 / queries.len() as f64
    }

    /// The class of most of the nearest labelled images; in a tie, the class of the nearest one among the
    /// winners.
    fn vote(&self, draw: &[usize], labelled: &[Vec<f32>], query: &[f32]) -> usize {
        let mut nearest: Vec<(f32, usize)> = draw
            .iter()
            .map(|&index| {
                (
                    distance(&labelled[index], query),
                    self.labelled.labels[index],
                )
            })
            .collect();
        nearest.sort_by(|a, b| a.0.total_cmp(&b.0));
        let voters = &nearest[..NEIGHBOURS.min(nearest.len())];
        let votes = |class| voters.iter().filter(|voter| voter.1 == class).count();
        let most = voters.iter().map(|voter| votes(voter.1)).max();
        voters
            .iter()
            .map(|voter| voter.1)
            .find(|&class| Some(votes(class)) == most)
            .unwrap_or(0)
    }
}

/// The numbers of the `count` rows that are nearest to the query, nearest first.
pub fn nearest(rows: &[Vec<f32>], query: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<(f32, usize)> = rows
        .iter()
        .map(|row| distance(row, query))
        .zip(0..)
        .collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    order.into_iter().take(count).map(|(_, row)| row).collect()
}

/// The square of the Euclidean distance.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocol(labels: &[usize]) -> Protocol {
        let labels = labels.to_vec();
        let images = vec![vec![]; labels.len()];
        Protocol {
            labelled: Part { images, labels },
            held_out: Part::default(),
            size: Size {
                height: 1,
                width: 1,
            },
            classes: 10,
            draws: vec![],
        }
    }

    #[test]
    fn most_of_the_nearest_decide_and_where_they_disagree_the_nearest_one() {
        let protocol = protocol(&[7, 4, 4, 7, 2]);
        // The rows lie on a line at 1, 2, 3, 4 and -5, the query at 0.
        let rows = [1.0, 2.0, 3.0, 4.0, -5.0].map(|place| vec![place]);
        let vote = |draw: &[usize]| protocol.vote(draw, &rows, &[0.0]);
        // The nearest three vote 7, 4, 4; the 7 that is far away does not vote.
        assert_eq!(vote(&[0, 1, 2, 3, 4]), 4);
        // The votes are 7, 4, 2, and the nearest decides.
        assert_eq!(vote(&[4, 1, 0]), 7);
        // The votes are 4, 2, and the nearest decides.
        assert_eq!(vote(&[4, 2]), 4);
        assert_eq!(vote(&[4]), 2);
    }
}
