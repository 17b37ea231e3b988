//! Which keys belong to a row, where several may.

use burn::tensor::{Bool, DType, Device, Int, Tensor};

use super::error::ContrastiveError;
use super::features::check_devices;
use super::ids::{check_id_dtypes, check_ids};
use crate::dispatch::CrossEntropyBackend;
use crate::loss::{CrossEntropyLoss, RangeCheck, Target};

/// Keys that belong to each row, where a row may have several or none.
///
/// A row without a positive is ignored in [`Contrast::several`](super::Contrast::several); its pairs count as the others
/// in [`SigLipLoss::forward_positives`](super::SigLipLoss::forward_positives).
/// [`Contrast::without_themselves`](super::Contrast::without_themselves) has an example.
// A call moves it a few times, and a box would be an allocation.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum Positives {
    /// The keys with the label of the row.
    Labels {
        /// One label for each row, `[rows]`.
        rows: Tensor<1, Int>,
        /// One label for each key, `[keys]`, in the same dtype.
        keys: Tensor<1, Int>,
    },
    /// The keys with these numbers, `[rows, n]`; -100 fills rows that have fewer. On the CPU backends another number that
    /// is not a key is an error.
    Indices(Tensor<2, Int>),
    /// The keys at which this is true, `[rows, keys]`. The only form that holds a number for each pair: four bytes besides
    /// the mask.
    Mask(Tensor<2, Bool>),
}

/// Number that fills rows with fewer positives than others.
const IGNORED: i64 = -100;

/// Positives that fit rows and keys.
// A call moves it a few times, and a box would be an allocation.
#[allow(clippy::large_enum_variant)]
pub(super) enum PositiveKeys {
    Labels([Tensor<1, Int>; 2]),
    Indices(Tensor<2, Int>),
    Mask(Tensor<2, Bool>),
}

impl PositiveKeys {
    /// Checks positives of so many rows among so many keys.
    pub(super) fn new<B: CrossEntropyBackend>(
        loss: &CrossEntropyLoss<B>,
        positives: Positives,
        [rows, keys]: [usize; 2],
        device: &Device,
    ) -> Result<Self, ContrastiveError> {
        Ok(match positives {
            Positives::Labels {
                rows: of_rows,
                keys: of_keys,
            } => {
                check_ids(&of_rows, "rows", rows, device)?;
                check_ids(&of_keys, "keys", keys, device)?;
                check_id_dtypes(&of_rows, &of_keys)?;
                Self::Labels([of_rows, of_keys].map(Tensor::without_autodiff))
            }
            Positives::Indices(indices) => {
                check_numbers(loss, &indices, [rows, keys], device)?;
                Self::Indices(indices.without_autodiff())
            }
            Positives::Mask(mask) => {
                if mask.dims() != [rows, keys] {
                    return Err(ContrastiveError::PositivesMask {
                        mask: mask.dims(),
                        expected: [rows, keys],
                    });
                }
                check_devices(("positives", mask.device()), ("rows", device.clone()))?;
                Self::Mask(mask.without_autodiff())
            }
        })
    }

    /// These without the key of each row, `[rows, 1]`, that is the row itself. Keys of a label are those that are not
    /// excluded from the similarities.
    pub(super) fn without(self, itself: Tensor<2, Int>) -> Self {
        match self {
            Self::Labels(labels) => Self::Labels(labels),
            Self::Indices(indices) if indices.shape().num_elements() == 0 => Self::Indices(indices),
            Self::Indices(indices) => {
                let itself = itself.cast(indices.dtype()).expand(indices.dims());
                let is_itself = indices.clone().equal(itself);
                Self::Indices(indices.mask_fill(is_itself, IGNORED))
            }
            Self::Mask(mask) if mask.shape().num_elements() == 0 => Self::Mask(mask),
            Self::Mask(mask) => {
                let numbers = Tensor::<1, Int>::arange(0..mask.dims()[1] as i64, &itself.device());
                let numbers = numbers.unsqueeze_dim::<2>(0).expand(mask.dims());
                let is_other = itself.expand(mask.dims()).not_equal(numbers);
                Self::Mask(mask.bool_and(is_other))
            }
        }
    }

    /// Target whose positives have equal shares of a dtype; a row without positives is ignored.
    pub(super) fn shared(self, dtype: DType) -> Target {
        match self {
            Self::Labels([rows, keys]) => Target::alike(rows, keys),
            Self::Indices(indices) => {
                let (shares, weights) =
                    equal_shares(indices.clone().greater_equal_elem(0).float().cast(dtype));
                Target::sparse(indices, shares, None).with_row_weights(weights)
            }
            Self::Mask(mask) => {
                let (shares, weights) = equal_shares(mask.float().cast(dtype));
                Target::of_distributions(shares).with_row_weights(weights)
            }
        }
    }

    /// Target whose positives are asked for each apart.
    pub(super) fn apart(self) -> Target {
        match self {
            Self::Labels([rows, keys]) => Target::alike(rows, keys),
            Self::Indices(indices) => {
                let ones = indices.ones_like().float();
                Target::sparse(indices, ones, None)
            }
            Self::Mask(mask) => Target::of_distributions(mask.float()),
        }
    }
}

/// Checks numbers of keys, each a key or -100, as far as they lie in the host's memory.
pub(super) fn check_numbers<B: CrossEntropyBackend, const D: usize>(
    loss: &CrossEntropyLoss<B>,
    positive: &Tensor<D, Int>,
    [rows, keys]: [usize; 2],
    device: &Device,
) -> Result<(), ContrastiveError> {
    let positives = positive.dims()[0];
    if positives != rows {
        return Err(ContrastiveError::Positives {
            positives,
            queries: rows,
        });
    }
    if keys == 0 {
        return Err(ContrastiveError::NoKeys { queries: rows });
    }
    let target = Target::of_indices(positive.clone());
    loss.check_indices(&target, device, keys, RangeCheck::WhereFree)
        .map_err(|error| match ContrastiveError::from(error) {
            // The check counts every number of a row.
            ContrastiveError::PositiveOutOfRange { row, value, keys } => {
                let of_row = positive.shape().num_elements() / rows.max(1);
                ContrastiveError::PositiveOutOfRange {
                    row: row / of_row.max(1),
                    value,
                    keys,
                }
            }
            error => error,
        })
}

/// Equal shares of what is 1 in each row; and of each row 1 where it has such, 0 elsewhere.
fn equal_shares(ones: Tensor<2>) -> (Tensor<2>, Tensor<1>) {
    let [rows, columns] = ones.dims();
    if rows * columns == 0 {
        let device = ones.device();
        let none = Tensor::zeros([rows], (&device, ones.dtype()));
        return (ones, none);
    }
    let counts = ones.clone().sum_dim(1);
    let shares = ones / counts.clone().clamp_min(1.0);
    (shares, counts.clamp_max(1.0).squeeze_dim(1))
}
