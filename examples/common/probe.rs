//! A linear probe: measures how well a linear classifier tells the classes apart in a frozen representation.

use burn::module::{Initializer, Module};
use burn::nn::LinearConfig;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_cross_entropy::cross_entropy;

/// Steps on all labelled images at once.
const STEPS: usize = 200;
const LEARNING_RATE: f64 = 0.05;
const WEIGHT_DECAY: f32 = 0.05;

/// Rows of a representation, and their classes.
pub type Labelled<'a> = (&'a [Vec<f32>], &'a [usize]);

/// The share of held-out rows that a classifier, trained on the labelled rows, classifies correctly.
pub fn accuracy(
    labelled: Labelled,
    held_out: Labelled,
    classes: usize,
    device: &Device,
) -> Result<f64, String> {
    let features = labelled.0.first().map_or(0, Vec::len);
    let scale = Scale::of(labelled.0, features);
    let device = device.clone().autodiff();
    let (inputs, targets) = (
        scale.tensor(labelled.0, &device),
        classes_of(labelled.1, &device),
    );
    // The weights start from zeros, so that the result depends on the representation alone.
    let mut classifier = LinearConfig::new(features, classes)
        .with_initializer(Initializer::Zeros)
        .init(&device);
    let mut optimizer = AdamWConfig::new().with_weight_decay(WEIGHT_DECAY).init();
    for step in 0..STEPS {
        let loss = cross_entropy(classifier.forward(inputs.clone()), targets.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), &classifier);
        let rate = LEARNING_RATE * (1.0 - step as f64 / STEPS as f64);
        classifier = optimizer.step(rate, classifier, gradients);
    }
    let classifier = classifier.valid();
    let logits = classifier.forward(scale.tensor(held_out.0, &device.without_autodiff()));
    let predicted: Vec<i64> = logits.argmax(1).try_into_vec_as().map_err(|error| {
        format!("the predictions of the probe cannot be read from the device: {error}")
    })?;
    let pairs = predicted.iter().zip(held_out.1);
    let hits = pairs
        .filter(|(found, class)| **found == **class as i64)
        .count();
    Ok(hits as f64 / held_out.1.len() as f64)
}

fn classes_of(labels: &[usize], device: &Device) -> Tensor<1, Int> {
    let labels: Vec<i64> = labels.iter().map(|label| *label as i64).collect();
    let count = labels.len();
    Tensor::from_data(TensorData::new(labels, [count]), device)
}

/// Brings each feature of the labelled rows to mean 0 and deviation 1, so that representations of every scale
/// are learned at the same rate.
struct Scale {
    means: Vec<f32>,
    factors: Vec<f32>,
}

impl Scale {
    fn of(rows: &[Vec<f32>], features: usize) -> Self {
        let count = rows.len() as f64;
        let column = |feature: usize| rows.iter().map(move |row| f64::from(row[feature]));
        let mean = |feature: usize| column(feature).sum::<f64>() / count;
        let factor = |feature: usize| {
            let mean = mean(feature);
            let variance = column(feature).map(|x| (x - mean).powi(2)).sum::<f64>() / count;
            // A feature that never changes carries no information.
            if variance > 1e-12 {
                variance.sqrt().recip() as f32
            } else {
                0.0
            }
        };
        Self {
            means: (0..features).map(|feature| mean(feature) as f32).collect(),
            factors: (0..features).map(factor).collect(),
        }
    }

    fn tensor(&self, rows: &[Vec<f32>], device: &Device) -> Tensor<2> {
        let scaled = |row: &Vec<f32>| -> Vec<f32> {
            let parts = row.iter().zip(&self.means).zip(&self.factors);
            parts
                .map(|((x, mean), factor)| (x - mean) * factor)
                .collect()
        };
        let values: Vec<f32> = rows.iter().flat_map(scaled).collect();
        Tensor::from_data(
            TensorData::new(values, [rows.len(), self.means.len()]),
            device,
        )
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn what_a_line_divides_is_told_apart_and_noise_is_not() {
        // The features are noise of a large scale, the class itself at a small scale, and a constant.
        let row = |at: usize| {
            vec![
                1e4 * (at % 17) as f32,
                if at.is_multiple_of(3) { 1e-3 } else { 2e-3 },
                7.0,
            ]
        };
        let rows: Vec<Vec<f32>> = (0..60).map(row).collect();
        let divided: Vec<usize> = (0..60)
            .map(|at: usize| usize::from(at.is_multiple_of(3)))
            .collect();
        let device = Device::flex();
        let of = |labels: &[usize]| {
            let (labelled, held_out) = (&rows[..40], &rows[40..]);
            accuracy(
                (labelled, &labels[..40]),
                (held_out, &labels[40..]),
                2,
                &device,
            )
            .unwrap()
        };
        assert_eq!(of(&divided), 1.0);
        let noise: Vec<usize> = (0..60).map(|at: usize| (at * at / 7) % 2).collect();
        assert!(of(&noise) < 0.9);
    }
}
