//! The queue of negatives holds the newest keys, however they came in.

use std::collections::VecDeque;

use burn::nn::LinearConfig;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::contrastive::ContrastiveError;
use burn_cross_entropy::{NegativeQueue, NegativeQueueConfig};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::common::backends::tests_on;
use crate::common::run::numbers;

const FEATURES: usize = 3;

/// Key number `number` of a stream: no two are equal, and all are exact in f32.
fn key(number: usize) -> [f32; FEATURES] {
    [0.25, 0.5, 0.75].map(|part| number as f32 + part)
}

fn id(number: usize) -> i64 {
    7 * number as i64 - 20
}

/// The next `rows` keys of a stream, after its first `start`.
fn keys(start: usize, rows: usize, device: &Device) -> Tensor<2> {
    let values: Vec<f32> = (start..start + rows).flat_map(key).collect();
    Tensor::from_data(TensorData::new(values, [rows, FEATURES]), device)
}

fn ids(start: usize, rows: usize, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = (start..start + rows).map(id).collect();
    Tensor::from_data(TensorData::new(values, [rows]), device)
}

fn integers(ids: Tensor<1, Int>) -> Vec<i64> {
    ids.into_data().iter::<i64>().collect()
}

/// Everything that a queue shows.
fn contents(queue: &NegativeQueue) -> (Vec<f64>, Option<Vec<i64>>, usize, usize) {
    let ids = queue.ids().map(integers);
    (numbers(queue.keys()), ids, queue.len(), queue.position())
}

fn with_ids(capacity: usize, device: &Device) -> NegativeQueue {
    NegativeQueueConfig::new(capacity, FEATURES)
        .with_ids(true)
        .init(device)
}

/// Pushes batches of these sizes, one after the other.
fn feed(queue: &mut NegativeQueue, sizes: &[usize], device: &Device) {
    let mut start = 0;
    for &rows in sizes {
        queue.push_with_ids(keys(start, rows, device), ids(start, rows, device));
        start += rows;
    }
}

/// Runs a property over capacities and sizes of batches, the same ones in every run.
pub fn check(property: impl Fn(usize, Vec<usize>)) {
    let config = Config {
        cases: 24,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let feeds = (1usize..8, prop::collection::vec(0usize..18, 0..7));
    TestRunner::new_with_rng(config, rng)
        .run(&feeds, |(capacity, sizes)| {
            property(capacity, sizes);
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

fn a_queue_is_a_deque_of_its_capacity(device: &Device) {
    check(|capacity, sizes| {
        let mut queue = with_ids(capacity, device);
        let mut model = VecDeque::new();
        let mut start = 0;
        for rows in sizes {
            queue.push_with_ids(keys(start, rows, device), ids(start, rows, device));
            for number in start..start + rows {
                if model.len() == capacity {
                    model.pop_front();
                }
                model.push_back(number);
            }
            start += rows;

            assert_eq!(queue.len(), model.len());
            assert_eq!(queue.is_empty(), model.is_empty());
            assert_eq!(queue.keys().dims(), [model.len(), FEATURES]);
            // The rows are read from the oldest on.
            let first = if model.len() == capacity {
                queue.position()
            } else {
                0
            };
            let mut rows: Vec<[f64; FEATURES]> = numbers(queue.keys())
                .chunks_exact(FEATURES)
                .map(|row| row.try_into().expect("a row"))
                .collect();
            rows.rotate_left(first);
            let expected: Vec<_> = model.iter().map(|n| key(*n).map(f64::from)).collect();
            assert_eq!(rows, expected);
            let mut found = integers(queue.ids().expect("this queue keeps ids"));
            found.rotate_left(first);
            assert_eq!(found, model.iter().map(|n| id(*n)).collect::<Vec<_>>());
        }
    });
}

fn the_pieces_make_the_queue_of_the_whole(device: &Device) {
    check(|capacity, sizes| {
        let [mut pieces, mut whole] = [(); 2].map(|_| with_ids(capacity, device));
        feed(&mut pieces, &sizes, device);
        feed(&mut whole, &[sizes.iter().sum()], device);
        assert_eq!(contents(&pieces), contents(&whole));
    });
}

fn a_key_lies_in_the_row_of_its_number(device: &Device) {
    let mut queue = with_ids(5, device);
    feed(&mut queue, &[3, 4, 16, 0, 2], device);
    // After 25 keys, row 0 has number 20 and row 4 has number 24.
    assert_eq!(queue.position(), 0);
    assert_eq!(
        integers(queue.ids().expect("ids")),
        [20, 21, 22, 23, 24].map(id)
    );
    queue.push_with_ids(keys(25, 2, device), ids(25, 2, device));
    assert_eq!(queue.position(), 2);
    assert_eq!(
        integers(queue.ids().expect("ids")),
        [25, 26, 22, 23, 24].map(id)
    );
}

fn rows_without_a_key_are_no_negatives(device: &Device) {
    let mut queue = with_ids(7, device);
    assert!(queue.is_empty());
    assert_eq!((queue.capacity(), queue.features()), (7, FEATURES));
    assert_eq!(queue.keys().dims(), [0, FEATURES]);
    assert_eq!(queue.ids().expect("ids").dims(), [0]);
    queue.push_with_ids(keys(0, 0, device), ids(0, 0, device));
    assert!(queue.is_empty());

    feed(&mut queue, &[2], device);
    assert_eq!(queue.keys().dims(), [2, FEATURES]);

    queue.clear();
    assert_eq!((queue.len(), queue.position()), (0, 0));
    assert_eq!(queue.keys().dims(), [0, FEATURES]);
    feed(&mut queue, &[1], device);
    assert_eq!(numbers(queue.keys()), key(0).map(f64::from));
}

fn gradients_end_at_the_queue(device: &Device) {
    let encoder = LinearConfig::new(2, FEATURES).init(device);
    let mut queue = with_ids(4, device);
    let inputs = Tensor::<2>::from_floats([[1.0, -2.0], [0.5, 3.0]], device);
    queue.push_with_ids(encoder.forward(inputs), ids(0, 2, device));
    let negatives = queue.keys();
    assert!(!negatives.is_autodiff() && !negatives.is_require_grad());

    // Keys are constants next to queries in a graph.
    let queries = Tensor::<2>::from_floats([[1.0, 2.0, 3.0]], device).require_grad();
    let weights = Tensor::<2>::from_floats([[2.0, -0.5]], device);
    let loss = (queries.clone().matmul(negatives.clone().transpose()) * weights).sum();
    let gradients = loss.backward();
    assert!(encoder.weight.val().grad(&gradients).is_none());
    let found = numbers(queries.grad(&gradients).expect("queries are a leaf"));
    let negatives = numbers(negatives);
    for (feature, found) in found.into_iter().enumerate() {
        let expected = 2.0 * negatives[feature] - 0.5 * negatives[FEATURES + feature];
        // Two products in f32 of numbers of order 1.
        assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0));
    }
}

fn tensors_that_were_read_do_not_change(device: &Device) {
    let mut queue = with_ids(4, device);
    feed(&mut queue, &[3], device);
    let (filling, expected_filling) = (queue.keys(), contents(&queue).0);
    feed(&mut queue, &[6], device);
    let (full, expected_full) = (queue.keys(), contents(&queue).0);
    let copy = queue.clone();
    let expected = contents(&copy);
    feed(&mut queue, &[3], device);
    assert_ne!(contents(&queue), expected);
    assert_eq!(contents(&copy), expected);
    assert_eq!(numbers(filling), expected_filling);
    assert_eq!(numbers(full), expected_full);
}

fn views_are_pushed_as_what_they_show(device: &Device) {
    let mut queue = NegativeQueueConfig::new(4, FEATURES).init(device);
    let rows = keys(0, 3, device);
    let transposed = Tensor::<2>::from_data(rows.clone().transpose().into_data(), device);
    queue.push(transposed.transpose());
    assert_eq!(numbers(queue.keys()), numbers(rows.clone()));
    queue.clear();
    queue.push(rows.clone().flip([0]).flip([0]).slice(1..3));
    assert_eq!(numbers(queue.keys()), numbers(rows.slice(1..3)));
    // This push wraps around the end: it writes rows 2, 3 and 0.
    queue.push(Tensor::<2>::full([1, 1], 0.5, device).expand([3, FEATURES]));
    let half = [0.5; FEATURES];
    let expected = [half, key(2).map(f64::from), half, half];
    assert_eq!(numbers(queue.keys()), expected.concat());
}

fn an_empty_queue_takes_on_a_dtype(device: &Device) {
    let mut queue = with_ids(4, device);
    let wide = || keys(0, 3, device).cast(DType::F64) + 1e-12;
    let wide_ids = || ids(0, 3, device).cast(DType::I64);
    queue.push_with_ids(wide(), wide_ids());
    assert_eq!(queue.keys().dtype(), DType::F64);
    assert_eq!(queue.ids().expect("ids").dtype(), DType::I64);
    assert_eq!(numbers(queue.keys()), numbers(wide()));

    let before = contents(&queue);
    let error = queue
        .try_push_with_ids(keys(3, 2, device), ids(3, 2, device).cast(DType::I64))
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("the keys are of dtype F32"), "{text}");
    assert!(text.contains("in the queue are of F64"), "{text}");
    let error = queue
        .try_push_with_ids(wide(), wide_ids().cast(DType::I32))
        .unwrap_err();
    assert!(error.to_string().contains("the ids are of dtype I32"));
    assert_eq!(contents(&queue), before);

    queue.clear();
    queue.push_with_ids(keys(3, 2, device), ids(3, 2, device).cast(DType::I32));
    assert_eq!(queue.keys().dtype(), DType::F32);
}

fn what_does_not_fit_leaves_the_queue_as_it_was(device: &Device) {
    let mut queue = with_ids(4, device);
    feed(&mut queue, &[6], device);
    let before = contents(&queue);
    let other_features = || Tensor::<2>::zeros([2, FEATURES + 1], device);

    let assert_says = |result: Result<(), ContrastiveError>, said: &str| {
        let text = result.expect_err("this does not fit").to_string();
        assert!(text.contains(said), "{text}");
    };
    assert_says(
        queue.try_push_with_ids(other_features(), ids(0, 2, device)),
        "the keys have shape [2, 4], expected [2, 3]",
    );
    assert_says(
        queue.try_push(keys(0, 2, device)),
        "the 2 keys came without",
    );
    assert_says(
        queue.try_push_with_ids(keys(0, 2, device), ids(0, 3, device)),
        "there are 3 ids for 2 keys",
    );
    assert_eq!(contents(&queue), before);

    let mut plain = NegativeQueueConfig::new(4, FEATURES).init(device);
    assert_eq!(
        plain.try_push_with_ids(keys(0, 2, device), ids(0, 2, device)),
        Err(ContrastiveError::IdsUnexpected)
    );
    assert!(plain.is_empty() && plain.ids().is_none());
    assert!(matches!(
        plain.try_push(other_features()),
        Err(ContrastiveError::Features { expected: 3, .. })
    ));
}

tests_on! {
    every_backend: [
        a_queue_is_a_deque_of_its_capacity,
    ],
    one_of_each_kind: [
        the_pieces_make_the_queue_of_the_whole,
        a_key_lies_in_the_row_of_its_number,
        rows_without_a_key_are_no_negatives,
        gradients_end_at_the_queue,
        tensors_that_were_read_do_not_change,
        views_are_pushed_as_what_they_show,
        an_empty_queue_takes_on_a_dtype,
        what_does_not_fit_leaves_the_queue_as_it_was,
    ],
}

#[cfg(feature = "flex")]
#[test]
fn half_precision_keys_stay_what_they_are() {
    let device = Device::flex();
    for dtype in [DType::F16, DType::BF16] {
        let mut queue = NegativeQueueConfig::new(4, FEATURES).init(&device);
        let half = keys(0, 6, &device).cast(dtype);
        queue.push(half.clone());
        assert_eq!(queue.keys().dtype(), dtype);
        let expected = numbers(half.select(0, Tensor::from_ints([4, 5, 2, 3], &device)));
        assert_eq!(numbers(queue.keys()), expected);
    }
}

#[cfg(all(feature = "flex", feature = "ndarray"))]
#[test]
fn keys_on_another_device_are_refused() {
    let (flex, ndarray) = (Device::flex(), Device::ndarray());
    let mut queue = with_ids(4, &flex);
    let results = [
        queue.try_push_with_ids(keys(0, 2, &ndarray), ids(0, 2, &flex)),
        queue.try_push_with_ids(keys(0, 2, &flex), ids(0, 2, &ndarray)),
    ];
    for (result, tensor) in results.into_iter().zip(["keys", "ids"]) {
        let text = result.expect_err("on another device").to_string();
        assert!(text.contains(&format!("the {tensor} are on")), "{text}");
        assert!(text.contains("NdArray") && text.contains("Flex"), "{text}");
    }
    assert!(queue.is_empty());
}

#[cfg(feature = "flex")]
#[test]
#[should_panic(expected = "the keys have shape [1, 2], expected [1, 3]")]
fn a_push_panics_with_the_text_of_the_error() {
    let device = Device::flex();
    let mut queue = NegativeQueueConfig::new(4, FEATURES).init(&device);
    queue.push(Tensor::zeros([1, 2], &device));
}

#[cfg(feature = "flex")]
#[test]
fn sizes_out_of_range_are_named() {
    let too_many = i32::MAX as usize + 1;
    for (capacity, features, said) in [
        (0, 3, "`capacity` is 0, expected a number in 1..="),
        (3, 0, "`features` is 0"),
        (too_many, 3, "`capacity` is 2147483648"),
    ] {
        let result = NegativeQueueConfig::new(capacity, features).try_init(&Device::flex());
        let text = result.expect_err("no queue").to_string();
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn a_configuration_survives_its_json() {
    let config = NegativeQueueConfig::new(65_536, 128).with_ids(true);
    let json = serde_json::to_string(&config).expect("a configuration is serialisable");
    let read: NegativeQueueConfig = serde_json::from_str(&json).expect("what was written");
    assert_eq!(format!("{config:?}"), format!("{read:?}"));
    assert!(!NegativeQueueConfig::new(2, 3).ids);
}
