//! The model: Burn's transformer blocks between an embedding and the same embedding transposed.

use burn::module::{Initializer, Module};
use burn::nn::activation::ActivationConfig;
use burn::nn::attention::generate_autoregressive_mask;
use burn::nn::transformer::{
    TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput,
};
use burn::nn::{
    Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, PositionalEncoding,
    PositionalEncodingConfig,
};
use burn::tensor::{Device, Int, Tensor};

use crate::text::LENGTH;

/// Numbers in the embedding of a character.
pub const FEATURES: usize = 128;
const HEADS: usize = 4;
const LAYERS: usize = 2;

#[derive(Module, Debug)]
pub struct LanguageModel {
    embedding: Embedding,
    positions: PositionalEncoding,
    blocks: TransformerEncoder,
    norm: LayerNorm,
}

impl LanguageModel {
    pub fn new(classes: usize, device: &Device) -> Self {
        // This deviation makes the first logits about as large as the normalised hidden states.
        let embedding = Initializer::Normal {
            mean: 0.0,
            std: (FEATURES as f64).powf(-0.5),
        };
        Self {
            embedding: EmbeddingConfig::new(classes, FEATURES)
                .with_initializer(embedding)
                .init(device),
            positions: PositionalEncodingConfig::new(FEATURES)
                .with_max_sequence_size(LENGTH)
                .init(device),
            blocks: TransformerEncoderConfig::new(FEATURES, 4 * FEATURES, HEADS, LAYERS)
                .with_norm_first(true)
                // Dropout and the default's error function would take a third of the time on a CPU.
                .with_dropout(0.0)
                .with_activation(ActivationConfig::Relu)
                .init(device),
            norm: LayerNormConfig::new(FEATURES).init(device),
        }
    }

    /// Turns characters [passages, length] into hidden states [passages, length, features]. A hidden state
    /// depends on its character and those before it.
    pub fn hidden(&self, characters: Tensor<2, Int>) -> Tensor<3> {
        let [passages, length] = characters.dims();
        let mask = generate_autoregressive_mask(passages, length, &characters.device());
        // The factor makes the embedding as large as the added positions: "Attention is all you need", 3.4.
        let embedded = self.embedding.forward(characters) * (FEATURES as f64).sqrt();
        let input = TransformerEncoderInput::new(self.positions.forward(embedded));
        let input = input.mask_attn(mask);
        self.norm.forward(self.blocks.forward(input))
    }

    /// The projection from hidden states to logits, [features, classes]: a view of the embedding, not a copy.
    pub fn projection(&self) -> Tensor<2> {
        self.embedding.weight.val().transpose()
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{TensorData, Tolerance};
    use burn_cross_entropy::{CrossEntropyLossConfig, LinearCrossEntropyLossConfig};

    use super::*;
    use crate::alone;
    use crate::text::{Batch, IGNORED};

    const CLASSES: usize = 11;

    fn text() -> Vec<i32> {
        (0..400).map(|at| at * at % CLASSES as i32).collect()
    }

    #[test]
    fn a_character_changes_nothing_before_it() {
        let _alone = alone();
        let device = Device::flex();
        let model = LanguageModel::new(CLASSES, &device);
        let mut text = text();
        let mut hidden = || {
            let hidden = model.hidden(Batch::new(&text, &[0]).to_tensors(&device).0);
            text[60] = (text[60] + 1) % CLASSES as i32;
            let values: Vec<f32> = hidden.try_into_vec_as().unwrap();
            values
        };
        let (before, after) = (hidden(), hidden());
        assert_eq!(before[..60 * FEATURES], after[..60 * FEATURES]);
        for place in 60..LENGTH {
            let place = place * FEATURES..(place + 1) * FEATURES;
            assert_ne!(before[place.clone()], after[place]);
        }
    }

    #[test]
    fn without_a_logits_tensor_loss_and_gradients_are_those_with_one() {
        let _alone = alone();
        let device = Device::flex().autodiff();
        let model = LanguageModel::new(CLASSES, &device);
        let mut batch = Batch::new(&text(), &[3, 200]);
        batch.targets[5] = IGNORED;
        let (inputs, targets) = batch.to_tensors(&device);
        let hidden = model.hidden(inputs).detach().require_grad();
        let chunked = LinearCrossEntropyLossConfig::new().with_chunk_rows(Some(50));
        let chunked = chunked.init(&device);
        let over_logits = CrossEntropyLossConfig::new().with_class_dim(-1);
        let over_logits = over_logits.init(&device);

        let one = chunked.forward(hidden.clone(), model.projection(), None, targets.clone());
        let logits = hidden.clone().matmul(model.projection().unsqueeze());
        let other = over_logits.forward(logits, targets);
        let close = |one: TensorData, other: TensorData| {
            one.assert_approx_eq::<f32>(&other, Tolerance::rel_abs(1e-5, 1e-6));
        };
        close(one.to_data(), other.to_data());
        let (one, other) = (one.backward(), other.backward());
        let of_hidden = |gradients| hidden.grad(gradients).unwrap().into_data();
        close(of_hidden(&one), of_hidden(&other));
        let embedding = model.embedding.weight.val();
        let of_embedding = |gradients| embedding.grad(gradients).unwrap().into_data();
        close(of_embedding(&one), of_embedding(&other));
    }
}
