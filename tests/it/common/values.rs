//! Random logits and probabilities: ordinary ones, and what a kernel may treat differently.

use burn::tensor::{DType, bf16, f16};
use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::details::largest_of;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Values {
    Wide,
    /// Few different numbers, so that the largest occurs more than once.
    Tied,
    /// One class is far above the others.
    Confident,
    /// A quarter of the classes are at minus infinity.
    Masked,
    /// The largest numbers of the dtype, both signs of them, and 0.
    Ends,
    /// The smallest numbers of the dtype, both signs of 0, and 1.
    Subnormal,
    /// One class is infinite or NaN, or all are at minus infinity.
    Spoiled,
    /// Rows of all kinds beside each other.
    Mixed,
}

/// The kinds that a row can have.
const KINDS: [Values; 7] = [
    Values::Wide,
    Values::Tied,
    Values::Confident,
    Values::Masked,
    Values::Ends,
    Values::Subnormal,
    Values::Spoiled,
];

impl Values {
    /// All kinds, the plain ones first. Not every device computes with subnormal numbers: a shader may take
    /// them for 0.
    pub fn all(has_subnormals: bool) -> Vec<Self> {
        let kinds = KINDS.into_iter().chain([Self::Mixed]);
        kinds
            .filter(|kind| has_subnormals || *kind != Self::Subnormal)
            .collect()
    }

    /// The logits of a row.
    pub fn row(
        self,
        classes: usize,
        has_subnormals: bool,
        dtype: DType,
        rng: &mut StdRng,
    ) -> Vec<f64> {
        let of_a_row = Self::all(has_subnormals);
        let kind = match self {
            // The last kind is this one.
            Self::Mixed => of_a_row[rng.random_range(0..of_a_row.len() - 1)],
            kind => kind,
        };
        let largest = rng.random_range(0..classes);
        let logits =
            (0..classes).map(|class| rounded(kind.logit(class == largest, dtype, rng), dtype));
        let mut logits: Vec<f64> = logits.collect();
        if kind == Self::Spoiled {
            match rng.random_range(0..5) {
                0 => logits[largest] = f64::NAN,
                1 => logits[largest] = f64::INFINITY,
                2 => logits[classes - 1] = f64::INFINITY,
                3 => logits.fill(f64::NEG_INFINITY),
                _ => {
                    logits[0] = f64::NEG_INFINITY;
                    logits[largest] = f64::NAN;
                }
            }
        }
        logits
    }

    fn logit(self, is_largest: bool, dtype: DType, rng: &mut StdRng) -> f64 {
        match self {
            Self::Tied => f64::from(rng.random_range(-2i32..=2)),
            Self::Confident if is_largest => rng.random_range(8.0..20.0),
            Self::Confident => rng.random_range(-1.0..1.0),
            Self::Masked if !is_largest && rng.random_bool(0.25) => f64::NEG_INFINITY,
            Self::Ends => end(dtype, rng),
            Self::Subnormal => tiny(dtype, rng),
            _ => rng.random_range(-10.0..10.0),
        }
    }
}

/// A number at an end of the range, or 0 or 1. f64 stops at the end of f32, where the differences of two
/// numbers, and their squares, are still numbers of f64.
fn end(dtype: DType, rng: &mut StdRng) -> f64 {
    let largest = largest_of(dtype).min(f64::from(f32::MAX));
    let factors = [1.0, -1.0, 1.0, -1.0, 0.5, -0.5, -0.875, 0.0];
    match rng.random_range(0..factors.len() + 2) {
        8 => 1.0,
        9 => f64::NEG_INFINITY,
        at => factors[at] * largest,
    }
}

/// A subnormal number, or one that is not far from it.
fn tiny(dtype: DType, rng: &mut StdRng) -> f64 {
    let smallest = match dtype {
        DType::F64 => f64::from_bits(1),
        DType::F16 => 2f64.powi(-24),
        DType::BF16 => 2f64.powi(-133),
        _ => 2f64.powi(-149),
    };
    match rng.random_range(0..8) {
        0 => 0.0,
        1 => -0.0,
        2 => 1.0,
        3 => smallest,
        4 => -smallest,
        _ => smallest * f64::from(rng.random_range(-300i32..300)),
    }
}

/// The probabilities of a row: ordinary ones, or with 0, 1, equal ones, subnormal ones and NaN among them.
pub fn probabilities(
    classes: usize,
    are_hard: bool,
    has_subnormals: bool,
    dtype: DType,
    rng: &mut StdRng,
) -> Vec<f64> {
    let is_spoiled = are_hard && rng.random_bool(0.25);
    let mut row: Vec<f64> = (0..classes)
        .map(|_| match rng.random_range(0..12) {
            0 if are_hard => 0.0,
            1 if are_hard => 1.0,
            2 | 3 if are_hard => 0.25,
            4 if are_hard && has_subnormals => tiny(dtype, rng).abs(),
            _ => rng.random_range(0.01..1.0),
        })
        .map(|probability| rounded(probability, dtype))
        .collect();
    if is_spoiled {
        row[rng.random_range(0..classes)] = f64::NAN;
    }
    row
}

/// Rounds a number to the dtype.
pub fn rounded(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F64 => value,
        DType::F16 => f16::from_f64(value).to_f64(),
        DType::BF16 => bf16::from_f64(value).to_f64(),
        _ => f64::from(value as f32),
    }
}
