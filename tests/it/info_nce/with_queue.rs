//! The loss with a queue: its negatives are the keys that were pushed last, in whatever pieces they came.

use burn::tensor::{Device, Tensor, TensorData};
use burn_cross_entropy::contrastive::SampleIds;
use burn_cross_entropy::{InfoNceLossConfig, NegativeQueueConfig};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{FEATURES, assert_same, ints};
use crate::common::backends::tests_on;
use crate::common::run::numbers;
use crate::queue::check;

fn rows(seed: u64, rows: usize, device: &Device) -> Tensor<2> {
    let mut rng = StdRng::seed_from_u64(seed);
    let values: Vec<f32> = (0..rows * FEATURES)
        .map(|_| rng.random_range(-1.0f32..1.0))
        .collect();
    Tensor::from_data(TensorData::new(values, [rows, FEATURES]), device)
}

/// The loss and the gradient of the queries against a queue that was fed keys in batches of these sizes. Keys
/// and queries have ids below 5, so that some keys do not count as negatives.
fn found(capacity: usize, sizes: &[usize], device: &Device) -> [Vec<f64>; 2] {
    let loss = InfoNceLossConfig::new().init(device);
    let mut queue = NegativeQueueConfig::new(capacity, FEATURES)
        .with_ids(true)
        .init(device);
    let total: usize = sizes.iter().sum();
    // At least one row, because not every backend makes tensors without elements.
    let keys = rows(1, usize::max(total, 1), device);
    let ids = |range: std::ops::Range<usize>| {
        let ids: Vec<i64> = range.map(|number| (number % 5) as i64).collect();
        ints(&ids, device)
    };
    let mut start = 0;
    for &size in sizes.iter().filter(|size| **size > 0) {
        let batch = keys.clone().slice(start..start + size);
        queue.push_with_ids(batch, ids(start..start + size));
        start += size;
    }
    let query = rows(2, 4, device).require_grad();
    let sample_ids = SampleIds {
        queries: ids(1..5),
        negatives: queue.ids().expect("this queue keeps ids"),
    };
    let value = loss.forward_with_ids(query.clone(), rows(3, 4, device), queue.keys(), sample_ids);
    let gradient = query.grad(&value.clone().backward());
    [numbers(value), numbers(gradient.expect("it is tracked"))]
}

fn a_queue_fed_in_pieces_gives_the_loss_of_one_fed_at_once(device: &Device) {
    check(|capacity, sizes| {
        let pieces = found(capacity, &sizes, device);
        let whole = found(capacity, &[sizes.iter().sum()], device);
        for (name, (pieces, whole)) in ["loss", "gradient"].iter().zip(pieces.iter().zip(&whole)) {
            assert_same(name, pieces, whole, device);
        }
        assert!(pieces.iter().flatten().all(|number| number.is_finite()));
    });
}

/// Keys that fell out of the queue have no part in the loss.
fn keys_that_fell_out_do_not_count(device: &Device) {
    let loss = InfoNceLossConfig::new().init(device);
    let of = |batches: &[(u64, usize)]| {
        let mut queue = NegativeQueueConfig::new(6, FEATURES).init(device);
        for (seed, count) in batches {
            queue.push(rows(*seed, *count, device));
        }
        numbers(loss.forward(rows(2, 4, device), rows(3, 4, device), queue.keys()))
    };
    let (one, other) = ([(7, 3), (1, 6), (4, 6)], [(9, 5), (1, 1), (4, 6)]);
    assert_same("loss", &of(&one), &of(&other), device);
    assert_ne!(of(&[(1, 6), (4, 5)]), of(&[(9, 6), (4, 5)]));
}

tests_on! {
    host: [
        a_queue_fed_in_pieces_gives_the_loss_of_one_fed_at_once,
    ],
    products: [
        keys_that_fell_out_do_not_count,
    ],
}
