//! The rows of the comparison of the sigmoid loss of all pairs: their sizes and data. The data is a function of the
//! index, as in `entries.rs`.

use std::fmt::{self, Display};

use burn::tensor::TensorData;
use serde::Serialize;

use crate::projections::uniform;

// `pytorch/pytorch.py` has the same numbers.
const ROWS: u32 = 0x6000_0006;
const KEYS: u32 = 0x7000_0007;

/// Sizes of batches.
const SIZES: [Pairs; 2] = [
    Pairs {
        pairs_of: 4096,
        features: 256,
    },
    Pairs {
        pairs_of: 1024,
        features: 512,
    },
];

/// Two views `[pairs_of, features]`, of which the same rows belong together.
#[derive(Clone, Copy, Serialize)]
pub struct Pairs {
    pub pairs_of: usize,
    pub features: usize,
}

pub fn pairs() -> Vec<Pairs> {
    SIZES.to_vec()
}

impl Pairs {
    /// The views, uniform in [-1, 1).
    pub fn views(&self) -> [TensorData; 2] {
        let shape = [self.pairs_of, self.features];
        [uniform(shape, ROWS, 1.0), uniform(shape, KEYS, 1.0)]
    }

    /// Places of the gradients' entries that are compared one by one: those of the first view, then those of the second.
    pub fn probes(&self) -> Vec<usize> {
        let size = self.size();
        let spread = |first: usize| (0..=6).map(move |step| first + step * (size - 1) / 6);
        spread(0).chain(spread(size)).collect()
    }

    /// Elements of a view.
    pub fn size(&self) -> usize {
        self.pairs_of * self.features
    }
}

impl Display for Pairs {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let Self { pairs_of, features } = self;
        write!(formatter, "{pairs_of}x{features} sigmoid pairs")
    }
}
