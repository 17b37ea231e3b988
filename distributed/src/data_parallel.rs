//! A model that is trained on parts of a batch, by each of Burn's strategies for several devices.

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

/// What one device is given of a batch, and what is known of the whole of it.
#[derive(Clone, Debug)]
pub struct Part {
    /// Features of each row.
    pub features: Vec<Vec<f32>>,
    /// Target of each row.
    pub targets: Vec<i64>,
    /// Total weight and counted rows of the whole batch. Burn's `multi` divides the data set before it
    /// is batched, so that no batcher sees the other devices' rows.
    pub whole_batch: [f32; 2],
}

/// A [`Part`] as tensors.
#[derive(Clone, Debug)]
pub struct PartBatch {
    /// Shape `[rows, features]`.
    pub features: Tensor<2>,
    /// Shape `[rows]`.
    pub targets: Tensor<1, Int>,
    /// That of the whole batch.
    pub normalizer: Normalizer,
}

/// Makes a [`PartBatch`] of the one [`Part`] that a step takes.
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

/// Where the gradients of several devices are added: each device's loss is over the normalizer of the
/// whole batch.
#[derive(Module, Debug)]
pub struct Summed {
    /// The model.
    pub linear: Linear,
    /// Its loss.
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

/// The normalizer of all devices' rows, reduced as their gradients are: under `Sum` that of the whole
/// batch, under `Mean` that over the number of devices. Every device calls it, with its own.
///
/// Of Burn's backends, CUDA alone has the collective.
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

/// The statistics of every device's shard, on every device, in the devices' order. Every device calls
/// it, with its own and its place among them.
///
/// Burn has no all-gather: each adds its lines to the others' zeros.
pub fn gathered(
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
        .map(ShardStatistics::from_tensor)
        .collect()
}

/// Burn's distributed data parallel: a thread for each device, gradients reduced while the backward
/// runs. The normalizer is reduced in the step.
#[derive(Module, Debug)]
pub struct Reduced {
    /// The model.
    pub linear: Linear,
    /// Its loss.
    pub loss: CrossEntropyLoss,
    /// The devices that train.
    #[module(skip)]
    pub devices: Vec<Device>,
    /// How their gradients are reduced: that of the `DistributedConfig`.
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

/// Trains on CUDA devices, one thread for each.
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
