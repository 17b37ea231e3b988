//! Shapes and dtypes of the operation's results, for a backend that runs it later.

use burn::backend::fusion::custom::TensorSpec;
use burn::tensor::{DType, Shape};

use super::linear::{
    LinearForwardMetadata, LinearGradientsMetadata, LinearOptions, LinearSavedMetadata,
    MaybeFloatMetadata, ProjectionMetadata,
};
use super::{
    DetailsMetadata, ForwardMetadata, Geometry, GradientsMetadata, GradientsOf, InputValues,
    InputsMetadata, NOTHING_SAVED, Options, SavedMetadata, TargetsMetadata, accumulation_dtype,
};

fn loss(logits: &TensorSpec, options: &Options) -> TensorSpec {
    TensorSpec::new(
        options.loss_shape(&logits.shape),
        accumulation_dtype(logits.dtype).into(),
    )
}

pub(crate) fn cross_entropy(
    logits: &TensorSpec,
    inputs: &InputsMetadata,
    options: &Options,
) -> ForwardMetadata {
    let dtype = accumulation_dtype(logits.dtype).into();
    let rows = Geometry::new(&logits.shape, options.class_dim).rows();
    let is_distribution = matches!(inputs.targets, TargetsMetadata::Distributions(_));
    let statistics = options.statistics_per_row(is_distribution);
    let details = options.details.numbers();
    ForwardMetadata {
        loss: loss(logits, options),
        saved: match options.values {
            _ if !options.keep => SavedMetadata::Nothing,
            InputValues::Logits { .. } => SavedMetadata::Logits {
                logits: logits.clone(),
                statistics: TensorSpec::new(Shape::new([statistics, rows]), dtype),
                denominators: TensorSpec::new(Shape::new([2]), dtype),
            },
            InputValues::Probabilities => SavedMetadata::AsGiven {
                input: logits.clone(),
            },
        },
        details: match details {
            0 => DetailsMetadata::Nothing,
            _ => DetailsMetadata::PerRow {
                numbers: TensorSpec::new(Shape::new([details, rows]), dtype),
                classes: TensorSpec::new(Shape::new([2, rows]), DType::I32),
                totals: TensorSpec::new(Shape::new([2]), dtype),
            },
        },
    }
}

pub(crate) fn linear_cross_entropy(
    projection: &ProjectionMetadata,
    inputs: &InputsMetadata,
    options: &LinearOptions,
) -> LinearForwardMetadata {
    let own = usize::from(matches!(projection.own, MaybeFloatMetadata::Some(_)));
    let [rows, classes] = [projection.input.shape[0], own + projection.weight.shape[1]];
    let logits = TensorSpec::new(Shape::new([rows, classes]), projection.input.dtype);
    let of_logits = cross_entropy(&logits, inputs, &options.loss);
    LinearForwardMetadata {
        loss: of_logits.loss,
        details: of_logits.details,
        saved: if !options.loss.keep {
            LinearSavedMetadata::Nothing
        } else if options.keeps_projection(projection.input.dtype, inputs.targets_dtype()) {
            LinearSavedMetadata::AsGiven {
                projection: projection.clone(),
            }
        } else {
            LinearSavedMetadata::Gradients {
                gradients: linear_gradients(projection, inputs, options),
            }
        },
    }
}

pub(crate) fn linear_cross_entropy_backward(
    saved: &LinearSavedMetadata,
    inputs: &InputsMetadata,
    _upstream: &TensorSpec,
    options: &LinearOptions,
) -> LinearGradientsMetadata {
    match saved {
        LinearSavedMetadata::AsGiven { projection } => {
            linear_gradients(projection, inputs, options)
        }
        LinearSavedMetadata::Gradients { gradients } => gradients.clone(),
        LinearSavedMetadata::Nothing => unreachable!("{}", NOTHING_SAVED),
    }
}

fn linear_gradients(
    projection: &ProjectionMetadata,
    inputs: &InputsMetadata,
    options: &LinearOptions,
) -> LinearGradientsMetadata {
    let of = options.gradients_of;
    let maybe = |wanted: bool, tensor: &TensorSpec| match wanted {
        true => MaybeFloatMetadata::Some(tensor.clone()),
        false => MaybeFloatMetadata::None,
    };
    let given = |wanted: bool, tensor: &MaybeFloatMetadata| match tensor {
        MaybeFloatMetadata::Some(tensor) => maybe(wanted, tensor),
        MaybeFloatMetadata::None => MaybeFloatMetadata::None,
    };
    LinearGradientsMetadata {
        input: maybe(of.input, &projection.input),
        weight: maybe(of.weight, &projection.weight),
        bias: given(of.bias, &projection.bias),
        own: given(of.own, &projection.own),
        targets: match &inputs.targets {
            TargetsMetadata::Distributions(targets) => maybe(of.targets, targets),
            TargetsMetadata::Indices(_) => MaybeFloatMetadata::None,
        },
    }
}

impl InputsMetadata {
    fn targets_dtype(&self) -> DType {
        match &self.targets {
            TargetsMetadata::Distributions(targets) | TargetsMetadata::Indices(targets) => {
                targets.dtype
            }
        }
    }
}

pub(crate) fn cross_entropy_backward(
    saved: &SavedMetadata,
    inputs: &InputsMetadata,
    _upstream: &TensorSpec,
    options: &Options,
) -> GradientsMetadata {
    let logits = match saved {
        SavedMetadata::Logits { logits, .. } => logits.clone(),
        SavedMetadata::AsGiven { input } => input.clone(),
        SavedMetadata::Gradients { gradients } => return gradients.clone(),
        SavedMetadata::Nothing => unreachable!("{}", NOTHING_SAVED),
    };
    // A gradient of the targets is asked for only where they are distributions.
    let targets = match &inputs.targets {
        TargetsMetadata::Distributions(targets) | TargetsMetadata::Indices(targets) => {
            targets.clone()
        }
    };
    match options.gradients_of {
        GradientsOf::Logits => GradientsMetadata::Logits { logits },
        GradientsOf::Targets => GradientsMetadata::Targets { targets },
        GradientsOf::Both => GradientsMetadata::Both { logits, targets },
    }
}
