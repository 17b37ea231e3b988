//! What is contrasted with what: the loss of two views of a batch by momentum contrast (MoCo) or in the
//! batch (SimCLR). Queue, momentum update and loss are the library's.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use burn_cross_entropy::{
    InBatch, InfoNceLoss, InfoNceLossConfig, NegativeQueue, NegativeQueueConfig, SampleIds,
    momentum_update,
};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::encoder::{EMBEDDING, Encoder};

/// Where the negatives come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Method {
    /// From a queue of the keys of earlier steps, which a second encoder makes that follows slowly.
    Moco,
    /// From the batch: all other views of it.
    Simclr,
}

impl Method {
    /// The embeddings have length 1 already.
    pub fn loss(self, temperature: f64, device: &Device) -> InfoNceLoss {
        InfoNceLossConfig::new()
            .with_temperature(temperature as f32)
            .with_normalize(false)
            .with_in_batch(InBatch::NtXent)
            .init(device)
    }
}

/// What momentum contrast has besides the encoder that is trained. No gradient reaches it.
#[derive(Module, Debug)]
pub struct MomentumSide {
    /// Makes the keys.
    pub encoder: Encoder,
    pub queue: NegativeQueue,
}

impl MomentumSide {
    pub fn new(online: &Encoder, negatives: usize, device: &Device) -> Self {
        Self {
            encoder: online.valid(),
            queue: NegativeQueueConfig::new(negatives, EMBEDDING)
                .with_ids(true)
                .init(device),
        }
    }

    /// The mean cross-entropy of the logits [queries, 1 + negatives], in which the positive stands at
    /// index 0, so that the label of every row is 0:
    ///
    /// ```text
    /// logits = [ query . its own key | query . every key of the queue ] / temperature
    /// loss   = cross_entropy(logits, [0, 0, .., 0])
    /// ```
    ///
    /// `moco_logits` makes these logits as a tensor; the loss makes them some rows at a time. The key of
    /// the same image from an earlier epoch, which the queue may still hold, is no negative.
    pub fn loss(&self, loss: &InfoNceLoss, query: Tensor<2>, keys: &Keys) -> Tensor<1> {
        let Some(negatives) = self.queue.ids() else {
            return loss.forward(query, keys.rows.clone(), self.queue.keys());
        };
        let ids = SampleIds {
            queries: keys.images.clone(),
            negatives,
        };
        loss.forward_with_ids(query, keys.rows.clone(), self.queue.keys(), ids)
    }

    /// After the optimizer's step: the encoder follows, the keys become negatives of later steps.
    pub fn follow(mut self, online: &Encoder, momentum: f64, keys: Keys) -> Self {
        self.encoder = momentum_update(online, self.encoder, momentum);
        self.queue.push_with_ids(keys.rows, keys.images);
        self
    }
}

/// The keys of a batch.
pub struct Keys {
    /// [images, embedding]
    pub rows: Tensor<2>,
    /// The number of the image that each of them is of.
    pub images: Tensor<1, Int>,
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Distribution;
    use burn_cross_entropy::{cross_entropy, moco_logits};

    use super::*;
    use crate::data::Size;

    const SIZE: Size = Size {
        height: 8,
        width: 8,
    };

    #[test]
    fn the_loss_is_the_cross_entropy_of_logits_whose_positive_is_at_index_0() {
        let device = Device::flex();
        let random = |rows| Tensor::<2>::random([rows, EMBEDDING], Distribution::Default, &device);
        let ids = |ids: std::ops::Range<i64>| Tensor::<1, Int>::arange(ids, &device);
        let online = Encoder::new(SIZE, 1, &device.clone().autodiff());
        let mut side = MomentumSide::new(&online, 7, &device);
        side.queue.push_with_ids(random(7), ids(10..17));

        let (query, rows) = (random(3), random(3));
        let logits = moco_logits(query.clone(), rows.clone(), side.queue.keys(), 0.5);
        assert_eq!(logits.dims(), [3, 1 + 7]);
        let labels = Tensor::<1, Int>::zeros([3], &device);
        let expected: f32 = cross_entropy(logits, labels).into_scalar();

        let images = ids(0..3);
        let loss = side.loss(
            &Method::Moco.loss(0.5, &device),
            query,
            &Keys { rows, images },
        );
        assert!((loss.into_scalar::<f32>() - expected).abs() < 1e-5 * expected);
    }
}
