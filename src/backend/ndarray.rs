//! NdArray, Burn's older CPU backend, deprecated by Burn in favour of Flex.

use burn_ndarray::NdArray;

use super::CrossEntropyBackend;

impl CrossEntropyBackend for NdArray {}
