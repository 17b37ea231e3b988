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

/// Tokens in GPT-2's vocabulary.
const GPT_2: usize = 50_257;

const CLASSIFIED: usize = 32;
const CLASSIFIER: BodySize = BodySize::small(8000);
const CLASSES: usize = 4;

pub const CLASSIFIER_LOGITS: [usize; 2] = [CLASSIFIED, CLASSES];
pub const CHARACTER_LOGITS: [usize; 2] = LanguageSize::CHARACTERS.logits();
pub const LANGUAGE_LOGITS: [usize; 2] = LanguageSize::WORDS.logits();

#[derive(Clone, Copy)]
struct BodySize {
    /// Tokens that it knows.
    tokens: usize,
    /// Tokens of the longest text.
    length: usize,
    features: usize,
    heads: usize,
    layers: usize,
}

impl BodySize {
    const fn small(tokens: usize) -> Self {
        Self {
            tokens,
            length: 128,
            features: 128,
            heads: 4,
            layers: 2,
        }
    }
}

/// Embeddings of tokens and places, and Burn's transformer with its own dropout and activation.
#[derive(Module, Debug)]
struct Body {
    tokens: Embedding,
    places: Embedding,
    layers: TransformerEncoder,
}

impl Body {
    fn new(size: BodySize, device: &Device) -> Self {
        let BodySize {
            features,
            heads,
            layers,
            ..
        } = size;
        Self {
            tokens: EmbeddingConfig::new(size.tokens, features).init(device),
            places: EmbeddingConfig::new(size.length, features).init(device),
            layers: TransformerEncoderConfig::new(features, 4 * features, heads, layers)
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
            body: Body::new(CLASSIFIER, device),
            classes: LinearConfig::new(CLASSIFIER.features, CLASSES).init(device),
        }
    }
}

/// Texts [texts, length] and their classes.
pub fn classifier_batch(device: &Device) -> (Tensor<2, Int>, Tensor<1, Int>) {
    let BodySize { tokens, length, .. } = CLASSIFIER;
    let texts = data::indices([CLASSIFIED, length], tokens, Purpose::Tokens, device);
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

/// The size of a language model, and the number of texts in its batch.
#[derive(Clone, Copy)]
pub struct LanguageSize {
    body: BodySize,
    texts: usize,
}

impl LanguageSize {
    pub const CHARACTERS: Self = Self {
        body: BodySize::small(96),
        texts: 16,
    };
    /// The vocabulary of GPT-2.
    pub const WORDS: Self = Self {
        body: BodySize::small(GPT_2),
        texts: 4,
    };
    /// The model of Burn's issue 5212, whose batch is three times as large.
    pub const LARGE: Self = Self {
        body: BodySize {
            tokens: GPT_2,
            length: 256,
            features: 384,
            heads: 12,
            layers: 6,
        },
        texts: 4,
    };

    /// Tokens of the longest text.
    pub const fn length(self) -> usize {
        self.body.length
    }

    /// The shape of the logits of the longest texts.
    pub const fn logits(self) -> [usize; 2] {
        [self.texts * self.body.length, self.body.tokens]
    }

    /// Texts [texts, length] and the next token of each place, in one row.
    pub fn batch(self, length: usize, device: &Device) -> (Tensor<2, Int>, Tensor<1, Int>) {
        let (texts, tokens) = (self.texts, self.body.tokens);
        let next = data::indices([texts * length], tokens, Purpose::Targets, device);
        let texts = data::indices([texts, length], tokens, Purpose::Tokens, device);
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
    pub fn new(LanguageSize { body, .. }: LanguageSize, device: &Device) -> Self {
        Self {
            body: Body::new(body, device),
            tokens: LinearConfig::new(body.features, body.tokens).init(device),
        }
    }
}

impl Model for LanguageModel {
    type Batch = (Tensor<2, Int>, Tensor<1, Int>);

    fn predict(&self, (texts, next): &Self::Batch) -> Prediction<'_> {
        let [count, length] = texts.dims();
        let mask = generate_autoregressive_mask(count, length, &texts.device());
        let hidden = self.body.forward(texts.clone(), Some(mask));
        let hidden = hidden.flatten::<2>(0, 1);
        Prediction::Hidden(hidden, &self.tokens, next.clone())
    }
}
