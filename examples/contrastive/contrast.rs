//! The logits of momentum contrast for a few held-out images, as a tensor to look at.

use burn::module::Module;
use burn::tensor::Tensor;
use burn_cross_entropy::moco_logits;

use crate::augment;
use crate::data::{self, Image};
use crate::encoder::Encoder;
use crate::evaluate::Protocol;

/// Most rows, and most columns after the first; fewer images give fewer.
const QUERIES: usize = 16;
const NEGATIVES: usize = 23;

/// The similarity of each query to its positive, at index 0, and to the negatives after it: the queries are
/// views of some images, the positives other views of them, the negatives views of other images.
pub fn similarities(encoder: &Encoder, protocol: &Protocol) -> Result<Vec<Vec<f32>>, String> {
    let images = &protocol.held_out.images;
    let queries = QUERIES.min(images.len() / 2);
    let all = images.len().min(queries + NEGATIVES);
    let encoder = encoder.valid();
    let embed = |numbers: std::ops::Range<usize>, which: u64| -> Tensor<2> {
        let view = |at: usize| augment::view(&images[at], protocol.size, [0, 0, at as u64, which]);
        let views: Vec<Image> = numbers.map(view).collect();
        encoder.forward(data::to_tensor(&views, protocol.size, &encoder.device()))
    };
    let (query, positive) = (embed(0..queries, 0), embed(0..queries, 1));
    let logits = moco_logits(query, positive, embed(queries..all, 1), 1.0);
    let columns = logits.dims()[1];
    let values: Vec<f32> = logits
        .try_into_vec_as()
        .map_err(|error| format!("the similarities cannot be read from the device: {error}"))?;
    Ok(values.chunks(columns).map(<[f32]>::to_vec).collect())
}
