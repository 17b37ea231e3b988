//! Instruction sets of the processor, detected when the program runs.
//!
//! The arithmetic is written as plain loops over arrays of [`LANES`](super::blocks::LANES) numbers,
//! marked `#[inline(always)]` from top to bottom, so that the compiler makes vector code of it once
//! for every set of instructions. There is no unsafe code, and there are no intrinsics but for the conversions
//! of half precision and the fetching ahead; `pulp` checks the processor.

/// Computation that is compiled once per set of instructions.
pub(crate) trait Task {
    type Output;

    /// Runs the task. `FMA` says whether the processor multiplies and adds in one rounding; without it
    /// `f32::mul_add` calls the C library. Implementations have to be `#[inline(always)]`.
    fn run<const FMA: bool>(self) -> Self::Output;
}

/// Set of instructions that this processor has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4),
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    /// Instructions that every processor of the architecture has.
    Baseline,
}

impl Instructions {
    /// All sets of instructions of this processor, the best first.
    pub(crate) fn available() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let wide = [
            pulp::x86::V4::try_new().map(Self::Avx512),
            pulp::x86::V3::try_new().map(Self::Avx2),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let wide: [Option<Self>; 0] = [];
        wide.into_iter().flatten().chain([Self::Baseline]).collect()
    }

    pub(crate) fn best() -> Self {
        use std::sync::OnceLock;
        static BEST: OnceLock<Instructions> = OnceLock::new();
        *BEST.get_or_init(|| Self::available()[0])
    }

    pub(crate) fn run<T: Task>(self, task: T) -> T::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.vectorize(Fused(task)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.vectorize(Fused(task)),
            // Every 64-bit ARM has Neon with the fused operation.
            Self::Baseline if cfg!(target_arch = "aarch64") => task.run::<true>(),
            Self::Baseline => task.run::<false>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
struct Fused<T>(T);

#[cfg(target_arch = "x86_64")]
impl<T: Task> pulp::NullaryFnOnce for Fused<T> {
    type Output = T::Output;

    #[inline(always)]
    fn call(self) -> T::Output {
        self.0.run::<true>()
    }
}
