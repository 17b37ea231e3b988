//! Problems of the contrastive loss.

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device, Gradients, Int, Tensor, TensorData};
use burn_cross_entropy::contrastive::{InBatch, SampleIds};
use burn_cross_entropy::{InfoNceLoss, InfoNceLossConfig};

use crate::by_hand::{Contrast, Query, Rows, Solution, Sum, solve};
use crate::code::{Code, Reader, Writer, thirty_seconds};
use crate::common::details::{agrees, largest_of};
use crate::common::run::{float_tensor, numbers};
use crate::common::smallest_of;
use crate::common::tolerance::{self, Tolerance};
use crate::options::FLOATS;

/// Most similarities, and most features of a row.
const MOST_SIMILARITIES: usize = 1024;
const MOST_FEATURES: usize = 40;

/// The error of a similarity beyond which its exponential has no digits.
const MOST_ERROR: f64 = 0.01;

/// The target of a query without a positive.
const NONE: i64 = -100;

/// A form of the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Queries, positives and negatives.
    Momentum,
    /// The same with ids.
    Ids,
    /// Two views of a batch.
    OneSided,
    Symmetric,
    NtXent,
    /// Queries, keys, and the indices of positives.
    Pairs,
}

const FORMS: [Form; 6] = [
    Form::Momentum,
    Form::Ids,
    Form::OneSided,
    Form::Symmetric,
    Form::NtXent,
    Form::Pairs,
];

/// A problem. What its form does not have is empty.
#[derive(Clone, Debug)]
pub struct Case {
    pub form: Form,
    pub dtype: DType,
    pub config: InfoNceLossConfig,
    pub upstream: f64,
    pub query_ids: Vec<i64>,
    pub negative_ids: Vec<i64>,
    pub positives: Vec<i64>,
    pub features: usize,
    /// The tensors, in rows of as many numbers as there are features.
    pub tensors: Vec<Vec<f64>>,
}

impl Case {
    /// A problem without features; all but the form is to be filled in.
    pub fn new(form: Form, config: InfoNceLossConfig) -> Self {
        let mut case = Self {
            form,
            dtype: DType::F32,
            config,
            upstream: 1.0,
            query_ids: vec![],
            negative_ids: vec![],
            positives: vec![],
            features: 0,
            tensors: vec![],
        };
        case.set_form();
        case
    }

    fn set_form(&mut self) {
        self.config.in_batch = match self.form {
            Form::OneSided => InBatch::OneSided,
            Form::NtXent => InBatch::NtXent,
            _ => InBatch::Symmetric,
        };
    }

    pub fn decode(bytes: &[u8]) -> Self {
        let mut case = Self::new(Form::Momentum, InfoNceLossConfig::new());
        case.code(&mut Reader::new(bytes));
        case
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.clone().code(&mut writer);
        writer.bytes
    }

    fn code(&mut self, code: &mut impl Code) {
        code.one_of(&mut self.form, &FORMS);
        self.set_form();
        code.one_of(&mut self.dtype, &FLOATS);
        self.code_options(code);
        let [rows, keys] = self.code_sizes(code);
        if self.form == Form::Ids {
            self.query_ids.resize(rows, 0);
            self.negative_ids.resize(keys, 0);
            let ids = self.query_ids.iter_mut().chain(&mut self.negative_ids);
            for id in ids {
                code.integer(id);
                // A number of the default integers.
                *id = i64::from(*id as i32);
            }
        }
        if self.form == Form::Pairs {
            self.positives.resize(rows, 0);
            for positive in &mut self.positives {
                code.integer(positive);
                if *positive != NONE {
                    *positive = positive.rem_euclid(keys as i64);
                }
            }
        }
        let (dtype, normalize) = (self.dtype, self.config.normalize);
        for value in self.tensors.iter_mut().flatten() {
            code.number(value, dtype, thirty_seconds);
            let is_kept = match (normalize, value.is_finite()) {
                // What is below is a length of 0.
                (true, true) => *value == 0.0 || value.abs() >= 2f64.powi(-40),
                (false, true) => value.abs() <= 1024.0,
                (_, false) => true,
            };
            if !is_kept {
                *value = 0.0;
            }
        }
    }

    fn code_options(&mut self, code: &mut impl Code) {
        let config = &mut self.config;
        code.flag(&mut config.learnable);
        let mut temperature = config.temperature;
        let usual = [0.07, 0.5, 1.0, 0.3, 0.125, 0.02];
        // A learnable temperature has a lower bound, one over the largest scale.
        let least = if config.learnable { 0.02 } else { 1e-4 };
        code.option(&mut temperature, &usual, |value| {
            (least..=1e6).contains(&value)
        });
        config.temperature = temperature;
        code.flag(&mut config.normalize);
        let mut is_sum = matches!(config.reduction, Reduction::Sum);
        code.flag(&mut is_sum);
        config.reduction = match is_sum {
            true => Reduction::Sum,
            false => Reduction::Mean,
        };
        code.one_of(&mut config.chunk_bytes, &[64 << 20, 1, 150, 4096]);
        code.option(
            &mut self.upstream,
            &[1.0, -1.75, 2.5, 0.0, 1024.0],
            |value| (2f64.powi(-20)..2f64.powi(20)).contains(&value.abs()),
        );
        self.upstream = f64::from(self.upstream as f32);
    }

    /// The numbers of queries and of keys, and the sizes of the tensors.
    fn code_sizes(&mut self, code: &mut impl Code) -> [usize; 2] {
        let features = self.features.max(1);
        let length = |tensor: usize| {
            self.tensors
                .get(tensor)
                .map_or(0, |rows| rows.len() / features)
        };
        let last = if self.form == Form::Pairs { 1 } else { 2 };
        let (mut rows, mut keys) = (length(0), length(last));
        code.size(&mut rows);
        code.size(&mut keys);
        code.size(&mut self.features);
        self.features = self.features.clamp(1, MOST_FEATURES);
        let is_in_batch = !matches!(self.form, Form::Momentum | Form::Ids | Form::Pairs);
        if is_in_batch {
            // Losses whose keys are the classes refuse to have none.
            rows = rows.clamp(1, 32);
            keys = 0;
        }
        if self.form == Form::Pairs {
            keys = keys.max(1);
        }
        while rows * keys > MOST_SIMILARITIES || rows.max(keys) > MOST_SIMILARITIES {
            let larger = if rows > keys { &mut rows } else { &mut keys };
            *larger = larger.div_ceil(2);
        }
        let lengths = match self.form {
            Form::Momentum | Form::Ids => vec![rows, rows, keys],
            Form::Pairs => vec![rows, keys],
            _ => vec![rows, rows],
        };
        self.tensors.resize(lengths.len(), vec![]);
        for (tensor, length) in self.tensors.iter_mut().zip(lengths) {
            tensor.resize(length * self.features, 0.0);
        }
        [rows, keys]
    }

    /// The problem as queries and their keys.
    fn contrast(&self) -> Contrast {
        let split = |tensor: &Vec<f64>| -> Rows {
            tensor.chunks(self.features).map(<[f64]>::to_vec).collect()
        };
        let tensors: Vec<Rows> = self.tensors.iter().map(split).collect();
        let mut queries = self.queries(tensors[0].len(), tensors[tensors.len() - 1].len());
        if !matches!(self.config.reduction, Reduction::Sum) {
            let share = 1.0 / queries.len() as f64;
            queries.iter_mut().for_each(|query| query.share = share);
        } else if self.form == Form::Symmetric {
            queries.iter_mut().for_each(|query| query.share = 0.5);
        }
        Contrast {
            tensors,
            queries,
            scale: 1.0 / self.config.temperature,
            normalize: self.config.normalize,
        }
    }

    /// The loss and the gradients by the formula.
    #[cfg(test)]
    pub fn solve(&self) -> Solution {
        solve(&self.contrast())
    }

    fn queries(&self, rows: usize, keys: usize) -> Vec<Query> {
        let query = |query, keys, positive| Query {
            query,
            keys,
            positive,
            share: 1.0,
        };
        // A query of one view, all rows of the other, of which the same row is the positive.
        let across = |from: usize, to: usize| {
            (0..rows).map(move |row| {
                let keys = (0..rows).map(|key| (to, key)).collect();
                query((from, row), keys, row)
            })
        };
        match self.form {
            Form::Momentum | Form::Ids => (0..rows)
                .map(|row| {
                    let is_excluded = |key: &usize| {
                        self.form == Form::Ids && self.negative_ids[*key] == self.query_ids[row]
                    };
                    let kept = (0..keys).filter(|key| !is_excluded(key));
                    let keys = [(1, row)].into_iter().chain(kept.map(|key| (2, key)));
                    query((0, row), keys.collect(), 0)
                })
                .collect(),
            Form::OneSided => across(0, 1).collect(),
            Form::Symmetric => across(0, 1).chain(across(1, 0)).collect(),
            Form::NtXent => {
                let place = |row: usize| (row / rows, row % rows);
                (0..2 * rows)
                    .map(|row| {
                        let others = (0..2 * rows).filter(|other| *other != row);
                        let positive = (row + rows) % (2 * rows);
                        let before = usize::from(row < positive);
                        query(place(row), others.map(place).collect(), positive - before)
                    })
                    .collect()
            }
            Form::Pairs => (0..rows)
                .filter(|row| self.positives[*row] != NONE)
                .map(|row| {
                    let keys = (0..keys).map(|key| (1, key)).collect();
                    query((0, row), keys, self.positives[row] as usize)
                })
                .collect(),
        }
    }

    /// Compares the crate with the formula.
    ///
    /// # Errors
    ///
    /// The first difference.
    pub fn check(&self, device: &Device) -> Result<(), String> {
        let contrast = self.contrast();
        let solution = solve(&contrast);
        let loss = self.config.init(device);
        let leaves: Vec<Tensor<2>> = (self.tensors.iter())
            .map(|values| {
                let shape = [values.len() / self.features, self.features];
                float_tensor::<2>(values, &shape, (device, self.dtype)).require_grad()
            })
            .collect();
        let value = self.run(&loss, &leaves, device);
        let error = self.error(&solution, &contrast);
        self.compare_loss(numbers(value.clone())[0], &solution, &contrast, error)?;
        let gradients = (value * self.upstream).backward();
        let is_plain = self.tensors.iter().flatten().all(|value| value.is_finite());
        if is_plain && error <= MOST_ERROR {
            self.compare_gradients(&gradients, &leaves, &solution, error)?;
            if self.config.learnable {
                let mut found = Vec::new();
                loss.visit(&mut Parameters(&gradients, &mut found));
                self.compare_sum("temperature", found[0], solution.of_scale, error)?;
            }
        }
        if self.form == Form::Momentum && is_plain && error <= MOST_ERROR {
            return self.compare_rows(&loss, &leaves, &solution, error);
        }
        Ok(())
    }

    fn run(&self, loss: &InfoNceLoss, leaves: &[Tensor<2>], device: &Device) -> Tensor<1> {
        let plain = device.clone().without_autodiff();
        let ints = |values: &[i64]| {
            let data = TensorData::new(values.to_vec(), [values.len()]);
            Tensor::<1, Int>::from_data(data, &plain)
        };
        let given = |at: usize| leaves[at].clone();
        match self.form {
            Form::Momentum => loss.forward(given(0), given(1), given(2)),
            Form::Ids => {
                let ids = SampleIds {
                    queries: ints(&self.query_ids),
                    negatives: ints(&self.negative_ids),
                };
                loss.forward_with_ids(given(0), given(1), given(2), ids)
            }
            Form::Pairs => loss.forward_pairs(given(0), given(1), ints(&self.positives)),
            _ => loss.forward_in_batch(given(0), given(1)),
        }
    }

    /// The dtype that the similarities are computed in. A learnt temperature is in f32.
    fn arithmetic(&self) -> DType {
        match (self.dtype, self.config.learnable) {
            (DType::F64, false) => DType::F64,
            _ => DType::F32,
        }
    }

    fn tolerance(&self) -> Tolerance {
        tolerance::of(self.arithmetic())
    }

    /// The largest error of a similarity: sums of as many products as there are features, of numbers that
    /// were divided by a length and by the temperature.
    fn error(&self, solution: &Solution, contrast: &Contrast) -> f64 {
        let roundings = self.features as f64 + 8.0;
        // The scale is the exponential of a rounded logarithm.
        let of_scale = match self.config.learnable {
            true => 1.0 + contrast.scale.ln().abs(),
            false => 1.0,
        };
        let size = |row: &Vec<f64>| row.iter().map(|x| x.abs()).sum::<f64>();
        let largest = match self.config.normalize {
            true => self.features as f64,
            false => {
                let rows = contrast.tensors.iter().flatten();
                let sizes = rows.map(size).filter(|size| size.is_finite());
                sizes.fold(0.0, f64::max).powi(2)
            }
        };
        let seen = solution.similarities.iter().flatten().map(|x| x.abs());
        let seen = seen.filter(|x| x.is_finite()).fold(0.0, f64::max);
        // No similarity is larger than the product of two lengths.
        let terms = (contrast.scale * largest).max(seen);
        let smallest = smallest_of(self.arithmetic());
        roundings * (self.tolerance().terms * of_scale * terms + smallest * contrast.scale.max(1.0))
    }

    fn compare_loss(
        &self,
        found: f64,
        solution: &Solution,
        contrast: &Contrast,
        error: f64,
    ) -> Result<(), String> {
        let expected = match (contrast.queries.is_empty(), &self.config.reduction) {
            (true, Reduction::Sum) => 0.0,
            (true, _) => f64::NAN,
            _ => solution.loss.value,
        };
        let tolerance = self.tolerance();
        let allowed = (tolerance.loss + 2.0 * error) * expected.abs() + tolerance.floor;
        let is_right = match error > MOST_ERROR {
            true => found.is_nan() == expected.is_nan(),
            false => agrees(found, expected, allowed, largest_of(self.arithmetic())),
        };
        match is_right {
            true => Ok(()),
            false => Err(format!("loss is {found:e}, expected {expected:e}")),
        }
    }

    fn compare_gradients(
        &self,
        gradients: &Gradients,
        leaves: &[Tensor<2>],
        solution: &Solution,
        error: f64,
    ) -> Result<(), String> {
        for (at, (leaf, expected)) in leaves.iter().zip(&solution.gradients).enumerate() {
            let found = match leaf.grad(gradients) {
                Some(gradient) => numbers(gradient),
                // A tensor without rows may have no part in the graph.
                None if leaf.dims()[0] == 0 => vec![],
                None => return Err(format!("tensor {at} has no gradient")),
            };
            let expected = expected.iter().flatten();
            for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
                let row = place / self.features;
                let name = format!("gradient {place} of tensor {at}, row {row}");
                self.compare_sum(&name, *found, *expected, error)?;
            }
        }
        Ok(())
    }

    fn compare_sum(&self, name: &str, found: f64, expected: Sum, error: f64) -> Result<(), String> {
        let value = expected.value * self.upstream;
        // A subnormal slope may be divided by the smallest length that the numbers here have.
        let floor = self.tolerance().floor * 2f64.powi(40) + tolerance::of(self.dtype).floor;
        let terms = expected.terms * self.upstream.abs();
        let of_projection = |dtype| tolerance::of_projection(dtype, &Device::flex());
        let relative = match self.arithmetic() {
            DType::F64 => of_projection(DType::F64),
            _ if self.dtype == DType::F64 => of_projection(DType::F32),
            _ => of_projection(self.dtype),
        };
        let allowed = (relative.gradient + 4.0 * error) * terms + floor;
        match agrees(found, value, allowed, largest_of(self.dtype)) {
            true => Ok(()),
            false => Err(format!("{name} is {found:e}, expected {value:e}")),
        }
    }

    /// Compares what a call gives for every row. A negative that equals the positive is before it.
    fn compare_rows(
        &self,
        loss: &InfoNceLoss,
        leaves: &[Tensor<2>],
        solution: &Solution,
        error: f64,
    ) -> Result<(), String> {
        let given = |at: usize| leaves[at].clone();
        let output = loss.forward_with_output(given(0), given(1), given(2));
        let integers = |tensor: Tensor<1, Int>| -> Vec<i64> { tensor.into_data().iter().collect() };
        let (lse, rank) = (numbers(output.lse), integers(output.target_rank));
        let margin = if self.is_exact() { 0.0 } else { 4.0 * error };
        for (row, similarities) in solution.similarities.iter().enumerate() {
            let expected = solution.lse[row];
            let allowed = self.tolerance().loss * (1.0 + expected.abs()) + 2.0 * error;
            if !agrees(lse[row], expected, allowed, largest_of(self.arithmetic())) {
                return Err(format!(
                    "log-sum-exp of row {row} is {:e}, expected {expected:e}",
                    lse[row]
                ));
            }
            let own = similarities[0];
            let is_near = |x: &&f64| margin > 0.0 && (**x - own).abs() <= margin;
            if similarities[1..].iter().any(|x| is_near(&x)) {
                continue;
            }
            let before = similarities[1..].iter().filter(|x| **x >= own).count() as i64;
            if rank[row] != before {
                return Err(format!(
                    "rank of row {row} is {}, expected {before}",
                    rank[row]
                ));
            }
        }
        Ok(())
    }

    /// Whether the similarities are computed without rounding: all numbers are few thirty-seconds, and the
    /// temperature is a power of 2.
    fn is_exact(&self) -> bool {
        let temperature = self.config.temperature;
        let is_short = |x: &f64| (x * 32.0).fract() == 0.0 && x.abs() <= 4.0;
        !self.config.normalize
            && !self.config.learnable
            && temperature.log2().fract() == 0.0
            && self.tensors.iter().flatten().all(is_short)
    }
}

/// Collects the gradients of parameters.
struct Parameters<'a>(&'a Gradients, &'a mut Vec<f64>);

impl ModuleVisitor for Parameters<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad(self.0) {
            self.1.extend(numbers(gradient));
        }
    }
}

#[cfg(test)]
mod tests {
    crate::code::has_bytes!(super::Case, crate::fixtures::contrasts(), 140);
}
