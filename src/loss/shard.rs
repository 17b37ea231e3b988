//! Loss over a vocabulary that is divided among devices.

use std::ops::Range;

use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::tensor::{Device, Shape, Tensor};

use super::checks::{RangeCheck, check_float_dtype, check_target_shape, device_of, unwrap};
use super::cross_entropy::{CrossEntropyLoss, RequestedReduction};
use super::normalizer::Normalizer;
use super::target::{CrossEntropyTarget, Target, TargetClasses};
use crate::dispatch::{CrossEntropyBackend, fallback};
use crate::error::{CrossEntropyError, ShardError};
use crate::operation::shard::{ClassWindow, ShardCall};
use crate::operation::{Geometry, InputValues, Inputs, Role, Targets};
use crate::portable::{combined_statistics, statistics_per_row};

/// Contiguous part of the classes, whose logits are on one device.
///
/// A layer that projects onto a large vocabulary is divided among devices by its classes: each device holds
/// a part of the weights and computes its part of the logits, without the logits of the others. The loss
/// needs only a few numbers per row of every part ([`ShardStatistics`]):
///
/// 1. each device computes the statistics of its shard, [`CrossEntropyLoss::shard_statistics`];
/// 2. the devices exchange the statistics, and [combine](ShardStatistics::combine) those of all shards;
/// 3. each device computes the loss from them, [`CrossEntropyLoss::forward_shard`]: the same number on
///    every device, with the gradient of its own logits.
///
/// Targets are class indices of the whole vocabulary, the same on every device. So are the class weights.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_cross_entropy::{CrossEntropyLossConfig, ShardStatistics, VocabularyShard};
///
/// let device = Device::flex().autodiff();
/// let loss = CrossEntropyLossConfig::new().with_label_smoothing(0.1).init(&device);
/// let rows = [[2.0, -1.0, 0.5, 4.0, 0.0], [1.0, 3.0, 0.0, 0.0, 1.0]];
/// let logits = Tensor::<2>::from_floats(rows, &device);
/// let targets = Tensor::<1, Int>::from_ints([3, 0], &device);
///
/// // Here on one device; elsewhere each shard is the output of a device's own layer.
/// let shards = VocabularyShard::split(5, 2);
/// let parts: Vec<Tensor<2>> = shards
///     .iter()
///     .map(|shard| logits.clone().slice([0..2, shard.range()]).detach().require_grad())
///     .collect();
///
/// let pairs = || shards.iter().zip(&parts);
/// let statistics = pairs()
///     .map(|(shard, part)| loss.shard_statistics(part.clone(), targets.clone(), shard));
/// let combined = ShardStatistics::combined(statistics);
///
/// let whole = loss.forward(logits, targets.clone()).into_scalar::<f32>();
/// for (shard, part) in pairs() {
///     let value = loss.forward_shard(part.clone(), targets.clone(), shard, &combined);
///     assert!((value.clone().into_scalar::<f32>() - whole).abs() < 1e-6);
///     let gradient = part.grad(&value.backward()).unwrap();
///     assert_eq!(gradient.dims(), part.dims());
/// }
/// ```
///
/// Source: Shoeybi et al., Megatron-LM, <https://arxiv.org/abs/1909.08053>, section 3, which sends the
/// maximum, the sum and the target's logit in turn. Here they travel together: the sum of a shard is
/// measured from its own maximum, and brought to the common one when it is combined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VocabularyShard {
    range: Range<usize>,
    classes: usize,
}

impl VocabularyShard {
    /// Makes the part `range` of `classes` classes.
    ///
    /// # Panics
    ///
    /// If the range is empty or reaches beyond the classes.
    pub fn new(range: Range<usize>, classes: usize) -> Self {
        unwrap(Self::try_new(range, classes))
    }

    /// [`new`](Self::new) that returns an error instead of a panic.
    ///
    /// # Errors
    ///
    /// [`ShardError::Range`] if the range is empty or reaches beyond the classes.
    pub fn try_new(range: Range<usize>, classes: usize) -> Result<Self, CrossEntropyError> {
        if range.is_empty() || range.end > classes {
            let Range { start, end } = range;
            let error = ShardError::Range {
                start,
                end,
                classes,
            };
            return Err(error.into());
        }
        Ok(Self { range, classes })
    }

    /// Splits all classes into parts whose sizes differ by at most one, the larger parts first.
    ///
    /// ```
    /// use burn_cross_entropy::VocabularyShard;
    ///
    /// let shards = VocabularyShard::split(7, 3);
    /// let ranges: Vec<_> = shards.iter().map(|shard| shard.range()).collect();
    /// assert_eq!(ranges, [0..3, 3..5, 5..7]);
    /// ```
    ///
    /// # Panics
    ///
    /// If there are no shards, or more than classes.
    pub fn split(classes: usize, shards: usize) -> Vec<Self> {
        unwrap(Self::try_split(classes, shards))
    }

    /// [`split`](Self::split) that returns an error instead of a panic.
    ///
    /// # Errors
    ///
    /// [`ShardError::Count`] if there are no shards, or more than classes.
    pub fn try_split(classes: usize, shards: usize) -> Result<Vec<Self>, CrossEntropyError> {
        if !(1..=classes).contains(&shards) {
            return Err(ShardError::Count { shards, classes }.into());
        }
        let (size, larger) = (classes / shards, classes % shards);
        let start = |shard: usize| shard * size + shard.min(larger);
        let shard = |shard| Self {
            range: start(shard)..start(shard + 1),
            classes,
        };
        Ok((0..shards).map(shard).collect())
    }

    /// Range of the classes of this shard.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Number of all classes.
    pub fn classes(&self) -> usize {
        self.classes
    }
}

/// Contribution of the logits of some classes to the loss of every row.
///
/// It is a tensor of shape `[numbers, rows]`, in f32 (f64 for logits of f64), without gradient. With `x` the
/// logits of a row (with a `logit_softcap` the capped ones), `s` the `logit_scale` (1 with a softcap, which has
/// applied it), `m` the largest `x`, `y` the target and `w` the class weights (1 without), its lines are
///
/// | Line | Number | Remark |
/// |---|---|---|
/// | 0 | `m` | |
/// | 1 | `sum_c exp((x[c] - m) s) - 1` | without the 1 of the largest, so that confident rows keep their digits |
/// | 2 | `x[y]` | 0 where the target is a class of another shard |
/// | 3 | `sum_c w[c] (m - x[c]) s` | lines 3 to 5 with label smoothing only |
/// | 4 | `w` of the largest | |
/// | 5 | sum of the other `w` | |
/// | 6 | number of classes not at `-inf` | with [`SmoothingOver::ValidClasses`](crate::SmoothingOver::ValidClasses) only; the `w` of the others are 0 in lines 3 to 5 |
///
/// In a row with nothing but `-inf` in these classes, line 1 is -1 and line 3 is measured from 0.
/// Columns are rows in row-major order. Columns of ignored rows are computed like all others.
///
/// [`CrossEntropyLoss::shard_statistics`] computes the statistics; [`VocabularyShard`] has an example.
///
/// # Exchange
///
/// [`into_tensor`](Self::into_tensor) and [`from_tensor`](Self::from_tensor) are for operations that move
/// tensors between devices, such as an all-gather. Each shard sends `3 * rows` numbers (`6 * rows` with
/// label smoothing, `7 * rows` with that over the valid classes), for any number of classes.
#[derive(Clone, Debug)]
pub struct ShardStatistics {
    lines: Tensor<2>,
    /// Factor of the differences of scores.
    scale: f64,
}

impl ShardStatistics {
    /// Makes statistics of a loss from a tensor that another device got from
    /// [`into_tensor`](Self::into_tensor), with the same configuration.
    pub fn from_tensor<B: CrossEntropyBackend>(
        lines: Tensor<2>,
        loss: &CrossEntropyLoss<B>,
    ) -> Self {
        Self {
            lines: lines.without_autodiff(),
            scale: loss.settings.scale_of_scores(),
        }
    }

    /// Tensor of the lines that [`ShardStatistics`] describes.
    pub fn into_tensor(self) -> Tensor<2> {
        self.lines
    }

    /// Moves the statistics to another device.
    pub fn to_device(self, device: &Device) -> Self {
        let device = device.clone().without_autodiff();
        if self.lines.device() == device {
            return self;
        }
        Self {
            lines: self.lines.to_device(&device),
            ..self
        }
    }

    /// Combines the statistics of two shards into those of all classes of both, on the device of the first.
    /// Any order and grouping gives the same numbers up to rounding; the same order gives the same bits on
    /// every device.
    ///
    /// With `m` and `o` for lines 0 and 1, and the shard of the larger maximum first, the combined lines are
    /// `m` and `o + (o' + 1) exp((m' - m) s)`.
    ///
    /// # Panics
    ///
    /// With the text of a [`ShardError`] if they are not of the same rows or the same configuration.
    pub fn combine(self, other: Self) -> Self {
        unwrap(self.try_combine(other))
    }

    /// [`combine`](Self::combine) that returns an error instead of a panic.
    ///
    /// # Errors
    ///
    /// [`ShardError::Statistics`] or [`ShardError::Scale`] if they are not of the same rows or the same configuration.
    pub fn try_combine(self, other: Self) -> Result<Self, CrossEntropyError> {
        let [numbers, rows] = self.lines.dims();
        // Statistics from elsewhere may have any shape.
        let expected = [if matches!(numbers, 6 | 7) { numbers } else { 3 }, rows];
        self.check(expected, self.scale)?;
        other.check(expected, self.scale)?;
        let other = other.to_device(&self.lines.device());
        let dtype = self.lines.dtype();
        let other = other.lines.cast(dtype);
        let (lines, other) = (self.lines.into_dispatch(), other.into_dispatch());
        let lines = combined_statistics::<Dispatch>(lines, other, self.scale);
        Ok(Self {
            lines: Tensor::from_dispatch(lines),
            ..self
        })
    }

    /// Combines the statistics of all shards, on the device of the first.
    ///
    /// # Panics
    ///
    /// As [`combine`](Self::combine), and if there are no statistics.
    pub fn combined(statistics: impl IntoIterator<Item = Self>) -> Self {
        let combined = statistics.into_iter().reduce(Self::combine);
        unwrap(combined.ok_or(ShardError::NoStatistics.into()))
    }

    fn check(&self, expected: [usize; 2], scale: f64) -> Result<(), CrossEntropyError> {
        if self.scale != scale {
            let (given, expected) = (self.scale, scale);
            return Err(ShardError::Scale { given, expected }.into());
        }
        let given = self.lines.dims();
        if given == expected {
            return Ok(());
        }
        Err(ShardError::Statistics { given, expected }.into())
    }
}

/// Call over one shard, checked.
struct Checked {
    logits: DispatchTensor,
    call: ShardCall<Dispatch>,
}

impl Checked {
    /// Loss of all classes, from the combined statistics of all shards.
    fn loss(self, combined: &ShardStatistics) -> Result<Tensor<1>, CrossEntropyError> {
        let statistics = self.beside(combined)?;
        let loss = fallback::shard_loss(self.logits, statistics, &self.call);
        Ok(Tensor::from_dispatch(loss))
    }

    /// Checks that the statistics are of these rows, and moves them to the device of the logits.
    fn beside(&self, statistics: &ShardStatistics) -> Result<DispatchTensor, CrossEntropyError> {
        let options = &self.call.options;
        let rows = Geometry::new(&self.logits.shape(), options.class_dim).rows();
        statistics.check(
            [statistics_per_row(options), rows],
            options.scale_of_scores(),
        )?;
        let statistics = statistics.clone().to_device(&device_of(&self.logits));
        Ok(statistics.lines.into_dispatch())
    }
}

impl<B: CrossEntropyBackend> CrossEntropyLoss<B> {
    /// Computes the statistics of one shard, see [`VocabularyShard`] for the steps and an example. No
    /// gradient flows through the statistics, and the host does not wait for the device.
    ///
    /// The logits have the shape that [`forward`](Self::forward) takes, with the shard's classes alone
    /// in the class dimension. Targets are class indices of the whole vocabulary, and so are the class
    /// weights of the loss.
    ///
    /// Every backend computes this in plain tensor operations, with several tensors of the logits' size.
    ///
    /// # Panics
    ///
    /// With the text of a [`CrossEntropyError`] if the tensors do not fit each other, the shard or the
    /// configuration; if the targets are distributions or the loss takes probabilities; or, on the CPU
    /// backends, if a target is out of range.
    pub fn shard_statistics<const D: usize>(
        &self,
        logits: Tensor<D>,
        target: impl CrossEntropyTarget<D>,
        shard: &VocabularyShard,
    ) -> ShardStatistics {
        let reduction = RequestedReduction::Configured;
        let checked = self.checked(
            logits.into_dispatch(),
            target.into_target(),
            shard,
            reduction,
        );
        let Checked { logits, call } = unwrap(checked);
        let lines = fallback::shard_statistics(logits, &call);
        ShardStatistics {
            lines: Tensor::from_dispatch(lines),
            scale: self.settings.scale_of_scores(),
        }
    }

    /// Computes the reduced loss of the whole vocabulary, a tensor of one element: the same on every device.
    /// The gradient is that of this shard's logits.
    ///
    /// `logits`, `target` and `shard` are those that [`shard_statistics`](Self::shard_statistics) was
    /// given, and `combined` are the [combined](ShardStatistics::combined) statistics of all shards; of
    /// fewer shards it is the loss over their classes. Every option of the configuration has the
    /// meaning that it has in [`forward`](Self::forward), with label smoothing over the whole
    /// vocabulary, and the same care for ignored and for confident rows.
    ///
    /// With `M` and `O` the first two lines of the combined statistics, `A` the sum of the row's
    /// shares `a[c] = w[c] q[c]` over all classes, and without z-loss:
    ///
    /// ```text
    /// lse     = M s + ln(1 + O)
    /// d x[c]  = s (A exp((x[c] - M) s) / (1 + O) - a[c])
    ///         = s ((A - a[c]) - A O / (1 + O))          where that is more than half the probability
    /// ```
    ///
    /// Where the layers before the projection are on every device, their gradient is the sum of what
    /// the backward of each device gives (Megatron-LM's `f`): `d hidden = sum_shards dx W`.
    ///
    /// A logit that is not finite gets a gradient of 0.
    ///
    /// # Panics
    ///
    /// As [`shard_statistics`](Self::shard_statistics), and if the statistics are not of these rows.
    pub fn forward_shard<const D: usize>(
        &self,
        logits: Tensor<D>,
        target: impl CrossEntropyTarget<D>,
        shard: &VocabularyShard,
        combined: &ShardStatistics,
    ) -> Tensor<1> {
        let reduction = RequestedReduction::Configured;
        let checked = self.checked(
            logits.into_dispatch(),
            target.into_target(),
            shard,
            reduction,
        );
        unwrap(checked.and_then(|checked| checked.loss(combined)))
    }

    /// [`forward_shard`](Self::forward_shard) over a normalizer, as
    /// [`forward_normalized`](Self::forward_normalized): for shards of the vocabulary on devices that
    /// have a part of the batch too.
    ///
    /// # Panics
    ///
    /// As [`forward_shard`](Self::forward_shard), and if the normalizer is not of one element.
    pub fn forward_shard_normalized<const D: usize>(
        &self,
        logits: Tensor<D>,
        target: impl CrossEntropyTarget<D>,
        shard: &VocabularyShard,
        combined: &ShardStatistics,
        normalizer: impl Into<Normalizer>,
    ) -> Tensor<1> {
        let reduction = RequestedReduction::Over(normalizer.into());
        let checked = self.checked(
            logits.into_dispatch(),
            target.into_target(),
            shard,
            reduction,
        );
        unwrap(checked.and_then(|checked| checked.loss(combined)))
    }

    fn checked(
        &self,
        logits: DispatchTensor,
        target: Target,
        shard: &VocabularyShard,
        reduction: RequestedReduction,
    ) -> Result<Checked, CrossEntropyError> {
        if self.settings.values == InputValues::Probabilities {
            return Err(ShardError::Probabilities.into());
        }
        B::check(&logits, Role::Logits)?;
        let shape = logits.shape();
        let class_dim = self.class_dim(&shape)?;
        self.check_shard(&shape, class_dim, shard)?;
        let TargetClasses::Indices(indices) = &target.classes else {
            return Err(ShardError::Distributions.into());
        };
        check_target_shape(&shape, &target, class_dim)?;
        let device = device_of(&logits);
        check_float_dtype("logits", logits.dtype(), &device)?;
        let check = RangeCheck::WhereFree;
        self.check_indices(&target, &device, shard.classes, check)?;
        if let Some(weights) = &target.row_weights {
            self.check_row_weights(weights, &device)?;
        }
        let call = ShardCall {
            inputs: Inputs {
                targets: Targets::Indices(indices.clone()),
                weights: self.weights_on(&device),
                row_weights: target.row_weights.clone().into(),
                reduction: self.requested(reduction, &shape, class_dim, &device)?,
            },
            window: ClassWindow {
                first: shard.range.start,
                of: shard.classes,
            },
            options: self.settings.options(class_dim, shard.classes)?,
        };
        Ok(Checked { logits, call })
    }

    /// Checks that the logits have the classes of the shard, and the class weights those of the vocabulary.
    fn check_shard(
        &self,
        logits: &Shape,
        class_dim: usize,
        shard: &VocabularyShard,
    ) -> Result<(), CrossEntropyError> {
        let (found, expected) = (logits[class_dim], shard.range.len());
        if found != expected {
            let Range { start, end } = shard.range;
            let logits = logits.to_vec();
            let error = ShardError::Classes {
                logits,
                class_dim,
                found,
                start,
                end,
                expected,
            };
            return Err(error.into());
        }
        match &self.weight {
            Some(weight) if weight.dims()[0] != shard.classes => {
                let [weights] = weight.dims();
                let classes = shard.classes;
                Err(ShardError::WeightLength { weights, classes }.into())
            }
            _ => Ok(()),
        }
    }
}
