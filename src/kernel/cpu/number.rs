//! Dtypes that numbers are stored in, and their conversions.
//!
//! The conversions have selections instead of branches, so that they vectorise. Those of the `half` crate
//! check the processor at every number.

use std::marker::PhantomData;

use burn::tensor::{bf16, f16};
#[cfg(target_arch = "x86_64")]
use pulp::NullaryFnOnce;

use super::blocks::{Block, LANES};
use super::float::Float;
#[cfg(target_arch = "x86_64")]
use super::half_instructions::{Bf16, F16c};
use super::instructions::{Instructions, Task};

/// Number in memory.
pub(crate) trait Number: Copy + Send + Sync + 'static {
    /// Whether processors may have instructions for the conversion.
    const IS_HALF: bool = false;

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
        if Self::IS_HALF
            && let Some(numbers) = A::as_f32s_mut(numbers)
        {
            return Self::converting(instructions, WidenBlocks { stored, numbers });
        }
        instructions.run(Widen { stored, numbers });
    }

    /// Converts many numbers of the arithmetic to the stored dtype.
    fn narrow_with<A: Float>(instructions: Instructions, numbers: &[A], stored: &mut [Self]) {
        if Self::IS_HALF
            && let Some(numbers) = A::as_f32s(numbers)
        {
            return Self::converting(instructions, NarrowBlocks { numbers, stored });
        }
        instructions.run(Narrow { numbers, stored });
    }

    /// Runs a task that converts between this dtype and f32.
    fn converting<T: ConvertingTask<Self>>(instructions: Instructions, task: T) -> T::Output {
        instructions.run(With(task, EachNumber, PhantomData))
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
    const IS_HALF: bool = true;

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

    /// AVX512-BF16 rounds 16 numbers at once; elsewhere rounding is steps on bits.
    fn converting<T: ConvertingTask<Self>>(instructions: Instructions, task: T) -> T::Output {
        #[cfg(target_arch = "x86_64")]
        if let (Instructions::Avx512(_), Some(simd)) = (instructions, Bf16::try_new()) {
            return simd.vectorize(With(task, simd, PhantomData));
        }
        instructions.run(With(task, EachNumber, PhantomData))
    }
}

impl Number for f16 {
    const IS_HALF: bool = true;

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

    /// AVX-512 has the conversions as instructions, AVX2 beside F16C; elsewhere they are steps on bits.
    fn converting<T: ConvertingTask<Self>>(instructions: Instructions, task: T) -> T::Output {
        match instructions {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(simd) => simd.vectorize(With(task, simd, PhantomData)),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(simd) => match F16c::try_new() {
                Some(simd) => simd.vectorize(With(task, simd, PhantomData)),
                None => simd.vectorize(With(task, EachNumber, PhantomData)),
            },
            Instructions::Baseline => instructions.run(With(task, EachNumber, PhantomData)),
        }
    }
}

/// Conversions by the processor's instructions.
#[cfg(target_arch = "x86_64")]
mod by_processor {
    use burn::tensor::{bf16, f16};
    use pulp::x86::V4;

    use super::{Converter, EachNumber};
    use crate::kernel::cpu::blocks::{Block, LANES};
    use crate::kernel::cpu::half_instructions::{Bf16, F16c};

    /// Turns a block into another, some numbers at once.
    #[inline(always)]
    fn converted<S: Copy, T: Copy, const AT_ONCE: usize>(
        block: &Block<S>,
        filler: T,
        convert: impl Fn([S; AT_ONCE]) -> [T; AT_ONCE],
    ) -> Block<T> {
        let mut converted = [filler; LANES];
        let (registers, _) = converted.as_chunks_mut::<AT_ONCE>();
        for (converted, &numbers) in registers.iter_mut().zip(block.as_chunks().0) {
            *converted = convert(numbers);
        }
        converted
    }

    impl Converter<f16> for F16c {
        #[inline(always)]
        fn widen(self, stored: &Block<f16>) -> Block<f32> {
            converted(stored, 0.0, |stored: [f16; Self::AT_ONCE]| {
                F16c::widen(self, stored.map(f16::to_bits))
            })
        }

        #[inline(always)]
        fn narrow(self, numbers: &Block<f32>) -> Block<f16> {
            converted(numbers, f16::ZERO, |numbers: [f32; Self::AT_ONCE]| {
                F16c::narrow(self, numbers).map(f16::from_bits)
            })
        }
    }

    impl Converter<f16> for V4 {
        #[inline(always)]
        fn widen(self, stored: &Block<f16>) -> Block<f32> {
            converted(stored, 0.0, |stored: [f16; 16]| {
                let bits = pulp::cast(stored.map(f16::to_bits));
                pulp::cast(self.avx512f._mm512_cvtph_ps(bits))
            })
        }

        #[inline(always)]
        fn narrow(self, numbers: &Block<f32>) -> Block<f16> {
            /// Rounds to nearest, ties to even.
            const NEAREST: i32 = 0;
            converted(numbers, f16::ZERO, |numbers: [f32; 16]| {
                let bits = self.avx512f._mm512_cvtps_ph::<NEAREST>(pulp::cast(numbers));
                let bits: [u16; 16] = pulp::cast(bits);
                bits.map(f16::from_bits)
            })
        }
    }

    impl Converter<bf16> for Bf16 {
        #[inline(always)]
        fn widen(self, stored: &Block<bf16>) -> Block<f32> {
            EachNumber.widen(stored)
        }

        #[inline(always)]
        fn narrow(self, numbers: &Block<f32>) -> Block<bf16> {
            converted(numbers, bf16::ZERO, |numbers: [f32; Self::AT_ONCE]| {
                Bf16::narrow(self, numbers).map(bf16::from_bits)
            })
        }
    }
}

/// Conversion of blocks between a stored dtype and f32.
pub(crate) trait Converter<S>: Copy {
    fn widen(self, stored: &Block<S>) -> Block<f32>;
    fn narrow(self, numbers: &Block<f32>) -> Block<S>;
}

/// Conversion number by number, in the instructions of the arithmetic.
#[derive(Clone, Copy)]
pub(crate) struct EachNumber;

impl<S: Number> Converter<S> for EachNumber {
    #[inline(always)]
    fn widen(self, stored: &Block<S>) -> Block<f32> {
        let mut numbers = [0.0; LANES];
        for lane in 0..LANES {
            numbers[lane] = stored[lane].widen();
        }
        numbers
    }

    #[inline(always)]
    fn narrow(self, numbers: &Block<f32>) -> Block<S> {
        let mut stored = [S::narrow(0f32); LANES];
        for lane in 0..LANES {
            stored[lane] = S::narrow(numbers[lane]);
        }
        stored
    }
}

/// Task that converts numbers on the way.
pub(crate) trait ConvertingTask<S> {
    type Output;

    /// See [`Task::run`].
    fn run<const FMA: bool>(self, converter: impl Converter<S>) -> Self::Output;
}

/// A task with its converter.
struct With<T, C, S>(T, C, PhantomData<S>);

impl<S, T: ConvertingTask<S>, C: Converter<S>> Task for With<T, C, S> {
    type Output = T::Output;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> T::Output {
        self.0.run::<FMA>(self.1)
    }
}

#[cfg(target_arch = "x86_64")]
impl<S, T: ConvertingTask<S>, C: Converter<S>> NullaryFnOnce for With<T, C, S> {
    type Output = T::Output;

    #[inline(always)]
    fn call(self) -> T::Output {
        self.0.run::<true>(self.1)
    }
}

struct WidenBlocks<'a, S> {
    stored: &'a [S],
    numbers: &'a mut [f32],
}

impl<S: Number> ConvertingTask<S> for WidenBlocks<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self, converter: impl Converter<S>) {
        let (stored, rest) = self.stored.as_chunks::<LANES>();
        let (numbers, rest_of_numbers) = self.numbers.as_chunks_mut::<LANES>();
        for (numbers, stored) in numbers.iter_mut().zip(stored) {
            *numbers = converter.widen(stored);
        }
        S::widen_all(rest, rest_of_numbers);
    }
}

struct NarrowBlocks<'a, S> {
    numbers: &'a [f32],
    stored: &'a mut [S],
}

impl<S: Number> ConvertingTask<S> for NarrowBlocks<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self, converter: impl Converter<S>) {
        let (numbers, rest) = self.numbers.as_chunks::<LANES>();
        let (stored, rest_of_stored) = self.stored.as_chunks_mut::<LANES>();
        for (stored, numbers) in stored.iter_mut().zip(numbers) {
            *stored = converter.narrow(numbers);
        }
        S::narrow_all(rest, rest_of_stored);
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

    /// Bits, of which those of NaN are one.
    fn bits_of<S: Number>(number: S) -> Option<u32> {
        let number: f32 = number.widen();
        (!number.is_nan()).then_some(number.to_bits())
    }

    /// Converts the numbers to a half and back by every set of instructions. Subnormal results may be 0.
    #[track_caller]
    fn assert_conversions_are_those_of_one<S: Number>(halves: &[S], smallest: f32) {
        let floats: Vec<f32> = floats().collect();
        for instructions in Instructions::available() {
            let mut numbers = vec![0f32; halves.len()];
            S::widen_with(instructions, halves, &mut numbers);
            for (&half, &found) in halves.iter().zip(&numbers) {
                assert_eq!(bits_of(found), bits_of(half), "{instructions:?}");
            }
            let mut stored = vec![S::narrow(0f32); floats.len()];
            S::narrow_with(instructions, &floats, &mut stored);
            for (&float, &found) in floats.iter().zip(&stored) {
                let is_zero = found.widen::<f32>() == 0.0 && float.abs() < smallest;
                let expected = bits_of(S::narrow(float));
                assert!(
                    is_zero || bits_of(found) == expected,
                    "{instructions:?}: {float:e}"
                );
            }
        }
    }

    #[test]
    fn every_set_of_instructions_converts_many_halves_as_one() {
        let all = 0..=u16::MAX;
        let halves: Vec<f16> = all.clone().map(f16::from_bits).collect();
        assert_conversions_are_those_of_one(&halves, 0.0);
        let halves: Vec<bf16> = all.map(bf16::from_bits).collect();
        assert_conversions_are_those_of_one(&halves, f32::MIN_POSITIVE);
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
