//! What a contrastive loss compares: queries, their positives, their negatives, and what else is known of them.

use burn::tensor::{Bool, Int, Tensor};

use crate::contrastive::ids::SampleIds;
use crate::contrastive::positives::Positives;

/// Request to an [`InfoNceLoss`](crate::InfoNceLoss): the queries and keys of one of its forms, and what goes with
/// them.
///
/// | Made by | Positive of a row | Negatives |
/// |---|---|---|
/// | [`moco`](Self::moco) | the row of `positive` | all of `negatives` |
/// | [`in_batch`](Self::in_batch) | the same row of the other view | as [`InBatch`](super::InBatch) says |
/// | [`pairs`](Self::pairs) | the key that is given | all other keys |
/// | [`labels`](Self::labels) | the other rows of the same label | all other rows |
/// | [`several`](Self::several) | keys by label, by number, or by a mask | all other keys |
///
/// | Part | Forms |
/// |---|---|
/// | [`with_ids`](Self::with_ids) | `moco`, `in_batch`, `pairs` |
/// | [`with_own_negatives`](Self::with_own_negatives) | `moco`, `in_batch` one-sided, `pairs` |
/// | [`with_log_q`](Self::with_log_q) | all |
/// | [`with_memory`](Self::with_memory) | `labels` |
/// | [`without_themselves`](Self::without_themselves) | `several`; `labels` never compares a row with itself |
///
/// Shapes and combinations are checked by the call that takes the request. A combination that the table does not have
/// is an error that says so.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_cross_entropy::InfoNceLossConfig;
/// use burn_cross_entropy::contrastive::Contrast;
///
/// // A query with two negatives of its own, the second of which only fills the row.
/// let device = Device::flex();
/// let features = || Tensor::<2>::from_floats([[1.0, 0.0]], &device);
/// let own = Tensor::<3>::from_floats([[[0.0, 1.0], [-1.0, 0.0]]], &device);
/// let mask = Tensor::<2, Int>::from_ints([[1, 0]], &device).bool();
/// let contrast = Contrast::moco(features(), features(), Tensor::zeros([0, 2], &device))
///     .with_own_negatives(own, Some(mask));
///
/// let loss = InfoNceLossConfig::new().with_temperature(1.0).init(&device);
/// let value = loss.forward_contrast(contrast).into_scalar::<f32>();
/// assert!((value - 0.3132617).abs() < 1e-6);
/// ```
#[derive(Clone, Debug)]
pub struct Contrast {
    pub(super) form: Form,
    pub(super) ids: Option<SampleIds>,
    pub(super) own_negatives: Option<OwnNegatives>,
    pub(super) log_q: Option<Vec<Tensor<1>>>,
    pub(super) memory: Option<Memory>,
    pub(super) without_themselves: bool,
}

/// Keys of earlier steps, and their labels.
pub(super) type Memory = (Tensor<2>, Tensor<1, Int>);

// A call moves it a few times, and a box would be an allocation.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub(super) enum Form {
    Moco {
        query: Tensor<2>,
        positive: Tensor<2>,
        negatives: Tensor<2>,
    },
    InBatch {
        a: Tensor<2>,
        b: Tensor<2>,
    },
    Pairs {
        query: Tensor<2>,
        keys: Tensor<2>,
        positive: Tensor<1, Int>,
    },
    Labels {
        features: Tensor<2>,
        labels: Tensor<1, Int>,
    },
    Several {
        query: Tensor<2>,
        keys: Tensor<2>,
        positives: Positives,
    },
}

/// Negatives of each row alone.
#[derive(Clone, Debug)]
pub(super) struct OwnNegatives {
    /// Shape `[rows, n, features]`.
    pub(super) features: Tensor<3>,
    /// True where there is a negative, `[rows, n]`.
    pub(super) mask: Option<Tensor<2, Bool>>,
}

impl Contrast {
    fn of(form: Form) -> Self {
        Self {
            form,
            ids: None,
            own_negatives: None,
            log_q: None,
            memory: None,
            without_themselves: false,
        }
    }

    /// Compares queries `[N, F]` with one positive each, `[N, F]`, and common negatives `[K, F]`: momentum contrast.
    pub fn moco(query: Tensor<2>, positive: Tensor<2>, negatives: Tensor<2>) -> Self {
        Self::of(Form::Moco {
            query,
            positive,
            negatives,
        })
    }

    /// Compares two views `[N, F]` of a batch, as the option [`in_batch`](super::InfoNceLossConfig::in_batch) says.
    pub fn in_batch(a: Tensor<2>, b: Tensor<2>) -> Self {
        Self::of(Form::InBatch { a, b })
    }

    /// Compares rows `[N, F]` with keys `[K, F]`: the positive of row `i` is key `positive[i]`; -100 for a row without.
    pub fn pairs(query: Tensor<2>, keys: Tensor<2>, positive: Tensor<1, Int>) -> Self {
        Self::of(Form::Pairs {
            query,
            keys,
            positive,
        })
    }

    /// Compares the rows `[N, F]` of a batch with each other: rows of the same label are positives, and a row is never
    /// compared with itself.
    pub fn labels(features: Tensor<2>, labels: Tensor<1, Int>) -> Self {
        Self::of(Form::Labels { features, labels })
    }

    /// Compares rows `[N, F]` with keys `[K, F]`, of which several may be positives of a row.
    ///
    /// A row without a positive is ignored. Where rows and keys are one batch, add
    /// [`without_themselves`](Self::without_themselves).
    pub fn several(query: Tensor<2>, keys: Tensor<2>, positives: Positives) -> Self {
        Self::of(Form::Several {
            query,
            keys,
            positives,
        })
    }

    /// Leaves out negatives that are of the sample of their query: an old key in a queue, a second view in the
    /// batch. The positive of a query stays.
    ///
    /// In a batch `ids.queries` belong to the first view, and `ids.negatives` to the second ([`SampleIds::same`] where
    /// they are the same samples).
    pub fn with_ids(self, ids: SampleIds) -> Self {
        Self {
            ids: Some(ids),
            ..self
        }
    }

    /// Adds negatives `[N, M, F]` of each row alone, such as the hard negatives of a query.
    ///
    /// `mask` `[N, M]` is true where there is a negative; without a mask all are. [`Contrast`] has an example.
    pub fn with_own_negatives(self, features: Tensor<3>, mask: Option<Tensor<2, Bool>>) -> Self {
        Self {
            own_negatives: Some(OwnNegatives { features, mask }),
            ..self
        }
    }

    /// Corrects for keys that are not drawn evenly.
    ///
    /// `log_q`, the logarithm of the probability that a key is drawn, is subtracted from its logit (similarity over
    /// temperature). A frequent key is then not pushed away for being a negative more often: the loss estimates the
    /// softmax over all keys there are.
    ///
    /// There is one tensor for each tensor of keys of the form:
    ///
    /// | Form | `log_q` |
    /// |---|---|
    /// | `moco` | `[of_positive, of_negatives]` |
    /// | `pairs`, `several` | `[of_keys]` |
    /// | `labels` | `[of_features]`, with a memory `[of_features, of_memory]` |
    /// | `in_batch` | `[of_a, of_b]`; one-sided `of_a` is not used |
    ///
    /// Source: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", 2019,
    /// <https://doi.org/10.1145/3298689.3346996>.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use burn_cross_entropy::InfoNceLossConfig;
    /// use burn_cross_entropy::contrastive::Contrast;
    ///
    /// let device = Device::flex();
    /// let row = |x: [f32; 2]| Tensor::<2>::from_floats([x], &device);
    /// let negatives = Tensor::<2>::from_floats([[0.0, 1.0], [0.0, -1.0]], &device);
    /// let log_q = vec![
    ///     Tensor::<1>::from_floats([0.5f32.ln()], &device),
    ///     Tensor::<1>::from_floats([0.25f32.ln(), 0.25f32.ln()], &device),
    /// ];
    /// let contrast = Contrast::moco(row([1.0, 0.0]), row([1.0, 0.0]), negatives);
    /// let loss = InfoNceLossConfig::new().with_temperature(1.0).init(&device);
    /// let value = loss.forward_contrast(contrast.with_log_q(log_q)).into_scalar::<f32>();
    /// assert!((value - 0.9048324).abs() < 1e-6);
    /// ```
    pub fn with_log_q(self, log_q: Vec<Tensor<1>>) -> Self {
        Self {
            log_q: Some(log_q),
            ..self
        }
    }

    /// Leaves out key `i` of row `i`, which is the row itself where rows and keys are of one batch.
    ///
    /// It is neither a positive, whatever the positives say, nor a negative. There are at least as many keys as rows.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use burn_cross_entropy::InfoNceLossConfig;
    /// use burn_cross_entropy::contrastive::{Contrast, Positives};
    ///
    /// // Positives by their numbers: rows 0 and 1 belong together, and row 2 to both.
    /// let device = Device::flex();
    /// let features = Tensor::<2>::from_floats([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]], &device);
    /// let numbers = Tensor::<2, Int>::from_ints([[1, -100], [0, -100], [0, 1]], &device);
    /// let contrast = Contrast::several(features.clone(), features, Positives::Indices(numbers));
    ///
    /// let loss = InfoNceLossConfig::new().with_temperature(1.0).init(&device);
    /// let value = loss.forward_contrast(contrast.without_themselves()).into_scalar::<f32>();
    /// // Row 0 is ln(exp(0.8) + exp(0.6)) - 0.8, the others likewise.
    /// assert!((value - 0.694581).abs() < 1e-6);
    /// ```
    pub fn without_themselves(self) -> Self {
        Self {
            without_themselves: true,
            ..self
        }
    }

    /// Adds keys of earlier steps `[K, F]` with their labels `[K]`: a memory across batches.
    ///
    /// They are positives and negatives of the rows, and no rows themselves. A
    /// [`NegativeQueue`](super::super::NegativeQueue) that keeps labels as its ids is such a memory.
    ///
    /// Source: Wang et al., "Cross-Batch Memory for Embedding Learning", 2020, <https://arxiv.org/abs/1912.06798>.
    pub fn with_memory(self, keys: Tensor<2>, labels: Tensor<1, Int>) -> Self {
        Self {
            memory: Some((keys, labels)),
            ..self
        }
    }
}
