//! Compares every case that PyTorch computed in f64 (tests/fixtures/linear.py): loss and all three gradients,
//! in chunks of every size.

use std::sync::LazyLock;

use burn::tensor::{DType, Device};
use serde::Deserialize;

use super::projected::{Form, Found, Projected, chunks};
use crate::common::archive;
use crate::common::backends::{is_host, tests_on};
use crate::common::problem::Problem;
use crate::fixtures::{Number, Options, targets, values};

#[derive(Deserialize)]
struct Case {
    name: String,
    shape: Vec<usize>,
    features: usize,
    input: Vec<f64>,
    projection: Vec<f64>,
    bias: Option<Vec<f64>>,
    target: serde_json::Value,
    #[serde(flatten)]
    options: Options,
    upstream: Vec<f64>,
    loss: Vec<Number>,
    input_grad: Vec<f64>,
    projection_grad: Vec<f64>,
    bias_grad: Option<Vec<f64>>,
    target_grad: Option<Vec<f64>>,
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let compressed = include_bytes!("../../fixtures/linear.json.gz");
    archive::read(compressed, "linear.py")
});

impl Case {
    fn projected(&self) -> Projected {
        let mut projected = Projected {
            input: self.input.clone(),
            weight: self.projection.clone(),
            bias: self.bias.clone(),
            features: self.features,
            problem: Problem {
                shape: self.shape.clone(),
                class_dim: self.shape.len() - 1,
                logits: Vec::new(),
                targets: targets(&self.target),
                row_weights: None,
                config: self.options.config(),
                tracked_targets: self.target_grad.is_some(),
                unreduced: self.options.is_unreduced(),
                upstream: self.upstream.clone(),
            },
        };
        projected.project();
        projected
    }

    fn expected(&self) -> Found {
        Found {
            loss: values(&self.loss),
            input: self.input_grad.clone(),
            weight: self.projection_grad.clone(),
            bias: self.bias_grad.clone(),
            targets: self.target_grad.clone(),
        }
    }
}

fn every_case_agrees(device: &Device) {
    assert_eq!(CASES.len(), 84);
    for case in CASES.iter() {
        let projected = case.projected();
        for chunk in chunks(device) {
            let found = projected.found(Form::chunked(chunk), device);
            found.assert_close(&case.name, &case.expected(), (device, DType::F32));
            if is_host(device) {
                let form = Form {
                    dtype: DType::F64,
                    ..Form::chunked(chunk)
                };
                let found = projected.found(form, device);
                found.assert_close(&case.name, &case.expected(), (device, DType::F64));
            }
        }
    }
}

tests_on! { products: [every_case_agrees] }
