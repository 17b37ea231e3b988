//! The rows of the comparison in which a projection makes the logits: their sizes and data. The data is a
//! function of the index, as in `entries.rs`.

use std::fmt::{self, Display};

use burn::tensor::TensorData;
use serde::Serialize;

use crate::entries::{Precision, TARGETS, hash};

// `pytorch/pytorch.py` has the same numbers.
const INPUT: u32 = 0x4000_0004;
const WEIGHT: u32 = 0x5000_0005;

/// Heads of language models beside PyTorch.
const BESIDE_PYTORCH: [Projection; 2] = [
    Projection::new([2048, 512, 32000], Precision::F32),
    Projection::new([4096, 256, 50257], Precision::F32),
];
/// A head that fits into every device.
const SMALL: [Projection; 1] = [Projection::new([512, 256, 32000], Precision::F32)];
/// Heads that keep a large device busy: that of GPT-2, and those that are timed by others in bf16.
const LARGE: [Projection; 4] = [
    Projection::new([8192, 768, 50257], Precision::F32),
    Projection::new([8192, 768, 50257], Precision::Bf16),
    Projection::new([2048, 4096, 128256], Precision::Bf16),
    Projection::new([8192, 4096, 128256], Precision::Bf16),
];

/// `input [rows, features]` times `weight [features, classes]`.
#[derive(Clone, Copy, Serialize)]
pub struct Projection {
    pub rows: usize,
    pub features: usize,
    pub classes: usize,
    #[serde(skip)]
    pub precision: Precision,
}

pub fn beside_pytorch() -> Vec<Projection> {
    BESIDE_PYTORCH.to_vec()
}

pub fn small() -> Vec<Projection> {
    SMALL.to_vec()
}

pub fn large() -> Vec<Projection> {
    LARGE.to_vec()
}

impl Projection {
    const fn new([rows, features, classes]: [usize; 3], precision: Precision) -> Self {
        Self {
            rows,
            features,
            classes,
            precision,
        }
    }

    /// Rows, features and classes.
    pub fn size(&self) -> String {
        let Self {
            rows,
            features,
            classes,
            ..
        } = self;
        format!("{rows}x{features}x{classes}")
    }

    /// The input, uniform in [-1, 1).
    pub fn input(&self) -> TensorData {
        uniform([self.rows, self.features], INPUT, 1.0)
    }

    /// The weight, uniform, so that logits have a deviation of about 2.
    pub fn weight(&self) -> TensorData {
        uniform([self.features, self.classes], WEIGHT, self.weight_size())
    }

    pub fn weight_size(&self) -> f32 {
        6.0 / (self.features as f32).sqrt()
    }

    pub fn targets(&self) -> TensorData {
        let class = |row| i64::from(hash(row as u32 ^ TARGETS)) % self.classes as i64;
        TensorData::new((0..self.rows).map(class).collect(), [self.rows])
    }

    /// Places of the gradients' entries that are compared one by one: those of the input, then those of the
    /// weight.
    pub fn probes(&self) -> Vec<usize> {
        let sizes = self.sizes();
        let spread = |size: usize| (0..=6).map(move |step| step * (size - 1) / 6);
        let of_weight = spread(sizes[1]).map(|place| sizes[0] + place);
        spread(sizes[0]).chain(of_weight).collect()
    }

    /// Elements of the input and of the weight.
    pub fn sizes(&self) -> [usize; 2] {
        [self.rows * self.features, self.features * self.classes]
    }

    /// Floating-point operations of the three matrix products.
    pub fn operations(&self) -> f64 {
        6.0 * self.rows as f64 * self.features as f64 * self.classes as f64
    }
}

/// Numbers uniform in [-size, size).
pub fn uniform(shape: [usize; 2], salt: u32, size: f32) -> TensorData {
    let number = |index| (hash(index ^ salt) >> 8) as f32 / 16_777_216.0 * 2.0 - 1.0;
    let count = (shape[0] * shape[1]) as u32;
    TensorData::new(
        (0..count).map(|index| number(index) * size).collect(),
        shape,
    )
}

impl Display for Projection {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{} projection {}", self.size(), self.precision)
    }
}
