//! Temperature, fixed or learnt, as a factor of the queries.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::InfoNceLoss;
use crate::contrastive::autodiff::in_autodiff;
use crate::contrastive::features::over;
use crate::contrastive::parameter::on_device;
use crate::dispatch::CrossEntropyBackend;

impl<B: CrossEntropyBackend> InfoNceLoss<B> {
    /// Factor of the similarities, one over the temperature: `[1]` on the device, in f32; with a gradient
    /// where the temperature is learnt.
    pub fn scale(&self, device: &Device) -> Tensor<1> {
        let scale = match &self.log_scale {
            None => {
                let scale = TensorData::from([(1.0 / self.settings.temperature) as f32]);
                return Tensor::from_data(scale, (device, DType::F32));
            }
            Some(log_scale) => {
                let free = log_scale.val();
                // The parameter gets a gradient also at a bound.
                let plain = free.clone().without_autodiff();
                let beyond = plain.clone() - self.bounded(plain);
                (free - beyond).exp()
            }
        };
        on_device(scale, device)
    }

    /// Temperature that is in use. Waits for the device where the temperature is learnt.
    pub fn temperature(&self) -> f64 {
        match &self.log_scale {
            None => self.settings.temperature,
            Some(log_scale) => {
                let device = log_scale.val().device();
                1.0 / f64::from(self.scale(&device).into_scalar::<f32>())
            }
        }
    }

    /// Logarithms of scales within the bounds.
    fn bounded(&self, log_scale: Tensor<1>) -> Tensor<1> {
        let log_scale = log_scale.clamp_max(self.settings.max_scale.ln());
        match self.settings.min_scale {
            0.0 => log_scale,
            smallest => log_scale.clamp_min(smallest.ln()),
        }
    }

    /// A number times the factor of the similarities, in the dtype of logits.
    pub(super) fn times_scale(&self, number: f64, logits: &Tensor<1>) -> Tensor<1> {
        match self.log_scale.is_none() {
            true => {
                let number = number / self.settings.temperature;
                Tensor::full([1], number, (&logits.device(), logits.dtype()))
            }
            false => self.scale(&logits.device()).cast(logits.dtype()) * number,
        }
    }

    /// Moves the parameter of the temperature back to its bounds, as CLIP does after every step of the
    /// optimizer.
    ///
    /// Without this the parameter may move beyond a bound, where it has no effect.
    pub fn clamp_scale(mut self) -> Self {
        let log_scale = self.log_scale.take();
        self.log_scale = log_scale.map(|parameter| {
            parameter.map(|value| {
                // The result is a leaf again, so that an optimizer finds its gradient.
                let strategy = value.gradient_checkpointing_strategy();
                let require_grad = value.is_require_grad();
                let bounded = self.bounded(value.without_autodiff());
                in_autodiff(bounded, strategy).set_require_grad(require_grad)
            })
        });
        self
    }

    /// Queries divided by the temperature: the products of these with the keys are the logits.
    pub(super) fn scaled(&self, query: Tensor<2>) -> Tensor<2> {
        if self.log_scale.is_none() {
            return over(query, self.settings.temperature);
        }
        let scale = self.scale(&query.device()).cast(query.dtype());
        query * scale.unsqueeze::<2>()
    }
}
