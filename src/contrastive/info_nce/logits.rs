//! Logits of momentum contrast as a tensor.

use burn::tensor::Tensor;

use crate::contrastive::error::{check_positive, unwrap};
use crate::contrastive::features::{
    check_with_positive, in_f32_at_least, over, products, similarity_of_rows,
};

/// Computes the logits of momentum contrast as a tensor, whose target is 0 in every row.
///
/// With queries `q` `[N, F]`, their positives `k` `[N, F]` and common negatives `n` `[K, F]`, the rows of the logits
/// `[N, 1 + K]` are
///
/// ```text
/// [q.k, q.n_0, q.n_1, ..] / temperature
/// ```
///
/// The features are not normalised. There may be no negatives. Logits of features in half precision are in f32:
/// rounded to 8 or 11 bits and multiplied by one over the temperature, they would be coarser than the differences
/// between keys.
///
/// [`InfoNceLoss::forward`](super::InfoNceLoss::forward) computes the loss without holding the logits.
///
/// Source: He et al. (MoCo), 2019, <https://arxiv.org/abs/1911.05722>, algorithm 1.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_cross_entropy::{cross_entropy, moco_logits};
///
/// let device = Device::flex();
/// let query = Tensor::<2>::ones([2, 3], &device);
/// let (positive, negatives) = (query.clone(), Tensor::zeros([5, 3], &device));
/// let logits = moco_logits(query, positive, negatives, 0.5);
/// assert_eq!(logits.dims(), [2, 6]);
/// let loss = cross_entropy(logits, Tensor::<1, Int>::zeros([2], &device));
/// assert!((loss.into_scalar::<f32>() - (5.0 * (-6f32).exp()).ln_1p()).abs() < 1e-6);
/// ```
///
/// # Panics
///
/// With the text of a [`ContrastiveError`](crate::contrastive::ContrastiveError) if the tensors do not
/// fit each other, or the temperature is not positive and finite.
pub fn moco_logits(
    query: Tensor<2>,
    positive: Tensor<2>,
    negatives: Tensor<2>,
    temperature: f64,
) -> Tensor<2> {
    unwrap(check_positive("temperature", temperature));
    unwrap(check_with_positive(&query, &positive, &negatives));
    let [query, positive, negatives] = [query, positive, negatives].map(in_f32_at_least);
    let own = similarity_of_rows(query.clone(), positive).unsqueeze_dim(1);
    let logits = match negatives.dims()[0] {
        // Some backends cannot concatenate tensors without elements.
        0 => own,
        _ => Tensor::cat(vec![own, products(query, negatives)], 1),
    };
    over(logits, temperature)
}
