//! Compares the contrastive losses on a backend without an implementation with Flex in f64.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Gradients, Int, Tensor, TensorData};
use burn_cross_entropy::contrastive::{
    Contrast, InBatch, Positives, SampleIds, SigLipLoss, SigLipLossConfig, SupCon,
};
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

/// A form of a loss, as a function of queries, keys and negatives.
type Form<L> = fn(&L, [Tensor<2>; 3]) -> Tensor<1>;

fn ids(values: &[i64], device: &Device) -> Tensor<1, Int> {
    let device = device.clone().without_autodiff();
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &device)
}

const FORMS: [Form<InfoNceLoss>; 5] = [
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
    // Two own negatives of each row, one of which is not there.
    |loss, [query, key, negatives]| {
        let device = query.device();
        let places = ids(&[3, 0, 6, 2, 1, 5, 4, 0], &device);
        let own = negatives.clone().select(0, places);
        let there = ids(&[1, 1, 0, 1, 1, 1, 1, 1], &device).reshape([4, 2]);
        let contrast = Contrast::moco(query, key, negatives)
            .with_own_negatives(own.reshape([4, 2, FEATURES]), Some(there.bool()));
        loss.forward_contrast(contrast)
    },
];

/// Labels of seven rows, of which one stands alone.
const LABELS: [i64; 7] = [2, 0, 2, 5, 0, 2, 1];

/// Forms of several positives, by labels.
const BY_LABELS: [Form<InfoNceLoss>; 3] = [
    |loss, [_, _, features]| {
        let labels = ids(&LABELS, &features.device());
        loss.forward_labels(features, labels)
    },
    |loss, [memory, _, features]| {
        let device = features.device();
        let contrast = Contrast::labels(features, ids(&LABELS, &device));
        loss.forward_contrast(contrast.with_memory(memory, ids(&[1, 9, 2, 0], &device)))
    },
    |loss, [query, _, keys]| {
        let positives = of_labels(&query.device());
        loss.forward_contrast(Contrast::several(query, keys, positives))
    },
];

/// Forms of several positives that only the losses with the positives outside of the logarithm have.
const BY_NUMBERS: [Form<InfoNceLoss>; 2] = [
    |loss, [query, _, keys]| {
        let positives = of_indices(&query.device());
        loss.forward_contrast(Contrast::several(query, keys, positives))
    },
    |loss, [query, _, keys]| {
        let positives = of_mask(&query.device());
        loss.forward_contrast(Contrast::several(query, keys, positives))
    },
];

/// Pairs that are asked for apart.
const APART: [Form<SigLipLoss>; 5] = [
    |loss, [query, key, _]| loss.forward(query, key),
    |loss, [query, _, keys]| {
        let positives = ids(&[6, 0, -100, 3], &query.device());
        loss.forward_pairs(query, keys, positives)
    },
    |loss, [query, _, keys]| {
        let positives = of_labels(&query.device());
        loss.forward_positives(query, keys, positives)
    },
    |loss, [query, _, keys]| {
        let positives = of_indices(&query.device());
        loss.forward_positives(query, keys, positives)
    },
    |loss, [query, _, keys]| {
        let positives = of_mask(&query.device());
        loss.forward_positives(query, keys, positives)
    },
];

fn of_labels(device: &Device) -> Positives {
    Positives::Labels {
        rows: ids(&[2, 0, 7, 1], device),
        keys: ids(&LABELS, device),
    }
}

fn of_indices(device: &Device) -> Positives {
    let numbers = ids(&[6, 0, 2, -100, -100, -100, 1, 4], device);
    Positives::Indices(numbers.reshape([4, 2]))
}

fn of_mask(device: &Device) -> Positives {
    let there: Vec<i64> = (0..28)
        .map(|at| i64::from(at < 14 && at % 3 == 0))
        .collect();
    Positives::Mask(ids(&there, device).reshape([4, 7]).bool())
}

/// Collects the gradients of parameters.
struct OfParameters<'a>(&'a Gradients, Vec<f64>);

impl ModuleVisitor for OfParameters<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = param.val().grad(self.0).expect("it is a parameter");
        self.1.extend(numbers(gradient));
    }
}

/// The loss, and the gradients of all tensors and of the parameters.
fn solve<L: Module>(form: Form<L>, loss: &L, given: (&Device, DType)) -> Vec<Vec<f64>> {
    let leaves = [(4, 0.5), (4, 2.0), (7, 4.0)].map(|(rows, first)| leaf(rows, first, given));
    let value = form(loss, leaves.clone());
    let gradients = (value.clone() * -1.75).backward();
    let gradient = |leaf: &Tensor<2>| leaf.grad(&gradients).map(numbers).unwrap_or_default();
    let mut found = vec![numbers(value)];
    found.extend(leaves.iter().map(gradient));
    let mut parameters = OfParameters(&gradients, Vec::new());
    loss.visit(&mut parameters);
    found.push(parameters.1);
    found
}

/// Asserts that forms agree with Flex in f64.
#[track_caller]
fn assert_agree<L: Module>(name: &str, forms: &[Form<L>], init: impl Fn(&Device) -> L) {
    let on = |device: Device| {
        let device = device.autodiff();
        (init(&device), device)
    };
    let ((here, device), (there, flex)) = (on(Device::ndarray()), on(Device::flex()));
    for (number, form) in forms.iter().enumerate() {
        let found = solve(*form, &here, (&device, DType::F32));
        let expected = solve(*form, &there, (&flex, DType::F64));
        for (part, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found.len(), expected.len());
            let largest = expected.iter().fold(0f64, |most, x| most.max(x.abs()));
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= 2e-5 * largest,
                    "form {number}, {name}, part {part}: {found} for {expected}"
                );
            }
        }
    }
}

/// Chunks of two rows, and of all rows.
const CHUNKS: [usize; 2] = [60, 64 << 20];

fn config(chunk_bytes: usize) -> InfoNceLossConfig {
    InfoNceLossConfig::new()
        .with_temperature(0.3)
        .with_chunk_bytes(Some(chunk_bytes))
}

#[test]
fn every_form_agrees_with_flex() {
    for chunk_bytes in CHUNKS {
        for in_batch in [InBatch::OneSided, InBatch::Symmetric, InBatch::NtXent] {
            let config = config(chunk_bytes).with_in_batch(in_batch);
            let name = format!("{in_batch:?}");
            assert_agree(&name, &FORMS, |device| config.init(device));
        }
    }
}

#[test]
fn margins_and_bounds_agree_with_flex() {
    for chunk_bytes in CHUNKS {
        let config = config(chunk_bytes)
            .with_margin(0.25)
            .with_exclude_above(Some(0.1))
            .with_learnable(true);
        assert_agree("margin", &FORMS, |device| config.init(device));
    }
}

#[test]
fn several_positives_agree_with_flex() {
    for chunk_bytes in CHUNKS {
        for sup_con in [SupCon::Out, SupCon::In] {
            let config = config(chunk_bytes).with_sup_con(sup_con);
            let name = format!("{sup_con:?}");
            assert_agree(&name, &BY_LABELS, |device| config.init(device));
        }
        let config = config(chunk_bytes);
        assert_agree("by number", &BY_NUMBERS, |device| config.init(device));
    }
}

#[test]
fn pairs_apart_agree_with_flex() {
    for chunk_bytes in CHUNKS {
        let config = SigLipLossConfig::new().with_chunk_bytes(Some(chunk_bytes));
        assert_agree("apart", &APART, |device| config.init(device));
    }
}
