//! Shapes and dtypes of the operation's results, for Burn's fusion, which runs the operation later.

use burn::backend::fusion::custom::TensorSpec;
use burn::tensor::{DType, Shape};

use super::logits::has_gradient_in_f16;
use super::{
    ForwardMetadata, Geometry, GradientsMetadata, InputValues, InputsMetadata, LogitsMetadata,
    MaybeFloatMetadata, Options, Outputs, ProjectionMetadata, RowOutputsMetadata,
    RowReductionMetadata, SavedMetadata, TargetsMetadata, Wanted, WantedGradients,
    accumulation_dtype, row_shape,
};

pub(crate) fn cross_entropy(
    logits: &LogitsMetadata,
    inputs: &InputsMetadata,
    options: &Options,
    wanted: &Wanted,
) -> ForwardMetadata {
    let spec = logits.spec();
    let dtype = accumulation_dtype(spec.dtype).into();
    let rows = Geometry::new(&spec.shape, options.class_dim).rows();
    ForwardMetadata {
        loss: TensorSpec::new(
            match inputs.reduction {
                RowReductionMetadata::None => row_shape(&spec.shape, options.class_dim),
                _ => Shape::new([1]),
            },
            dtype,
        ),
        saved: match logits {
            _ if !wanted.gradients.any() => SavedMetadata::Nothing,
            LogitsMetadata::Tensor(logits) => saved_of_tensor(logits, inputs, options),
            LogitsMetadata::Projected(projection) => {
                if inputs.is_remade(projection, wanted.gradients) {
                    SavedMetadata::Logits(logits.clone())
                } else {
                    SavedMetadata::Gradients {
                        gradients: gradients(logits, inputs, wanted.gradients),
                        dtype: spec.dtype,
                        upstream: 1.0,
                    }
                }
            }
        },
        outputs: match wanted.outputs {
            Outputs::None => RowOutputsMetadata::Nothing,
            outputs => RowOutputsMetadata::PerRow {
                numbers: TensorSpec::new(Shape::new([outputs.numbers(), rows]), dtype),
                classes: TensorSpec::new(Shape::new([outputs.classes(), rows]), DType::I32),
                divisors: TensorSpec::new(Shape::new([2]), dtype),
            },
        },
    }
}

pub(crate) fn cross_entropy_backward(
    saved: &SavedMetadata,
    inputs: &InputsMetadata,
    _upstream: &TensorSpec,
    _options: &Options,
    wanted: &WantedGradients,
) -> GradientsMetadata {
    match saved {
        SavedMetadata::Nothing => gradients_of_nothing(),
        SavedMetadata::Statistics { logits, .. } => {
            gradients(&LogitsMetadata::Tensor(logits.clone()), inputs, *wanted)
        }
        SavedMetadata::Logits(logits) => gradients(logits, inputs, *wanted),
        SavedMetadata::Gradients { gradients, .. } => gradients.clone(),
    }
}

fn saved_of_tensor(
    logits: &TensorSpec,
    inputs: &InputsMetadata,
    options: &Options,
) -> SavedMetadata {
    if options.values == InputValues::Probabilities {
        return SavedMetadata::Logits(LogitsMetadata::Tensor(logits.clone()));
    }
    let dtype = accumulation_dtype(logits.dtype).into();
    let rows = Geometry::new(&logits.shape, options.class_dim).rows();
    // Entries of sparse distributions are index targets in the kernels over the rows.
    let has_distributions = matches!(inputs.targets, TargetsMetadata::Distributions(_));
    let statistics = options.statistics_per_row(has_distributions);
    SavedMetadata::Statistics {
        logits: logits.clone(),
        statistics: TensorSpec::new(Shape::new([statistics, rows]), dtype),
        divisors: TensorSpec::new(Shape::new([2]), dtype),
    }
}

fn gradients_of_nothing() -> GradientsMetadata {
    GradientsMetadata {
        logits: MaybeFloatMetadata::None,
        targets: MaybeFloatMetadata::None,
        hidden: MaybeFloatMetadata::None,
        weight: MaybeFloatMetadata::None,
        bias: MaybeFloatMetadata::None,
        leading: MaybeFloatMetadata::None,
    }
}

/// Metadata of the gradients: each has the shape and dtype of its tensor.
fn gradients(
    logits: &LogitsMetadata,
    inputs: &InputsMetadata,
    wanted: WantedGradients,
) -> GradientsMetadata {
    let like = |wanted: bool, tensor: Option<&TensorSpec>| match tensor {
        Some(tensor) if wanted => MaybeFloatMetadata::Some(tensor.clone()),
        _ => MaybeFloatMetadata::None,
    };
    let targets = like(wanted.targets, inputs.distributions());
    match logits {
        LogitsMetadata::Tensor(logits) => GradientsMetadata {
            logits: like(wanted.logits, Some(logits)),
            targets,
            ..gradients_of_nothing()
        },
        LogitsMetadata::Projected(projection) => GradientsMetadata {
            logits: MaybeFloatMetadata::None,
            targets,
            hidden: like(wanted.hidden, Some(&projection.hidden)),
            weight: like(wanted.weight, Some(&projection.weight)),
            bias: like(wanted.bias, projection.bias.spec()),
            leading: like(wanted.leading, projection.leading.spec()),
        },
    }
}

impl LogitsMetadata {
    fn spec(&self) -> TensorSpec {
        match self {
            Self::Tensor(logits) => logits.clone(),
            Self::Projected(projection) => {
                let lead = projection
                    .leading
                    .spec()
                    .map_or(0, |leading| leading.shape[1]);
                let classes = lead + projection.weight.shape[1];
                let shape = Shape::new([projection.hidden.shape[0], classes]);
                TensorSpec::new(shape, projection.hidden.dtype)
            }
        }
    }
}

impl MaybeFloatMetadata {
    fn spec(&self) -> Option<&TensorSpec> {
        match self {
            Self::None => None,
            Self::Some(tensor) => Some(tensor),
        }
    }
}

impl InputsMetadata {
    fn distributions(&self) -> Option<&TensorSpec> {
        match &self.targets {
            TargetsMetadata::Distributions(targets)
            | TargetsMetadata::Sparse {
                shares: targets, ..
            } => Some(targets),
            TargetsMetadata::Indices(_)
            | TargetsMetadata::Projected(_)
            | TargetsMetadata::Alike(_) => None,
        }
    }

    /// Whether the backward computes a projection's logits again, as
    /// [`chunks`](crate::portable::chunks) does.
    fn is_remade(&self, projection: &ProjectionMetadata, wanted: WantedGradients) -> bool {
        let distributions = self.distributions().map(|targets| targets.dtype);
        matches!(self.reduction, RowReductionMetadata::None)
            || has_gradient_in_f16(wanted, projection.hidden.dtype, distributions)
    }
}
