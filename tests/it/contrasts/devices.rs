//! Several devices, one after the other: each has its own rows and what was gathered of all. The sums over the devices are
//! what one device has of the whole batch.

use std::ops::Range;

use burn::module::Module;
use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor};
use burn_cross_entropy::InfoNceLossConfig;
use burn_cross_entropy::contrastive::{InBatch, SigLipLossConfig};

use crate::common::backends::tests_on;
use crate::common::run::{float_tensor, numbers};
use crate::common::tolerance::{assert_numbers, behind_products};
use crate::info_nce::OfParameters;

const ROWS: usize = 7;
const FEATURES: usize = 5;
/// The rows of two devices.
const SHARES: [Range<usize>; 2] = [0..4, 4..7];

/// Queries and keys of the whole batch, as leaves.
fn gathered(device: &Device) -> [Tensor<2>; 2] {
    [0.5, 2.0].map(|first| {
        let number = |at: usize| (first + at as f64 * 1.618).sin();
        let values: Vec<f64> = (0..ROWS * FEATURES).map(number).collect();
        let leaf = float_tensor::<2>(&values, &[ROWS, FEATURES], (device, DType::F32));
        leaf.require_grad()
    })
}

fn places(rows: Range<usize>, device: &Device) -> Tensor<1, Int> {
    let device = device.clone().without_autodiff();
    Tensor::arange(rows.start as i64..rows.end as i64, &device)
}

/// A loss, and the gradients of queries, keys and parameters.
fn found(loss: &impl Module, value: Tensor<1>, leaves: &[Tensor<2>; 2]) -> [Vec<f64>; 4] {
    let gradients = value.backward();
    let [queries, keys] = leaves
        .each_ref()
        .map(|leaf| numbers(leaf.grad(&gradients).expect("it is tracked")));
    let mut parameters = Vec::new();
    loss.visit(&mut OfParameters(&gradients, &mut parameters));
    [numbers(value), queries, keys, parameters]
}

/// Two orders of sums of f32. The logits stay below 3, whose rounding an exponential hands on.
#[track_caller]
fn assert_summed(name: &str, shares: [[Vec<f64>; 4]; 2], whole: &[Vec<f64>; 4], device: &Device) {
    let parts = [
        ("loss", 1e-6),
        ("queries", 1e-6),
        ("keys", 1e-6),
        // In a temperature's gradient the terms cancel.
        ("parameters", 2e-5),
    ];
    let [first, second] = shares;
    for (at, (part, allowed)) in parts.into_iter().enumerate() {
        let sums = first[at].iter().zip(&second[at]).map(|(a, b)| a + b);
        let sums: Vec<f64> = sums.collect();
        let allowed = behind_products(allowed, device);
        assert_numbers(&format!("{name}: {part}"), &sums, &whole[at], allowed);
    }
}

/// Of a device's rows all keys get a gradient, those of other devices too: what the rows of one device alone would give
/// its own keys is not that of the batch.
fn shares_of_gathered_keys_add_up(device: &Device) {
    for in_batch in [InBatch::OneSided, InBatch::Symmetric] {
        let config = InfoNceLossConfig::new()
            .with_temperature(0.5)
            .with_learnable(true)
            .with_in_batch(in_batch);
        let mean = config.init(device);
        let leaves = gathered(device);
        let [queries, keys] = leaves.clone();
        let whole = found(&mean, mean.forward_in_batch(queries, keys), &leaves);
        let sum = config.with_reduction(Reduction::Sum).init(device);
        let shares = SHARES.map(|own| {
            let leaves = gathered(device);
            let [queries, keys] = leaves.clone();
            let places = places(own.clone(), device);
            let of_own = queries.clone().slice([own.clone()]);
            let there = sum.forward_pairs(of_own, keys.clone(), places.clone());
            let value = match in_batch {
                InBatch::Symmetric => {
                    let back = sum.forward_pairs(keys.slice([own]), queries, places);
                    (there + back) / 2.0
                }
                _ => there,
            };
            found(&sum, value / ROWS as f64, &leaves)
        });
        assert_summed(&format!("{in_batch:?}"), shares, &whole, device);
    }
}

/// Pairs are asked for apart: a device may see the keys of one device after the other, and the pairs of two devices'
/// rows belong together nowhere.
fn pairs_apart_add_up_without_gathered_keys(device: &Device) {
    let config = SigLipLossConfig::new().with_scale(2.0).with_bias(-0.5);
    let mean = config.init(device);
    let leaves = gathered(device);
    let [queries, keys] = leaves.clone();
    let whole = found(&mean, mean.forward(queries, keys), &leaves);
    let sum = config.with_reduction(Reduction::Sum).init(device);
    let shares = SHARES.map(|own| {
        let leaves = gathered(device);
        let [queries, keys] = leaves.clone();
        let passing = SHARES.map(|keys_of| {
            let here = places(0..own.len(), device);
            let positive = match keys_of == own {
                true => here,
                false => here.zeros_like() - 100,
            };
            let (queries, keys) = (queries.clone(), keys.clone());
            sum.forward_pairs(
                queries.slice([own.clone()]),
                keys.slice([keys_of]),
                positive,
            )
        });
        let [first, second] = passing;
        found(&sum, (first + second) / ROWS as f64, &leaves)
    });
    assert_summed("pairs apart", shares, &whole, device);
}

tests_on! {
    products: [
        shares_of_gathered_keys_add_up,
        pairs_apart_add_up_without_gathered_keys,
    ],
}
