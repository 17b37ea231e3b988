//! Problems over logits.

use burn::nn::loss::Reduction;
use burn::tensor::{DType, Device};
use burn_cross_entropy::{CrossEntropyLossConfig, RowFactor};

use crate::asked::{code_asked, code_teacher, fit_shares};
use crate::code::{Code, Reader, Writer, eighths, shares};
use crate::common::details::Details;
use crate::common::expected::{Dtypes, Expected};
use crate::common::problem::{Outcome, Problem, Targets};
use crate::common::row_value::Asked;
use crate::common::run::{Call, Form, Layout};
use crate::common::teacher::Teacher;
use crate::common::{details, oracle, run};
use crate::excuses::Excuses;
use crate::options::{
    FLOATS, code_options, code_row_factor, code_row_weights, code_smoothing_over, code_targets,
    code_upstream, fit_weights, has_wrong_index, is_probability,
};
use crate::values;

/// Most logits of a problem: a few blocks of rows with few classes, or a few rows of many, and a fraction of a
/// millisecond for the oracle.
const MOST_LOGITS: usize = 2048;

/// The integers that Flex has.
const INTS: [DType; 8] = [
    DType::I64,
    DType::I32,
    DType::I16,
    DType::I8,
    DType::U64,
    DType::U32,
    DType::U16,
    DType::U8,
];

/// A problem and the form of its tensors.
#[derive(Clone)]
pub struct Case {
    pub problem: Problem,
    pub asked: Asked,
    /// The target, in place of the problem's own.
    pub teacher: Option<Teacher>,
    pub form: Form,
}

/// The long lists of numbers come last.
impl std::fmt::Debug for Case {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let problem = Problem {
            logits: vec![],
            targets: Targets::Indices(vec![]),
            ..self.problem.clone()
        };
        formatter
            .debug_struct("Case")
            .field("form", &self.form)
            .field("asked", &self.asked)
            .field("problem", &problem)
            .field("teacher", &self.teacher)
            .field("targets", &self.problem.targets)
            .field("logits", &self.problem.logits)
            .finish()
    }
}

impl Case {
    /// The problem with one logit.
    fn smallest() -> Self {
        let config = CrossEntropyLossConfig::new().with_class_dim(0);
        Self {
            problem: Problem {
                shape: vec![1],
                class_dim: 0,
                logits: vec![0.0],
                targets: Targets::Indices(vec![0]),
                row_weights: None,
                config,
                tracked_targets: true,
                unreduced: false,
                upstream: vec![1.0],
            },
            asked: Asked::Loss,
            teacher: None,
            form: Form::default(),
        }
    }

    /// A problem in contiguous tensors.
    pub fn plain(mut problem: Problem, float: DType) -> Self {
        fit_weights(&mut problem, float);
        let form = Form {
            float,
            shares: Some(float),
            int: Some(DType::I64),
            ..Form::default()
        };
        Self {
            problem,
            form,
            ..Self::smallest()
        }
    }

    pub fn decode(bytes: &[u8]) -> Self {
        let mut case = Self::smallest();
        case.code(&mut Reader::new(bytes));
        case
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.clone().code(&mut writer);
        writer.bytes
    }

    fn code(&mut self, code: &mut impl Code) {
        self.code_shape(code);
        self.code_form(code);
        let Self {
            problem,
            form,
            asked,
            teacher,
        } = self;
        let shares_dtype = form.shares.unwrap_or(form.float);
        code_options(code, problem, form.float);
        code_asked(code, asked, problem);
        code_upstream(code, problem, form.float);
        code_targets(code, problem, teacher, shares_dtype);
        code_row_weights(code, problem, form.float);
        code_row_factor(code, problem);
        code_smoothing_over(code, problem);
        if let Some(teacher) = teacher {
            code_teacher(code, teacher, problem);
        }
        self.code_logits(code);
        if let Some(teacher) = &mut self.teacher {
            teacher.logits.resize(self.problem.logits.len(), 0.0);
            for logit in &mut teacher.logits {
                code.number(logit, shares_dtype, eighths);
                *logit = possible_logit(*logit, f32::MAX.into(), false);
            }
            fit_shares(teacher, &self.problem, self.form.float);
        }
        self.fit_ints();
    }

    fn code_logits(&mut self, code: &mut impl Code) {
        let Self { problem, form, .. } = self;
        problem.logits.resize(problem.shape.iter().product(), 0.0);
        let is_capped = problem.config.logit_softcap.is_some();
        // The z-loss has the square of a logit, and need not be right where that is beyond f32. A factor may make a
        // number of a smoothed loss near the end of f32 and of a probability below its beginning.
        let is_smoothed = problem.config.label_smoothing != 0.0;
        if is_smoothed && problem.config.logit_scale > 2f64.powi(20) {
            problem.config.row_factor = RowFactor::None;
        }
        let has_factor = problem.config.row_factor != RowFactor::None;
        let is_squared = problem.config.z_loss != 0.0 || self.teacher.is_some();
        let largest = match is_squared || is_smoothed && has_factor {
            false => f64::from(f32::MAX),
            true => 2f64.powi(40),
        };
        for logit in &mut problem.logits {
            if problem.config.logits {
                code.number(logit, form.float, eighths);
                *logit = possible_logit(*logit, largest, is_capped);
            } else {
                code.number(logit, form.float, shares);
                if !is_probability(*logit) {
                    *logit = 0.5;
                }
            }
        }
    }

    fn code_shape(&mut self, code: &mut impl Code) {
        let problem = &mut self.problem;
        let mut rank = problem.shape.len();
        // The details of the rows have at most 5 dimensions in the tests.
        code.one_of(&mut rank, &[2, 1, 3, 4, 5, 6]);
        problem.shape.resize(rank, 1);
        let dimensions: Vec<usize> = (0..rank).rev().collect();
        code.one_of(&mut problem.class_dim, &dimensions);
        for size in &mut problem.shape {
            code.size(size);
        }
        let classes = &mut problem.shape[problem.class_dim];
        *classes = (*classes).max(1);
        // Of sizes beyond all memory the product itself is one. A tensor without elements counts its other sizes.
        let logits = |shape: &[usize]| {
            let sizes = shape.iter().map(|size| (*size).max(1));
            sizes.fold(1usize, |product, size| product.saturating_mul(size))
        };
        while logits(&problem.shape) > MOST_LOGITS {
            let largest = problem
                .shape
                .iter_mut()
                .max()
                .expect("the rank is at least 1");
            *largest = largest.div_ceil(2);
        }
        let mut from_the_end = problem.config.class_dim < 0;
        code.flag(&mut from_the_end);
        problem.config.class_dim = match from_the_end {
            true => problem.class_dim as isize - rank as isize,
            false => problem.class_dim as isize,
        };
    }

    fn code_form(&mut self, code: &mut impl Code) {
        const LAYOUTS: [Layout; 5] = [
            Layout::Contiguous,
            Layout::Permuted,
            Layout::Sliced,
            Layout::Flipped,
            Layout::Moved,
        ];
        let form = &mut self.form;
        code.one_of(&mut form.float, &FLOATS);
        let mut shares = form.shares.unwrap_or(form.float);
        code.one_of(&mut shares, &FLOATS);
        form.shares = Some(shares);
        let mut int = form.int.unwrap_or(DType::I64);
        code.one_of(&mut int, &INTS);
        form.int = Some(int);
        code.one_of(&mut form.layout, &LAYOUTS);
        code.one_of(&mut form.target_layout, &LAYOUTS);
        code.flag(&mut form.unsqueezed);
        code.flag(&mut form.owned);
        code.flag(&mut form.sparse);
    }

    /// Takes the widest integers where an index is beyond the others.
    fn fit_ints(&mut self) {
        let range = match self.form.int {
            Some(DType::I8) => (i8::MIN.into(), i8::MAX.into()),
            Some(DType::I16) => (i16::MIN.into(), i16::MAX.into()),
            Some(DType::I32) => (i32::MIN.into(), i32::MAX.into()),
            Some(DType::U8) => (0, u8::MAX.into()),
            Some(DType::U16) => (0, u16::MAX.into()),
            Some(DType::U32) => (0, u32::MAX.into()),
            Some(DType::U64) => (0, i64::MAX),
            _ => (i64::MIN, i64::MAX),
        };
        if let Targets::Indices(indices) = &self.problem.targets
            && !indices
                .iter()
                .all(|index| (range.0..=range.1).contains(index))
        {
            self.form.int = Some(DType::I64);
        }
    }

    /// Compares the crate with the oracle.
    ///
    /// An upstream gradient may be infinite or NaN. Then only ignored rows have a known gradient: a gradient
    /// too small for the dtype makes NaN of infinity.
    ///
    /// # Errors
    ///
    /// The first difference.
    pub fn check(&self, device: &Device) -> Result<(), String> {
        let Self { problem, asked, .. } = self;
        if has_wrong_index(problem) {
            // Only the loss has a form that returns its errors.
            let is_computed =
                *asked == Asked::Loss && run::try_solve_in(problem, self.form, device).is_ok();
            return match is_computed {
                true => Err("an index of no class was computed".to_string()),
                false => Ok(()),
            };
        }
        let finite = self.with_finite_upstream();
        if asked.is_of_logits() {
            let plain = asked.problem(&finite);
            let (found, expected) = (self.found(&finite, device), asked.solve(&plain));
            return values::compare(&plain, &found, &expected, self.form.float);
        }
        if problem.upstream != finite.upstream {
            self.check_ignored(&self.found(problem, device))?;
        }
        let teacher = match asked {
            Asked::Loss => self.teacher.clone(),
            _ => self.teacher.as_ref().map(Teacher::plain),
        };
        self.check_finite(&finite, teacher.as_ref(), device)
    }

    /// Compares the crate with the oracle where all upstream gradients are finite.
    fn check_finite(
        &self,
        given: &Problem,
        teacher: Option<&Teacher>,
        device: &Device,
    ) -> Result<(), String> {
        let float = self.form.float;
        let over_shares = teacher.map_or_else(|| given.clone(), |teacher| teacher.problem(given));
        let problem = self.asked.problem(&over_shares);
        let solve = |problem: &Problem| match teacher {
            Some(teacher) => teacher.solve(problem),
            None => oracle::solve(problem),
        };
        let outcome = solve(&problem);
        let rows = match teacher {
            Some(teacher) => teacher.details(&problem),
            None => oracle::details(&problem),
        };
        let expected = Expected {
            problem: &problem,
            outcome: &outcome,
            rows: &rows,
            solve: &solve,
        };
        let dtypes = Dtypes {
            logits: float,
            shares: self.form.shares.unwrap_or(float),
        };
        let excuses = Excuses {
            problem: &problem,
            expected: &outcome,
            rows: &rows,
            float,
        };
        let mut found = self.found(given, device);
        if let Some(teacher) = teacher {
            teacher.undo(given, &mut found.loss);
        }
        if expected.compare(&found, dtypes).is_err() {
            excuses.loss_and_gradients(&mut found);
            expected.compare(&found, dtypes)?;
        }
        if self.asked != Asked::Loss {
            return Ok(());
        }
        let mut found = self.found_details(given, teacher, device);
        if expected.compare_details(&found, dtypes).is_err() {
            excuses.details(&mut found, &rows);
            let excused = |row: &usize| teacher.is_some_and(|own| own.is_tied(given, *row));
            for row in (0..rows.len()).filter(excused) {
                found.rows.target[row] = rows[row].target;
                found.rows.rank[row] = rows[row].rank;
            }
            let difference = expected.compare_details(&found, dtypes);
            return difference.map_err(|difference| format!("with details: {difference}"));
        }
        Ok(())
    }

    /// What the crate computes.
    fn found(&self, problem: &Problem, device: &Device) -> Outcome {
        let call = Call {
            asked: self.asked,
            teacher: self.teacher.as_ref(),
        };
        let found = run::try_call(problem, self.form, call, device);
        found.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The details, those of a teacher as of the problem over its probabilities.
    fn found_details(
        &self,
        given: &Problem,
        teacher: Option<&Teacher>,
        device: &Device,
    ) -> Details {
        let mut found = details::beside(teacher, given, self.form, device);
        if let Some(teacher) = teacher {
            let mut reduced = given.clone();
            reduced.unreduced = false;
            teacher.undo(&reduced, &mut found.loss);
            reduced.config.reduction = Reduction::Mean;
            teacher.undo(&reduced, &mut found.normalized.0);
            found.upstream *= teacher.square();
        }
        found
    }

    fn with_finite_upstream(&self) -> Problem {
        let mut problem = self.problem.clone();
        for upstream in problem
            .upstream
            .iter_mut()
            .filter(|upstream| !upstream.is_finite())
        {
            *upstream = 1.0;
        }
        problem
    }

    /// Ignored rows have a gradient of 0.
    fn check_ignored(&self, found: &Outcome) -> Result<(), String> {
        let classes = self.problem.classes();
        for row in (0..self.problem.rows()).filter(|row| self.problem.is_ignored(*row)) {
            let at = |class| self.problem.at(row, class);
            if (0..classes).any(|class| found.logits_gradient[at(class)] != 0.0) {
                return Err(format!("row {row} is ignored, and its gradient is not 0"));
            }
        }
        Ok(())
    }
}

/// A logit of f64 is a number of f32 in size, so that differences and squares are numbers of f64. With a
/// softcap it is not much smaller either: the crate's `tanh` of f64 has few digits left below 1e-200.
fn possible_logit(logit: f64, largest: f64, is_capped: bool) -> f64 {
    if logit.is_finite() && logit.abs() > largest {
        largest.copysign(logit)
    } else if is_capped && logit.abs() < 2f64.powi(-149) {
        0.0
    } else {
        logit
    }
}

#[cfg(test)]
mod tests {
    crate::code::has_bytes!(super::Case, crate::fixtures::losses(), 900);
}
