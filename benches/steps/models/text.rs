//! Transformers over tokens: one class for a text, or the next token at every place.

use burn::module::Module;
use burn::nn::attention::generate_autoregressive_mask;
use burn::nn::transformer::{
    TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput,
};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::{Bool, Device, Int, Tensor};

use super::Model;
use crate::data::{self, Purpose};
use crate::side::Prediction;

/// Tokens of a text.
const LENGTH: usize = 128;
const FEATURES: usize = 128;
const HEADS: usize = 4;
const LAYERS: usize = 2;

const CLASSIFIED: usize = 32;
/// Tokens that the classifier knows.
const KNOWN: usize = 8000;
const CLASSES: usize = 4;

pub const CLASSIFIER_LOGITS: [usize; 2] = [CLASSIFIED, CLASSES];
pub const CHARACTER_LOGITS: [usize; 2] = VocabularySize::CHARACTERS.logits();
pub const LANGUAGE_LOGITS: [usize; 2] = VocabularySize::WORDS.logits();

/// Embeddings of tokens and places, and Burn's transformer with its own dropout and activation.
#[derive(Module, Debug)]
struct Body {
    tokens: Embedding,
    places: Embedding,
    layers: TransformerEncoder,
}

impl Body {
    fn new(tokens: usize, device: &Device) -> Self {
        Self {
            tokens: EmbeddingConfig::new(tokens, FEATURES).init(device),
            places: EmbeddingConfig::new(LENGTH, FEATURES).init(device),
            layers: TransformerEncoderConfig::new(FEATURES, 4 * FEATURES, HEADS, LAYERS)
                .with_norm_first(true)
                .init(device),
        }
    }

    /// Turns tokens [texts, length] into hidden states [texts, length, features].
    fn forward(&self, tokens: Tensor<2, Int>, mask: Option<Tensor<3, Bool>>) -> Tensor<3> {
        let [_, length] = tokens.dims();
        let places = Tensor::arange(0..length as i64, &tokens.device()).unsqueeze();
        let embedded = self.tokens.forward(tokens) + self.places.forward(places);
        let input = TransformerEncoderInput::new(embedded);
        self.layers.forward(match mask {
            Some(mask) => input.mask_attn(mask),
            None => input,
        })
    }
}

/// Gives a text the class that its first hidden state says.
#[derive(Module, Debug)]
pub struct TextClassifier {
    body: Body,
    classes: Linear,
}

impl TextClassifier {
    pub fn new(device: &Device) -> Self {
        Self {
            body: Body::new(KNOWN, device),
            classes: LinearConfig::new(FEATURES, CLASSES).init(device),
        }
    }
}

/// Texts [texts, length] and their classes.
pub fn classifier_batch(device: &Device) -> (Tensor<2, Int>, Tensor<1, Int>) {
    let texts = data::indices([CLASSIFIED, LENGTH], KNOWN, Purpose::Tokens, device);
    let classes = data::indices([CLASSIFIED], CLASSES, Purpose::Targets, device);
    (texts, classes)
}

impl Model for TextClassifier {
    type Batch = (Tensor<2, Int>, Tensor<1, Int>);

    fn predict(&self, (texts, classes): &Self::Batch) -> Prediction<'_> {
        let hidden = self.body.forward(texts.clone(), None);
        let first = hidden.narrow(1, 0, 1).squeeze_dim::<2>(1);
        Prediction::Rows(self.classes.forward(first), classes.clone())
    }
}

/// The number of tokens that a language model knows, and of texts in a batch.
#[derive(Clone, Copy)]
pub struct VocabularySize {
    tokens: usize,
    texts: usize,
}

impl VocabularySize {
    pub const CHARACTERS: Self = Self {
        tokens: 96,
        texts: 16,
    };
    /// The vocabulary of GPT-2.
    pub const WORDS: Self = Self {
        tokens: 50_257,
        texts: 4,
    };

    const fn logits(self) -> [usize; 2] {
        [self.texts * LENGTH, self.tokens]
    }

    /// Texts [texts, length] and the next token of each place, in one row.
    pub fn batch(self, device: &Device) -> (Tensor<2, Int>, Tensor<1, Int>) {
        let Self { tokens, texts } = self;
        let next = data::indices([texts * LENGTH], tokens, Purpose::Targets, device);
        let texts = data::indices([texts, LENGTH], tokens, Purpose::Tokens, device);
        (texts, next)
    }
}

/// Says at every place which token comes next.
#[derive(Module, Debug)]
pub struct LanguageModel {
    body: Body,
    tokens: Linear,
}

impl LanguageModel {
    pub fn new(size: VocabularySize, device: &Device) -> Self {
        Self {
            body: Body::new(size.tokens, device),
            tokens: LinearConfig::new(FEATURES, size.tokens).init(device),
        }
    }
}

impl Model for LanguageModel {
    type Batch = (Tensor<2, Int>, Tensor<1, Int>);

    fn predict(&self, (texts, next): &Self::Batch) -> Prediction<'_> {
        let [count, length] = texts.dims();
        let mask = generate_autoregressive_mask(count, length, &texts.device());
        let hidden = self.body.forward(texts.clone(), Some(mask));
        let hidden = hidden.reshape([count * length, FEATURES]);
        Prediction::Hidden(hidden, &self.tokens, next.clone())
    }
}
