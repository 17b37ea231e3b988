//! Writes text by the model, one character after the other.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::model::LanguageModel;
use crate::text::LENGTH;
use crate::train::{progress_bar, unreadable};

/// The divisor of the logits: below 1, likely characters become likelier.
const TEMPERATURE: f64 = 0.7;

/// Continues `given` by `count` characters, or by fewer if `stop` ends it.
pub fn go_on(
    model: &LanguageModel,
    given: &[i32],
    count: usize,
    random: &mut StdRng,
    stop: impl Fn() -> bool,
) -> Result<Vec<i32>, String> {
    let mut text = given.to_vec();
    let bar = progress_bar(count, "character");
    let device: Device = model.projection().device();
    for _ in 0..count {
        if stop() {
            break;
        }
        let seen = text[text.len().saturating_sub(LENGTH)..].to_vec();
        let length = seen.len();
        let seen = Tensor::<2, Int>::from_data(TensorData::new(seen, [1, length]), &device);
        let last = model
            .hidden(seen)
            .narrow(1, length - 1, 1)
            .squeeze_dim::<2>(1);
        let logits = last.matmul(model.projection());
        let logits: Vec<f32> = logits.try_into_vec_as().map_err(unreadable)?;
        text.push(draw(&logits, random));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(text.split_off(given.len()))
}

/// Draws a class with the probability of the softmax of the logits over the temperature.
fn draw(logits: &[f32], random: &mut StdRng) -> i32 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shares: Vec<f64> = logits
        .iter()
        .map(|logit| (f64::from(logit - highest) / TEMPERATURE).exp())
        .collect();
    let mut left = random.random::<f64>() * shares.iter().sum::<f64>();
    let drawn = shares.iter().position(|share| {
        left -= share;
        left < 0.0
    });
    drawn.unwrap_or(logits.len() - 1) as i32
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn classes_are_drawn_as_often_as_their_logits_say() {
        let logits = [1.0, f32::NEG_INFINITY, 1.0 + 3.0 * TEMPERATURE as f32];
        let mut random = StdRng::seed_from_u64(1);
        let mut counts = [0; 3];
        for _ in 0..10_000 {
            counts[draw(&logits, &mut random) as usize] += 1;
        }
        let expected = 10_000.0 / (1.0 + 3f64.exp());
        assert_eq!(counts[1], 0);
        assert!(
            (f64::from(counts[0]) - expected).abs() < 100.0,
            "{counts:?}"
        );
    }
}
