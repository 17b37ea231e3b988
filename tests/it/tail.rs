//! Sparse distributions with a tail: the share that the classes besides a row's entries have together.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{
    CrossEntropyError, CrossEntropyLossConfig, CrossEntropyTarget, LogitsRank, RowLosses,
    SparseDistribution, TargetTensor, WeightedTarget,
};

use crate::common::backends::{computes_f64, is_host, tests_on};
use crate::common::problem::{Outcome, Problem};
use crate::common::run::{self, Losses, f32_tensor, float_tensor, labels, numbers, row_shape};
use crate::common::tails::{Solved, Tailed};
use crate::common::tolerance::{self, assert_numbers, behind_products};
use crate::common::values::rounded;
use crate::linear::projected::{Projected, chunks};

/// Which of shares and tails require a gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tracked {
    Neither,
    Shares,
    Tails,
    Both,
}

/// Leaves of the target.
struct Leaves<const D: usize> {
    shares: Tensor<D>,
    tails: Tensor<D>,
}

impl Tailed {
    fn leaves<const D: usize>(&self, tracked: Tracked, options: (&Device, DType)) -> Leaves<D> {
        let leaf = |values: &[f64], count: usize, is_tracked: bool| {
            let tensor = float_tensor::<D>(values, &self.shape(count), options);
            match is_tracked {
                true => tensor.require_grad(),
                false => tensor,
            }
        };
        let of = |other| tracked == other || tracked == Tracked::Both;
        Leaves {
            shares: leaf(&self.shares, self.count, of(Tracked::Shares)),
            tails: leaf(&self.tails, 1, of(Tracked::Tails)),
        }
    }

    fn target<const D: usize>(&self, leaves: &Leaves<D>) -> SparseDistribution<D> {
        let data = TensorData::new(self.classes.clone(), self.shape(self.count));
        let classes = Tensor::<D, Int>::from_data(data, &leaves.shares.device());
        SparseDistribution::new(classes, leaves.shares.clone()).with_tail(leaves.tails.clone())
    }

    fn found<const D: usize, const R: usize>(
        &self,
        tracked: Tracked,
        options: (&Device, DType),
    ) -> (Outcome, [Option<Vec<f64>>; 2])
    where
        Tensor<D>: LogitsRank,
        RowLosses<D>: Losses,
        WeightedTarget<SparseDistribution<D>, R>: CrossEntropyTarget<D>,
    {
        let (problem, leaves) = (&self.problem, self.leaves::<D>(tracked, options));
        let (outcome, gradients) = run::over_a_leaf::<D>(problem, options, |loss, logits| {
            let target = self.target(&leaves);
            match &problem.row_weights {
                None => run::weighed_loss::<D>(problem, loss, logits, target),
                Some(weights) => {
                    let weights = float_tensor::<R>(weights, &row_shape(problem), options);
                    run::weighed_loss::<D>(problem, loss, logits, target.weighted(weights))
                }
            }
        });
        let of_leaf = |leaf: &Tensor<D>| {
            let gradient = leaf.grad(&gradients)?;
            assert_eq!(
                (gradient.dims(), gradient.dtype()),
                (leaf.dims(), options.1)
            );
            Some(numbers(gradient))
        };
        (outcome, [&leaves.shares, &leaves.tails].map(of_leaf))
    }

    #[track_caller]
    fn assert_agrees(&self, tracked: Tracked, float: DType, device: &Device) {
        let options = (device, float);
        let (found, [shares, tails]) = match self.problem.shape.len() {
            1 => self.found::<1, 1>(tracked, options),
            2 => self.found::<2, 1>(tracked, options),
            3 => self.found::<3, 2>(tracked, options),
            _ => self.found::<4, 3>(tracked, options),
        };
        let Problem { shape, config, .. } = &self.problem;
        let name = format!("{} entries, {shape:?}, {config:?}, {float:?}", self.count);
        let expected = self.solve();
        let of = tolerance::of(float);
        // A rounding of a scaled or capped logit is one of its size.
        let loss = if float == DType::F64 { 1e-12 } else { 4e-6 };
        assert_numbers(&name, &found.loss, &expected.outcome.loss, loss);
        let gradient = of.gradient.max(loss);
        let of_logits = &expected.outcome.logits_gradient;
        assert_numbers(&name, &found.logits_gradient, of_logits, gradient);
        let is_tracked = |other| tracked == other || tracked == Tracked::Both;
        let of_targets = [
            (Tracked::Shares, shares, &expected.shares),
            (Tracked::Tails, tails, &expected.tails),
        ];
        for (which, found, expected) in of_targets {
            let name = format!("{name}: {which:?}");
            match found {
                Some(found) => assert_numbers(&name, &found, expected, gradient),
                None => assert!(!is_tracked(which), "{name}"),
            }
        }
    }
}

fn every_option(problem: Problem) -> Problem {
    problem.with_config(|config| {
        config
            .with_logit_scale(0.7)
            .with_logit_softcap(Some(5.0))
            .with_z_loss(0.01)
    })
}

fn the_tail_is_one_class_of_all_others(device: &Device) {
    let shapes: &[(&[usize], usize, usize)] = match is_host(device) {
        true => &[
            (&[23, 71], 1, 4),
            (&[67, 5], 1, 3),
            (&[71, 13], 0, 3),
            (&[2, 70, 7], 1, 5),
            (&[3, 5, 77], 2, 2),
            (&[3, 5, 3, 5], 1, 3),
            (&[9, 300], 1, 1),
            (&[90], 0, 4),
        ],
        false => &[(&[23, 71], 1, 4), (&[2, 70, 7], 1, 5)],
    };
    for (at, (shape, class_dim, count)) in shapes.iter().enumerate() {
        let of = || {
            Tailed::random(shape, *class_dim, *count, at as u64)
                .with(|problem| with_class_dim(problem, *class_dim))
        };
        let assert = |tailed: Tailed, tracked| tailed.assert_agrees(tracked, DType::F32, device);
        assert(of(), Tracked::Neither);
        assert(of().with(Problem::unreduced), Tracked::Both);
        let every = || of().with(every_option).with(Problem::with_row_weights);
        assert(every(), Tracked::Tails);
        assert(every().with(Problem::unreduced), Tracked::Shares);
        for reduction in [Reduction::Sum, Reduction::BatchMean] {
            let change = |config: CrossEntropyLossConfig| config.with_reduction(reduction);
            let reduced = of().with(|problem| problem.with_config(change));
            assert(reduced, Tracked::Both);
        }
    }
}

fn with_class_dim(problem: Problem, class_dim: usize) -> Problem {
    match problem.shape.len() {
        1 => problem,
        _ => problem.with_config(|config| config.with_class_dim(class_dim as isize)),
    }
}

fn tails_in_every_dtype_agree(device: &Device) {
    for float in [DType::F64, DType::F16, DType::BF16] {
        if !device.supports_dtype(float) || float == DType::F64 && !computes_f64(device) {
            continue;
        }
        for shape in [&[9, 130][..], &[70, 6]] {
            let mut tailed = Tailed::random(shape, 1, 4, 5);
            let rounded = |logit: &mut f64| *logit = rounded(*logit, float);
            tailed.problem.logits.iter_mut().for_each(rounded);
            tailed.assert_agrees(Tracked::Neither, float, device);
            tailed
                .with(Problem::unreduced)
                .assert_agrees(Tracked::Both, float, device);
        }
    }
}

fn tails_behind_projections_agree(device: &Device) {
    const ROWS: usize = 22;
    const CLASSES: usize = 37;
    const COUNT: usize = 4;
    let options = (device, DType::F32);
    for unreduced in [false, true] {
        for weighted in [false, true] {
            let projected = Projected::random([ROWS, 11, CLASSES], true, 3);
            let mut tailed = Tailed::random(&[ROWS, CLASSES], 1, COUNT, 3);
            tailed.problem.logits = projected.problem.logits.clone();
            let tailed = tailed.with(|problem| match weighted {
                true => every_option(problem).with_row_weights(),
                false => problem,
            });
            let tailed = tailed.with(|problem| match unreduced {
                true => problem.unreduced(),
                false => problem,
            });
            let expected = tailed.solve();
            let allowed = behind_products(4e-5, device);
            for chunk in chunks(device) {
                let ([input, weight], logits) = projected.leaves(chunk, device);
                let leaves = tailed.leaves::<2>(Tracked::Both, options);
                let (problem, target) = (&tailed.problem, tailed.target(&leaves));
                let loss = problem.config.init(device);
                let (values, objective) = match &problem.row_weights {
                    None => run::weighed_loss::<2>(problem, &loss, logits, target),
                    Some(weights) => {
                        let weights = float_tensor::<1>(weights, &[ROWS], options);
                        run::weighed_loss::<2>(problem, &loss, logits, target.weighted(weights))
                    }
                };
                let gradients = objective.backward();
                let found = |tensor: &Tensor<2>| numbers(tensor.grad(&gradients).expect("tracked"));
                let Solved {
                    outcome,
                    shares,
                    tails,
                } = &expected;
                assert_numbers("loss", &values, &outcome.loss, allowed);
                let (of_input, of_weight) = behind(&projected, &outcome.logits_gradient);
                assert_numbers("input", &found(&input), &of_input, allowed);
                assert_numbers("weight", &found(&weight), &of_weight, allowed);
                assert_numbers("shares", &found(&leaves.shares), shares, allowed);
                assert_numbers("tails", &found(&leaves.tails), tails, allowed);
            }
        }
    }
}

/// The gradients of input and weight of a projection from that of its logits.
fn behind(projected: &Projected, logits: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (rows, classes) = (projected.problem.rows(), projected.problem.classes());
    let features = projected.features;
    let (mut input, mut weight) = (vec![0.0; rows * features], vec![0.0; features * classes]);
    for row in 0..rows {
        for feature in 0..features {
            for class in 0..classes {
                let slope = logits[row * classes + class];
                input[row * features + feature] +=
                    slope * projected.weight[feature * classes + class];
                weight[feature * classes + class] +=
                    slope * projected.input[row * features + feature];
            }
        }
    }
    (input, weight)
}

/// One row of some classes, whose entries are `(class, share)`.
fn row(
    logits: &[f32],
    entries: &[(i64, f32)],
    tail: f32,
    device: &Device,
) -> (Tensor<2>, SparseDistribution<2>) {
    let classes: Vec<i64> = entries.iter().map(|entry| entry.0).collect();
    let shares: Vec<f32> = entries.iter().map(|entry| entry.1).collect();
    let count = entries.len();
    let classes = Tensor::from_data(TensorData::new(classes, [1, count]), device);
    let shares = f32_tensor(&shares, [1, count], device);
    let tail = f32_tensor(&[tail], [1, 1], device);
    let logits = f32_tensor(logits, [1, logits.len()], device).require_grad();
    (
        logits,
        SparseDistribution::new(classes, shares).with_tail(tail),
    )
}

/// Loss of a row and the gradient of its logits.
fn solved(logits: &[f32], entries: &[(i64, f32)], tail: f32, device: &Device) -> (f64, Vec<f64>) {
    let (logits, target) = row(logits, entries, tail, device);
    let loss = CrossEntropyLossConfig::new().init(device);
    let value = loss.forward(logits.clone(), target);
    let gradient = logits.grad(&value.backward()).expect("it is tracked");
    (numbers(value)[0], numbers(gradient))
}

/// Logits of so many classes that are 0, but for some.
fn logits_with(classes: usize, others: &[(usize, f32)]) -> Vec<f32> {
    let mut logits = vec![0.0; classes];
    for (class, logit) in others {
        logits[*class] = *logit;
    }
    logits
}

#[track_caller]
fn assert_close(name: &str, found: f64, expected: f64) {
    let allowed = 3e-6 * expected.abs();
    assert!(
        (found - expected).abs() <= allowed,
        "{name}: {found:e} for {expected:e}"
    );
}

fn known_numbers_of_tails_come_out(device: &Device) {
    let student = [0.5f32, 0.3, 0.2].map(f32::ln);
    let (loss, gradient) = solved(&student, &[(0, 0.6)], 0.4, device);
    let entropy = -(0.6 * 0.6f64.ln() + 0.4 * 0.4f64.ln());
    assert!((loss - entropy - 0.020_135_5).abs() < 1e-6, "{loss}");
    assert_numbers("gradient", &gradient, &[-0.1, 0.06, 0.04], 2e-6);
}

/// With entries of almost no probability, and with entries of almost all of it.
fn extreme_tails_keep_their_digits(device: &Device) {
    for classes in [5, 200] {
        let others = (classes - 2) as f64;
        // The entries have 2 exp(-30) of the sum, and no share.
        let small = logits_with(classes, &[(1, -30.0), (3, -30.0)]);
        let (loss, gradient) = solved(&small, &[(1, 0.0), (3, 0.0)], 1.0, device);
        let left = 2.0 * (-30f64).exp() / others;
        assert_close("little", loss, left.ln_1p());
        assert_close("little, at an entry", gradient[1], left / 2.0);
        assert_close("little, at the rest", gradient[0], -left / others);
        // The same far from 0, where a log-sum-exp has no digits for it.
        let far: Vec<f32> = small.iter().map(|logit| logit + 4096.0).collect();
        let (loss, _) = solved(&far, &[(1, 0.0), (3, 0.0)], 1.0, device);
        assert_close("little and far", loss, left.ln_1p());
        // The rest has almost nothing.
        let large = logits_with(classes, &[(1, 30.0), (3, 30.0)]);
        let (loss, gradient) = solved(&large, &[(1, 0.5), (3, 0.5)], 0.25, device);
        let lse = 30.0 + 2f64.ln();
        assert_close("much", loss, 2f64.ln() + 0.25 * (lse - others.ln()));
        assert_close("much, at the rest", gradient[0], -0.25 / others);
        assert_close("much, at an entry", gradient[1], 0.125);
        // A row that has learned its one entry, and knows how little the rest has.
        let learned = logits_with(classes, &[(1, 30.0)]);
        let rest = (classes - 1) as f64;
        let missing = rest * (-30f64).exp() / (1.0 + rest * (-30f64).exp());
        let (loss, gradient) = solved(&learned, &[(1, 1.0)], 0.0, device);
        assert_close("learned", loss, (rest * (-30f64).exp()).ln_1p());
        assert_close("learned, at the entry", gradient[1], -missing);
        // The tail beyond all numbers of an exponential.
        let beyond = logits_with(classes, &[(1, 500.0)]);
        let (loss, gradient) = solved(&beyond, &[(1, 0.75)], 0.25, device);
        assert_close("beyond", loss, 0.25 * (500.0 - rest.ln()));
        assert_close("beyond, at the rest", gradient[0], -0.25 / rest);
    }
}

fn the_edges_of_tails_are_defined(device: &Device) {
    let masked = f32::NEG_INFINITY;
    for classes in [3, 130] {
        let all: Vec<(i64, f32)> = (0..classes as i64).map(|class| (class, 0.01)).collect();
        let zeros = vec![0.0; classes];
        let log = (classes as f64).ln();
        // No other class.
        let (loss, gradient) = solved(&zeros, &all, 0.0, device);
        assert_close("all are entries", loss, 0.01 * classes as f64 * log);
        assert!(gradient.iter().all(|slope| slope.abs() < 1e-6));
        assert_eq!(solved(&zeros, &all, 0.5, device).0, f64::INFINITY);
        // None above -inf.
        let mut one = vec![masked; classes];
        one[classes - 1] = 2.0;
        let last = classes as i64 - 1;
        let (loss, gradient) = solved(&one, &[(last, 0.5)], 0.0, device);
        assert_eq!(loss, 0.0);
        assert!(gradient.iter().all(|slope| *slope == 0.0), "{gradient:?}");
        assert_eq!(solved(&one, &[(last, 0.5)], 0.5, device).0, f64::INFINITY);
        // Masked classes of the rest have a gradient of 0.
        let mut some = vec![0.0; classes];
        some[1] = masked;
        let (loss, gradient) = solved(&some, &[(0, 0.5)], 0.5, device);
        let left = (classes - 2) as f64;
        assert_close(
            "masked",
            loss,
            0.5 * left.ln_1p() + 0.5 * (1.0 / left).ln_1p(),
        );
        assert_eq!(gradient[1], 0.0);
        // A row without a distribution.
        for number in [f32::NAN, f32::INFINITY] {
            for class in [0, classes - 1] {
                let mut logits = vec![0.0; classes];
                logits[class] = number;
                let (loss, _) = solved(&logits, &[(0, 0.5)], 0.5, device);
                assert!(loss.is_nan(), "{number} at {class}: {loss}");
            }
        }
        let (loss, _) = solved(&vec![masked; classes], &[(0, 0.5)], 0.5, device);
        assert!(loss.is_nan(), "{loss}");
        // Without entries the rest is everything.
        let (loss, gradient) = solved(&zeros, &[], 0.5, device);
        assert_eq!((loss, gradient), (0.0, vec![0.0; classes]));
        // An ignored entry is one of the rest.
        let (loss, _) = solved(&zeros, &[(0, 0.5), (-100, 9.0)], 0.5, device);
        let rest = (classes - 1) as f64;
        assert_close("ignored", loss, 0.5 * log + 0.5 * (1.0 / rest).ln_1p());
    }
}

fn a_tail_of_nothing_is_no_tail(device: &Device) {
    for shape in [&[9, 130][..], &[70, 6]] {
        let mut tailed = Tailed::random(shape, 1, 3, 4);
        tailed.tails.fill(0.0);
        let options = (device, DType::F32);
        let leaves = tailed.leaves::<2>(Tracked::Neither, options);
        let with = tailed.target(&leaves);
        let data = TensorData::new(tailed.classes.clone(), tailed.shape(3));
        let classes = Tensor::<2, Int>::from_data(data, device);
        let without = SparseDistribution::new(classes, leaves.shares);
        let loss = CrossEntropyLossConfig::new().with_z_loss(0.01).init(device);
        let solve = |target: SparseDistribution<2>| {
            let logits = float_tensor::<2>(&tailed.problem.logits, shape, options).require_grad();
            let value = loss.forward(logits.clone(), target);
            let gradient = logits.grad(&value.backward()).expect("it is tracked");
            (numbers(value), numbers(gradient))
        };
        let (found, expected) = (solve(with), solve(without));
        assert_numbers("loss", &found.0, &expected.0, 1e-6);
        assert_numbers("gradient", &found.1, &expected.1, 1e-6);
    }
}

/// What a row's shares leave of 1, where ignored entries have none, and rows may have more than 1.
fn the_rest_is_what_the_shares_leave(device: &Device) {
    for classes in [4, 80] {
        let ints = [[0i64, 1], [2, -100], [1, 3]];
        let shares = [[0.5f32, 0.25], [0.25, 0.5], [0.75, 0.75]];
        let rest = [[0.25f32], [0.75], [0.0]];
        let entries = Tensor::<2, Int>::from_data(ints, device);
        let logits: Vec<f32> = (0..3 * classes)
            .map(|at| (at * 7 % 11) as f32 / 4.0)
            .collect();
        let loss = CrossEntropyLossConfig::new().init(device);
        let solve = |target: &dyn Fn(SparseDistribution<2>) -> SparseDistribution<2>| {
            let logits = f32_tensor(&logits, [3, classes], device).require_grad();
            let shares = Tensor::<2>::from_data(shares, device).require_grad();
            let target = target(SparseDistribution::new(entries.clone(), shares.clone()));
            let value = loss.forward_no_reduction(logits.clone(), target);
            let gradients = value.clone().sum().backward();
            let gradient = |leaf: &Tensor<2>| numbers(leaf.grad(&gradients).expect("tracked"));
            (numbers(value), gradient(&logits), gradient(&shares))
        };
        let tail = Tensor::<2>::from_data(rest, device).require_grad();
        let given = solve(&|target| target.with_tail(tail.clone()));
        let made = solve(&|target| target.with_rest_as_tail());
        assert_numbers("loss", &made.0, &given.0, 1e-6);
        assert_numbers("logits", &made.1, &given.1, 1e-6);
        // The gradient flows through the difference too, unless the row has more than 1.
        let value = loss.forward_no_reduction(
            f32_tensor(&logits, [3, classes], device),
            SparseDistribution::new(entries.clone(), Tensor::from_data(shares, device))
                .with_tail(tail.clone()),
        );
        let of_tail = numbers(tail.grad(&value.sum().backward()).expect("it is tracked"));
        let mut expected = given.2;
        for (at, expected) in expected.iter_mut().enumerate() {
            let is_ignored = ints[at / 2][at % 2] < 0;
            *expected -= match at / 2 {
                2 => 0.0,
                _ if is_ignored => 0.0,
                row => of_tail[row],
            };
        }
        assert_numbers("shares", &made.2, &expected, 2e-6);
    }
}

fn outputs_beside_tails_are_those_of_the_logits(device: &Device) {
    for shape in [&[9, 130][..], &[70, 6]] {
        let tailed = Tailed::random(shape, 1, 3, 6).with(Problem::with_row_weights);
        let options = (device, DType::F32);
        let leaves = tailed.leaves::<2>(Tracked::Both, options);
        let rows = tailed.problem.rows();
        let weights = tailed.problem.row_weights.clone().expect("it has such");
        let weigh = || float_tensor::<1>(&weights, &[rows], options);
        let logits = || float_tensor::<2>(&tailed.problem.logits, shape, options);
        let loss = CrossEntropyLossConfig::new().with_z_loss(0.02).init(device);
        let output = loss.forward_with_entropy(logits(), tailed.target(&leaves).weighted(weigh()));
        // The largest entry of each row, as an index.
        let largest = (0..rows).map(|row| {
            let mut dense = vec![0.0; tailed.problem.classes()];
            for entry in 0..3 {
                if let Ok(class) = usize::try_from(tailed.classes[row * 3 + entry]) {
                    dense[class] += tailed.shares[row * 3 + entry];
                }
            }
            let largest = dense.iter().fold(0.0, |a: f64, b| a.max(*b));
            dense
                .iter()
                .position(|share| *share == largest)
                .expect("it is there") as i64
        });
        let largest: Vec<i64> = largest.collect();
        let index = labels(&largest, device).weighted(weigh());
        let of_index = loss.forward_with_entropy(logits(), index);
        assert_eq!(
            output.target_class.into_data(),
            of_index.target_class.into_data()
        );
        assert_eq!(
            output.target_rank.into_data(),
            of_index.target_rank.into_data()
        );
        assert_eq!(output.predicted.into_data(), of_index.predicted.into_data());
        let same = |name: &str, found: Tensor<1>, expected: Tensor<1>| {
            assert_numbers(name, &numbers(found), &numbers(expected), 1e-6);
        };
        same("lse", output.lse, of_index.lse);
        same(
            "entropy",
            output.entropy.expect("it was asked for"),
            of_index.entropy.expect("too"),
        );
        let mut plain = tailed.clone();
        plain.problem.unreduced = true;
        plain.problem.upstream = vec![1.0; rows];
        plain.problem.row_weights = Some(weights.iter().map(|w| w.min(1.0).ceil()).collect());
        let expected = plain.solve().outcome.loss;
        let expected: Vec<f64> = expected.iter().map(|loss| -loss).collect();
        assert_numbers("log_prob", &numbers(output.log_prob), &expected, 4e-6);
        let reduced = tailed
            .clone()
            .with(|problem| problem.with_config(|config| config.with_z_loss(0.02)));
        let expected = reduced.solve().outcome.loss;
        assert_numbers("loss", &numbers(output.loss), &expected, 4e-6);
    }
}

fn what_does_not_fit_a_tail_is_refused(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = || f32_tensor(&[0.0; 6], [2, 3], device);
    let target = |tail: Tensor<2>| {
        let classes = Tensor::<2, Int>::from_data([[0i64, 1], [1, 2]], device);
        SparseDistribution::new(classes, Tensor::ones([2, 2], device)).with_tail(tail)
    };
    for shape in [[2, 2], [1, 1], [2, 3]] {
        let error = loss.try_forward(logits(), target(Tensor::ones(shape, device)));
        let error = error.expect_err("the shape is another");
        let CrossEntropyError::ShapeMismatch {
            target, expected, ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!((target, expected), (shape.to_vec(), vec![2, 1]));
    }
    let config = CrossEntropyLossConfig::new;
    for (config, name) in [
        (config().with_weight(Some(vec![1.0, 2.0, 3.0])), "weight"),
        (config().with_label_smoothing(0.1), "label_smoothing"),
        (config().with_logits(false), "logits = false"),
    ] {
        let tail = Tensor::ones([2, 1], device);
        let error = config.init(device).try_forward(logits(), target(tail));
        let error = error.expect_err("it has no meaning");
        let text = error.to_string();
        assert!(text.contains(name), "{text}");
        assert!(
            matches!(error, CrossEntropyError::OptionBesideTail { .. }),
            "{text}"
        );
    }
    // A row of weight 0 may hold anything, a class that is none makes its row NaN.
    let classes = Tensor::<2, Int>::from_data([[0i64, 7], [1, 2]], device);
    let bad = || {
        let shares = Tensor::ones([2, 2], device);
        SparseDistribution::new(classes.clone(), shares).with_tail(Tensor::ones([2, 1], device))
    };
    let weights = Tensor::<1>::from_floats([0.0, 1.0], device);
    let weighed = loss.forward(logits(), bad().weighted(weights));
    let expected = 2.0 * 3f64.ln() + 3f64.ln();
    assert_numbers("weighed", &numbers(weighed), &[expected], 1e-6);
    match is_host(device) {
        true => assert!(loss.try_forward(logits(), bad()).is_err()),
        false => {
            let rows = numbers(loss.forward_no_reduction(logits(), bad()));
            assert!(rows[0].is_nan(), "{rows:?}");
            assert_numbers("its neighbour", &rows[1..], &[expected], 1e-6);
        }
    }
    // Neither rows nor entries.
    let nothing = |rows: usize| {
        let none = TensorData::new(Vec::<i64>::new(), [rows, 0]);
        let classes = Tensor::<2, Int>::from_data(none, device);
        SparseDistribution::new(classes, Tensor::ones([rows, 0], device))
    };
    let empty = nothing(0).with_rest_as_tail();
    let empty = loss.forward_no_reduction(Tensor::<2>::zeros([0, 3], device), empty);
    assert_eq!(empty.dims(), [0]);
    let all = loss.forward(logits(), nothing(2).with_rest_as_tail());
    assert_eq!(numbers(all), [0.0]);
}

tests_on! {
    every_backend: [
        the_tail_is_one_class_of_all_others,
        known_numbers_of_tails_come_out,
        extreme_tails_keep_their_digits,
        the_edges_of_tails_are_defined,
        a_tail_of_nothing_is_no_tail,
        the_rest_is_what_the_shares_leave,
        outputs_beside_tails_are_those_of_the_logits,
        what_does_not_fit_a_tail_is_refused,
    ],
    products: [tails_behind_projections_agree],
    host: [tails_in_every_dtype_agree],
    cubecl: [tails_in_every_dtype_agree],
}
