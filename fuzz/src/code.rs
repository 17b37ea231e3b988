//! Numbers and choices as bytes. A problem is described once, by a function over a [`Code`], which a
//! [`Reader`] makes of bytes and a [`Writer`] turns into them.
//!
//! Every sequence of bytes is a problem, so that no mutation of an input is lost. Most numbers are one byte: an
//! ordinary number, of which equal ones occur often, or one that arithmetic treats differently. The byte 0
//! announces the bits of any number.

use burn::tensor::DType;

use crate::common::details::largest_of;
use crate::common::values::rounded;

/// The byte before the bits of a number.
const BITS: u8 = 0;
/// The bytes from here on are ordinary numbers; those below are [`special`] ones.
const ORDINARY: u8 = 32;

pub trait Code {
    /// One byte; 0 after the last one.
    fn byte(&mut self, value: &mut u8);

    /// One byte of many of its kind. After the last one these are drawn from their place alone, so that a
    /// short input makes large tensors.
    fn item(&mut self, value: &mut u8);

    /// Takes the number from the bytes that follow, or the other way round.
    fn bits(&mut self, value: &mut f64, dtype: DType);

    /// Whether numbers are taken from bytes, and not turned into them.
    fn is_reading(&self) -> bool;

    fn flag(&mut self, value: &mut bool) {
        self.one_of(value, &[false, true]);
    }

    /// One of several values; the first one takes the place of any that is not among them.
    fn one_of<T: Clone + PartialEq>(&mut self, value: &mut T, among: &[T]) {
        let at = among.iter().position(|one| one == value);
        let mut byte = at.unwrap_or(0) as u8;
        self.byte(&mut byte);
        *value = among[usize::from(byte) % among.len()].clone();
    }

    /// A size: one byte below 224, two bytes up to 8191.
    fn size(&mut self, value: &mut usize) {
        let [high, low] = (*value as u16).to_be_bytes();
        let mut first = if *value < 224 { low } else { 224 + high };
        self.byte(&mut first);
        *value = usize::from(first);
        if first >= 224 {
            let mut low = low;
            self.byte(&mut low);
            *value = usize::from(first - 224) * 256 + usize::from(low);
        }
    }

    /// An option: one of the usual values, or any number of f64 that is allowed.
    fn option(&mut self, value: &mut f64, usual: &[f64], is_allowed: impl Fn(f64) -> bool) {
        let at = usual.iter().position(|usual| usual == value);
        let mut byte = at.map_or(u8::MAX, |at| at as u8);
        self.byte(&mut byte);
        if byte < u8::MAX {
            *value = usual[usize::from(byte) % usual.len()];
            return;
        }
        self.bits(value, DType::F64);
        if !is_allowed(*value) {
            *value = usual[0];
        }
    }

    /// A number of the dtype, of which `ordinary` are the usual ones.
    fn number(&mut self, value: &mut f64, dtype: DType, ordinary: fn(u8) -> f64) {
        let known = |byte: u8| match byte < ORDINARY {
            true => special(byte, dtype),
            false => Some(rounded(ordinary(byte - ORDINARY), dtype)),
        };
        let is_known = |byte: &u8| known(*byte).is_some_and(|known| is_same(known, *value));
        let mut byte = match self.is_reading() {
            true => BITS,
            false => (1..=u8::MAX).find(is_known).unwrap_or(BITS),
        };
        self.item(&mut byte);
        match known(byte) {
            Some(known) => *value = known,
            None => self.bits(value, dtype),
        }
    }

    /// An integer: a number from 0 to 252 in a byte, -100, -1, or any other.
    fn integer(&mut self, value: &mut i64) {
        const ANY: u8 = 255;
        let mut byte = match *value {
            -100 => 254,
            -1 => 253,
            small @ 0..=252 => small as u8,
            _ => ANY,
        };
        self.item(&mut byte);
        let mut bits = f64::from_bits(value.cast_unsigned());
        *value = match byte {
            254 => -100,
            253 => -1,
            ANY => {
                self.bits(&mut bits, DType::F64);
                bits.to_bits().cast_signed()
            }
            small => i64::from(small),
        };
    }
}

/// Numbers from -13 to 14 in eighths.
pub fn eighths(byte: u8) -> f64 {
    (f64::from(byte) - 104.0) / 8.0
}

/// Numbers from -3 to 4 in thirty-seconds.
pub fn thirty_seconds(byte: u8) -> f64 {
    eighths(byte) / 4.0
}

/// Numbers from 0 to 1.7, among them 1.
pub fn shares(byte: u8) -> f64 {
    f64::from(byte) / 128.0
}

/// Numbers that arithmetic treats differently, and numbers at which an exponential becomes 0 or infinite. The
/// byte of [`BITS`] is none of them.
fn special(byte: u8, dtype: DType) -> Option<f64> {
    let (smallest, smallest_normal) = match dtype {
        DType::F64 => (f64::from_bits(1), f64::MIN_POSITIVE),
        DType::F16 => (2f64.powi(-24), 2f64.powi(-14)),
        DType::BF16 => (2f64.powi(-133), 2f64.powi(-126)),
        _ => (2f64.powi(-149), 2f64.powi(-126)),
    };
    let largest = largest_of(dtype);
    let number = match byte {
        1 => f64::NEG_INFINITY,
        2 => f64::INFINITY,
        3 => f64::NAN,
        4 => -0.0,
        5 => largest,
        6 => -largest,
        7 => 0.5 * largest,
        8 => -0.5 * largest,
        9 => smallest,
        10 => -smallest,
        11 => smallest_normal,
        12 => -smallest_normal,
        13 => 17.5,
        14 => 88.5,
        15 => -88.5,
        16 => 104.0,
        17 => -104.0,
        18 => 709.5,
        19 => -746.0,
        20 => 1e4,
        21 => -1e4,
        22 => 1e-4,
        23 => -1e-8,
        24 => 1.0 / 3.0,
        25 => 6e4,
        26 => 1e19f64.min(largest),
        27 => -1e19f64.min(largest),
        _ => return None,
    };
    Some(rounded(number, dtype))
}

/// Whether two numbers have the same bits, or are both NaN: the bits of a NaN say nothing.
fn is_same(one: f64, other: f64) -> bool {
    one.to_bits() == other.to_bits() || (one.is_nan() && other.is_nan())
}

pub struct Reader<'a> {
    left: &'a [u8],
    /// The number of items that were drawn after the last byte.
    drawn: u32,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            left: bytes,
            drawn: 0,
        }
    }

    fn next(&mut self) -> Option<u8> {
        let (first, left) = self.left.split_first()?;
        self.left = left;
        Some(*first)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        core::array::from_fn(|_| self.next().unwrap_or(0))
    }
}

impl Code for Reader<'_> {
    fn byte(&mut self, value: &mut u8) {
        *value = self.next().unwrap_or(0);
    }

    fn item(&mut self, value: &mut u8) {
        *value = self.next().unwrap_or_else(|| {
            self.drawn += 1;
            let mixed = self.drawn.wrapping_mul(0x9e37_79b1);
            ORDINARY + (mixed >> 24) as u8 % 218
        });
    }

    fn bits(&mut self, value: &mut f64, dtype: DType) {
        let number = match dtype {
            DType::F64 => f64::from_le_bytes(self.array()),
            DType::F16 => burn::tensor::f16::from_le_bytes(self.array()).to_f64(),
            DType::BF16 => burn::tensor::bf16::from_le_bytes(self.array()).to_f64(),
            _ => f32::from_le_bytes(self.array()).into(),
        };
        *value = number;
    }

    fn is_reading(&self) -> bool {
        true
    }
}

#[derive(Default)]
pub struct Writer {
    pub bytes: Vec<u8>,
}

impl Code for Writer {
    fn byte(&mut self, value: &mut u8) {
        self.bytes.push(*value);
    }

    fn item(&mut self, value: &mut u8) {
        self.byte(value);
    }

    fn bits(&mut self, value: &mut f64, dtype: DType) {
        let bytes = match dtype {
            DType::F64 => value.to_le_bytes().to_vec(),
            DType::F16 => burn::tensor::f16::from_f64(*value).to_le_bytes().to_vec(),
            DType::BF16 => burn::tensor::bf16::from_f64(*value).to_le_bytes().to_vec(),
            _ => (*value as f32).to_le_bytes().to_vec(),
        };
        self.bytes.extend(bytes);
    }

    fn is_reading(&self) -> bool {
        false
    }
}

/// Inputs of many lengths, the same in every run.
#[cfg(test)]
pub fn random_inputs() -> Vec<Vec<u8>> {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    let mut rng = StdRng::seed_from_u64(11);
    let mut input = |at: usize| -> Vec<u8> {
        let length = rng.random_range(0..=at);
        (0..length).map(|_| rng.random_range(0..=u8::MAX)).collect()
    };
    (0..600).map(&mut input).collect()
}

/// Makes the tests that problems of a kind and bytes describe each other: `fixtures`, more than `least` of them,
/// and whatever bytes may come.
#[cfg(test)]
macro_rules! has_bytes {
    ($case:ty, $fixtures:expr, $least:literal) => {
        #[test]
        fn a_problem_of_the_fixtures_is_that_of_its_bytes() {
            let cases = $fixtures;
            assert!(cases.len() > $least);
            for case in cases {
                let decoded = <$case>::decode(&case.encode());
                assert_eq!(format!("{decoded:?}"), format!("{case:?}"));
            }
        }

        #[test]
        fn bytes_of_any_kind_are_a_problem_that_has_bytes() {
            for bytes in $crate::code::random_inputs() {
                let case = <$case>::decode(&bytes);
                let again = <$case>::decode(&case.encode());
                assert_eq!(format!("{again:?}"), format!("{case:?}"));
            }
        }
    };
}

#[cfg(test)]
pub(crate) use has_bytes;
