//! Sigmoid loss of pairs: whether a row and a key belong together, asked for each pair apart.

mod config;

use std::marker::PhantomData;

use burn::backend::Dispatch;
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use self::config::Settings;
pub use self::config::SigLipLossConfig;
use super::error::{ContrastiveError, unwrap};
use super::features::{Named, check_beside, check_rows, normalised};
use super::parameter::on_device;
use super::positives::{PositiveKeys, Positives};
use crate::dispatch::CrossEntropyBackend;
use crate::loss::{
    CrossEntropyLoss, GivenLogits, ProjectedTensors, Request, RequestedReduction, Target,
};
use crate::operation::Excluded;

/// The sigmoid loss of all pairs of rows and keys: SigLIP.
///
/// With `s[i, j]` the similarity of row `i` and key `j`, the scale `t`, the bias `b`, and `z[i, j]` 1 where they belong
/// together and -1 elsewhere, the loss of a row is
///
/// ```text
/// l[i] = -sum_j ln sigmoid( z[i, j] (t s[i, j] + b) )
/// ```
///
/// The mean over the rows is the loss. Each pair is asked for apart, so that no sum over a row joins them: a row may
/// have several keys that belong to it, or none, and with the sum over the rows the losses of the parts of a batch add
/// up to its loss.
///
/// # Forms
///
/// | Form | What belongs together |
/// |---|---|
/// | [`forward`](Self::forward) | the same rows of two views: images and their captions |
/// | [`forward_pairs`](Self::forward_pairs) | a row and the key that is given; -100 for a row without |
/// | [`forward_positives`](Self::forward_positives) | keys by [`Positives`]: labels, numbers, a mask |
///
/// # Parameters
///
/// The logarithm of `t`, and `b`, are parameters of the module, in f32. They begin at `ln 10` and -10, as in the paper:
/// most pairs do not belong together, and the bias says so before anything is learnt.
///
/// # Memory and digits
///
/// Only [`chunk_bytes`](SigLipLossConfig::chunk_bytes) of similarities exist at a time, and the gradients are made with
/// the loss in one pass. The matrix of pairs is never held, not by the graph either. Losses and gradients of pairs that
/// are told apart well keep their digits: `ln(1 + exp(-20))` is 2.06e-9, not 0. Features in f16 or bf16 are taken as they
/// are; everything behind them is in f32.
///
/// # Edge cases
///
/// Without rows the mean is NaN; without keys a call is an error. Features of length 0 have similarity 0.
///
/// ```
/// use burn::tensor::{Device, Distribution, Tensor};
/// use burn_cross_entropy::contrastive::SigLipLossConfig;
///
/// let device = Device::flex().autodiff();
/// let loss = SigLipLossConfig::new().init(&device);
/// let random = || Tensor::<2>::random([8, 16], Distribution::Normal(0.0, 1.0), &device);
/// let (images, texts) = (random().require_grad(), random().require_grad());
/// let gradients = loss.forward(images.clone(), texts).backward();
/// assert_eq!(images.grad(&gradients).unwrap().dims(), [8, 16]);
/// ```
///
/// Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023, <https://arxiv.org/abs/2303.15343>.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct SigLipLoss<B: CrossEntropyBackend = Dispatch> {
    /// Logarithm of the scale, where it is learnt.
    log_scale: Option<Param<Tensor<1>>>,
    /// Bias, where it is learnt.
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    settings: Settings,
    #[module(skip)]
    backend: PhantomData<fn() -> B>,
}

impl SigLipLossConfig {
    /// Makes the loss for tensors of every backend; the parameters are on the device.
    ///
    /// # Panics
    ///
    /// If a value is out of its range; the text names the field and the value.
    pub fn init(&self, device: &Device) -> SigLipLoss {
        self.init_for::<Dispatch>(device)
    }

    /// Makes the loss bound to the backend `B` at compile time, see
    /// [`CrossEntropyLossConfig::init_for`](crate::CrossEntropyLossConfig::init_for).
    ///
    /// # Panics
    ///
    /// If a value is out of its range; the text names the field and the value.
    pub fn init_for<B: CrossEntropyBackend>(&self, device: &Device) -> SigLipLoss<B> {
        unwrap(self.try_init_for(device))
    }

    /// [`init_for`](Self::init_for) that returns an error for a bad configuration.
    ///
    /// # Errors
    ///
    /// [`ContrastiveError::InvalidConfig`] for the first value that is out of its range.
    pub fn try_init_for<B: CrossEntropyBackend>(
        &self,
        device: &Device,
    ) -> Result<SigLipLoss<B>, ContrastiveError> {
        self.check()?;
        let parameter = |number: f64| {
            let number = TensorData::from([number]);
            let number = Tensor::from_data(number, (device, DType::F32));
            self.learnable.then(|| Param::from_tensor(number))
        };
        Ok(SigLipLoss {
            log_scale: parameter(self.scale.ln()),
            bias: parameter(self.bias),
            settings: self.settings(),
            backend: PhantomData,
        })
    }
}

impl<B: CrossEntropyBackend> ModuleDisplay for SigLipLoss<B> {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new()
            .with_new_line_after_attribute(false)
            .optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let content = content
            .add("log_scale", &self.log_scale)
            .add("bias", &self.bias);
        self.settings.display(content)
    }
}

impl<B: CrossEntropyBackend> SigLipLoss<B> {
    /// Computes the mean loss of two views `[N, F]`, of which the same rows belong together.
    ///
    /// # Panics
    ///
    /// With the text of a [`ContrastiveError`] if the tensors do not fit each other.
    pub fn forward(&self, a: Tensor<2>, b: Tensor<2>) -> Tensor<1> {
        unwrap(self.try_forward(a, b))
    }

    /// [`forward`](Self::forward) that returns an error instead of a panic.
    ///
    /// # Errors
    ///
    /// A [`ContrastiveError`] that says what was given, what was expected, and what to do.
    pub fn try_forward(&self, a: Tensor<2>, b: Tensor<2>) -> Result<Tensor<1>, ContrastiveError> {
        check_rows(Named::new("a", &a), Named::new("b", &b))?;
        let rows = a.dims()[0] as i64;
        let themselves = Tensor::arange(0..rows, &a.device().without_autodiff());
        self.try_forward_pairs(a, b, themselves)
    }

    /// Computes the mean loss of rows `[N, F]` and keys `[K, F]`, of which row `i` belongs to key `positive[i]`.
    ///
    /// A row that belongs to no key has the number -100; its pairs count as the others.
    ///
    /// # Panics
    ///
    /// With the text of a [`ContrastiveError`] if the tensors do not fit each other, or, on the CPU backends, if a number
    /// is not a row of the keys.
    pub fn forward_pairs(
        &self,
        query: Tensor<2>,
        keys: Tensor<2>,
        positive: Tensor<1, Int>,
    ) -> Tensor<1> {
        unwrap(self.try_forward_pairs(query, keys, positive))
    }

    /// [`forward_pairs`](Self::forward_pairs) that returns an error instead of a panic.
    ///
    /// # Errors
    ///
    /// A [`ContrastiveError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_pairs(
        &self,
        query: Tensor<2>,
        keys: Tensor<2>,
        positive: Tensor<1, Int>,
    ) -> Result<Tensor<1>, ContrastiveError> {
        let target = Target::of_indices(positive);
        self.computed(query, keys, target, RequestedReduction::Configured)
    }

    /// Computes the mean loss of rows `[N, F]` and keys `[K, F]`, of which any number may belong together.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::contrastive::{Positives, SigLipLossConfig};
    ///
    /// let device = Device::flex();
    /// let config = SigLipLossConfig::new().with_scale(1.0).with_bias(0.0);
    /// let loss = config.init(&device);
    /// let features = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0]], &device);
    /// let labels = Tensor::<1, Int>::from_ints([7, 7], &device);
    /// let positives = Positives::Labels { rows: labels.clone(), keys: labels };
    /// let value = loss.forward_positives(features.clone(), features, positives);
    /// let expected = (-1f32).exp().ln_1p() + 2f32.ln();
    /// assert!((value.into_scalar::<f32>() - expected).abs() < 1e-6);
    /// ```
    ///
    /// # Panics
    ///
    /// With the text of a [`ContrastiveError`] if the tensors do not fit each other, or, on the CPU backends, if a number
    /// is not a row of the keys.
    pub fn forward_positives(
        &self,
        query: Tensor<2>,
        keys: Tensor<2>,
        positives: Positives,
    ) -> Tensor<1> {
        unwrap(self.try_forward_positives(query, keys, positives))
    }

    /// [`forward_positives`](Self::forward_positives) that returns an error instead of a panic.
    ///
    /// # Errors
    ///
    /// A [`ContrastiveError`] that says what was given, what was expected, and what to do.
    pub fn try_forward_positives(
        &self,
        query: Tensor<2>,
        keys: Tensor<2>,
        positives: Positives,
    ) -> Result<Tensor<1>, ContrastiveError> {
        let target = self.target(&query, &keys, positives)?;
        self.computed(query, keys, target, RequestedReduction::Configured)
    }

    /// Computes the loss of every row, `[N]`, see [`forward_positives`](Self::forward_positives).
    ///
    /// # Panics
    ///
    /// As [`forward_positives`](Self::forward_positives).
    pub fn forward_positives_no_reduction(
        &self,
        query: Tensor<2>,
        keys: Tensor<2>,
        positives: Positives,
    ) -> Tensor<1> {
        let target = unwrap(self.target(&query, &keys, positives));
        unwrap(self.computed(query, keys, target, RequestedReduction::PerRow))
    }

    /// Scale that is in use. Waits for the device where it is learnt.
    pub fn scale(&self) -> f64 {
        match &self.log_scale {
            None => self.settings.scale,
            Some(log_scale) => f64::from(log_scale.val().into_scalar::<f32>()).exp(),
        }
    }

    /// Bias that is in use. Waits for the device where it is learnt.
    pub fn bias(&self) -> f64 {
        match &self.bias {
            None => self.settings.bias,
            Some(bias) => f64::from(bias.val().into_scalar::<f32>()),
        }
    }

    fn target(
        &self,
        query: &Tensor<2>,
        keys: &Tensor<2>,
        positives: Positives,
    ) -> Result<Target, ContrastiveError> {
        let size = [query.dims()[0], keys.dims()[0]];
        let loss: CrossEntropyLoss<B> = self.settings.loss();
        let checked = PositiveKeys::new(&loss, positives, size, &query.device())?;
        Ok(checked.apart())
    }

    fn computed(
        &self,
        query: Tensor<2>,
        keys: Tensor<2>,
        target: Target,
        reduction: RequestedReduction,
    ) -> Result<Tensor<1>, ContrastiveError> {
        check_beside(Named::new("query", &query), Named::new("keys", &keys))?;
        let [query, keys] =
            [query, keys].map(|features| normalised(features, self.settings.normalize));
        let (dtype, device) = (query.dtype(), query.device());
        let bias = match &self.bias {
            None => Tensor::full([1], self.settings.bias, (&device, dtype)),
            Some(bias) => on_device(bias.val(), &device).cast(dtype),
        };
        let query = match &self.log_scale {
            None => query.mul_scalar(self.settings.scale),
            Some(log_scale) => {
                let scale = on_device(log_scale.val(), &device).exp().cast(dtype);
                query * scale.unsqueeze::<2>()
            }
        };
        let columns = keys.dims()[0];
        if columns == 0 {
            let queries = query.dims()[0];
            return Err(ContrastiveError::NoKeys { queries });
        }
        let similarities = ProjectedTensors {
            hidden: query.into_dispatch(),
            weight: keys.transpose().into_dispatch(),
            bias: Some(bias.expand([columns]).into_dispatch()),
            leading: None,
            excluded: Excluded::default(),
            chunk: self.settings.chunk,
        };
        let loss: CrossEntropyLoss<B> = self.settings.loss();
        let logits = GivenLogits::projected(similarities);
        let computed = loss.compute(logits, target, Request::loss(reduction))?;
        Ok(Tensor::from_dispatch(computed.loss))
    }
}
