//! What fusion is told of results before they are there.

use super::*;
use crate::operation::linear::{
    Excluded, ExcludedMetadata, LinearGradients, LinearGradientsMetadata, LinearGradientsOf,
    LinearOptions, LinearSaved, LinearSavedMetadata, MaybeFloat, MaybeFloatMetadata, Projection,
    ProjectionMetadata,
};
use crate::operation::{
    ClassWeightsMetadata, DenominatorsMetadata, DetailsMetadata, EmptyReduction, GradientsMetadata,
    InputsMetadata, SavedMetadata, TargetsMetadata, metadata,
};
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::ops::IntTensorOps;

const REDUCTIONS: [RowReduction; 4] = [
    RowReduction::None,
    RowReduction::Mean,
    RowReduction::Sum,
    RowReduction::BatchMean(2),
];

fn device() -> CubeDevice {
    CubeDevice::Wgpu(burn_wgpu::WgpuDevice::default())
}

fn zeros(shape: &Shape, dtype: FloatDType) -> CubeTensor {
    CubeBackend::float_zeros(shape.clone(), &device(), dtype)
}

fn spec(tensor: &CubeTensor) -> TensorSpec {
    TensorSpec::new(tensor.meta.shape().clone(), tensor.dtype)
}

fn every_option() -> Vec<Options> {
    use crate::operation::InputValues::{Logits, Probabilities};
    let plain = Logits {
        scale: 1.0,
        softcap: None,
    };
    let mut all = Vec::new();
    for reduction in REDUCTIONS {
        for values in [plain, Probabilities] {
            for smoothing in [0.0, 0.1] {
                for class_dim in [0, 1, 2] {
                    all.push(Options {
                        class_dim,
                        ignore_indices: [-100].as_slice().into(),
                        label_smoothing: smoothing,
                        values,
                        z_loss: 0.0,
                        reduction,
                        empty: EmptyReduction::Nan,
                        gradients_of: GradientsOf::Logits,
                        keep: true,
                        details: DetailsOf::Nothing,
                    });
                }
            }
        }
    }
    all
}

/// Fusion believes it without a look at the tensors that come later.
#[test]
fn what_fusion_is_told_of_the_results_is_what_comes() {
    for dims in [[2, 3, 5], [2, 0, 5], [1, 1, 1]] {
        for options in every_option() {
            let shape = Shape::new(dims);
            if shape[options.class_dim] == 0 {
                continue;
            }
            let mut rows = shape.clone();
            rows[options.class_dim] = 1;
            for (dtype, soft) in [(FloatDType::F32, false), (FloatDType::F16, true)] {
                let gradients_of = if soft {
                    GradientsOf::Both
                } else {
                    GradientsOf::Logits
                };
                let options = Options {
                    gradients_of,
                    details: match dims[0] {
                        1 => DetailsOf::Nothing,
                        _ if soft => DetailsOf::Target,
                        _ => DetailsOf::TargetAndEntropy,
                    },
                    ..options.clone()
                };
                let targets = if soft {
                    Targets::Distributions(zeros(&shape, FloatDType::F32))
                } else {
                    let indices = CubeBackend::int_zeros(rows.clone(), &device(), IntDType::I32);
                    Targets::Indices(indices)
                };
                assert_told(zeros(&shape, dtype), targets, &options);
            }
        }
    }
}

fn assert_told(logits: CubeTensor, targets: Targets<CubeBackend>, options: &Options) {
    let (inputs, told_inputs) = of_targets(targets);
    let unkept = Options {
        keep: false,
        ..options.clone()
    };
    let told = metadata::cross_entropy(&spec(&logits), &told_inputs, &unkept);
    let forward = CubeBackend::cross_entropy(logits.clone(), inputs.clone(), unkept);
    assert_same(&forward.loss, &told.loss);
    assert!(matches!(forward.saved, Saved::Nothing));
    assert!(matches!(told.saved, SavedMetadata::Nothing));

    let told = metadata::cross_entropy(&spec(&logits), &told_inputs, options);
    let Forward {
        loss,
        saved,
        details,
    } = CubeBackend::cross_entropy(logits, inputs.clone(), options.clone());
    assert_same(&loss, &told.loss);
    assert_same_details(&details, &told.details);
    match (&saved, &told.saved) {
        (
            Saved::Logits {
                logits,
                statistics,
                denominators,
            },
            SavedMetadata::Logits {
                logits: told_logits,
                statistics: told_statistics,
                denominators: told_denominators,
            },
        ) => {
            assert_same(logits, told_logits);
            assert_same(statistics, told_statistics);
            assert_same(denominators, told_denominators);
        }
        (Saved::AsGiven { input }, SavedMetadata::AsGiven { input: told }) => {
            assert_same(input, told);
        }
        _ => panic!("another variant was announced"),
    }
    let upstream = CubeBackend::float_ones(
        loss.meta.shape().clone(),
        &device(),
        accumulation_dtype(loss.dtype),
    );
    let told =
        metadata::cross_entropy_backward(&told.saved, &told_inputs, &spec(&upstream), options);
    let gradients = CubeBackend::cross_entropy_backward(saved, inputs, upstream, options.clone());
    match (&gradients, &told) {
        (Gradients::Logits { logits }, GradientsMetadata::Logits { logits: told }) => {
            assert_same(logits, told);
        }
        (
            Gradients::Both { logits, targets },
            GradientsMetadata::Both {
                logits: told_logits,
                targets: told_targets,
            },
        ) => {
            assert_same(logits, told_logits);
            assert_same(targets, told_targets);
        }
        _ => panic!("another variant was announced"),
    }
}

#[track_caller]
fn assert_same(tensor: &CubeTensor, told: &TensorSpec) {
    assert_eq!(
        (tensor.meta.shape(), tensor.dtype),
        (&told.shape, told.dtype)
    );
}

#[track_caller]
fn assert_same_details(details: &Details<CubeBackend>, told: &DetailsMetadata) {
    match (details, told) {
        (Details::Nothing, DetailsMetadata::Nothing) => {}
        (
            Details::PerRow {
                numbers,
                classes,
                totals,
            },
            DetailsMetadata::PerRow {
                numbers: told_numbers,
                classes: told_classes,
                totals: told_totals,
            },
        ) => {
            assert_same(numbers, told_numbers);
            assert_same(classes, told_classes);
            assert_same(totals, told_totals);
        }
        _ => panic!("another variant was announced"),
    }
}

fn of_targets(targets: Targets<CubeBackend>) -> (Inputs<CubeBackend>, InputsMetadata) {
    let told = InputsMetadata {
        targets: match &targets {
            Targets::Indices(indices) => TargetsMetadata::Indices(spec(indices)),
            Targets::Distributions(targets) => TargetsMetadata::Distributions(spec(targets)),
        },
        weights: ClassWeightsMetadata::Equal,
        normalizer: DenominatorsMetadata::OfRows,
    };
    let inputs = Inputs {
        targets,
        weights: ClassWeights::Equal,
        normalizer: Denominators::OfRows,
    };
    (inputs, told)
}

#[test]
fn what_fusion_is_told_of_a_projection_is_what_comes() {
    for reduction in REDUCTIONS {
        for (own, bias, soft) in [
            (false, true, false),
            (true, false, false),
            (true, true, true),
        ] {
            let classes = 5 + usize::from(own);
            let of = |given: bool, shape: Shape| match given {
                true => MaybeFloat::Some(zeros(&shape, FloatDType::F32)),
                false => MaybeFloat::None,
            };
            let projection = Projection {
                input: zeros(&Shape::new([4, 3]), FloatDType::F32),
                weight: zeros(&Shape::new([3, 5]), FloatDType::F32),
                bias: of(bias, Shape::new([5])),
                own: of(own, Shape::new([4])),
                excluded: Excluded::Nothing,
            };
            let targets = match soft {
                true => Targets::Distributions(zeros(&Shape::new([4, classes]), FloatDType::F32)),
                false => Targets::Indices(CubeBackend::int_zeros(
                    Shape::new([4]),
                    &device(),
                    IntDType::I32,
                )),
            };
            let options = every_option().remove(0);
            let options = LinearOptions {
                loss: Options {
                    class_dim: 1,
                    reduction,
                    details: match soft {
                        true => DetailsOf::TargetAndEntropy,
                        false => DetailsOf::Nothing,
                    },
                    ..options
                },
                dtype: DType::F32,
                rows_per_chunk: 3,
                gradients_of: LinearGradientsOf {
                    input: true,
                    weight: !own,
                    bias,
                    own,
                    targets: soft,
                },
            };
            assert_told_of_projection(projection, targets, &options);
        }
    }
}

fn assert_told_of_projection(
    projection: Projection<CubeBackend>,
    targets: Targets<CubeBackend>,
    options: &LinearOptions,
) {
    let maybe = |tensor: &MaybeFloat<CubeBackend>| match tensor {
        MaybeFloat::None => MaybeFloatMetadata::None,
        MaybeFloat::Some(tensor) => MaybeFloatMetadata::Some(spec(tensor)),
    };
    let told_projection = ProjectionMetadata {
        input: spec(&projection.input),
        weight: spec(&projection.weight),
        bias: maybe(&projection.bias),
        own: maybe(&projection.own),
        excluded: ExcludedMetadata::Nothing,
    };
    let (inputs, told_inputs) = of_targets(targets);
    let told = metadata::linear_cross_entropy(&told_projection, &told_inputs, options);
    let forward = CubeBackend::linear_cross_entropy(projection, inputs.clone(), options.clone());
    assert_same(&forward.loss, &told.loss);
    assert_same_details(&forward.details, &told.details);
    match (&forward.saved, &told.saved) {
        (LinearSaved::AsGiven { .. }, LinearSavedMetadata::AsGiven { .. }) => {}
        (
            LinearSaved::Gradients { gradients },
            LinearSavedMetadata::Gradients { gradients: told },
        ) => assert_same_gradients(gradients, told),
        _ => panic!("another variant was announced"),
    }
    let upstream = CubeBackend::float_ones(
        forward.loss.meta.shape().clone(),
        &device(),
        FloatDType::F32,
    );
    let told = metadata::linear_cross_entropy_backward(
        &told.saved,
        &told_inputs,
        &spec(&upstream),
        options,
    );
    let gradients = CubeBackend::linear_cross_entropy_backward(
        forward.saved,
        inputs,
        upstream,
        options.clone(),
    );
    assert_same_gradients(&gradients, &told);
}

#[track_caller]
fn assert_same_gradients(gradients: &LinearGradients<CubeBackend>, told: &LinearGradientsMetadata) {
    for (gradient, told) in [
        (&gradients.input, &told.input),
        (&gradients.weight, &told.weight),
        (&gradients.bias, &told.bias),
        (&gradients.own, &told.own),
        (&gradients.targets, &told.targets),
    ] {
        match (gradient, told) {
            (MaybeFloat::None, MaybeFloatMetadata::None) => {}
            (MaybeFloat::Some(gradient), MaybeFloatMetadata::Some(told)) => {
                assert_same(gradient, told);
            }
            _ => panic!("another variant was announced"),
        }
    }
}
