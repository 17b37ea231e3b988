//! Targets, class weights and reduction of a call as slices.

use burn::tensor::{DType, Shape};

use super::tensor::{Arithmetic, HostBackend, HostTensor, numbers};
use crate::kernel::cpu::{OutputLines, Reduction, TargetRule, Targets as TargetSlices};
use crate::operation::{Inputs, MaybeFloat, Outputs, RowOutputs, RowReduction, Targets};

/// Inputs of a call in row-major order.
pub(super) struct HostInputs<H> {
    pub(super) targets: HostTargets<H>,
    weights: Option<H>,
    pub(super) reduction: Reduction,
}

pub(super) enum HostTargets<H> {
    Indices(H),
    Distributions(H),
}

impl<H: HostTensor> HostInputs<H> {
    pub(super) fn open<B: HostBackend<Host = H>>(inputs: Inputs<B>) -> Self {
        Self {
            targets: match inputs.targets {
                Targets::Indices(indices) => HostTargets::Indices(B::open(indices).row_major()),
                Targets::Distributions(targets) => {
                    HostTargets::Distributions(B::open(targets).row_major())
                }
            },
            weights: match inputs.weights {
                MaybeFloat::None => None,
                MaybeFloat::Some(weights) => Some(B::open(weights).row_major()),
            },
            reduction: match inputs.reduction {
                RowReduction::None => Reduction::PerRow,
                RowReduction::Mean => Reduction::Mean,
                RowReduction::Sum { divisor } => Reduction::Over([divisor, divisor]),
                RowReduction::Normalized { divisors } => {
                    let divisors = numbers::<f64, H>(&B::open(divisors).row_major());
                    Reduction::Over([divisors[0], divisors[1]])
                }
            },
        }
    }

    pub(super) fn weights<A: Arithmetic>(&self) -> Option<Vec<A>> {
        self.weights.as_ref().map(numbers)
    }

    pub(super) fn targets(&self) -> TargetSlices<'_> {
        match &self.targets {
            HostTargets::Indices(indices) => TargetSlices::Indices(indices.indices()),
            HostTargets::Distributions(targets) => TargetSlices::Distributions(targets.floats()),
        }
    }

    /// Dtype of the distributions.
    pub(super) fn distributions_dtype(&self) -> Option<DType> {
        match &self.targets {
            HostTargets::Indices(_) => None,
            HostTargets::Distributions(targets) => Some(targets.dtype()),
        }
    }

    /// Buffer for the gradient of the distributions, if the gradient is wanted.
    pub(super) fn targets_gradient(&self, wanted: bool) -> Option<H> {
        match &self.targets {
            HostTargets::Distributions(targets) if wanted => {
                Some(H::zeros(targets.shape(), targets.dtype()))
            }
            _ => None,
        }
    }
}

/// Outputs of rows as tensors.
pub(super) fn row_outputs<A: Arithmetic, B: HostBackend>(
    lines: OutputLines<A>,
    rows: usize,
    outputs: Outputs,
) -> RowOutputs<B> {
    if outputs == Outputs::None {
        return RowOutputs::Nothing;
    }
    let numbers = Shape::new([outputs.numbers(), rows]);
    RowOutputs::PerRow {
        numbers: B::close(A::host(lines.numbers, numbers)),
        classes: B::close(B::Host::of_i32(lines.classes, Shape::new([2, rows]))),
        divisors: B::close(A::host(lines.divisors.map(A::of).to_vec(), Shape::new([2]))),
    }
}

/// First index target that is neither a class nor ignored: its row and its value.
pub(crate) fn first_bad_index<B: HostBackend>(
    indices: B::Tensor,
    classes: usize,
    ignored: &[i64],
) -> Option<(usize, i128)> {
    let indices = B::open(indices).row_major();
    indices
        .indices()
        .first_bad(&TargetRule { classes, ignored })
}
