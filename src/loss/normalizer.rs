//! Divisors of a mean, which are computed apart from the loss, added up over micro-batches and devices, and
//! given to the loss.

use std::iter::Sum;
use std::ops::Add;

use burn::backend::DispatchTensor;
use burn::tensor::{DType, Device, Tensor};

use crate::error::CrossEntropyError;

/// Divisors of the mean over many batches: of the sum of the losses, and of the sum of the z-losses.
///
/// [`CrossEntropyLoss::normalizer`](crate::CrossEntropyLoss::normalizer) makes a normalizer of a target, `+`
/// and `sum()` add several, and
/// [`CrossEntropyLoss::forward_normalized`](crate::CrossEntropyLoss::forward_normalized) takes one. A
/// one-element `Tensor<1>` converts into a normalizer that uses it for both numbers. The numbers are f32,
/// also for a loss in f64: exact for up to 16.7 million rows without class weights.
///
/// # Accumulation
///
/// A batch that does not fit into memory is split into micro-batches. If these have different numbers of
/// counted rows, the mean of the micro-batches' means is not the mean of the batch. Losses that are divided
/// by the normalizer of the whole batch add up to the mean of the batch, and so do the gradients:
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
///     let logits = model.forward(features);
///     let share = loss.forward_normalized(logits, targets, normalizer.clone());
///     accumulator.accumulate(&model, GradientsParams::from_grads(share.backward(), &model));
/// }
/// let gradients = accumulator.grads(); // for the optimizer's step
/// # let _ = gradients;
/// ```
///
/// # Several devices
///
/// Each device has a part of the batch. Where the gradients of the devices are added (as by Burn's
/// `ExecutionStrategy::multi`), every device takes the normalizer of the whole batch, as above. Where
/// they are averaged over `n` devices (as by Burn's distributed data parallel), every device takes its
/// `n`-th part. The numbers are tensors without gradient, so that an `all_reduce` can add them up
/// without a wait for the host.
#[derive(Clone, Debug)]
pub struct Normalizer {
    total_weight: Tensor<1>,
    counted_rows: Tensor<1>,
}

impl Normalizer {
    /// Makes a normalizer of two numbers, tensors of one element each: the divisor of the losses, and the
    /// divisor of the z-losses.
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

    /// Divisor of the losses: for indices the sum of the class weights of the targets that
    /// are not ignored, for distributions the number of rows.
    pub fn total_weight(&self) -> Tensor<1> {
        self.total_weight.clone()
    }

    /// Divisor of the z-losses: the number of rows that are not ignored.
    pub fn counted_rows(&self) -> Tensor<1> {
        self.counted_rows.clone()
    }

    /// Both numbers as one tensor on the device of the logits.
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

/// Casts a number to f32, so that numbers of different losses can be added.
fn in_f32(number: Tensor<1>) -> Tensor<1> {
    if number.dtype() == DType::F32 {
        number
    } else {
        number.cast(DType::F32)
    }
}

impl From<Tensor<1>> for Normalizer {
    /// Takes one number for both divisors.
    fn from(number: Tensor<1>) -> Self {
        Self::new(number.clone(), number)
    }
}

impl Add for Normalizer {
    type Output = Self;

    /// Normalizer of the rows of both, on the device of the first.
    fn add(self, other: Self) -> Self {
        let device = self.total_weight.device();
        Self {
            total_weight: self.total_weight + other.total_weight.to_device(&device),
            counted_rows: self.counted_rows + other.counted_rows.to_device(&device),
        }
    }
}

impl Sum for Normalizer {
    /// Adds all normalizers, on the device of the first.
    ///
    /// # Panics
    ///
    /// If there are no normalizers, because then the device is unknown.
    fn sum<I: Iterator<Item = Self>>(normalizers: I) -> Self {
        normalizers
            .reduce(Add::add)
            .expect("the sum of no normalizers is on no device: give at least one")
    }
}

impl Normalizer {
    /// Normalizer of a target, from the divisors that the loss has computed.
    pub(super) fn of_target(total_weight: Tensor<1>, counted_rows: Tensor<1>) -> Self {
        Self {
            total_weight,
            counted_rows,
        }
    }
}
