//! A projection onto a vocabulary that is divided among devices.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use burn_cross_entropy::{CrossEntropyLoss, ShardStatistics, VocabularyShard};

/// The last layer of a language model and its loss, with the vocabulary divided among devices.
#[derive(Module, Debug)]
pub struct ShardedHead {
    /// Weights `[hidden, classes of the shard]`, each on its device.
    pub weights: Vec<Param<Tensor<2>>>,
    loss: CrossEntropyLoss,
    #[module(skip)]
    shards: Vec<VocabularyShard>,
}

/// The result of one step of a [`ShardedHead`].
pub struct Objective {
    /// The loss, on the first device. Its backward gives the gradients of all devices.
    pub loss: Tensor<1>,
    /// Numbers that the devices send to each other for the loss, in the forward.
    pub numbers_sent: usize,
}

impl ShardedHead {
    /// Divides the weights `[hidden, classes]` among the devices.
    pub fn new(weights: Tensor<2>, loss: CrossEntropyLoss, devices: &[Device]) -> Self {
        let [hidden, classes] = weights.dims();
        let shards = VocabularyShard::split(classes, devices.len());
        let part = |(shard, device): (&VocabularyShard, &Device)| {
            let part = weights.clone().slice([0..hidden, shard.range()]);
            Param::from_tensor(Tensor::from_data(part.into_data(), device))
        };
        Self {
            weights: shards.iter().zip(devices).map(part).collect(),
            loss,
            shards,
        }
    }

    /// The loss of hidden states `[rows, hidden]` on the first device.
    ///
    /// Every device computes the loss. This function drives all devices from one program, so one backward
    /// must run through all of their graphs: it adds the other devices' losses with a value of 0. A program
    /// on each device calls `backward` on its own loss, and adds up the gradients of the hidden states.
    pub fn forward(&self, hidden: Tensor<2>, targets: Tensor<1, Int>) -> Objective {
        let devices: Vec<Device> = self
            .weights
            .iter()
            .map(|part| part.val().device())
            .collect();
        let logits: Vec<Tensor<2>> = (self.weights.iter().zip(&devices))
            .map(|(part, device)| hidden.clone().to_device(device).matmul(part.val()))
            .collect();
        let targets: Vec<Tensor<1, Int>> = (devices.iter())
            .map(|device| targets.clone().to_device(device))
            .collect();
        let parts = || self.shards.iter().zip(logits.iter().zip(&targets));

        let combined = ShardStatistics::combined(parts().map(|(shard, (logits, targets))| {
            (self.loss).shard_statistics(logits.clone(), targets.clone(), shard)
        }));
        let loss = parts()
            .map(|(shard, (logits, targets))| {
                (self.loss).forward_shard(logits.clone(), targets.clone(), shard, &combined)
            })
            .reduce(|first, other| {
                let gradient_alone = other.clone() - other.detach();
                first.clone() + gradient_alone.to_device(&first.device())
            });
        let [lines, rows] = combined.into_tensor().dims();
        Objective {
            loss: loss.expect("a head has at least one shard"),
            // The statistics go to the first device, and the combined ones come back.
            numbers_sent: 2 * (devices.len() - 1) * lines * rows,
        }
    }
}
