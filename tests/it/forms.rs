//! Compares ranks, class dimensions, memory layouts and dtypes with the oracle.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device};

use crate::common::backends::{computes_f64, tests_on};
use crate::common::problem::{Problem, Targets};
use crate::common::run;
use crate::common::run::{Form, Layout, assert_agrees};

/// Shapes of every rank. No size is a multiple of 4, and up to rank 4 no two sizes are equal.
const SHAPES: [&[usize]; 8] = [
    &[7],
    &[5, 7],
    &[2, 5, 3],
    &[3, 2, 5, 7],
    &[2, 3, 1, 5, 3],
    &[2, 1, 3, 2, 1, 5],
    &[1, 2, 3, 1, 2, 1, 5],
    &[2, 1, 1, 3, 1, 2, 1, 3],
];

fn every_class_dim_of_every_rank(device: &Device) {
    for (seed, shape) in SHAPES.iter().enumerate() {
        for class_dim in 0..shape.len() {
            let seed = (10 * seed + class_dim) as u64;
            let mut indices = Problem::random(shape, class_dim, false, seed);
            // Burn's NdArray has no gradient for the sum of the seven dimensions of the losses.
            if shape.len() < 8 || !format!("{device:?}").contains("NdArray") {
                indices = indices.unreduced();
            }
            assert_agrees(&indices, Form::default(), device);
            let soft = Problem::random(shape, class_dim, true, seed).with_weights();
            assert_agrees(&soft, Form::default(), device);
        }
    }
}

fn a_negative_class_dim_counts_from_the_end(device: &Device) {
    for shape in &SHAPES[..4] {
        for class_dim in 0..shape.len() {
            let problem = Problem::random(shape, class_dim, false, 3).with_config(|config| {
                config.with_class_dim(class_dim as isize - shape.len() as isize)
            });
            assert_agrees(&problem, Form::default(), device);
        }
    }
}

fn views_need_not_be_contiguous(device: &Device) {
    for layout in Layout::VIEWS {
        for shape in &SHAPES[..5] {
            for class_dim in [0, shape.len() - 1] {
                let form = Form {
                    layout,
                    target_layout: layout,
                    ..Form::default()
                };
                let indices = Problem::random(shape, class_dim, false, 11).unreduced();
                assert_agrees(&indices, form, device);
                assert_agrees(&Problem::random(shape, class_dim, true, 11), form, device);
            }
        }
    }
}

fn index_targets_may_keep_the_class_dimension(device: &Device) {
    let form = Form {
        unsqueezed: true,
        ..Form::default()
    };
    for shape in &SHAPES[1..] {
        for class_dim in [0, 1] {
            assert_agrees(&Problem::random(shape, class_dim, false, 5), form, device);
        }
    }
}

fn every_integer_dtype_of_the_device_is_a_target(device: &Device) {
    let dtypes = [
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U64,
        DType::U32,
        DType::U16,
        DType::U8,
    ];
    let supported: Vec<_> = dtypes
        .into_iter()
        .filter(|dtype| device.supports_dtype(*dtype))
        .collect();
    assert!(supported.contains(&DType::I32), "{supported:?}");
    for int in supported {
        let form = Form {
            int: Some(int),
            ..Form::default()
        };
        // The ignored index is 100, which every dtype can hold.
        let problem = Problem::random(&[4, 3, 5], 1, false, 8).with_ignored(100);
        assert_agrees(&problem, form, device);
        // The ignored index is the default -100, which unsigned dtypes cannot hold.
        let problem = Problem::random(&[4, 3, 5], 1, false, 9);
        assert_agrees(&problem, form, device);
    }
}

/// Shaders refuse logits of f64: they do not have an exponential of f64, and what Burn compiles instead
/// returns wrong numbers.
fn f64_logits_are_computed_in_f64_or_refused(device: &Device) {
    let form = Form {
        float: DType::F64,
        ..Form::default()
    };
    for soft in [false, true] {
        let problem = Problem::random(&[4, 7, 3], 1, soft, 21)
            .with_weights()
            .with_config(|config| config.with_z_loss(0.01).with_label_smoothing(0.1));
        if computes_f64(device) {
            assert_agrees(&problem, form, device);
        } else {
            let error = run::try_solve_in(&problem, form, device).expect_err("a wrong number");
            let message = error.to_string();
            assert!(message.contains("dtype F64"), "{message}");
            assert!(message.contains("cast to one of F32"), "{message}");
        }
    }
}

/// Half precision depends on the device (`capabilities`); NdArray does not even make such a tensor.
fn half_precision_logits_are_computed_in_f32_or_refused(device: &Device) {
    for float in [DType::F16, DType::BF16] {
        let form = Form {
            float,
            ..Form::default()
        };
        for soft in [false, true] {
            let mut problem = Problem::random(&[5, 7, 3], 1, soft, 22).with_weights();
            round(&mut problem.logits);
            if let Targets::Distributions(targets) = &mut problem.targets {
                round(targets);
            }
            if device.supports_dtype(float) {
                assert_agrees(&problem, form, device);
            } else {
                let error = run::try_solve_in(&problem, form, device).expect_err("no such dtype");
                let said = format!("logits of dtype {float:?}");
                assert!(error.to_string().contains(&said), "{error}");
            }
        }
    }
}

/// Rounds to numbers that f16 and bf16 hold exactly.
fn round(values: &mut [f64]) {
    for value in values {
        *value = (*value * 16.0).round() / 16.0;
    }
}

fn constant_distributions_get_no_gradient_and_change_none(device: &Device) {
    for shape in &SHAPES[..4] {
        let mut problem = Problem::random(shape, shape.len() - 1, true, 41)
            .with_weights()
            .unreduced();
        problem.tracked_targets = false;
        assert_agrees(&problem, Form::default(), device);
    }
}

fn many_classes_and_many_rows(device: &Device) {
    for (shape, class_dim) in [
        (vec![3, 1003], 1),
        (vec![1003, 3], 1),
        (vec![2, 67, 129], 1),
        (vec![131, 33], 0),
    ] {
        for reduction in [Reduction::Mean, Reduction::Sum, Reduction::BatchMean] {
            let problem = Problem::random(&shape, class_dim, false, 31)
                .with_ignored(255)
                .with_config(|config| config.with_reduction(reduction).with_label_smoothing(0.05));
            assert_agrees(&problem, Form::default(), device);
        }
    }
}

tests_on! {
    every_backend: [
        every_class_dim_of_every_rank,
        views_need_not_be_contiguous,
        every_integer_dtype_of_the_device_is_a_target,
        f64_logits_are_computed_in_f64_or_refused,
        constant_distributions_get_no_gradient_and_change_none,
        many_classes_and_many_rows,
    ],
    half: [
        half_precision_logits_are_computed_in_f32_or_refused,
    ],
    one_of_each_kind: [
        a_negative_class_dim_counts_from_the_end,
        index_targets_may_keep_the_class_dimension,
    ],
}
