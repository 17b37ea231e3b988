//! Shards, statistics and targets that do not fit each other are refused, in sentences.

use burn::tensor::{Device, Int, Tensor};
use burn_cross_entropy::{
    CrossEntropyError, CrossEntropyLossConfig, ShardStatistics, VocabularyShard,
};

use crate::common::backends::{is_host, tests_on};
use crate::common::run::{numbers, refusal};

#[track_caller]
fn assert_refused<T>(call: impl FnOnce() -> T, parts: &[&str]) {
    let message = refusal(call);
    for part in parts {
        assert!(message.contains(part), "{message}");
    }
}

#[track_caller]
fn assert_says<T: std::fmt::Debug>(result: Result<T, CrossEntropyError>, parts: &[&str]) {
    let message = result.expect_err("this cannot be computed").to_string();
    for part in parts {
        assert!(message.contains(part), "{message}");
    }
}

fn what_does_not_fit_is_said(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let shard = VocabularyShard::new(2..5, 7);
    let logits = || Tensor::<2>::zeros([4, 3], device);
    let targets = || Tensor::<1, Int>::zeros([4], device);
    let combined = loss.shard_statistics(logits(), targets(), &shard);

    assert_refused(
        || loss.shard_statistics(Tensor::<2>::zeros([4, 7], device), targets(), &shard),
        &[
            "logits of shape [4, 7] have 7 classes in dimension 1",
            "2..5 has 3",
        ],
    );
    assert_refused(
        || loss.shard_statistics(logits(), Tensor::<1, Int>::zeros([3], device), &shard),
        &["the target has shape [3]", "need [4]"],
    );
    assert_refused(
        || loss.forward_shard(logits(), logits(), &shard, &combined),
        &["is a distribution, expected a class index per row"],
    );
    let two_rows = Tensor::<2>::zeros([2, 3], device);
    assert_refused(
        || {
            loss.forward_shard(
                two_rows,
                Tensor::<1, Int>::zeros([2], device),
                &shard,
                &combined,
            )
        },
        &["have shape [3, 4], expected [3, 2]: 3 numbers for each row"],
    );
    let smooth = CrossEntropyLossConfig::new()
        .with_label_smoothing(0.1)
        .init(device);
    assert_refused(
        || smooth.forward_shard(logits(), targets(), &shard, &combined),
        &["have shape [3, 4], expected [6, 4]"],
    );
    let smooth = smooth.shard_statistics(logits(), targets(), &shard);
    assert_says(
        combined.clone().try_combine(smooth),
        &["have shape [6, 4], expected [3, 4]"],
    );
    let foreign = || ShardStatistics::from_tensor(Tensor::zeros([2, 4], device), &loss);
    assert_says(foreign().try_combine(foreign()), &["have shape [2, 4]"]);

    let weighed = CrossEntropyLossConfig::new()
        .with_weight(Some(vec![1.0; 3]))
        .init(device);
    assert_refused(
        || weighed.shard_statistics(logits(), targets(), &shard),
        &["`weight` has 3 entries, but the vocabulary has 7 classes"],
    );
    let probabilities = CrossEntropyLossConfig::new()
        .with_logits(false)
        .init(device);
    assert_refused(
        || probabilities.shard_statistics(logits(), targets(), &shard),
        &["`logits` is false", "give logits"],
    );
    assert_refused(
        || {
            loss.forward_shard_normalized(
                logits(),
                targets(),
                &shard,
                &combined,
                Tensor::<1>::zeros([2], device),
            )
        },
        &["the normalizer has 2 elements, expected 1"],
    );
}

fn a_target_out_of_the_vocabulary_is_an_error_or_nan(device: &Device) {
    let loss = CrossEntropyLossConfig::new().init(device);
    let shard = VocabularyShard::new(0..3, 7);
    let logits = || Tensor::<2>::zeros([2, 3], device);
    let call = |target: i64| {
        let targets = || Tensor::<1, Int>::from_ints([target, 0], device);
        let statistics = loss.shard_statistics(logits(), targets(), &shard);
        numbers(loss.forward_shard(logits(), targets(), &shard, &statistics))[0]
    };
    // Class 6 belongs to another shard, and -100 is ignored.
    assert!(call(6).is_finite() && call(-100).is_finite());
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| call(7)));
    if is_host(device) {
        let text = caught.expect_err("7 is no class");
        let text = text.downcast_ref::<String>().expect("a sentence");
        assert!(text.contains("the target of row 0 is 7"), "{text}");
    } else {
        assert!(caught.expect("no wait, no error").is_nan());
    }
}

tests_on! {
    one_of_each_kind: [
        what_does_not_fit_is_said,
        a_target_out_of_the_vocabulary_is_an_error_or_nan,
    ],
}

#[test]
fn a_shard_is_a_part_of_the_classes_that_is_not_empty() {
    for (range, said) in [
        (3..3, "the vocabulary shard 3..3 is no part of 7 classes"),
        (5..8, "the vocabulary shard 5..8 is no part of 7 classes"),
    ] {
        assert_says(VocabularyShard::try_new(range, 7), &[said]);
    }
    for shards in [0, 8] {
        let said = format!("7 classes cannot be split into {shards} vocabulary shards");
        assert_says(VocabularyShard::try_split(7, shards), &[&said]);
    }
    let nothing = || ShardStatistics::combined(std::iter::empty());
    let text = std::panic::catch_unwind(nothing).expect_err("nothing to combine");
    let text = text.downcast_ref::<String>().expect("a sentence");
    assert!(
        text.contains("there are no shard statistics to combine"),
        "{text}"
    );
}

#[cfg(feature = "flex")]
#[test]
fn a_bound_loss_refuses_the_shards_of_another_backend() {
    let loss = CrossEntropyLossConfig::new().init_for::<burn::backend::Flex>(&Device::flex());
    let tracked = Device::flex().autodiff();
    let shard = VocabularyShard::new(0..3, 7);
    let logits = Tensor::<2>::zeros([2, 3], &tracked);
    let targets = Tensor::<1, Int>::zeros([2], &tracked);
    let message = refusal(|| loss.shard_statistics(logits, targets, &shard));
    assert!(message.contains("bound to the backend Flex"), "{message}");
}
