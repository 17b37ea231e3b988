//! The results of every method of `InfoNceLoss` and of `SigLipLoss`, and of a loss over `moco_logits`.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Gradients, Int, Tensor, TensorData};
use burn_cross_entropy::contrastive::{Contrast, InBatch, Positives, SampleIds, SigLipLossConfig};
use burn_cross_entropy::{
    CrossEntropyBackend, CrossEntropyLossConfig, InfoNceLoss, InfoNceLossConfig, moco_logits,
};

use super::Results;
use crate::common::backends::is_host;
use crate::common::problem::Problem;
use crate::common::run::float_tensor;

const FITS: &str = "the tensors fit each other";
const FEATURES: usize = 5;

/// Finds the gradient of a learnt temperature.
struct OfTemperature<'a>(&'a Gradients, Option<TensorData>);

impl ModuleVisitor for OfTemperature<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.1 = param.val().grad(self.0).map(Tensor::into_data);
    }
}

/// Makes rows of features, as a leaf.
fn rows(rows: usize, seed: u64, device: &Device) -> Tensor<2> {
    let random = Problem::random(&[rows, FEATURES], 1, true, seed);
    let tensor: Tensor<2> = float_tensor(&random.logits, &[rows, FEATURES], (device, DType::F32));
    tensor.require_grad()
}

fn ints<const N: usize>(values: [i64; N], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::from(values), device)
}

fn ids(device: &Device) -> SampleIds {
    SampleIds {
        queries: ints([1, 2, 3, 4, 5], device),
        negatives: ints([9, 2, 8, 1, 7, 6, 3], device),
    }
}

pub fn add_all<B: CrossEntropyBackend>(results: &mut Results, device: &Device) {
    // Chunks of two rows, or of all rows where Burn tunes every size of product.
    let chunk_bytes = if is_host(device) { 60 } else { 64 << 20 };
    let config = || InfoNceLossConfig::new().with_temperature(0.3);
    for (kind, config) in [
        ("fixed", config()),
        (
            "learnt, in chunks",
            config()
                .with_learnable(true)
                .with_chunk_bytes(Some(chunk_bytes)),
        ),
    ] {
        let loss = config.init_for::<B>(device);
        add_losses(results, kind, &loss, device);
        add_requests(results, kind, &loss, device);
        add_views::<B>(results, kind, &config, device);
        results.add(&format!("{kind}: scale"), loss.scale(device));
        let temperature = TensorData::from([loss.temperature()]);
        results
            .0
            .push((format!("{kind}: temperature"), Some(temperature)));
        let clamped = loss.clamp_scale().scale(device);
        results.add(&format!("{kind}: clamp_scale"), clamped);
    }
    add_sig_lip::<B>(results, chunk_bytes, device);
    let leaves = [rows(5, 1, device), rows(5, 2, device), rows(7, 3, device)];
    let [query, positive, negatives] = leaves.clone();
    let logits = moco_logits(query, positive, negatives, 0.3);
    let targets = Tensor::<1, Int>::zeros([5], device);
    let loss = CrossEntropyLossConfig::new()
        .init_for::<B>(device)
        .forward(logits, targets);
    let of_leaves = |of: &Gradients| gradients(&leaves, of);
    results.add_with_gradients("moco_logits", loss, &of_leaves);
}

fn gradients(leaves: &[Tensor<2>; 3], of: &Gradients) -> Vec<(&'static str, Option<TensorData>)> {
    let names = ["the first tensor", "the second tensor", "the third tensor"];
    let named = names.into_iter().zip(leaves);
    named
        .map(|(name, leaf)| (name, leaf.grad(of).map(Tensor::into_data)))
        .collect()
}

/// The gradients of all features, and of the temperature.
fn with_temperature<B: CrossEntropyBackend>(
    loss: &InfoNceLoss<B>,
    leaves: &[Tensor<2>; 3],
    of: &Gradients,
) -> Vec<(&'static str, Option<TensorData>)> {
    let mut all = gradients(leaves, of);
    let mut of_temperature = OfTemperature(of, None);
    loss.visit(&mut of_temperature);
    all.push(("the temperature", of_temperature.1));
    all
}

/// Adds the methods over queries, positives and negatives.
fn add_losses<B: CrossEntropyBackend>(
    results: &mut Results,
    kind: &str,
    loss: &InfoNceLoss<B>,
    device: &Device,
) {
    let name = |method: &str| format!("{kind}: {method}");
    let leaves = [rows(5, 1, device), rows(5, 2, device), rows(7, 3, device)];
    let given = || leaves.clone();
    let of_leaves = |of: &Gradients| with_temperature(loss, &leaves, of);
    let mut add = |method: &str, value: Tensor<1>| {
        results.add_with_gradients(&name(method), value, &of_leaves);
    };
    let [q, p, n] = given();
    add("forward", loss.forward(q, p, n));
    let [q, p, n] = given();
    add("try_forward", loss.try_forward(q, p, n).expect(FITS));
    let [q, p, n] = given();
    add(
        "forward_with_ids",
        loss.forward_with_ids(q, p, n, ids(device)),
    );
    let [q, p, n] = given();
    let value = loss.try_forward_with_ids(q, p, n, ids(device));
    add("try_forward_with_ids", value.expect(FITS));
    let positive = || ints([6, -100, 2, 0, 0], device);
    let [q, _, n] = given();
    add("forward_pairs", loss.forward_pairs(q, n, positive()));
    let [q, _, n] = given();
    add(
        "try_forward_pairs",
        loss.try_forward_pairs(q, n, positive()).expect(FITS),
    );

    let [q, p, n] = given();
    let output = loss.forward_with_output(q, p, n);
    results.add_output(&name("forward_with_output"), output, &of_leaves);
    let [q, p, n] = given();
    let output = loss.try_forward_with_output(q, p, n).expect(FITS);
    results.add_output(&name("try_forward_with_output"), output, &of_leaves);
}

/// Adds the methods over a request, and over labels.
fn add_requests<B: CrossEntropyBackend>(
    results: &mut Results,
    kind: &str,
    loss: &InfoNceLoss<B>,
    device: &Device,
) {
    let name = |method: &str| format!("{kind}: {method}");
    let leaves = [rows(5, 1, device), rows(5, 2, device), rows(7, 3, device)];
    let of_leaves = |of: &Gradients| with_temperature(loss, &leaves, of);
    let contrast = || {
        let [q, p, n] = leaves.clone();
        let own = rows(10, 4, device).reshape([5, 2, FEATURES]);
        let log_q = [5, 7].map(|count| rows(count, 5, device).sum_dim(1).squeeze_dim(1));
        Contrast::moco(q, p, n)
            .with_ids(ids(device))
            .with_own_negatives(own, None)
            .with_log_q(log_q.map(Tensor::without_autodiff).into())
    };
    let labels = || ints([1, 2, 1, 1, 2], device);
    let mut add = |method: &str, value: Tensor<1>| {
        results.add_with_gradients(&name(method), value, &of_leaves);
    };
    add("forward_contrast", loss.forward_contrast(contrast()));
    let value = loss.try_forward_contrast(contrast()).expect(FITS);
    add("try_forward_contrast", value);
    let rows_of = loss.forward_contrast_no_reduction(contrast());
    add("forward_contrast_no_reduction", rows_of);
    let rows_of = loss.try_forward_contrast_no_reduction(contrast());
    add("try_forward_contrast_no_reduction", rows_of.expect(FITS));
    let q = || leaves[0].clone();
    add("forward_labels", loss.forward_labels(q(), labels()));
    let value = loss.try_forward_labels(q(), labels()).expect(FITS);
    add("try_forward_labels", value);

    let output = loss.forward_contrast_with_output(contrast());
    results.add_output(&name("forward_contrast_with_output"), output, &of_leaves);
    let output = loss.try_forward_contrast_with_output(contrast());
    results.add_output(
        &name("try_forward_contrast_with_output"),
        output.expect(FITS),
        &of_leaves,
    );
}

/// Adds the methods of the sigmoid loss.
fn add_sig_lip<B: CrossEntropyBackend>(results: &mut Results, chunk_bytes: usize, device: &Device) {
    let loss = SigLipLossConfig::new()
        .with_chunk_bytes(Some(chunk_bytes))
        .init_for::<B>(device);
    let leaves = [rows(5, 1, device), rows(5, 2, device), rows(7, 3, device)];
    let of_leaves = |of: &Gradients| {
        let mut all = gradients(&leaves, of);
        let mut of_parameter = OfTemperature(of, None);
        loss.visit(&mut of_parameter);
        all.push(("the bias", of_parameter.1));
        all
    };
    let mut add = |method: &str, value: Tensor<1>| {
        results.add_with_gradients(&format!("sigmoid: {method}"), value, &of_leaves);
    };
    let positives = || Positives::Labels {
        rows: ints([1, 2, 1, 1, 2], device),
        keys: ints([3, 2, 1, 1, 2, 0, 0], device),
    };
    let [a, b, keys] = leaves.clone();
    add("forward", loss.forward(a.clone(), b.clone()));
    add("try_forward", loss.try_forward(a.clone(), b).expect(FITS));
    let positive = || ints([6, -100, 2, 0, 0], device);
    let value = loss.forward_pairs(a.clone(), keys.clone(), positive());
    add("forward_pairs", value);
    let value = loss.try_forward_pairs(a.clone(), keys.clone(), positive());
    add("try_forward_pairs", value.expect(FITS));
    let value = loss.forward_positives(a.clone(), keys.clone(), positives());
    add("forward_positives", value);
    let value = loss.try_forward_positives(a.clone(), keys.clone(), positives());
    add("try_forward_positives", value.expect(FITS));
    let value = loss.forward_positives_no_reduction(a, keys, positives());
    add("forward_positives_no_reduction", value);
    let parameters = [loss.scale(), loss.bias()];
    results.0.push((
        "sigmoid: scale and bias".to_string(),
        Some(TensorData::from(parameters)),
    ));
}

/// Adds the methods over two views.
fn add_views<B: CrossEntropyBackend>(
    results: &mut Results,
    kind: &str,
    config: &InfoNceLossConfig,
    device: &Device,
) {
    for in_batch in [InBatch::OneSided, InBatch::Symmetric, InBatch::NtXent] {
        let name = |method: &str| format!("{kind}: {method}, {in_batch:?}");
        let loss = config.clone().with_in_batch(in_batch).init_for::<B>(device);
        let leaves = [rows(5, 1, device), rows(5, 2, device), rows(1, 3, device)];
        let of_leaves = |of: &Gradients| with_temperature(&loss, &leaves, of);
        let views = || (leaves[0].clone(), leaves[1].clone());
        let (a, b) = views();
        let value = loss.forward_in_batch(a, b);
        results.add_with_gradients(&name("forward_in_batch"), value, &of_leaves);
        let (a, b) = views();
        let value = loss.try_forward_in_batch(a, b).expect(FITS);
        results.add_with_gradients(&name("try_forward_in_batch"), value, &of_leaves);
    }
}
