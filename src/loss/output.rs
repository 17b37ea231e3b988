//! Outputs of a forward besides the loss.

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{Bool, Int, Shape, Slice, Tensor};

use crate::operation::{EmptyReduction, RowOutputs};
use crate::portable::cast_int;

/// Loss, and the outputs of every row from the same pass over the logits.
///
/// [`CrossEntropyLoss::forward_with_output`](crate::CrossEntropyLoss::forward_with_output) returns an output.
/// `R` is the rank of the rows, 1 below the rank of the logits (1 for logits of rank 1). Gradients flow only
/// through `loss`; the other tensors are constants, and the host does not wait for the device. With the
/// feature `train` a `TrainStep` and the metrics of burn-train take an output. (On a GPU the largest
/// classes of distributions take further passes over them, with tensors of their size.)
///
/// | | ignored row | row whose target is not a class (on a GPU) |
/// |---|---|---|
/// | `lse`, `max_log_prob`, `predicted`, `entropy` | as of any row | as of any row |
/// | `log_prob` | 0 | NaN |
/// | `target_class`, `target_rank` | -1 | -1 |
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_cross_entropy::CrossEntropyLossConfig;
///
/// let device = Device::flex();
/// let loss = CrossEntropyLossConfig::new().init(&device);
/// let rows = [[1.0, 4.0, 2.0], [3.0, 0.0, 0.0], [0.0, 0.0, 9.0]];
/// let logits = Tensor::<2>::from_floats(rows, &device);
/// let targets = Tensor::<1, Int>::from_ints([2, 0, -100], &device);
///
/// let output = loss.forward_with_output(logits, targets);
/// let integers = |tensor: &Tensor<1, Int>| tensor.to_data().iter::<i32>().collect::<Vec<_>>();
/// assert_eq!(integers(&output.predicted), [1, 0, 2]);
/// assert_eq!(integers(&output.target_rank), [1, 0, -1]);
/// assert_eq!(integers(&output.correct().int()), [0, 1, 0]);
/// assert_eq!(output.total_weight.clone().into_scalar::<f32>(), 2.0);
///
/// // Without class weights and smoothing the loss is minus the mean of the log-probabilities.
/// let mean = output.log_prob.sum().neg() / output.counted_rows;
/// assert!((mean.into_scalar::<f32>() - output.loss.into_scalar::<f32>()).abs() < 1e-6);
/// ```
#[derive(Clone, Debug)]
pub struct CrossEntropyOutput<const R: usize> {
    /// The reduced loss, a tensor of one element.
    pub loss: Tensor<1>,
    /// The log-sum-exp of each row's logits, after scale and softcap; 0 for probabilities.
    pub lse: Tensor<R>,
    /// The log-probability of each row's target; for a distribution `p` the sum of `p[c] ln q[c]`.
    /// Class weights, label smoothing and z-loss do not apply.
    pub log_prob: Tensor<R>,
    /// The largest log-probability of each row, `-ln sum_c exp(x[c] - max x)`: the logarithm of the model's
    /// confidence in `predicted`, with all its digits near 0 too. NaN where the row has no distribution. For
    /// probabilities `s` the logarithm of the largest, `ln max s`; NaN is below all numbers.
    pub max_log_prob: Tensor<R>,
    /// The class of each row's largest logit, of several the first (in an output of
    /// [`InfoNceLoss`](crate::InfoNceLoss) one that is not the positive); NaN is below all numbers.
    pub predicted: Tensor<R, Int>,
    /// The class of each row's target, of a distribution its largest class (of several the first); -1 where
    /// the row does not count.
    pub target_class: Tensor<R, Int>,
    /// The number of classes before the target: classes with a larger logit, and earlier classes with
    /// the same logit; the last rank where the row has no distribution (a NaN or plus infinity, or nothing
    /// but minus infinity). The target is among the top `k` where its rank is below `k`. The target of a
    /// distribution is its largest class.
    pub target_rank: Tensor<R, Int>,
    /// The divisor of `Mean`, see
    /// [`CrossEntropyLoss::total_weight`](crate::CrossEntropyLoss::total_weight).
    pub total_weight: Tensor<1>,
    /// The number of counted rows, see [`counted`](Self::counted).
    pub counted_rows: Tensor<1>,
    /// The entropy of each row's probabilities in nats, if the output is from
    /// [`forward_with_entropy`](crate::CrossEntropyLoss::forward_with_entropy).
    pub entropy: Option<Tensor<R>>,
    pub(crate) call: CallOfOutput<R>,
}

/// What an output tells about its call when it is asked.
#[derive(Clone, Debug)]
pub(crate) struct CallOfOutput<const R: usize> {
    /// Number of classes.
    #[cfg_attr(not(feature = "train"), allow(dead_code))]
    pub(crate) classes: usize,
    /// Weights of the rows; absent where all are 1.
    pub(crate) row_weights: Option<Tensor<R>>,
    /// Divisor of the sum of the losses.
    pub(crate) divided_by: Divisor,
    /// Factor of the squared log-sum-exp.
    pub(crate) z_loss: f64,
    pub(crate) empty: EmptyReduction,
}

/// Divisor of a sum of losses.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Divisor {
    TotalWeight,
    Number(f64),
}

/// Tensors of an output; tensors with a number per row have the shape `[.., rows]`.
pub struct OutputTensors {
    pub(super) loss: DispatchTensor,
    pub(super) outputs: RowOutputs<Dispatch>,
    pub(super) has_entropy: bool,
    /// Shape of the rows.
    pub(super) rows: Shape,
    pub(super) classes: usize,
    pub(super) row_weights: Option<DispatchTensor>,
    pub(super) divided_by: Divisor,
    pub(super) z_loss: f64,
    pub(super) empty: EmptyReduction,
}

impl<const R: usize> CrossEntropyOutput<R> {
    pub(super) fn new(tensors: OutputTensors) -> Self {
        let OutputTensors {
            loss,
            outputs,
            has_entropy,
            rows,
            classes: count,
            row_weights,
            divided_by,
            z_loss,
            empty,
        } = tensors;
        let RowOutputs::PerRow {
            numbers,
            classes,
            divisors,
        } = outputs
        else {
            unreachable!("the outputs were asked for");
        };
        let number = |at| {
            let window = [part(at), Slice::full()];
            Tensor::<R>::from_dispatch(line(&numbers, &window, &rows))
        };
        let class = |at| Tensor::<R, Int>::from_dispatch(int_line(&classes, at, &rows, &loss));
        let divisor = |at| Tensor::from_dispatch(line(&divisors, &[part(at)], &Shape::new([1])));
        Self {
            lse: number(0),
            log_prob: number(1),
            max_log_prob: number(2),
            entropy: has_entropy.then(|| number(3)),
            predicted: class(0),
            target_rank: class(1),
            target_class: class(2),
            total_weight: divisor(0),
            counted_rows: divisor(1),
            call: CallOfOutput {
                classes: count,
                row_weights: row_weights.map(|weights| {
                    Tensor::from_dispatch(Dispatch::float_reshape(weights, rows.clone()))
                }),
                divided_by,
                z_loss,
                empty,
            },
            loss: Tensor::from_dispatch(loss),
        }
    }

    /// The z-losses' part of `loss`, in its reduction: a tensor of one element without gradient.
    ///
    /// `loss - z_loss` is the cross-entropy: a number to watch the training by ([PaLM](https://arxiv.org/abs/2204.02311),
    /// section 5). It is computed here from `lse`, so that nobody pays for it who does not ask, and may differ from the
    /// part that `loss` has by the rounding of a sum.
    ///
    /// It is `z_loss * lse^2`, times the weight of the row, summed over the counted rows; for `Mean` divided by
    /// [`counted_rows`](Self::counted_rows), for `BatchMean` by the size of the batch. 0 where the configuration has no
    /// [`z_loss`](crate::CrossEntropyLossConfig::z_loss). Where `loss` has the value of
    /// [`empty`](crate::CrossEntropyLossConfig::empty) over no counted row, or the NaN of a target that is not a class,
    /// the z-loss has it too.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex();
    /// let loss = CrossEntropyLossConfig::new().with_z_loss(0.1).init(&device);
    /// let logits = Tensor::<2>::from_floats([[1.0, 4.0, 2.0], [3.0, 0.0, 0.0]], &device);
    /// let targets = Tensor::<1, Int>::from_ints([2, -100], &device);
    ///
    /// let output = loss.forward_with_output(logits, targets);
    /// let cross_entropy = output.loss.clone() - output.z_loss();
    /// let expected = output.log_prob.slice(0..1).neg();
    /// assert!((cross_entropy - expected).abs().into_scalar::<f32>() < 1e-6);
    /// ```
    pub fn z_loss(&self) -> Tensor<1> {
        let CallOfOutput {
            row_weights,
            divided_by,
            z_loss,
            empty,
            ..
        } = &self.call;
        if *z_loss == 0.0 {
            return self.total_weight.zeros_like();
        }
        if self.lse.shape().num_elements() == 0 {
            // Over no rows both parts of the loss are what the loss is.
            return self.loss.clone().detach();
        }
        let mut penalties = self.lse.clone() * *z_loss * self.lse.clone();
        if let Some(weights) = row_weights {
            penalties = penalties * weights.clone().cast(self.lse.dtype());
        }
        // The log-probability of a row that does not count is 0, or the NaN of a bad target.
        let penalties = self.log_prob.clone().mask_where(self.counted(), penalties);
        let sum = penalties.sum();
        match divided_by {
            Divisor::Number(number) => sum / *number,
            Divisor::TotalWeight => {
                let nothing = self.counted_rows.clone().equal_scalar(0);
                let nothing = nothing.bool_and(sum.clone().is_nan().bool_not());
                let mean = sum / self.counted_rows.clone();
                mean.mask_fill(nothing, empty.value())
            }
        }
    }

    /// Mask of the rows whose predicted class is the target; false where the row is ignored, and where it has no
    /// distribution.
    pub fn correct(&self) -> Tensor<R, Bool> {
        let first = self.target_rank.clone().equal_scalar(0);
        first.bool_and(self.has_distribution())
    }

    /// Mask of the rows whose log-probability is a number. A row with NaN or plus infinity among its logits has
    /// none, nor has one of nothing but minus infinity.
    pub(crate) fn has_distribution(&self) -> Tensor<R, Bool> {
        self.log_prob.clone().is_nan().bool_not()
    }

    /// Mask of the rows whose target is among the `k` classes of the largest logits; false where the row is
    /// ignored, and where it has no distribution.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex();
    /// let loss = CrossEntropyLossConfig::new().init(&device);
    /// let logits = Tensor::<2>::from_floats([[1.0, 4.0, 2.0], [3.0, 0.0, 0.0]], &device);
    /// let targets = Tensor::<1, Int>::from_ints([2, 2], &device);
    /// let output = loss.forward_with_output(logits, targets);
    /// assert_eq!(output.in_top(2).to_data().iter::<bool>().collect::<Vec<_>>(), [true, false]);
    /// ```
    pub fn in_top(&self, k: usize) -> Tensor<R, Bool> {
        let rank = &self.target_rank;
        let below = i64::try_from(k).unwrap_or(i64::MAX);
        rank.clone()
            .lower_scalar(below.min(i32::MAX.into()))
            .bool_and(self.counted())
            .bool_and(self.has_distribution())
    }

    /// Mean loss of the rows, for every reduction of the loss.
    #[cfg(feature = "train")]
    pub(crate) fn mean(&self) -> Tensor<1> {
        match self.call.divided_by {
            Divisor::TotalWeight => self.loss.clone(),
            Divisor::Number(number) => self.loss.clone() * number / self.total_weight.clone(),
        }
    }

    /// Mask of the counted rows, which are not ignored and whose target is a class.
    pub fn counted(&self) -> Tensor<R, Bool> {
        self.target_rank.clone().greater_equal_scalar(0)
    }
}

/// Slice of the single index `at` of a dimension.
fn part(at: isize) -> Slice {
    Slice::new(at, Some(at + 1), 1)
}

/// Window of numbers in another shape.
fn line(lines: &DispatchTensor, window: &[Slice], shape: &Shape) -> DispatchTensor {
    Dispatch::float_reshape(Dispatch::float_slice(lines.clone(), window), shape.clone())
}

/// One line of classes in the shape of the rows and the default dtype of the loss's device.
fn int_line(
    lines: &DispatchTensor,
    at: isize,
    rows: &Shape,
    loss: &DispatchTensor,
) -> DispatchTensor {
    let window = [part(at), Slice::full()];
    let line = Dispatch::int_reshape(Dispatch::int_slice(lines.clone(), &window), rows.clone());
    let dtype = get_or_init_device_settings::<Dispatch>(&loss.device()).int_dtype;
    DispatchTensor {
        autodiff: loss.autodiff,
        ..cast_int::<Dispatch>(line, dtype)
    }
}
