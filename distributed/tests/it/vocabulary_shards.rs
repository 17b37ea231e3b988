//! A vocabulary on two devices gives the same results as on one.

use burn::tensor::{Device, Tensor};
use burn_cross_entropy::{CrossEntropyLossConfig, ShardStatistics, VocabularyShard};
use distributed::ShardedHead;

use crate::{TWO_RESULTS, assert_close, floats, scores, targets, two_devices};

const HIDDEN: usize = 6;
const CLASSES: usize = 11;
const TARGETS: [i64; 7] = [10, 0, -100, 6, 5, -100, 3];

fn configs() -> Vec<CrossEntropyLossConfig> {
    let weights = (0..CLASSES)
        .map(|class| (class % 4) as f32 * 0.75)
        .collect();
    vec![
        CrossEntropyLossConfig::new(),
        CrossEntropyLossConfig::new()
            .with_weight(Some(weights))
            .with_label_smoothing(0.1)
            .with_z_loss(0.01)
            .with_logit_scale(0.7)
            .with_logit_softcap(Some(5.0)),
    ]
}

/// Logits with a confident row, and with an ignored row that holds NaN.
fn logits(device: &Device) -> Tensor<2> {
    let logits = scores([TARGETS.len(), CLASSES], device);
    let confident = Tensor::full([1, 1], 20.0, device);
    let nan = Tensor::full([1, 2], f32::NAN, device);
    logits
        .slice_assign([3..4, 6..7], confident)
        .slice_assign([2..3, 4..6], nan)
}

#[test]
fn shards_on_two_devices_have_the_loss_and_the_gradients_of_the_whole() {
    let flex = Device::flex().autodiff();
    for config in configs() {
        let whole = logits(&flex).detach().require_grad();
        let value = config
            .init(&flex)
            .forward(whole.clone(), targets(&TARGETS, &flex));
        let expected_loss = floats(value.clone());
        let gradient = whole.grad(&(value * -1.75).backward()).expect("a leaf");

        let shards = [
            VocabularyShard::new(0..5, CLASSES),
            VocabularyShard::new(5..11, CLASSES),
        ];
        let devices = two_devices();
        let parts: Vec<Tensor<2>> = (shards.iter().zip(&devices))
            .map(|(shard, device)| {
                let part = logits(&flex).slice([0..TARGETS.len(), shard.range()]);
                Tensor::from_data(part.into_data(), device).require_grad()
            })
            .collect();
        let losses = devices.each_ref().map(|device| config.init(device));
        let statistics = [0, 1].map(|at| {
            let targets = targets(&TARGETS, &devices[at]);
            losses[at].shard_statistics(parts[at].clone(), targets, &shards[at])
        });
        for at in [0, 1] {
            // Each device combines the statistics for itself, in the same order.
            let received =
                (statistics.iter().cloned()).map(|statistics| statistics.to_device(&devices[at]));
            let combined = ShardStatistics::combined(received);
            let targets = targets(&TARGETS, &devices[at]);
            let value =
                losses[at].forward_shard(parts[at].clone(), targets, &shards[at], &combined);
            assert_eq!(value.device(), devices[at]);
            assert_close(&floats(value.clone()), &expected_loss, 2e-6);
            let found = parts[at].grad(&(value * -1.75).backward()).expect("a leaf");
            let expected = gradient
                .clone()
                .slice([0..TARGETS.len(), shards[at].range()]);
            let (found, expected) = (floats(found), floats(expected));
            let classes = shards[at].range().len();
            let rows = found.chunks(classes).zip(expected.chunks(classes));
            for ((found, expected), target) in rows.zip(TARGETS) {
                if target < 0 {
                    assert!(found.iter().all(|entry| *entry == 0.0), "{found:?}");
                } else {
                    assert_close(found, expected, TWO_RESULTS);
                }
            }
        }
    }
}

#[test]
fn one_backward_runs_through_the_head_on_two_devices() {
    let flex = Device::flex().autodiff();
    let states = |device: &Device| scores([TARGETS.len(), HIDDEN], device).require_grad();
    for config in configs() {
        let hidden = states(&flex);
        let weights = scores([HIDDEN, CLASSES], &flex).require_grad();
        let logits = hidden.clone().matmul(weights.clone());
        let value = config.init(&flex).forward(logits, targets(&TARGETS, &flex));
        let expected_loss = floats(value.clone());
        let gradients = value.backward();
        let for_hidden = floats(hidden.grad(&gradients).expect("a leaf"));
        let for_weights = weights.grad(&gradients).expect("a leaf");

        let devices = two_devices();
        let whole = scores([HIDDEN, CLASSES], &flex);
        let head = ShardedHead::new(whole, config.init(&devices[0]), &devices);
        let hidden = states(&devices[0]);
        let objective = head.forward(hidden.clone(), targets(&TARGETS, &devices[0]));
        assert_close(&floats(objective.loss.clone()), &expected_loss, 2e-6);
        let gradients = objective.loss.backward();
        assert_close(
            &floats(hidden.grad(&gradients).expect("a leaf")),
            &for_hidden,
            TWO_RESULTS,
        );
        for (part, range) in head.weights.iter().zip([0..6, 6..11]) {
            let found = part.val().grad(&gradients).expect("a leaf");
            let expected = for_weights.clone().slice([0..HIDDEN, range]);
            assert_close(&floats(found), &floats(expected), TWO_RESULTS);
        }
    }
}
