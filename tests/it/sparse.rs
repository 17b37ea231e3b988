//! Sparse distributions, against the oracle over the dense distributions that they stand for.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{
    CrossEntropyError, CrossEntropyLossConfig, RowFactor, SmoothingOver, SparseDistribution,
    TargetTensor,
};

use crate::common::backends::{computes_f64, is_host, tests_on};
use crate::common::entries::{Entries, IGNORED};
use crate::common::oracle;
use crate::common::problem::{Problem, Targets};
use crate::common::run::{self, f32_tensor, float_tensor, labels, numbers};
use crate::common::tolerance::{assert_numbers, behind_products};
use crate::common::values::rounded;
use crate::linear::projected::{Projected, chunks};

fn sparse_distributions_agree_with_dense_ones(device: &Device) {
    let shapes: &[(&[usize], usize)] = match is_host(device) {
        true => &[
            (&[23, 71], 4),
            (&[67, 5], 3),
            (&[2, 70, 7], 5),
            (&[3, 5, 3, 5], 3),
            (&[9, 300], 1),
            (&[67, 5], 1),
            (&[2, 7, 70], 1),
            (&[5, 300], 41),
            // More entries than classes.
            (&[7, 9], 30),
        ],
        false => &[(&[23, 71], 4), (&[2, 70, 7], 5), (&[7, 9], 30)],
    };
    for (at, (shape, count)) in shapes.iter().enumerate() {
        let of = || Entries::random(shape, *count, at as u64);
        of().assert_agrees(DType::F32, device);
        of().with(Problem::unreduced)
            .assert_agrees(DType::F32, device);
        let every = || of().with(every_option).with(Problem::with_row_weights);
        every().assert_agrees(DType::F32, device);
        every()
            .with(Problem::unreduced)
            .assert_agrees(DType::F32, device);
        // Even shares of label smoothing are a sum of their own.
        let without_smoothing = |config: CrossEntropyLossConfig| config.with_label_smoothing(0.0);
        let unsmoothed = || every().with(|problem| problem.with_config(without_smoothing));
        unsmoothed().assert_agrees(DType::F32, device);
        unsmoothed()
            .with(Problem::unreduced)
            .assert_agrees(DType::F32, device);
        for reduction in [Reduction::Sum, Reduction::BatchMean] {
            let change = |config: CrossEntropyLossConfig| config.with_reduction(reduction);
            of().with(|problem| problem.with_config(change))
                .assert_agrees(DType::F32, device);
        }
    }
}

/// Every option that distributions have; targets to ignore are their default.
fn every_option(problem: Problem) -> Problem {
    problem.with_weights().with_config(|config| {
        config
            .with_label_smoothing(0.1)
            .with_logit_scale(0.7)
            .with_logit_softcap(Some(5.0))
            .with_z_loss(0.01)
    })
}

/// A class that is masked has no part of the label smoothing, whether it is one of the entries or not.
fn smoothing_over_valid_classes_agrees(device: &Device) {
    for (shape, count) in [(&[23, 71][..], 4), (&[2, 70, 7], 5), (&[7, 9], 3)] {
        for are_logits in [true, false] {
            let of = || {
                let masked = if are_logits { f64::NEG_INFINITY } else { 0.0 };
                let mut entries = over(shape, count, are_logits);
                entries.mask(masked);
                entries.with(|problem| {
                    problem.with_weights().with_config(|config| {
                        config
                            .with_label_smoothing(0.3)
                            .with_smoothing_over(SmoothingOver::ValidClasses)
                    })
                })
            };
            of().assert_agrees(DType::F32, device);
            of().with(Problem::with_row_weights)
                .with(Problem::unreduced)
                .assert_agrees(DType::F32, device);
        }
    }
}

/// Entries of distributions beside probabilities.
fn probabilities_agree(device: &Device) {
    for (shape, count) in [(&[23, 71][..], 4), (&[2, 70, 7], 5), (&[7, 9], 30)] {
        let of = || over(shape, count, false);
        of().assert_agrees(DType::F32, device);
        of().with(Problem::with_row_weights)
            .with(Problem::unreduced)
            .assert_agrees(DType::F32, device);
        of().with(Problem::with_weights)
            .with(|problem| problem.with_config(|config| config.with_label_smoothing(0.1)))
            .assert_agrees(DType::F32, device);
    }
}

/// Random entries beside logits or probabilities.
fn over(shape: &[usize], count: usize, are_logits: bool) -> Entries {
    let mut entries = Entries::random(shape, count, 31);
    if !are_logits {
        for (at, probability) in entries.problem.logits.iter_mut().enumerate() {
            *probability = (1 + at * 7 % 64) as f64 / 64.0;
        }
    }
    entries.with(|problem| problem.with_config(|config| config.with_logits(are_logits)))
}

/// An entry that is ignored is nothing, also where a class of its row is masked.
fn an_ignored_entry_is_nothing(device: &Device) {
    for shape in [&[9, 130][..], &[67, 5]] {
        let mut entries = Entries::random(shape, 1, 51);
        for row in [2, 5] {
            entries.ignore_row(row);
            let at = entries.problem.at(row, 0);
            entries.problem.logits[at] = f64::NEG_INFINITY;
        }
        entries.assert_agrees(DType::F32, device);
    }
}

/// Rows without any entry have no loss but the z-loss.
fn no_entries_are_no_distribution(device: &Device) {
    for (shape, z_loss) in [(&[5, 9][..], 0.0), (&[3, 70], 0.1), (&[2, 9, 3], 0.1)] {
        let of = || {
            let entries = Entries::random(shape, 0, 41);
            entries.with(|problem| problem.with_config(|config| config.with_z_loss(z_loss)))
        };
        of().assert_agrees(DType::F32, device);
        of().with(Problem::unreduced)
            .assert_agrees(DType::F32, device);
    }
}

fn every_dtype_agrees(device: &Device) {
    for float in [DType::F64, DType::F16, DType::BF16] {
        if !device.supports_dtype(float) || float == DType::F64 && !computes_f64(device) {
            continue;
        }
        for shape in [&[9, 130][..], &[70, 6]] {
            let mut problem = Problem::random(shape, 1, true, 5);
            let Targets::Distributions(shares) = &mut problem.targets else {
                panic!("they are distributions");
            };
            // Few digits, so that a sum of two shares is exact.
            shares
                .iter_mut()
                .for_each(|share| *share = (*share * 16.0).round() / 16.0);
            let rounded = |logit: &mut f64| *logit = rounded(*logit, float);
            problem.logits.iter_mut().for_each(rounded);
            Entries::of(problem, 4).assert_agrees(float, device);
        }
    }
}

fn projections_agree(device: &Device) {
    const ROWS: usize = 22;
    const CLASSES: usize = 37;
    const COUNT: usize = 4;
    let options = (device, DType::F32);
    for weighted in [false, true] {
        for unreduced in [false, true] {
            let change = |problem: Problem| {
                let problem = match weighted {
                    true => every_option(problem).with_row_weights(),
                    false => problem,
                };
                match unreduced {
                    true => problem.unreduced(),
                    false => problem,
                }
            };
            let projected = Projected::random([ROWS, 11, CLASSES], true, 3).with(change);
            let entries = Entries::of(projected.problem.clone(), COUNT);
            let mut dense = projected.clone();
            dense.problem = entries.problem.clone();
            let expected = dense.expected();
            let allowed = behind_products(4e-5, device);
            for chunk in chunks(device) {
                let ([input, weight], logits) = projected.leaves(chunk, device);
                let shares =
                    float_tensor::<2>(&entries.shares, &[ROWS, COUNT], options).require_grad();
                let target = entries.target(shares.clone());
                let loss = entries.problem.config.init(device);
                let weights = entries.problem.row_weights.as_ref();
                let weights = weights.map(|weights| float_tensor::<1>(weights, &[ROWS], options));
                let problem = &entries.problem;
                let (values, objective) = match weights {
                    None => run::weighed_loss::<2>(problem, &loss, logits, target),
                    Some(weights) => {
                        run::weighed_loss::<2>(problem, &loss, logits, target.weighted(weights))
                    }
                };
                let gradients = objective.backward();
                let found = |tensor: &Tensor<2>| numbers(tensor.grad(&gradients).expect("tracked"));
                assert_numbers("loss", &values, &expected.loss, allowed);
                assert_numbers("input", &found(&input), &expected.input, allowed);
                assert_numbers("weight", &found(&weight), &expected.weight, allowed);
                let of_shares = expected.targets.as_ref().expect("they are tracked");
                let of_shares = entries.of_dense(of_shares, 0.0);
                assert_numbers("shares", &found(&shares), &of_shares, allowed);
            }
        }
    }
}

/// Rows that have been learned, or whose entries are masked: what is left of a difference keeps its digits.
fn hard_rows_keep_their_digits(device: &Device) {
    const CLASSES: usize = 130;
    let mut problem = Problem::random(&[4, CLASSES], 1, true, 11).unreduced();
    problem.logits.iter_mut().for_each(|logit| *logit /= 8.0);
    problem.targets = Targets::Distributions(vec![0.0; 4 * CLASSES]);
    let mut entries = Entries {
        problem,
        count: 3,
        classes: vec![7, 19, 40, 7, 19, 40, 7, 7, 129, 5, IGNORED, 6],
        shares: vec![
            1.0, 0.0, 0.0, 0.75, 0.25, 0.0, 0.5, 0.5, 0.0, 0.25, 0.75, 0.5,
        ],
    };
    let logits = &mut entries.problem.logits;
    // All of the first row is its first entry's, and of the third, where two entries are of that class. Two classes
    // share the second. In the last the classes of no share are masked, and one of the entries.
    logits[7] = 40.0;
    [logits[CLASSES + 7], logits[CLASSES + 19]] = [30.0, 30.0];
    logits[2 * CLASSES + 7] = 45.0;
    logits[2 * CLASSES + 129] = f64::NEG_INFINITY;
    logits[3 * CLASSES + 8..4 * CLASSES].fill(f64::NEG_INFINITY);
    let Targets::Distributions(dense) = &mut entries.problem.targets else {
        unreachable!("they are distributions");
    };
    for (at, class) in entries.classes.iter().enumerate() {
        if *class != IGNORED {
            dense[at / 3 * CLASSES + *class as usize] += entries.shares[at];
        }
    }
    let found = entries.found::<2, 1>((device, DType::F32));
    let expected = oracle::solve(&entries.problem);
    let pairs = |found: &[f64], expected: &[f64], name: &str| {
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            let allowed = 2e-5 * expected.abs().max(1e-30);
            assert!(
                found == expected || (found - expected).abs() <= allowed,
                "{name} {at} is {found:e}, expected {expected:e}"
            );
        }
    };
    pairs(&found.loss, &expected.loss, "loss");
    for row in [0, 2, 3] {
        let of_row = row * CLASSES..(row + 1) * CLASSES;
        let [found, expected] = [&found, &expected].map(|outcome| &outcome.logits_gradient);
        pairs(&found[of_row.clone()], &expected[of_row], "gradient");
    }
    let of_shares = found.targets_gradient.expect("they are tracked");
    let dense = expected.targets_gradient.expect("they are tracked");
    pairs(&of_shares, &entries.of_dense(&dense, 0.0), "share");
}

/// The outputs of rows are those of dense distributions.
fn outputs_agree_with_those_of_dense_ones(device: &Device) {
    for (shape, count, are_logits) in [
        ([23, 71, 1], 4, true),
        ([2, 70, 7], 5, true),
        ([33, 130, 1], 1, true),
        ([9, 12, 2], 20, true),
        ([23, 71, 1], 4, false),
    ] {
        let of = || over(&shape, count, are_logits);
        of().assert_outputs_agree(device);
        let options = match are_logits {
            true => every_option,
            false => Problem::with_weights,
        };
        of().with(options)
            .with(Problem::with_row_weights)
            .assert_outputs_agree(device);
        // Two rows without an entry that counts, one of them of masked classes only.
        let mut hard = of();
        for row in [2, 3] {
            hard.ignore_row(row);
        }
        for class in 0..shape[1] {
            let at = hard.problem.at(2, class);
            hard.problem.logits[at] = if are_logits { f64::NEG_INFINITY } else { 0.0 };
        }
        hard.assert_outputs_agree(device);
    }
}

/// One entry with a share of 1 is an index.
fn one_entry_is_an_index(device: &Device) {
    for shape in [[9, 130], [70, 6]] {
        one_entry_of_a_problem_is_an_index(shape, device);
    }
}

fn one_entry_of_a_problem_is_an_index(shape: [usize; 2], device: &Device) {
    let problem = Problem::random(&shape, 1, false, 2);
    let Targets::Indices(indices) = &problem.targets else {
        panic!("they are indices");
    };
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = || float_tensor::<2>(&problem.logits, &shape, (device, DType::F32));
    let data = TensorData::new(indices.clone(), [shape[0], 1]);
    let classes = Tensor::<2, Int>::from_data(data, device);
    let sparse = SparseDistribution::new(classes, Tensor::ones([shape[0], 1], device));
    let bits = |target: Result<SparseDistribution<2>, Tensor<1, Int>>| {
        let leaf = logits().require_grad();
        let value = match target {
            Ok(sparse) => loss.forward(leaf.clone(), sparse),
            Err(index) => loss.forward(leaf.clone(), index),
        };
        let gradient = leaf.grad(&value.backward()).expect("tracked");
        (numbers(value), numbers(gradient))
    };
    assert_eq!(bits(Ok(sparse.clone())), bits(Err(labels(indices, device))));
    let expected = numbers(loss.forward_no_reduction(logits(), labels(indices, device)));
    let found = numbers(loss.forward_no_reduction(logits(), sparse.clone()));
    assert_numbers("loss", &found, &expected, 1e-6);
    let output = loss.forward_with_output(logits(), sparse.clone());
    let of_index = loss.forward_with_output(logits(), labels(indices, device));
    assert_numbers(
        "log_prob",
        &numbers(output.log_prob),
        &numbers(of_index.log_prob),
        1e-6,
    );
    assert_eq!(
        output.target_rank.into_data(),
        of_index.target_rank.into_data()
    );
    assert_eq!(
        output.target_class.into_data(),
        of_index.target_class.into_data()
    );
    let counted = numbers(loss.total_weight(sparse.clone()));
    assert_eq!(counted, [shape[0] as f64]);
    let found = numbers(loss.log_prob(logits(), sparse));
    assert_numbers(
        "log_prob",
        &found,
        &expected.iter().map(|loss| -loss).collect::<Vec<_>>(),
        1e-6,
    );
}

fn what_does_not_fit_is_refused(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = || f32_tensor(&[0.0; 6], [2, 3], device);
    let ints = |values: &[i64], shape: [usize; 2]| {
        Tensor::<2, Int>::from_data(TensorData::new(values.to_vec(), shape), device)
    };
    let shares = |shape: [usize; 2]| Tensor::<2>::ones(shape, device);
    for (classes, shares) in [
        (ints(&[0; 4], [2, 2]), shares([2, 3])),
        (ints(&[0; 6], [3, 2]), shares([3, 2])),
    ] {
        let error = loss.try_forward(logits(), SparseDistribution::new(classes, shares));
        let error = error.expect_err("the shapes differ");
        assert!(
            matches!(error, CrossEntropyError::ShapeMismatch { .. }),
            "{error}"
        );
    }
    let bad = || SparseDistribution::new(ints(&[0, 3, 1, 2], [2, 2]), shares([2, 2]));
    let error = loss.check(&logits(), &bad()).expect_err("3 is no class");
    assert!(
        matches!(
            error,
            CrossEntropyError::TargetOutOfRange {
                row: 0,
                value: 3,
                ..
            }
        ),
        "{error}"
    );
    if is_host(device) {
        assert!(loss.try_forward(logits(), bad()).is_err());
    } else {
        let rows = numbers(loss.forward_no_reduction(logits(), bad()));
        assert!(
            rows[0].is_nan() && (rows[1] - 2.0 * 3f64.ln()).abs() < 1e-5,
            "{rows:?}"
        );
    }
    // Beside 70 classes the kernels of a device take two entries one by one; beside the three above they make them dense.
    let indices = [0, 70, 1, 2];
    if !is_host(device) {
        let leaf = Tensor::<2>::zeros([2, 70], device).require_grad();
        let shares = shares([2, 2]).require_grad();
        let target = SparseDistribution::new(ints(&indices, [2, 2]), shares.clone());
        let rows = loss.forward_no_reduction(leaf.clone(), target);
        let gradients = rows.clone().sum().backward();
        let rows = numbers(rows);
        let of_logits = numbers(leaf.grad(&gradients).expect("it is tracked"));
        let of_shares = numbers(shares.grad(&gradients).expect("it is tracked"));
        assert!(rows[0].is_nan() && (rows[1] - 2.0 * 70f64.ln()).abs() < 1e-5);
        assert!(of_logits[..70].iter().all(|slope| slope.is_nan()));
        assert!((of_logits[71] - (2.0 / 70.0 - 1.0)).abs() < 1e-6);
        let [first, bad, ..] = of_shares[..] else {
            panic!("there are four shares");
        };
        assert!(
            bad.is_nan() && (first - 70f64.ln()).abs() < 1e-5,
            "{of_shares:?}"
        );
    }
    // A row of weight 0 may hold anything.
    let weights = Tensor::<1>::from_floats([0.0, 1.0], device);
    let weighed = loss.forward(logits(), bad().weighted(weights));
    assert!((numbers(weighed)[0] - 2.0 * 3f64.ln()).abs() < 1e-5);
    for classes in [3, 70] {
        let mut indices = vec![0; 4];
        indices[1] = classes as i64;
        let target = |shares: Tensor<2>| SparseDistribution::new(ints(&indices, [2, 2]), shares);
        let shares = Tensor::<2>::ones([2, 2], device).require_grad();
        let weights = Tensor::<1>::from_floats([0.0, 1.0], device);
        let logits = Tensor::<2>::zeros([2, classes], device);
        let value = loss.forward(logits, target(shares.clone()).weighted(weights));
        let gradient = numbers(shares.grad(&value.backward()).expect("it is tracked"));
        let surprisal = (classes as f64).ln();
        assert_numbers("shares", &gradient, &[0.0, 0.0, surprisal, surprisal], 1e-5);
    }
    let factor = RowFactor::Focal { gamma: 2.0 };
    let focal = CrossEntropyLossConfig::new()
        .with_row_factor(factor)
        .init(device);
    let target = SparseDistribution::new(ints(&[0, 1, 1, 2], [2, 2]), shares([2, 2]));
    let error = focal
        .try_forward(logits(), target)
        .expect_err("it has no one target");
    assert!(
        matches!(error, CrossEntropyError::FactorOfDistributions { .. }),
        "{error}"
    );
    let nothing = SparseDistribution::new(ints(&[], [0, 2]), shares([0, 2]));
    let empty = loss.forward_no_reduction(Tensor::<2>::zeros([0, 3], device), nothing);
    assert_eq!(empty.dims(), [0]);
    // Without entries the loss is 0, and there is nothing to differentiate by.
    for classes in [3, 70] {
        let none = shares([2, 0]).require_grad();
        let target = SparseDistribution::new(ints(&[], [2, 0]), none.clone());
        let value = loss.forward(Tensor::<2>::zeros([2, classes], device), target);
        assert_eq!(numbers(value), [0.0]);
    }
}

tests_on! {
    every_backend: [
        sparse_distributions_agree_with_dense_ones,
        smoothing_over_valid_classes_agrees,
        probabilities_agree,
        an_ignored_entry_is_nothing,
        no_entries_are_no_distribution,
        projections_agree,
        outputs_agree_with_those_of_dense_ones,
        hard_rows_keep_their_digits,
        one_entry_is_an_index,
        what_does_not_fit_is_refused,
    ],
    host: [every_dtype_agrees],
    cubecl: [every_dtype_agrees],
}
