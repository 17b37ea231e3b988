//! Ids of samples, and labels: numbers of rows and keys that are the same or not.

use burn::backend::Dispatch;
use burn::tensor::{Device, Int, Tensor};

use super::error::ContrastiveError;
use crate::operation::Ids;

/// Ids of the samples of queries and keys: a negative with the id of a query is excluded for that query.
///
/// Ids are any integers, of one dtype, on the device of the features.
/// [`InfoNceLoss::forward_with_ids`](super::InfoNceLoss::forward_with_ids) and
/// [`Contrast::with_ids`](super::Contrast::with_ids) take them.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_cross_entropy::InfoNceLossConfig;
/// use burn_cross_entropy::contrastive::SampleIds;
///
/// let device = Device::flex();
/// let query = Tensor::<2>::from_floats([[1.0, 0.0]], &device);
/// // The queue holds an old key of the query's own sample, and a key of another.
/// let negatives = Tensor::<2>::from_floats([[0.8, 0.6], [0.0, 1.0]], &device);
/// let ids = SampleIds {
///     queries: Tensor::<1, Int>::from_ints([17], &device),
///     negatives: Tensor::<1, Int>::from_ints([17, 5], &device),
/// };
///
/// let loss = InfoNceLossConfig::new().with_temperature(1.0).init(&device);
/// let value = loss.forward_with_ids(query.clone(), query, negatives, ids).into_scalar::<f32>();
/// // Similarity 1 to the positive, and 0 to the one negative that is left.
/// assert!((value - (-1f32).exp().ln_1p()).abs() < 1e-6);
/// ```
#[derive(Clone, Debug)]
pub struct SampleIds {
    /// One id for each query, `[N]`.
    pub queries: Tensor<1, Int>,
    /// One id for each negative, `[K]` (where the keys are given as a whole, for each key), in the dtype of the queries'
    /// ids.
    pub negatives: Tensor<1, Int>,
}

impl SampleIds {
    /// Makes the ids of queries and keys that are two views of the same samples.
    pub fn same(ids: Tensor<1, Int>) -> Self {
        Self {
            queries: ids.clone(),
            negatives: ids,
        }
    }

    /// Ids of both sides as one batch.
    pub(super) fn one_after_the_other(self) -> Result<Self, ContrastiveError> {
        check_id_dtypes(&self.queries, &self.negatives)?;
        let both = Tensor::cat(vec![self.queries, self.negatives], 0);
        Ok(Self::same(both))
    }

    /// Checks the ids beside rows and keys on the device, and converts them. `of` names the keys.
    pub(super) fn given(
        &self,
        rows: usize,
        (keys, of): (usize, &'static str),
        device: &Device,
    ) -> Result<Ids<Dispatch>, ContrastiveError> {
        check_ids(&self.queries, "queries", rows, device)?;
        check_ids(&self.negatives, of, keys, device)?;
        check_id_dtypes(&self.queries, &self.negatives)?;
        let plain = |ids: &Tensor<1, Int>| ids.clone().without_autodiff().into_dispatch();
        Ok(Ids::Given {
            rows: plain(&self.queries),
            columns: plain(&self.negatives),
        })
    }
}

/// Checks that there is an id for each row, on the device of the features.
pub(super) fn check_ids(
    ids: &Tensor<1, Int>,
    of: &'static str,
    rows: usize,
    device: &Device,
) -> Result<(), ContrastiveError> {
    let count = ids.dims()[0];
    if count != rows {
        return Err(ContrastiveError::SampleIds {
            of,
            ids: count,
            rows,
        });
    }
    if ids.device().without_autodiff() != device.clone().without_autodiff() {
        return Err(ContrastiveError::SampleIdDevice {
            of,
            ids: ids.device().into(),
            features: device.clone().into(),
        });
    }
    Ok(())
}

pub(super) fn check_id_dtypes(
    queries: &Tensor<1, Int>,
    negatives: &Tensor<1, Int>,
) -> Result<(), ContrastiveError> {
    match queries.dtype() == negatives.dtype() {
        true => Ok(()),
        false => Err(ContrastiveError::SampleIdDtypes {
            queries: queries.dtype(),
            negatives: negatives.dtype(),
        }),
    }
}
