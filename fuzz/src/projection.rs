//! Problems whose logits a projection makes.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device};
use burn_cross_entropy::{CrossEntropyLossConfig, RowFactor};

use crate::asked::{code_asked, code_teacher, fit_shares};
use crate::bounds::Bounds;
use crate::code::{Code, Reader, Writer, eighths, thirty_seconds};
use crate::common::problem::{Problem, Targets};
use crate::common::row_value::Asked;
use crate::common::run::Layout;
use crate::common::teacher::Teacher;
use crate::options::{
    FLOATS, code_options, code_row_factor, code_row_weights, code_smoothing_over, code_targets,
    code_upstream, fit_weights, has_wrong_index,
};
use crate::projected::{Form, Projected};
use crate::projected_call::{Computed, computed};

/// Most logits, and most features of a row.
const MOST_LOGITS: usize = 1024;
const MOST_FEATURES: usize = 40;

/// A problem, and the form of its tensors.
#[derive(Clone)]
pub struct Case {
    pub projected: Projected,
    pub form: Form,
    /// Whether distributions are given as sparse ones.
    pub is_sparse: bool,
    pub asked: Asked,
    /// The target, in place of the problem's own.
    pub teacher: Option<Teacher>,
    /// The projection of the teacher's logits, where they are no tensor.
    pub taught_by: Option<Projected>,
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
            .field("is_sparse", &self.is_sparse)
            .field("asked", &self.asked)
            .field("features", &projected.features)
            .field("problem", &problem)
            .field("targets", &projected.problem.targets)
            .field("bias", &projected.bias)
            .field("input", &projected.input)
            .field("weight", &projected.weight)
            .field("teacher", &self.teacher)
            .field("taught_by", &self.taught_by.as_ref().map(numbers_of))
            .finish()
    }
}

/// The features, the input, the weight and the bias.
fn numbers_of(projected: &Projected) -> (usize, [&Vec<f64>; 2], &Option<Vec<f64>>) {
    let Projected {
        features,
        input,
        weight,
        bias,
        ..
    } = projected;
    (*features, [input, weight], bias)
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
            is_sparse: false,
            asked: Asked::Loss,
            teacher: None,
            taught_by: None,
        }
    }

    pub fn plain(mut projected: Projected, dtype: DType) -> Self {
        fit_weights(&mut projected.problem, dtype);
        let form = Form {
            dtype,
            ..Form::chunked(None)
        };
        Self {
            projected,
            form,
            ..Self::smallest()
        }
    }

    /// The same numbers under one of the questions that the fixtures do not ask, so that the fuzzer begins with each.
    pub fn asked_otherwise(mut self, at: usize) -> Self {
        let problem = &mut self.projected.problem;
        let has_logits = problem.config.logits;
        match at % 6 {
            0 => self.asked = Asked::LogProb,
            1 if has_logits => self.asked = Asked::Entropy,
            2 if has_logits => self.asked = Asked::LogSumExp,
            3 | 4 if has_logits => self = self.with_teacher(at),
            _ => {
                let weights = [0.5, 0.0, 3.0, 1.0].into_iter().cycle();
                problem.row_weights = Some(weights.take(problem.rows()).collect());
                self.is_sparse = true;
            }
        }
        let problem = &mut self.projected.problem;
        if self.asked != Asked::Loss {
            problem.unreduced = true;
            problem.config.reduction = Reduction::Mean;
            problem.upstream.resize(problem.rows(), -1.75);
        }
        self
    }

    /// A teacher of the opposite opinion at another temperature, as a tensor or as a projection.
    fn with_teacher(mut self, at: usize) -> Self {
        let problem = &mut self.projected.problem;
        problem.targets = Targets::Distributions(vec![]);
        problem.config.ignore_indices = vec![-100];
        problem.tracked_targets = false;
        let can_diverge = problem.config.weight.is_none() && problem.config.label_smoothing == 0.0;
        let logits = problem.logits.iter().map(|x| f64::from(-*x as f32));
        self.teacher = Some(Teacher {
            logits: logits.collect(),
            temperature: 2.5,
            is_squared: true,
            is_divergence: can_diverge,
        });
        self.taught_by = (at % 6 == 3).then(|| {
            let mut opposite = self.projected.clone();
            let bias = opposite.bias.iter_mut().flatten();
            let numbers = opposite.weight.iter_mut().chain(bias);
            numbers.for_each(|number| *number = -*number);
            opposite
        });
        self.fit_teacher();
        self
    }

    pub fn decode(bytes: &[u8]) -> Self {
        let mut case = Self::smallest();
        case.code(&mut Reader::new(bytes));
        case.projected.project();
        case.fit_teacher();
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
        let dtype = self.form.dtype;
        let problem = &mut self.projected.problem;
        code_options(code, problem, dtype);
        for index in &mut problem.config.ignore_indices {
            // A number of the default integers.
            *index = i64::from(*index as i32);
        }
        code_asked(code, &mut self.asked, problem);
        code_upstream(code, problem, dtype);
        code_targets(code, problem, &mut self.teacher, dtype);
        if let Targets::Indices(indices) = &mut problem.targets {
            indices
                .iter_mut()
                .for_each(|index| *index = i64::from(*index as i32));
        }
        code.flag(&mut self.is_sparse);
        code_row_weights(code, problem, dtype);
        code_row_factor(code, problem);
        code_smoothing_over(code, problem);
        // A factor of a tiny probability beside a huge smoothed loss is not promised.
        if problem.config.label_smoothing != 0.0 && problem.config.logit_scale > 2f64.powi(20) {
            problem.config.row_factor = RowFactor::None;
        }
        self.code_teacher(code);
        self.code_numbers(code);
        self.code_taught(code);
    }

    /// A teacher without its numbers, and the size of its projection.
    fn code_teacher(&mut self, code: &mut impl Code) {
        let problem = &mut self.projected.problem;
        let Some(teacher) = &mut self.teacher else {
            self.taught_by = None;
            return;
        };
        code_teacher(code, teacher, problem);
        let mut is_projected = self.taught_by.is_some();
        code.flag(&mut is_projected);
        if !is_projected {
            self.taught_by = None;
            return;
        }
        let mut taught_by = self.taught_by.take().unwrap_or(Projected {
            input: vec![],
            weight: vec![],
            bias: None,
            features: 1,
            problem: problem.clone(),
        });
        code.size(&mut taught_by.features);
        taught_by.features = taught_by.features.clamp(1, MOST_FEATURES);
        let mut has_bias = taught_by.bias.is_some();
        code.flag(&mut has_bias);
        let bias = taught_by.bias.take().unwrap_or_default();
        taught_by.bias = has_bias.then_some(bias);
        self.taught_by = Some(taught_by);
    }

    /// The numbers of a teacher. Those of a projection are small, but for spoiled rows and masks.
    fn code_taught(&mut self, code: &mut impl Code) {
        let dtype = self.form.dtype;
        let problem = &self.projected.problem;
        let (rows, classes) = (problem.rows(), problem.classes());
        let Some(teacher) = &mut self.teacher else {
            return;
        };
        let Some(taught_by) = &mut self.taught_by else {
            teacher.logits.resize(rows * classes, 0.0);
            for logit in &mut teacher.logits {
                code.number(logit, dtype, eighths);
                if logit.is_finite() && logit.abs() > f64::from(f32::MAX) {
                    *logit = f64::from(f32::MAX).copysign(*logit);
                }
            }
            return;
        };
        let features = taught_by.features;
        let mut numbers = |values: &mut Vec<f64>, length: usize, may_spoil: bool| {
            values.resize(length, 0.0);
            for value in values {
                code.number(value, dtype, thirty_seconds);
                if value.is_finite() && value.abs() > 4.0 || !value.is_finite() && !may_spoil {
                    *value = 0.5;
                }
            }
        };
        numbers(&mut taught_by.input, rows * features, true);
        numbers(&mut taught_by.weight, features * classes, false);
        if let Some(bias) = &mut taught_by.bias {
            numbers(bias, classes, true);
        }
    }

    /// The logits of a teacher, after those of the student.
    fn fit_teacher(&mut self) {
        let problem = &self.projected.problem;
        match (&mut self.teacher, &mut self.taught_by) {
            (Some(teacher), Some(taught_by)) => {
                taught_by.problem = problem.clone();
                taught_by.project();
                teacher.logits.clone_from(&taught_by.problem.logits);
            }
            (Some(teacher), None) => fit_shares(teacher, problem, self.form.dtype),
            _ => {}
        }
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
        let bounds = Bounds::new(self);
        let Computed { mut found, rows } = computed(self, device);
        if self.asked == Asked::Loss
            && let Some(teacher) = &self.teacher
        {
            teacher.undo(&self.projected.problem, &mut found.loss);
        }
        bounds.compare(&found)?;
        let difference = rows.map_or(Ok(()), |rows| bounds.compare_rows(rows));
        difference.map_err(|difference| format!("with details: {difference}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projected::Found;

    crate::code::has_bytes!(super::Case, crate::fixtures::projections(), 160);

    /// One number that is off by a part in 200 is a difference, whatever is asked.
    #[test]
    fn the_bounds_leave_no_room_for_another_number() {
        let device = Device::flex().autodiff();
        let mut missed = Vec::new();
        for case in crate::fixtures::projections() {
            let bounds = Bounds::new(&case);
            let compared = |spoil: fn(&mut Found) -> &mut Vec<f64>, factor: f64| {
                let mut found = computed(&case, &device).found;
                if let (Asked::Loss, Some(teacher)) = (case.asked, &case.teacher) {
                    teacher.undo(&case.projected.problem, &mut found.loss);
                }
                let sizes = spoil(&mut found).iter_mut();
                let largest = sizes.max_by(|a, b| a.abs().total_cmp(&b.abs()))?;
                let is_number = largest.is_finite() && largest.abs() > 1e-3;
                *largest *= factor;
                is_number.then(|| bounds.compare(&found))
            };
            for spoil in [
                (|found| &mut found.loss) as fn(&mut Found) -> &mut Vec<f64>,
                |found| &mut found.input,
                |found| &mut found.weight,
            ] {
                if let Some(right) = compared(spoil, 1.0) {
                    right.expect("the crate agrees");
                    let wrong = compared(spoil, 1.005).expect("the same number");
                    if wrong.is_ok() {
                        missed.push(format!("{case:?}"));
                    }
                }
            }
        }
        let first = missed.first();
        assert!(missed.is_empty(), "{} are missed: {first:?}", missed.len());
    }
}
