//! Dtypes that numbers are stored in, and their conversions.
//!
//! The conversions have selections instead of branches, so that they vectorise. Those of the `half` crate
//! check the processor at every number.

use burn::tensor::{bf16, f16};

use super::float::Float;
use super::instructions::{Instructions, Task};

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

    /// Converts many numbers to the dtype of the arithmetic.
    fn widen_with<A: Float>(instructions: Instructions, stored: &[Self], numbers: &mut [A]) {
        instructions.run(Widen { stored, numbers });
    }

    /// Converts many numbers of the arithmetic to the stored dtype.
    fn narrow_with<A: Float>(instructions: Instructions, numbers: &[A], stored: &mut [Self]) {
        instructions.run(Narrow { numbers, stored });
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

    /// AVX-512 has the conversions as instructions; in other sets they are steps on bits.
    fn widen_with<A: Float>(instructions: Instructions, stored: &[Self], numbers: &mut [A]) {
        match (instructions, A::as_f32s_mut(numbers)) {
            #[cfg(target_arch = "x86_64")]
            (Instructions::Avx512(simd), Some(numbers)) => simd.vectorize(halves::Widen {
                simd,
                stored,
                numbers,
            }),
            _ => instructions.run(Widen { stored, numbers }),
        }
    }

    fn narrow_with<A: Float>(instructions: Instructions, numbers: &[A], stored: &mut [Self]) {
        match (instructions, A::as_f32s(numbers)) {
            #[cfg(target_arch = "x86_64")]
            (Instructions::Avx512(simd), Some(numbers)) => simd.vectorize(halves::Narrow {
                simd,
                numbers,
                stored,
            }),
            _ => instructions.run(Narrow { numbers, stored }),
        }
    }
}

/// Conversions of f16 by AVX-512.
#[cfg(target_arch = "x86_64")]
mod halves {
    use burn::tensor::f16;
    use pulp::{NullaryFnOnce, x86::V4};

    use super::Number;

    /// Numbers in one register.
    const AT_ONCE: usize = 16;

    pub(super) struct Widen<'a> {
        pub(super) simd: V4,
        pub(super) stored: &'a [f16],
        pub(super) numbers: &'a mut [f32],
    }

    impl NullaryFnOnce for Widen<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let (stored, rest) = self.stored.as_chunks::<AT_ONCE>();
            let (numbers, rest_of_numbers) = self.numbers.as_chunks_mut::<AT_ONCE>();
            for (numbers, stored) in numbers.iter_mut().zip(stored) {
                let bits = pulp::cast(stored.map(f16::to_bits));
                *numbers = pulp::cast(self.simd.avx512f._mm512_cvtph_ps(bits));
            }
            f16::widen_all(rest, rest_of_numbers);
        }
    }

    pub(super) struct Narrow<'a> {
        pub(super) simd: V4,
        pub(super) numbers: &'a [f32],
        pub(super) stored: &'a mut [f16],
    }

    impl NullaryFnOnce for Narrow<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            /// Rounds to nearest, ties to even.
            const NEAREST: i32 = 0;
            let (numbers, rest) = self.numbers.as_chunks::<AT_ONCE>();
            let (stored, rest_of_stored) = self.stored.as_chunks_mut::<AT_ONCE>();
            for (stored, numbers) in stored.iter_mut().zip(numbers) {
                let numbers = pulp::cast(*numbers);
                let bits: [u16; AT_ONCE] =
                    pulp::cast(self.simd.avx512f._mm512_cvtps_ph::<NEAREST>(numbers));
                *stored = bits.map(f16::from_bits);
            }
            f16::narrow_all(rest, rest_of_stored);
        }
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
    fn every_set_of_instructions_converts_many_halves_as_one() {
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let floats: Vec<f32> = floats().collect();
        for instructions in Instructions::available() {
            let mut numbers = vec![0f32; halves.len()];
            f16::widen_with(instructions, &halves, &mut numbers);
            for (half, found) in halves.iter().zip(numbers) {
                let expected: f32 = half.widen();
                let both_nan = found.is_nan() && expected.is_nan();
                assert!(both_nan || found.to_bits() == expected.to_bits(), "{half}");
            }
            let mut stored = vec![f16::ZERO; floats.len()];
            f16::narrow_with(instructions, &floats, &mut stored);
            for (&float, found) in floats.iter().zip(stored) {
                let expected = f16::narrow(float);
                let both_nan = found.is_nan() && expected.is_nan();
                assert!(
                    both_nan || found.to_bits() == expected.to_bits(),
                    "{instructions:?}: {float:e}"
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
