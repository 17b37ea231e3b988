//! Targets that are the logits of a teacher: distillation at a temperature.

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::tensor::{DType, Tensor};

use super::checks::{check_target_shape, device_of};
use super::config::Settings;
use super::cross_entropy::{Computed, CrossEntropyLoss, Request, RequestedReduction};
use super::logits::{GivenLogits, LogitsSource};
use super::target::{CrossEntropyTarget, Target, TargetClasses, TargetTensor, Teacher, sealed};
use crate::dispatch::CrossEntropyBackend;
use crate::dispatch::fallback::with_autodiff_of;
use crate::error::{CrossEntropyError, ProjectionError};
use crate::operation::{InputValues, Outputs};

/// Logits of a teacher as a target: the student learns the teacher's probabilities.
///
/// With `t` the logits of the teacher, `x` the student's after scale and softcap, and `T` the temperature, the target is
/// the distribution `q = softmax(t / T)`, and the loss of a row is the cross-entropy with it:
///
/// ```text
/// l = sum_c q[c] (lse(x / T) - x[c] / T)
/// ```
///
/// [`with_kl_divergence`](Self::with_kl_divergence) subtracts the entropy of `q`: the loss is then
/// `KL(q || softmax(x / T))`, which is 0, within its rounding, where the student agrees, and has the same gradient.
/// [`with_squared_temperature`](Self::with_squared_temperature) multiplies the loss by `T^2`.
///
/// - **Shapes**: as the student's logits; class weights, label smoothing, row weights, reductions and outputs have the
///   meaning that they have for distributions, outputs at the temperature
/// - **Gradients**: of the student alone: the teacher's tensors are constants
/// - **Dtypes**: any float dtype; the softmax is computed in the dtype of the arithmetic
/// - **Memory**: no tensor of rows x classes besides the given logits. On Flex and NdArray each row's softmax is made
///   while its loss is computed; on a GPU two numbers per row are computed first, the probabilities beside the
///   student's. A copy is made there of a teacher of f64 beside a student of another dtype, of any other beside one of
///   f64, and of a view whose strides the kernels do not take
///
/// A teacher may be [`ProjectedLogits`](crate::ProjectedLogits), with a hidden size of its own. Beside a student that is
/// so too it has logits for a chunk of rows only: the chunk size of the student applies, for both together (in the pass
/// for a divergence the teacher's own). Beside a student's tensor of logits its own are made as one tensor. A softcap
/// of a projected teacher cannot be applied.
///
/// Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, <https://arxiv.org/abs/1503.02531>.
/// (The Jensen-Shannon divergence, which mixes both distributions in one logarithm, is another loss and not here.)
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_cross_entropy::{CrossEntropyLossConfig, TeacherLogits};
///
/// let device = Device::flex().autodiff();
/// let loss = CrossEntropyLossConfig::new().init(&device);
/// let student = Tensor::<2>::from_floats([[1.0, 2.0, 0.0]], &device).require_grad();
/// let teacher = Tensor::<2>::from_floats([[3.0, 6.0, 0.0]], &device);
///
/// // At temperature 3 the student has to agree with the teacher's logits over 3.
/// let target = TeacherLogits::new(teacher).with_temperature(3.0).with_kl_divergence();
/// let value = loss.forward(student.clone() * 3.0, target);
/// assert!(value.into_scalar::<f32>().abs() < 1e-6);
/// ```
///
/// # Errors
///
/// The call that takes the target refuses
///
/// - a temperature that is not a positive number, a divergence beside class weights or label smoothing, which change the
///   distribution, and a loss of probabilities: [`InvalidConfig`](CrossEntropyError::InvalidConfig),
/// - logits of another shape than the student's: [`ShapeMismatch`](CrossEntropyError::ShapeMismatch),
/// - a projection beside a tensor whose classes are not its last dimension: [`ProjectionError::ClassDim`],
/// - a `row_factor` and targets to ignore, as for all distributions.
#[derive(Clone, Debug)]
pub struct TeacherLogits<L> {
    logits: L,
    temperature: f64,
    is_squared: bool,
    is_divergence: bool,
}

impl<L> TeacherLogits<L> {
    /// Makes a target of a teacher's logits, a tensor or [`ProjectedLogits`](crate::ProjectedLogits), at
    /// temperature 1.
    pub fn new(logits: L) -> Self {
        Self {
            logits,
            temperature: 1.0,
            is_squared: false,
            is_divergence: false,
        }
    }

    /// Divides the logits of teacher and student by a temperature above 0.
    pub fn with_temperature(self, temperature: f64) -> Self {
        Self {
            temperature,
            ..self
        }
    }

    /// Multiplies the loss by the square of the temperature, so that its gradients keep their size when the
    /// temperature grows: without it they are smaller by that square.
    pub fn with_squared_temperature(self) -> Self {
        Self {
            is_squared: true,
            ..self
        }
    }

    /// Subtracts the entropy of the teacher's distribution from the loss of each row. It takes one more pass over the
    /// teacher's logits.
    pub fn with_kl_divergence(self) -> Self {
        Self {
            is_divergence: true,
            ..self
        }
    }
}

macro_rules! teacher_targets {
    ($($rank:literal)*) => {$(
        impl sealed::IntoTarget for TeacherLogits<Tensor<$rank>> {
            fn into_target(self) -> Target {
                into_target::<$rank>(self)
            }
        }

        impl sealed::IntoTarget for TeacherLogits<crate::ProjectedLogits<$rank>> {
            fn into_target(self) -> Target {
                into_target::<$rank>(self)
            }
        }

        impl TargetTensor for TeacherLogits<Tensor<$rank>> {}
        impl TargetTensor for TeacherLogits<crate::ProjectedLogits<$rank>> {}
        impl CrossEntropyTarget<$rank> for TeacherLogits<Tensor<$rank>> {}
        impl CrossEntropyTarget<$rank> for TeacherLogits<crate::ProjectedLogits<$rank>> {}
    )*};
}

teacher_targets!(1 2 3 4 5 6 7 8);

fn into_target<const D: usize>(target: TeacherLogits<impl LogitsSource<D>>) -> Target {
    let TeacherLogits {
        logits,
        temperature,
        is_squared,
        is_divergence,
    } = target;
    Target::new(TargetClasses::Teacher(Box::new(Teacher {
        logits: logits.into_logits().without_autodiff(),
        temperature,
        is_squared,
        is_divergence,
    })))
}

impl Teacher {
    /// The logits as the target of a call, beside the student's.
    fn beside(&self, student: &GivenLogits) -> TargetClasses {
        match (&self.logits, student) {
            (GivenLogits::Tensor(logits), _) => TargetClasses::Distributions(logits.clone()),
            (GivenLogits::Projected(teacher), GivenLogits::Projected(_)) => {
                TargetClasses::Projected(teacher.clone())
            }
            (GivenLogits::Projected(teacher), GivenLogits::Tensor(_)) => {
                TargetClasses::Distributions(teacher.as_ref().clone().whole())
            }
        }
    }
}

impl<B: CrossEntropyBackend> CrossEntropyLoss<B> {
    /// The loss at the teacher's temperature, and the target that it takes.
    pub(super) fn beside_teacher(
        &self,
        logits: &GivenLogits,
        teacher: &Teacher,
        row_weights: Option<DispatchTensor>,
    ) -> Result<(Self, Target), CrossEntropyError> {
        self.check_teacher(teacher)?;
        teacher.logits.check()?;
        if let (GivenLogits::Projected(_), GivenLogits::Tensor(student)) = (&teacher.logits, logits)
        {
            let class_dim = self.class_dim(&student.shape())?;
            if class_dim + 1 != student.shape().num_dims() {
                let class_dim = class_dim as isize;
                return Err(ProjectionError::ClassDim { class_dim }.into());
            }
        }
        let class_dim = self.class_dim_of(logits)?;
        let given = Target::new(TargetClasses::Teacher(Box::new(teacher.clone())));
        check_target_shape(&logits.shape(), &given, class_dim)?;
        let classes = teacher.beside(logits);
        let settings = self.settings.at_temperature(teacher.temperature);
        let target = Target {
            classes,
            row_weights,
        };
        Ok((Self::from_parts(self.weight.clone(), settings), target))
    }

    /// Runs a call whose target is a teacher's.
    pub(super) fn compute_beside_teacher(
        &self,
        logits: GivenLogits,
        teacher: Teacher,
        row_weights: Option<DispatchTensor>,
        request: Request,
    ) -> Result<Computed, CrossEntropyError> {
        let (loss, target) = self.beside_teacher(&logits, &teacher, row_weights.clone())?;
        let reduction = request.reduction.clone();
        let class_dim = self.class_dim_of(&logits)?;
        let dtype = logits.tensor().dtype();
        let computed = loss.compute(logits, target, request)?;
        let (mut value, mut z_loss) = (computed.loss, computed.z_loss);
        if teacher.is_divergence {
            let beside = (class_dim, dtype);
            let entropy = self.teacher_entropy(&teacher, beside, row_weights, reduction)?;
            let entropy = Dispatch::float_cast(entropy, value.dtype().into());
            let entropy = with_autodiff_of(&value, entropy);
            value = Dispatch::float_sub(value, entropy);
        }
        if teacher.is_squared {
            let square = teacher.temperature * teacher.temperature;
            value = Dispatch::float_mul_scalar(value, square.into());
            z_loss *= square;
        }
        Ok(Computed {
            loss: value,
            z_loss,
            ..computed
        })
    }

    /// Entropies of the teacher's distributions, reduced as the losses, beside a student of this class dimension and
    /// dtype.
    fn teacher_entropy(
        &self,
        teacher: &Teacher,
        (class_dim, dtype): (usize, DType),
        row_weights: Option<DispatchTensor>,
        reduction: RequestedReduction,
    ) -> Result<DispatchTensor, CrossEntropyError> {
        let settings = Settings {
            class_dim: class_dim as isize,
            ..self.settings.of_teacher_entropy(teacher.temperature)
        };
        let loss = Self::from_parts(None, settings);
        let logits = teacher.logits.clone().in_arithmetic_beside(dtype);
        let rows = loss.rows_of(&logits)?;
        let target = Target {
            row_weights,
            ..Target::of_first_class(&rows, &device_of(logits.tensor()))
        };
        let request = Request {
            reduction,
            outputs: Outputs::None,
        };
        Ok(loss.compute(logits, target, request)?.loss)
    }

    fn check_teacher(&self, teacher: &Teacher) -> Result<(), CrossEntropyError> {
        let refused = |field, value: String, expected| {
            Err(CrossEntropyError::InvalidConfig {
                field,
                value,
                expected,
            })
        };
        let temperature = teacher.temperature;
        if !(temperature > 0.0 && (temperature as f32).is_normal()) {
            let expected = "a number above 0 that is a normal number of f32";
            return refused("temperature", temperature.to_string(), expected);
        }
        if self.settings.values == InputValues::Probabilities {
            let expected = "true beside a teacher: its temperature divides logits";
            return refused("logits", "false".to_string(), expected);
        }
        if teacher.is_divergence && self.weight.is_some() {
            let expected = "None beside `with_kl_divergence`: weights change the distribution";
            return refused("weight", "Some".to_string(), expected);
        }
        if teacher.is_divergence && self.settings.label_smoothing != 0.0 {
            let expected = "0 beside `with_kl_divergence`: smoothing changes the distribution";
            let smoothing = self.settings.label_smoothing.to_string();
            return refused("label_smoothing", smoothing, expected);
        }
        Ok(())
    }
}
