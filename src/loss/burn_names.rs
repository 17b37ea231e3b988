//! The calls that `burn::nn::loss` has for options, by their names there, so that a program that makes and calls a loss
//! changes its import and nothing else. Fields keep the names of this crate.

use burn::tensor::Device;

use super::config::CrossEntropyLossConfig;
use super::cross_entropy::CrossEntropyLoss;

impl CrossEntropyLossConfig {
    /// Burn's name of [`ignore_indices`](Self::ignore_indices): the targets that are ignored; `None` is the default,
    /// which ignores -100.
    ///
    /// Unlike in `burn::nn`, such a target need not be a class.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let device = Device::flex();
    /// let loss = CrossEntropyLossConfig::new().with_pad_tokens(Some(vec![0])).init(&device);
    /// let logits = Tensor::<2>::from_floats([[0.0, 0.0], [9.0, 0.0]], &device);
    /// let value = loss.forward(logits, Tensor::<1, Int>::from_ints([1, 0], &device));
    /// assert!((value.into_scalar::<f32>() - 2f32.ln()).abs() < 1e-6);
    /// ```
    pub fn with_pad_tokens(self, pad_tokens: Option<Vec<usize>>) -> Self {
        let Some(tokens) = pad_tokens else {
            return self.with_ignore_indices(Self::new().ignore_indices);
        };
        // No target is a number beyond i64.
        let tokens = tokens.into_iter().flat_map(i64::try_from);
        self.with_ignore_indices(tokens.collect())
    }

    /// Burn's name of [`weight`](Self::weight): a weight for each class, at least 0.
    ///
    /// ```
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let config = CrossEntropyLossConfig::new().with_weights(Some(vec![1.0, 2.0]));
    /// assert_eq!(config.weight, Some(vec![1.0, 2.0]));
    /// ```
    pub fn with_weights(self, weights: Option<Vec<f32>>) -> Self {
        self.with_weight(weights)
    }

    /// Burn's name of [`label_smoothing`](Self::label_smoothing): a share in `[0, 1]`; `None` is 0.
    ///
    /// ```
    /// use burn_cross_entropy::CrossEntropyLossConfig;
    ///
    /// let config = CrossEntropyLossConfig::new().with_smoothing(Some(0.25));
    /// assert_eq!(config.label_smoothing, 0.25);
    /// ```
    pub fn with_smoothing(self, smoothing: Option<f32>) -> Self {
        self.with_label_smoothing(smoothing.map_or(0.0, f64::from))
    }
}

impl CrossEntropyLoss {
    /// Makes the loss as `burn::nn` does: with the defaults, and with `pad_index` as the target to ignore where there is
    /// one. [`CrossEntropyLossConfig`] has all options.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::CrossEntropyLoss;
    ///
    /// let device = Device::flex();
    /// let logits = Tensor::<2>::from_floats([[0.0, 0.0], [9.0, 0.0]], &device);
    /// let targets = Tensor::<1, Int>::from_ints([1, 0], &device);
    /// let value = CrossEntropyLoss::new(Some(0), &device).forward(logits, targets);
    /// assert!((value.into_scalar::<f32>() - 2f32.ln()).abs() < 1e-6);
    /// ```
    pub fn new(pad_index: Option<usize>, device: &Device) -> Self {
        CrossEntropyLossConfig::new()
            .with_pad_tokens(pad_index.map(|index| vec![index]))
            .init(device)
    }
}
