//! The loss itself: from the user's tensors to one call of the operation, with every check on the
//! way.

use std::marker::PhantomData;
use std::sync::Arc;

use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay};
use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Shape, Tensor};

use super::checks::{
    check_float_dtype, check_int_dtype, check_same_checkpointing, check_same_device,
    check_target_shape, device_of,
};
use super::config::CrossEntropyLossConfig;
use super::normalizer::Normalizer;
use super::source::LogitsSource;
use super::target::sealed::FromRows;
use super::target::{CrossEntropyTarget, LogitsRank, RowLosses, Target};
use crate::backend::CrossEntropyBackend;
use crate::backend::routing::{self, HostCheck};
use crate::error::CrossEntropyError;
use crate::operation::{
    ClassWeights, Denominators, DetailsOf, EmptyReduction, Forward, GradientsOf, InputValues,
    Inputs, Options, RowReduction, Targets,
};

/// The cross-entropy between logits and targets.
///
/// With `x` the logits of a row after `logit_scale` and `logit_softcap`, `lse` their log-sum-exp,
/// `w` the class weights, `e` the label smoothing, `C` the number of classes, the loss of a row is
///
/// ```text
/// index y:         (1-e) w[y] (lse - x[y]) + (e/C) sum_c w[c] (lse - x[c])  + z_loss lse^2
/// distribution p:  sum_c w[c] q[c] (lse - x[c]),   q = (1-e) p + e/C        + z_loss lse^2
/// ```
///
/// which are the definitions of PyTorch's `cross_entropy` where it has the option. The rows of `p`
/// need not sum to 1. With `logits = false` the input holds probabilities `s`, and `lse - x[c]`
/// becomes `-ln s[c]`.
///
/// # Shapes
///
/// Logits of rank 1 to 8 with the classes in [`class_dim`](CrossEntropyLossConfig::class_dim),
/// contiguous or not; targets as in [`CrossEntropyTarget`]. Every position of the other dimensions
/// is a row.
///
/// # Dtypes
///
/// Logits of f64, f32, f16 and bf16 where the backend has them. The arithmetic and the result are
/// f64 for f64, else f32; the gradient comes in the dtype of the logits.
///
/// # Edge cases
///
/// - An ignored row adds 0 and gets a gradient of exactly 0, whatever its logits hold.
/// - `0 * inf` is 0: a class at `-inf` that has no share of the target adds nothing. A target on
///   `-inf` gives `+inf`.
/// - The mean over no counted row is [`EmptyReduction`]; the gradient is 0.
/// - A row whose logits hold NaN or `+inf`, or nothing but `-inf`, has a loss of NaN.
/// - Confident rows keep their relative accuracy: logits `[20, 0, 0]` with target 0 give
///   4.12230738e-9.
/// - A target that is no class and not ignored: on the CPU backends Flex and NdArray an error; on
///   the others, which are not waited for, a loss and a gradient of NaN for that row, which adds
///   nothing to the denominator of the mean. [`try_forward`](Self::try_forward) waits and checks on
///   every backend.
/// - No rows at all are an empty mean, and a sum of 0.
///
/// # Speed and memory
///
/// On Flex and NdArray every option takes the same fused path: the logits are read once, and where a
/// gradient is wanted, it is made in the same pass and written over the logits if nothing else holds
/// their buffer (as when they come straight out of a layer), else into one new tensor. The backward
/// multiplies it by the upstream gradient, if that is not 1. (For f16 the gradient is made in the
/// backward, after the loss has been scaled, so that it does not fall below the smallest f16. That of
/// bf16 is rounded a second time where the upstream gradient is no power of 2.)
/// Without a gradient nothing of the size of the logits is allocated, unless they are a few rows of
/// classes that do not lie together: 64 such rows are computed at a time.
///
/// All positions of [`class_dim`](CrossEntropyLossConfig::class_dim) are served without a copy.
/// Logits and distributions in another order of memory than that of their dimensions (transposed,
/// flipped or expanded views, windows of other dimensions than the first) are copied into it first.
///
/// The result does not depend on the number of threads.
///
/// # Backends
///
/// `CrossEntropyLoss` without a parameter takes the tensors of every backend; switching backends is
/// a change of [`Device`]. `CrossEntropyLoss<Autodiff<Flex>>` and the like bind one at compile time,
/// see [`CrossEntropyLossConfig::init_for`]. It takes tensors with and without autodiff, so that it
/// serves validation too; `CrossEntropyLoss<Flex>` refuses tensors with autodiff.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_cross_entropy::CrossEntropyLossConfig;
///
/// let device = Device::flex().autodiff();
/// let scores = [[0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.35, 0.15], [0.28, 0.32, 0.2, 0.3]];
/// let logits = Tensor::<2>::from_floats(scores, &device).require_grad();
/// let targets = Tensor::<1, Int>::from_ints([3, 2, 1], &device);
///
/// let loss = CrossEntropyLossConfig::new().init(&device);
/// let value = loss.forward(logits.clone(), targets);
/// assert!((value.clone().into_scalar::<f32>() - 1.2914).abs() < 1e-4);
///
/// let gradient = logits.grad(&value.backward()).unwrap();
/// assert_eq!(gradient.dims(), [3, 4]);
/// ```
///
/// Source: PyTorch,
/// <https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html>.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct CrossEntropyLoss<B: CrossEntropyBackend = Dispatch> {
    pub(super) weight: Option<Tensor<1>>,
    #[module(skip)]
    pub(super) settings: Settings,
    #[module(skip)]
    backend: PhantomData<fn() -> B>,
}

/// The options of a configuration in the form that a call needs.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(super) ignore_indices: Arc<[i64]>,
    pub(super) label_smoothing: f32,
    pub(super) reduction: Reduction,
    pub(super) values: InputValues,
    pub(super) class_dim: isize,
    pub(super) z_loss: f32,
    pub(super) empty: EmptyReduction,
}

impl Settings {
    pub(crate) fn new(config: &CrossEntropyLossConfig) -> Self {
        Self {
            ignore_indices: config.ignore_indices.as_slice().into(),
            label_smoothing: config.label_smoothing,
            reduction: config.reduction.clone(),
            values: if config.logits {
                InputValues::Logits {
                    scale: config.logit_scale.into(),
                    softcap: config.logit_softcap.map(f64::from),
                }
            } else {
                InputValues::Probabilities
            },
            class_dim: config.class_dim,
            z_loss: config.z_loss,
            empty: config.empty,
        }
    }
}

impl<B: CrossEntropyBackend> ModuleDisplay for CrossEntropyLoss<B> {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new()
            .with_new_line_after_attribute(false)
            .optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let settings = &self.settings;
        content
            .add("weight", &self.weight)
            .add("ignore_indices", &format!("{:?}", settings.ignore_indices))
            .add("label_smoothing", &settings.label_smoothing)
            .add("reduction", &format!("{:?}", settings.reduction))
            .add("values", &format!("{:?}", settings.values))
            .add("class_dim", &(settings.class_dim as i64))
            .add("z_loss", &settings.z_loss)
            .add("empty", &format!("{:?}", settings.empty))
            .optional()
    }
}

/// The mean cross-entropy with the defaults of [`CrossEntropyLossConfig`].
///
/// The classes are in dimension 1 (0 for logits of rank 1), the target -100 is ignored.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_cross_entropy::cross_entropy;
///
/// let device = Device::flex();
/// let logits = Tensor::<2>::from_floats([[0.0, 0.0], [5.0, 0.0]], &device);
/// let targets = Tensor::<1, Int>::from_ints([1, -100], &device);
/// let loss = cross_entropy(logits, targets).into_scalar::<f32>();
/// assert!((loss - 2f32.ln()).abs() < 1e-6);
/// ```
///
/// # Panics
///
/// With the text of a [`CrossEntropyError`] if the tensors do not fit each other.
pub fn cross_entropy<const D: usize>(
    logits: Tensor<D>,
    target: impl CrossEntropyTarget<D>,
) -> Tensor<1> {
    let settings = Settings::new(&CrossEntropyLossConfig::new());
    CrossEntropyLoss::<Dispatch>::from_parts(None, settings).forward(logits, target)
}

/// What is wanted of a call.
pub(super) struct Request {
    pub(super) reduction: RowReduction,
    pub(super) details: DetailsOf,
    pub(super) normalizer: Option<Normalizer>,
    pub(super) check: RangeCheck,
}

impl Request {
    /// The loss alone.
    pub(super) fn new(reduction: RowReduction) -> Self {
        Self {
            reduction,
            details: DetailsOf::Nothing,
            normalizer: None,
            check: RangeCheck::WhereFree,
        }
    }
}

/// When to look at the values of index targets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RangeCheck {
    /// Where they lie in the host's memory.
    WhereFree,
    /// Always, waiting for the device.
    Always,
}

impl<B: CrossEntropyBackend> CrossEntropyLoss<B> {
    pub(crate) fn from_parts(weight: Option<Tensor<1>>, settings: Settings) -> Self {
        Self {
            weight,
            settings,
            backend: PhantomData,
        }
    }

    /// The loss of a configuration without class weights, none of whose values is checked.
    pub(crate) fn without_weights(config: &CrossEntropyLossConfig) -> Self {
        Self::from_parts(None, Settings::new(config))
    }

    /// The reduced loss, a tensor of one element.
    ///
    /// # Panics
    ///
    /// With the text of a [`CrossEntropyError`] if the tensors do not fit each other or the
    /// configuration, or, on the CPU backends, if a target is out of range.
    pub fn forward<const D: usize>(
        &self,
        logits: Tensor<D>,
        target: impl CrossEntropyTarget<D>,
    ) -> Tensor<1> {
        unwrap(self.reduced(logits.into_dispatch(), target, RangeCheck::WhereFree))
    }

    /// The loss of every row: the shape of the logits without the class dimension, for logits of
    /// rank 1 one element. `reduction` and `empty` have no part in it.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex();
    /// let loss = CrossEntropyLossConfig::new().init(&device);
    /// let logits = Tensor::<4>::zeros([2, 3, 4, 5], &device);
    /// let labels = Tensor::<3, Int>::zeros([2, 4, 5], &device);
    /// let rows: Tensor<3> = loss.forward_no_reduction(logits, labels);
    /// assert_eq!(rows.dims(), [2, 4, 5]);
    /// ```
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_no_reduction<const D: usize>(
        &self,
        logits: Tensor<D>,
        target: impl CrossEntropyTarget<D>,
    ) -> RowLosses<D>
    where
        Tensor<D>: LogitsRank,
    {
        unwrap(self.unreduced(logits.into_dispatch(), target, RangeCheck::WhereFree))
    }

    /// [`forward`](Self::forward) that returns what is wrong, and that looks for targets out of
    /// range on every backend, at the price of waiting for the device.
    ///
    /// # Errors
    ///
    /// A [`CrossEntropyError`] that says what was given, what was expected, and what to do.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex();
    /// let loss = CrossEntropyLossConfig::new().init(&device);
    /// let logits = Tensor::<2>::zeros([2, 3], &device);
    /// let targets = Tensor::<1, Int>::from_ints([0, 3], &device);
    /// let error = loss.try_forward(logits, targets).unwrap_err();
    /// assert!(error.to_string().contains("the target of row 1 is 3"));
    /// ```
    pub fn try_forward<const D: usize>(
        &self,
        logits: Tensor<D>,
        target: impl CrossEntropyTarget<D>,
    ) -> Result<Tensor<1>, CrossEntropyError> {
        self.reduced(logits.into_dispatch(), target, RangeCheck::Always)
    }

    /// [`forward_no_reduction`](Self::forward_no_reduction) that returns what is wrong, see
    /// [`try_forward`](Self::try_forward).
    ///
    /// # Errors
    ///
    /// A [`CrossEntropyError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_no_reduction<const D: usize>(
        &self,
        logits: Tensor<D>,
        target: impl CrossEntropyTarget<D>,
    ) -> Result<RowLosses<D>, CrossEntropyError>
    where
        Tensor<D>: LogitsRank,
    {
        self.unreduced(logits.into_dispatch(), target, RangeCheck::Always)
    }

    pub(crate) fn reduced<const D: usize>(
        &self,
        logits: impl LogitsSource,
        target: impl CrossEntropyTarget<D>,
        check: RangeCheck,
    ) -> Result<Tensor<1>, CrossEntropyError> {
        let request = Request {
            check,
            ..Request::new(self.reduction(&logits.logits_shape())?)
        };
        let Forward { loss, .. } = self.compute(logits, target.into_target(), request)?;
        Ok(Tensor::from_dispatch(loss))
    }

    /// The configured reduction over logits of this shape.
    pub(super) fn reduction(&self, logits: &Shape) -> Result<RowReduction, CrossEntropyError> {
        Ok(match self.settings.reduction {
            Reduction::Mean | Reduction::Auto => RowReduction::Mean,
            Reduction::Sum => RowReduction::Sum,
            Reduction::BatchMean => {
                let class_dim = self.class_dim(logits)?;
                let samples = logits
                    .iter()
                    .enumerate()
                    .find(|(dim, _)| *dim != class_dim)
                    .map_or(1, |(_, size)| *size);
                RowReduction::BatchMean(samples)
            }
        })
    }

    pub(super) fn unreduced<const D: usize>(
        &self,
        logits: impl LogitsSource,
        target: impl CrossEntropyTarget<D>,
        check: RangeCheck,
    ) -> Result<RowLosses<D>, CrossEntropyError>
    where
        Tensor<D>: LogitsRank,
    {
        let losses = self.row_losses(logits, target, check)?;
        Ok(<Tensor<D> as FromRows>::from_rows(losses))
    }

    pub(super) fn row_losses<const D: usize>(
        &self,
        logits: impl LogitsSource,
        target: impl CrossEntropyTarget<D>,
        check: RangeCheck,
    ) -> Result<DispatchTensor, CrossEntropyError> {
        let request = Request {
            check,
            ..Request::new(RowReduction::None)
        };
        let Forward { loss, .. } = self.compute(logits, target.into_target(), request)?;
        Ok(loss)
    }

    pub(super) fn compute(
        &self,
        logits: impl LogitsSource,
        target: Target,
        request: Request,
    ) -> Result<Forward<Dispatch>, CrossEntropyError> {
        logits.check()?;
        let shape = logits.logits_shape();
        let class_dim = self.class_dim(&shape)?;
        self.check_weight_length(&shape, class_dim)?;
        check_target_shape(&shape, &target, class_dim)?;
        if shape[class_dim] == 0 {
            return Err(CrossEntropyError::NoClasses {
                logits: shape.to_vec(),
                class_dim,
            });
        }
        let tensor = logits.tensor();
        let device = device_of(tensor);
        check_float_dtype("logits", tensor.dtype(), &device)?;
        let targets = match target {
            Target::Indices(indices) => {
                check_same_checkpointing(&logits.tensors())?;
                self.check_indices(&indices, &device, shape[class_dim], request.check)?;
                Targets::Indices(indices)
            }
            Target::Distributions(targets) => {
                check_same_device(&device, &targets)?;
                let mut tensors = logits.tensors();
                tensors.push(("target distributions", &targets));
                check_same_checkpointing(&tensors)?;
                check_float_dtype("target distributions", targets.dtype(), &device)?;
                Targets::Distributions(targets)
            }
        };
        let inputs = Inputs {
            targets,
            weights: self.weights_on(&device),
            normalizer: denominators(request.normalizer, &device)?,
        };
        let options = self.options(class_dim, request.reduction, request.details);
        logits.cross_entropy::<B>(inputs, options)
    }

    /// The options of a call.
    pub(super) fn options(
        &self,
        class_dim: usize,
        reduction: RowReduction,
        details: DetailsOf,
    ) -> Options {
        Options {
            class_dim,
            ignore_indices: self.settings.ignore_indices.clone(),
            label_smoothing: self.settings.label_smoothing.into(),
            values: self.settings.values,
            z_loss: self.settings.z_loss.into(),
            reduction,
            empty: self.settings.empty,
            gradients_of: GradientsOf::Logits,
            keep: false,
            details,
        }
    }

    /// The checks of index targets for logits on the device.
    pub(super) fn check_indices(
        &self,
        indices: &DispatchTensor,
        device: &Device,
        classes: usize,
        check: RangeCheck,
    ) -> Result<(), CrossEntropyError> {
        check_same_device(device, indices)?;
        check_int_dtype(indices.dtype(), device)?;
        self.check_range(indices, classes, check)
    }

    /// The class dimension in logits of this shape.
    pub(super) fn class_dim(&self, logits: &Shape) -> Result<usize, CrossEntropyError> {
        let rank = logits.num_dims();
        let class_dim = match self.settings.class_dim {
            // The default, which in a single row can only mean its one dimension.
            1 if rank == 1 => 0,
            dim if dim < 0 => dim + rank as isize,
            dim => dim,
        };
        usize::try_from(class_dim)
            .ok()
            .filter(|dim| *dim < rank)
            .ok_or(CrossEntropyError::ClassDimOutOfRange {
                class_dim: self.settings.class_dim,
                rank,
            })
    }

    pub(super) fn check_weight_length(
        &self,
        logits: &Shape,
        class_dim: usize,
    ) -> Result<(), CrossEntropyError> {
        match &self.weight {
            Some(weight) if weight.dims()[0] != logits[class_dim] => {
                Err(CrossEntropyError::WeightLength {
                    weights: weight.dims()[0],
                    classes: logits[class_dim],
                    logits: logits.to_vec(),
                    class_dim,
                })
            }
            _ => Ok(()),
        }
    }

    /// The class weights beside the logits: on their device, outside every graph.
    pub(super) fn weights_on(&self, device: &Device) -> ClassWeights<Dispatch> {
        match &self.weight {
            None => ClassWeights::Equal,
            Some(weight) => {
                let weight = weight.clone().without_autodiff();
                let device = device.clone().without_autodiff();
                let weight = if weight.device() == device {
                    weight
                } else {
                    weight.to_device(&device)
                };
                ClassWeights::PerClass(weight.into_dispatch())
            }
        }
    }

    pub(super) fn check_range(
        &self,
        indices: &DispatchTensor,
        classes: usize,
        check: RangeCheck,
    ) -> Result<(), CrossEntropyError> {
        let ignored = &self.settings.ignore_indices;
        let found = match routing::first_bad_index(indices, classes, ignored) {
            HostCheck::Done(found) => found,
            HostCheck::Elsewhere if check == RangeCheck::WhereFree => return Ok(()),
            HostCheck::Elsewhere => first_bad_on_device(indices, classes, ignored),
        };
        match found {
            None => Ok(()),
            Some((row, value)) => Err(CrossEntropyError::TargetOutOfRange {
                row,
                value,
                classes,
                ignore_indices: ignored.to_vec(),
            }),
        }
    }
}

/// What sums are divided by, beside the logits.
pub(super) fn denominators(
    normalizer: Option<Normalizer>,
    device: &Device,
) -> Result<Denominators<Dispatch>, CrossEntropyError> {
    Ok(match normalizer {
        None => Denominators::OfRows,
        Some(normalizer) => Denominators::Given(normalizer.on(device)?),
    })
}

/// The first index target that is neither a class nor ignored: its row and its value. Waits.
fn first_bad_on_device(
    indices: &DispatchTensor,
    classes: usize,
    ignored: &[i64],
) -> Option<(usize, i128)> {
    let is_bad = |value: i128| {
        !(0..classes as i128).contains(&value)
            && !ignored.iter().any(|ignored| i128::from(*ignored) == value)
    };
    let rows = indices.shape().num_elements();
    let flat = Tensor::<1, Int>::from_dispatch(routing::flatten_indices(indices.clone(), rows));
    let data = flat.into_data();
    let values: Box<dyn Iterator<Item = i128>> = if data.dtype() == DType::U64 {
        Box::new(data.iter::<u64>().map(i128::from))
    } else {
        Box::new(data.iter::<i64>().map(i128::from))
    };
    values.enumerate().find(|(_, value)| is_bad(*value))
}

pub(super) fn unwrap<T>(result: Result<T, CrossEntropyError>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
