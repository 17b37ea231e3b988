//! Loss module: checks the user's tensors and makes one call of the operation from them.

use std::marker::PhantomData;

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay};
use burn::nn::loss::Reduction;
use burn::tensor::{Device, Shape, Tensor};

use super::checks::{
    RangeCheck, check_float_dtype, check_int_dtype, check_range, check_same_checkpointing,
    check_same_device, check_target_shape, device_of, of_entries, unwrap,
};
use super::config::{CrossEntropyLossConfig, Settings};
use super::logits::GivenLogits;
use super::normalizer::Normalizer;
use super::output::Divisor;
use super::target::{CrossEntropyTarget, SparseTensors, Target, TargetClasses};
use crate::dispatch::CrossEntropyBackend;
use crate::error::{CrossEntropyError, ProjectionError};
use crate::operation::{
    Ids, InputValues, Inputs, Logits, MaybeFloat, Outputs, Role, RowFactor, RowOutputs,
    RowReduction, RowValue, Targets, Ties, Wanted, WantedGradients, row_shape,
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
/// with `e/C` as [`SmoothingOver`](crate::SmoothingOver) has it, by default over all classes.
///
/// These are the definitions of PyTorch's `cross_entropy` where it has the option. The rows of `p`
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
/// - The mean over no counted row is the value of [`EmptyReduction`](crate::EmptyReduction); the
///   gradient is 0.
/// - A row whose logits hold NaN or `+inf`, or nothing but `-inf`, has a loss of NaN.
/// - Confident rows keep their relative accuracy: logits `[20, 0, 0]` with target 0 give
///   4.12230738e-9.
/// - A target that is neither a class nor ignored is an error on the CPU backends Flex and NdArray. On
///   other backends the host does not wait for the device: the row has a loss and a gradient of NaN and
///   adds 0 to the divisor of the mean. [`check`](Self::check) waits, and checks on every backend.
/// - Without any rows a mean is empty, and a sum is 0.
///
/// # Speed and memory
///
/// Every option takes one pass over the logits. On Flex and NdArray the same pass computes the gradient. The
/// gradient replaces the logits if nothing else holds that buffer (as when the logits come straight out of a
/// layer), else it goes into one new tensor. On a GPU the backward computes the gradient, in place under the
/// same condition. Without a gradient nothing of the size of the logits is allocated (but on a device for the
/// outputs of rows with distributions). No position of [`class_dim`](CrossEntropyLossConfig::class_dim) needs
/// a copy. The result does not depend on the number of threads. The repository's `docs/performance.md` has the
/// figures and the exceptions.
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
            .add("smoothing_over", &format!("{:?}", settings.smoothing_over))
            .add("reduction", &format!("{:?}", settings.reduction))
            .add("values", &format!("{:?}", settings.values))
            .add("class_dim", &(settings.class_dim as i64))
            .add("z_loss", &settings.z_loss)
            .add("row_factor", &format!("{:?}", settings.row_factor))
            .add("empty", &format!("{:?}", settings.empty))
            .optional()
    }
}

impl CrossEntropyLossConfig {
    /// Makes the loss for tensors of every backend: a call uses the backend of the tensors' device.
    ///
    /// The class weights are put on `device`. A call on another device copies them there.
    ///
    /// # Panics
    ///
    /// If a value is out of its range; the text names the field and the value.
    pub fn init(&self, device: &Device) -> CrossEntropyLoss {
        self.init_for::<Dispatch>(device)
    }

    /// Makes the loss bound to the backend `B` at compile time, such as `Autodiff<Flex>`. A tensor of
    /// another backend is an error.
    ///
    /// # Panics
    ///
    /// If a value is out of its range; the text names the field and the value.
    pub fn init_for<B: CrossEntropyBackend>(&self, device: &Device) -> CrossEntropyLoss<B> {
        unwrap(self.try_init_for(device))
    }

    /// [`init_for`](Self::init_for) that returns an error for a bad configuration.
    ///
    /// # Errors
    ///
    /// [`CrossEntropyError::InvalidConfig`] for the first value that is out of its range.
    pub fn try_init_for<B: CrossEntropyBackend>(
        &self,
        device: &Device,
    ) -> Result<CrossEntropyLoss<B>, CrossEntropyError> {
        self.check()?;
        // The class weights are constants for the model's gradients and need no place in a graph.
        let device = device.clone().without_autodiff();
        let weight = self.weight.as_ref().map(|weight| {
            Tensor::<1>::from_data(weight.as_slice(), (&device, burn::tensor::DType::F32))
        });
        Ok(CrossEntropyLoss::from_parts(weight, Settings::new(self)))
    }
}

/// Computes the mean cross-entropy with the defaults of [`CrossEntropyLossConfig`].
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
/// With the text of a [`CrossEntropyError`] if the tensors do not fit each other, or, on the CPU backends, if a target is
/// not a class.
pub fn cross_entropy<const D: usize>(
    logits: Tensor<D>,
    target: impl CrossEntropyTarget<D>,
) -> Tensor<1> {
    let settings = Settings::new(&CrossEntropyLossConfig::new());
    CrossEntropyLoss::<Dispatch>::from_parts(None, settings).forward(logits, target)
}

/// Request of a call: reduction and outputs.
pub(crate) struct Request {
    pub(super) reduction: RequestedReduction,
    pub(super) outputs: Outputs,
}

/// Way from the losses of the rows to the result.
// A call moves this enum a few times; a box would be an allocation.
#[allow(clippy::large_enum_variant)]
#[derive(Clone)]
pub(crate) enum RequestedReduction {
    /// One loss per row.
    PerRow,
    /// The reduction of the configuration.
    Configured,
    /// The sum, divided by a normalizer.
    Over(Normalizer),
}

impl Request {
    /// Request of the loss without outputs.
    pub(crate) fn loss(reduction: RequestedReduction) -> Self {
        Self {
            reduction,
            outputs: Outputs::None,
        }
    }
}

/// Result of a call.
pub(crate) struct Computed {
    /// One loss, or the losses in the shape of the rows.
    pub(crate) loss: DispatchTensor,
    pub(super) outputs: RowOutputs<Dispatch>,
    /// Shape of the rows.
    pub(super) rows: Shape,
    pub(super) classes: usize,
    /// Divisor of the sum of the losses.
    pub(super) divided_by: Divisor,
    /// Factor of the squared log-sum-exp.
    pub(super) z_loss: f64,
}

impl<B: CrossEntropyBackend> CrossEntropyLoss<B> {
    pub(crate) fn from_parts(weight: Option<Tensor<1>>, settings: Settings) -> Self {
        Self {
            weight,
            settings,
            backend: PhantomData,
        }
    }

    pub(super) fn into_parts(self) -> (Option<Tensor<1>>, Settings) {
        (self.weight, self.settings)
    }

    /// Makes the loss over similarities, of which the largest has this magnitude (0 where that is not known),
    /// without class weights. Does not check the values.
    pub(crate) fn of_similarities(config: &CrossEntropyLossConfig, magnitude: f64) -> Self {
        let settings = Settings {
            ties: Ties::TargetLoses { magnitude },
            ..Settings::new(config)
        };
        Self::from_parts(None, settings)
    }

    /// Makes the loss of pairs of rows and columns, each apart. Does not check the values.
    pub(crate) fn of_pairs(config: &CrossEntropyLossConfig) -> Self {
        let settings = Settings {
            value: RowValue::PairSigmoid,
            ..Settings::new(config)
        };
        Self::from_parts(None, settings)
    }

    /// Runs a call.
    pub(crate) fn compute(
        &self,
        logits: GivenLogits,
        target: Target,
        request: Request,
    ) -> Result<Computed, CrossEntropyError> {
        match target.classes {
            TargetClasses::Teacher(teacher) => {
                self.compute_beside_teacher(logits, *teacher, target.row_weights, request)
            }
            _ => self.compute_beside_shares(logits, target, request),
        }
    }

    /// Runs a call whose target is as the operation takes it.
    fn compute_beside_shares(
        &self,
        logits: GivenLogits,
        target: Target,
        request: Request,
    ) -> Result<Computed, CrossEntropyError> {
        let shape = logits.shape();
        let device = device_of(logits.tensor());
        let class_dim = self.check_call(&logits, &target, &device, RangeCheck::WhereFree)?;
        let classes = shape[class_dim];
        let inputs = Inputs {
            targets: match target.classes {
                TargetClasses::Indices(indices) => Targets::Indices(indices),
                TargetClasses::Distributions(targets) => Targets::Distributions(targets),
                TargetClasses::Sparse(sparse) => {
                    sparse.into_targets(&self.settings.options(class_dim, classes)?)
                }
                TargetClasses::Projected(teacher) => Targets::Projected(teacher.of_teacher()),
                TargetClasses::Alike(alike) => Targets::Alike(Ids::Given {
                    rows: alike.rows,
                    columns: alike.columns,
                }),
                TargetClasses::Teacher(_) => unreachable!("a teacher has become its logits"),
            },
            weights: self.weights_on(&device),
            row_weights: target.row_weights.into(),
            reduction: self.requested(request.reduction, &shape, class_dim, &device)?,
        };
        let divided_by = match inputs.reduction {
            RowReduction::Sum { divisor } => Divisor::Number(divisor),
            _ => Divisor::TotalWeight,
        };
        let is_reduced = inputs.reduction.is_reduced();
        let rows = row_shape(&shape, class_dim);
        let (logits, inputs) = logits.into_operation(inputs);
        let class_dim = match &logits {
            Logits::Tensor(_) => class_dim,
            Logits::Projected(_) => 1,
        };
        let wanted = Wanted {
            outputs: request.outputs,
            // An autodiff backend asks for the gradients of the tensors that it tracks.
            gradients: WantedGradients::default(),
        };
        let options = self.settings.options(class_dim, classes)?;
        let forward = B::run(logits, inputs, options, wanted)?;
        Ok(Computed {
            // A projection has its rows in one dimension.
            loss: match is_reduced || forward.loss.shape() == rows {
                true => forward.loss,
                false => Dispatch::float_reshape(forward.loss, rows.clone()),
            },
            outputs: forward.outputs,
            rows,
            classes,
            divided_by,
            z_loss: self.settings.z_loss,
        })
    }

    /// Checks a call, and returns its class dimension.
    pub(super) fn check_call(
        &self,
        logits: &GivenLogits,
        target: &Target,
        device: &Device,
        check: RangeCheck,
    ) -> Result<usize, CrossEntropyError> {
        logits.check()?;
        let shape = logits.shape();
        let class_dim = self.class_dim_of(logits)?;
        self.check_weight_length(&shape, class_dim)?;
        check_target_shape(&shape, target, class_dim)?;
        if shape[class_dim] == 0 {
            return Err(CrossEntropyError::NoClasses {
                logits: shape.to_vec(),
                class_dim,
            });
        }
        check_float_dtype("logits", logits.tensor().dtype(), device)?;
        if let Some(weights) = &target.row_weights {
            self.check_row_weights(weights, device)?;
        }
        match &target.classes {
            TargetClasses::Indices(_) => {
                check_same_checkpointing(&logits.tensors())?;
                self.check_indices(target, device, shape[class_dim], check)?;
            }
            TargetClasses::Teacher(_) => unreachable!("a teacher has become its logits"),
            TargetClasses::Alike(alike) => {
                check_same_device(device, &alike.rows, Role::Ids)?;
                check_same_device(device, &alike.columns, Role::Ids)?;
                check_same_checkpointing(&logits.tensors())?;
            }
            TargetClasses::Sparse(sparse) => {
                self.check_factor_of_distributions()?;
                let mut tensors = logits.tensors();
                tensors.extend(sparse.of_shares().map(|tensor| ("target shares", tensor)));
                check_same_checkpointing(&tensors)?;
                if sparse.tail.is_some() {
                    self.check_options_of_tail()?;
                }
                let weights = target.row_weights.as_ref();
                self.check_sparse(sparse, weights, &shape, class_dim, check)?;
            }
            TargetClasses::Projected(teacher) => {
                self.check_ignored_of_distributions()?;
                self.check_factor_of_distributions()?;
                check_same_device(device, &teacher.hidden, Role::Teacher)?;
                check_float_dtype(Role::Teacher.name(), teacher.hidden.dtype(), device)?;
                check_same_checkpointing(&logits.tensors())?;
            }
            TargetClasses::Distributions(targets) => {
                self.check_ignored_of_distributions()?;
                self.check_factor_of_distributions()?;
                check_same_device(device, targets, Role::Targets)?;
                let mut tensors = logits.tensors();
                tensors.push(("target distributions", targets));
                check_same_checkpointing(&tensors)?;
                check_float_dtype("target distributions", targets.dtype(), device)?;
            }
        }
        self.settings.smoothing_among(shape[class_dim])?;
        Ok(class_dim)
    }

    /// Checks the entries of sparse distributions beside logits of this shape.
    fn check_sparse(
        &self,
        sparse: &SparseTensors,
        row_weights: Option<&DispatchTensor>,
        logits: &Shape,
        class_dim: usize,
        check: RangeCheck,
    ) -> Result<(), CrossEntropyError> {
        let classes = &sparse.classes;
        let device = device_of(classes);
        for shares in sparse.of_shares() {
            check_same_device(&device, shares, Role::Targets)?;
            check_float_dtype("target shares", shares.dtype(), &device)?;
        }
        let of_classes = Target {
            row_weights: row_weights.map(|weights| of_entries(weights, classes, class_dim)),
            ..Target::new(TargetClasses::Indices(classes.clone()))
        };
        let checked = self.check_indices(&of_classes, &device, logits[class_dim], check);
        checked.map_err(|error| error.of_entry(&classes.shape(), class_dim))
    }

    /// Reduction of a call.
    pub(super) fn requested(
        &self,
        reduction: RequestedReduction,
        logits: &Shape,
        class_dim: usize,
        device: &Device,
    ) -> Result<RowReduction<Dispatch>, CrossEntropyError> {
        Ok(match reduction {
            RequestedReduction::PerRow => RowReduction::None,
            RequestedReduction::Configured => self.configured(logits, class_dim),
            RequestedReduction::Over(normalizer) => RowReduction::Normalized {
                divisors: normalizer.on(device)?,
            },
        })
    }

    /// Configured reduction over logits of this shape.
    fn configured(&self, logits: &Shape, class_dim: usize) -> RowReduction<Dispatch> {
        match self.settings.reduction {
            Reduction::Mean | Reduction::Auto => RowReduction::Mean,
            Reduction::Sum => RowReduction::Sum { divisor: 1.0 },
            Reduction::BatchMean => {
                let samples = logits
                    .iter()
                    .enumerate()
                    .find(|(dim, _)| *dim != class_dim)
                    .map_or(1, |(_, size)| *size);
                RowReduction::Sum {
                    divisor: samples as f64,
                }
            }
        }
    }

    /// Checks the indices of a target that has such.
    pub(crate) fn check_indices(
        &self,
        target: &Target,
        device: &Device,
        classes: usize,
        check: RangeCheck,
    ) -> Result<(), CrossEntropyError> {
        let TargetClasses::Indices(indices) = &target.classes else {
            unreachable!("the target was told to have indices");
        };
        check_same_device(device, indices, Role::Targets)?;
        check_int_dtype(indices.dtype(), device)?;
        B::check(indices, Role::Targets)?;
        let (weights, ignored) = (target.row_weights.as_ref(), &self.settings.ignore_indices);
        check_range(indices, weights, classes, ignored, check)
    }

    pub(super) fn check_row_weights(
        &self,
        weights: &DispatchTensor,
        device: &Device,
    ) -> Result<(), CrossEntropyError> {
        check_same_device(device, weights, Role::RowWeights)?;
        check_float_dtype("row weights", weights.dtype(), device)?;
        B::check(weights, Role::RowWeights)
    }

    fn check_factor_of_distributions(&self) -> Result<(), CrossEntropyError> {
        match self.settings.row_factor {
            RowFactor::None => Ok(()),
            factor => Err(CrossEntropyError::FactorOfDistributions { factor }),
        }
    }

    /// Refuses what would ask for a number of each class that a tail stands for.
    fn check_options_of_tail(&self) -> Result<(), CrossEntropyError> {
        let settings = &self.settings;
        let (option, instead) = if settings.values == InputValues::Probabilities {
            (
                "logits = false",
                "give logits, or the logarithms of the probabilities",
            )
        } else if self.weight.is_some() {
            (
                "weight",
                "multiply the shares and the tail by their weights",
            )
        } else if settings.label_smoothing != 0.0 {
            ("label_smoothing", "smooth the shares and the tail")
        } else {
            return Ok(());
        };
        Err(CrossEntropyError::OptionBesideTail { option, instead })
    }

    /// Refuses targets to ignore that somebody has configured, beside distributions: they would do nothing.
    pub(super) fn check_ignored_of_distributions(&self) -> Result<(), CrossEntropyError> {
        let ignore_indices = &self.settings.ignore_indices;
        if **ignore_indices == *CrossEntropyLossConfig::new().ignore_indices {
            return Ok(());
        }
        Err(CrossEntropyError::IgnoredDistributions {
            ignore_indices: ignore_indices.to_vec(),
        })
    }

    /// Class dimension of the logits.
    pub(super) fn class_dim_of(&self, logits: &GivenLogits) -> Result<usize, CrossEntropyError> {
        let shape = logits.shape();
        match logits {
            GivenLogits::Tensor(_) => self.class_dim(&shape),
            GivenLogits::Projected(_) => self.class_dim_of_projection(&shape),
        }
    }

    /// Class dimension of a projection's logits, which is the last.
    fn class_dim_of_projection(&self, logits: &Shape) -> Result<usize, CrossEntropyError> {
        let last = logits.num_dims() - 1;
        match self.settings.class_dim {
            1 | -1 => Ok(last),
            dim if dim == last as isize => Ok(last),
            class_dim => Err(ProjectionError::ClassDim { class_dim }.into()),
        }
    }

    /// Class dimension in logits of this shape.
    pub(super) fn class_dim(&self, logits: &Shape) -> Result<usize, CrossEntropyError> {
        let rank = logits.num_dims();
        let class_dim = match self.settings.class_dim {
            // The default is 1. Logits of rank 1 only have dimension 0.
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

    /// Class weights on the device of the logits, outside every graph.
    pub(super) fn weights_on(&self, device: &Device) -> MaybeFloat<Dispatch> {
        match &self.weight {
            None => MaybeFloat::None,
            Some(weight) => {
                let weight = weight.clone().without_autodiff();
                let device = device.clone().without_autodiff();
                let weight = if weight.device() == device {
                    weight
                } else {
                    weight.to_device(&device)
                };
                MaybeFloat::Some(weight.into_dispatch())
            }
        }
    }
}
