//! Small inputs from public bug reports of other losses, with the values that are right by hand.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::contrastive::{InBatch, Momentum};
use burn_cross_entropy::{
    CrossEntropyLoss, CrossEntropyLossConfig, InfoNceLossConfig, LinearCrossEntropyLossConfig,
    NegativeQueueConfig, ProjectedLogits, ShardStatistics, VocabularyShard, moco_logits,
    momentum_update,
};

use crate::common::backends::tests_on;
use crate::common::run::numbers;
use crate::common::tolerance::{assert_numbers, of_projection};

const MASK: f64 = f64::NEG_INFINITY;

fn tensor<const D: usize>(
    values: &[f64],
    shape: [usize; D],
    dtype: DType,
    device: &Device,
) -> Tensor<D> {
    let data = TensorData::new(values.to_vec(), shape);
    Tensor::from_data(data, (device, dtype))
}

fn logits(values: &[f64], device: &Device) -> Tensor<2> {
    tensor(values, [1, values.len()], DType::F32, device).require_grad()
}

fn class(class: i64, device: &Device) -> Tensor<1, Int> {
    Tensor::from_ints([class], device)
}

fn classes_of(tensor: Tensor<1, Int>) -> Vec<i64> {
    tensor.into_data().iter::<i64>().collect()
}

fn mask_of(tensor: Tensor<1, burn::tensor::Bool>) -> Vec<bool> {
    tensor.into_data().iter::<bool>().collect()
}

#[track_caller]
fn assert_near(found: f64, right: f64, tolerance: f64) {
    let near = (found - right).abs() <= tolerance * right.abs().max(1.0);
    let same = found == right || (found.is_nan() && right.is_nan());
    assert!(near || same, "{found} is not {right}");
}

/// A row with NaN or plus infinity has no distribution, nor has one of masks alone: the target is last, and is
/// not among any top `k`.
fn a_row_without_a_distribution_is_never_correct(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let (nan, infinite) = (f64::NAN, f64::INFINITY);
    for row in [
        [nan, nan, nan],
        [5.0, nan, 0.0],
        [infinite, 0.0, 0.0],
        [MASK, MASK, MASK],
    ] {
        let distribution = tensor(&[1.0, 0.0, 0.0], [1, 3], DType::F32, device);
        for output in [
            loss.forward_with_output(logits(&row, device), class(0, device)),
            loss.forward_with_output(logits(&row, device), distribution),
            loss.forward_with_entropy(projected(&row, device), class(0, device)),
        ] {
            assert_eq!(mask_of(output.correct()), [false], "{row:?}");
            assert_eq!(mask_of(output.in_top(3)), [false], "{row:?}");
            assert_eq!(classes_of(output.target_rank), [2], "{row:?}");
        }
    }
    let only_class = loss.forward_with_output(logits(&[nan], device), class(0, device));
    assert_eq!(mask_of(only_class.correct()), [false]);
    let probabilities = CrossEntropyLossConfig::new()
        .with_logits(false)
        .init(device);
    let output = probabilities.forward_with_output(logits(&[nan, 0.5], device), class(0, device));
    assert_eq!(mask_of(output.correct()), [false]);
    assert_eq!(classes_of(output.target_rank), [1]);
}

/// Logits by a projection of one feature: hidden state 1 and the logits as the weight.
fn projected(row: &[f64], device: &Device) -> ProjectedLogits<2> {
    let hidden = tensor(&[1.0], [1, 1], DType::F32, device);
    let weight = tensor(row, [1, row.len()], DType::F32, device);
    ProjectedLogits::new(hidden, weight)
}

/// Of equal logits the first class is predicted, as by argmax.
fn labels_win_ties_by_their_number(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let output = loss.forward_with_output(logits(&[2.0, 2.0, 1.0], device), class(0, device));
    assert_eq!(mask_of(output.correct()), [true]);
    let output = loss.forward_with_output(logits(&[2.0, 2.0, 1.0], device), class(1, device));
    assert_eq!(classes_of(output.target_rank), [1]);
    assert_eq!(classes_of(output.predicted), [0]);
}

/// The target of a distribution is its largest class, of several the first, in every layout.
fn equal_shares_have_the_first_class(device: &Device) {
    let loss = CrossEntropyLossConfig::new().with_class_dim(2).init(device);
    let shape = [1, 38, 2, 2];
    let shares = || Tensor::<4>::full(shape, 0.5, device);
    let first = Tensor::<4>::full([1, 38, 1, 2], 1.0, device);
    let second = Tensor::<4>::zeros([1, 38, 1, 2], device);
    for (logits, rank) in [([&first, &second], 0), ([&second, &first], 1)] {
        let logits = Tensor::cat(logits.map(Tensor::clone).to_vec(), 2);
        let output = loss.forward_with_output(logits, shares());
        let ranks: Tensor<1, Int> = output.target_rank.flatten(0, 2);
        assert_eq!(classes_of(ranks), [rank; 76]);
    }
}

/// An encoder that gives all images one feature vector is never right: the positive loses every tie, also a tie
/// but for the rounding of the products.
fn a_collapsed_encoder_is_never_right(device: &Device) {
    let same = |rows: usize, features: usize| {
        let row = (0..features).map(|at| 0.1 + 0.37 * (at as f64).sin());
        let row: Vec<f64> = row.collect();
        tensor(&row.repeat(rows), [rows, features], DType::F32, device)
    };
    for (features, normalize) in [(2, true), (37, true), (64, false)] {
        let loss = InfoNceLossConfig::new()
            .with_normalize(normalize)
            .with_temperature(0.1)
            .init(device);
        let (query, positive) = (same(3, features), same(3, features));
        let output = loss.forward_with_output(query, positive, same(4, features));
        let allowed = of_projection(DType::F32, device).loss;
        assert_numbers("loss", &numbers(output.loss.clone()), &[5f64.ln()], allowed);
        assert_eq!(mask_of(output.correct()), [false; 3], "{features} features");
        assert_eq!(classes_of(output.target_rank.clone()), [4; 3]);
        assert!(classes_of(output.predicted).iter().all(|class| *class != 0));
    }
    // Keys that are at right angles to the query: their products are near 0, their rounding is not.
    let features = 67;
    let query: Vec<f64> = (0..features).map(|at| (1.3 * at as f64).sin()).collect();
    let key: Vec<f64> = (0..features).map(|at| (0.7 * at as f64).cos()).collect();
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let along = product(&query, &key) / product(&query, &query);
    let key: Vec<f64> = key.iter().zip(&query).map(|(k, q)| k - along * q).collect();
    let opposite: Vec<f64> = query.iter().map(|number| -number).collect();
    let rows = |row: &[f64], rows: usize| {
        let values = row.repeat(rows);
        let shape = [values.len() / features, features];
        tensor(&values, shape, DType::F32, device)
    };
    let loss = InfoNceLossConfig::new().init(device);
    // One of the two directions would win by chance.
    let queries = rows(&[query, opposite].concat(), 1);
    let output = loss.forward_with_output(queries, rows(&key, 2), rows(&key, 4));
    assert_eq!(classes_of(output.target_rank), [4; 2]);
    // A positive that is better by more than the rounding wins, and a worse one loses.
    let loss = InfoNceLossConfig::new().with_normalize(false).init(device);
    let row = |values: &[f64]| tensor(values, [values.len() / 2, 2], DType::F32, device);
    let keys = row(&[0.9, 0.0, -0.9, 0.1]);
    let output = loss.forward_with_output(row(&[1.0, 0.0]), row(&[0.91, 0.0]), keys.clone());
    assert_eq!(classes_of(output.target_rank), [0]);
    assert_eq!(classes_of(output.predicted), [0]);
    let output = loss.forward_with_output(row(&[1.0, 0.0]), row(&[0.89, 0.0]), keys);
    assert_eq!(classes_of(output.target_rank), [1]);
    assert_eq!(classes_of(output.predicted), [1]);
}

/// Infinite logits are masks, and a softcap leaves masks as they are.
fn a_softcap_leaves_masks(device: &Device) {
    for scale in [1.0, 0.5] {
        let loss = CrossEntropyLossConfig::new()
            .with_logit_scale(scale)
            .with_logit_softcap(Some(1.0))
            .init(device);
        let given = logits(&[0.0, MASK], device);
        let value = loss.forward(given.clone(), class(0, device));
        assert_eq!(numbers(value.clone()), [0.0]);
        assert_eq!(numbers(given.grad(&value.backward()).unwrap()), [0.0, 0.0]);
        let masked = loss.forward(logits(&[MASK, MASK], device), class(0, device));
        assert!(numbers(masked)[0].is_nan());
        let infinite = loss.forward(logits(&[f64::INFINITY, 0.0], device), class(0, device));
        assert!(numbers(infinite)[0].is_nan());
        let value = loss.forward(projected(&[0.0, MASK], device), class(0, device));
        assert_eq!(numbers(value), [0.0]);
        let output = loss.forward_with_entropy(logits(&[0.0, MASK], device), class(0, device));
        assert_eq!(numbers(output.entropy.unwrap()), [0.0]);
        assert_eq!(numbers(of_shards(&loss, &[0.0, MASK], 0, device)), [0.0]);
    }
}

/// The bias of a padded vocabulary masks its entries, with a softcap too.
fn a_masked_bias_stays_a_mask_under_a_softcap(device: &Device) {
    let loss = LinearCrossEntropyLossConfig::new()
        .with_loss(CrossEntropyLossConfig::new().with_logit_softcap(Some(1.0)))
        .init(device);
    let hidden = tensor(&[1.0], [1, 1], DType::F32, device);
    let weight = tensor(&[0.0, 0.0], [1, 2], DType::F32, device);
    let bias = tensor(&[0.0, MASK], [2], DType::F32, device);
    let value = loss.forward(hidden, weight, Some(bias), class(0, device));
    assert_eq!(numbers(value), [0.0]);
}

/// Loss of a row whose classes are divided among two shards.
fn of_shards(loss: &CrossEntropyLoss, row: &[f64], target: i64, device: &Device) -> Tensor<1> {
    let shards = VocabularyShard::split(row.len(), 2);
    let part = |shard: &VocabularyShard| logits(&row[shard.range()], device);
    let statistics = shards
        .iter()
        .map(|shard| loss.shard_statistics(part(shard), class(target, device), shard));
    let combined = ShardStatistics::combined(statistics);
    loss.forward_shard(
        part(&shards[0]),
        class(target, device),
        &shards[0],
        &combined,
    )
}

/// Statistics of another scale are refused, and a shard of masks or of weightless classes spoils none.
fn shards_of_different_scales_are_refused(device: &Device) {
    let [one, half] = [1.0, 0.5].map(|scale| {
        CrossEntropyLossConfig::new()
            .with_logit_scale(scale)
            .init(device)
    });
    let shards = VocabularyShard::split(4, 2);
    let of = |loss: &CrossEntropyLoss, shard: &VocabularyShard| {
        loss.shard_statistics(logits(&[1.0, 2.0], device), class(0, device), shard)
    };
    let error = of(&one, &shards[0]).try_combine(of(&half, &shards[1]));
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("logit scale is 0.5, expected 1")
    );
    let weightless = CrossEntropyLossConfig::new()
        .with_weight(Some(vec![1.0, 1.0, 0.0, 0.0]))
        .with_label_smoothing(0.1)
        .init(device);
    let found = numbers(of_shards(
        &weightless,
        &[3e38, 3e38, -3e38, -3e38],
        0,
        device,
    ))[0];
    // The two classes with a weight have 0.9 and 0.05 of the shares.
    assert_near(found, 0.95 * 2f64.ln(), 1e-6);
}

/// Everything behind the features is in f32, so that equal similarities are equal logits.
fn similarities_of_half_precision_are_in_f32(device: &Device) {
    for dtype in [DType::F16, DType::BF16] {
        if !device.supports_dtype(dtype) {
            continue;
        }
        // Numbers that bf16 holds.
        let query = tensor(&[0.6015625, 0.80078125], [1, 2], dtype, device);
        let key = tensor(&[0.80078125, 0.6015625], [1, 2], dtype, device);
        for learnable in [false, true] {
            let loss = InfoNceLossConfig::new()
                .with_temperature(0.01)
                .with_learnable(learnable)
                .init(device);
            let value = loss.forward(query.clone(), key.clone(), key.clone());
            assert_near(numbers(value)[0], 2f64.ln(), 1e-5);
        }
        let logits = moco_logits(query.clone(), key.clone(), key.clone(), 0.01);
        assert_eq!(logits.dtype(), DType::F32);
        let found = numbers(logits);
        assert_near(found[0], found[1], 1e-6);
        let gradient = query.clone().require_grad();
        let in_batch = InfoNceLossConfig::new()
            .with_in_batch(InBatch::OneSided)
            .init(device);
        let value = in_batch.forward_in_batch(gradient.clone(), key.clone());
        let gradient = gradient.grad(&value.backward()).unwrap();
        assert_eq!(gradient.dtype(), dtype);
    }
}

/// The numbers of the configuration are in f64: a loss of f64 has all digits.
fn options_of_a_double_loss_are_doubles(device: &Device) {
    let config = CrossEntropyLossConfig::new();
    let given = || tensor(&[2.0, 0.0], [1, 2], DType::F64, device);
    let value = |config: CrossEntropyLossConfig| {
        numbers(config.init(device).forward(given(), class(0, device)))[0]
    };
    let plain = |x: f64| (-x).exp().ln_1p();
    let tolerance = 1e-14;
    let smoothed = value(config.clone().with_label_smoothing(0.1));
    assert_near(smoothed, 0.226928011042972, tolerance);
    let scaled = value(config.clone().with_logit_scale(0.1));
    assert_near(scaled, plain(0.2), tolerance);
    let capped = value(config.clone().with_logit_softcap(Some(0.7)));
    assert_near(capped, plain(0.7 * (2.0f64 / 0.7).tanh()), tolerance);
    let lse = 2.0 + plain(2.0);
    let penalised = value(config.with_z_loss(0.1));
    assert_near(penalised, plain(2.0) + 0.1 * lse * lse, tolerance);
    let row = || tensor(&[1.0, 0.0], [1, 2], DType::F64, device);
    let other = tensor(&[0.0, 1.0], [1, 2], DType::F64, device);
    let loss = InfoNceLossConfig::new().with_temperature(0.3).init(device);
    let found = numbers(loss.forward(row(), row(), other.clone()))[0];
    assert_near(found, plain(1.0 / 0.3), tolerance);
    let found = numbers(moco_logits(row(), row(), other, 0.3));
    assert_near(found[0], 1.0 / 0.3, tolerance);
}

/// A loss is infinite only where it is too large for its dtype, whatever a step on the way to it is.
fn nothing_overflows_but_the_result(device: &Device) {
    let with_scale = |scale: f64| {
        CrossEntropyLossConfig::new()
            .with_logit_scale(scale)
            .init(device)
    };
    let small = with_scale(0.1);
    let rows: [(&CrossEntropyLoss, &[f64], i64, f64); 2] = [
        (&small, &[3e38, -3e38], 1, 6e37),
        (&with_scale(2f64.powi(126)), &[2.0, 4.0, 3.0], 1, 0.0),
    ];
    for (loss, row, target, right) in rows {
        let target_of = || class(target, device);
        assert_near(
            numbers(loss.forward(logits(row, device), target_of()))[0],
            right,
            1e-6,
        );
        let value = numbers(loss.forward(projected(row, device), target_of()))[0];
        assert_near(value, right, 1e-6);
        assert_near(
            numbers(of_shards(loss, row, target, device))[0],
            right,
            1e-6,
        );
        let mut shares = vec![0.0; row.len()];
        shares[target as usize] = 1.0;
        let distribution = tensor(&shares, [1, row.len()], DType::F32, device);
        let given = logits(row, device);
        let value = loss.forward(given.clone(), distribution);
        assert_near(numbers(value.clone())[0], right, 1e-6);
        let gradient = numbers(given.grad(&value.backward()).unwrap());
        assert!(
            gradient.iter().all(|entry| entry.is_finite()),
            "{gradient:?}"
        );
        let output = loss.forward_with_entropy(logits(row, device), target_of());
        assert_near(-numbers(output.log_prob)[0], right, 1e-6);
        assert_eq!(numbers(output.entropy.unwrap()), [0.0]);
    }
    let huge = CrossEntropyLossConfig::new().with_z_loss(1e-4).init(device);
    let value = numbers(huge.forward(logits(&[2e19, 0.0], device), class(0, device)))[0];
    assert_near(value, 4e34, 1e-6);
    let equal = CrossEntropyLossConfig::new().init(device);
    let value = numbers(equal.forward(logits(&[1e8, 1e8], device), class(0, device)))[0];
    assert_near(value, 2f64.ln(), 1e-6);
    let tiny = [1e-40, 3e-42];
    let value = numbers(equal.forward(logits(&tiny, device), class(1, device)))[0];
    assert_near(value, 2f64.ln(), 1e-6);
}

fn losses_that_were_right_stay_right(device: &Device) {
    let smoothed = CrossEntropyLossConfig::new()
        .with_label_smoothing(0.1)
        .init(device);
    let row = [2.0, 1.0, 0.0, -1.0, 0.5];
    let value = numbers(smoothed.forward(logits(&row, device), class(0, device)))[0];
    assert_near(value, 0.7244379, 2e-6);
    let capped = CrossEntropyLossConfig::new()
        .with_logit_softcap(Some(30.0))
        .init(device);
    let value = numbers(capped.forward(logits(&[124.0, 0.0], device), class(1, device)))[0];
    assert_near(value, 29.98461, 1e-6);
}

/// Keys that are not finite stay out of a queue, with their ids.
fn a_queue_of_finite_keys_refuses_others(device: &Device) {
    let config = NegativeQueueConfig::new(3, 2).with_ids(true);
    let keys = |values: [f64; 4]| tensor(&values, [2, 2], DType::F32, device);
    let ids = |values: [i64; 2]| Tensor::<1, Int>::from_ints(values, device);
    for bad in [f64::NAN, f64::INFINITY, MASK] {
        let mut queue = config.clone().with_finite_only(true).init(device);
        queue.push_with_ids(keys([1.0, 1.0, bad, 2.0]), ids([7, 8]));
        queue.push_with_ids(keys([3.0, 3.0, 4.0, bad]), ids([9, 10]));
        assert_eq!(numbers(queue.keys()), [1.0, 1.0, 0.0, 0.0, 3.0, 3.0]);
        assert_eq!(classes_of(queue.ids().unwrap()), [7, 0, 9]);
        assert_eq!((queue.len(), queue.position()), (3, 1));
        // A refused key does not bring back what the queue forgot.
        queue.clear();
        queue.push_with_ids(keys([bad, 1.0, 5.0, 5.0]), ids([1, 2]));
        assert_eq!(numbers(queue.keys()), [0.0, 0.0, 5.0, 5.0]);
        assert_eq!(classes_of(queue.ids().unwrap()), [0, 2]);
        let none = Tensor::zeros([0, 2], device);
        queue.push_with_ids(none, Tensor::zeros([0], device));
        assert_eq!(queue.len(), 2);
        let mut open = config.init(device);
        open.push_with_ids(keys([1.0, 1.0, bad, 2.0]), ids([7, 8]));
        assert!(!numbers(open.keys())[2].is_finite());
    }
}

/// The same without ids, in half precision, and for more keys than the queue has rows, of which the last stay.
fn a_queue_of_finite_keys_takes_any_batch(device: &Device) {
    let config = NegativeQueueConfig::new(3, 2).with_finite_only(true);
    for dtype in [DType::F32, DType::F16] {
        if !device.supports_dtype(dtype) {
            continue;
        }
        for bad in [f64::NAN, f64::INFINITY, MASK] {
            let keys = |values: &[f64]| tensor(values, [values.len() / 2, 2], dtype, device);
            let mut queue = config.init(device);
            queue.push(keys(&[1.0, 1.0, bad, 2.0]));
            assert_eq!(numbers(queue.keys()), [1.0, 1.0, 0.0, 0.0]);
            queue.push(keys(&[
                5.0, bad, 6.0, 6.0, bad, bad, 8.0, 8.0, 9.0, 9.0, bad, 0.0,
            ]));
            // The last of all is refused, and its row keeps what it held.
            assert_eq!(numbers(queue.keys()), [9.0, 9.0, 0.0, 0.0, 8.0, 8.0]);
            assert_eq!(queue.keys().dtype(), dtype);
        }
    }
}

/// Elements that are not finite stay out of a target, and the others move.
fn a_target_of_finite_weights_refuses_others(device: &Device) {
    use burn::module::{Module, Param};
    #[derive(Module, Debug)]
    struct Weights {
        weights: Param<Tensor<1>>,
    }
    let module = |values: &[f64]| Weights {
        weights: Param::from_tensor(tensor(values, [values.len()], DType::F32, device)),
    };
    let online = module(&[3.0, f64::NAN, f64::INFINITY, MASK]);
    for (momentum, moved) in [(0.5, 2.0), (0.0, 3.0)] {
        let target = module(&[1.0, 1.0, 1.0, 1.0]);
        let momentum = Momentum::new(momentum).with_finite_only(true);
        let target = momentum_update(&online, target, momentum);
        assert_eq!(numbers(target.weights.val()), [moved, 1.0, 1.0, 1.0]);
    }
    // A step may overflow between two finite numbers.
    let momentum = Momentum::new(0.5).with_finite_only(true);
    let target = momentum_update(&module(&[3e38]), module(&[-3e38]), momentum);
    assert!(numbers(target.weights.val())[0].is_finite());
    let target = momentum_update(&online, module(&[1.0, 1.0, 1.0, 1.0]), 0.5);
    assert!(numbers(target.weights.val())[1].is_nan());
}

/// The log-probability of a row has the same bits alone, in a batch, and in chunks of any number of rows.
fn a_row_alone_has_the_bits_of_the_batch(device: &Device) {
    const ROWS: usize = 64;
    const FEATURES: usize = 19;
    const CLASSES: usize = 83;
    let random = |rows: usize, columns: usize, seed: f64| {
        let number = |at: usize| ((at as f64 + seed) * 12.9898).sin() * 3.0;
        let values: Vec<f64> = (0..rows * columns).map(number).collect();
        tensor(&values, [rows, columns], DType::F32, device)
    };
    let (hidden, weight) = (random(ROWS, FEATURES, 0.3), random(FEATURES, CLASSES, 0.7));
    let targets: Vec<i64> = (0..ROWS as i64)
        .map(|row| row * 7 % CLASSES as i64)
        .collect();
    let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [ROWS]), device);
    let loss = CrossEntropyLossConfig::new().init(device);
    let chunked =
        |chunk| ProjectedLogits::new(hidden.clone(), weight.clone()).with_chunk_rows(chunk);
    let whole = numbers(loss.log_prob(chunked(ROWS), targets.clone()));
    for chunk in [1, 7] {
        assert_eq!(
            numbers(loss.log_prob(chunked(chunk), targets.clone())),
            whole
        );
    }
    for (row, right) in whole.iter().enumerate() {
        let hidden = hidden.clone().slice([row..row + 1, 0..FEATURES]);
        let target = targets.clone().slice(row..row + 1);
        let alone = loss.log_prob(ProjectedLogits::new(hidden, weight.clone()), target);
        assert_eq!(numbers(alone), [*right], "row {row}");
    }
    let logits = random(ROWS, CLASSES, 0.1);
    let whole = numbers(loss.log_prob(logits.clone(), targets.clone()));
    for (row, right) in whole.iter().enumerate() {
        let alone = logits.clone().slice([row..row + 1, 0..CLASSES]);
        let target = targets.clone().slice(row..row + 1);
        assert_eq!(numbers(loss.log_prob(alone, target)), [*right], "row {row}");
    }
}

tests_on! {
    every_backend: [
        a_row_without_a_distribution_is_never_correct,
        labels_win_ties_by_their_number,
        equal_shares_have_the_first_class,
        a_collapsed_encoder_is_never_right,
        a_softcap_leaves_masks,
        a_masked_bias_stays_a_mask_under_a_softcap,
        nothing_overflows_but_the_result,
        losses_that_were_right_stay_right,
        a_queue_of_finite_keys_refuses_others,
        a_queue_of_finite_keys_takes_any_batch,
        shards_of_different_scales_are_refused,
        a_target_of_finite_weights_refuses_others,
    ],
    half: [similarities_of_half_precision_are_in_f32],
    f64: [options_of_a_double_loss_are_doubles],
    host: [a_row_alone_has_the_bits_of_the_batch],
}
