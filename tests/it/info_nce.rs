//! Compares the contrastive loss with its formula in f64, and its gradients with central differences of it.

mod fixtures;
mod larger;
mod precision;
mod properties;
mod temperature;
mod with_queue;

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::contrastive::{InBatch, SampleIds};
use burn_cross_entropy::{InfoNceLoss, InfoNceLossConfig, cross_entropy, moco_logits};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::backends::{is_host, tests_on};
use crate::common::run::{float_tensor, numbers};
use crate::common::tolerance::{assert_numbers, behind_products, of_projection};

const FEATURES: usize = 5;
const STEP: f64 = 1e-5;

/// A form of the loss, on the tensors of a [`Problem`].
#[derive(Clone, Copy, Debug)]
enum Form {
    /// Queries, positives and negatives.
    Momentum,
    /// Queries, positives and negatives with ids.
    Ids,
    /// Two views of a batch.
    InBatch(InBatch),
    /// Queries and keys with the indices of positives.
    Pairs,
}

/// Tensors of rows of [`FEATURES`] numbers, and a temperature.
#[derive(Clone)]
struct Problem {
    form: Form,
    tensors: Vec<Vec<f64>>,
    config: InfoNceLossConfig,
    log_scale: f64,
    upstream: f64,
}

const QUERY_IDS: [i64; 7] = [3, 4, 5, 6, 7, 8, 9];
const NEGATIVE_IDS: [i64; 11] = [3, 3, 20, 5, 21, 22, 9, 23, 24, 25, 26];
const POSITIVES: [i64; 7] = [10, 0, -100, 4, 4, 9, -100];

impl Problem {
    fn new(form: Form, config: InfoNceLossConfig) -> Self {
        let mut rng = StdRng::seed_from_u64(21);
        let rows: &[usize] = match form {
            Form::Momentum | Form::Ids => &[7, 7, 11],
            Form::InBatch(_) => &[7, 7],
            Form::Pairs => &[7, 11],
        };
        let mut tensor = |rows: &usize| -> Vec<f64> {
            let number = |_| f64::from(rng.random_range(-1.0f32..1.0));
            (0..rows * FEATURES).map(number).collect()
        };
        let config = match form {
            Form::InBatch(in_batch) => config.with_in_batch(in_batch),
            _ => config,
        };
        Self {
            form,
            tensors: rows.iter().map(&mut tensor).collect(),
            log_scale: -config.temperature.ln(),
            config,
            upstream: -1.75,
        }
    }

    /// The loss by its formula, in f64.
    fn loss(&self) -> f64 {
        let scale = self.log_scale.exp();
        let rows: Vec<Vec<Vec<f64>>> = self
            .tensors
            .iter()
            .map(|tensor| tensor.chunks(FEATURES).map(|row| self.unit(row)).collect())
            .collect();
        let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        // The loss of one row, from its similarities to the positive and to the negatives.
        let of_row = |positive: f64, negatives: Vec<f64>| {
            let all = negatives.iter().map(|x| ((x - positive) * scale).exp());
            all.sum::<f64>().ln_1p()
        };
        let others =
            |query: &[f64], keys: &[Vec<f64>], positive: usize, is_key: &dyn Fn(usize) -> bool| {
                let negatives = (0..keys.len()).filter(|at| *at != positive && is_key(*at));
                let negatives = negatives.map(|at| dot(query, &keys[at])).collect();
                of_row(dot(query, &keys[positive]), negatives)
            };
        let all = |_: usize| true;
        let losses: Vec<f64> = match self.form {
            Form::Momentum | Form::Ids => (0..rows[0].len())
                .map(|row| {
                    let query = &rows[0][row];
                    let kept = (0..rows[2].len()).filter(|at| {
                        !matches!(self.form, Form::Ids) || NEGATIVE_IDS[*at] != QUERY_IDS[row]
                    });
                    let negatives = kept.map(|at| dot(query, &rows[2][at])).collect();
                    of_row(dot(query, &rows[1][row]), negatives)
                })
                .collect(),
            Form::InBatch(InBatch::OneSided) => (0..7)
                .map(|row| others(&rows[0][row], &rows[1], row, &all))
                .collect(),
            Form::InBatch(InBatch::Symmetric) => (0..7)
                .map(|row| {
                    let there = others(&rows[0][row], &rows[1], row, &all);
                    let back = others(&rows[1][row], &rows[0], row, &all);
                    (there + back) / 2.0
                })
                .collect(),
            Form::InBatch(InBatch::NtXent) => {
                let both = [rows[0].clone(), rows[1].clone()].concat();
                (0..14)
                    .map(|row| others(&both[row], &both, (row + 7) % 14, &|at| at != row))
                    .collect()
            }
            Form::Pairs => (0..7)
                .filter(|row| POSITIVES[*row] >= 0)
                .map(|row| others(&rows[0][row], &rows[1], POSITIVES[row] as usize, &all))
                .collect(),
        };
        let sum: f64 = losses.iter().sum();
        match self.config.reduction {
            Reduction::Sum => sum,
            _ => sum / losses.len() as f64,
        }
    }

    fn unit(&self, row: &[f64]) -> Vec<f64> {
        let length = match self.config.normalize {
            true => row.iter().map(|x| x * x).sum::<f64>().sqrt(),
            false => 1.0,
        };
        row.iter().map(|x| x / length).collect()
    }

    /// The gradients of the tensors and of the temperature's parameter, times the upstream gradient.
    fn gradients(&self) -> (Vec<Vec<f64>>, f64) {
        let slope = |change: &dyn Fn(&mut Self, f64)| {
            let at = |step: f64| {
                let mut moved = self.clone();
                change(&mut moved, step);
                moved.loss()
            };
            (at(STEP) - at(-STEP)) / (2.0 * STEP) * self.upstream
        };
        let of_tensor = |(tensor, values): (usize, &Vec<f64>)| {
            let of_number = |at| slope(&|moved, step| moved.tensors[tensor][at] += step);
            (0..values.len()).map(of_number).collect()
        };
        let tensors = self.tensors.iter().enumerate().map(of_tensor).collect();
        (tensors, slope(&|moved, step| moved.log_scale += step))
    }

    fn leaves(&self, device: &Device) -> Vec<Tensor<2>> {
        self.leaves_of(DType::F32, device)
    }

    fn leaves_of(&self, dtype: DType, device: &Device) -> Vec<Tensor<2>> {
        let leaf = |values: &Vec<f64>| {
            let shape = [values.len() / FEATURES, FEATURES];
            float_tensor::<2>(values, &shape, (device, dtype)).require_grad()
        };
        self.tensors.iter().map(leaf).collect()
    }

    fn run(&self, loss: &InfoNceLoss, leaves: &[Tensor<2>]) -> Tensor<1> {
        let given = |at: usize| leaves[at].clone();
        let device = leaves[0].device();
        match self.form {
            Form::Momentum => loss.forward(given(0), given(1), given(2)),
            Form::Ids => {
                let ids = SampleIds {
                    queries: ints(&QUERY_IDS, &device),
                    negatives: ints(&NEGATIVE_IDS, &device),
                };
                loss.forward_with_ids(given(0), given(1), given(2), ids)
            }
            Form::InBatch(_) => loss.forward_in_batch(given(0), given(1)),
            Form::Pairs => loss.forward_pairs(given(0), given(1), ints(&POSITIVES, &device)),
        }
    }

    #[track_caller]
    fn assert_agrees(&self, device: &Device) {
        let name = format!("{:?} {:?}", self.form, self.config);
        let (gradients, of_scale) = self.gradients();
        let expected = Expected {
            loss: self.loss(),
            gradients,
            of_scale,
        };
        self.assert_found(&name, &expected, (device, DType::F32));
    }

    /// Asserts that the loss and all gradients are the expected ones.
    #[track_caller]
    fn assert_found(&self, name: &str, expected: &Expected, (device, dtype): (&Device, DType)) {
        // A learnt temperature is a parameter in f32, whatever the features are in.
        let dtype_of_loss = match self.config.learnable {
            true => DType::F32,
            false => dtype,
        };
        let allowed = of_projection(dtype_of_loss, device);
        let loss = self.config.init(device);
        let leaves = self.leaves_of(dtype, device);
        let value = self.run(&loss, &leaves);
        assert_numbers(
            name,
            &numbers(value.clone()),
            &[expected.loss],
            allowed.loss,
        );
        let gradients = (value * self.upstream).backward();
        for (at, (leaf, expected)) in leaves.iter().zip(&expected.gradients).enumerate() {
            let found = numbers(leaf.grad(&gradients).expect("it is tracked"));
            let name = format!("{name}: tensor {at}");
            assert_numbers(&name, &found, expected, allowed.gradient);
        }
        if self.config.learnable {
            let mut found = Vec::new();
            burn::module::Module::visit(&loss, &mut OfParameters(&gradients, &mut found));
            let name = format!("{name}: temperature");
            assert_numbers(&name, &found, &[expected.of_scale], allowed.gradient);
        }
    }
}

/// The expected results of a [`Problem`].
struct Expected {
    loss: f64,
    gradients: Vec<Vec<f64>>,
    of_scale: f64,
}

/// Collects the gradients of parameters.
pub struct OfParameters<'a>(pub &'a burn::tensor::Gradients, pub &'a mut Vec<f64>);

impl burn::module::ModuleVisitor for OfParameters<'_> {
    fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
        let gradient = param.val().grad(self.0).expect("it is a parameter");
        assert_eq!(gradient.dtype(), DType::F32);
        self.1.extend(numbers(gradient));
    }
}

pub fn ints(values: &[i64], device: &Device) -> Tensor<1, Int> {
    let data = TensorData::new(values.to_vec(), [values.len()]);
    Tensor::from_data(data, &device.clone().without_autodiff())
}

/// Asserts equality, bit for bit on CPU backends. A device may take another kernel for the same product the
/// next time, until it has found the fastest one by trying.
#[track_caller]
fn assert_same(name: &str, found: &[f64], expected: &[f64], device: &Device) {
    if is_host(device) {
        assert_eq!(found, expected, "{name}");
    } else {
        assert_numbers(
            name,
            found,
            expected,
            of_projection(DType::F32, device).loss,
        );
    }
}

const FORMS: [Form; 6] = [
    Form::Momentum,
    Form::Ids,
    Form::InBatch(InBatch::OneSided),
    Form::InBatch(InBatch::Symmetric),
    Form::InBatch(InBatch::NtXent),
    Form::Pairs,
];

fn every_form_agrees(device: &Device) {
    for form in FORMS {
        let config = || InfoNceLossConfig::new().with_temperature(0.3);
        Problem::new(form, config()).assert_agrees(device);
        // Chunks of three rows.
        let options = config()
            .with_chunk_bytes(Some(150))
            .with_learnable(true)
            .with_normalize(false)
            .with_reduction(Reduction::Sum);
        Problem::new(form, options).assert_agrees(device);
        Problem::new(form, config().with_learnable(true)).assert_agrees(device);
    }
}

/// The loss of `forward` is the cross-entropy of the logits as a tensor, whose targets are 0.
fn the_logits_are_those_of_the_loss(device: &Device) {
    let config = InfoNceLossConfig::new()
        .with_temperature(0.3)
        .with_normalize(false);
    let problem = Problem::new(Form::Momentum, config);
    let loss = problem.config.init(device);
    let leaves = problem.leaves(device);
    let output = loss.forward_with_output(leaves[0].clone(), leaves[1].clone(), leaves[2].clone());
    let logits = moco_logits(leaves[0].clone(), leaves[1].clone(), leaves[2].clone(), 0.3);
    assert_eq!(logits.dims(), [7, 12]);
    let targets = Tensor::<1, Int>::zeros([7], &device.clone().without_autodiff());
    let expected = cross_entropy(logits.clone(), targets);
    let allowed = behind_products(1e-6, device);
    assert_numbers("loss", &numbers(output.loss), &numbers(expected), allowed);
    let predicted: Vec<i64> = output.predicted.into_data().iter::<i64>().collect();
    let most: Vec<i64> = logits.argmax(1).into_data().iter::<i64>().collect();
    assert_eq!(predicted, most);
}

/// The loss at its ends. Where positive and negatives do not differ, each of them is as likely. Without
/// negatives there is nothing to tell apart. Features of 0 have no direction, but a finite gradient.
fn the_ends_are_known(device: &Device) {
    let loss = InfoNceLossConfig::new().init(device);
    let ones = |rows| Tensor::<2>::ones([rows, 4], device);
    let same = numbers(loss.forward(ones(3), ones(3), ones(10)));
    let allowed = behind_products(1e-6, device);
    assert_numbers("the same", &same, &[11f64.ln()], allowed);
    let alone = numbers(loss.forward(ones(3), ones(3), ones(0)));
    assert_eq!(alone, [0.0]);
    assert!(numbers(loss.forward(ones(0), ones(0), ones(4)))[0].is_nan());
    let none = moco_logits(ones(0), ones(0), ones(10), 0.5);
    assert_eq!(none.dims(), [0, 11]);
    assert_eq!(
        numbers(moco_logits(ones(3), ones(3), ones(0), 0.5)),
        [8.0; 3]
    );
    let featureless = |rows| Tensor::<2>::ones([rows, 0], device);
    let logits = moco_logits(featureless(2), featureless(2), featureless(3), 0.5);
    assert_eq!(logits.dims(), [2, 4]);
    assert_eq!(numbers(logits), [0.0; 8]);

    // One over a subnormal number is beyond the range of f32.
    for nothing in [0.0, 1e-39] {
        let nothing = Tensor::<2>::full([3, 4], nothing, device).require_grad();
        let positive = Tensor::<2>::from_floats([[1.0, 0.0, 0.0, 2.0]; 3], device);
        let value = loss.forward(nothing.clone(), positive, ones(10));
        let gradient = numbers(nothing.grad(&value.backward()).expect("it is tracked"));
        assert!(gradient.iter().all(|slope| slope.is_finite()));
    }
}

tests_on! {
    products: [
        every_form_agrees,
        the_ends_are_known,
        the_logits_are_those_of_the_loss,
    ],
}
