//! Compares the contrastive loss on a backend without an implementation with Flex in f64.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::contrastive::{InBatch, SampleIds};
use burn_cross_entropy::{InfoNceLoss, InfoNceLossConfig};

const FEATURES: usize = 5;

/// A leaf of numbers without a pattern that rows and features share.
fn leaf(rows: usize, first: f64, (device, dtype): (&Device, DType)) -> Tensor<2> {
    let number = |at: usize| (at as f64 * 1.618 + first).sin();
    let numbers: Vec<f64> = (0..rows * FEATURES).map(number).collect();
    let data = TensorData::new(numbers, [rows, FEATURES]).convert_dtype(dtype);
    Tensor::from_data(data, (device, dtype)).require_grad()
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// A form of the loss, as a function of queries, keys and negatives.
type Form = fn(&InfoNceLoss, [Tensor<2>; 3]) -> Tensor<1>;

fn ids(values: &[i64], device: &Device) -> Tensor<1, Int> {
    let device = device.clone().without_autodiff();
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &device)
}

const FORMS: [Form; 4] = [
    |loss, [query, key, negatives]| loss.forward(query, key, negatives),
    |loss, [query, key, negatives]| {
        let device = query.device();
        let same = SampleIds {
            queries: ids(&[1, 2, 3, 4], &device),
            negatives: ids(&[4, 4, 9, 1, 8, 7, 6], &device),
        };
        loss.forward_with_ids(query, key, negatives, same)
    },
    |loss, [query, key, _]| loss.forward_in_batch(query, key),
    |loss, [query, _, keys]| {
        let positives = ids(&[6, 0, -100, 3], &query.device());
        loss.forward_pairs(query, keys, positives)
    },
];

/// The loss, and the gradients of all tensors.
fn solve(form: Form, loss: &InfoNceLoss, given: (&Device, DType)) -> Vec<Vec<f64>> {
    let leaves = [(4, 0.5), (4, 2.0), (7, 4.0)].map(|(rows, first)| leaf(rows, first, given));
    let value = form(loss, leaves.clone());
    let gradients = (value.clone() * -1.75).backward();
    let gradient = |leaf: &Tensor<2>| leaf.grad(&gradients).map(numbers).unwrap_or_default();
    let mut found = vec![numbers(value)];
    found.extend(leaves.iter().map(gradient));
    found
}

#[test]
fn every_form_agrees_with_flex() {
    // Chunks of two rows, and of all rows.
    for chunk_bytes in [60, 64 << 20] {
        for in_batch in [InBatch::OneSided, InBatch::Symmetric, InBatch::NtXent] {
            let config = InfoNceLossConfig::new()
                .with_temperature(0.3)
                .with_in_batch(in_batch)
                .with_chunk_bytes(chunk_bytes);
            let on = |device: Device| (config.init(&device), device.autodiff());
            let ((here, device), (there, flex)) = (on(Device::ndarray()), on(Device::flex()));
            for (number, form) in FORMS.into_iter().enumerate() {
                let found = solve(form, &here, (&device, DType::F32));
                let expected = solve(form, &there, (&flex, DType::F64));
                for (part, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    assert_eq!(found.len(), expected.len());
                    let largest = expected.iter().fold(0f64, |most, x| most.max(x.abs()));
                    for (found, expected) in found.iter().zip(expected) {
                        assert!(
                            (found - expected).abs() <= 2e-5 * largest,
                            "form {number}, {in_batch:?}, part {part}: {found} for {expected}"
                        );
                    }
                }
            }
        }
    }
}
