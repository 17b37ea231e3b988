//! The models, one file for each kind of data: layers, sizes, and how a batch becomes a prediction.

mod classifier;
mod segmentation;
mod text;

use std::fmt::{self, Display};

use burn::module::Module;
use burn::tensor::Device;

use crate::data::lengths;
use crate::side::Prediction;
use crate::training::{Start, start};
use classifier::Classifier;
use segmentation::Segmentation;
use text::{LanguageModel, LanguageSize, TextClassifier};

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
            Self::Classifier => {
                let batch = classifier::batch(device);
                start(Classifier::new(device), vec![batch], device)
            }
            Self::TextClassifier => {
                let batch = text::classifier_batch(device);
                start(TextClassifier::new(device), vec![batch], device)
            }
            Self::CharacterTransformer => language(LanguageSize::CHARACTERS, device),
            Self::LanguageModel => language(LanguageSize::WORDS, device),
            Self::Segmentation => {
                let batch = segmentation::batch(device);
                start(Segmentation::new(device), vec![batch], device)
            }
        }
    }
}

fn language(size: LanguageSize, device: &Device) -> Start {
    let batch = size.batch(size.length(), device);
    start(LanguageModel::new(size, device), vec![batch], device)
}

/// A language model that is not timed, because a step of it takes seconds: its memory is watched over many
/// steps, with texts of another length in each.
pub struct Large {
    pub weights: usize,
    pub start: Start,
}

impl Large {
    /// The shape of the logits of the longest texts.
    pub const LOGITS: [usize; 2] = LanguageSize::LARGE.logits();
    /// Tokens of the longest texts.
    pub const LENGTH: usize = LanguageSize::LARGE.length();

    pub fn new(steps: usize, device: &Device) -> Self {
        let size = LanguageSize::LARGE;
        let model = LanguageModel::new(size, device);
        let lengths = lengths(steps, Self::LENGTH).into_iter();
        let batches = lengths.map(|length| size.batch(length, device)).collect();
        Self {
            weights: model.num_params(),
            start: start(model, batches, device),
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
