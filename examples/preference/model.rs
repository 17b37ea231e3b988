//! The language model: what twelve characters tell of the next, and what it writes.

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_cross_entropy::{CrossEntropyLoss, CrossEntropyLossConfig, ProjectedLogits};

/// Characters that the model sees before the next one. A prompt is as long.
pub const PROMPT: usize = 12;
pub const ANSWER: usize = 24;
#[derive(Module, Debug)]
pub struct Model {
    embedding: Embedding,
    hidden: Linear,
    output: Linear,
    pub loss: CrossEntropyLoss,
}

impl Model {
    pub fn new(classes: usize, device: &Device) -> Self {
        Self {
            embedding: EmbeddingConfig::new(classes, 16).init(device),
            hidden: LinearConfig::new(PROMPT * 16, 128).init(device),
            output: LinearConfig::new(128, classes).init(device),
            loss: CrossEntropyLossConfig::new().init(device),
        }
    }

    /// One hidden state for every `PROMPT` characters in a row.
    fn hidden(&self, text: Tensor<2, Int>) -> Tensor<3> {
        let states = text.dims()[1] + 1 - PROMPT;
        let characters = self.embedding.forward(text);
        let seen = (0..PROMPT).map(|at| characters.clone().narrow(1, at, states));
        relu(self.hidden.forward(Tensor::cat(seen.collect(), 2)))
    }

    /// Logits of the answers' characters.
    pub fn logits(&self, passages: &Tensor<2, Int>) -> ProjectedLogits<3> {
        let seen = passages.clone().narrow(1, 0, PROMPT + ANSWER - 1);
        ProjectedLogits::linear(self.hidden(seen), &self.output)
    }

    pub fn log_prob(&self, passages: &Tensor<2, Int>) -> Tensor<2> {
        let answers = passages.clone().narrow(1, PROMPT, ANSWER);
        self.loss.log_prob(self.logits(passages), answers)
    }

    /// Adds answers to prompts. The largest of logit plus Gumbel noise is a draw from the softmax.
    pub fn write(&self, prompts: Tensor<2, Int>) -> Tensor<2, Int> {
        (0..ANSWER).fold(prompts, |text, length| {
            let seen = self.hidden(text.clone().narrow(1, length, PROMPT));
            let logits = self.output.forward(seen.squeeze_dim::<2>(1));
            let noise = Tensor::random(logits.shape(), Distribution::Default, &logits.device());
            let drawn = (logits - (-noise.log()).log()).argmax(1);
            Tensor::cat(vec![text, drawn], 1)
        })
    }
}
