//! Runs the kernels in every way of spreading a row over units, whatever a device would choose: a unit, a
//! plane, a cube or several cubes per row; with sums by plane operations or in shared memory; with rows in
//! parts; with a launch for each gradient; with loss and gradient in one kernel; and with vectors that rows share.
//!
//! A choice applies to the whole process, so these tests are a binary of their own: other tests in it would
//! compile every kernel of theirs in every way.
//!
//! A software adapter has plane operations, although it says that it has none, so these kernels are tested on
//! a machine without a GPU too.
#![cfg(any(feature = "cpu", feature = "wgpu", feature = "cuda"))]
// Burn deprecates NdArray, which `common` may name too.
#![cfg_attr(feature = "ndarray", allow(deprecated))]
#![allow(
    dead_code,
    reason = "`common` is that of tests/it, which uses all of it"
)]

#[path = "../it/common/mod.rs"]
mod common;

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::testing::{Forced, Strategy, forcing};
use burn_cross_entropy::{
    CrossEntropyLossConfig, CrossEntropyTarget, LogitsRank, RowLosses, SmoothingOver,
    SparseDistribution, TargetTensor, TeacherLogits, WeightedTarget,
};

use common::backends::{is_processor, tests_on};
use common::entries::Entries;
use common::hard_rows;
use common::output::assert_output;
use common::problem::{Problem, Targets};
use common::random::random_problems_agree;
use common::run::{self, Form, Layout, Losses, assert_agrees, float_tensor, numbers, row_shape};
use common::tails::Tailed;
use common::teacher::Teacher;
use common::tolerance::assert_numbers;

/// Strategies, each with whether a row has several parts.
const STRATEGIES: [(Strategy, bool); 5] = [
    (Strategy::Unit, false),
    (Strategy::Unit, true),
    (Strategy::Plane, false),
    (Strategy::Cube, false),
    (Strategy::Cube, true),
];

/// Numbers of classes: fewer than a group has units, a few times as many, and more than one block of every
/// unit; multiples of a vector and others.
const CLASSES: [usize; 4] = [2, 31, 516, 5003];

/// The ways that the device can be forced into. A unit has no plane to add up with. A processor's planes have
/// one unit, so it has neither rows of a plane nor sums by a plane.
fn ways(device: &Device) -> Vec<Forced> {
    let processor = is_processor(device);
    let ways = STRATEGIES
        .into_iter()
        .flat_map(|way| [(way, false), (way, true)]);
    let ways = ways.filter(|((strategy, _), planes)| match strategy {
        Strategy::Unit => !planes,
        Strategy::Plane => !processor,
        Strategy::Cube => !processor || !planes,
    });
    ways.map(|((strategy, in_parts), planes)| Forced {
        strategy,
        in_parts,
        planes,
        few_buffers: in_parts,
        one_pass: false,
        shared_vectors: true,
        parked: false,
    })
    .collect()
}

/// The same ways with loss and gradient in one kernel, which takes whole rows.
fn ways_of_one_kernel(device: &Device) -> Vec<Forced> {
    let ways = ways(device).into_iter();
    ways.filter(|way| !way.in_parts)
        .map(|way| Forced {
            one_pass: true,
            ..way
        })
        .collect()
}

/// Runs a test in every way.
fn in_every_way(device: &Device, test: impl Fn()) {
    in_ways(ways(device), test);
}

fn in_ways(ways: Vec<Forced>, test: impl Fn()) {
    for forced in ways {
        let run = || forcing(forced, &test);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|reason| {
            eprintln!("with {forced:?}");
            std::panic::resume_unwind(reason)
        });
    }
}

fn every_number_of_classes(device: &Device) {
    in_every_way(device, || {
        for classes in CLASSES {
            let indices = Problem::random(&[5, classes], 1, false, 1);
            let shares = Problem::random(&[5, classes], 1, true, 2);
            for problem in [
                indices.clone(),
                indices.with_every_option().unreduced(),
                shares.clone(),
                shares.with_every_option(),
            ] {
                assert_agrees(&problem, Form::default(), device);
            }
        }
    });
}

/// Loss and gradient in one kernel, with the logits held by nobody and by the test, for upstream gradients of every
/// kind, with outputs and without.
fn loss_and_gradient_in_one_kernel(device: &Device) {
    let shapes: [(&[usize], usize); 7] = [
        (&[7, 10], 1),
        (&[5, 516], 1),
        (&[2, 301, 4], 1),
        // Held in vectors of fewer positions, the second with distributions too.
        (&[2, 21, 8], 1),
        (&[2, 11, 6], 1),
        (&[516, 7], 0),
        (&[3, 5003], 1),
    ];
    in_ways(ways_of_one_kernel(device), || {
        for (shape, class_dim) in shapes {
            let indices = Problem::random(shape, class_dim, false, 11).with_ignored(2);
            let mut shares = Problem::random(shape, class_dim, true, 12);
            shares.tracked_targets = false;
            for mut problem in [
                indices.clone(),
                indices.with_every_option().with_row_weights(),
                shares.clone(),
                shares.with_every_option(),
            ] {
                for (owned, upstream) in [(true, -1.75), (false, 1.0), (true, 1.0), (false, 0.0)] {
                    problem.upstream = vec![upstream];
                    let form = Form {
                        owned,
                        ..Form::default()
                    };
                    assert_agrees(&problem, form, device);
                }
                let form = Form {
                    layout: Layout::Sliced,
                    owned: true,
                    ..Form::default()
                };
                assert_agrees(&problem, form, device);
            }
        }
    });
}

/// Rows that begin or end within vectors, in every way. In all their rows they have multiples of 16 logits, or gaps behind them.
/// Options, targets and layouts take turns, because each is another set of kernels.
fn rows_that_share_vectors(device: &Device) {
    let short = Problem::random(&[16, 37], 1, false, 21).with_ignored(2);
    let indices = Problem::random(&[48, 5003], 1, false, 22).with_ignored(7);
    let shares = Problem::random(&[2, 53, 8], 1, true, 23);
    let everything = shares.clone().with_every_option().with_row_weights();
    let gaps = Problem::random(&[5, 517], 1, true, 27);
    let moved = Layout::Moved;
    let turns = [
        (
            short.with_every_option().with_row_weights(),
            Layout::Contiguous,
            true,
        ),
        (indices.clone(), Layout::Contiguous, true),
        (indices.unreduced(), Layout::Contiguous, false),
        (shares.with_weights(), moved, false),
        (everything, moved, true),
        // A gap behind every row.
        (gaps.clone(), Layout::Gaps, true),
        (gaps.with_every_option(), Layout::Gaps, false),
    ];
    let ways = [ways(device), ways_of_one_kernel(device)].concat();
    in_ways(ways, || {
        for (problem, layout, owned) in &turns {
            let form = Form {
                layout: *layout,
                target_layout: *layout,
                owned: *owned,
                ..Form::default()
            };
            assert_agrees(problem, form, device);
        }
    });
}

/// Rows that wait in shared memory for their gradient, between whole vectors and vectors that they share.
fn rows_parked_in_shared_memory(device: &Device) {
    let ways = ways_of_one_kernel(device).into_iter();
    let ways = ways.filter(|way| way.strategy == Strategy::Cube);
    let ways = ways.map(|way| Forced {
        parked: true,
        ..way
    });
    let mut indices = Problem::random(&[5, 5004], 1, false, 24).with_ignored(7);
    let mut shared = Problem::random(&[16, 5003], 1, false, 25).with_every_option();
    shared.upstream = vec![-1.75];
    for logit in indices.logits.iter_mut().chain(&mut shared.logits) {
        // A number that bf16 holds.
        *logit = (*logit * 16.0).round() / 16.0;
    }
    let floats = match is_processor(device) {
        true => vec![DType::F32, DType::BF16],
        false => vec![DType::F32],
    };
    in_ways(ways.collect(), || {
        for float in &floats {
            for (problem, owned) in [(&indices, true), (&shared, false)] {
                let form = Form {
                    float: *float,
                    owned,
                    ..Form::default()
                };
                assert_agrees(problem, form, device);
            }
        }
    });
}

/// Entries of sparse distributions, with tails and without, against the definition.
fn entries_and_tails(device: &Device) {
    let shapes: [(&[usize], usize); 4] = [
        (&[9, 130], 1),
        (&[16, 37], 1),
        (&[2, 301, 4], 1),
        (&[5, 5003], 1),
    ];
    let ways = [ways(device), ways_of_one_kernel(device)].concat();
    in_ways(ways, || {
        for (shape, class_dim) in shapes {
            for has_tail in [false, true] {
                let mut tailed = Tailed::random(shape, class_dim, 4, 14);
                if !has_tail {
                    tailed.tails.fill(0.0);
                }
                let scaled = |config: CrossEntropyLossConfig| {
                    let config = config.with_reduction(Reduction::BatchMean);
                    config.with_logit_scale(0.7).with_z_loss(0.01)
                };
                let options = |problem: Problem| problem.with_config(scaled).with_row_weights();
                for tailed in [
                    tailed.clone(),
                    tailed.clone().with(options),
                    tailed.with(Problem::unreduced),
                ] {
                    match shape.len() {
                        2 => assert_entries::<2, 1>(&tailed, has_tail, device),
                        _ => assert_entries::<3, 2>(&tailed, has_tail, device),
                    }
                }
            }
        }
    });
}

fn assert_entries<const D: usize, const R: usize>(tailed: &Tailed, has_tail: bool, device: &Device)
where
    Tensor<D>: LogitsRank,
    RowLosses<D>: Losses,
    WeightedTarget<SparseDistribution<D>, R>: CrossEntropyTarget<D>,
{
    let (problem, options) = (&tailed.problem, (device, DType::F32));
    let (found, _) = run::over_a_leaf::<D>(problem, options, |loss, logits| {
        let classes = TensorData::new(tailed.classes.clone(), tailed.shape(4));
        let classes = Tensor::<D, Int>::from_data(classes, device);
        let shares = float_tensor(&tailed.shares, &tailed.shape(4), options);
        let target = SparseDistribution::new(classes, shares);
        let target = match has_tail {
            true => target.with_tail(float_tensor(&tailed.tails, &tailed.shape(1), options)),
            false => target,
        };
        let ones = vec![1.0; problem.rows()];
        let weights = problem.row_weights.as_ref().unwrap_or(&ones);
        let weights = float_tensor::<R>(weights, &row_shape(problem), options);
        run::weighed_loss::<D>(problem, loss, logits, target.weighted(weights))
    });
    let expected = tailed.solve().outcome;
    let name = format!("{:?}, a tail {has_tail}", problem.shape);
    assert_numbers(&name, &found.loss, &expected.loss, 4e-6);
    let gradient = &expected.logits_gradient;
    assert_numbers(&name, &found.logits_gradient, gradient, 4e-6);
}

/// Entries beside label smoothing and weights of classes, among them repeated and ignored ones, with outputs and
/// without.
fn entries_with_smoothing_and_outputs(device: &Device) {
    let ways = [ways(device), ways_of_one_kernel(device)].concat();
    in_ways(ways, || {
        for (shape, count) in [([9, 130, 1], 4), ([16, 37, 1], 3), ([2, 301, 4], 5)] {
            for (smoothing, over) in [
                (0.0, SmoothingOver::Classes),
                (0.2, SmoothingOver::Classes),
                (0.2, SmoothingOver::ValidClasses),
            ] {
                let options = |problem: Problem| {
                    let problem = problem.with_weights().with_row_weights();
                    problem.with_config(|config| {
                        config
                            .with_label_smoothing(smoothing)
                            .with_smoothing_over(over)
                            .with_z_loss(0.01)
                    })
                };
                let entries = || Entries::random(&shape, count, 15).with(options);
                entries().assert_agrees(DType::F32, device);
                entries().assert_outputs_agree(device);
            }
        }
    });
}

/// Logits of a teacher, against its probabilities: alone, beside everything else that rows and classes have numbers of,
/// and with masks of the student's and of its own.
fn teachers(device: &Device) {
    let ways = [ways(device), ways_of_one_kernel(device)].concat();
    in_ways(ways, || {
        for (shape, class_dim) in [(&[9, 130][..], 1), (&[16, 53], 1), (&[2, 301, 4], 1)] {
            let problem = Problem::random(shape, class_dim, false, 16);
            let teacher = Teacher {
                logits: Problem::random(shape, class_dim, false, 17).logits,
                temperature: 2.5,
                ..Teacher::SMALLEST
            };
            let over_valid = |config: CrossEntropyLossConfig| {
                let config = config.with_label_smoothing(0.2).with_z_loss(0.01);
                config.with_smoothing_over(SmoothingOver::ValidClasses)
            };
            let everything = problem.clone().with_weights().with_row_weights();
            let mut everything = everything.with_config(over_valid);
            let mut masked = teacher.clone();
            for row in 0..everything.rows() {
                let at = everything.at(row, row % 7);
                everything.logits[at] = f64::NEG_INFINITY;
                masked.logits[at] = f64::NEG_INFINITY;
                let at = everything.at(row, 40 + row % 5);
                masked.logits[at] = f64::NEG_INFINITY;
            }
            for (problem, teacher) in [
                (problem.clone(), &teacher),
                (problem.with_row_weights().unreduced(), &teacher),
                (everything, &masked),
            ] {
                match shape.len() {
                    2 => assert_teacher::<2, 1>(&problem, teacher, device),
                    _ => assert_teacher::<3, 2>(&problem, teacher, device),
                }
            }
        }
    });
}

fn assert_teacher<const D: usize, const R: usize>(
    problem: &Problem,
    teacher: &Teacher,
    device: &Device,
) where
    Tensor<D>: LogitsRank,
    RowLosses<D>: Losses,
    TeacherLogits<Tensor<D>>: TargetTensor,
    WeightedTarget<TeacherLogits<Tensor<D>>, R>: CrossEntropyTarget<D>,
{
    let options = (device, DType::F32);
    let over_shares = teacher.problem(problem);
    let (found, _) = run::over_a_leaf::<D>(problem, options, |loss, logits| {
        let target =
            TeacherLogits::new(float_tensor::<D>(&teacher.logits, &problem.shape, options));
        let target = target.with_temperature(teacher.temperature);
        let ones = vec![1.0; problem.rows()];
        let weights = problem.row_weights.as_ref().unwrap_or(&ones);
        let weights = float_tensor::<R>(weights, &row_shape(problem), options);
        run::weighed_loss::<D>(problem, loss, logits, target.weighted(weights))
    });
    let expected = teacher.solve(&over_shares);
    let name = format!("a teacher, {:?}", problem.shape);
    assert_numbers(&name, &found.loss, &expected.loss, 4e-6);
    let gradient = &expected.logits_gradient;
    assert_numbers(&name, &found.logits_gradient, gradient, 4e-6);
}

/// What a kernel for both has of sparse distributions is what two kernels have.
fn entries_in_one_kernel(device: &Device) {
    const SHAPE: [usize; 2] = [9, 130];
    let problem = Problem::random(&SHAPE, 1, true, 13).with_row_weights();
    let Targets::Distributions(shares) = &problem.targets else {
        panic!("they are distributions");
    };
    let options = (device, DType::F32);
    let found = |has_tail: bool, upstream: f64| {
        let classes: Vec<i64> = (0..SHAPE[0] * 4).map(|at| (at * 31 % 130) as i64).collect();
        let classes = Tensor::<2, Int>::from_data(TensorData::new(classes, [9, 4]), device);
        let target =
            SparseDistribution::new(classes, float_tensor(&shares[..36], &[9, 4], options));
        let target = match has_tail {
            true => target.with_tail(float_tensor(&shares[40..49], &[9, 1], options)),
            false => target,
        };
        let weights = problem.row_weights.as_ref().expect("rows have weights");
        let target = target.weighted::<1>(float_tensor(weights, &[9], options));
        let logits = float_tensor::<2>(&problem.logits, &SHAPE, options).require_grad();
        let loss = CrossEntropyLossConfig::new().with_z_loss(0.01).init(device);
        let value = loss.forward(logits.clone() * 2.0, target);
        let gradients = (value.clone() * upstream).backward();
        let gradient = logits.grad(&gradients).expect("the logits require it");
        (numbers(value), numbers(gradient))
    };
    for way in ways_of_one_kernel(device) {
        for has_tail in [false, true] {
            for upstream in [1.0, -3.0, 0.0] {
                let apart = Forced {
                    one_pass: false,
                    ..way
                };
                let (value, gradient) = forcing(apart, || found(has_tail, upstream));
                let one = forcing(way, || found(has_tail, upstream));
                // The units of one kernel are others, and so is the order of their sums.
                let name = format!("{way:?}, a tail {has_tail}, upstream {upstream}");
                assert_numbers(&name, &one.0, &value, 4e-6);
                assert_numbers(&name, &one.1, &gradient, 4e-6);
                let again = forcing(way, || found(has_tail, upstream));
                assert_eq!(again, one, "the same bits from run to run");
            }
        }
    }
}

/// An upstream gradient that is not a number reaches every gradient of a counted row, and no other.
fn spoiled_upstream_gradients(device: &Device) {
    in_ways(ways_of_one_kernel(device), || {
        for upstream in [f32::NAN, f32::INFINITY] {
            let logits = Tensor::<2>::from_floats([[0.5, -1.0, 2.0], [1.0, 0.0, 3.0]], device);
            let logits = logits.require_grad();
            let targets = Tensor::<1, Int>::from_ints([2, -100], device);
            let value = CrossEntropyLossConfig::new().init(device);
            let value = value.forward(logits.clone(), targets) * upstream;
            let gradient = numbers(logits.grad(&value.backward()).expect("they require it"));
            assert!(gradient[..3].iter().all(|slope| !slope.is_finite()));
            assert_eq!(gradient[3..], [0.0; 3]);
        }
    });
}

/// Strided classes take the same ways where the rows are few.
fn strided_classes(device: &Device) {
    in_every_way(device, || {
        let problem = Problem::random(&[2, 301, 3], 1, true, 3).with_weights();
        assert_agrees(&problem, Form::default(), device);
        let problem = Problem::random(&[301, 7], 0, false, 3).unreduced();
        assert_agrees(&problem, Form::default(), device);
    });
}

fn probabilities(device: &Device) {
    in_every_way(device, || {
        for soft in [false, true] {
            let problem = Problem::random(&[3, 515], 1, soft, 4).with_weights();
            let mut problem = problem.with_config(|config| config.with_logits(false));
            for (at, probability) in problem.logits.iter_mut().enumerate() {
                *probability = (1 + at * 7 % 64) as f64 / 64.0;
            }
            assert_agrees(&problem, Form::default(), device);
        }
    });
}

/// Tests more rows than a device has cubes in one dimension.
fn more_rows_than_cubes_in_one_dimension(device: &Device) {
    let problem = Problem::random(&[65_601, 3], 1, false, 5).with_ignored(-1);
    assert_agrees(&problem, Form::default(), device);
    for strategy in [Strategy::Plane, Strategy::Cube] {
        let forced = Forced {
            strategy,
            in_parts: false,
            planes: false,
            few_buffers: false,
            one_pass: true,
            shared_vectors: true,
            parked: false,
        };
        forcing(forced, || {
            assert_agrees(&problem, Form::default(), device);
        });
    }
}

fn masked_spoiled_ignored_and_confident_rows(device: &Device) {
    let mut ways = ways(device);
    ways.extend(
        ways_of_one_kernel(device)
            .into_iter()
            .filter(|way| !way.planes),
    );
    in_ways(ways, || {
        hard_rows::classes_at_minus_infinity_have_no_part(device);
        hard_rows::a_row_without_a_distribution_spoils_no_other(device);
        hard_rows::an_ignored_row_has_a_gradient_of_zero_in_every_layout(device);
        hard_rows::confident_rows_keep_their_relative_accuracy_in_every_layout(device);
    });
}

/// Tests the details of a row besides its loss.
fn details(device: &Device) {
    in_every_way(device, || {
        for (shape, class_dim) in [
            ([5, 2, 1], 1),
            ([3, 1031, 1], 1),
            ([16, 37, 1], 1),
            ([2, 301, 3], 1),
            ([516, 7, 1], 0),
        ] {
            let indices = Problem::random(&shape, class_dim, false, 7).with_ignored(1);
            let shares = Problem::random(&shape, class_dim, true, 8);
            let mut tied = indices.clone();
            for (at, logit) in tied.logits.iter_mut().enumerate() {
                *logit = (at % 4) as f64;
            }
            // The targets are below all numbers, behind equal ones of their own part and of others.
            let mut masked = indices.clone();
            let last = masked.classes() - 1;
            masked.targets = Targets::Indices(vec![last as i64; masked.rows()]);
            for row in 0..masked.rows() {
                for class in (0..masked.classes()).filter(|class| class % 3 == 1 || *class == last)
                {
                    let at = masked.at(row, class);
                    masked.logits[at] = f64::NEG_INFINITY;
                }
            }
            for problem in [
                indices.clone(),
                indices.with_every_option(),
                shares.clone(),
                shares.with_every_option(),
                tied,
                masked,
            ] {
                assert_output(&problem, device);
            }
        }
    });
}

/// A bad target spoils its own row, and leaves the others as they are to the bit.
fn bad_targets(device: &Device) {
    const CLASSES: usize = 70;
    const BAD: [(usize, i64); 3] = [(1, 70), (2, i32::MAX as i64), (4, -1)];
    in_every_way(device, || {
        let mut problem = Problem::random(&[6, CLASSES], 1, false, 6).unreduced();
        let good = losses_and_gradient(&problem, device);
        if let Targets::Indices(indices) = &mut problem.targets {
            for (row, target) in BAD {
                indices[row] = target;
            }
        }
        let found = losses_and_gradient(&problem, device);
        for row in 0..problem.rows() {
            let of_row = |gradient: &[f64]| gradient[row * CLASSES..(row + 1) * CLASSES].to_vec();
            if BAD.iter().any(|(bad, _)| *bad == row) {
                assert!(found.0[row].is_nan());
                assert!(of_row(&found.1).iter().all(|entry| entry.is_nan()));
            } else {
                assert_eq!(found.0[row], good.0[row]);
                assert_eq!(of_row(&found.1), of_row(&good.1));
            }
        }
    });
}

/// The losses and the gradient, without the look at the targets that `try_forward` takes.
fn losses_and_gradient(problem: &Problem, device: &Device) -> (Vec<f64>, Vec<f64>) {
    let Targets::Indices(indices) = &problem.targets else {
        panic!("indices are asked for");
    };
    let targets = TensorData::new(indices.clone(), [problem.rows()]);
    let targets = Tensor::<1, Int>::from_data(targets, device);
    let logits: Tensor<2> = float_tensor(&problem.logits, &problem.shape, (device, DType::F32));
    let logits = logits.require_grad();
    let loss = problem.config.init(device);
    let losses = loss.forward_no_reduction(logits.clone(), targets);
    let gradients = losses.clone().sum().backward();
    let gradient = logits.grad(&gradients).expect("the logits require it");
    (numbers(losses), numbers(gradient))
}

fn random_problems(device: &Device) {
    in_every_way(device, || random_problems_agree(25, device));
    let ways = ways_of_one_kernel(device).into_iter();
    in_ways(ways.filter(|way| !way.planes).collect(), || {
        random_problems_agree(25, device);
    });
}

tests_on! {
    cubecl: [
    every_number_of_classes,
    strided_classes,
    probabilities,
    more_rows_than_cubes_in_one_dimension,
    masked_spoiled_ignored_and_confident_rows,
    details,
    bad_targets,
    random_problems,
    loss_and_gradient_in_one_kernel,
    rows_that_share_vectors,
    rows_parked_in_shared_memory,
    entries_and_tails,
    entries_with_smoothing_and_outputs,
    teachers,
    entries_in_one_kernel,
    spoiled_upstream_gradients,
],
}
