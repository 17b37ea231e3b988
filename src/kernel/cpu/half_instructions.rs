//! Conversions of half precision by the processor that `pulp` has no functions for: f16 beside AVX2 (F16C), bf16
//! beside AVX-512 (AVX512-BF16).
//!
//! Unsafe code is the call of functions that are compiled for these instructions. A token says that the
//! processor has them.

use std::arch::x86_64::{
    _MM_FROUND_TO_NEAREST_INT, _mm256_cvtph_ps, _mm256_cvtps_ph, _mm512_cvtneps_pbh,
};
use std::mem::transmute;

use pulp::NullaryFnOnce;

/// Shows that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(super) struct F16c(());

impl F16c {
    /// Numbers in one register.
    pub(super) const AT_ONCE: usize = 8;

    pub(super) fn try_new() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has_all.then_some(Self(()))
    }

    /// Runs a function that is compiled for the instructions.
    pub(super) fn vectorize<F: NullaryFnOnce>(self, function: F) -> F::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled<F: NullaryFnOnce>(function: F) -> F::Output {
            function.call()
        }
        // SAFETY: the token is made only where the processor has the instructions.
        unsafe { compiled(function) }
    }

    #[inline(always)]
    pub(super) fn widen(self, bits: [u16; Self::AT_ONCE]) -> [f32; Self::AT_ONCE] {
        // SAFETY: as above.
        pulp::cast(unsafe { _mm256_cvtph_ps(pulp::cast(bits)) })
    }

    /// Rounds to nearest, ties to even.
    #[inline(always)]
    pub(super) fn narrow(self, numbers: [f32; Self::AT_ONCE]) -> [u16; Self::AT_ONCE] {
        let numbers = pulp::cast(numbers);
        // SAFETY: as above.
        pulp::cast(unsafe { _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(numbers) })
    }
}

/// Shows that the processor has the instructions of AVX-512 that the kernels are compiled for, and AVX512-BF16.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bf16(());

impl Bf16 {
    /// Numbers in one register.
    pub(super) const AT_ONCE: usize = 16;

    pub(super) fn try_new() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("avx512bf16");
        has_all.then_some(Self(()))
    }

    /// Runs a function that is compiled for the instructions.
    pub(super) fn vectorize<F: NullaryFnOnce>(self, function: F) -> F::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,avx512bf16")]
        fn compiled<F: NullaryFnOnce>(function: F) -> F::Output {
            function.call()
        }
        // SAFETY: the token is made only where the processor has the instructions.
        unsafe { compiled(function) }
    }

    /// Rounds to nearest, ties to even; numbers below the smallest normal one to 0.
    #[inline(always)]
    pub(super) fn narrow(self, numbers: [f32; Self::AT_ONCE]) -> [u16; Self::AT_ONCE] {
        // SAFETY: as above; both types are 32 bytes of which any bits are numbers.
        unsafe { transmute(_mm512_cvtneps_pbh(pulp::cast(numbers))) }
    }
}
