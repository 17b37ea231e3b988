//! Compares momentum contrast with ids, at sizes that the kernels go through in blocks, with gradients in f64
//! by hand.

use burn::tensor::{DType, Device};
use burn_cross_entropy::InfoNceLossConfig;
use burn_cross_entropy::contrastive::SampleIds;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::ints;
use crate::common::backends::{is_host, tests_on};
use crate::common::run::{float_tensor, numbers};
use crate::common::tolerance::{assert_numbers, of_projection};

const QUERIES: usize = 37;
const FEATURES: usize = 33;
const NEGATIVES: usize = 517;
const TEMPERATURE: f64 = 0.125;
const UPSTREAM: f64 = -1.75;

/// The id of a query, which many negatives have too.
fn query_id(row: usize) -> i64 {
    (row % 20) as i64
}

fn negative_id(row: usize) -> i64 {
    (row * 7 % 50) as i64
}

/// Rows of queries, positives or negatives.
type Rows = Vec<Vec<f64>>;

fn drawn() -> [Rows; 3] {
    let mut rng = StdRng::seed_from_u64(5);
    let mut row = |_| -> Vec<f64> {
        let number = |_| f64::from(rng.random_range(-1.0f32..1.0));
        (0..FEATURES).map(number).collect()
    };
    [QUERIES, QUERIES, NEGATIVES].map(|rows| (0..rows).map(&mut row).collect())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `sum += share * row`
fn add(sum: &mut [f64], share: f64, row: &[f64]) {
    for (sum, number) in sum.iter_mut().zip(row) {
        *sum += share * number;
    }
}

/// The mean loss, and the gradients of all rows:
///
/// ```text
/// dloss/dq = ((p_0 - 1) k + sum_j p_j n_j) / (t N)      p the softmax of [q.k, q.n_j ..] / t
/// dloss/dk = (p_0 - 1) q / (t N)                        over rows of length 1, and through their length
/// dloss/dn_j = sum over the queries of p_j q / (t N)    (g - u (u.g)) / |x| for x of direction u
/// ```
fn by_hand(given: &[Rows; 3]) -> (f64, [Rows; 3]) {
    let scale = 1.0 / TEMPERATURE;
    let length = |row: &Vec<f64>| dot(row, row).sqrt();
    let unit = |row: &Vec<f64>| row.iter().map(|x| x / length(row)).collect();
    let [queries, positives, negatives] = given
        .each_ref()
        .map(|rows| rows.iter().map(unit).collect::<Rows>());
    let mut gradients = given
        .each_ref()
        .map(|rows| vec![vec![0.0; FEATURES]; rows.len()]);
    let mut loss = 0.0;
    for (row, (query, positive)) in queries.iter().zip(&positives).enumerate() {
        let others: Vec<usize> = (0..NEGATIVES)
            .filter(|at| negative_id(*at) != query_id(row))
            .collect();
        assert!(others.len() < NEGATIVES);
        let own = dot(query, positive) * scale;
        let exponents = others
            .iter()
            .map(|at| (dot(query, &negatives[*at]) * scale - own).exp());
        let exponents: Vec<f64> = exponents.collect();
        let total = 1.0 + exponents.iter().sum::<f64>();
        loss += total.ln() / QUERIES as f64;
        let share = scale / QUERIES as f64;
        let of_own = (1.0 / total - 1.0) * share;
        add(&mut gradients[0][row], of_own, positive);
        add(&mut gradients[1][row], of_own, query);
        for (&at, exponent) in others.iter().zip(exponents) {
            add(
                &mut gradients[0][row],
                exponent / total * share,
                &negatives[at],
            );
            add(&mut gradients[2][at], exponent / total * share, query);
        }
    }
    let units = [queries, positives, negatives];
    for ((gradients, rows), units) in gradients.iter_mut().zip(given).zip(&units) {
        for ((gradient, row), unit) in gradients.iter_mut().zip(rows).zip(units) {
            let along = dot(gradient, unit);
            add(gradient, -along, unit);
            gradient.iter_mut().for_each(|slope| *slope /= length(row));
        }
    }
    (loss, gradients)
}

fn a_larger_queue_agrees(device: &Device) {
    let given = drawn();
    let (expected, gradients) = by_hand(&given);
    // Chunks of all rows, of one row, and of numbers that do not divide the rows; a device takes time for
    // each.
    let (dtypes, chunks): (&[DType], &[usize]) = match is_host(device) {
        true => (&[DType::F32, DType::F64], &[64 << 20, 1, 21_000]),
        false => (&[DType::F32], &[64 << 20, 21_000]),
    };
    for &dtype in dtypes {
        for &chunk_bytes in chunks {
            let name = format!("{dtype:?} in chunks of {chunk_bytes} bytes");
            let allowed = of_projection(dtype, device);
            let config = InfoNceLossConfig::new()
                .with_temperature(TEMPERATURE)
                .with_chunk_bytes(Some(chunk_bytes));
            let loss = config.init(device);
            let leaves = given.each_ref().map(|rows| {
                let shape = [rows.len(), FEATURES];
                float_tensor::<2>(&rows.concat(), &shape, (device, dtype)).require_grad()
            });
            let ids = |rows: usize, id: fn(usize) -> i64| {
                ints(&(0..rows).map(id).collect::<Vec<i64>>(), device)
            };
            let ids = SampleIds {
                queries: ids(QUERIES, query_id),
                negatives: ids(NEGATIVES, negative_id),
            };
            let [query, positive, negatives] = leaves.clone();
            let value = loss.forward_with_ids(query, positive, negatives, ids);
            assert_numbers(&name, &numbers(value.clone()), &[expected], allowed.loss);
            let found = (value * UPSTREAM).backward();
            for ((leaf, gradient), part) in leaves.iter().zip(&gradients).zip(0..) {
                let found = numbers(leaf.grad(&found).expect("it is tracked"));
                let upstream = |slope: &f64| slope * UPSTREAM;
                let gradient: Vec<f64> = gradient.iter().flatten().map(upstream).collect();
                let name = format!("{name}: tensor {part}");
                assert_numbers(&name, &found, &gradient, allowed.gradient);
            }
        }
    }
}

tests_on! { products: [a_larger_queue_agrees] }
