//! Parts of a batch on several devices give the same results as the whole batch on one.

use std::path::PathBuf;

use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataset::InMemDataset;
use burn::module::Param;
use burn::nn::{Linear, LinearConfig};
use burn::optim::SgdConfig;
use burn::tensor::{Device, Tensor};
use burn::train::{ExecutionStrategy, Learner, MultiDeviceOptim, SupervisedTraining};
use burn_cross_entropy::{CrossEntropyLoss, CrossEntropyLossConfig};
use distributed::data_parallel::{Part, PartBatcher, Summed};

use crate::{assert_close, floats, scores, targets, two_devices};

const FEATURES: usize = 4;
const CLASSES: usize = 5;
const ROWS: usize = 9;
/// The first row of the second device.
const CUT: usize = 4;
/// Targets: one row of the first part counts, and four rows of the second.
const TARGETS: [i64; ROWS] = [-100, 4, -100, -100, 0, 2, -100, 4, 1];

fn loss(device: &Device) -> CrossEntropyLoss {
    CrossEntropyLossConfig::new()
        .with_weight(Some(vec![0.5, 1.0, 2.0, 0.25, 1.5]))
        .with_z_loss(0.02)
        .with_label_smoothing(0.1)
        .init(device)
}

#[test]
fn gradients_of_two_devices_add_up_to_those_of_the_whole_batch() {
    let flex = Device::flex().autodiff();
    let weights = scores([FEATURES, CLASSES], &flex).require_grad();
    let logits = scores([ROWS, FEATURES], &flex).matmul(weights.clone());
    let all = targets(&TARGETS, &flex);
    let whole = loss(&flex).forward(logits, all.clone());
    let expected_loss = floats(whole.clone());
    let expected = floats(weights.grad(&whole.backward()).expect("a leaf"));
    let normalizer = loss(&flex).normalizer(all);

    let (mut value, mut sum) = (0.0, vec![0.0; expected.len()]);
    for (device, rows) in two_devices().into_iter().zip([0..CUT, CUT..ROWS]) {
        let weights = scores([FEATURES, CLASSES], &device).require_grad();
        let features = scores([ROWS, FEATURES], &device).slice([rows.clone()]);
        let share = loss(&device).forward_normalized(
            features.matmul(weights.clone()),
            targets(&TARGETS[rows], &device),
            normalizer.clone(),
        );
        value += floats(share.clone())[0];
        let part = floats(weights.grad(&share.backward()).expect("a leaf"));
        sum.iter_mut()
            .zip(part)
            .for_each(|(sum, part)| *sum += part);
    }
    assert_close(&[value], &expected_loss, 1e-6);
    assert_close(&sum, &expected, 1e-6);
}

/// The rows of a range, with the totals of all rows.
fn part(rows: std::ops::Range<usize>) -> Part {
    let plain = Device::flex();
    let features = floats(scores([ROWS, FEATURES], &plain));
    let normalizer = loss(&plain).normalizer(targets(&TARGETS, &plain));
    let number = |number: Tensor<1>| floats(number)[0];
    Part {
        features: features
            .chunks(FEATURES)
            .map(<[f32]>::to_vec)
            .collect::<Vec<_>>()[rows.clone()]
        .to_vec(),
        targets: TARGETS[rows].to_vec(),
        whole_batch: [
            number(normalizer.total_weight()),
            number(normalizer.counted_rows()),
        ],
    }
}

/// The weights after one step of burn-train.
fn trained(name: &str, strategy: ExecutionStrategy, parts: Vec<Part>) -> Vec<f32> {
    let device = strategy.main_device().clone();
    let linear = LinearConfig::new(FEATURES, CLASSES).init(&device);
    let model = Summed {
        linear: Linear {
            weight: Param::from_tensor(scores([FEATURES, CLASSES], &device)),
            ..linear
        },
        loss: loss(&device),
    };
    let model = Summed {
        linear: Linear {
            bias: None,
            ..model.linear
        },
        ..model
    };
    let loader = |parts: Vec<Part>| {
        DataLoaderBuilder::new(PartBatcher)
            .batch_size(1)
            .set_device(device.clone())
            .build(InMemDataset::new(parts))
    };
    let validated = loader(parts[..1].to_vec());
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let result = SupervisedTraining::new(directory, loader(parts), validated)
        .with_training_strategy(strategy.into())
        .with_application_logger(None)
        .num_epochs(1)
        .launch(Learner::new(model, SgdConfig::new().init(), 0.5));
    assert!(result.error.is_none(), "{:?}", result.error);
    floats(result.model.linear.weight.val())
}

#[test]
fn a_step_of_burn_train_on_two_devices_is_one_on_the_whole_batch() {
    let flex = Device::flex().autodiff();
    let single = ExecutionStrategy::single(flex.clone());
    let expected = trained("single", single, vec![part(0..ROWS)]);
    let start = floats(scores([FEATURES, CLASSES], &flex));
    let steps = expected
        .iter()
        .zip(&start)
        .map(|(after, before)| (after - before).abs());
    assert!(steps.fold(0.0, f32::max) > 0.05, "nothing was learned");

    let parts = || vec![part(0..CUT), part(CUT..ROWS)];
    let remote = two_devices().to_vec();
    let twice = vec![flex.clone(), flex];
    for (name, devices, optim) in [
        (
            "flex-main",
            twice.clone(),
            MultiDeviceOptim::OptimMainDevice,
        ),
        (
            "remote-main",
            remote.clone(),
            MultiDeviceOptim::OptimMainDevice,
        ),
        ("remote-sharded", remote, MultiDeviceOptim::OptimSharded),
    ] {
        let found = trained(name, ExecutionStrategy::multi(devices, optim), parts());
        assert_close(&found, &expected, 1e-6);
    }
}
