//! The models, one file for each kind of data: layers, sizes, and how a batch becomes a prediction.

mod classifier;
mod segmentation;
mod text;

use std::fmt::{self, Display};

use burn::module::Module;
use burn::tensor::Device;

use crate::side::Prediction;
use crate::training::{Start, start};
use classifier::Classifier;
use segmentation::Segmentation;
use text::{LanguageModel, TextClassifier, VocabularySize};

/// A model that a step trains.
pub trait Model: Module + 'static {
    type Batch: Clone + 'static;

    fn predict(&self, batch: &Self::Batch) -> Prediction<'_>;
}

/// A row of the table.
#[derive(Clone, Copy, PartialEq)]
pub enum Task {
    Classifier,
    TextClassifier,
    CharacterTransformer,
    LanguageModel,
    Segmentation,
}

impl Task {
    pub const ALL: [Self; 5] = [
        Self::Classifier,
        Self::TextClassifier,
        Self::CharacterTransformer,
        Self::LanguageModel,
        Self::Segmentation,
    ];

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|task| task.to_string() == name)
    }

    /// The shape of the logits, with the classes in dimension 1.
    pub fn logits(self) -> &'static [usize] {
        match self {
            Self::Classifier => &classifier::LOGITS,
            Self::TextClassifier => &text::CLASSIFIER_LOGITS,
            Self::CharacterTransformer => &text::CHARACTER_LOGITS,
            Self::LanguageModel => &text::LANGUAGE_LOGITS,
            Self::Segmentation => &segmentation::LOGITS,
        }
    }

    pub fn rows(self) -> usize {
        let logits = self.logits();
        logits.iter().product::<usize>() / logits[1]
    }

    /// The model and its batch, from which every side starts.
    pub fn start(self, device: &Device) -> Start {
        match self {
            Self::Classifier => start(Classifier::new(device), classifier::batch(device), device),
            Self::TextClassifier => {
                let batch = text::classifier_batch(device);
                start(TextClassifier::new(device), batch, device)
            }
            Self::CharacterTransformer => {
                let sizes = VocabularySize::CHARACTERS;
                start(
                    LanguageModel::new(sizes, device),
                    sizes.batch(device),
                    device,
                )
            }
            Self::LanguageModel => {
                let sizes = VocabularySize::WORDS;
                start(
                    LanguageModel::new(sizes, device),
                    sizes.batch(device),
                    device,
                )
            }
            Self::Segmentation => start(
                Segmentation::new(device),
                segmentation::batch(device),
                device,
            ),
        }
    }
}

impl Display for Task {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Self::Classifier => "classifier",
            Self::TextClassifier => "text classifier",
            Self::CharacterTransformer => "character transformer",
            Self::LanguageModel => "language model",
            Self::Segmentation => "segmentation",
        })
    }
}
