//! Dtypes that numbers are stored in, and their conversions.
//!
//! The conversions have selections instead of branches, so that they vectorise. Those of the `half` crate
//! check the processor at every number.

use burn::tensor::{bf16, f16};

use super::float::Float;
use super::instructions::Task;

/// Number in memory.
pub(crate) trait Number: Copy + Send + Sync + 'static {
    fn widen<A: Float>(self) -> A;
    /// Rounds to nearest, ties to even.
    fn narrow<A: Float>(number: A) -> Self;

    #[inline(always)]
    fn widen_all<A: Float>(stored: &[Self], numbers: &mut [A]) {
        for (number, stored) in numbers.iter_mut().zip(stored) {
            *number = stored.widen();
        }
    }

    #[inline(always)]
    fn narrow_all<A: Float>(numbers: &[A], stored: &mut [Self]) {
        for (stored, &number) in stored.iter_mut().zip(numbers) {
            *stored = Self::narrow(number);
        }
    }
}

impl Number for f32 {
    #[inline(always)]
    fn widen<A: Float>(self) -> A {
        A::of(f64::from(self))
    }

    #[inline(always)]
    fn narrow<A: Float>(number: A) -> Self {
        number.to_f64() as f32
    }

    #[inline(always)]
    fn widen_all<A: Float>(stored: &[Self], numbers: &mut [A]) {
        A::from_f32s(stored, numbers);
    }

    #[inline(always)]
    fn narrow_all<A: Float>(numbers: &[A], stored: &mut [Self]) {
        A::to_f32s(numbers, stored);
    }
}

impl Number for f64 {
    #[inline(always)]
    fn widen<A: Float>(self) -> A {
        A::of(self)
    }

    #[inline(always)]
    fn narrow<A: Float>(number: A) -> Self {
        number.to_f64()
    }

    #[inline(always)]
    fn widen_all<A: Float>(stored: &[Self], numbers: &mut [A]) {
        A::from_f64s(stored, numbers);
    }

    #[inline(always)]
    fn narrow_all<A: Float>(numbers: &[A], stored: &mut [Self]) {
        A::to_f64s(numbers, stored);
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn widen<A: Float>(self) -> A {
        f32::from_bits(u32::from(self.to_bits()) << 16).widen()
    }

    #[inline(always)]
    fn narrow<A: Float>(number: A) -> Self {
        let number = f32::narrow(number);
        let bits = number.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        // Rounding could turn a NaN into infinity or a number.
        let quiet = bits >> 16 | 0x40;
        let bits = if number.is_nan() { quiet } else { rounded };
        Self::from_bits(bits as u16)
    }
}

impl Number for f16 {
    #[inline(always)]
    fn widen<A: Float>(self) -> A {
        let bits = u32::from(self.to_bits());
        // The digits of the half get the smallest exponents of f32, and the factor lifts them to
        // their own exponents. Subnormal numbers become normal ones.
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * 2f32.powi(112);
        let infinite = if bits & 0x7c00 == 0x7c00 {
            f32::INFINITY.to_bits()
        } else {
            0
        };
        let sign = (bits & 0x8000) << 16;
        f32::from_bits(magnitude.to_bits() | infinite | sign).widen()
    }

    #[inline(always)]
    fn narrow<A: Float>(number: A) -> Self {
        /// First power of two that is too large for f16.
        const TOO_LARGE: u32 = (127 + 16) << 23;
        /// Smallest normal number of f16.
        const NORMAL: u32 = (127 - 14) << 23;
        /// Addend whose last place is that of the subnormal numbers of f16: the sum is rounded to them.
        const SUBNORMAL: u32 = (127 - 14 + 23 - 10) << 23;

        let bits = f32::narrow(number).to_bits();
        let sign = bits & 0x8000_0000;
        let magnitude = bits ^ sign;
        let odd = magnitude >> 13 & 1;
        let exponent = (15u32.wrapping_sub(127)) << 23;
        let normal = magnitude.wrapping_add(exponent).wrapping_add(0xfff + odd) >> 13;
        let subnormal = f32::from_bits(magnitude) + f32::from_bits(SUBNORMAL);
        let subnormal = subnormal.to_bits().wrapping_sub(SUBNORMAL);
        let infinite = if magnitude > f32::INFINITY.to_bits() {
            0x7e00
        } else {
            0x7c00
        };
        let bits = if magnitude < NORMAL {
            subnormal
        } else {
            normal
        };
        let bits = if magnitude >= TOO_LARGE {
            infinite
        } else {
            bits
        };
        Self::from_bits((bits | sign >> 16) as u16)
    }
}

/// Task that converts stored numbers to the dtype of the arithmetic.
pub(crate) struct Widen<'a, S, A> {
    pub(crate) stored: &'a [S],
    pub(crate) numbers: &'a mut [A],
}

impl<S: Number, A: Float> Task for Widen<'_, S, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        S::widen_all(self.stored, self.numbers);
    }
}

/// Task that converts numbers of the arithmetic to the stored dtype.
pub(crate) struct Narrow<'a, S, A> {
    pub(crate) numbers: &'a [A],
    pub(crate) stored: &'a mut [S],
}

impl<S: Number, A: Float> Task for Narrow<'_, S, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        S::narrow_all(self.numbers, self.stored);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 251st f32, of both signs, and the numbers around the limits of the halves.
    fn floats() -> impl Iterator<Item = f32> {
        let limits = [
            65504.0f32, 65519.0, 65520.0, 65536.0, 6.1e-5, 5.9e-8, 2.9e-8, 3e-8, 3.39e38,
        ];
        let around = limits.into_iter().flat_map(|limit| {
            (-3i32..=3).map(move |step| f32::from_bits(limit.to_bits().wrapping_add_signed(step)))
        });
        (0..=u32::MAX)
            .step_by(251)
            .map(f32::from_bits)
            .chain(around)
    }

    #[test]
    fn every_half_is_read_as_the_half_crate_reads_it() {
        for bits in 0..=u16::MAX {
            let (half, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
            for (found, expected) in [
                (half.widen::<f32>(), half.to_f32()),
                (brain.widen::<f32>(), brain.to_f32()),
            ] {
                let both_nan = found.is_nan() && expected.is_nan();
                assert!(
                    both_nan || found.to_bits() == expected.to_bits(),
                    "{bits:x}"
                );
            }
        }
    }

    #[test]
    fn floats_round_to_halves_as_in_the_half_crate() {
        for x in floats() {
            let (half, brain) = (f16::narrow(x), bf16::narrow(x));
            if x.is_nan() {
                assert!(half.is_nan() && brain.is_nan(), "{:x}", x.to_bits());
            } else {
                assert_eq!(half.to_bits(), f16::from_f32(x).to_bits(), "{x:e}");
                assert_eq!(brain.to_bits(), bf16::from_f32(x).to_bits(), "{x:e}");
            }
        }
    }
}
