//! A loss whose logits a projection makes holds the logits of one chunk, however many rows there are.

use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_cross_entropy::{
    CrossEntropyLossConfig, InfoNceLoss, InfoNceLossConfig, LinearCrossEntropyLoss,
    LinearCrossEntropyLossConfig, ProjectedLogits, SparseDistribution, TeacherLogits,
};

use super::alone;
use super::counting::count;

const FEATURES: usize = 4;
const CLASSES: usize = 500;
const CHUNK: usize = 128 << 10;
/// Bytes that the matrix products may lay out for their own use. It depends on the registers that they fill.
const OF_PRODUCTS: usize = 192 << 10;
/// Bytes per row of the tensors with one number for each row: the loss and its upstream gradient without
/// reduction, and the places of the rows that are kept where some are ignored.
const OF_ROW: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Reduced,
    PerRow,
    Untracked,
}

/// The most bytes at one time, beyond those before the call and the gradients.
fn beyond_gradients(rows: usize, ignored: bool, form: Form, device: &Device) -> usize {
    let device = match form {
        Form::Untracked => device.clone().without_autodiff(),
        _ => device.clone(),
    };
    let loss: LinearCrossEntropyLoss = LinearCrossEntropyLossConfig::new()
        .with_chunk_bytes(Some(CHUNK))
        .init(&device);
    let random = |shape| Tensor::<2>::random(shape, Distribution::Default, &device);
    let (input, weight) = (random([rows, FEATURES]), random([FEATURES, CLASSES]));
    let (input, weight) = match form {
        Form::Untracked => (input, weight),
        _ => (input.require_grad(), weight.require_grad()),
    };
    let targets =
        Tensor::<1, Int>::arange(0..rows as i64, &device).remainder_scalar(CLASSES as i64);
    let targets = match ignored {
        true => targets
            .clone()
            .mask_fill(targets.clone().remainder_scalar(3).equal_elem(1), -100),
        false => targets,
    };
    let run = || {
        let (input, weight, targets) = (input.clone(), weight.clone(), targets.clone());
        match form {
            Form::Untracked => (loss.forward(input, weight, None, targets), None),
            Form::Reduced => {
                let value = loss.forward(input, weight, None, targets);
                (value.clone(), Some(value.backward()))
            }
            Form::PerRow => {
                let losses = loss.forward_no_reduction(input, weight, None, targets);
                let value = losses.mean();
                (value.clone(), Some(value.backward()))
            }
        }
    };
    // The first call leaves threads and other things behind.
    drop(run());
    let (_, bytes) = count(run);
    let gradients = match form {
        Form::Untracked => 0,
        _ => (rows * FEATURES + FEATURES * CLASSES) * size_of::<f32>(),
    };
    bytes.peak.saturating_sub(gradients)
}

fn peak_does_not_grow_with_the_rows(device: &Device) {
    for form in [Form::Reduced, Form::PerRow, Form::Untracked] {
        for ignored in [false, true] {
            let sizes = [1024, 4096, 16384];
            let peaks = sizes.map(|rows| beyond_gradients(rows, ignored, form, device));
            let of_rows = |rows: usize| match (form, ignored) {
                (Form::PerRow, _) | (_, true) => rows * OF_ROW,
                _ => 0,
            };
            for (rows, peak) in sizes.into_iter().zip(peaks) {
                // The loss may hold a chunk, and what the matrix products copy.
                let most = CHUNK + OF_PRODUCTS + of_rows(rows);
                assert!(
                    (CHUNK..most).contains(&peak),
                    "{form:?}, ignored rows: {ignored}: {peak} bytes for {rows} rows, {most} allowed"
                );
            }
        }
    }
}

/// The similarities of a batch to a queue never exist as a whole.
fn peak_does_not_grow_with_the_queue(device: &Device) {
    const BATCH: usize = 64;
    let loss: InfoNceLoss = InfoNceLossConfig::new()
        .with_normalize(false)
        .with_chunk_bytes(Some(CHUNK))
        .init(device);
    for queue in [1 << 12, 1 << 14] {
        let random = |rows: usize, device: &Device| {
            Tensor::<2>::random([rows, FEATURES], Distribution::Default, device)
        };
        let query = random(BATCH, device).require_grad();
        let plain = device.clone().without_autodiff();
        let (positive, negatives) = (random(BATCH, &plain), random(queue, &plain));
        let run = || {
            let value = loss.forward(query.clone(), positive.clone(), negatives.clone());
            (value.clone(), value.backward())
        };
        drop(run());
        let (_, bytes) = count(run);
        // The loss may hold a chunk, what the products copy, and tensors of the size of the batch.
        let most = CHUNK + OF_PRODUCTS + 16 * BATCH * FEATURES * size_of::<f32>();
        assert!(
            bytes.peak <= most && most < BATCH * queue * size_of::<f32>(),
            "{} bytes for a queue of {queue}, {most} allowed",
            bytes.peak
        );
    }
}

/// Teacher and student behind projections share the chunk's budget; no tensor of rows x classes exists.
fn a_teacher_by_projection_shares_the_chunk(device: &Device) {
    let rows = 4096 * 2;
    let loss = CrossEntropyLossConfig::new().init(device);
    let random = |shape| Tensor::<2>::random(shape, Distribution::Default, device);
    let (input, of_teacher) = (random([rows, FEATURES]), random([rows, FEATURES]));
    let weight = random([FEATURES, CLASSES]).require_grad();
    let weight_of_teacher = random([FEATURES, CLASSES]);
    let run = || {
        let student = ProjectedLogits::new(input.clone(), weight.clone()).with_chunk_bytes(CHUNK);
        let teacher = ProjectedLogits::new(of_teacher.clone(), weight_of_teacher.clone());
        let target = TeacherLogits::new(teacher).with_temperature(2.0);
        let value = loss.forward(student, target);
        (value.clone(), value.backward())
    };
    drop(run());
    let (_, bytes) = count(run);
    // Besides the chunks, what the products lay out, and the input's gradient, which is not wanted but small.
    let most = CHUNK + OF_PRODUCTS + 2 * rows * FEATURES * size_of::<f32>();
    assert!(
        bytes.peak <= most && most < rows * CLASSES * size_of::<f32>() / 8,
        "{} bytes, {most} allowed",
        bytes.peak
    );
}

/// Sparse distributions cost memory of their entries, and a row of classes for each thread, with tails and without.
fn sparse_distributions_are_not_made_dense(device: &Device) {
    let (rows, classes, entries) = (512, 8192, 4);
    let loss = CrossEntropyLossConfig::new().init(device);
    let logits = Tensor::<2>::random([rows, classes], Distribution::Default, device);
    let indices = Tensor::<1, Int>::arange(0..(rows * entries) as i64, device);
    let indices = indices.reshape([rows, entries]);
    let shares = Tensor::<2>::ones([rows, entries], device);
    let most = rows * classes * size_of::<f32>() / 8;
    for has_tail in [false, true] {
        let run = || {
            let target = SparseDistribution::new(indices.clone(), shares.clone());
            let target = match has_tail {
                true => target.with_rest_as_tail(),
                false => target,
            };
            loss.forward(logits.clone().detach(), target)
        };
        drop(run());
        let (_, bytes) = count(run);
        assert!(bytes.peak <= most, "{} bytes, {most} allowed", bytes.peak);
    }
}

/// A weight that is a transposed embedding is used where it lies.
fn a_tied_weight_is_not_copied(device: &Device) {
    const ROWS: usize = 16;
    const VOCABULARY: usize = 20_000;
    const WIDE: usize = 64;
    let loss: LinearCrossEntropyLoss = LinearCrossEntropyLossConfig::new()
        .with_chunk_bytes(Some(CHUNK))
        .init(device);
    let random = |shape| Tensor::<2>::random(shape, Distribution::Default, device);
    let (input, table) = (
        random([ROWS, WIDE]),
        random([VOCABULARY, WIDE]).require_grad(),
    );
    let targets = Tensor::<1, Int>::arange(0..ROWS as i64, device);
    let run = || {
        let weight = table.clone().transpose();
        let value = loss.forward(input.clone(), weight, None, targets.clone());
        (value.clone(), value.backward())
    };
    drop(run());
    let (_, bytes) = count(run);
    let weight = VOCABULARY * WIDE * size_of::<f32>();
    // The loss holds the gradient of the weight, and chunks and copies that are smaller than a second one.
    assert!(
        (weight..weight + weight / 2).contains(&bytes.peak),
        "{} bytes for a weight of {weight}",
        bytes.peak
    );
}

#[cfg(feature = "flex")]
#[test]
fn flex() {
    alone(|| {
        peak_does_not_grow_with_the_rows(&Device::flex().autodiff());
        peak_does_not_grow_with_the_queue(&Device::flex().autodiff());
        a_tied_weight_is_not_copied(&Device::flex().autodiff());
        a_teacher_by_projection_shares_the_chunk(&Device::flex().autodiff());
        sparse_distributions_are_not_made_dense(&Device::flex());
    });
}

#[cfg(feature = "ndarray")]
#[test]
fn ndarray() {
    alone(|| {
        peak_does_not_grow_with_the_rows(&Device::ndarray().autodiff());
        peak_does_not_grow_with_the_queue(&Device::ndarray().autodiff());
        a_tied_weight_is_not_copied(&Device::ndarray().autodiff());
        a_teacher_by_projection_shares_the_chunk(&Device::ndarray().autodiff());
        sparse_distributions_are_not_made_dense(&Device::ndarray());
    });
}
