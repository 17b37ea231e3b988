//! The learnt temperature at its bound.

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Tensor};
use burn_cross_entropy::InfoNceLossConfig;

use super::{Form, OfParameters, Problem};
use crate::common::backends::tests_on;
use crate::common::run::numbers;
use crate::common::tolerance::{assert_numbers, behind_products};

/// The scale stays at its bound, and its parameter keeps its gradient.
fn the_temperature_is_bounded(device: &Device) {
    let config = InfoNceLossConfig::new()
        .with_learnable(true)
        .with_max_scale(20.0);
    let loss = config.init(device);
    assert!((loss.temperature() - 0.07).abs() < 1e-6);
    let warmer = Module::map(loss, &mut Added(1.0));
    assert!((warmer.temperature() - 0.05).abs() < 1e-6);
    let mut found = Vec::new();
    let mut problem = Problem::new(Form::Momentum, InfoNceLossConfig::new());
    problem.log_scale = 20f64.ln();
    let value = problem.run(&warmer, &problem.leaves(device)) * problem.upstream;
    Module::visit(&warmer, &mut OfParameters(&value.backward(), &mut found));
    let (_, expected) = problem.gradients();
    let allowed = behind_products(2e-5, device);
    assert_numbers("temperature", &found, &[expected], allowed);
    let back = Module::map(warmer.clamp_scale(), &mut Added(-1.0));
    let expected = 1.0 / (20.0 * (-1f64).exp());
    assert!((back.temperature() - expected).abs() < 1e-5);
}

/// A parameter that lies beyond a bound, on either side, has the loss and the gradients of the bound, and is brought to it.
fn beyond_a_bound_the_loss_is_that_of_the_bound(device: &Device) {
    let config = InfoNceLossConfig::new()
        .with_learnable(true)
        .with_temperature(0.5)
        .with_min_scale(1.25)
        .with_max_scale(5.0);
    let allowed = behind_products(2e-5, device);
    // Scales of 0.7 and 14.8.
    for (moved, bound) in [(-1.0, 1.25f64), (2.0, 5.0)] {
        let beyond = Module::map(config.init(device), &mut Added(moved));
        assert!((1.0 / beyond.temperature() - bound).abs() < 1e-5 * bound);
        let mut problem = Problem::new(Form::Momentum, config.clone());
        problem.log_scale = bound.ln();
        let leaves = problem.leaves(device);
        let value = problem.run(&beyond, &leaves);
        let name = format!("bound {bound}");
        assert_numbers(&name, &numbers(value.clone()), &[problem.loss()], allowed);
        let gradients = (value * problem.upstream).backward();
        let (of_tensors, of_scale) = problem.gradients();
        for (leaf, expected) in leaves.iter().zip(&of_tensors) {
            let found = numbers(leaf.grad(&gradients).expect("it is tracked"));
            assert_numbers(&name, &found, expected, allowed);
        }
        let mut found = Vec::new();
        Module::visit(&beyond, &mut OfParameters(&gradients, &mut found));
        assert_numbers(&name, &found, &[of_scale], allowed);

        // From the bound a step back is a step within. A parameter that was left beyond would be beyond still.
        let within = Module::map(beyond.clamp_scale(), &mut Added(-0.25 * moved));
        let expected = bound * f64::from(-0.25 * moved).exp();
        assert!((1.0 / within.temperature() - expected).abs() < 1e-5 * expected);
    }
}

/// Adds a number to every parameter.
struct Added(f32);

impl ModuleMapper for Added {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|value| {
            let moved = value.detach() + self.0;
            moved.detach().require_grad()
        })
    }
}

/// The parameter is a leaf after it was brought to its bound: an optimizer continues with it, here from
/// beyond the bound back below it.
fn the_temperature_is_learnt_after_it_was_bounded(device: &Device) {
    let config = InfoNceLossConfig::new().with_learnable(true);
    let loss = config.init(device);
    let mut loss = Module::map(loss, &mut Added(3.0));
    // A negative is nearer than the positive: a smaller scale is better.
    let rows = Tensor::<2>::from_floats([[1.0, 0.0], [0.6, 0.8]], device);
    let others = Tensor::<2>::from_floats([[0.8, 0.6], [0.0, 1.0]], device);
    let mut optimizer = SgdConfig::new().init();
    let mut last = loss.temperature();
    assert!((last - 0.01).abs() < 1e-6, "{last}");
    for _ in 0..3 {
        loss = loss.clamp_scale();
        let value = loss.forward(rows.clone(), others.clone(), rows.clone().flip([0]));
        let gradients = GradientsParams::from_grads(value.backward(), &loss);
        assert_eq!(gradients.len(), 1);
        loss = optimizer.step(0.1, loss, gradients);
        assert!(loss.temperature() > last);
        last = loss.temperature();
    }
    let valid = loss.valid().clamp_scale();
    assert_eq!(valid.temperature(), last);
}

tests_on! {
    products: [
        the_temperature_is_bounded,
        beyond_a_bound_the_loss_is_that_of_the_bound,
        the_temperature_is_learnt_after_it_was_bounded,
    ],
}
