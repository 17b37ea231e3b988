//! Batches in another order, and batches in which every row stands twice.

use burn::tensor::{Device, Distribution, Tensor};
use burn_cross_entropy::contrastive::{
    Contrast, InBatch, Positives, SampleIds, SigLipLossConfig, SupCon,
};
use burn_cross_entropy::{InfoNceLoss, InfoNceLossConfig};

use super::ints;
use crate::common::backends::tests_on;
use crate::common::run::numbers;
use crate::common::tolerance::{assert_numbers, behind_products};

const FEATURES: usize = 4;
const TEMPERATURE: f64 = 0.3;
/// Another order of seven rows, and one of nine keys.
const ORDER: [i64; 7] = [4, 1, 6, 0, 3, 5, 2];
const ORDER_OF_KEYS: [i64; 9] = [3, 8, 0, 5, 1, 7, 2, 6, 4];
/// The order that is given.
const AS_IT_IS: [i64; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 8];

fn random(rows: usize, device: &Device) -> Tensor<2> {
    Tensor::random([rows, FEATURES], Distribution::Normal(0.0, 1.0), device)
}

fn info_nce(
    change: impl FnOnce(InfoNceLossConfig) -> InfoNceLossConfig,
    device: &Device,
) -> InfoNceLoss {
    change(InfoNceLossConfig::new().with_temperature(TEMPERATURE)).init(device)
}

fn in_order(rows: &Tensor<2>, order: &[i64]) -> Tensor<2> {
    rows.clone().select(0, ints(order, &rows.device()))
}

fn picked<T: Copy>(values: &[T], order: &[i64]) -> Vec<T> {
    order.iter().map(|at| values[*at as usize]).collect()
}

/// Asserts that rows in another order have their losses of before.
#[track_caller]
fn assert_moved(name: &str, found: &[f64], before: &[f64], order: &[i64], device: &Device) {
    let expected = picked(before, order);
    let allowed = behind_products(1e-5, device);
    assert_numbers(name, found, &expected, allowed);
    // All rows alike would be in any order.
    assert!(before.iter().any(|loss| (loss - before[0]).abs() > 1e-2));
}

/// Rows with labels keep their losses, also beside a memory in another order.
fn the_order_of_labels_does_not_matter(device: &Device) {
    let (features, memory) = (random(9, device), random(6, device));
    let labels = [2, 0, 2, 5, 0, 2, 9, 0, 7];
    let of_memory = [7, 0, 3, 2, 2, 8];
    for sup_con in [SupCon::Out, SupCon::In] {
        let loss = info_nce(|config| config.with_sup_con(sup_con), device);
        let run = |order: &[i64], of: &[i64]| {
            let labels = ints(&picked(&labels, order), device);
            let contrast = Contrast::labels(in_order(&features, order), labels);
            let labels = ints(&picked(&of_memory, of), device);
            let contrast = contrast.with_memory(in_order(&memory, of), labels);
            numbers(loss.forward_contrast_no_reduction(contrast))
        };
        let before = run(&AS_IT_IS, &AS_IT_IS[..6]);
        let found = run(&ORDER_OF_KEYS, &[5, 0, 3, 2, 4, 1]);
        let name = format!("{sup_con:?}");
        assert_moved(&name, &found, &before, &ORDER_OF_KEYS, device);
    }
}

/// Two views keep the losses of their rows where both come in another order, with their ids or without.
fn the_order_of_two_views_does_not_matter(device: &Device) {
    let (a, b) = (random(7, device), random(7, device));
    let ids = [3, 4, 5, 3, 7, 4, 9];
    for in_batch in [InBatch::OneSided, InBatch::Symmetric, InBatch::NtXent] {
        let loss = info_nce(|config| config.with_in_batch(in_batch), device);
        for with_ids in [false, true] {
            let run = |order: &[i64]| {
                let contrast = Contrast::in_batch(in_order(&a, order), in_order(&b, order));
                let contrast = match with_ids {
                    false => contrast,
                    true => {
                        let ids = ints(&picked(&ids, order), device);
                        contrast.with_ids(SampleIds::same(ids))
                    }
                };
                numbers(loss.forward_contrast_no_reduction(contrast))
            };
            // NT-Xent has the rows of the second view behind those of the first.
            let views = match in_batch {
                InBatch::NtXent => 2,
                _ => 1,
            };
            let of_views = (0..views).flat_map(|view| ORDER.map(|at| 7 * view + at));
            let order: Vec<i64> = of_views.collect();
            let (found, before) = (run(&ORDER), run(&AS_IT_IS[..7]));
            let name = format!("{in_batch:?}, ids {with_ids}");
            assert_moved(&name, &found, &before, &order, device);
        }
    }
}

/// Rows and keys may each come in another order, if the numbers of positives are those of the keys' new places.
fn the_order_of_rows_and_of_keys_does_not_matter(device: &Device) {
    let (query, keys) = (random(7, device), random(9, device));
    let positives: [[i64; 2]; 7] = [
        [8, 2],
        [0, -100],
        [-100, -100],
        [4, 5],
        [-100, 1],
        [3, 2],
        [6, 7],
    ];
    let loss = info_nce(|config| config, device);
    let run = |order: &[i64], of: &[i64]| {
        let place = |key: i64| match of.iter().position(|at| *at == key) {
            Some(place) => place as i64,
            None => key,
        };
        let numbers_of = picked(&positives, order).concat();
        let places: Vec<i64> = numbers_of.into_iter().map(place).collect();
        let places = ints(&places, device).reshape([7, 2]);
        let (query, keys) = (in_order(&query, order), in_order(&keys, of));
        let contrast = Contrast::several(query, keys, Positives::Indices(places));
        numbers(loss.forward_contrast_no_reduction(contrast))
    };
    let before = run(&AS_IT_IS[..7], &AS_IT_IS);
    let found = run(&ORDER, &ORDER_OF_KEYS);
    assert_moved("several", &found, &before, &ORDER, device);
}

/// The same of pairs apart, by labels.
fn the_order_of_pairs_apart_does_not_matter(device: &Device) {
    let (query, keys) = (random(7, device), random(9, device));
    let (of_rows, of_keys) = ([2, 4, 7, 0, 0, 9, 3], [2, 0, 4, 4, 9, 2, 2, 1, 0]);
    let config = SigLipLossConfig::new().with_scale(3.0).with_bias(-1.0);
    let loss = config.init(device);
    let run = |order: &[i64], of: &[i64]| {
        let positives = Positives::Labels {
            rows: ints(&picked(&of_rows, order), device),
            keys: ints(&picked(&of_keys, of), device),
        };
        let (query, keys) = (in_order(&query, order), in_order(&keys, of));
        numbers(loss.forward_positives_no_reduction(query, keys, positives))
    };
    let before = run(&AS_IT_IS[..7], &AS_IT_IS);
    let found = run(&ORDER, &ORDER_OF_KEYS);
    assert_moved("pairs apart", &found, &before, &ORDER, device);
}

fn twice(rows: &Tensor<2>) -> Tensor<2> {
    Tensor::cat(vec![rows.clone(), rows.clone()], 0)
}

/// Asserts that both copies of each row have the expected loss.
#[track_caller]
fn assert_both(name: &str, found: &[f64], expected: Vec<f64>, device: &Device) {
    let allowed = behind_products(1e-5, device);
    assert_numbers(name, found, &expected.repeat(2), allowed);
}

/// In a batch that stands twice all keys are there twice, the positive too, which adds the logarithm of 2. Ids leave out
/// the positive's copy; the sum over the negatives is doubled.
fn copies_in_a_batch_are_negatives_unless_ids_tell(device: &Device) {
    let (a, b) = (random(7, device), random(7, device));
    let ids = |copies: usize| SampleIds::same(ints(&AS_IT_IS[..7].repeat(copies), device));
    for in_batch in [InBatch::OneSided, InBatch::Symmetric] {
        let loss = info_nce(|config| config.with_in_batch(in_batch), device);
        let run = |a, b| numbers(loss.forward_contrast_no_reduction(Contrast::in_batch(a, b)));
        let once = run(a.clone(), b.clone());
        let expected = once.iter().map(|loss| loss + 2f64.ln()).collect();
        let found = run(twice(&a), twice(&b));
        assert_both(&format!("{in_batch:?}"), &found, expected, device);
    }
    let of_ids = |in_batch: InBatch, a: Tensor<2>, b: Tensor<2>, ids: SampleIds| {
        let loss = info_nce(|config| config.with_in_batch(in_batch), device);
        let contrast = Contrast::in_batch(a, b).with_ids(ids);
        numbers(loss.forward_contrast_no_reduction(contrast))
    };
    // A row's loss is ln(1 + the sum over its negatives).
    let doubled = |loss: &f64| (2.0 * loss.exp_m1()).ln_1p();
    let once = of_ids(InBatch::OneSided, a.clone(), b.clone(), ids(1));
    let found = of_ids(InBatch::OneSided, twice(&a), twice(&b), ids(2));
    let expected = once.iter().map(doubled).collect();
    assert_both("one-sided, ids", &found, expected, device);
    let once = of_ids(InBatch::NtXent, a.clone(), b.clone(), ids(1));
    let found = of_ids(InBatch::NtXent, twice(&a), twice(&b), ids(2));
    for (view, once) in once.chunks(7).enumerate() {
        let expected = once.iter().map(doubled).collect();
        let of_view = &found[14 * view..14 * view + 14];
        let name = format!("NT-Xent, ids, view {view}");
        assert_both(&name, of_view, expected, device);
    }
}

/// Keys that stand twice, with all copies of positives as positives, add the logarithm of 2 to each row that counts. Each
/// pair that is asked for apart is asked for twice.
fn keys_that_stand_twice_are_counted_twice(device: &Device) {
    let (query, keys) = (random(7, device), random(9, device));
    let of_rows = [2, 4, 7, 0, 0, 9, 3];
    let of_keys = [2, 0, 4, 4, 9, 2, 2, 1, 0];
    let labels = |copies: usize| Positives::Labels {
        rows: ints(&of_rows, device),
        keys: ints(&of_keys.repeat(copies), device),
    };
    for sup_con in [SupCon::Out, SupCon::In] {
        let loss = info_nce(|config| config.with_sup_con(sup_con), device);
        let run = |keys: Tensor<2>, positives| {
            let contrast = Contrast::several(query.clone(), keys, positives);
            numbers(loss.forward_contrast_no_reduction(contrast))
        };
        let once = run(keys.clone(), labels(1));
        let counts = of_rows.map(|label| of_keys.contains(&label));
        let expected = once.iter().zip(counts).map(|(loss, counts)| match counts {
            true => loss + 2f64.ln(),
            false => 0.0,
        });
        let expected: Vec<f64> = expected.collect();
        let found = run(twice(&keys), labels(2));
        let allowed = behind_products(1e-5, device);
        assert_numbers(&format!("{sup_con:?}"), &found, &expected, allowed);
    }
    let loss = SigLipLossConfig::new().with_scale(3.0).with_bias(-1.0);
    let loss = loss.init(device);
    let run = |keys, positives| {
        numbers(loss.forward_positives_no_reduction(query.clone(), keys, positives))
    };
    let once = run(keys.clone(), labels(1));
    let expected: Vec<f64> = once.iter().map(|loss| 2.0 * loss).collect();
    let found = run(twice(&keys), labels(2));
    let allowed = behind_products(1e-5, device);
    assert_numbers("pairs apart", &found, &expected, allowed);
}

/// Losses of rows with labels, by their formula in f64.
fn by_hand(features: &[Vec<f64>], labels: &[i64], sup_con: SupCon) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let unit = |row: &Vec<f64>| -> Vec<f64> {
        let length = dot(row, row).sqrt();
        row.iter().map(|x| x / length).collect()
    };
    let units: Vec<Vec<f64>> = features.iter().map(unit).collect();
    let of_row = |row: usize| {
        let logit = |other: usize| dot(&units[row], &units[other]) / TEMPERATURE;
        let others = || (0..units.len()).filter(|other| *other != row);
        let lse = others().map(|other| logit(other).exp()).sum::<f64>().ln();
        let positives = others().filter(|other| labels[*other] == labels[row]);
        let logits: Vec<f64> = positives.map(logit).collect();
        let count = logits.len() as f64;
        lse - match sup_con {
            SupCon::Out => logits.iter().sum::<f64>() / count,
            SupCon::In => (logits.iter().map(|x| x.exp()).sum::<f64>() / count).ln(),
        }
    };
    (0..units.len()).map(of_row).collect()
}

/// A row's copy is a positive of it, the only one where its label stands alone.
fn a_copy_is_a_positive_by_its_label(device: &Device) {
    let features = random(7, device);
    let labels = [2, 0, 2, 5, 0, 2, 9].repeat(2);
    let values = numbers(features.clone());
    let rows: Vec<Vec<f64>> = values
        .repeat(2)
        .chunks(FEATURES)
        .map(<[f64]>::to_vec)
        .collect();
    for sup_con in [SupCon::Out, SupCon::In] {
        let loss = info_nce(|config| config.with_sup_con(sup_con), device);
        let contrast = Contrast::labels(twice(&features), ints(&labels, device));
        let found = numbers(loss.forward_contrast_no_reduction(contrast));
        let expected = by_hand(&rows, &labels, sup_con);
        let allowed = behind_products(1e-5, device);
        assert_numbers(&format!("{sup_con:?}"), &found, &expected, allowed);
    }
}

tests_on! {
    products: [
        the_order_of_labels_does_not_matter,
        the_order_of_two_views_does_not_matter,
        the_order_of_rows_and_of_keys_does_not_matter,
        the_order_of_pairs_apart_does_not_matter,
        copies_in_a_batch_are_negatives_unless_ids_tell,
        keys_that_stand_twice_are_counted_twice,
        a_copy_is_a_positive_by_its_label,
    ],
}
