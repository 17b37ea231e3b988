//! Models that train on parts of a batch, with each of Burn's strategies for several devices.

use std::path::Path;

use burn::data::dataloader::batcher::Batcher;
use burn::module::Module;
use burn::nn::Linear;
use burn::optim::SgdConfig;
use burn::tensor::distributed::{DistributedConfig, ReduceOperation, all_reduce};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn::train::{
    ExecutionStrategy, InferenceStep, Learner, LearningResult, SupervisedTraining, TrainLoader,
    TrainOutput, TrainStep, ValidLoader,
};
use burn_cross_entropy::{CrossEntropyLoss, Normalizer, ShardStatistics};

/// One device's part of a batch, with totals of the whole batch.
#[derive(Clone, Debug)]
pub struct Part {
    /// Features of each row.
    pub features: Vec<Vec<f32>>,
    /// Target of each row.
    pub targets: Vec<i64>,
    /// Total weight and counted rows of the whole batch. Burn's `multi` divides the data set before the
    /// batcher sees it, so that a batcher never sees the other devices' rows.
    pub whole_batch: [f32; 2],
}

/// A [`Part`] as tensors.
#[derive(Clone, Debug)]
pub struct PartBatch {
    /// Shape `[rows, features]`.
    pub features: Tensor<2>,
    /// Shape `[rows]`.
    pub targets: Tensor<1, Int>,
    /// The normalizer of the whole batch.
    pub normalizer: Normalizer,
}

/// Makes a [`PartBatch`] of a single [`Part`], which is what a step takes.
#[derive(Clone, Debug)]
pub struct PartBatcher;

impl Batcher<Part, PartBatch> for PartBatcher {
    fn batch(&self, parts: Vec<Part>, device: &Device) -> PartBatch {
        assert_eq!(
            parts.len(),
            1,
            "a step takes one part, whose normalizer is that of its own batch: use a batch size of 1"
        );
        let whole_batch = parts[0].whole_batch;
        let rows: Vec<Vec<f32>> = parts
            .iter()
            .flat_map(|part| part.features.clone())
            .collect();
        let targets: Vec<i64> = parts.iter().flat_map(|part| part.targets.clone()).collect();
        let shape = [rows.len(), rows[0].len()];
        let number = |number: f32| Tensor::<1>::from_floats([number], device);
        PartBatch {
            features: Tensor::from_data(TensorData::new(rows.concat(), shape), device),
            targets: Tensor::from_data(TensorData::new(targets, [shape[0]]), device),
            normalizer: Normalizer::new(number(whole_batch[0]), number(whole_batch[1])),
        }
    }
}

/// A model for strategies that add the gradients of several devices: each device divides its loss by the
/// normalizer of the whole batch.
#[derive(Module, Debug)]
pub struct Summed {
    /// The layer that is trained.
    pub linear: Linear,
    /// The loss of the layer's logits.
    pub loss: CrossEntropyLoss,
}

impl TrainStep for Summed {
    type Input = PartBatch;
    type Output = ();

    fn step(&self, batch: PartBatch) -> TrainOutput<()> {
        let logits = self.linear.forward(batch.features);
        let share = (self.loss).forward_normalized(logits, batch.targets, batch.normalizer);
        TrainOutput::new(self, share.backward(), ())
    }
}

impl InferenceStep for Summed {
    type Input = PartBatch;
    type Output = ();

    fn step(&self, _batch: PartBatch) {}
}

/// Reduces the normalizers of all devices in the way in which their gradients are reduced. `Sum` gives the
/// normalizer of the whole batch, `Mean` divides it by the number of devices. Every device calls this
/// function with its own normalizer.
///
/// CUDA is the only backend of Burn that has the collective.
pub fn reduced(
    normalizer: &Normalizer,
    operation: ReduceOperation,
    devices: Vec<Device>,
) -> Normalizer {
    let numbers = vec![normalizer.total_weight(), normalizer.counted_rows()];
    let numbers = all_reduce(Tensor::cat(numbers, 0), operation, devices).resolve();
    let [total_weight, counted_rows] = [0, 1].map(|at| numbers.clone().slice(at..at + 1));
    Normalizer::new(total_weight, counted_rows)
}

/// Gathers the statistics of every device's shard, in the devices' order, on every device. Every device calls
/// this function with its own statistics and its place among the devices.
///
/// Burn does not have an all-gather: each device adds its lines to the others' zeros.
pub fn gathered(
    loss: &CrossEntropyLoss,
    statistics: ShardStatistics,
    place: usize,
    devices: Vec<Device>,
) -> Vec<ShardStatistics> {
    let lines = statistics.into_tensor();
    let [numbers, rows] = lines.dims();
    let count = devices.len();
    let own = [place * numbers..(place + 1) * numbers, 0..rows];
    let all = Tensor::<2>::zeros([count * numbers, rows], (&lines.device(), lines.dtype()))
        .slice_assign(own, lines);
    let all = all_reduce(all, ReduceOperation::Sum, devices).resolve();
    all.chunk(count, 0)
        .into_iter()
        .map(|lines| ShardStatistics::from_tensor(lines, loss))
        .collect()
}

/// A model for Burn's distributed data parallel: a thread for each device, and gradients that are reduced
/// while the backward runs. The step reduces the normalizer.
#[derive(Module, Debug)]
pub struct Reduced {
    /// The layer that is trained.
    pub linear: Linear,
    /// The loss of the layer's logits.
    pub loss: CrossEntropyLoss,
    /// The devices that train.
    #[module(skip)]
    pub devices: Vec<Device>,
    /// The operation that reduces the devices' gradients, as in the `DistributedConfig`.
    #[module(skip)]
    pub operation: ReduceOperation,
}

impl TrainStep for Reduced {
    type Input = (Tensor<2>, Tensor<1, Int>);
    type Output = ();

    fn step(&self, (features, targets): Self::Input) -> TrainOutput<()> {
        let own = self.loss.normalizer(targets.clone());
        let normalizer = reduced(&own, self.operation, self.devices.clone());
        let logits = self.linear.forward(features);
        let share = self.loss.forward_normalized(logits, targets, normalizer);
        TrainOutput::new(self, share.backward(), ())
    }
}

impl InferenceStep for Reduced {
    type Input = (Tensor<2>, Tensor<1, Int>);
    type Output = ();

    fn step(&self, _batch: Self::Input) {}
}

/// Trains on CUDA devices, with one thread for each.
pub fn train_reduced(
    model: Reduced,
    directory: &Path,
    loaders: (TrainLoader<Reduced>, ValidLoader<Reduced>),
) -> LearningResult<Reduced> {
    let config = DistributedConfig {
        all_reduce_op: model.operation,
    };
    let strategy = ExecutionStrategy::ddp(model.devices.clone(), config);
    SupervisedTraining::new(directory, loaders.0, loaders.1)
        .with_training_strategy(strategy.into())
        .launch(Learner::new(model, SgdConfig::new().init(), 0.1))
}
