//! Measures the peak of a loss's memory on the CPU, as the allocator counts it.
//!
//! Flex's matrix product asks for a second, zeroed block of the size of its result, copies it and never
//! writes it. Such a block costs no memory on most systems. The block of the logits is left out here. The
//! block of the embedding's gradient makes the number with a logits tensor too high by the embedding's size.

use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_cross_entropy::{CrossEntropyLossConfig, LinearCrossEntropyLossConfig};

use crate::counting::count;

/// Bytes that a loss and its gradients take besides the hidden states and the embedding: with a tensor of all
/// logits, and without. It measures one step over random numbers with these rows, features and classes.
pub fn of_loss([rows, features, classes]: [usize; 3], device: &Device) -> [usize; 2] {
    let training = device.clone().autodiff();
    let random = |rows| {
        Tensor::<2>::random([rows, features], Distribution::Default, &training).require_grad()
    };
    let (hidden, embedding) = (random(rows), random(classes));
    let targets = Tensor::<1, Int>::arange(0..rows as i64, &training);
    let targets = targets.remainder_scalar(classes as i64);
    let projection = || embedding.clone().transpose();

    let whole = CrossEntropyLossConfig::new().init(device);
    let (logits, product) = count(|| hidden.clone().matmul(projection()));
    let (_, of_whole) = count(|| whole.forward(logits, targets.clone()).backward());
    let with_logits = product.held + of_whole.peak;

    let in_chunks = LinearCrossEntropyLossConfig::new().init(device);
    let (_, of_chunks) = count(|| {
        let loss = in_chunks.forward(hidden.clone(), projection(), None, targets.clone());
        loss.backward()
    });
    [with_logits, of_chunks.peak]
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::alone;

    #[test]
    fn only_with_a_logits_tensor_all_logits_are_held() {
        let _alone = alone();
        let (rows, classes) = (1600, 20_000);
        let [with, without] = of_loss([rows, 4, classes], &Device::flex());
        let logits = 4 * rows * classes;
        assert!(with > logits, "{with}");
        // Without a logits tensor the loss holds the chunk, and a little more.
        assert!((60 << 20..72 << 20).contains(&without), "{without}");
    }
}
