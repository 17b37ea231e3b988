//! A contrastive loss holds the similarities of one chunk in every form, whatever it is asked for; the graph holds none.

use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_cross_entropy::InfoNceLossConfig;
use burn_cross_entropy::contrastive::{
    Contrast, InBatch, Positives, SampleIds, SigLipLossConfig, SupCon,
};

use super::alone;
use super::counting::count;

const ROWS: usize = 8192;
const FEATURES: usize = 64;
/// An eighth of the similarities, and sixteen times the features.
const CHUNK: usize = 32 << 20;

type Form = (&'static str, fn(Tensor<2>, Tensor<2>) -> Tensor<1>);

fn ids(device: &Device) -> Tensor<1, Int> {
    Tensor::arange(0..ROWS as i64, &device.clone().without_autodiff()).remainder_scalar(1000)
}

fn config() -> InfoNceLossConfig {
    InfoNceLossConfig::new().with_chunk_bytes(Some(CHUNK))
}

fn in_batch(a: Tensor<2>, b: Tensor<2>, in_batch: InBatch, with_ids: bool) -> Tensor<1> {
    let device = a.device();
    let loss = config()
        .with_in_batch(in_batch)
        .with_margin(if with_ids { 0.1 } else { 0.0 })
        .with_exclude_above(with_ids.then_some(0.5))
        .init(&device);
    let contrast = Contrast::in_batch(a, b);
    loss.forward_contrast(match with_ids {
        true => contrast.with_ids(SampleIds::same(ids(&device))),
        false => contrast,
    })
}

fn labels(a: Tensor<2>, sup_con: SupCon) -> Tensor<1> {
    let device = a.device();
    let loss = config().with_sup_con(sup_con).init(&device);
    loss.forward_labels(a, ids(&device))
}

const FORMS: [Form; 11] = [
    ("one-sided", |a, b| in_batch(a, b, InBatch::OneSided, false)),
    ("symmetric", |a, b| {
        in_batch(a, b, InBatch::Symmetric, false)
    }),
    ("symmetric with ids, margin and bound", |a, b| {
        in_batch(a, b, InBatch::Symmetric, true)
    }),
    ("NT-Xent of half the rows", |a, b| {
        let half = |x: Tensor<2>| x.narrow(0, 0, ROWS / 2);
        let loss = config().with_in_batch(InBatch::NtXent).init(&a.device());
        loss.forward_in_batch(half(a), half(b))
    }),
    ("momentum", |a, b| {
        let device = a.device();
        config().init(&device).forward(a, b.clone(), b)
    }),
    ("pairs, row by row", |a, b| {
        let device = a.device();
        let loss = config().with_margin(0.1).init(&device);
        let positive = ids(&device);
        loss.forward_contrast_no_reduction(Contrast::pairs(a, b, positive))
            .mean()
    }),
    ("labels, out", |a, _| labels(a, SupCon::Out)),
    ("labels, in", |a, _| labels(a, SupCon::In)),
    ("several by number", |a, b| {
        let device = a.device();
        let loss = config().init(&device);
        let first = ids(&device).unsqueeze_dim::<2>(1);
        let both = Tensor::cat(vec![first.clone(), first + 1000], 1);
        loss.forward_contrast(Contrast::several(a, b, Positives::Indices(both)))
    }),
    ("sigmoid", |a, b| {
        let device = a.device();
        let loss = SigLipLossConfig::new()
            .with_chunk_bytes(Some(CHUNK))
            .init(&device);
        loss.forward(a, b)
    }),
    ("sigmoid of labels", |a, b| {
        let device = a.device();
        let loss = SigLipLossConfig::new()
            .with_chunk_bytes(Some(CHUNK))
            .init(&device);
        let positives = Positives::Labels {
            rows: ids(&device),
            keys: ids(&device),
        };
        loss.forward_positives(a, b, positives)
    }),
];

fn forms_hold_less_than_two_chunks(forms: &[Form], device: &Device) {
    let random = || {
        Tensor::<2>::random([ROWS, FEATURES], Distribution::Normal(0.0, 1.0), device).require_grad()
    };
    let (a, b) = (random(), random());
    for (name, form) in forms {
        let run = || {
            let value = form(a.clone(), b.clone());
            (value.clone(), value.backward())
        };
        let (_, bytes) = count(run);
        assert!(bytes.peak < 2 * CHUNK, "{name}: {} bytes", bytes.peak);
    }
}

#[cfg(feature = "flex")]
#[test]
fn flex_every_form_holds_less_than_two_chunks() {
    alone(|| {
        forms_hold_less_than_two_chunks(&FORMS, &Device::flex().autodiff());
    });
}

/// The forms differ above the backend, and what a backend does itself is the same for three of them.
#[cfg(feature = "ndarray")]
#[test]
fn ndarray_forms_hold_less_than_two_chunks() {
    alone(|| {
        let forms = FORMS
            .into_iter()
            .filter(|(name, _)| ["momentum", "labels, out", "sigmoid"].contains(name));
        let forms: Vec<Form> = forms.collect();
        assert_eq!(forms.len(), 3);
        forms_hold_less_than_two_chunks(&forms, &Device::ndarray().autodiff());
    });
}
