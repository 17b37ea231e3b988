//! The two methods: the loss of two views of a batch by momentum contrast (MoCo) or in the batch (SimCLR).
//! The library has the queue, the momentum update and the loss.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_cross_entropy::contrastive::{InBatch, SampleIds};
use burn_cross_entropy::{
    InfoNceLoss, InfoNceLossConfig, NegativeQueue, NegativeQueueConfig, momentum_update,
};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::encoder::{EMBEDDING, Encoder};

/// The source of the negatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Method {
    /// A queue of the keys of earlier steps; a second encoder, which follows slowly, makes the keys.
    Moco,
    /// All other views of the batch.
    Simclr,
}

/// Whether the momentum stays or grows over the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Schedule {
    /// The momentum is the same in every step.
    Constant,
    /// The momentum grows from --momentum along half a cosine to 1, where the momentum encoder stands still.
    Cosine,
}

/// The loss of both methods; the choice of negatives in the batch is SimCLR's.
pub fn loss(temperature: f64, device: &Device) -> Result<InfoNceLoss, String> {
    InfoNceLossConfig::new()
        .with_temperature(temperature)
        // The encoder itself gives unit vectors, because the evaluation compares them.
        .with_normalize(false)
        .with_in_batch(InBatch::NtXent)
        .try_init_for(device)
        .map_err(|error| format!("--temperature: {error}"))
}

/// The parts of momentum contrast besides the trained encoder. No gradient reaches them.
#[derive(Module, Debug)]
pub struct MomentumSide {
    /// The encoder of the keys.
    pub encoder: Encoder,
    pub queue: NegativeQueue,
}

impl MomentumSide {
    pub fn new(online: &Encoder, negatives: usize, device: &Device) -> Result<Self, String> {
        let queue = NegativeQueueConfig::new(negatives, EMBEDDING)
            .with_ids(true)
            .try_init(device)
            .map_err(|error| format!("--queue: {error}"))?;
        Ok(Self {
            encoder: online.valid(),
            queue,
        })
    }

    /// The numbers of the images whose keys are in the queue.
    fn negatives(&self) -> Tensor<1, Int> {
        self.queue.ids().expect("the queue is made with ids")
    }

    /// The numbers of images as a tensor, in the dtype of the numbers in the queue: the queue of a checkpoint
    /// keeps the dtype of the backend that made it.
    pub fn numbers(&self, images: &[usize]) -> Tensor<1, Int> {
        let numbers: Vec<i64> = images.iter().map(|number| *number as i64).collect();
        let negatives = self.negatives();
        let options = (&negatives.device(), negatives.dtype());
        Tensor::from_data(TensorData::new(numbers, [images.len()]), options)
    }

    /// The mean cross-entropy of the logits [queries, 1 + negatives], in which the positive stands at
    /// index 0, so that the label of every row is 0:
    ///
    /// ```text
    /// logits = [ query . its own key | query . every key of the queue ] / temperature
    /// loss   = cross_entropy(logits, [0, 0, .., 0])
    /// ```
    ///
    /// `moco_logits` makes these logits as a tensor; the loss makes them some rows at a time. The queue may
    /// still hold the key of the same image from an earlier epoch, which does not count as a negative.
    pub fn loss(&self, loss: &InfoNceLoss, query: Tensor<2>, keys: &Keys) -> Tensor<1> {
        let ids = SampleIds {
            queries: keys.images.clone(),
            negatives: self.negatives(),
        };
        loss.forward_with_ids(query, keys.rows.clone(), self.queue.keys(), ids)
    }

    /// Follows the optimizer's step: updates the momentum encoder, and adds the keys to the queue as
    /// negatives of later steps.
    pub fn follow(mut self, online: &Encoder, momentum: f64, keys: Keys) -> Self {
        self.encoder = momentum_update(online, self.encoder, momentum);
        self.queue.push_with_ids(keys.rows, keys.images);
        self
    }
}

/// The keys of a batch.
pub struct Keys {
    /// The keys, of shape [images, embedding].
    pub rows: Tensor<2>,
    /// The number of the image of each key.
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
        let mut side = MomentumSide::new(&online, 7, &device).unwrap();
        side.queue.push_with_ids(random(7), ids(10..17));

        let (query, rows) = (random(3), random(3));
        let logits = moco_logits(query.clone(), rows.clone(), side.queue.keys(), 0.5);
        assert_eq!(logits.dims(), [3, 1 + 7]);
        let labels = Tensor::<1, Int>::zeros([3], &device);
        let expected: f32 = cross_entropy(logits, labels).into_scalar();

        let images = ids(0..3);
        let loss = side.loss(&loss(0.5, &device).unwrap(), query, &Keys { rows, images });
        assert!((loss.into_scalar::<f32>() - expected).abs() < 1e-5 * expected);
    }

    #[test]
    fn what_the_library_refuses_is_said_of_the_option() {
        let device = Device::flex();
        for temperature in [0.0, 1e-40, f64::INFINITY, f64::NAN] {
            let error = loss(temperature, &device).unwrap_err();
            assert!(error.contains("--temperature"), "{error}");
        }
        let online = Encoder::new(SIZE, 1, &device.clone().autodiff());
        let error = MomentumSide::new(&online, 3_000_000_000, &device).unwrap_err();
        assert!(
            error.contains("--queue") && error.contains("3000000000"),
            "{error}"
        );
    }
}
