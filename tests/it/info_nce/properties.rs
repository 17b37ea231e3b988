//! Properties of the contrastive loss that hold for all numbers.

use burn::tensor::Device;
use burn_cross_entropy::InfoNceLossConfig;
use burn_cross_entropy::contrastive::SampleIds;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::{Form, NEGATIVE_IDS, Problem, QUERY_IDS, assert_same, ints};
use crate::common::backends::tests_on;
use crate::common::run::numbers;
use crate::common::tolerance::{assert_numbers, behind_products};

/// The negatives are a set: another order changes the sums by rounding alone, and each negative keeps its
/// gradient.
fn the_order_of_negatives_does_not_matter(device: &Device) {
    let problem = Problem::new(Form::Ids, InfoNceLossConfig::new());
    let loss = problem.config.init(device);
    let run = |order: &[usize]| {
        let leaves = problem.leaves(device);
        let places: Vec<i64> = order.iter().map(|at| *at as i64).collect();
        let negatives = leaves[2].clone().select(0, ints(&places, device));
        let ids: Vec<i64> = order.iter().map(|at| NEGATIVE_IDS[*at]).collect();
        let ids = SampleIds {
            queries: ints(&QUERY_IDS, device),
            negatives: ints(&ids, device),
        };
        let value = loss.forward_with_ids(leaves[0].clone(), leaves[1].clone(), negatives, ids);
        let gradients = value.clone().backward();
        let of = |at: usize| numbers(leaves[at].grad(&gradients).expect("it is tracked"));
        [numbers(value), of(0), of(1), of(2)]
    };
    let order: Vec<usize> = (0..NEGATIVE_IDS.len()).collect();
    let expected = run(&order);
    let config = Config {
        cases: 16,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, rng)
        .run(&Just(order).prop_shuffle(), |order| {
            for (found, expected) in run(&order).iter().zip(&expected) {
                let allowed = behind_products(1e-5, device);
                assert_numbers(&format!("{order:?}"), found, expected, allowed);
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// Keys that require no gradient get none, and the gradient of the queries stays the same.
fn keys_get_a_gradient_only_where_they_ask(device: &Device) {
    let problem = Problem::new(Form::Momentum, InfoNceLossConfig::new());
    let loss = problem.config.init(device);
    let tracked = problem.leaves(device);
    let all = loss
        .forward(tracked[0].clone(), tracked[1].clone(), tracked[2].clone())
        .backward();
    let query = problem.leaves(device)[0].clone();
    let constant = |at: usize| tracked[at].clone().detach().set_require_grad(false);
    let (positive, negatives) = (constant(1), constant(2));
    let some = loss
        .forward(query.clone(), positive.clone(), negatives.clone())
        .backward();
    assert!(positive.grad(&some).is_none() && negatives.grad(&some).is_none());
    let expected = numbers(tracked[0].grad(&all).expect("it is tracked"));
    let found = numbers(query.grad(&some).expect("it is tracked"));
    assert_same("queries", &found, &expected, device);
}

/// The loss depends on the direction of features alone, also where their squares leave the range of f32.
fn lengths_do_not_count(device: &Device) {
    let problem = Problem::new(Form::Momentum, InfoNceLossConfig::new());
    let loss = problem.config.init(device);
    // The lengths are powers of 2, which round nothing.
    for length in [2f32.powi(-80), 2f32.powi(-40), 1.0, 2f32.powi(80)] {
        let leaves = problem.leaves(device);
        let longer = |at: usize| leaves[at].clone() * length;
        let value = loss.forward(longer(0), longer(1), longer(2));
        let name = format!("length {length}");
        let allowed = behind_products(2e-6, device);
        assert_numbers(&name, &numbers(value.clone()), &[problem.loss()], allowed);
        let gradients = (value * problem.upstream).backward();
        let (expected, _) = problem.gradients();
        for (leaf, expected) in leaves.iter().zip(&expected) {
            let found = numbers(leaf.grad(&gradients).expect("it is tracked"));
            assert_numbers(&name, &found, expected, behind_products(2e-5, device));
        }
    }
}

tests_on! {
    products: [
        lengths_do_not_count,
        the_order_of_negatives_does_not_matter,
        keys_get_a_gradient_only_where_they_ask,
    ],
}
