//! The sides: three ways from what a model predicts to the loss and the metric.

use std::fmt::{self, Display};

use burn::nn::Linear;
use burn::nn::loss::{CrossEntropyLoss as BurnLoss, CrossEntropyLossConfig as BurnLossConfig};
use burn::tensor::{Device, Int, Tensor};
use burn_cross_entropy::{
    CrossEntropyLoss, CrossEntropyLossConfig, CrossEntropyOutput, CrossEntropyTarget,
    ProjectedLogits,
};

/// The prediction of a model for a batch, and what is right.
pub enum Prediction<'a> {
    /// Logits [rows, classes] and a class for each row.
    Rows(Tensor<2>, Tensor<1, Int>),
    /// Logits [images, classes, height, width] and a class for each pixel.
    Pixels(Tensor<4>, Tensor<3, Int>),
    /// Hidden states [rows, features], the layer that makes logits of them, and a class for each row.
    Hidden(Tensor<2>, &'a Linear, Tensor<1, Int>),
}

/// The loss, and the metric that is asked for after the optimizer's step, as burn-train does.
pub struct Judged {
    pub loss: Tensor<1>,
    /// Counts the rows whose largest logit is that of the right class. It holds what it needs for that.
    pub right: Box<dyn FnOnce() -> Tensor<1, Int>>,
}

/// The losses of all sides.
pub struct Losses {
    burn_nn: BurnLoss,
    here: CrossEntropyLoss,
}

impl Losses {
    pub fn new(device: &Device) -> Self {
        Self {
            burn_nn: BurnLossConfig::new().init(device),
            here: CrossEntropyLossConfig::new().init(device),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
pub enum Side {
    /// `burn::nn`'s loss. The logits are kept for the metric.
    BurnNn,
    /// This crate's loss in its place.
    Here,
    /// This crate's loss with its output, from which the metric is: nothing else holds the logits, and a
    /// projection makes none.
    HereWithOutput,
}

impl Side {
    pub const ALL: [Self; 3] = [Self::BurnNn, Self::Here, Self::HereWithOutput];

    /// The title of the side's column.
    pub fn title(self) -> &'static str {
        match self {
            Self::BurnNn => "burn::nn",
            Self::Here => "here",
            Self::HereWithOutput => "here, with its output",
        }
    }

    pub fn titled(title: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|side| side.title() == title)
    }

    pub fn judge(self, losses: &Losses, prediction: Prediction) -> Judged {
        let loss = &losses.here;
        match (self, prediction) {
            (Self::BurnNn, prediction) => {
                let (logits, targets) = prediction.into_rows();
                let loss = losses.burn_nn.forward(logits.clone(), targets.clone());
                Judged::with_logits(loss, logits, targets)
            }
            (Self::Here, Prediction::Pixels(logits, targets)) => kept(loss, logits, targets),
            (Self::Here, prediction) => {
                let (logits, targets) = prediction.into_rows();
                kept(loss, logits, targets)
            }
            (Self::HereWithOutput, Prediction::Rows(logits, targets)) => {
                Judged::with_output(loss.forward_with_output(logits, targets))
            }
            (Self::HereWithOutput, Prediction::Pixels(logits, targets)) => {
                Judged::with_output(loss.forward_with_output(logits, targets))
            }
            (Self::HereWithOutput, Prediction::Hidden(hidden, head, targets)) => {
                let logits = ProjectedLogits::linear(hidden, head);
                Judged::with_output(loss.forward_with_output(logits, targets))
            }
        }
    }
}

impl Prediction<'_> {
    /// Logits in rows of classes, the only form that `burn::nn` takes. The classes of pixels move to the end.
    fn into_rows(self) -> (Tensor<2>, Tensor<1, Int>) {
        match self {
            Self::Rows(logits, targets) => (logits, targets),
            Self::Pixels(logits, targets) => {
                let [images, classes, height, width] = logits.dims();
                let rows = images * height * width;
                let logits = logits.permute([0, 2, 3, 1]).reshape([rows, classes]);
                (logits, targets.reshape([rows]))
            }
            Self::Hidden(hidden, head, targets) => (head.forward(hidden), targets),
        }
    }
}

/// This crate's loss over logits that are kept for the metric.
fn kept<const D: usize, const R: usize>(
    loss: &CrossEntropyLoss,
    logits: Tensor<D>,
    targets: Tensor<R, Int>,
) -> Judged
where
    Tensor<R, Int>: CrossEntropyTarget<D>,
{
    let loss = loss.forward(logits.clone(), targets.clone());
    Judged::with_logits(loss, logits, targets)
}

impl Judged {
    /// The metric from kept logits.
    fn with_logits<const D: usize, const R: usize>(
        loss: Tensor<1>,
        logits: Tensor<D>,
        targets: Tensor<R, Int>,
    ) -> Self {
        let right = move || {
            let predicted = logits.argmax(1);
            let targets = targets.reshape(predicted.dims());
            predicted.equal(targets).int().sum()
        };
        Self {
            loss,
            right: Box::new(right),
        }
    }

    /// The metric from the pass of the loss.
    fn with_output<const R: usize>(output: CrossEntropyOutput<R>) -> Self {
        Self {
            loss: output.loss.clone(),
            right: Box::new(move || output.correct().int().sum()),
        }
    }
}

impl Display for Side {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(self.title())
    }
}
