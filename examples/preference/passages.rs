//! Passages of a text, a prompt and an answer each: with a wrong character, and what they earn.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::model::{ANSWER, PROMPT};

/// Passages of a text, and the same ones with one wrong character in each answer.
pub fn pairs(
    text: &[i32],
    count: usize,
    random: &mut StdRng,
    device: &Device,
) -> [Tensor<2, Int>; 2] {
    let classes = 1 + text.iter().max().copied().unwrap_or(0);
    let (mut right, mut wrong) = (Vec::<i32>::new(), Vec::<i32>::new());
    for _ in 0..count {
        let start = random.random_range(0..text.len() - PROMPT - ANSWER);
        let place = wrong.len() + PROMPT + random.random_range(0..ANSWER);
        right.extend(&text[start..start + PROMPT + ANSWER]);
        wrong.extend(&text[start..start + PROMPT + ANSWER]);
        wrong[place] = (wrong[place] + random.random_range(1..classes)) % classes;
    }
    let shape = [count, PROMPT + ANSWER];
    [right, wrong].map(|passages| Tensor::from_data(TensorData::new(passages, shape), device))
}

/// The share of vowels in each answer, [passages, 1].
pub fn reward(passages: &Tensor<2, Int>, vowels: &[i32]) -> Tensor<2> {
    let answers = passages.clone().narrow(1, PROMPT, ANSWER);
    let share = |vowel| answers.clone().equal_scalar(vowel).float().mean_dim(1);
    Tensor::cat(vowels.iter().copied().map(share).collect(), 1).sum_dim(1)
}
