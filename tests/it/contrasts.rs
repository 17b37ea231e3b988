//! Compares every contrastive request and the sigmoid loss with cases that PyTorch computed in f64
//! (tests/fixtures/contrasts.py): the loss, the losses of the rows, and the gradients of all tensors, of the
//! temperature and of the bias.

mod devices;
mod directions;
mod edges;
mod order;
mod outputs;
mod precision;
mod sig_lip;

use std::sync::LazyLock;

use burn::module::Module;
use burn::nn::loss::Reduction;
use burn::tensor::{Bool, DType, Device, Gradients, Tensor};
use burn_cross_entropy::contrastive::{
    Contrast, InBatch, Positives, SampleIds, SigLipLoss, SigLipLossConfig, SupCon,
};
use burn_cross_entropy::{InfoNceLoss, InfoNceLossConfig};
use serde::Deserialize;

use crate::common::archive;
use crate::common::backends::{is_host, tests_on};
use crate::common::run::{float_tensor, numbers};
use crate::common::tolerance::{assert_numbers, of_projection};
use crate::info_nce::{OfParameters, ints};

#[derive(Clone, Deserialize)]
struct Case {
    name: String,
    form: String,
    features: usize,
    tensors: Vec<Vec<f64>>,
    own: Option<Vec<f64>>,
    own_mask: Option<Vec<i64>>,
    ids: Option<Vec<Vec<i64>>>,
    labels: Option<Vec<Vec<i64>>>,
    positives: Option<Vec<i64>>,
    log_q: Option<Vec<Vec<f64>>>,
    temperature: f64,
    margin: f64,
    exclude_above: Option<f64>,
    bias: f64,
    sup_con: String,
    normalize: bool,
    reduction: String,
    upstream: f64,
    loss: f64,
    rows: Vec<f64>,
    log_scale_grad: f64,
    bias_grad: f64,
    grads: Vec<Vec<f64>>,
    own_grad: Option<Vec<f64>>,
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let compressed = include_bytes!("../fixtures/contrasts.json.gz");
    archive::read(compressed, "contrasts.py")
});

/// Leaves of a case.
struct Leaves {
    tensors: Vec<Tensor<2>>,
    own: Option<Tensor<3>>,
}

enum Loss {
    InfoNce(Box<InfoNceLoss>),
    SigLip(Box<SigLipLoss>),
}

impl Loss {
    /// Gradients of the parameters: of the scale's logarithm, and of the bias where there is one.
    fn slopes(&self, gradients: &Gradients) -> Vec<f64> {
        let mut found = Vec::new();
        match self {
            Self::InfoNce(loss) => loss.visit(&mut OfParameters(gradients, &mut found)),
            Self::SigLip(loss) => loss.visit(&mut OfParameters(gradients, &mut found)),
        }
        found
    }
}

/// How a case is run.
#[derive(Clone, Copy, Debug)]
struct Way {
    dtype: DType,
    learnable: bool,
    chunk_bytes: usize,
}

impl Case {
    fn rows(&self) -> usize {
        self.tensors[0].len() / self.features
    }

    fn leaves(&self, dtype: DType, device: &Device) -> Leaves {
        let leaf = |values: &Vec<f64>| {
            let shape = [values.len() / self.features, self.features];
            float_tensor::<2>(values, &shape, (device, dtype)).require_grad()
        };
        Leaves {
            tensors: self.tensors.iter().map(leaf).collect(),
            own: self.own.as_ref().map(|values| {
                let rows = self.rows();
                let shape = [rows, values.len() / rows / self.features, self.features];
                float_tensor::<3>(values, &shape, (device, dtype)).require_grad()
            }),
        }
    }

    fn init(&self, way: Way, device: &Device) -> Loss {
        let reduction = match self.reduction.as_str() {
            "sum" => Reduction::Sum,
            _ => Reduction::Mean,
        };
        if self.form.starts_with("sig_lip") {
            let config = SigLipLossConfig::new()
                .with_scale(1.0 / self.temperature)
                .with_bias(self.bias)
                .with_learnable(way.learnable)
                .with_normalize(self.normalize)
                .with_reduction(reduction)
                .with_chunk_bytes(Some(way.chunk_bytes));
            return Loss::SigLip(Box::new(config.init(device)));
        }
        let config = InfoNceLossConfig::new()
            .with_temperature(self.temperature)
            .with_margin(self.margin)
            .with_exclude_above(self.exclude_above)
            .with_sup_con(match self.sup_con.as_str() {
                "in" => SupCon::In,
                _ => SupCon::Out,
            })
            .with_in_batch(match self.form.as_str() {
                "one_sided" => InBatch::OneSided,
                "nt_xent" => InBatch::NtXent,
                _ => InBatch::Symmetric,
            })
            .with_learnable(way.learnable)
            .with_normalize(self.normalize)
            .with_reduction(reduction)
            .with_chunk_bytes(Some(way.chunk_bytes));
        Loss::InfoNce(Box::new(config.init(device)))
    }

    /// Positives of a case of several.
    fn positives(&self, device: &Device) -> Positives {
        let rows = self.rows();
        let given = self.positives.as_deref().unwrap_or_default();
        match (&self.labels, self.form.as_str()) {
            (Some(labels), _) => Positives::Labels {
                rows: ints(&labels[0], device),
                keys: ints(&labels[1], device),
            },
            (None, "mask") => Positives::Mask(mask(given, rows, device)),
            (None, _) => Positives::Indices(ints(given, device).reshape([rows as i32, -1])),
        }
    }

    fn contrast(&self, leaves: &Leaves, device: &Device) -> Contrast {
        let given = |at: usize| leaves.tensors[at].clone();
        let contrast = match self.form.as_str() {
            "moco" => Contrast::moco(given(0), given(1), given(2)),
            "pairs" => {
                let positive = ints(self.positives.as_deref().expect("they are given"), device);
                Contrast::pairs(given(0), given(1), positive)
            }
            "labels" => {
                let labels = self.labels.as_ref().expect("they are given");
                let contrast = Contrast::labels(given(0), ints(&labels[0], device));
                match labels.get(1) {
                    None => contrast,
                    Some(labels) => contrast.with_memory(given(1), ints(labels, device)),
                }
            }
            "indices" | "mask" => Contrast::several(given(0), given(1), self.positives(device)),
            _ => Contrast::in_batch(given(0), given(1)),
        };
        let contrast = match &self.ids {
            None => contrast,
            Some(ids) => contrast.with_ids(SampleIds {
                queries: ints(&ids[0], device),
                negatives: ints(&ids[1], device),
            }),
        };
        let contrast = match &self.log_q {
            None => contrast,
            Some(log_q) => {
                let dtype = leaves.tensors[0].dtype();
                let tensor =
                    |values: &Vec<f64>| float_tensor::<1>(values, &[values.len()], (device, dtype));
                contrast.with_log_q(log_q.iter().map(tensor).collect())
            }
        };
        match &leaves.own {
            None => contrast,
            Some(own) => {
                let there = self.own_mask.as_ref();
                let there = there.map(|there| mask(there, self.rows(), device));
                contrast.with_own_negatives(own.clone(), there)
            }
        }
    }

    fn reduced(&self, loss: &Loss, leaves: &Leaves, device: &Device) -> Tensor<1> {
        match loss {
            Loss::InfoNce(loss) => loss.forward_contrast(self.contrast(leaves, device)),
            Loss::SigLip(loss) => {
                let given = |at: usize| leaves.tensors[at].clone();
                match self.form.as_str() {
                    "sig_lip" => loss.forward(given(0), given(1)),
                    "sig_lip_pairs" => {
                        let positive = self.positives.as_deref().expect("they are given");
                        loss.forward_pairs(given(0), given(1), ints(positive, device))
                    }
                    _ => loss.forward_positives(given(0), given(1), self.positives(device)),
                }
            }
        }
    }

    fn per_row(&self, loss: &Loss, leaves: &Leaves, device: &Device) -> Tensor<1> {
        match loss {
            Loss::InfoNce(loss) => {
                loss.forward_contrast_no_reduction(self.contrast(leaves, device))
            }
            Loss::SigLip(loss) => {
                let positives = match self.form.as_str() {
                    "sig_lip" => {
                        let rows: Vec<i64> = (0..self.rows() as i64).collect();
                        Positives::Indices(ints(&rows, device).unsqueeze_dim(1))
                    }
                    _ => self.positives(device),
                };
                let given = |at: usize| leaves.tensors[at].clone();
                loss.forward_positives_no_reduction(given(0), given(1), positives)
            }
        }
    }

    /// Number of rows that the mean is over.
    fn counted(&self) -> f64 {
        match self.reduction.as_str() {
            "sum" => 1.0,
            _ => (self.rows.iter().sum::<f64>() / self.loss).round(),
        }
    }

    #[track_caller]
    fn assert_agrees(&self, way: Way, device: &Device) {
        let name = format!("{}, {way:?}", self.name);
        let dtype = match way.learnable {
            // A learnt temperature is a parameter in f32, whatever the features are in.
            true => DType::F32,
            false => way.dtype,
        };
        let allowed = of_projection(dtype, device);
        let loss = self.init(way, device);
        let leaves = self.leaves(way.dtype, device);
        let value = self.reduced(&loss, &leaves, device);
        assert_numbers(&name, &numbers(value.clone()), &[self.loss], allowed.loss);
        let gradients = (value * self.upstream).backward();
        self.assert_gradients(&name, &loss, &leaves, &gradients, allowed.gradient);

        let name = format!("{name}, rows");
        let leaves = self.leaves(way.dtype, device);
        let rows = self.per_row(&loss, &leaves, device);
        assert_numbers(&name, &numbers(rows.clone()), &self.rows, allowed.loss);
        let gradients = (rows.sum() * (self.upstream / self.counted())).backward();
        self.assert_gradients(&name, &loss, &leaves, &gradients, allowed.gradient);
    }

    #[track_caller]
    fn assert_gradients(
        &self,
        name: &str,
        loss: &Loss,
        leaves: &Leaves,
        gradients: &Gradients,
        allowed: f64,
    ) {
        for (at, (leaf, expected)) in leaves.tensors.iter().zip(&self.grads).enumerate() {
            let found = numbers(leaf.grad(gradients).expect("it is tracked"));
            assert_numbers(&format!("{name}: tensor {at}"), &found, expected, allowed);
        }
        if let (Some(own), Some(expected)) = (&leaves.own, &self.own_grad) {
            let found = numbers(own.grad(gradients).expect("it is tracked"));
            assert_numbers(&format!("{name}: own negatives"), &found, expected, allowed);
        }
        let found = loss.slopes(gradients);
        let expected = [self.log_scale_grad, self.bias_grad];
        for (found, expected) in found.iter().zip(expected) {
            assert_numbers(
                &format!("{name}: parameters"),
                &[*found],
                &[expected],
                2.0 * allowed,
            );
        }
    }
}

fn mask(values: &[i64], rows: usize, device: &Device) -> Tensor<2, Bool> {
    ints(values, device).reshape([rows as i32, -1]).bool()
}

/// Two or three rows for most forms.
const SMALL_CHUNK: usize = 150;
const LARGE_CHUNK: usize = 64 << 20;

fn every_case_agrees(device: &Device) {
    assert_eq!(CASES.len(), 74);
    for case in CASES.iter() {
        for learnable in [false, true] {
            for chunk_bytes in [SMALL_CHUNK, LARGE_CHUNK] {
                for dtype in [DType::F32, DType::F64] {
                    let way = Way {
                        dtype,
                        learnable,
                        chunk_bytes,
                    };
                    case.assert_agrees(way, device);
                }
            }
        }
    }
}

/// Devices take time for each size of product, so that each case runs once there.
fn every_case_agrees_in_chunks_or_whole(device: &Device) {
    if is_host(device) {
        return every_case_agrees(device);
    }
    for (at, case) in CASES.iter().enumerate() {
        let way = Way {
            dtype: DType::F32,
            learnable: at % 3 != 0,
            chunk_bytes: [SMALL_CHUNK, LARGE_CHUNK][at % 2],
        };
        case.assert_agrees(way, device);
    }
}

tests_on! {
    products: [
        every_case_agrees_in_chunks_or_whole,
    ],
}
