//! Targets, class weights and reduction of a call as slices, and its results as tensors.

use burn::backend::Backend;
use burn::tensor::{DType, Shape};

use super::tensor::{Arithmetic, HostBackend, HostTensor, numbers};
use crate::kernel::cpu::{
    Floats, OutputLines, Reduction, RowRule, Solution, Sparse, TargetRule, Targets as TargetSlices,
};
use crate::operation::{
    Forward, Geometry, Gradients, Inputs, MaybeFloat, Options, Outputs, RowOutputs, RowReduction,
    Saved, Targets, Wanted, WantedGradients, row_shape,
};

/// Inputs of a call in row-major order.
pub(super) struct HostInputs<H> {
    pub(super) targets: HostTargets<H>,
    weights: Option<H>,
    row_weights: Option<H>,
    pub(super) reduction: Reduction,
}

pub(super) enum HostTargets<H> {
    Indices(H),
    Distributions(H),
    /// A few classes of each row, and their shares.
    Sparse {
        classes: H,
        shares: H,
    },
    /// Distributions that are made for a chunk of rows at a time.
    OfChunks,
}

impl<H: HostTensor> HostInputs<H> {
    pub(super) fn open<B: HostBackend<Host = H>>(inputs: Inputs<B>) -> Self {
        Self {
            targets: match inputs.targets {
                Targets::Indices(indices) => HostTargets::Indices(B::open(indices).row_major()),
                Targets::Distributions(targets) => {
                    HostTargets::Distributions(B::open(targets).row_major())
                }
                Targets::Sparse { classes, shares } => HostTargets::Sparse {
                    classes: B::open(classes).row_major(),
                    shares: B::open(shares).row_major(),
                },
                Targets::Projected(_) | Targets::Alike(_) => HostTargets::OfChunks,
            },
            weights: opened::<B>(inputs.weights),
            row_weights: opened::<B>(inputs.row_weights),
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

    pub(super) fn row_weights<A: Arithmetic>(&self) -> Option<Vec<A>> {
        self.row_weights.as_ref().map(numbers)
    }

    /// Rule that tells which rows count, with the weights of the rows.
    pub(super) fn rule<'a, A: Arithmetic>(
        &'a self,
        row_weights: Option<&'a [A]>,
        geometry: &Geometry,
        options: &'a Options,
    ) -> RowRule<'a, A> {
        RowRule {
            indices: self.targets().indices(),
            rule: TargetRule::new(geometry.classes, options),
            row_weights,
        }
    }

    pub(super) fn targets(&self) -> TargetSlices<'_> {
        match &self.targets {
            HostTargets::Indices(indices) => TargetSlices::Indices(indices.indices()),
            HostTargets::Distributions(targets) => TargetSlices::Distributions(targets.floats()),
            HostTargets::Sparse { classes, shares } => TargetSlices::Sparse(Sparse {
                classes: classes.indices(),
                shares: shares.floats(),
            }),
            HostTargets::OfChunks => TargetSlices::Distributions(Floats::F32(&[])),
        }
    }

    pub(super) fn have_indices(&self) -> bool {
        matches!(self.targets, HostTargets::Indices(_))
    }

    /// Number of losses.
    pub(super) fn losses(&self, geometry: &Geometry) -> usize {
        match self.reduction {
            Reduction::PerRow => geometry.rows(),
            Reduction::Mean | Reduction::Over(_) => 1,
        }
    }

    /// Divisor of the losses; 1 without a reduction.
    pub(super) fn divisor<A: Arithmetic>(
        &self,
        weights: Option<&[A]>,
        geometry: &Geometry,
        options: &Options,
    ) -> f64 {
        match self.reduction {
            Reduction::PerRow => 1.0,
            Reduction::Over([divisor, _]) => divisor,
            Reduction::Mean => {
                let row_weights = self.row_weights::<A>();
                let rule = self.rule(row_weights.as_deref(), geometry, options);
                rule.divisors_of_mean(geometry.rows(), weights)[0]
            }
        }
    }

    pub(super) fn have_row_weights(&self) -> bool {
        self.row_weights.is_some()
    }

    /// Dtype of the distributions.
    pub(super) fn distributions_dtype(&self) -> Option<DType> {
        match &self.targets {
            HostTargets::Indices(_) | HostTargets::OfChunks => None,
            HostTargets::Distributions(targets)
            | HostTargets::Sparse {
                shares: targets, ..
            } => Some(targets.dtype()),
        }
    }

    /// Buffer for the gradient of the distributions, if the gradient is wanted.
    pub(super) fn targets_gradient(&self, wanted: bool) -> Option<H> {
        match &self.targets {
            HostTargets::Distributions(targets)
            | HostTargets::Sparse {
                shares: targets, ..
            } if wanted => Some(H::unwritten(targets.shape(), targets.dtype())),
            _ => None,
        }
    }
}

fn opened<B: HostBackend>(tensor: MaybeFloat<B>) -> Option<B::Host> {
    let tensor = tensor.into_option()?;
    Some(B::open(tensor).row_major())
}

/// Loss and outputs of a call as tensors; nothing is saved yet.
pub(super) fn results<A: Arithmetic, B: HostBackend>(
    solution: Solution<A>,
    reduction: Reduction,
    logits: &Shape,
    class_dim: usize,
    wanted: Wanted,
) -> Forward<B> {
    let rows = row_shape(logits, class_dim);
    let count = rows.num_elements();
    let shape = match reduction {
        Reduction::PerRow => rows,
        Reduction::Mean | Reduction::Over(_) => Shape::new([1]),
    };
    Forward {
        loss: B::close(A::host(solution.losses, shape)),
        outputs: row_outputs::<A, B>(solution.outputs, count, wanted.outputs),
        saved: Saved::Nothing,
    }
}

/// The gradients in `dtype`, saved where a backward follows.
pub(super) fn saved<B: Backend>(
    gradients: Gradients<B>,
    dtype: DType,
    wanted: WantedGradients,
) -> Saved<B> {
    match wanted.any() {
        false => Saved::Nothing,
        true => Saved::Gradients {
            gradients,
            dtype,
            upstream: 1.0,
        },
    }
}

/// Outputs of rows as tensors.
fn row_outputs<A: Arithmetic, B: HostBackend>(
    lines: OutputLines<A>,
    rows: usize,
    outputs: Outputs,
) -> RowOutputs<B> {
    if outputs == Outputs::None {
        return RowOutputs::Nothing;
    }
    let [numbers, classes] =
        [outputs.numbers(), outputs.classes()].map(|lines| Shape::new([lines, rows]));
    RowOutputs::PerRow {
        numbers: B::close(A::host(lines.numbers, numbers)),
        classes: B::close(B::Host::of_i32(lines.classes, classes)),
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
