//! Trains programs in the shape of Burn's examples with `burn::nn`'s loss and with this crate's: `programs.rs` is
//! compiled twice, and all that differs is where it has the names of the loss from. The losses are the same step by step.
//!
//! | here | in Burn's repository (0.22) |
//! |---|---|
//! | [`programs::images`] | `mnist`, `guide`, `custom-image-dataset`, `custom-learning-strategy` |
//! | [`programs::loops`] | `custom-training-loop` |
//! | [`programs::classes_of_text`] | `text-classification` |
//! | [`programs::text`] | `text-generation` |
//! | [`programs::options`] | every option of `burn::nn::loss::CrossEntropyLossConfig` |
//!
//! Dropout is left out: its masks would differ with whatever else draws random numbers in the process.
#![cfg(feature = "flex")]
#![allow(clippy::duplicate_mod, reason = "the same code with two losses")]

#[allow(dead_code, reason = "the examples use all of it")]
#[path = "../../examples/common/digits.rs"]
mod digits;

mod data;

mod with_burn;
mod with_ours;

use burn::module::Module;

use with_burn::programs as theirs;
use with_ours::programs as ours;

/// Asserts that both trainings have the same losses, which fall.
#[track_caller]
fn assert_same(theirs: &[f32], ours: &[f32]) {
    assert_eq!(theirs.len(), ours.len());
    for (step, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
        let allowed = 1e-4 * theirs.abs().max(1.0);
        assert!(
            (theirs - ours).abs() <= allowed,
            "step {step}: {theirs} with burn::nn, {ours} with burn_cross_entropy"
        );
    }
    let (first, last) = (ours[0], ours[ours.len() - 1]);
    assert!(
        last < 0.9 * first,
        "{first} at the beginning, {last} at the end"
    );
}

#[test]
fn images() {
    let device = data::device();
    let batches = data::images(&device);
    // The weights that both trainings begin with.
    let record = theirs::images::Model::new(&device).into_record();
    assert_same(
        &theirs::images::train(record.clone(), &batches, &device),
        &ours::images::train(record, &batches, &device),
    );
}

#[test]
fn loops() {
    let device = data::device();
    let batches = data::images(&device);
    let record = theirs::loops::Model::new(&device).into_record();
    assert_same(
        &theirs::loops::train(record.clone(), &batches, &device),
        &ours::loops::train(record, &batches, &device),
    );
}

#[test]
fn classes_of_text() {
    let device = data::device();
    let batches = data::text(&device);
    let record = theirs::classes_of_text::Model::new(&device).into_record();
    assert_same(
        &theirs::classes_of_text::train(record.clone(), &batches, &device),
        &ours::classes_of_text::train(record, &batches, &device),
    );
}

#[test]
fn text() {
    let device = data::device();
    let batches = data::text(&device);
    let record = theirs::text::Model::new(&device).into_record();
    assert_same(
        &theirs::text::train(record.clone(), &batches, &device),
        &ours::text::train(record, &batches, &device),
    );
}

#[test]
fn options() {
    let device = data::device();
    let [theirs, ours] = [
        theirs::options::losses(&device),
        ours::options::losses(&device),
    ];
    for (option, (theirs, ours)) in theirs.iter().zip(&ours).enumerate() {
        assert!(
            (theirs - ours).abs() < 1e-6,
            "{option}: {theirs} and {ours}"
        );
    }
}
