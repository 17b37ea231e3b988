//! NdArray, Burn's older CPU backend, deprecated by Burn in favour of Flex.
//!
//! NdArray does not reshape to more than six dimensions, so the reference implementation gets the
//! logits as `[outer, classes, inner]`, and its results get their own shape here.

use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Shape;
use burn_ndarray::{NdArray, NdArrayTensor};

use super::CrossEntropyBackend;
use crate::operation::{Geometry, Gradients, Inputs, Options, Saved, Targets, Tracked};
use crate::reference;

impl CrossEntropyBackend for NdArray {
    fn cross_entropy(
        logits: FloatTensor<Self>,
        inputs: Inputs<Self>,
        options: Options,
    ) -> FloatTensor<Self> {
        let folded = Folded::new(&logits.shape(), &options);
        let loss = reference::cross_entropy::<Self>(
            reshape(logits, &folded.shape),
            folded.inputs(inputs),
            &folded.options,
        );
        reshape(loss, &folded.loss_shape)
    }

    fn cross_entropy_tracked(
        logits: FloatTensor<Self>,
        inputs: Inputs<Self>,
        options: Options,
    ) -> Tracked<Self> {
        let shape = logits.shape();
        let folded = Folded::new(&shape, &options);
        let Tracked { loss, saved } = reference::cross_entropy_tracked::<Self>(
            reshape(logits, &folded.shape),
            folded.inputs(inputs),
            &folded.options,
        );
        Tracked {
            loss: reshape(loss, &folded.loss_shape),
            saved: with_logits(saved, |logits| reshape(logits, &shape)),
        }
    }

    fn cross_entropy_backward(
        saved: Saved<Self>,
        inputs: Inputs<Self>,
        upstream: FloatTensor<Self>,
        options: Options,
    ) -> Gradients<Self> {
        let shape = match &saved {
            Saved::Logits { logits, .. } => logits.shape(),
            Saved::Probabilities { probabilities } => probabilities.shape(),
        };
        let folded = Folded::new(&shape, &options);
        let gradients = reference::cross_entropy_backward::<Self>(
            with_logits(saved, |logits| reshape(logits, &folded.shape)),
            folded.inputs(inputs),
            upstream,
            &folded.options,
        );
        match gradients {
            Gradients::Logits { logits } => Gradients::Logits {
                logits: reshape(logits, &shape),
            },
            Gradients::Targets { targets } => Gradients::Targets {
                targets: reshape(targets, &shape),
            },
            Gradients::Both { logits, targets } => Gradients::Both {
                logits: reshape(logits, &shape),
                targets: reshape(targets, &shape),
            },
        }
    }
}

/// A call as one over `[outer, classes, inner]`.
struct Folded {
    shape: Shape,
    loss_shape: Shape,
    options: Options,
}

impl Folded {
    fn new(logits: &Shape, options: &Options) -> Self {
        Self {
            shape: Geometry::new(logits, options.class_dim).full(),
            loss_shape: options.loss_shape(logits),
            options: Options {
                class_dim: 1,
                ..options.clone()
            },
        }
    }

    fn inputs(&self, inputs: Inputs<NdArray>) -> Inputs<NdArray> {
        Inputs {
            targets: match inputs.targets {
                Targets::Distributions(targets) => {
                    Targets::Distributions(reshape(targets, &self.shape))
                }
                indices => indices,
            },
            ..inputs
        }
    }
}

fn with_logits(
    saved: Saved<NdArray>,
    change: impl FnOnce(NdArrayTensor) -> NdArrayTensor,
) -> Saved<NdArray> {
    match saved {
        Saved::Logits {
            logits,
            maximum,
            others,
        } => Saved::Logits {
            logits: change(logits),
            maximum,
            others,
        },
        Saved::Probabilities { probabilities } => Saved::Probabilities {
            probabilities: change(probabilities),
        },
    }
}

/// The tensor in another shape of any rank, copied only where its layout demands it.
fn reshape(tensor: NdArrayTensor, shape: &Shape) -> NdArrayTensor {
    macro_rules! reshaped {
        ($storage:expr) => {{
            let reshaped = $storage.into_shared().into_shape_clone(shape.as_slice());
            reshaped
                .expect("the shapes have the same number of elements")
                .into()
        }};
    }
    match tensor {
        NdArrayTensor::F32(storage) => reshaped!(storage),
        NdArrayTensor::F64(storage) => reshaped!(storage),
        other => other,
    }
}
