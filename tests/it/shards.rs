//! A vocabulary divided among devices has the loss and the gradients of the whole.

mod refused;

use std::ops::Range;

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{
    CrossEntropyLossConfig, CrossEntropyTarget, EmptyReduction, Normalizer, ShardStatistics,
    TargetTensor, VocabularyShard, WeightedTarget,
};

use crate::common::backends::{is_host, tests_on};
use crate::common::problem::{Outcome, Problem, Targets, Terms};
use crate::common::run::{float_tensor, numbers, weight_dtype};
use crate::common::{oracle, tolerance};

const CLASSES: usize = 11;

/// Divisions of the classes: uneven, some with shards of a single class.
const DIVISIONS: [&[usize]; 4] = [&[0, 11], &[0, 4, 11], &[0, 1, 7, 11], &[0, 3, 4, 8, 10, 11]];

/// The divisions that a device tests. Shards are plain tensor operations, of which Burn's fusion compiles and
/// tries many kernels in every division: on a device, one of them stands for all.
fn divisions(device: &Device) -> &'static [&'static [usize]] {
    match is_host(device) {
        true => &DIVISIONS,
        false => &DIVISIONS[1..2],
    }
}

fn shards(starts: &[usize]) -> Vec<VocabularyShard> {
    let classes = *starts.last().expect("the end of the classes");
    starts
        .windows(2)
        .map(|ends| VocabularyShard::new(ends[0]..ends[1], classes))
        .collect()
}

/// The part of the problem with this range of its classes; only the values of its logits are used.
fn part(problem: &Problem, range: Range<usize>) -> Problem {
    let mut part = problem.clone();
    part.shape[problem.class_dim] = range.len();
    part.logits = vec![0.0; part.shape.iter().product()];
    for row in 0..problem.rows() {
        for class in range.clone() {
            let at = part.at(row, class - range.start);
            part.logits[at] = problem.logits[problem.at(row, class)];
        }
    }
    part
}

fn indices(problem: &Problem) -> &[i64] {
    match &problem.targets {
        Targets::Indices(indices) => indices,
        Targets::Distributions(_) => panic!("shards take indices"),
    }
}

fn int_tensor<const R: usize>(problem: &Problem, device: &Device) -> Tensor<R, Int> {
    let mut shape = problem.shape.clone();
    shape.remove(problem.class_dim);
    Tensor::from_data(TensorData::new(indices(problem).to_vec(), shape), device)
}

/// The logits of each shard, as leaves.
fn parts<const D: usize>(
    problem: &Problem,
    shards: &[VocabularyShard],
    (device, dtype): (&Device, DType),
) -> Vec<Tensor<D>> {
    let leaf = |shard: &VocabularyShard| {
        let part = part(problem, shard.range());
        float_tensor(&part.logits, &part.shape, (device, dtype)).require_grad()
    };
    shards.iter().map(leaf).collect()
}

/// Loss and gradient of the problem; each shard's gradient comes from its own loss.
fn solve<const D: usize, const R: usize>(
    problem: &Problem,
    shards: &[VocabularyShard],
    (device, dtype): (&Device, DType),
) -> Outcome
where
    Tensor<R, Int>: CrossEntropyTarget<D>,
    WeightedTarget<Tensor<R, Int>, R>: CrossEntropyTarget<D>,
{
    let targets = int_tensor::<R>(problem, device);
    match &problem.row_weights {
        None => solve_for(problem, shards, (device, dtype), targets),
        Some(weights) => {
            let options = (device, weight_dtype(dtype));
            let weights = float_tensor::<R>(weights, &targets.dims(), options);
            solve_for(problem, shards, (device, dtype), targets.weighted(weights))
        }
    }
}

fn solve_for<const D: usize>(
    problem: &Problem,
    shards: &[VocabularyShard],
    (device, dtype): (&Device, DType),
    target: impl CrossEntropyTarget<D> + Clone,
) -> Outcome {
    let loss = problem.config.init(device);
    let targets = || target.clone();
    let parts = parts::<D>(problem, shards, (device, dtype));
    let pairs = || shards.iter().zip(&parts);
    let combined = ShardStatistics::combined(
        pairs().map(|(shard, part)| loss.shard_statistics(part.clone(), targets(), shard)),
    );
    let mut outcome = Outcome {
        loss: vec![],
        logits_gradient: vec![0.0; problem.logits.len()],
        targets_gradient: None,
        terms: Terms::default(),
    };
    for (shard, leaf) in pairs() {
        let value = loss.forward_shard(leaf.clone(), targets(), shard, &combined);
        let found = numbers(value.clone());
        if outcome.loss.is_empty() {
            outcome.loss = found;
        } else {
            let (found, first) = (found[0], outcome.loss[0]);
            let same = found == first || found.is_nan() && first.is_nan();
            assert!(
                same,
                "{shard:?} has a loss of {found:e}, the first {first:e}"
            );
        }
        let gradients = (value * problem.upstream[0]).backward();
        let gradient = leaf.grad(&gradients).expect("the leaf requires it");
        assert_eq!(gradient.dtype(), dtype, "dtype of the gradient");
        let gradient = numbers(gradient);
        let part = part(problem, shard.range());
        for row in 0..problem.rows() {
            for class in shard.range() {
                let at = part.at(row, class - shard.range().start);
                outcome.logits_gradient[problem.at(row, class)] = gradient[at];
            }
        }
    }
    outcome
}

#[track_caller]
fn assert_agrees_in(problem: &Problem, device: &Device, dtype: DType) {
    let expected = oracle::solve(problem);
    for starts in divisions(device) {
        let shards = shards(starts);
        let found = match problem.shape.len() {
            2 => solve::<2, 1>(problem, &shards, (device, dtype)),
            _ => solve::<3, 2>(problem, &shards, (device, dtype)),
        };
        let name = format!("{starts:?}, {dtype:?}, {:?}", problem.config);
        tolerance::assert_close(&name, problem, &found, &expected, dtype);
    }
}

/// Compares the loss over shards with the oracle's of the whole.
#[track_caller]
pub fn assert_agrees(problem: &Problem, device: &Device) {
    assert_agrees_in(problem, device, DType::F32);
}

/// Indices over the classes that the divisions divide.
pub fn problem(rows: usize, seed: u64) -> Problem {
    Problem::random(&[rows, CLASSES], 1, false, seed)
}

fn weights() -> Option<Vec<f32>> {
    Some(
        (0..CLASSES)
            .map(|class| (class % 4) as f32 * 0.75)
            .collect(),
    )
}

type Change = fn(CrossEntropyLossConfig) -> CrossEntropyLossConfig;

const OPTIONS: [(&str, Change); 10] = [
    ("nothing", |config| config),
    ("weights", |config| config.with_weight(weights())),
    ("smoothing", |config| config.with_label_smoothing(0.1)),
    ("smoothing alone", |config| config.with_label_smoothing(1.0)),
    ("weights and smoothing", |config| {
        config.with_weight(weights()).with_label_smoothing(0.3)
    }),
    ("z-loss", |config| config.with_z_loss(0.01)),
    ("scale", |config| config.with_logit_scale(0.7)),
    ("softcap", |config| config.with_logit_softcap(Some(3.0))),
    ("no ignored targets", |config| {
        config.with_ignore_indices(vec![])
    }),
    ("all", |config| {
        config
            .with_weight(weights())
            .with_label_smoothing(0.2)
            .with_z_loss(0.02)
            .with_logit_scale(1.3)
            .with_logit_softcap(Some(5.0))
    }),
];

fn shards_have_the_loss_and_the_gradients_of_the_whole(device: &Device) {
    let options = match is_host(device) {
        true => &OPTIONS[..],
        false => &OPTIONS[OPTIONS.len() - 1..],
    };
    for (seed, (_, change)) in options.iter().enumerate() {
        assert_agrees(&problem(7, seed as u64).with_config(change), device);
    }
}

fn every_reduction_is_that_of_the_whole(device: &Device) {
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::BatchMean] {
        for shape in [[3, CLASSES, 5].as_slice(), &[6, CLASSES]] {
            let problem = Problem::random(shape, 1, false, 21)
                .with_ignored(-7)
                .with_config(|config| {
                    config
                        .with_reduction(reduction.clone())
                        .with_weight(weights())
                        .with_z_loss(0.03)
                });
            assert_agrees(&problem, device);
        }
    }
}

fn the_classes_of_a_shard_may_be_in_any_dimension(device: &Device) {
    for (class_dim, configured) in [(0, 0), (1, 1), (2, -1)] {
        let mut shape = vec![2, 5, 3];
        shape[class_dim] = CLASSES;
        let problem = Problem::random(&shape, class_dim, false, 8).with_config(|config| {
            config
                .with_class_dim(configured)
                .with_weight(weights())
                .with_label_smoothing(0.1)
                .with_reduction(Reduction::BatchMean)
        });
        assert_agrees(&problem, device);
    }
}

fn an_ignored_row_is_nothing_whatever_it_holds(device: &Device) {
    for smoothing in [0.0, 0.1] {
        let mut problem = problem(7, 5).with_ignored(-100).with_config(|config| {
            config
                .with_label_smoothing(smoothing)
                .with_z_loss(0.01)
                .with_weight(weights())
        });
        for (row, value) in [(1, f64::NAN), (4, f64::INFINITY)] {
            for class in [0, 5, 10] {
                let at = problem.at(row, class);
                problem.logits[at] = value;
            }
        }
        assert_agrees(&problem, device);
    }
}

fn a_mean_over_nothing_is_what_the_configuration_says(device: &Device) {
    for empty in [EmptyReduction::Nan, EmptyReduction::Zero] {
        let mut problem = problem(3, 6).with_config(|config| config.with_empty(empty));
        problem.targets = Targets::Indices(vec![-100; 3]);
        assert_agrees(&problem, device);
    }
}

/// More classes than one run of additions takes, with maxima close to each other and far apart.
fn large_vocabularies_keep_their_digits(device: &Device) {
    for (seed, spread) in [(40, 1.0), (41, 25.0)] {
        for smoothing in [0.0, 0.1] {
            let mut problem = Problem::random(&[4, 403], 1, false, seed)
                .with_weights()
                .with_config(|config| config.with_label_smoothing(smoothing).with_z_loss(0.001));
            for logit in &mut problem.logits {
                *logit = f64::from((*logit * spread) as f32);
            }
            let expected = oracle::solve(&problem);
            for ends in [[0, 150, 151, 403], [0, 33, 370, 403]] {
                let found = solve::<2, 1>(&problem, &shards(&ends), (device, DType::F32));
                let name = format!("{ends:?}, {spread}, {smoothing}");
                tolerance::assert_close(&name, &problem, &found, &expected, DType::F32);
            }
        }
    }
}

/// Rows in which one class has almost all of the probability. This class is in each shard in turn, and the
/// target is there or elsewhere.
fn confident_rows_keep_their_digits(device: &Device) {
    for (_, change) in OPTIONS {
        let mut problem = problem(24, 9).with_config(change);
        let mut targets = vec![];
        for row in 0..24 {
            let largest = row % CLASSES;
            for class in 0..CLASSES {
                let at = problem.at(row, class);
                problem.logits[at] = match class == largest {
                    true => 14.0 + row as f64 * 0.5,
                    false => (class % 3) as f64 * 0.25,
                };
            }
            targets.push(if row < 17 {
                largest
            } else {
                (largest + 5) % CLASSES
            } as i64);
        }
        problem.targets = Targets::Indices(targets);
        assert_agrees(&problem, device);
    }
    let mut one = Problem::random(&[1, 3], 1, false, 0);
    one.logits = vec![20.0, 0.0, 0.0];
    one.targets = Targets::Indices(vec![0]);
    one.upstream = vec![1.0];
    let found = solve::<2, 1>(&one, &shards(&[0, 1, 3]), (device, DType::F32));
    assert!(
        (found.loss[0] / 4.12230738e-9 - 1.0).abs() < 1e-6,
        "{found:?}"
    );
    assert!(
        (found.logits_gradient[0] / -4.12230738e-9 - 1.0).abs() < 1e-6,
        "{found:?}"
    );
}

fn equal_largest_logits_in_several_shards_are_counted_once_each(device: &Device) {
    for (_, change) in OPTIONS {
        let mut problem = problem(4, 10).with_config(change);
        for (row, same) in [[0, 1], [3, 4], [0, 10], [8, 9]].into_iter().enumerate() {
            for class in same {
                let at = problem.at(row, class);
                problem.logits[at] = 9.0;
            }
        }
        assert_agrees(&problem, device);
    }
}

fn classes_at_minus_infinity_add_nothing(device: &Device) {
    let without = |classes: &[usize]| {
        let mut problem = problem(5, 12);
        for row in 0..5 {
            for class in classes {
                let at = problem.at(row, *class);
                problem.logits[at] = f64::NEG_INFINITY;
            }
        }
        problem.targets = Targets::Indices(vec![3, 9, 5, 7, 3]);
        problem
    };
    // Shards without a finite logit, at the front, between others and at the end.
    for classes in [[0, 0, 0, 0], [0, 1, 2, 8], [1, 2, 4, 6], [10, 8, 4, 4]] {
        assert_agrees(&without(&classes), device);
        // The classes have a weight of 0, so that smoothing gives them nothing.
        let smooth = without(&classes).with_config(|config| {
            let mut weights = vec![1.5; CLASSES];
            for class in classes {
                weights[class] = 0.0;
            }
            config.with_weight(Some(weights)).with_label_smoothing(0.1)
        });
        assert_agrees(&smooth, device);
        // The target gives them nothing either, if its weight is 0.
        for smoothing in [0.0, 1.0] {
            let mut weightless = without(&classes).with_config(|config| {
                let mut weights = vec![0.5; CLASSES];
                for class in classes {
                    weights[class] = 0.0;
                }
                config
                    .with_weight(Some(weights))
                    .with_label_smoothing(smoothing)
            });
            if let Targets::Indices(indices) = &mut weightless.targets {
                indices[1] = classes[0] as i64;
            }
            assert_agrees(&weightless, device);
        }
        // A softcap leaves these classes the masks that they are.
        let capped = smooth.with_config(|config| config.with_logit_softcap(Some(4.0)));
        let expected = oracle::solve(&capped);
        let found = solve::<2, 1>(&capped, &shards(DIVISIONS[3]), (device, DType::F32));
        tolerance::assert_losses(
            "capped",
            &found.loss,
            &expected.loss,
            tolerance::of(DType::F32),
        );
    }
}

fn rows_without_a_loss_say_so(device: &Device) {
    let with = |smoothing: f64, values: &[(usize, f64)], target: i64| {
        let mut problem =
            problem(1, 13).with_config(|config| config.with_label_smoothing(smoothing));
        for (class, value) in values {
            problem.logits[*class] = *value;
        }
        problem.targets = Targets::Indices(vec![target]);
        problem
    };
    let nothing: Vec<(usize, f64)> = (0..CLASSES)
        .map(|class| (class, f64::NEG_INFINITY))
        .collect();
    let nan_beside = |class: usize| {
        let mut values = nothing.clone();
        values[class].1 = f64::NAN;
        values
    };
    let infinite = f64::NEG_INFINITY;
    for (problem, is_expected) in [
        (with(0.0, &nothing, 2), f64::is_nan as fn(f64) -> bool),
        (with(0.1, &nothing, 2), f64::is_nan),
        (with(0.0, &nan_beside(0), 2), f64::is_nan),
        (with(0.0, &nan_beside(9), 2), f64::is_nan),
        (with(0.0, &[(4, f64::NAN)], 2), f64::is_nan),
        (with(0.0, &[(0, f64::INFINITY)], 2), f64::is_nan),
        (with(0.0, &[(10, f64::INFINITY)], 2), f64::is_nan),
        (with(0.0, &[(2, infinite)], 2), |loss| loss == f64::INFINITY),
        (with(0.1, &[(7, infinite)], 2), |loss| loss == f64::INFINITY),
        (with(0.1, &[(0, infinite)], 2), |loss| loss == f64::INFINITY),
    ] {
        assert!(is_expected(oracle::solve(&problem).loss[0]));
        for starts in divisions(device) {
            let found = solve::<2, 1>(&problem, &shards(starts), (device, DType::F32));
            assert!(
                is_expected(found.loss[0]),
                "{starts:?} {:?}",
                problem.logits
            );
        }
    }
}

fn other_dtypes_have_their_own_digits(device: &Device) {
    let dtypes = [DType::F64, DType::F16, DType::BF16].into_iter();
    for dtype in dtypes.filter(|dtype| device.supports_dtype(*dtype)) {
        for (seed, (_, change)) in OPTIONS.into_iter().enumerate() {
            let mut problem = problem(5, 30 + seed as u64).with_config(change);
            // Every dtype holds these numbers exactly.
            for logit in &mut problem.logits {
                *logit = (*logit * 8.0).round() / 8.0;
            }
            assert_agrees_in(&problem, device, dtype);
        }
    }
}

/// The statistics of each shard of a division.
fn statistics(problem: &Problem, starts: &[usize], device: &Device) -> Vec<ShardStatistics> {
    let loss = problem.config.init(device);
    let shards = shards(starts);
    let parts = parts::<2>(problem, &shards, (device, DType::F32));
    shards
        .iter()
        .zip(parts)
        .map(|(shard, part)| loss.shard_statistics(part, int_tensor::<1>(problem, device), shard))
        .collect()
}

fn statistics_combine_in_any_order(device: &Device) {
    for smoothing in [0.0, 0.1] {
        let mut problem = problem(6, 14).with_config(|config| {
            config
                .with_label_smoothing(smoothing)
                .with_weight(weights())
        });
        // The rows have ties, a confident class, and a shard without a finite logit.
        for (row, class, value) in [
            (0, 0, 9.0),
            (0, 10, 9.0),
            (1, 4, 25.0),
            (2, 0, f64::NEG_INFINITY),
            (2, 10, f64::NEG_INFINITY),
        ] {
            let at = problem.at(row, class);
            problem.logits[at] = value;
        }
        let all = |order: &[usize]| {
            let parts = statistics(&problem, DIVISIONS[3], device);
            ShardStatistics::combined(order.iter().map(|at| parts[*at].clone())).into_tensor()
        };
        let grouped = || {
            let [a, b, c, d, e] = statistics(&problem, DIVISIONS[3], device)
                .try_into()
                .expect("five shards");
            (a.combine(b))
                .combine(c.combine(d.combine(e)))
                .into_tensor()
        };
        let [whole] = statistics(&problem, DIVISIONS[0], device)
            .try_into()
            .expect("one shard");
        let lines = if smoothing == 0.0 { 3 } else { 6 };
        let whole = whole.into_tensor();
        assert_eq!(whole.dims(), [lines, 6]);
        let whole = numbers(whole);
        for found in [
            all(&[0, 1, 2, 3, 4]),
            all(&[4, 3, 2, 1, 0]),
            all(&[2, 4, 0, 3, 1]),
            grouped(),
        ] {
            for (at, (found, expected)) in numbers(found).into_iter().zip(&whole).enumerate() {
                let (line, row) = (at / 6, at % 6);
                // The order decides which entries stand at the maximum of a tie; they add up to the same.
                if row == 0 && line >= 4 {
                    continue;
                }
                let same = found == *expected || (found - expected).abs() <= 1e-6 * expected.abs();
                assert!(
                    same,
                    "line {line}, row {row}: {found:e}, whole {expected:e}"
                );
            }
        }
    }
}

fn statistics_travel_as_plain_tensors(device: &Device) {
    let problem = problem(5, 15);
    let loss = problem.config.init(device);
    let shard = VocabularyShard::new(0..CLASSES, CLASSES);
    let targets = || int_tensor::<1>(&problem, device);
    let [leaf] = parts::<2>(&problem, std::slice::from_ref(&shard), (device, DType::F32))
        .try_into()
        .expect("one shard");
    let sent = loss
        .shard_statistics(leaf.clone(), targets(), &shard)
        .into_tensor();
    assert!(!sent.is_require_grad());
    assert_eq!(sent.device(), device.clone().without_autodiff());
    // Statistics that a model's own communication returns may be on the autodiff device.
    let received = Tensor::<2>::from_data(sent.into_data(), device);
    let combined = ShardStatistics::from_tensor(received, &loss).to_device(device);
    let value = loss.forward_shard(leaf.clone(), targets(), &shard, &combined);
    assert_eq!(value.device(), leaf.device());
    let gradient = leaf.grad(&(value * problem.upstream[0]).backward());
    let found = numbers(gradient.expect("the leaf requires it"));
    let expected = oracle::solve(&problem);
    for (found, expected) in found.iter().zip(&expected.logits_gradient) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
}

/// Adds up the losses over a normalizer, in shards of the vocabulary and parts of the batch.
fn shards_take_a_normalizer(device: &Device) {
    let whole = problem(9, 16).with_ignored(-5).with_config(|config| {
        config
            .with_weight(weights())
            .with_z_loss(0.05)
            .with_label_smoothing(0.1)
    });
    let loss = whole.config.init(device);
    let normalizer: Normalizer = loss.normalizer(int_tensor::<1>(&whole, device));
    let shards = shards(DIVISIONS[2]);
    let mut total = 0.0;
    for rows in [0..2, 2..9] {
        let mut batch = whole.clone();
        batch.shape[0] = rows.len();
        batch.logits = whole.logits[rows.start * CLASSES..rows.end * CLASSES].to_vec();
        batch.targets = Targets::Indices(indices(&whole)[rows].to_vec());
        let targets = || int_tensor::<1>(&batch, device);
        let parts = parts::<2>(&batch, &shards, (device, DType::F32));
        let pairs = || shards.iter().zip(&parts);
        let combined = ShardStatistics::combined(
            pairs().map(|(shard, part)| loss.shard_statistics(part.clone(), targets(), shard)),
        );
        let losses = pairs().map(|(shard, part)| {
            let (part, of) = (part.clone(), normalizer.clone());
            numbers(loss.forward_shard_normalized(part, targets(), shard, &combined, of))[0]
        });
        let losses: Vec<f64> = losses.collect();
        assert!(losses.iter().all(|loss| *loss == losses[0]), "{losses:?}");
        total += losses[0];
    }
    let expected = oracle::solve(&whole).loss[0];
    assert!(
        (total - expected).abs() < 2e-6 * expected,
        "{total} {expected}"
    );
}

fn no_rows_are_an_empty_mean(device: &Device) {
    for (reduction, empty, expected) in [
        (Reduction::Mean, EmptyReduction::Zero, 0.0),
        (Reduction::Mean, EmptyReduction::Nan, f64::NAN),
        (Reduction::Sum, EmptyReduction::Nan, 0.0),
    ] {
        let loss = CrossEntropyLossConfig::new()
            .with_reduction(reduction)
            .with_empty(empty)
            .with_label_smoothing(0.1)
            .init(device);
        let shards = VocabularyShard::split(7, 2);
        let logits = |shard: &VocabularyShard| Tensor::<2>::zeros([0, shard.range().len()], device);
        let targets = || Tensor::<1, Int>::zeros([0], device);
        let statistics =
            (shards.iter()).map(|shard| loss.shard_statistics(logits(shard), targets(), shard));
        let combined = ShardStatistics::combined(statistics);
        for shard in &shards {
            let found = numbers(loss.forward_shard(logits(shard), targets(), shard, &combined));
            let same = found[0] == expected || expected.is_nan() && found[0].is_nan();
            assert!(same, "{} for {expected}", found[0]);
        }
    }
}

tests_on! {
    every_backend: [
        shards_have_the_loss_and_the_gradients_of_the_whole,
        an_ignored_row_is_nothing_whatever_it_holds,
        rows_without_a_loss_say_so,
    ],
    host: [
        every_reduction_is_that_of_the_whole,
        the_classes_of_a_shard_may_be_in_any_dimension,
        a_mean_over_nothing_is_what_the_configuration_says,
        large_vocabularies_keep_their_digits,
        confident_rows_keep_their_digits,
        equal_largest_logits_in_several_shards_are_counted_once_each,
        classes_at_minus_infinity_add_nothing,
        other_dtypes_have_their_own_digits,
        statistics_combine_in_any_order,
        shards_take_a_normalizer,
        no_rows_are_an_empty_mean,
    ],
    one_of_each_kind: [statistics_travel_as_plain_tensors],
}

#[test]
fn a_split_covers_the_classes_once() {
    for (classes, count) in [(1, 1), (7, 7), (11, 2), (32_000, 3)] {
        let shards = VocabularyShard::split(classes, count);
        assert_eq!(shards.len(), count);
        let mut next = 0;
        for shard in &shards {
            assert_eq!((shard.range().start, shard.classes()), (next, classes));
            assert!((classes / count..=classes.div_ceil(count)).contains(&shard.range().len()));
            next = shard.range().end;
        }
        assert_eq!(next, classes);
    }
}
