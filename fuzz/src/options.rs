//! What problems over logits and over a projection have in common: options, targets, upstream gradients.

use burn::nn::loss::Reduction;
use burn::tensor::DType;
use burn_cross_entropy::{EmptyReduction, RowFactor, SmoothingOver};

use crate::code::{Code, shares};
use crate::common::problem::{Problem, Targets};
use crate::common::teacher::Teacher;

/// The dtypes of logits, features and distributions.
pub const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

/// Upstream gradients. Ignored rows have a gradient of 0 under any of them.
const UPSTREAM: [f64; 9] = [
    1.0,
    2.0,
    -0.3,
    0.0,
    -1.75,
    1e-3,
    1024.0,
    f64::NAN,
    f64::INFINITY,
];

/// Whether a number is a factor that f32 holds, too, with all its digits.
fn is_factor(value: f64) -> bool {
    value.is_sign_positive() && (value as f32).is_normal()
}

/// Everything but the shape, the logits and the targets. Sizes are known.
pub fn code_options(code: &mut impl Code, problem: &mut Problem, dtype: DType) {
    code_reduction(code, problem);
    code_arithmetic(code, problem);
    let classes = problem.classes();
    let config = &mut problem.config;
    let mut is_weighed = config.weight.is_some();
    code.flag(&mut is_weighed);
    config.weight = is_weighed.then(|| {
        let mut weights = config.weight.take().unwrap_or_default();
        weights.resize(classes, 0.0);
        for weight in &mut weights {
            let mut number = f64::from(*weight);
            code.number(&mut number, DType::F32, shares);
            *weight = possible_weight(number, dtype);
        }
        weights
    });
    let ignored = &mut config.ignore_indices;
    let mut number = ignored.len();
    code.one_of(&mut number, &[0, 1, 2, 3]);
    ignored.resize(number, 0);
    ignored.iter_mut().for_each(|index| code.integer(index));
}

/// A moderate weight. In f64 it is a multiple of 1/128, because the sum of the weights is a number of f32, and
/// so it has to be one without rounding.
fn possible_weight(number: f64, dtype: DType) -> f32 {
    let number = number.abs();
    let is_moderate = number == 0.0 || (2f64.powi(-20)..=1024.0).contains(&number);
    match dtype {
        _ if !is_moderate => 1.0,
        DType::F64 => ((number * 128.0).round() / 128.0) as f32,
        _ => number as f32,
    }
}

/// Gives a problem that was not made of bytes the weights that it can have.
pub fn fit_weights(problem: &mut Problem, dtype: DType) {
    for weight in problem.config.weight.iter_mut().flatten() {
        *weight = possible_weight(f64::from(*weight), dtype);
    }
    for weight in problem.row_weights.iter_mut().flatten() {
        *weight = possible_weight(*weight, dtype).into();
    }
}

fn code_reduction(code: &mut impl Code, problem: &mut Problem) {
    const MEAN: [u8; 4] = [0, 1, 2, 3];
    let config = &mut problem.config;
    let mut reduction = match (&config.reduction, problem.unreduced) {
        (_, true) => 1,
        (Reduction::Sum, false) => 2,
        (Reduction::BatchMean, false) => 3,
        _ => 0,
    };
    code.one_of(&mut reduction, &MEAN);
    problem.unreduced = reduction == 1;
    config.reduction = match reduction {
        2 => Reduction::Sum,
        3 => Reduction::BatchMean,
        _ => Reduction::Mean,
    };
    let mut is_zero = matches!(config.empty, EmptyReduction::Zero);
    code.flag(&mut is_zero);
    config.empty = match is_zero {
        true => EmptyReduction::Zero,
        false => EmptyReduction::Nan,
    };
}

fn code_arithmetic(code: &mut impl Code, problem: &mut Problem) {
    let config = &mut problem.config;
    let mut smoothing = config.label_smoothing;
    code.option(&mut smoothing, &[0.0, 0.1, 1.0, 0.5], |value| {
        // A share of the smoothing is a number of f32 with all its digits.
        (2f64.powi(-20)..=1.0).contains(&value)
    });
    config.label_smoothing = smoothing;
    code.flag(&mut config.logits);
    if !config.logits {
        config.logit_scale = 1.0;
        config.logit_softcap = None;
        config.z_loss = 0.0;
        return;
    }
    let mut scale = config.logit_scale;
    let scales = [1.0, 0.5, 0.7, 1.5, 0.1, 1e-30, 2f64.powi(126)];
    code.option(&mut scale, &scales, is_factor);
    config.logit_scale = scale;
    // 0 stands for no cap.
    let mut cap = config.logit_softcap.unwrap_or(0.0);
    code.option(&mut cap, &[0.0, 4.0, 30.0, 1.0, 1e-3], is_factor);
    config.logit_softcap = (cap != 0.0).then_some(cap);
    let mut z_loss = config.z_loss;
    code.option(&mut z_loss, &[0.0, 0.02, 1e-4, 2.5], |value| {
        (2f64.powi(-20)..=1024.0).contains(&value)
    });
    config.z_loss = z_loss;
    // The slopes of a capped logit and of a z-loss are products with the scale, of which the others may be too
    // small for f32, or too large.
    if (cap != 0.0 || z_loss != 0.0) && !(1e-6..=1e6).contains(&scale) {
        config.logit_scale = 1.0;
    }
}

/// The gradients of the loss, in its dtype.
pub fn code_upstream(code: &mut impl Code, problem: &mut Problem, dtype: DType) {
    let number = match problem.unreduced {
        true => problem.rows(),
        false => 1,
    };
    problem.upstream.resize(number, 1.0);
    for upstream in &mut problem.upstream {
        let is_usual = UPSTREAM
            .iter()
            .position(|usual| usual.total_cmp(upstream).is_eq());
        let mut byte = is_usual.map_or(u8::MAX, |at| at as u8);
        code.item(&mut byte);
        if byte < u8::MAX {
            *upstream = UPSTREAM[usize::from(byte) % UPSTREAM.len()];
        } else {
            code.bits(upstream, DType::F64);
        }
        // A moderate size keeps products with a gradient within the range of half precision.
        let is_moderate = (2f64.powi(-20)..2f64.powi(20)).contains(&upstream.abs());
        if byte == u8::MAX && !is_moderate {
            *upstream = 1.0;
        }
        if dtype != DType::F64 {
            *upstream = f64::from(*upstream as f32);
        }
    }
}

/// The kinds of targets.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Indices,
    Distributions,
    Taught,
}

/// The targets of all rows, but for the logits of a teacher: then there are no distributions. An index may be that of
/// no class.
pub fn code_targets(
    code: &mut impl Code,
    problem: &mut Problem,
    teacher: &mut Option<Teacher>,
    shares_dtype: DType,
) {
    let mut kind = match (&problem.targets, &teacher) {
        (_, Some(_)) => Kind::Taught,
        (Targets::Indices(_), None) => Kind::Indices,
        (Targets::Distributions(_), None) => Kind::Distributions,
    };
    code.one_of(
        &mut kind,
        &[Kind::Indices, Kind::Distributions, Kind::Taught],
    );
    if kind == Kind::Taught && !problem.config.logits {
        kind = Kind::Distributions;
    }
    *teacher = (kind == Kind::Taught).then(|| teacher.take().unwrap_or(Teacher::SMALLEST));
    let (rows, classes) = (problem.rows(), problem.classes());
    match (kind, &problem.targets) {
        (Kind::Taught, _) => {
            problem.targets = Targets::Distributions(Vec::new());
            problem.config.ignore_indices = vec![-100];
            problem.tracked_targets = false;
            return;
        }
        (Kind::Distributions, Targets::Indices(_)) => {
            problem.targets = Targets::Distributions(Vec::new());
        }
        (Kind::Indices, Targets::Distributions(_)) => {
            problem.targets = Targets::Indices(Vec::new());
        }
        _ => {}
    }
    match &mut problem.targets {
        Targets::Indices(indices) => {
            indices.resize(rows, 0);
            for index in indices {
                code_index(code, index, classes, &problem.config.ignore_indices);
            }
            problem.tracked_targets = true;
        }
        Targets::Distributions(values) => {
            // Other targets to ignore are refused beside distributions.
            problem.config.ignore_indices = vec![-100];
            code.flag(&mut problem.tracked_targets);
            values.resize(rows * classes, 0.0);
            for share in values {
                code.number(share, shares_dtype, shares);
                if !is_share(*share) {
                    *share = 0.25;
                }
            }
        }
    }
}

/// The factor of the rows' losses by the probability of their targets. Sizes and options are known.
pub fn code_row_factor(code: &mut impl Code, problem: &mut Problem) {
    const FACTORS: [RowFactor; 6] = [
        RowFactor::None,
        RowFactor::Focal { gamma: 2.0 },
        RowFactor::Focal { gamma: 0.5 },
        RowFactor::Poly { epsilon: 1.5 },
        RowFactor::TargetProbability,
        RowFactor::Focal { gamma: 3.25 },
    ];
    let has_indices = matches!(problem.targets, Targets::Indices(_));
    code.one_of(&mut problem.config.row_factor, &FACTORS);
    if !has_indices || !problem.config.logits {
        problem.config.row_factor = RowFactor::None;
    }
    // A loss that label smoothing makes infinite is 0 or infinite by whether a tiny probability is a number.
    if problem.config.row_factor == RowFactor::TargetProbability {
        problem.config.label_smoothing = 0.0;
    }
}

/// The classes that the label smoothing is spread over. Sizes and options are known.
pub fn code_smoothing_over(code: &mut impl Code, problem: &mut Problem) {
    const OVER: [SmoothingOver; 3] = [
        SmoothingOver::Classes,
        SmoothingOver::OtherClasses,
        SmoothingOver::ValidClasses,
    ];
    let classes = problem.classes() as f64;
    let config = &mut problem.config;
    code.one_of(&mut config.smoothing_over, &OVER);
    if config.smoothing_over == SmoothingOver::OtherClasses {
        config.label_smoothing = config.label_smoothing.min((classes - 1.0) / classes);
    }
}

/// The weights of the rows, if there are such. None is negative: with those a divisor could cancel.
pub fn code_row_weights(code: &mut impl Code, problem: &mut Problem, dtype: DType) {
    let rows = problem.rows();
    let mut is_weighted = problem.row_weights.is_some();
    code.flag(&mut is_weighted);
    let weights = problem.row_weights.take().unwrap_or_default();
    problem.row_weights = is_weighted.then(|| {
        let mut weights = weights;
        weights.resize(rows, 1.0);
        for weight in &mut weights {
            code.option(weight, &[1.0, 0.0, 0.5, 3.0], |weight| {
                weight == f64::from(possible_weight(weight, dtype))
            });
        }
        weights
    });
}

/// Whether a number may be a share. Terms of different signs would cancel in a way that no tolerance knows, and
/// a share of f64 is rounded to the f32 of the arithmetic.
pub fn is_share(number: f64) -> bool {
    number == 0.0 || (2f64.powi(-24)..=16.0).contains(&number)
}

/// Whether a number may be a probability. The logarithms of a row have one sign, so that none cancels another,
/// and one over a probability is a number of f32, times any share and weight, unless it is infinite. Minus 0
/// has infinity of the wrong sign as its inverse.
pub fn is_probability(number: f64) -> bool {
    let is_zero = number == 0.0 && number.is_sign_positive();
    is_zero || number.is_nan() || (2f64.powi(-100)..=1.0).contains(&number)
}

/// An index: of a class, or ignored, or any number where the bytes give all its bits.
fn code_index(code: &mut impl Code, index: &mut i64, classes: usize, ignored: &[i64]) {
    const IGNORED: u8 = 250;
    const ANY: u8 = 255;
    let at = ignored.iter().position(|ignored| ignored == index);
    let mut byte = match (at, *index) {
        (Some(at), _) => IGNORED + at as u8,
        (None, class) if (0..classes.min(250) as i64).contains(&class) => class as u8,
        _ => ANY,
    };
    code.item(&mut byte);
    if byte < IGNORED {
        *index = i64::from(byte) % classes as i64;
    } else if let Some(ignored) = ignored.get(usize::from(byte - IGNORED)) {
        *index = *ignored;
    } else {
        code.integer(index);
    }
}

/// Whether an index is that of no class and not ignored either: such a call is an error.
pub fn has_wrong_index(problem: &Problem) -> bool {
    let Targets::Indices(indices) = &problem.targets else {
        return false;
    };
    let classes = problem.classes() as i64;
    let mut rows = indices.iter().enumerate();
    rows.any(|(row, index)| !(0..classes).contains(index) && !problem.is_ignored(row))
}
