//! Compares every case that PyTorch computed in f64 (tests/fixtures/contrastive.py): the loss, and the
//! gradients of all tensors and of the temperature.

use std::sync::LazyLock;

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device};
use burn_cross_entropy::InfoNceLossConfig;
use burn_cross_entropy::contrastive::InBatch;
use serde::Deserialize;

use super::{Expected, FEATURES, Form, NEGATIVE_IDS, POSITIVES, Problem, QUERY_IDS};
use crate::common::archive;
use crate::common::backends::{is_host, tests_on};
use crate::common::tolerance::assert_numbers;

#[derive(Deserialize)]
struct Case {
    name: String,
    form: String,
    features: usize,
    tensors: Vec<Vec<f64>>,
    temperature: f64,
    normalize: bool,
    reduction: String,
    query_ids: Option<Vec<i64>>,
    negative_ids: Option<Vec<i64>>,
    positives: Option<Vec<i64>>,
    upstream: f64,
    loss: f64,
    log_scale_grad: f64,
    grads: Vec<Vec<f64>>,
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let compressed = include_bytes!("../../fixtures/contrastive.json.gz");
    archive::read(compressed, "contrastive.py")
});

impl Case {
    fn problem(&self) -> Problem {
        let form = match self.form.as_str() {
            "momentum" => Form::Momentum,
            "ids" => Form::Ids,
            "one_sided" => Form::InBatch(InBatch::OneSided),
            "symmetric" => Form::InBatch(InBatch::Symmetric),
            "nt_xent" => Form::InBatch(InBatch::NtXent),
            "pairs" => Form::Pairs,
            other => panic!("no form is called {other}"),
        };
        // A problem has fixed features, ids and indices of positives, which the case must share.
        assert_eq!(self.features, FEATURES);
        let given = [&self.query_ids, &self.negative_ids, &self.positives];
        let own: [&[i64]; 3] = [&QUERY_IDS, &NEGATIVE_IDS, &POSITIVES];
        for (given, own) in given.into_iter().zip(own) {
            assert!(given.as_ref().is_none_or(|given| given == own));
        }
        let config = InfoNceLossConfig::new()
            .with_temperature(self.temperature)
            .with_normalize(self.normalize)
            .with_reduction(match self.reduction.as_str() {
                "sum" => Reduction::Sum,
                _ => Reduction::Mean,
            });
        let config = match form {
            Form::InBatch(in_batch) => config.with_in_batch(in_batch),
            _ => config,
        };
        Problem {
            form,
            tensors: self.tensors.clone(),
            log_scale: -self.temperature.ln(),
            config,
            upstream: self.upstream,
        }
    }

    fn expected(&self) -> Expected {
        Expected {
            loss: self.loss,
            gradients: self.grads.clone(),
            of_scale: self.log_scale_grad,
        }
    }
}

fn every_case_agrees(device: &Device) {
    assert_eq!(CASES.len(), 72);
    for case in CASES.iter() {
        let (problem, expected) = (case.problem(), case.expected());
        let learnable = Problem {
            config: problem.config.clone().with_learnable(true),
            ..problem.clone()
        };
        // Chunks of two or three rows.
        let chunked = Problem {
            config: problem.config.clone().with_chunk_bytes(Some(150)),
            ..problem.clone()
        };
        for problem in [&problem, &learnable] {
            problem.assert_found(&case.name, &expected, (device, DType::F32));
        }
        // Devices, which take time to start a kernel, test chunks in `every_form_agrees`.
        if is_host(device) {
            chunked.assert_found(&case.name, &expected, (device, DType::F32));
            for problem in [&problem, &chunked, &learnable] {
                problem.assert_found(&case.name, &expected, (device, DType::F64));
            }
        }
    }
}

tests_on! {
    host: [
        every_case_agrees,
    ],
}

/// The formula of the other tests agrees with PyTorch's.
#[test]
fn the_formula_agrees() {
    for case in CASES.iter() {
        assert_numbers(&case.name, &[case.problem().loss()], &[case.loss], 1e-12);
    }
}
