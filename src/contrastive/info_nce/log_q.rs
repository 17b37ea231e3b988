//! Logarithms of the probabilities that keys are drawn with.

use burn::tensor::Tensor;

use super::request::{Form, Memory};
use crate::contrastive::error::ContrastiveError;

/// The given logarithms of probabilities, one after the other.
pub(super) struct LogQ(std::vec::IntoIter<Tensor<1>>);

impl LogQ {
    pub(super) fn new(
        given: Option<Vec<Tensor<1>>>,
        form: &Form,
        memory: Option<&Memory>,
    ) -> Result<Self, ContrastiveError> {
        let Some(given) = given else {
            return Ok(Self(Vec::new().into_iter()));
        };
        let (device, sizes) = match form {
            Form::Moco {
                query,
                positive,
                negatives,
            } => (
                query.device(),
                vec![
                    ("positive", positive.dims()[0]),
                    ("negatives", negatives.dims()[0]),
                ],
            ),
            Form::InBatch { a, b } => (a.device(), vec![("a", a.dims()[0]), ("b", b.dims()[0])]),
            Form::Pairs { keys, .. } | Form::Several { keys, .. } => {
                (keys.device(), vec![("keys", keys.dims()[0])])
            }
            Form::Labels { features, .. } => {
                let mut sizes = vec![("features", features.dims()[0])];
                sizes.extend(memory.map(|(keys, _)| ("memory", keys.dims()[0])));
                (features.device(), sizes)
            }
        };
        let lengths: Vec<usize> = given.iter().map(|log_q| log_q.dims()[0]).collect();
        let expected: Vec<usize> = sizes.iter().map(|(_, size)| *size).collect();
        let is_there = given
            .iter()
            .all(|log_q| log_q.device().without_autodiff() == device.clone().without_autodiff());
        if lengths != expected || !is_there {
            return Err(ContrastiveError::LogQ {
                given: lengths,
                tensors: sizes.iter().map(|(name, _)| *name).collect(),
                expected,
            });
        }
        let constants = given.into_iter().map(Tensor::without_autodiff);
        Ok(Self(constants.collect::<Vec<_>>().into_iter()))
    }

    pub(super) fn next(&mut self) -> Option<Tensor<1>> {
        self.0.next()
    }
}
