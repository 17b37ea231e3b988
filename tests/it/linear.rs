//! The loss with the projection before it in one, against the projection and the loss one after the
//! other in f64.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{
    CrossEntropyBackend, CrossEntropyError, CrossEntropyLossConfig, EmptyReduction,
    LinearCrossEntropyLoss, LinearCrossEntropyLossConfig,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::backends::{is_cpu, on_every_cpu_backend, on_every_gpu_dispatched};
use crate::common::oracle;
use crate::common::problem::{Problem, Targets};
use crate::common::run::{float_tensor, numbers};

/// Logits that a projection makes, and what is asked of their loss.
struct Projected {
    /// `[rows, features]`.
    input: Vec<f64>,
    /// `[features, classes]`.
    weight: Vec<f64>,
    bias: Option<Vec<f64>>,
    features: usize,
    /// Over the logits in f64.
    problem: Problem,
}

/// Loss and gradients.
struct Found {
    loss: Vec<f64>,
    input: Vec<f64>,
    weight: Vec<f64>,
    bias: Option<Vec<f64>>,
    targets: Option<Vec<f64>>,
}

/// How many rows have logits at one time.
const CHUNKS: [Option<usize>; 4] = [Some(1), Some(7), Some(1000), None];

/// Of a device, whose library tunes every size of matrix product: one chunk that does not divide the rows,
/// and all rows at once.
fn chunks(device: &Device) -> Vec<Option<usize>> {
    if is_cpu(device) {
        CHUNKS.to_vec()
    } else {
        vec![Some(7), None]
    }
}

impl Projected {
    fn random([rows, features, classes]: [usize; 3], soft: bool, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut numbers = |count: usize, size: f32| -> Vec<f64> {
            let number = |_| f64::from(rng.random_range(-size..size));
            (0..count).map(number).collect()
        };
        let input = numbers(rows * features, 1.0);
        let weight = numbers(features * classes, 2.0);
        let bias = numbers(classes, 1.0);
        let mut projected = Self {
            input,
            weight,
            bias: Some(bias),
            features,
            problem: Problem::random(&[rows, classes], 1, soft, seed),
        };
        projected.project();
        projected
    }

    /// Makes the logits.
    fn project(&mut self) {
        let [rows, classes] = [self.problem.rows(), self.problem.classes()];
        for row in 0..rows {
            for class in 0..classes {
                let at = |feature: usize| {
                    self.input[row * self.features + feature]
                        * self.weight[feature * classes + class]
                };
                let bias = self.bias.as_ref().map_or(0.0, |bias| bias[class]);
                self.problem.logits[row * classes + class] =
                    (0..self.features).map(at).sum::<f64>() + bias;
            }
        }
    }

    fn with(mut self, change: impl FnOnce(Problem) -> Problem) -> Self {
        self.problem = change(self.problem);
        self
    }

    fn without_bias(mut self) -> Self {
        self.bias = None;
        self.project();
        self
    }

    fn expected(&self) -> Found {
        let [rows, classes] = [self.problem.rows(), self.problem.classes()];
        let outcome = oracle::solve(&self.problem);
        let gradient = &outcome.logits_gradient;
        let (mut input, mut weight) = (vec![0.0; self.input.len()], vec![0.0; self.weight.len()]);
        let mut bias = vec![0.0; classes];
        for row in 0..rows {
            for class in 0..classes {
                let slope = gradient[row * classes + class];
                bias[class] += slope;
                for feature in 0..self.features {
                    let x = self.input[row * self.features + feature];
                    let w = self.weight[feature * classes + class];
                    input[row * self.features + feature] += slope * w;
                    weight[feature * classes + class] += slope * x;
                }
            }
        }
        Found {
            loss: outcome.loss,
            input,
            weight,
            bias: self.bias.is_some().then_some(bias),
            targets: outcome.targets_gradient,
        }
    }

    fn found<B: CrossEntropyBackend>(&self, chunk: Option<usize>, device: &Device) -> Found {
        let config = LinearCrossEntropyLossConfig::new()
            .with_loss(self.problem.config.clone())
            .with_chunk_rows(chunk);
        let loss: LinearCrossEntropyLoss<B> = config.init_for::<B>(device);
        let [rows, classes] = [self.problem.rows(), self.problem.classes()];
        let options = (device, DType::F32);
        let input = float_tensor::<2>(&self.input, &[rows, self.features], options).require_grad();
        let weight =
            float_tensor::<2>(&self.weight, &[self.features, classes], options).require_grad();
        let bias = self.bias.as_ref();
        let bias = bias.map(|bias| float_tensor::<1>(bias, &[classes], options).require_grad());
        let given = (input.clone(), weight.clone(), bias.clone());
        let (values, objective, targets) = match &self.problem.targets {
            Targets::Indices(indices) => {
                let data = TensorData::new(indices.clone(), [rows]);
                let targets = Tensor::<1, Int>::from_data(data, device);
                let (values, objective) = self.run(&loss, given, targets, device);
                (values, objective, None)
            }
            Targets::Distributions(shares) => {
                let shares = float_tensor::<2>(shares, &[rows, classes], options);
                let shares = if self.problem.tracked_targets {
                    shares.require_grad()
                } else {
                    shares
                };
                let (values, objective) = self.run(&loss, given, shares.clone(), device);
                (values, objective, Some(shares))
            }
        };
        let gradients = objective.backward();
        let of = |tensor: &Tensor<2>| numbers(tensor.grad(&gradients).expect("it is tracked"));
        Found {
            loss: values,
            input: of(&input),
            weight: of(&weight),
            bias: bias.map(|bias| numbers(bias.grad(&gradients).expect("it is tracked"))),
            targets: targets
                .filter(|_| self.problem.tracked_targets)
                .map(|targets| of(&targets)),
        }
    }

    fn run<B: CrossEntropyBackend>(
        &self,
        loss: &LinearCrossEntropyLoss<B>,
        (input, weight, bias): (Tensor<2>, Tensor<2>, Option<Tensor<1>>),
        targets: impl burn_cross_entropy::CrossEntropyTarget<2>,
        device: &Device,
    ) -> (Vec<f64>, Tensor<1>) {
        let options = (device, DType::F32);
        let upstream = &self.problem.upstream;
        let upstream = float_tensor::<1>(upstream, &[upstream.len()], options);
        let values = if self.problem.unreduced {
            loss.try_forward_no_reduction(input, weight, bias, targets)
        } else {
            loss.try_forward(input, weight, bias, targets)
        };
        let values = values.unwrap_or_else(|error| panic!("{error}"));
        (numbers(values.clone()), (values * upstream).sum())
    }

    #[track_caller]
    fn assert_agrees<B: CrossEntropyBackend>(&self, chunk: Option<usize>, device: &Device) {
        let (found, expected) = (self.found::<B>(chunk, device), self.expected());
        let name = format!(
            "{chunk:?} {:?} {:?}",
            self.problem.shape, self.problem.config
        );
        assert_close(&format!("{name}: loss"), &found.loss, &expected.loss);
        assert_close(&format!("{name}: input"), &found.input, &expected.input);
        assert_close(&format!("{name}: weight"), &found.weight, &expected.weight);
        assert_eq!(found.bias.is_some(), expected.bias.is_some());
        if let (Some(found), Some(expected)) = (&found.bias, &expected.bias) {
            assert_close(&format!("{name}: bias"), found, expected);
        }
        assert_eq!(found.targets.is_some(), expected.targets.is_some());
        if let (Some(found), Some(expected)) = (&found.targets, &expected.targets) {
            assert_close(&format!("{name}: targets"), found, expected);
        }
    }
}

/// To 2e-5 of the largest: the logits themselves are sums of products in f32, whose rounding an
/// exponential hands on, and the gradients are sums over all classes or rows, in which terms cancel.
#[track_caller]
fn assert_close(name: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let finite = expected.iter().filter(|number| number.is_finite());
    let largest = finite.fold(0.0, |largest: f64, number| largest.max(number.abs()));
    for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let same = if expected.is_finite() {
            (found - expected).abs() <= 2e-5 * largest
        } else {
            found == expected || (found.is_nan() && expected.is_nan())
        };
        assert!(
            same,
            "{name} {at} is {found:e}, expected {expected:e}; the largest is {largest:e}"
        );
    }
}

fn plain_losses_agree<B: CrossEntropyBackend>(device: &Device) {
    for chunk in chunks(device) {
        for soft in [false, true] {
            let projected = Projected::random([23, 13, 71], soft, 1);
            projected.assert_agrees::<B>(chunk, device);
            Projected::random([9, 3, 5], soft, 2)
                .without_bias()
                .assert_agrees::<B>(chunk, device);
        }
    }
}

fn every_option(problem: Problem) -> Problem {
    problem
        .with_weights()
        .with_ignored(2)
        .with_config(|config| {
            config
                .with_label_smoothing(0.15)
                .with_logit_scale(0.8)
                .with_logit_softcap(Some(6.0))
                .with_z_loss(0.02)
        })
}

fn every_option_and_reduction_agrees<B: CrossEntropyBackend>(device: &Device) {
    for chunk in chunks(device) {
        for soft in [false, true] {
            let projected = || Projected::random([22, 11, 37], soft, 3).with(every_option);
            for reduction in [Reduction::Mean, Reduction::Sum, Reduction::BatchMean] {
                projected()
                    .with(|problem| problem.with_config(|config| config.with_reduction(reduction)))
                    .assert_agrees::<B>(chunk, device);
            }
            projected()
                .with(Problem::unreduced)
                .assert_agrees::<B>(chunk, device);
        }
    }
}

/// Rows that are ignored, in chunks of their own and among others, have no part in anything.
fn ignored_rows_have_no_part<B: CrossEntropyBackend>(device: &Device) {
    for chunk in chunks(device) {
        for unreduced in [false, true] {
            let mut projected = Projected::random([24, 5, 9], false, 4);
            let Targets::Indices(targets) = &mut projected.problem.targets else {
                panic!("indices were asked for");
            };
            targets[3] = -100;
            targets[7..15].fill(-100);
            for input in &mut projected.input[7 * 5..15 * 5] {
                *input = f64::NAN;
            }
            projected.project();
            if unreduced {
                projected = projected.with(Problem::unreduced);
            }
            let found = projected.found::<B>(chunk, device);
            // The oracle takes no NaN times 0.
            for input in &mut projected.input[7 * 5..15 * 5] {
                *input = 0.0;
            }
            projected.project();
            let expected = projected.expected();
            assert_close("loss", &found.loss, &expected.loss);
            assert_close("weight", &found.weight, &expected.weight);
            assert_close("input", &found.input, &expected.input);
            assert!(found.input[7 * 5..15 * 5].iter().all(|slope| *slope == 0.0));
        }
    }
}

/// Sequences of tokens, every form of the loss, and a weight that is an embedding's transposed view.
fn sequences_and_tied_weights_have_every_form<B: CrossEntropyBackend>(device: &Device) {
    let mut projected = Projected::random([12, 5, 17], false, 6).without_bias();
    projected.problem = projected.problem.with_ignored(3).with_weights();
    let Targets::Indices(targets) = &projected.problem.targets else {
        panic!("indices were asked for");
    };
    let logits_loss = projected
        .problem
        .config
        .clone()
        .with_class_dim(-1)
        .init_for::<B>(device);
    let options = (device, DType::F32);
    let input = || float_tensor::<3>(&projected.input, &[3, 4, 5], options);
    let targets = || {
        let data = TensorData::new(targets.clone(), [3, 4]);
        Tensor::<2, Int>::from_data(data, device)
    };
    let table: Vec<f64> = (0..17 * 5)
        .map(|at| projected.weight[at % 5 * 17 + at / 5])
        .collect();
    let table = || float_tensor::<2>(&table, &[17, 5], options).require_grad();
    for chunk in chunks(device) {
        let config = LinearCrossEntropyLossConfig::new()
            .with_loss(projected.problem.config.clone())
            .with_chunk_rows(chunk);
        let loss: LinearCrossEntropyLoss<B> = config.init_for::<B>(device);
        let logits = |table: Tensor<2>| input().matmul(table.transpose().unsqueeze::<3>());

        let (tied, apart) = (table(), table());
        let found = loss.forward(input(), tied.clone().transpose(), None, targets());
        let expected = logits_loss.forward(logits(apart.clone()), targets());
        assert_close("tied", &numbers(found.clone()), &numbers(expected.clone()));
        let gradient = |table: &Tensor<2>, loss: Tensor<1>| {
            numbers(table.grad(&loss.backward()).expect("it is a leaf"))
        };
        assert_close(
            "table",
            &gradient(&tied, found),
            &gradient(&apart, expected),
        );

        let weight = || table().transpose();
        let found = loss.forward_with_entropy(input(), weight(), None, targets());
        let expected = logits_loss.forward_with_entropy(logits(table()), targets());
        assert_eq!(found.lse.dims(), [3, 4]);
        let pairs = [
            (found.lse, expected.lse),
            (found.log_prob, expected.log_prob),
            (
                found.entropy.expect("asked"),
                expected.entropy.expect("asked"),
            ),
            (
                loss.log_prob(input(), weight(), None, targets()),
                logits_loss.log_prob(logits(table()), targets()),
            ),
            (
                loss.forward_no_reduction(input(), weight(), None, targets()),
                logits_loss.forward_no_reduction(logits(table()), targets()),
            ),
        ];
        for (found, expected) in pairs {
            assert_close("rows", &numbers(found), &numbers(expected));
        }
        assert_eq!(found.predicted.into_data(), expected.predicted.into_data());
        assert_eq!(
            found.target_rank.into_data(),
            expected.target_rank.into_data()
        );
        assert_close(
            "total",
            &numbers(found.total_weight),
            &numbers(expected.total_weight),
        );
        let normalizer = loss.normalizer(targets()) + loss.normalizer(targets());
        let half = loss.forward_normalized(input(), weight(), None, targets(), normalizer);
        let whole = loss.forward(input(), weight(), None, targets());
        assert_close("normalized", &numbers(half * 2.0), &numbers(whole));
    }
}

/// A tensor that requires no gradient gets none, and its absence changes no other.
fn only_tracked_tensors_get_a_gradient<B: CrossEntropyBackend>(device: &Device) {
    let projected = Projected::random([9, 4, 6], true, 7);
    let Targets::Distributions(shares) = &projected.problem.targets else {
        panic!("distributions were asked for");
    };
    let options = (device, DType::F32);
    let loss: LinearCrossEntropyLoss<B> = LinearCrossEntropyLossConfig::new()
        .with_chunk_rows(Some(4))
        .init_for::<B>(device);
    let gradients = |tracked: [bool; 4]| {
        let leaf = |values: &[f64], shape: &[usize], tracked: bool| {
            let tensor = float_tensor::<2>(values, shape, options);
            if tracked {
                tensor.require_grad()
            } else {
                tensor
            }
        };
        let input = leaf(&projected.input, &[9, 4], tracked[0]);
        let weight = leaf(&projected.weight, &[4, 6], tracked[1]);
        let bias = projected.bias.as_ref().expect("there is one");
        let bias = leaf(bias, &[1, 6], tracked[2]);
        let targets = leaf(shares, &[9, 6], tracked[3]);
        let row: Tensor<1> = bias.clone().squeeze_dim(0);
        let value = loss.forward(input.clone(), weight.clone(), Some(row), targets.clone());
        let gradients = value.backward();
        [input, weight, bias, targets].map(|tensor| tensor.grad(&gradients).map(numbers))
    };
    let all = gradients([true; 4]);
    for only in 0..4 {
        let some = gradients(core::array::from_fn(|at| at == only));
        for (at, gradient) in some.iter().enumerate() {
            assert_eq!(gradient.is_some(), at == only);
        }
        assert_eq!(some[only], all[only]);
    }
    let plain = device.clone().without_autodiff();
    let value = LinearCrossEntropyLossConfig::new()
        .init_for::<B>(&plain)
        .forward(
            float_tensor::<2>(&projected.input, &[9, 4], (&plain, DType::F32)),
            float_tensor::<2>(&projected.weight, &[4, 6], (&plain, DType::F32)),
            None,
            float_tensor::<2>(shares, &[9, 6], (&plain, DType::F32)),
        );
    assert!(numbers(value)[0].is_finite());
}

fn nothing_is_an_empty_mean<B: CrossEntropyBackend>(device: &Device) {
    for (rows, empty, is_nan) in [
        (0, EmptyReduction::Nan, true),
        (0, EmptyReduction::Zero, false),
        (3, EmptyReduction::Nan, true),
        (3, EmptyReduction::Zero, false),
    ] {
        let config = LinearCrossEntropyLossConfig::new()
            .with_loss(CrossEntropyLossConfig::new().with_empty(empty))
            .with_chunk_rows(Some(2));
        let loss: LinearCrossEntropyLoss<B> = config.init_for::<B>(device);
        let input = Tensor::<2>::ones([rows, 4], device).require_grad();
        let weight = Tensor::<2>::ones([4, 5], device).require_grad();
        let bias = Tensor::<1>::ones([5], device).require_grad();
        let ignored = Tensor::<1, Int>::full([rows], -100, device);
        let value = loss.forward(input.clone(), weight.clone(), Some(bias.clone()), ignored);
        assert_eq!(
            numbers(value.clone())[0].is_nan(),
            is_nan,
            "{rows} rows, {empty:?}"
        );
        let gradients = value.backward();
        let of_weight = numbers(weight.grad(&gradients).expect("it is a leaf"));
        assert_eq!(of_weight, vec![0.0; 20]);
        assert_eq!(
            numbers(bias.grad(&gradients).expect("it is a leaf")),
            vec![0.0; 5]
        );
        assert_eq!(
            numbers(input.grad(&gradients).expect("it is a leaf")),
            vec![0.0; rows * 4]
        );
    }
}

fn what_does_not_fit_is_said<B: CrossEntropyBackend>(device: &Device) {
    let loss: LinearCrossEntropyLoss<B> = LinearCrossEntropyLossConfig::new().init_for::<B>(device);
    let input = || Tensor::<2>::zeros([2, 4], device);
    let targets = || Tensor::<1, Int>::zeros([2], device);
    let says = |result: Result<Tensor<1>, CrossEntropyError>, part: &str| {
        let error = result.expect_err("this does not fit").to_string();
        assert!(error.contains(part), "{error}");
    };
    let weight = |size: [usize; 2]| Tensor::<2>::zeros(size, device);
    says(
        loss.try_forward(input(), weight([5, 4]), None, targets()),
        "has 4 features",
    );
    let bias = Some(Tensor::<1>::zeros([6], device));
    says(
        loss.try_forward(input(), weight([4, 5]), bias, targets()),
        "the bias has 6 entries",
    );
    let many = Tensor::<1, Int>::zeros([3], device);
    says(
        loss.try_forward(input(), weight([4, 5]), None, many),
        "the target has shape [3]",
    );
    let high = Tensor::<1, Int>::from_ints([1, 5], device);
    says(
        loss.try_forward(input(), weight([4, 5]), None, high),
        "the target of row 1 is 5",
    );
    says(
        loss.try_forward(input(), weight([4, 0]), None, targets()),
        "no classes",
    );
    for (config, part) in [
        (
            LinearCrossEntropyLossConfig::new().with_chunk_rows(Some(0)),
            "`chunk_rows` is 0",
        ),
        (
            LinearCrossEntropyLossConfig::new()
                .with_loss(CrossEntropyLossConfig::new().with_class_dim(0)),
            "`loss.class_dim` is 0",
        ),
    ] {
        let error = config
            .try_init_for::<B>(device)
            .expect_err("it is refused")
            .to_string();
        assert!(error.contains(part), "{error}");
    }
}

on_every_cpu_backend!(
    sequences_and_tied_weights_have_every_form,
    only_tracked_tensors_get_a_gradient,
    nothing_is_an_empty_mean,
    what_does_not_fit_is_said,
    plain_losses_agree,
    every_option_and_reduction_agrees,
    ignored_rows_have_no_part,
);
on_every_gpu_dispatched!(
    sequences_and_tied_weights_have_every_form,
    only_tracked_tensors_get_a_gradient,
    nothing_is_an_empty_mean,
    what_does_not_fit_is_said,
    plain_losses_agree,
    every_option_and_reduction_agrees,
    ignored_rows_have_no_part,
);
