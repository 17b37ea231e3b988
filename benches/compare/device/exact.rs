//! The loss and its gradient in f64, on the host, from the very numbers that the device gets.

use burn::tensor::TensorData;

use crate::agreement::Outcome;
use crate::entries::{Entry, Phase};
use crate::machine::{part_of, together};

pub fn outcome(entry: &Entry, logits: &TensorData, probes: &[usize]) -> Outcome {
    let converted;
    let logits = match logits.as_slice::<f32>() {
        Ok(logits) => logits,
        Err(_) => {
            converted = logits.clone().convert::<f32>();
            converted.as_slice().expect("it was converted")
        }
    };
    let sums = log_sums(entry, logits);
    let rows = entry.rows() as f64;
    let mut outcome = Outcome::of_loss(0.0);
    for (row, log_sum) in sums.iter().enumerate() {
        let target = entry.position(row, entry.class_of(row) as usize);
        let log_probability = f64::from(logits[target]) - log_sum;
        outcome.loss -= log_probability / rows;
        if entry.phase == Phase::ForwardBackward {
            // The target's entry is its probability less 1; the entries of the other classes add up to as
            // much.
            outcome.gradient_sum -= 2.0 * log_probability.exp_m1() / rows;
        }
    }
    let probe = |&position: &usize| {
        let row = entry.row_of(position);
        let log_probability = f64::from(logits[position]) - sums[row];
        match entry.position(row, entry.class_of(row) as usize) == position {
            true => log_probability.exp_m1() / rows,
            false => log_probability.exp() / rows,
        }
    };
    outcome.probes = probes.iter().map(probe).collect();
    outcome
}

/// The logarithm of each row's sum of exponentials. The maximum is not subtracted, because logits are at most
/// 6.
fn log_sums(entry: &Entry, logits: &[f32]) -> Vec<f64> {
    let log_sum = |row: usize| {
        let logits = (0..entry.classes()).map(|class| logits[entry.position(row, class)]);
        logits.map(|logit| f64::from(logit).exp()).sum::<f64>().ln()
    };
    let mut sums = vec![0.0; entry.rows()];
    let part = part_of(sums.len());
    together(sums.chunks_mut(part).enumerate(), |(index, sums)| {
        for (sum, row) in sums.iter_mut().zip(index * part..) {
            *sum = log_sum(row);
        }
    });
    sums
}
