//! The parts of momentum contrast: the queue of negatives, the logits and the momentum update.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::container::TensorContainer;
use burn::tensor::{Device, Tensor, TensorData};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::encoder::{EMBEDDING, unit_length};
use crate::random::normals;

/// The newest keys of earlier steps, which serve as negatives.
pub struct Queue {
    /// [queue, embedding], the newest first.
    pub negatives: Tensor<2>,
}

impl Queue {
    /// Random unit vectors, until keys take their places. They are easy to tell from keys, so that
    /// the loss starts low and rises first.
    pub fn random(length: usize, seed: u64, device: &Device) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let values: Vec<f32> = normals(&mut random).take(length * EMBEDDING).collect();
        let data = TensorData::new(values, [length, EMBEDDING]);
        Self {
            negatives: unit_length(Tensor::from_data(data, device)),
        }
    }

    /// Puts keys in and drops as many of the oldest. Any number of keys fits.
    pub fn push(&mut self, keys: Tensor<2>) {
        let length = self.negatives.dims()[0];
        let all = Tensor::cat(vec![keys, self.negatives.clone()], 0);
        self.negatives = all.narrow(0, 0, length);
    }
}

/// The similarity of each query to its own key, at index 0, and to all negatives after it:
/// [queries, 1 + queue]. The label of every row is 0.
pub fn logits(queries: Tensor<2>, keys: Tensor<2>, negatives: Tensor<2>) -> Tensor<2> {
    let positive = (queries.clone() * keys).sum_dim(1);
    let negative = queries.matmul(negatives.transpose());
    Tensor::cat(vec![positive, negative], 1)
}

/// Moves the parameters of `follower` towards those of `leader`, of which it keeps the share
/// `momentum`. The two are copies of one module, with the same parameter ids.
pub fn momentum_update<M: Module>(follower: M, leader: &M, momentum: f64) -> M {
    let mut collector = Collector(TensorContainer::new());
    leader.visit(&mut collector);
    follower.map(&mut Follower {
        targets: collector.0,
        momentum,
    })
}

/// Takes the values of all parameters, without their gradients.
struct Collector(TensorContainer<ParamId>);

impl ModuleVisitor for Collector {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.register(param.id, param.val().inner());
    }
}

struct Follower {
    targets: TensorContainer<ParamId>,
    momentum: f64,
}

impl ModuleMapper for Follower {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.targets.remove::<Tensor<D>>(&param.id) {
            Some(target) => param.map(|value| {
                value.mul_scalar(self.momentum) + target.mul_scalar(1.0 - self.momentum)
            }),
            None => param,
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::nn::LinearConfig;

    use super::*;

    fn rows(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().try_into_vec_as().unwrap()
    }

    #[test]
    fn a_queue_keeps_the_newest_keys() {
        let device = Device::flex();
        let mut queue = Queue {
            negatives: Tensor::from_floats([[1.0], [2.0], [3.0]], &device),
        };
        queue.push(Tensor::from_floats([[4.0], [5.0]], &device));
        assert_eq!(rows(queue.negatives.clone()), [4.0, 5.0, 1.0]);
        queue.push(Tensor::from_floats([[6.0], [7.0], [8.0], [9.0]], &device));
        assert_eq!(rows(queue.negatives), [6.0, 7.0, 8.0]);
    }

    #[test]
    fn the_positive_stands_at_index_0() {
        let device = Device::flex();
        let queries = Tensor::from_floats([[1.0, 2.0], [3.0, 4.0]], &device);
        let keys = Tensor::from_floats([[5.0, 6.0], [7.0, 8.0]], &device);
        let negatives = Tensor::from_floats([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], &device);
        let logits = logits(queries, keys, negatives);
        assert_eq!(rows(logits), [17.0, 1.0, 2.0, 3.0, 53.0, 3.0, 4.0, 7.0]);
    }

    #[test]
    fn the_momentum_encoder_moves_by_its_share() {
        let device = Device::flex();
        let leader = LinearConfig::new(2, 3).init(&device.clone().autodiff());
        let follower = leader.valid();
        let leader = leader.map(&mut Doubler);
        let moved = momentum_update(follower.clone(), &leader, 0.5);
        let expected = follower.weight.val() * 1.5;
        assert_eq!(rows(moved.weight.val()), rows(expected));
    }

    struct Doubler;

    impl ModuleMapper for Doubler {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|value| value * 2.0)
        }
    }
}
