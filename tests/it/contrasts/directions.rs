//! Features without a direction, of 0 or of numbers that are not normal: their similarity to everything is 0, and no
//! gradient is infinite or NaN.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use burn_cross_entropy::contrastive::{Contrast, InBatch, Positives, SigLipLossConfig, SupCon};
use burn_cross_entropy::{InfoNceLoss, InfoNceLossConfig};

use super::ints;
use crate::common::backends::tests_on;
use crate::common::run::{float_tensor, numbers};
use crate::common::tolerance::{assert_numbers, behind_products};
use crate::info_nce::OfParameters;

const FEATURES: usize = 4;
const QUERIES: usize = 6;
const KEYS: usize = 7;
/// Rows that have no direction, among the queries and among the keys.
const WITHOUT: [usize; 2] = [1, 4];
/// One over a subnormal number is beyond the range of f32.
const NOTHING: [f64; 2] = [0.0, 1e-39];

/// Leaves of these numbers of rows, some of which are `nothing`.
fn leaves<const N: usize>(rows: [usize; N], nothing: f64, device: &Device) -> [Tensor<2>; N] {
    std::array::from_fn(|place| leaf(rows[place], place as f64, nothing, device))
}

/// A leaf of numbers without a pattern that rows, features and leaves share.
fn leaf(rows: usize, first: f64, nothing: f64, device: &Device) -> Tensor<2> {
    let number = |at: usize| match WITHOUT.contains(&(at / FEATURES)) {
        true => nothing,
        false => (first + at as f64 * 1.618).sin(),
    };
    let values: Vec<f64> = (0..rows * FEATURES).map(number).collect();
    float_tensor::<2>(&values, &[rows, FEATURES], (device, DType::F32)).require_grad()
}

/// Asserts that rows without a direction have the expected losses, and that all numbers are finite: losses, gradients of
/// the features and of the parameters.
#[track_caller]
fn assert_finite(
    name: &str,
    (loss, rows): (&impl Module, Tensor<1>),
    leaves: &[Tensor<2>],
    expected: [f64; 2],
) {
    let device = rows.device();
    let losses = numbers(rows.clone());
    assert!(losses.iter().all(|x| x.is_finite()), "{name}: {losses:?}");
    let of_nothing = WITHOUT.map(|row| losses[row]);
    let allowed = behind_products(1e-6, &device);
    assert_numbers(name, &of_nothing, &expected, allowed);
    let gradients = rows.sum().backward();
    for (at, leaf) in leaves.iter().enumerate() {
        let slopes = numbers(leaf.grad(&gradients).expect("it is tracked"));
        let finite = slopes.iter().all(|slope| slope.is_finite());
        assert!(finite, "{name}, tensor {at}: {slopes:?}");
        assert!(slopes.iter().any(|slope| *slope != 0.0), "{name} {at}");
    }
    let mut slopes = Vec::new();
    loss.visit(&mut OfParameters(&gradients, &mut slopes));
    assert!(!slopes.is_empty() && slopes.iter().all(|slope| slope.is_finite()));
}

fn learnt(config: InfoNceLossConfig, device: &Device) -> InfoNceLoss {
    config.with_learnable(true).init(device)
}

/// A query without a direction finds all keys alike: its loss is the logarithm of their number.
fn a_query_without_a_direction_finds_all_keys_alike(device: &Device) {
    let [of_others, of_keys] = [QUERIES - 1, KEYS].map(|keys| [(keys as f64).ln(); 2]);
    for nothing in NOTHING {
        for sup_con in [SupCon::Out, SupCon::In] {
            let loss = learnt(InfoNceLossConfig::new().with_sup_con(sup_con), device);
            let [features] = leaves([QUERIES], nothing, device);
            let labels = ints(&[3, 3, 0, 0, 3, 0], device);
            let contrast = Contrast::labels(features.clone(), labels);
            let rows = loss.forward_contrast_no_reduction(contrast);
            let name = format!("labels, {sup_con:?}, {nothing}");
            assert_finite(&name, (&loss, rows), &[features], of_others);
        }
        let loss = learnt(InfoNceLossConfig::new(), device);
        let leaves = || leaves([QUERIES, KEYS], nothing, device);
        let (of_several, of_pairs) = (leaves(), leaves());
        // Among the positives are keys without a direction, 1 and 4.
        let numbers = ints(&[0, 1, 2, -100, 4, 1, 5, 3, 6, 0, 1, 4], device);
        let positives = Positives::Indices(numbers.reshape([QUERIES, 2]));
        let [query, keys] = of_several.clone();
        let contrast = Contrast::several(query, keys, positives);
        let rows = loss.forward_contrast_no_reduction(contrast);
        let name = format!("several, {nothing}");
        assert_finite(&name, (&loss, rows), &of_several, of_keys);

        let [query, keys] = of_pairs.clone();
        let contrast = Contrast::pairs(query, keys, ints(&[0, 1, 4, 2, 6, 1], device));
        let rows = loss.forward_contrast_no_reduction(contrast);
        let name = format!("pairs, {nothing}");
        assert_finite(&name, (&loss, rows), &of_pairs, of_keys);
    }
}

/// In a batch a row without a direction stands on both sides; and there are such rows among own negatives.
fn rows_of_a_batch_may_have_no_direction(device: &Device) {
    for nothing in NOTHING {
        for (in_batch, keys) in [
            (InBatch::OneSided, QUERIES),
            (InBatch::Symmetric, QUERIES),
            (InBatch::NtXent, 2 * QUERIES - 1),
        ] {
            let loss = learnt(InfoNceLossConfig::new().with_in_batch(in_batch), device);
            let leaves = leaves([QUERIES, QUERIES], nothing, device);
            let [a, b] = leaves.clone();
            let rows = loss.forward_contrast_no_reduction(Contrast::in_batch(a, b));
            let name = format!("{in_batch:?}, {nothing}");
            let expected = [(keys as f64).ln(); 2];
            assert_finite(&name, (&loss, rows), &leaves, expected);
        }
        let loss = learnt(InfoNceLossConfig::new(), device);
        let leaves = leaves([QUERIES, QUERIES, KEYS, 2 * QUERIES], nothing, device);
        let [query, positive, negatives, own] = leaves.clone();
        let own = own.reshape([QUERIES, 2, FEATURES]);
        let contrast = Contrast::moco(query, positive, negatives).with_own_negatives(own, None);
        let rows = loss.forward_contrast_no_reduction(contrast);
        let expected = [((1 + 2 + KEYS) as f64).ln(); 2];
        let name = format!("own negatives, {nothing}");
        assert_finite(&name, (&loss, rows), &leaves, expected);
    }
}

/// Of a pair without a direction the sigmoid loss knows the bias alone.
fn a_pair_without_a_direction_has_the_loss_of_the_bias(device: &Device) {
    let loss = SigLipLossConfig::new().init(device);
    // ln(1 + exp(b)) and ln(1 + exp(-b)), with the bias b of -10.
    let (apart, together) = ((-10f64).exp().ln_1p(), 10f64.exp().ln_1p());
    for nothing in NOTHING {
        let leaves = leaves([QUERIES, KEYS], nothing, device);
        let [query, keys] = leaves.clone();
        let positives = Positives::Labels {
            rows: ints(&[0, 1, 2, 3, 4, 5], device),
            keys: ints(&[1, 1, 0, 2, 3, 9, 1], device),
        };
        let rows = loss.forward_positives_no_reduction(query, keys, positives);
        // Row 1 belongs to three keys, row 4 to none.
        let expected = [3.0 * together + 4.0 * apart, 7.0 * apart];
        let name = format!("labels, {nothing}");
        assert_finite(&name, (&loss, rows), &leaves, expected);
    }
}

tests_on! {
    products: [
        a_query_without_a_direction_finds_all_keys_alike,
        rows_of_a_batch_may_have_no_direction,
        a_pair_without_a_direction_has_the_loss_of_the_bias,
    ],
}
