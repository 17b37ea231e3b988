//! The options of the loss with its projection.

use std::marker::PhantomData;

use burn::backend::Dispatch;
use burn::config::Config;
use burn::tensor::Device;

use super::LinearCrossEntropyLoss;
use crate::backend::CrossEntropyBackend;
use crate::error::CrossEntropyError;
use crate::loss::config::CrossEntropyLossConfig;
use crate::loss::cross_entropy::{CrossEntropyLoss, unwrap};
use crate::loss::source::Chunk;

/// Configuration of [`LinearCrossEntropyLoss`].
///
/// ```
/// use burn::tensor::Device;
/// use burn_cross_entropy::{CrossEntropyLossConfig, LinearCrossEntropyLossConfig};
///
/// let loss = LinearCrossEntropyLossConfig::new()
///     .with_loss(CrossEntropyLossConfig::new().with_z_loss(1e-4))
///     .with_chunk_bytes(16 << 20)
///     .init(&Device::flex());
/// ```
#[derive(Config, Debug)]
pub struct LinearCrossEntropyLossConfig {
    /// The loss. Every option has the meaning that it has there, but for `class_dim`: the classes are
    /// in the last dimension, as the projection puts them, and so it is 1, its default, or -1.
    #[config(default = "CrossEntropyLossConfig::new()")]
    pub loss: CrossEntropyLossConfig,
    /// The bytes that logits may take at one time, counted in the dtype that is computed in: f64 for
    /// f64, f32 for every other. Below the size of one row of logits one row is made at a time, and a
    /// chunk is never larger than the largest buffer of the device. Default: 64 MiB.
    #[config(default = "64 << 20")]
    pub chunk_bytes: usize,
    /// Rows that have logits at one time, instead of `chunk_bytes`. At least 1. Default: as many as
    /// `chunk_bytes` has room for.
    pub chunk_rows: Option<usize>,
}

impl Default for LinearCrossEntropyLossConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl LinearCrossEntropyLossConfig {
    /// The loss for tensors of every backend, see [`CrossEntropyLossConfig::init`].
    ///
    /// # Panics
    ///
    /// If a value is out of its range; the text names the field and the value.
    pub fn init(&self, device: &Device) -> LinearCrossEntropyLoss {
        self.init_for::<Dispatch>(device)
    }

    /// The loss bound to the backend `B` at compile time, see [`CrossEntropyLossConfig::init_for`].
    ///
    /// # Panics
    ///
    /// If a value is out of its range; the text names the field and the value.
    pub fn init_for<B: CrossEntropyBackend>(&self, device: &Device) -> LinearCrossEntropyLoss<B> {
        unwrap(self.try_init_for(device))
    }

    /// [`init_for`](Self::init_for) that returns what is wrong with the configuration.
    ///
    /// # Errors
    ///
    /// [`CrossEntropyError::InvalidConfig`] for the first value that is out of its range.
    pub fn try_init_for<B: CrossEntropyBackend>(
        &self,
        device: &Device,
    ) -> Result<LinearCrossEntropyLoss<B>, CrossEntropyError> {
        if !matches!(self.loss.class_dim, 1 | -1) {
            return Err(CrossEntropyError::InvalidConfig {
                field: "loss.class_dim",
                value: self.loss.class_dim.to_string(),
                expected: "1 or -1: a projection has its classes in the last dimension",
            });
        }
        let chunk = match self.chunk_rows {
            Some(0) => {
                return Err(CrossEntropyError::InvalidConfig {
                    field: "chunk_rows",
                    value: "0".to_string(),
                    expected: "at least 1, or None for as many as `chunk_bytes` has room for",
                });
            }
            Some(rows) => Chunk::Rows(rows),
            None => Chunk::Bytes(self.chunk_bytes),
        };
        let loss = self.loss.clone().with_class_dim(-1);
        let CrossEntropyLoss {
            weight, settings, ..
        } = loss.try_init_for::<B>(device)?;
        Ok(LinearCrossEntropyLoss {
            weight,
            settings,
            chunk,
            backend: PhantomData,
        })
    }
}
