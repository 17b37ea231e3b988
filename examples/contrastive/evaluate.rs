//! How good a representation is: a nearest-neighbour classifier with few labelled images.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::digits::{CLASSES, Split};
use crate::encoder::{Encoder, Layer};

/// Neighbours that vote.
pub const NEIGHBOURS: usize = 3;
/// Labelled images per class in a draw.
pub const LABELLED_PER_CLASS: usize = 10;
/// Draws of labelled images.
pub const DRAWS: usize = 20;
/// The draws are the same for every representation and `--seed`, so that accuracies compare.
const DRAW_SEED: u64 = 0;

/// Mean and standard deviation over the draws.
#[derive(Clone, Copy, Debug)]
pub struct Accuracy {
    pub mean: f64,
    pub deviation: f64,
}

/// The draws of labelled training images and the labels of everything.
pub struct Protocol {
    draws: Vec<Vec<usize>>,
    training_labels: Vec<usize>,
    held_out_labels: Vec<usize>,
}

impl Protocol {
    pub fn new(split: &Split) -> Self {
        let labels = &split.training.labels;
        let mut random = StdRng::seed_from_u64(DRAW_SEED);
        let mut draw = || {
            (0..CLASSES)
                .flat_map(|class| {
                    let members: Vec<usize> = (0..labels.len())
                        .filter(|&index| labels[index] == class)
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
            training_labels: labels.clone(),
            held_out_labels: split.held_out.labels.clone(),
        }
    }

    /// The accuracy of comparing what the encoder makes of the images.
    pub fn accuracy_of_encoder(
        &self,
        encoder: &Encoder,
        layer: Layer,
        split: &Split,
    ) -> Result<Accuracy, String> {
        let labelled = encoder.represent(&split.training.images, layer)?;
        let queries = encoder.represent(&split.held_out.images, layer)?;
        Ok(self.accuracy(&labelled, &queries))
    }

    /// The accuracy of comparing the images themselves.
    pub fn accuracy_of_pixels(&self, split: &Split) -> Accuracy {
        self.accuracy(&split.training.images, &split.held_out.images)
    }

    fn accuracy<R: AsRef<[f32]>>(&self, labelled: &[R], queries: &[R]) -> Accuracy {
        let shares: Vec<f64> = self
            .draws
            .iter()
            .map(|draw| self.share_of_hits(draw, labelled, queries))
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

    fn share_of_hits<R: AsRef<[f32]>>(&self, draw: &[usize], labelled: &[R], queries: &[R]) -> f64 {
        let hits = queries
            .iter()
            .zip(&self.held_out_labels)
            .filter(|(query, label)| self.vote(draw, labelled, query.as_ref()) == **label)
            .count();
        hits as f64 / queries.len() as f64
    }

    /// The class of most of the nearest labelled images, of the nearest one where they disagree.
    fn vote<R: AsRef<[f32]>>(&self, draw: &[usize], labelled: &[R], query: &[f32]) -> usize {
        let mut nearest: Vec<(f32, usize)> = draw
            .iter()
            .map(|&index| {
                (
                    distance(labelled[index].as_ref(), query),
                    self.training_labels[index],
                )
            })
            .collect();
        nearest.sort_by(|a, b| a.0.total_cmp(&b.0));
        let voters = &nearest[..NEIGHBOURS];
        let votes = |class| voters.iter().filter(|voter| voter.1 == class).count();
        let most = voters.iter().map(|voter| votes(voter.1)).max();
        voters
            .iter()
            .map(|voter| voter.1)
            .find(|&class| Some(votes(class)) == most)
            .unwrap_or(0)
    }
}

/// The square of the Euclidean distance.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}
