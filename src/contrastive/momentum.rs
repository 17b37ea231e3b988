//! Momentum update of a module that follows another: momentum encoders, targets, averages of weights.

mod parameters;

use std::collections::VecDeque;

use burn::backend::DispatchTensor;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::kind::Autodiff;
use burn::tensor::{Bool, DType, Device, Int, Tensor};

use self::parameters::check_same_parameters;
use super::autodiff::in_autodiff;
use super::error::{ContrastiveError, unwrap};

/// Momentum of a target, for [`momentum_update`].
///
/// A number converts into a momentum with the defaults of the other fields.
///
/// ```
/// use burn_cross_entropy::contrastive::{Buffers, Momentum};
///
/// let momentum = Momentum::new(0.999).with_buffers(Buffers::Copy);
/// assert_eq!(Momentum::from(0.999).buffers, Buffers::Average);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Momentum {
    /// Share of itself that the target keeps, in `[0, 1]`: the update refuses any other.
    pub value: f64,
    /// Update of the tensors that are not trained. Default: [`Buffers::Average`].
    pub buffers: Buffers,
    /// Whether the target keeps its own elements where they would become NaN or infinite, without a wait for
    /// the device: a NaN would stay in the target for good. Default: `false`.
    pub finite_only: bool,
}

impl Momentum {
    /// Makes a momentum of `value`, in `[0, 1]`.
    pub fn new(value: f64) -> Self {
        Self {
            value,
            buffers: Buffers::Average,
            finite_only: false,
        }
    }

    /// Sets the update of buffers.
    pub fn with_buffers(self, buffers: Buffers) -> Self {
        Self { buffers, ..self }
    }

    /// Sets whether elements that are not finite stay out of the target.
    pub fn with_finite_only(self, finite_only: bool) -> Self {
        Self {
            finite_only,
            ..self
        }
    }
}

impl From<f64> for Momentum {
    fn from(value: f64) -> Self {
        Self::new(value)
    }
}

/// Update of buffers, the tensors of a module that are not trained.
///
/// Buffers are running statistics, such as in `burn::nn::BatchNorm`, float parameters whose gradients
/// are turned off in the online module (`no_grad`, `freeze`), integers and booleans.
/// [`Momentum::with_buffers`] takes the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Buffers {
    /// The buffers of the target move as parameters do. Integers, booleans and quantized tensors have no
    /// average and are copied.
    #[default]
    Average,
    /// The target takes the buffers of the online module.
    Copy,
    /// The target keeps its own buffers, for targets that run in training mode and so have their own
    /// statistics, such as the key encoder of MoCo.
    Keep,
}

/// Moves the target towards the online module, and returns it.
///
/// Each float parameter becomes
///
/// ```text
/// target = momentum * target + (1 - momentum) * online
/// ```
///
/// It is computed as `target + (1 - momentum) * (online - target)`, so that a parameter on which both agree stays
/// the same bit for bit. The key encoder of MoCo follows its query encoder with a momentum of 0.999. A
/// [`MomentumSchedule`](crate::contrastive::MomentumSchedule) gives a momentum for each step.
///
/// Parameters are paired in the order of visiting, not by ids. Parameters of the target keep id, device,
/// dtype and whether they require gradients: values of the online module are moved and cast. No graph is
/// recorded.
///
/// # Buffers
///
/// Running statistics and other tensors that are not trained follow as parameters do; with a [`Momentum`] in
/// place of the number they are copied or kept, see [`Buffers`]. Flags, such as whether a dropout is active,
/// are the target's.
///
/// # The target
///
/// Make it with `online.valid()`: its tensors are outside autodiff, and running statistics are its own. (A
/// clone or a fork shares them with the module it is of.)
///
/// # Edge cases
///
/// - A momentum of 1 leaves the bits of every parameter, 0 copies the online module's (cast, if the dtypes
///   differ), whatever they hold, NaN included (but with `finite_only`).
/// - f16 and bf16 are computed in f32 and rounded. Steps of less than half a unit of the last place are
///   lost, so that a target in bf16 stands still at a high momentum: keep the target in f32.
/// - Infinities in buffers, such as masks, are averaged by the formula: equal infinities stay.
/// - For a trained parameter the difference `online - target` may overflow the dtype.
///
/// ```
/// use burn::module::Module;
/// use burn::nn::{Initializer, LinearConfig};
/// use burn::tensor::Device;
/// use burn_cross_entropy::contrastive::{Buffers, Momentum};
/// use burn_cross_entropy::momentum_update;
///
/// let device = Device::flex().autodiff();
/// let encoder = |weights| LinearConfig::new(4, 3).with_initializer(weights).init(&device);
/// let online = encoder(Initializer::Ones);
///
/// let target = encoder(Initializer::Zeros).valid();
/// let target = momentum_update(&online, target, 0.75);
/// assert_eq!(target.weight.val().mean().into_scalar::<f32>(), 0.25);
///
/// // Once more, with the running statistics (of which a linear layer has none) copied.
/// let momentum = Momentum::new(0.75).with_buffers(Buffers::Copy);
/// let target = momentum_update(&online, target, momentum);
/// assert_eq!(target.weight.val().mean().into_scalar::<f32>(), 0.4375);
/// ```
///
/// Source: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", 2019,
/// <https://arxiv.org/abs/1911.05722>, equation 2.
///
/// # Panics
///
/// With the text of a [`ContrastiveError`] if the momentum is outside `[0, 1]`, or if the modules differ in their
/// parameters or in the shapes of these.
pub fn momentum_update<M: Module>(online: &M, target: M, momentum: impl Into<Momentum>) -> M {
    unwrap(try_momentum_update(online, target, momentum))
}

/// [`momentum_update`] that returns an error instead of a panic.
///
/// # Errors
///
/// [`ContrastiveError::InvalidConfig`] if the momentum is outside `[0, 1]`,
/// [`ContrastiveError::DifferentModules`] if the modules differ in their parameters or in the shapes of these.
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::tensor::Device;
/// use burn_cross_entropy::contrastive::try_momentum_update;
///
/// let device = Device::flex();
/// let [online, target] = [4, 5].map(|outputs| LinearConfig::new(3, outputs).init(&device));
/// let error = try_momentum_update(&online, target, 0.99).unwrap_err();
/// assert!(error.to_string().contains("`weight`, a float tensor of shape [3, 4]"));
/// ```
pub fn try_momentum_update<M: Module>(
    online: &M,
    target: M,
    momentum: impl Into<Momentum>,
) -> Result<M, ContrastiveError> {
    let momentum = momentum.into();
    if !(0.0..=1.0).contains(&momentum.value) {
        return Err(ContrastiveError::InvalidConfig {
            part: "momentum update",
            field: "momentum",
            value: momentum.value.to_string(),
            expected: "a number in [0, 1]",
        });
    }
    check_same_parameters(online, &target)?;
    let mut online_values = Values(VecDeque::new());
    // `valid` takes tensors out of graphs, keeps whether they are trained, and finishes updates of running
    // statistics that wait for the next forward.
    online.valid().visit(&mut online_values);
    // This finishes updates that wait in the target: they would overwrite the values that are written now.
    drop(target.valid());
    Ok(target.map(&mut Follower {
        online: online_values.0,
        momentum,
    }))
}

/// Tensor of the online module, of any rank and kind, without autodiff.
struct Value {
    tensor: DispatchTensor,
    trained: bool,
}

/// Tensors of a module, without autodiff.
struct Values(VecDeque<Value>);

impl Values {
    fn add<const D: usize, K: Autodiff>(&mut self, tensor: Tensor<D, K>, trained: bool) {
        let tensor = tensor.into_dispatch();
        self.0.push_back(Value { tensor, trained });
    }
}

impl ModuleVisitor for Values {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // Outside autodiff only `train` knows whether a parameter is configured to require gradients.
        let trained = param.clone().train().is_require_grad();
        self.add(param.base(), trained);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.add(param.base(), false);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.add(param.base(), false);
    }
}

/// Mapper that moves the parameters of the target.
struct Follower {
    online: VecDeque<Value>,
    momentum: Momentum,
}

impl Follower {
    fn next<const D: usize, K: Autodiff>(&mut self) -> (Tensor<D, K>, bool) {
        let Value { tensor, trained } = self
            .online
            .pop_front()
            .expect("the modules were found to have the same parameters");
        (Tensor::from_dispatch(tensor), trained)
    }

    /// Whether tensors that have no average stay as they are.
    fn keeps(&self) -> bool {
        match self.momentum.buffers {
            Buffers::Average => self.momentum.value == 1.0,
            Buffers::Copy => false,
            Buffers::Keep => true,
        }
    }
}

impl ModuleMapper for Follower {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (online, trained) = self.next::<D, _>();
        let momentum = match self.momentum.buffers {
            Buffers::Copy if !trained => 0.0,
            Buffers::Keep if !trained => 1.0,
            _ => self.momentum.value,
        };
        if momentum == 1.0 {
            return param;
        }
        let finite_only = self.momentum.finite_only;
        param.map(|target| {
            let strategy = target.gradient_checkpointing_strategy();
            let require_grad = target.is_require_grad();
            let target = target.without_autodiff();
            let online = on_device(online, &target.device());
            let has_quantized = is_quantized(target.dtype()) || is_quantized(online.dtype());
            let kept = (finite_only && !has_quantized).then(|| target.clone());
            let moved = moved(target, online, momentum, trained);
            let moved = match kept {
                None => moved,
                Some(kept) => {
                    let not_finite = moved.clone().is_finite().bool_not();
                    moved.mask_where(not_finite, kept)
                }
            };
            in_autodiff(moved, strategy).set_require_grad(require_grad)
        })
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let (online, _) = self.next::<D, _>();
        if self.keeps() {
            return param;
        }
        param.map(|target| in_place_of(&target, online))
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        let (online, _) = self.next::<D, _>();
        if self.keeps() {
            return param;
        }
        param.map(|target| in_place_of(&target, online))
    }
}

/// Moves one tensor towards another, both without autodiff and on one device.
fn moved<const D: usize>(
    target: Tensor<D>,
    online: Tensor<D>,
    momentum: f64,
    trained: bool,
) -> Tensor<D> {
    let dtype = target.dtype();
    if is_quantized(dtype) || is_quantized(online.dtype()) {
        return online;
    }
    if momentum == 0.0 {
        return in_dtype(online, dtype);
    }
    let wide = match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        dtype => dtype,
    };
    let [target, online] = [target, online].map(|tensor| in_dtype(tensor, wide));
    // A sum of two products would be less exact: in f32 the shares 0.9999 and 0.0001 do not add up to 1. If
    // the online module stands still, the target would come to rest 1.7e-4 beside it.
    let step = (online.clone() - target.clone()).mul_scalar(1.0 - momentum);
    let moved = if trained {
        target + step
    } else {
        // Masks hold infinities, whose difference is NaN. Trained parameters skip these passes.
        let average = target.clone() * momentum + online * (1.0 - momentum);
        average.mask_where(step.clone().is_finite(), target + step)
    };
    in_dtype(moved, dtype)
}

fn is_quantized(dtype: DType) -> bool {
    matches!(dtype, DType::QFloat(_))
}

fn in_dtype<const D: usize>(tensor: Tensor<D>, dtype: DType) -> Tensor<D> {
    if tensor.dtype() == dtype {
        tensor
    } else {
        tensor.cast(dtype)
    }
}

fn on_device<const D: usize, K: Autodiff>(tensor: Tensor<D, K>, device: &Device) -> Tensor<D, K> {
    if tensor.device() == *device {
        tensor
    } else {
        tensor.to_device(device)
    }
}

/// Puts a tensor in place of another: on the device of `replaced`, with autodiff if `replaced` has it.
fn in_place_of<const D: usize, K: Autodiff>(
    replaced: &Tensor<D, K>,
    tensor: Tensor<D, K>,
) -> Tensor<D, K> {
    let tensor = on_device(tensor, &replaced.device());
    in_autodiff(tensor, replaced.gradient_checkpointing_strategy())
}
