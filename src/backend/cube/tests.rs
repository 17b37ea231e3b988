//! Tests of the shapes and dtypes of results that fusion gets before it runs the operation.

use super::*;
use crate::kernel::cube::plan::{Forced, Strategy, forcing};
use crate::operation::{
    Excluded, ExcludedMetadata, GradientsMetadata, Ids, IdsMetadata, InputValues, InputsMetadata,
    LogitsMetadata, MaybeFloatMetadata, MaybeIntMetadata, Projection, ProjectionMetadata,
    RowOutputsMetadata, RowReductionMetadata, SavedMetadata, TargetsMetadata, metadata,
};
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::ops::IntTensorOps;
use burn::tensor::IntDType;

const ALL_OUTPUTS: [Outputs; 3] = [Outputs::None, Outputs::Rows, Outputs::RowsAndEntropy];

fn device() -> CubeDevice {
    CubeDevice::Wgpu(burn_wgpu::WgpuDevice::default())
}

fn zeros(shape: &Shape, dtype: FloatDType) -> CubeTensor {
    CubeBackend::float_zeros(shape.clone(), &device(), dtype)
}

fn indices(shape: &Shape) -> Targets<CubeBackend> {
    Targets::Indices(CubeBackend::int_zeros(
        shape.clone(),
        &device(),
        IntDType::I32,
    ))
}

fn reductions() -> [RowReduction<CubeBackend>; 4] {
    [
        RowReduction::None,
        RowReduction::Mean,
        RowReduction::Sum { divisor: 2.0 },
        RowReduction::Normalized {
            divisors: CubeBackend::float_ones(Shape::new([2]), &device(), FloatDType::F32),
        },
    ]
}

fn spec(tensor: &CubeTensor) -> TensorSpec {
    TensorSpec::new(tensor.meta.shape().clone(), tensor.dtype)
}

fn told_float(tensor: &MaybeFloat<CubeBackend>) -> MaybeFloatMetadata {
    match tensor {
        MaybeFloat::None => MaybeFloatMetadata::None,
        MaybeFloat::Some(tensor) => MaybeFloatMetadata::Some(spec(tensor)),
    }
}

fn told_logits(logits: &Logits<CubeBackend>) -> LogitsMetadata {
    match logits {
        Logits::Tensor(logits) => LogitsMetadata::Tensor(spec(logits)),
        Logits::Projected(projection) => LogitsMetadata::Projected(told_projection(projection)),
    }
}

fn told_projection(projection: &Projection<CubeBackend>) -> ProjectionMetadata {
    ProjectionMetadata {
        hidden: spec(&projection.hidden),
        weight: spec(&projection.weight),
        bias: told_float(&projection.bias),
        leading: told_float(&projection.leading),
        excluded: ExcludedMetadata {
            ids: told_ids(&projection.excluded.ids),
            unlike: IdsMetadata::Nothing,
            columns: MaybeIntMetadata::None,
            above: told_float(&projection.excluded.above),
        },
        rows_per_chunk: projection.rows_per_chunk,
    }
}

fn told_ids(ids: &Ids<CubeBackend>) -> IdsMetadata {
    match ids {
        Ids::Nothing => IdsMetadata::Nothing,
        Ids::Given { rows, columns } => IdsMetadata::Given {
            rows: spec(rows),
            columns: spec(columns),
        },
    }
}

fn told_inputs(inputs: &Inputs<CubeBackend>) -> InputsMetadata {
    InputsMetadata {
        targets: match &inputs.targets {
            Targets::Indices(indices) => TargetsMetadata::Indices(spec(indices)),
            Targets::Distributions(targets) => TargetsMetadata::Distributions(spec(targets)),
            Targets::Sparse { classes, shares } => TargetsMetadata::Sparse {
                classes: spec(classes),
                shares: spec(shares),
            },
            Targets::Projected(teacher) => TargetsMetadata::Projected(told_projection(teacher)),
            Targets::Alike(ids) => TargetsMetadata::Alike(told_ids(ids)),
        },
        weights: told_float(&inputs.weights),
        row_weights: told_float(&inputs.row_weights),
        reduction: match &inputs.reduction {
            RowReduction::None => RowReductionMetadata::None,
            RowReduction::Mean => RowReductionMetadata::Mean,
            RowReduction::Sum { divisor } => RowReductionMetadata::Sum { divisor: *divisor },
            RowReduction::Normalized { divisors } => RowReductionMetadata::Normalized {
                divisors: spec(divisors),
            },
        },
    }
}

/// Fusion does not compare the announced shapes and dtypes with the tensors that it gets later.
#[test]
fn what_fusion_is_told_of_the_results_is_what_comes() {
    let plain = Options::default().values;
    for dims in [[2, 3, 5], [2, 0, 5], [1, 1, 1]] {
        for (class_dim, label_smoothing, values, value) in [
            (0, 0.1, plain, RowValue::Loss),
            (1, 0.0, plain, RowValue::Loss),
            (1, 0.1, plain, RowValue::Loss),
            (2, 0.0, plain, RowValue::Loss),
            (1, 0.0, plain, RowValue::LogSumExp),
            (1, 0.0, plain, RowValue::Entropy),
            (1, 0.0, InputValues::Probabilities, RowValue::Loss),
            (2, 0.1, InputValues::Probabilities, RowValue::Loss),
        ] {
            let shape = Shape::new(dims);
            if shape[class_dim] == 0 {
                continue;
            }
            let mut rows = shape.clone();
            rows[class_dim] = 1;
            let options = Options {
                class_dim,
                label_smoothing,
                values,
                value,
                ..Options::default()
            };
            for (reduction, at) in reductions().into_iter().zip(0..) {
                for (dtype, soft) in [(FloatDType::F32, false), (FloatDType::F16, true)] {
                    if soft && value != RowValue::Loss {
                        continue;
                    }
                    let inputs = Inputs {
                        reduction: reduction.clone(),
                        row_weights: match at % 2 {
                            0 => MaybeFloat::None,
                            _ => MaybeFloat::Some(zeros(&rows, FloatDType::F32)),
                        },
                        ..Inputs::new(match soft {
                            true => Targets::Distributions(zeros(&shape, FloatDType::F32)),
                            false => indices(&rows),
                        })
                    };
                    let wanted = Wanted {
                        outputs: ALL_OUTPUTS[at % 3],
                        gradients: WantedGradients {
                            targets: soft,
                            ..WantedGradients::LOGITS
                        },
                    };
                    let logits = Logits::Tensor(zeros(&shape, dtype));
                    assert_told(logits, inputs, &options, wanted);
                }
            }
        }
    }
}

/// With loss and gradient in one kernel the results are those that fusion was told of, and the statistics are marked.
#[test]
fn a_gradient_in_the_forward_is_marked_and_is_what_fusion_is_told_of() {
    let shape = Shape::new([3, 70]);
    let saved = |one_pass| {
        let forced = Forced {
            strategy: Strategy::Cube,
            in_parts: false,
            planes: false,
            few_buffers: false,
            shared_vectors: true,
            parked: false,
            one_pass,
        };
        forcing(forced, || {
            let logits = || Logits::Tensor(zeros(&shape, FloatDType::F32));
            let inputs = || Inputs::new(indices(&Shape::new([3, 1])));
            let wanted = Wanted::gradients(WantedGradients::LOGITS);
            assert_told(logits(), inputs(), &Options::default(), wanted);
            CubeBackend::cross_entropy(logits(), inputs(), Options::default(), wanted).saved
        })
    };
    for one_pass in [false, true] {
        let Saved::Statistics { statistics, .. } = saved(one_pass) else {
            panic!("a backward follows");
        };
        assert_eq!(one_pass::are_of_gradient(&statistics), one_pass);
    }
}

/// Targets that are not distributions.
#[derive(Clone, Copy)]
enum Other {
    Indices,
    Sparse,
    Teacher,
    Alike,
    Pairs,
}

/// Sparse distributions with so many entries, all at class 0, and with so many shares.
fn sparse(entries: &Shape, shares: &Shape) -> Targets<CubeBackend> {
    let Targets::Indices(classes) = indices(entries) else {
        unreachable!("they are indices");
    };
    Targets::Sparse {
        classes,
        shares: zeros(shares, FloatDType::F32),
    }
}

#[test]
fn what_fusion_is_told_of_sparse_distributions_is_what_comes() {
    // Classes, entries with tails or without, label smoothing.
    let cases = [
        (3, 2, 0.0),
        (3, 3, 0.0),
        (9, 2, 0.0),
        (9, 3, 0.0),
        (9, 2, 0.1),
    ];
    let of_reductions = |case| {
        reductions()
            .into_iter()
            .map(move |reduction| (case, reduction))
    };
    for ((classes, shares, label_smoothing), reduction) in cases.into_iter().flat_map(of_reductions)
    {
        let options = Options {
            label_smoothing,
            ..Options::default()
        };
        let targets = sparse(&Shape::new([2, 2, 5]), &Shape::new([2, shares, 5]));
        let inputs = Inputs {
            reduction,
            ..Inputs::new(targets)
        };
        let wanted = Wanted {
            outputs: Outputs::Rows,
            gradients: WantedGradients {
                targets: true,
                ..WantedGradients::LOGITS
            },
        };
        let logits = Logits::Tensor(zeros(&Shape::new([2, classes, 5]), FloatDType::F32));
        assert_told(logits, inputs, &options, wanted);
    }
}

#[test]
fn what_fusion_is_told_of_a_projection_is_what_comes() {
    for reduction in reductions() {
        for (leading, bias, soft, other) in [
            (false, true, false, Other::Indices),
            (true, false, false, Other::Indices),
            (true, true, true, Other::Indices),
            (false, true, false, Other::Teacher),
            (false, true, false, Other::Sparse),
            (true, true, false, Other::Alike),
            (false, true, false, Other::Pairs),
        ] {
            let classes = 5 + if leading { 2 } else { 0 };
            let ids = |count: usize| {
                CubeBackend::int_zeros(Shape::new([count]), &device(), IntDType::I32)
            };
            let given = |given: bool, shape: Shape| match given {
                true => MaybeFloat::Some(zeros(&shape, FloatDType::F32)),
                false => MaybeFloat::None,
            };
            let projection = Projection {
                hidden: zeros(&Shape::new([4, 3]), FloatDType::F32),
                weight: zeros(&Shape::new([3, 5]), FloatDType::F32),
                bias: given(bias, Shape::new([5])),
                leading: given(leading, Shape::new([4, 2])),
                excluded: Excluded {
                    above: given(leading, Shape::new([4])),
                    ..Excluded::default()
                },
                rows_per_chunk: 3,
            };
            let inputs = Inputs {
                reduction: reduction.clone(),
                row_weights: given(soft, Shape::new([4])),
                ..Inputs::new(match soft {
                    true => {
                        Targets::Distributions(zeros(&Shape::new([4, classes]), FloatDType::F32))
                    }
                    false => match other {
                        Other::Indices | Other::Pairs => indices(&Shape::new([4])),
                        Other::Alike => Targets::Alike(Ids::Given {
                            rows: ids(4),
                            columns: ids(5),
                        }),
                        Other::Sparse => sparse(&Shape::new([4, 2]), &Shape::new([4, 3])),
                        Other::Teacher => Targets::Projected(Projection {
                            bias: MaybeFloat::None,
                            ..projection.clone()
                        }),
                    },
                })
            };
            let wanted = Wanted {
                outputs: match soft {
                    true => Outputs::RowsAndEntropy,
                    false => Outputs::None,
                },
                gradients: WantedGradients {
                    logits: false,
                    hidden: true,
                    weight: !leading,
                    bias,
                    leading,
                    targets: soft,
                },
            };
            let logits = Logits::Projected(projection);
            let options = Options {
                value: match other {
                    Other::Pairs => RowValue::PairSigmoid,
                    _ => RowValue::Loss,
                },
                ..Options::default()
            };
            assert_told(logits, inputs, &options, wanted);
        }
    }
}

fn assert_told(
    logits: Logits<CubeBackend>,
    inputs: Inputs<CubeBackend>,
    options: &Options,
    wanted: Wanted,
) {
    let (told_logits, told_inputs) = (told_logits(&logits), told_inputs(&inputs));
    let unkept = Wanted {
        gradients: WantedGradients::default(),
        ..wanted
    };
    let told = metadata::cross_entropy(&told_logits, &told_inputs, options, &unkept);
    let forward =
        CubeBackend::cross_entropy(logits.clone(), inputs.clone(), options.clone(), unkept);
    assert_same(&forward.loss, &told.loss);
    assert!(matches!(forward.saved, Saved::Nothing));
    assert!(matches!(told.saved, SavedMetadata::Nothing));

    let told = metadata::cross_entropy(&told_logits, &told_inputs, options, &wanted);
    let Forward {
        loss,
        saved,
        outputs,
    } = CubeBackend::cross_entropy(logits, inputs.clone(), options.clone(), wanted);
    assert_same(&loss, &told.loss);
    assert_same_outputs(&outputs, &told.outputs);
    assert_same_saved(&saved, &told.saved);
    let upstream = CubeBackend::float_ones(
        loss.meta.shape().clone(),
        &device(),
        accumulation_dtype(loss.dtype),
    );
    let gradients = wanted.gradients;
    let told = metadata::cross_entropy_backward(
        &told.saved,
        &told_inputs,
        &spec(&upstream),
        options,
        &gradients,
    );
    let gradients =
        CubeBackend::cross_entropy_backward(saved, inputs, upstream, options.clone(), gradients);
    assert_same_gradients(&gradients, &told);
}

#[track_caller]
fn assert_same(tensor: &CubeTensor, told: &TensorSpec) {
    assert_eq!(
        (tensor.meta.shape(), tensor.dtype),
        (&told.shape, told.dtype)
    );
}

#[track_caller]
fn assert_same_saved(saved: &Saved<CubeBackend>, told: &SavedMetadata) {
    match (saved, told) {
        (
            Saved::Statistics {
                logits,
                statistics,
                divisors,
            },
            SavedMetadata::Statistics {
                logits: told_logits,
                statistics: told_statistics,
                divisors: told_divisors,
            },
        ) => {
            assert_same(logits, told_logits);
            assert_same(statistics, told_statistics);
            assert_same(divisors, told_divisors);
        }
        (
            Saved::Logits(Logits::Tensor(logits)),
            SavedMetadata::Logits(LogitsMetadata::Tensor(told)),
        ) => assert_same(logits, told),
        (
            Saved::Logits(Logits::Projected(projection)),
            SavedMetadata::Logits(LogitsMetadata::Projected(told)),
        ) => assert_same(&projection.hidden, &told.hidden),
        (
            Saved::Gradients {
                gradients, dtype, ..
            },
            SavedMetadata::Gradients {
                gradients: told,
                dtype: told_dtype,
                ..
            },
        ) => {
            assert_same_gradients(gradients, told);
            assert_eq!(dtype, told_dtype);
        }
        _ => panic!("another variant was announced"),
    }
}

#[track_caller]
fn assert_same_outputs(outputs: &RowOutputs<CubeBackend>, told: &RowOutputsMetadata) {
    match (outputs, told) {
        (RowOutputs::Nothing, RowOutputsMetadata::Nothing) => {}
        (
            RowOutputs::PerRow {
                numbers,
                classes,
                divisors,
            },
            RowOutputsMetadata::PerRow {
                numbers: told_numbers,
                classes: told_classes,
                divisors: told_divisors,
            },
        ) => {
            assert_same(numbers, told_numbers);
            assert_same(classes, told_classes);
            assert_same(divisors, told_divisors);
        }
        _ => panic!("another variant was announced"),
    }
}

#[track_caller]
fn assert_same_gradients(gradients: &Gradients<CubeBackend>, told: &GradientsMetadata) {
    for (gradient, told) in [
        (&gradients.logits, &told.logits),
        (&gradients.targets, &told.targets),
        (&gradients.hidden, &told.hidden),
        (&gradients.weight, &told.weight),
        (&gradients.bias, &told.bias),
        (&gradients.leading, &told.leading),
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
