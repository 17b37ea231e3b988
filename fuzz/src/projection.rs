//! Problems whose logits a projection makes.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cross_entropy::{CrossEntropyLossConfig, ProjectedLogits};

use crate::bounds::Bounds;
use crate::code::{Code, Reader, Writer, thirty_seconds};
use crate::common::details::{RowNumbers, Rows};
use crate::common::problem::{Problem, Targets};
use crate::common::run::{Layout, float_tensor};
use crate::options::{
    FLOATS, code_options, code_targets, code_upstream, fit_weights, has_wrong_index,
};
use crate::projected::{Form, Projected};

/// Most logits, and most features of a row.
const MOST_LOGITS: usize = 1024;
const MOST_FEATURES: usize = 40;

/// A problem, and the form of its tensors.
#[derive(Clone)]
pub struct Case {
    pub projected: Projected,
    pub form: Form,
}

/// The long lists of numbers come last; the logits are products.
impl std::fmt::Debug for Case {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let projected = &self.projected;
        let problem = Problem {
            logits: vec![],
            targets: Targets::Indices(vec![]),
            ..projected.problem.clone()
        };
        formatter
            .debug_struct("Case")
            .field("form", &self.form)
            .field("features", &projected.features)
            .field("problem", &problem)
            .field("targets", &projected.problem.targets)
            .field("bias", &projected.bias)
            .field("input", &projected.input)
            .field("weight", &projected.weight)
            .finish()
    }
}

impl Case {
    fn smallest() -> Self {
        let problem = Problem {
            shape: vec![1, 1],
            class_dim: 1,
            logits: vec![0.0],
            targets: Targets::Indices(vec![0]),
            row_weights: None,
            config: CrossEntropyLossConfig::new(),
            tracked_targets: true,
            unreduced: false,
            upstream: vec![1.0],
        };
        Self {
            projected: Projected {
                input: vec![],
                weight: vec![],
                bias: None,
                features: 0,
                problem,
            },
            form: Form::chunked(None),
        }
    }

    pub fn plain(mut projected: Projected, dtype: DType) -> Self {
        fit_weights(&mut projected.problem, dtype);
        let form = Form {
            dtype,
            ..Form::chunked(None)
        };
        Self { projected, form }
    }

    pub fn decode(bytes: &[u8]) -> Self {
        let mut case = Self::smallest();
        case.code(&mut Reader::new(bytes));
        case.projected.project();
        case
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.clone().code(&mut writer);
        writer.bytes
    }

    fn code(&mut self, code: &mut impl Code) {
        self.code_shape(code);
        let layouts = [
            Layout::Contiguous,
            Layout::Permuted,
            Layout::Sliced,
            Layout::Flipped,
            Layout::Moved,
        ];
        code.one_of(&mut self.form.dtype, &FLOATS);
        code.one_of(&mut self.form.layout, &layouts);
        let chunks = [None, Some(1), Some(7), Some(3), Some(64)];
        code.one_of(&mut self.form.chunk, &chunks);
        let problem = &mut self.projected.problem;
        code_options(code, problem, self.form.dtype);
        for index in &mut problem.config.ignore_indices {
            // A number of the default integers.
            *index = i64::from(*index as i32);
        }
        code_upstream(code, problem, self.form.dtype);
        code_targets(code, problem, self.form.dtype);
        self.code_numbers(code);
    }

    /// Rows in one dimension or two, features, classes.
    fn code_shape(&mut self, code: &mut impl Code) {
        let Projected {
            problem, features, ..
        } = &mut self.projected;
        let mut rank = problem.shape.len();
        code.one_of(&mut rank, &[2, 3]);
        problem.shape.resize(rank, 1);
        problem.class_dim = rank - 1;
        for size in &mut problem.shape {
            code.size(size);
        }
        // Where a view becomes one of more dimensions, Burn takes a size of 0 for another word.
        let least = if rank == 2 { 0 } else { 1 };
        for size in &mut problem.shape {
            *size = (*size).max(least);
        }
        let classes = &mut problem.shape[rank - 1];
        *classes = (*classes).max(1);
        while problem.shape.iter().product::<usize>() > MOST_LOGITS {
            let largest = problem
                .shape
                .iter_mut()
                .max()
                .expect("there are at least 2");
            *largest = largest.div_ceil(2);
        }
        code.size(features);
        *features = (*features).clamp(least, MOST_FEATURES);
        let mut has_bias = self.projected.bias.is_some();
        code.flag(&mut has_bias);
        let bias = self.projected.bias.take().unwrap_or_default();
        self.projected.bias = has_bias.then_some(bias);
    }

    /// Weights are finite. A row of the input and a class of the bias may be spoiled by themselves.
    fn code_numbers(&mut self, code: &mut impl Code) {
        let dtype = self.form.dtype;
        let Projected {
            input,
            weight,
            bias,
            features,
            problem,
        } = &mut self.projected;
        let (rows, classes) = (problem.rows(), problem.classes());
        let is_logit = problem.config.logits;
        let mut numbers = |values: &mut Vec<f64>, length: usize, may_spoil: bool| {
            values.resize(length, 0.0);
            for value in values {
                code.number(value, dtype, thirty_seconds);
                let is_kept = match (is_logit, value.is_finite()) {
                    (true, true) => value.abs() <= 2f64.powi(20),
                    (true, false) => may_spoil,
                    // Sums of these are probabilities, more or less, and no terms of theirs cancel.
                    (false, _) => (1.0 / 64.0..=16.0).contains(value),
                };
                if !is_kept {
                    *value = 0.5;
                }
            }
        };
        numbers(input, rows * *features, true);
        numbers(weight, *features * classes, false);
        if let Some(bias) = bias {
            numbers(bias, classes, true);
        }
    }

    /// Compares the crate with the oracle.
    ///
    /// # Errors
    ///
    /// The first difference.
    pub fn check(&self, device: &Device) -> Result<(), String> {
        if has_wrong_index(&self.projected.problem) {
            return Ok(());
        }
        let bounds = Bounds::new(&self.projected, self.form.dtype);
        bounds.compare(&self.projected.found(self.form, device))?;
        if !self
            .projected
            .problem
            .upstream
            .iter()
            .all(|upstream| upstream.is_finite())
        {
            return Ok(());
        }
        let difference = bounds.compare_rows(self.found_rows(device));
        difference.map_err(|difference| format!("with details: {difference}"))
    }

    fn found_rows(&self, device: &Device) -> RowNumbers {
        let Projected {
            input,
            weight,
            bias,
            features,
            problem,
        } = &self.projected;
        let (rows, classes) = (problem.rows(), problem.classes());
        let options = (device, self.form.dtype);
        let bias = bias
            .as_ref()
            .map(|bias| float_tensor::<1>(bias, &[classes], options));
        let input = float_tensor::<2>(input, &[rows, *features], options);
        let weight = float_tensor::<2>(weight, &[*features, classes], options);
        let logits = ProjectedLogits::new(input, weight).with_bias(bias);
        let logits = match self.form.chunk {
            Some(rows) => logits.with_chunk_rows(rows),
            None => logits,
        };
        let loss = problem.config.clone().with_class_dim(1).init(device);
        let output = match &problem.targets {
            Targets::Indices(indices) => {
                let data = TensorData::new(indices.clone(), [rows]);
                loss.forward_with_entropy(logits, Tensor::<1, Int>::from_data(data, device))
            }
            Targets::Distributions(shares) => {
                let shares = float_tensor::<2>(shares, &[rows, classes], options);
                loss.forward_with_entropy(logits, shares)
            }
        };
        output.into_details().rows
    }
}

#[cfg(test)]
mod tests {
    crate::code::has_bytes!(super::Case, crate::fixtures::projections(), 160);
}
