//! What a forward knows besides the loss.

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{Bool, Int, Shape, Slice, Tensor};

use super::cross_entropy::{CrossEntropyLoss, RangeCheck, Request, Settings, unwrap};
use super::source::LogitsSource;
use super::target::sealed::FromRows;
use super::target::{CrossEntropyTarget, LogitsRank, RowClasses, RowLosses};
use crate::backend::CrossEntropyBackend;
use crate::error::CrossEntropyError;
use crate::operation::{Details, DetailsOf, Forward, RowReduction, row_shape};
use crate::reference::cast_int;

/// The loss, and what the same pass over the logits knows of every row.
///
/// [`CrossEntropyLoss::forward_with_output`] makes it. Gradients flow through `loss` alone; the other
/// tensors are constants, and nothing waits for the device. With the feature `train` it is what a
/// `TrainStep` and the metrics of `burn-train` take, as it is. (Of distributions on a GPU, the largest
/// class takes one more read of them.)
///
/// | | ignored row | row whose target is no class (on a GPU) |
/// |---|---|---|
/// | `lse`, `predicted`, `entropy` | as of any row | as of any row |
/// | `log_prob` | 0 | NaN |
/// | `target_rank` | -1 | -1 |
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_cross_entropy::CrossEntropyLossConfig;
///
/// let device = Device::flex();
/// let loss = CrossEntropyLossConfig::new().init(&device);
/// let logits = Tensor::<2>::from_floats([[1.0, 4.0, 2.0], [3.0, 0.0, 0.0], [0.0, 0.0, 9.0]], &device);
/// let targets = Tensor::<1, Int>::from_ints([2, 0, -100], &device);
///
/// let output = loss.forward_with_output(logits, targets);
/// assert_eq!(output.predicted.to_data().iter::<i32>().collect::<Vec<_>>(), [1, 0, 2]);
/// assert_eq!(output.target_rank.to_data().iter::<i32>().collect::<Vec<_>>(), [1, 0, -1]);
/// assert_eq!(output.correct().to_data().iter::<bool>().collect::<Vec<_>>(), [false, true, false]);
/// assert_eq!(output.total_weight.clone().into_scalar::<f32>(), 2.0);
///
/// // Without class weights and smoothing the loss is minus the mean of the log-probabilities.
/// let mean = output.log_prob.sum().neg() / output.counted_rows;
/// assert!((mean.into_scalar::<f32>() - output.loss.into_scalar::<f32>()).abs() < 1e-6);
/// ```
#[derive(Clone, Debug)]
pub struct CrossEntropyOutput<const D: usize>
where
    Tensor<D>: LogitsRank,
{
    /// The reduced loss, a tensor of one element.
    pub loss: Tensor<1>,
    /// The log-sum-exp of each row's logits, after scale and softcap; 0 of probabilities.
    pub lse: RowLosses<D>,
    /// The log-probability of each row's target, of a distribution `p` the sum of `p[c] ln q[c]`.
    /// Class weights, label smoothing and z-loss have no part in it.
    pub log_prob: RowLosses<D>,
    /// The class of each row's largest logit, of several the first; NaN is below all numbers.
    pub predicted: RowClasses<D>,
    /// How many classes stand before the target's: those with a larger logit, and those of the same
    /// logit that come earlier. The target is among the top `k` where it is below `k`. The target of
    /// a distribution is its largest class.
    pub target_rank: RowClasses<D>,
    /// The denominator of `Mean`, see [`CrossEntropyLoss::total_weight`].
    pub total_weight: Tensor<1>,
    /// The number of rows that count, see [`counted`](Self::counted).
    pub counted_rows: Tensor<1>,
    /// The entropy of each row's probabilities in nats, if
    /// [`forward_with_entropy`](CrossEntropyLoss::forward_with_entropy) was asked.
    pub entropy: Option<RowLosses<D>>,
    /// What the sum of the losses was divided by.
    #[cfg_attr(not(feature = "train"), allow(dead_code))]
    pub(crate) divided_by: Divisor,
}

/// What a sum of losses was divided by.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "train"), allow(dead_code))]
pub(crate) enum Divisor {
    TotalWeight,
    Number(f64),
}

impl<const D: usize, const R: usize> CrossEntropyOutput<D>
where
    Tensor<D>: LogitsRank<RowLosses = Tensor<R>, RowClasses = Tensor<R, Int>>,
{
    /// Where the predicted class is the target; false where the row is ignored.
    pub fn correct(&self) -> Tensor<R, Bool> {
        self.target_rank.clone().equal_scalar(0)
    }

    /// Where the target is among the `k` classes of the largest logits; false where the row is
    /// ignored.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex();
    /// let loss = CrossEntropyLossConfig::new().init(&device);
    /// let logits = Tensor::<2>::from_floats([[1.0, 4.0, 2.0], [3.0, 0.0, 0.0]], &device);
    /// let output = loss.forward_with_output(logits, Tensor::<1, Int>::from_ints([2, 2], &device));
    /// assert_eq!(output.in_top(2).to_data().iter::<bool>().collect::<Vec<_>>(), [true, false]);
    /// ```
    pub fn in_top(&self, k: usize) -> Tensor<R, Bool> {
        let rank = &self.target_rank;
        let below = i64::try_from(k).unwrap_or(i64::MAX);
        rank.clone()
            .lower_scalar(below.min(i32::MAX.into()))
            .bool_and(self.counted())
    }

    /// The mean loss of the rows, whatever the loss was reduced by.
    #[cfg(feature = "train")]
    pub(crate) fn mean(&self) -> Tensor<1> {
        match self.divided_by {
            Divisor::TotalWeight => self.loss.clone(),
            Divisor::Number(number) => self.loss.clone() * number / self.total_weight.clone(),
        }
    }

    /// Where the row counts: it is not ignored, and its target is a class.
    pub fn counted(&self) -> Tensor<R, Bool> {
        self.target_rank.clone().greater_equal_scalar(0)
    }
}

impl<B: CrossEntropyBackend> CrossEntropyLoss<B> {
    /// The reduced loss, and from the same pass over the logits what [`CrossEntropyOutput`] has
    /// besides it, but for the entropy.
    ///
    /// Gradients flow through the loss alone. For gradients of log-probabilities there is
    /// [`log_prob`](Self::log_prob).
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_with_output<const D: usize>(
        &self,
        logits: Tensor<D>,
        target: impl CrossEntropyTarget<D>,
    ) -> CrossEntropyOutput<D>
    where
        Tensor<D>: LogitsRank,
    {
        let request = (DetailsOf::Target, RangeCheck::WhereFree);
        unwrap(self.output(logits.into_dispatch(), target, request))
    }

    /// [`forward_with_output`](Self::forward_with_output) with the entropy of every row, which takes
    /// two exponentials more for each logit (one on a GPU).
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex();
    /// let loss = CrossEntropyLossConfig::new().init(&device);
    /// let logits = Tensor::<2>::zeros([1, 8], &device);
    /// let output = loss.forward_with_entropy(logits, Tensor::<1, Int>::zeros([1], &device));
    /// let entropy = output.entropy.unwrap().into_scalar::<f32>();
    /// assert!((entropy - 8f32.ln()).abs() < 1e-6);
    /// ```
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_with_entropy<const D: usize>(
        &self,
        logits: Tensor<D>,
        target: impl CrossEntropyTarget<D>,
    ) -> CrossEntropyOutput<D>
    where
        Tensor<D>: LogitsRank,
    {
        let request = (DetailsOf::TargetAndEntropy, RangeCheck::WhereFree);
        unwrap(self.output(logits.into_dispatch(), target, request))
    }

    /// [`forward_with_output`](Self::forward_with_output) that returns what is wrong, see
    /// [`try_forward`](Self::try_forward).
    ///
    /// # Errors
    ///
    /// A [`CrossEntropyError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_with_output<const D: usize>(
        &self,
        logits: Tensor<D>,
        target: impl CrossEntropyTarget<D>,
    ) -> Result<CrossEntropyOutput<D>, CrossEntropyError>
    where
        Tensor<D>: LogitsRank,
    {
        self.output(
            logits.into_dispatch(),
            target,
            (DetailsOf::Target, RangeCheck::Always),
        )
    }

    /// [`forward_with_entropy`](Self::forward_with_entropy) that returns what is wrong, see
    /// [`try_forward`](Self::try_forward).
    ///
    /// # Errors
    ///
    /// A [`CrossEntropyError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_with_entropy<const D: usize>(
        &self,
        logits: Tensor<D>,
        target: impl CrossEntropyTarget<D>,
    ) -> Result<CrossEntropyOutput<D>, CrossEntropyError>
    where
        Tensor<D>: LogitsRank,
    {
        let request = (DetailsOf::TargetAndEntropy, RangeCheck::Always);
        self.output(logits.into_dispatch(), target, request)
    }

    /// The log-probability of each row's target, with gradients: `x[y] - lse`, for a distribution
    /// `p` the sum of `p[c] (x[c] - lse)`. An ignored row has 0. Of the configuration, `ignore_indices`,
    /// `class_dim`, `logits`, `logit_scale` and `logit_softcap` have a part in it, class weights,
    /// label smoothing, z-loss and `reduction` have none.
    ///
    /// For objectives that are made of log-probabilities, as those of reinforcement learning. One
    /// pass over the logits, as [`forward_no_reduction`](Self::forward_no_reduction).
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex().autodiff();
    /// let policy = CrossEntropyLossConfig::new().with_logit_scale(1.0 / 0.7).init(&device);
    /// let logits = Tensor::<2>::from_floats([[1.0, 2.0], [0.0, 3.0]], &device).require_grad();
    /// let actions = Tensor::<1, Int>::from_ints([1, 0], &device);
    /// let advantages = Tensor::<1>::from_floats([0.5, -2.0], &device);
    ///
    /// let objective = -(policy.log_prob(logits.clone(), actions) * advantages).mean();
    /// let gradient = logits.grad(&objective.backward()).unwrap();
    /// assert_eq!(gradient.dims(), [2, 2]);
    /// ```
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn log_prob<const D: usize>(
        &self,
        logits: Tensor<D>,
        target: impl CrossEntropyTarget<D>,
    ) -> RowLosses<D>
    where
        Tensor<D>: LogitsRank,
    {
        unwrap(self.log_probabilities(logits.into_dispatch(), target, RangeCheck::WhereFree))
    }

    /// [`log_prob`](Self::log_prob) that returns what is wrong, see
    /// [`try_forward`](Self::try_forward).
    ///
    /// # Errors
    ///
    /// A [`CrossEntropyError`] that says what was given, what was expected, and what to do.
    pub fn try_log_prob<const D: usize>(
        &self,
        logits: Tensor<D>,
        target: impl CrossEntropyTarget<D>,
    ) -> Result<RowLosses<D>, CrossEntropyError>
    where
        Tensor<D>: LogitsRank,
    {
        self.log_probabilities(logits.into_dispatch(), target, RangeCheck::Always)
    }

    pub(super) fn log_probabilities<const D: usize>(
        &self,
        logits: impl LogitsSource,
        target: impl CrossEntropyTarget<D>,
        check: RangeCheck,
    ) -> Result<RowLosses<D>, CrossEntropyError>
    where
        Tensor<D>: LogitsRank,
    {
        let settings = Settings {
            label_smoothing: 0.0,
            z_loss: 0.0,
            ..self.settings.clone()
        };
        let losses = Self::from_parts(None, settings).row_losses(logits, target, check)?;
        Ok(<Tensor<D> as FromRows>::from_rows(Dispatch::float_neg(
            losses,
        )))
    }

    pub(crate) fn output<const D: usize>(
        &self,
        logits: impl LogitsSource,
        target: impl CrossEntropyTarget<D>,
        (details, check): (DetailsOf, RangeCheck),
    ) -> Result<CrossEntropyOutput<D>, CrossEntropyError>
    where
        Tensor<D>: LogitsRank,
    {
        let shape = logits.logits_shape();
        let rows = row_shape(&shape, self.class_dim(&shape)?);
        let reduction = self.reduction(&shape)?;
        let request = Request {
            details,
            check,
            ..Request::new(reduction)
        };
        let forward = self.compute(logits, target.into_target(), request)?;
        let Forward {
            loss,
            details:
                Details::PerRow {
                    numbers,
                    classes,
                    totals,
                },
            ..
        } = forward
        else {
            unreachable!("the details were asked for");
        };
        let number = |at| {
            let window = [part(at), Slice::full()];
            <Tensor<D> as FromRows>::from_rows(line(&numbers, &window, &rows))
        };
        let class = |at| {
            let classes = int_line(&classes, at, &rows, &loss);
            <Tensor<D> as FromRows>::classes_from_rows(classes)
        };
        let total = |at| Tensor::from_dispatch(line(&totals, &[part(at)], &Shape::new([1])));
        Ok(CrossEntropyOutput {
            lse: number(0),
            log_prob: number(1),
            entropy: (details == DetailsOf::TargetAndEntropy).then(|| number(2)),
            predicted: class(0),
            target_rank: class(1),
            total_weight: total(0),
            counted_rows: total(1),
            divided_by: match reduction {
                RowReduction::BatchMean(samples) => Divisor::Number(samples as f64),
                RowReduction::Sum => Divisor::Number(1.0),
                _ => Divisor::TotalWeight,
            },
            loss: Tensor::from_dispatch(loss),
        })
    }
}

/// The one index `at` of a dimension.
fn part(at: isize) -> Slice {
    Slice::new(at, Some(at + 1), 1)
}

/// A window of numbers in another shape.
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
