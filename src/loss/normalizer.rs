//! What a mean divides by: computed apart from the loss, added up over micro-batches and devices, and
//! given to it.

use std::iter::Sum;
use std::ops::Add;

use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::tensor::{DType, Device, Tensor};

use super::checks::{check_int_dtype, device_of};
use super::cross_entropy::{CrossEntropyLoss, RangeCheck, Request, unwrap};
use super::source::LogitsSource;
use super::target::{CrossEntropyTarget, Target, TargetTensor};
use crate::backend::CrossEntropyBackend;
use crate::error::CrossEntropyError;
use crate::operation::{ClassWeights, Forward, RowReduction, row_shape};

/// What the mean over many batches divides the sum of their losses by.
///
/// [`CrossEntropyLoss::normalizer`] makes it of a target, `+` and `sum()` add those of several, and
/// [`CrossEntropyLoss::forward_normalized`] takes it. A `Tensor<1>` of one element is one too, for
/// users who have their own count: both numbers are then that. The numbers are f32, also those of a loss
/// in f64: exact for up to 16.7 million rows without class weights.
///
/// # Accumulation
///
/// A batch that does not fit into memory is split into micro-batches. The mean of their means is not
/// the mean of the batch where they have different numbers of counted rows; the losses over the
/// normalizer of the whole batch add up to it, and so do the gradients:
///
/// ```
/// use burn::optim::{GradientsAccumulator, GradientsParams};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Distribution, Int, Tensor};
/// use burn_cross_entropy::{CrossEntropyLossConfig, Normalizer};
///
/// let device = Device::flex().autodiff();
/// let model = LinearConfig::new(5, 3).init(&device);
/// let loss = CrossEntropyLossConfig::new().init(&device);
/// let micro_batches = [[0, 2, 1], [-100, 1, -100]].map(|targets| {
///     let features = Tensor::<2>::random([3, 5], Distribution::Default, &device);
///     (features, Tensor::<1, Int>::from_ints(targets, &device))
/// });
///
/// // Of the targets alone, before any forward.
/// let normalizer: Normalizer = micro_batches
///     .iter()
///     .map(|(_, targets)| loss.normalizer(targets.clone()))
///     .sum();
/// assert_eq!(normalizer.counted_rows().into_scalar::<f32>(), 4.0);
///
/// let mut accumulator = GradientsAccumulator::new();
/// for (features, targets) in micro_batches {
///     let share = loss.forward_normalized(model.forward(features), targets, normalizer.clone());
///     accumulator.accumulate(&model, GradientsParams::from_grads(share.backward(), &model));
/// }
/// let gradients = accumulator.grads(); // for the optimizer's step
/// # let _ = gradients;
/// ```
///
/// # Several devices
///
/// Each device has a part of the batch. Where the gradients of the devices are added (as by Burn's
/// `ExecutionStrategy::multi`), the normalizer of every device is that of the whole batch, as above.
/// Where they are averaged over `n` devices (as by Burn's distributed data parallel), it is that of
/// the whole batch over `n`. The numbers are tensors without gradient, so that an `all_reduce` can
/// add them up without a wait for the host.
#[derive(Clone, Debug)]
pub struct Normalizer {
    total_weight: Tensor<1>,
    counted_rows: Tensor<1>,
}

impl Normalizer {
    /// A normalizer of two numbers, tensors of one element each: what the losses are divided by, and what the
    /// z-losses are divided by.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use burn_cross_entropy::Normalizer;
    ///
    /// let device = Device::flex();
    /// let number = |number: f32| Tensor::<1>::from_floats([number], &device);
    /// let normalizer = Normalizer::new(number(12.5), number(20.0));
    /// assert_eq!(normalizer.total_weight().into_scalar::<f32>(), 12.5);
    /// ```
    pub fn new(total_weight: Tensor<1>, counted_rows: Tensor<1>) -> Self {
        let [total_weight, counted_rows] =
            [total_weight, counted_rows].map(|number| in_f32(number.without_autodiff()));
        Self {
            total_weight,
            counted_rows,
        }
    }

    /// What the losses are divided by: for indices the sum of the class weights of the targets that
    /// are not ignored, for distributions the number of rows.
    pub fn total_weight(&self) -> Tensor<1> {
        self.total_weight.clone()
    }

    /// What the z-losses are divided by: the number of rows that are not ignored.
    pub fn counted_rows(&self) -> Tensor<1> {
        self.counted_rows.clone()
    }

    /// Both numbers as one tensor, beside the logits.
    pub(super) fn on(self, device: &Device) -> Result<DispatchTensor, CrossEntropyError> {
        let Self {
            total_weight,
            counted_rows,
        } = self;
        let device = device.clone().without_autodiff();
        let numbers = [total_weight, counted_rows].map(|number| match number.dims() {
            [1] => Ok(number.to_device(&device)),
            [elements] => Err(CrossEntropyError::NormalizerShape { elements }),
        });
        let [total_weight, counted_rows] = numbers;
        let numbers = vec![total_weight?, counted_rows?];
        Ok(Tensor::cat(numbers, 0).into_dispatch())
    }
}

/// So that any two fit each other.
fn in_f32(number: Tensor<1>) -> Tensor<1> {
    if number.dtype() == DType::F32 {
        number
    } else {
        number.cast(DType::F32)
    }
}

impl From<Tensor<1>> for Normalizer {
    fn from(number: Tensor<1>) -> Self {
        Self::new(number.clone(), number)
    }
}

impl Add for Normalizer {
    type Output = Self;

    /// The normalizer of the rows of both. The result is on the device of the first.
    fn add(self, other: Self) -> Self {
        let device = self.total_weight.device();
        Self {
            total_weight: self.total_weight + other.total_weight.to_device(&device),
            counted_rows: self.counted_rows + other.counted_rows.to_device(&device),
        }
    }
}

impl Sum for Normalizer {
    /// # Panics
    ///
    /// If there are none: nothing tells the device.
    fn sum<I: Iterator<Item = Self>>(normalizers: I) -> Self {
        normalizers
            .reduce(Add::add)
            .expect("the sum of no normalizers is on no device: give at least one")
    }
}

impl<B: CrossEntropyBackend> CrossEntropyLoss<B> {
    /// The sum of the losses over a normalizer, a tensor of one element: this batch's share of the
    /// mean over many, see [`Normalizer`]. `reduction` has no part in it; with a normalizer of 0 the
    /// loss is what `empty` says, and the gradient 0.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex();
    /// let loss = CrossEntropyLossConfig::new().init(&device);
    /// let logits = Tensor::<2>::from_floats([[1.0, 2.0], [0.0, 3.0], [4.0, 4.0]], &device);
    /// let targets = Tensor::<1, Int>::from_ints([0, 1, 0], &device);
    ///
    /// let mean = loss.forward(logits.clone(), targets.clone()).into_scalar::<f32>();
    /// let normalizer = loss.normalizer(targets.clone());
    /// let [first, second] = [0..2, 2..3].map(|rows| {
    ///     let logits = logits.clone().slice([rows.clone()]);
    ///     let targets = targets.clone().slice([rows]);
    ///     let share = loss.forward_normalized(logits, targets, normalizer.clone());
    ///     share.into_scalar::<f32>()
    /// });
    /// assert!((first + second - mean).abs() < 1e-6);
    /// ```
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward), and if the normalizer is not of one element.
    pub fn forward_normalized<const D: usize>(
        &self,
        logits: Tensor<D>,
        target: impl CrossEntropyTarget<D>,
        normalizer: impl Into<Normalizer>,
    ) -> Tensor<1> {
        unwrap(self.normalized(
            logits.into_dispatch(),
            target,
            normalizer.into(),
            RangeCheck::WhereFree,
        ))
    }

    /// [`forward_normalized`](Self::forward_normalized) that returns what is wrong, see
    /// [`try_forward`](Self::try_forward).
    ///
    /// # Errors
    ///
    /// A [`CrossEntropyError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_normalized<const D: usize>(
        &self,
        logits: Tensor<D>,
        target: impl CrossEntropyTarget<D>,
        normalizer: impl Into<Normalizer>,
    ) -> Result<Tensor<1>, CrossEntropyError> {
        self.normalized(
            logits.into_dispatch(),
            target,
            normalizer.into(),
            RangeCheck::Always,
        )
    }

    /// What `Mean` divides by over these targets, see [`Normalizer`]. Nothing waits for the device. (On
    /// a GPU a target that is no class counts too, unless it is negative or there are class weights:
    /// nothing else tells how many classes there are.)
    ///
    /// # Panics
    ///
    /// As [`total_weight`](Self::total_weight).
    pub fn normalizer(&self, target: impl TargetTensor) -> Normalizer {
        let target = target.into_target();
        let total_weight = unwrap(self.weigh(target.clone(), self.weight.as_ref()));
        let counted_rows = match &self.weight {
            None => total_weight.clone(),
            Some(_) => unwrap(self.weigh(target, None)),
        };
        Normalizer {
            total_weight,
            counted_rows,
        }
    }

    /// The denominator of `Mean`, a tensor of one element in f32 without gradient: for indices the
    /// sum of the class weights of the targets that are not ignored (their number without class
    /// weights), for distributions the number of rows.
    ///
    /// For losses that are accumulated over micro-batches or devices there is
    /// [`normalizer`](Self::normalizer).
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex();
    /// let loss = CrossEntropyLossConfig::new()
    ///     .with_weight(Some(vec![1.0, 0.5, 4.0]))
    ///     .init(&device);
    /// let targets = Tensor::<1, Int>::from_ints([2, 1, -100], &device);
    /// assert_eq!(loss.total_weight(targets).into_scalar::<f32>(), 4.5);
    /// ```
    ///
    /// # Panics
    ///
    /// With the text of a [`CrossEntropyError`] if the class dimension does not exist in the
    /// distributions, if the class weights do not fit their classes or, on the CPU backends, if an
    /// index has no class weight.
    pub fn total_weight(&self, target: impl TargetTensor) -> Tensor<1> {
        unwrap(self.weigh(target.into_target(), self.weight.as_ref()))
    }

    /// The sum of the weights, or where there are none the number, of the rows that count.
    pub(super) fn weigh(
        &self,
        target: Target,
        weight: Option<&Tensor<1>>,
    ) -> Result<Tensor<1>, CrossEntropyError> {
        let indices = match target {
            Target::Indices(indices) => indices,
            Target::Distributions(targets) => {
                let shape = targets.shape();
                let class_dim = self.class_dim(&shape)?;
                self.check_weight_length(&shape, class_dim)?;
                let rows = row_shape(&shape, class_dim).num_elements();
                let device = device_of(&targets).without_autodiff();
                return Ok(Tensor::full([1], rows as f32, (&device, DType::F32)));
            }
        };
        let device = device_of(&indices);
        check_int_dtype(indices.dtype(), &device)?;
        // Without class weights nothing tells how many classes there are, only that they are
        // counted from 0.
        let classes = self
            .weight
            .as_ref()
            .map_or(i64::MAX as usize, |weight| weight.dims()[0]);
        self.check_range(&indices, classes, RangeCheck::WhereFree)?;
        let weights = match weight {
            None => ClassWeights::Equal,
            Some(_) => self.weights_on(&device),
        };
        let ignored = &self.settings.ignore_indices;
        let total = crate::reference::total_weight::<Dispatch>(indices, weights, ignored);
        Ok(Tensor::from_dispatch(total))
    }

    pub(super) fn normalized<const D: usize>(
        &self,
        logits: impl LogitsSource,
        target: impl CrossEntropyTarget<D>,
        normalizer: Normalizer,
        check: RangeCheck,
    ) -> Result<Tensor<1>, CrossEntropyError> {
        let request = Request {
            normalizer: Some(normalizer),
            check,
            ..Request::new(RowReduction::Normalized)
        };
        let Forward { loss, .. } = self.compute(logits, target.into_target(), request)?;
        Ok(Tensor::from_dispatch(loss))
    }
}
