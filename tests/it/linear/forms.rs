//! Sequences, tied weights, every form of the loss, tracked tensors, and means over nothing.

use burn::module::Param;
use burn::nn::LinearConfig;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{
    CrossEntropyLossConfig, EmptyReduction, LinearCrossEntropyLossConfig, ProjectedLogits,
};

use super::projected::{Projected, chunks};
use crate::common::backends::tests_on;
use crate::common::problem::Targets;
use crate::common::run::{float_tensor, numbers};
use crate::common::tolerance::{assert_numbers, of_projection};

/// Sequences of tokens, every form of the loss, and a weight that is an embedding's transposed view.
fn sequences_and_tied_weights_have_every_form(device: &Device) {
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
        .init(device);
    let options = (device, DType::F32);
    let allowed = of_projection(DType::F32, device).gradient;
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
        let loss = config.init(device);
        let logits = |table: Tensor<2>| input().matmul(table.transpose().unsqueeze::<3>());

        let (tied, apart) = (table(), table());
        let found = loss.forward(input(), tied.clone().transpose(), None, targets());
        let expected = logits_loss.forward(logits(apart.clone()), targets());
        assert_numbers(
            "tied",
            &numbers(found.clone()),
            &numbers(expected.clone()),
            allowed,
        );
        let gradient = |table: &Tensor<2>, loss: Tensor<1>| {
            numbers(table.grad(&loss.backward()).expect("it is a leaf"))
        };
        assert_numbers(
            "table",
            &gradient(&tied, found),
            &gradient(&apart, expected),
            allowed,
        );

        let weight = || table().transpose();
        let projection = || {
            let logits = ProjectedLogits::new(input(), weight());
            match chunk {
                Some(rows) => logits.with_chunk_rows(rows),
                None => logits,
            }
        };
        let found = logits_loss.forward_with_entropy(projection(), targets());
        let expected = logits_loss.forward_with_entropy(logits(table()), targets());
        assert_eq!(found.lse.dims(), [3, 4]);
        let pairs = [
            (found.lse, expected.lse),
            (found.log_prob, expected.log_prob),
            (found.max_log_prob, expected.max_log_prob),
            (
                found.entropy.expect("asked"),
                expected.entropy.expect("asked"),
            ),
            (
                logits_loss.log_prob(projection(), targets()),
                logits_loss.log_prob(logits(table()), targets()),
            ),
            (
                loss.forward_no_reduction(input(), weight(), None, targets()),
                logits_loss.forward_no_reduction(logits(table()), targets()),
            ),
        ];
        for (found, expected) in pairs {
            assert_numbers("rows", &numbers(found), &numbers(expected), allowed);
        }
        assert_eq!(found.predicted.into_data(), expected.predicted.into_data());
        assert_eq!(
            found.target_rank.into_data(),
            expected.target_rank.into_data()
        );
        assert_numbers(
            "total",
            &numbers(found.total_weight),
            &numbers(expected.total_weight),
            allowed,
        );
        let normalizer = logits_loss.normalizer(targets()) + logits_loss.normalizer(targets());
        let half = logits_loss.forward_normalized(projection(), targets(), normalizer);
        let whole = loss.forward(input(), weight(), None, targets());
        assert_numbers("normalized", &numbers(half * 2.0), &numbers(whole), allowed);
    }
}

/// Every way to call the loss of a `Linear` gives the same numbers.
fn every_way_to_call_gives_the_same(device: &Device) {
    let projected = Projected::random([6, 5, 7], false, 41).with(|problem| problem.with_ignored(2));
    let Targets::Indices(targets) = &projected.problem.targets else {
        panic!("indices were asked for");
    };
    let options = (device, DType::F32);
    let mut linear = LinearConfig::new(5, 7).init(device);
    linear.weight = Param::from_tensor(float_tensor(&projected.weight, &[5, 7], options));
    let bias = projected.bias.as_ref().expect("there is one");
    linear.bias = Some(Param::from_tensor(float_tensor(bias, &[7], options)));
    let input = || float_tensor::<2>(&projected.input, &[6, 5], options);
    let targets = || {
        let data = TensorData::new(targets.clone(), [6]);
        Tensor::<1, Int>::from_data(data, device)
    };
    let weight = || linear.weight.val();
    let bias = || linear.bias.as_ref().map(Param::val);
    let config = projected.problem.config.clone();
    let of_logits = config.init(device);
    let loss = LinearCrossEntropyLossConfig::new()
        .with_loss(config)
        .init(device);
    let given = || (input(), weight(), bias(), targets());
    let rows = {
        let (input, weight, bias, targets) = given();
        numbers(loss.forward_no_reduction(input, weight, bias, targets))
    };
    let counted = rows.iter().filter(|loss| **loss != 0.0).count() as f64;
    assert!(counted < 6.0);
    let mean = [rows.iter().sum::<f64>() / counted];
    let allowed = of_projection(DType::F32, device).loss;
    let same = |name: &str, found: Tensor<1>, expected: &[f64]| {
        assert_numbers(name, &numbers(found), expected, allowed);
    };
    let fits = "all tensors fit each other";

    same(
        "forward_linear",
        loss.forward_linear(input(), &linear, targets()),
        &mean,
    );
    let logits = || ProjectedLogits::linear(input(), &linear);
    same(
        "forward, logits",
        of_logits.forward(logits(), targets()),
        &mean,
    );
    let (x, w, b, t) = given();
    same("forward", loss.forward(x, w, b, t), &mean);
    let (x, w, b, t) = given();
    let found = loss.try_forward(x, w, b, t).expect(fits);
    same("try_forward", found, &mean);
    let normalizer = of_logits.normalizer(targets());
    let found = of_logits.forward_normalized(logits(), targets(), normalizer);
    same("forward_normalized", found, &mean);
    let found = of_logits.log_prob(logits(), targets());
    same("log_prob", -found, &rows);
    let found = of_logits.forward_with_output(logits(), targets());
    same("forward_with_output", found.loss, &mean);
    same("its rows", -found.log_prob, &rows);
    let found = of_logits.forward_with_entropy(logits(), targets());
    same("forward_with_entropy", found.loss, &mean);
    assert!(found.entropy.is_some());
}

/// A tensor that requires no gradient gets none, and the gradients of the others stay the same.
fn only_tracked_tensors_get_a_gradient(device: &Device) {
    let projected = Projected::random([9, 4, 6], true, 7);
    let Targets::Distributions(shares) = &projected.problem.targets else {
        panic!("distributions were asked for");
    };
    let options = (device, DType::F32);
    let loss = LinearCrossEntropyLossConfig::new()
        .with_chunk_rows(Some(4))
        .init(device);
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
    let value = LinearCrossEntropyLossConfig::new().init(&plain).forward(
        float_tensor::<2>(&projected.input, &[9, 4], (&plain, DType::F32)),
        float_tensor::<2>(&projected.weight, &[4, 6], (&plain, DType::F32)),
        None,
        float_tensor::<2>(shares, &[9, 6], (&plain, DType::F32)),
    );
    assert!(numbers(value)[0].is_finite());
}

fn nothing_is_an_empty_mean(device: &Device) {
    for (rows, empty, is_nan) in [
        (0, EmptyReduction::Nan, true),
        (0, EmptyReduction::Zero, false),
        (3, EmptyReduction::Nan, true),
        (3, EmptyReduction::Zero, false),
    ] {
        let config = LinearCrossEntropyLossConfig::new()
            .with_loss(CrossEntropyLossConfig::new().with_empty(empty))
            .with_chunk_rows(Some(2));
        let loss = config.init(device);
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

tests_on! {
    products: [
        sequences_and_tied_weights_have_every_form,
        nothing_is_an_empty_mean,
    ],
    one_of_each_kind: [
        every_way_to_call_gives_the_same,
        only_tracked_tensors_get_a_gradient,
    ],
}
