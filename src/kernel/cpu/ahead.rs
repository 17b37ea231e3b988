//! Memory that is read next, fetched into the cache meanwhile: the exponentials of a row wait for the
//! arithmetic alone, the maximum of the next one for the memory alone.

use super::blocks::LANES;

/// Bytes that are fetched at once.
const LINE: usize = 64;
/// Longest row in bytes that is fetched: half of a small cache of the first level.
const LONGEST: usize = 16 << 10;

/// Numbers of the next row, as addresses.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    first: *const i8,
    bytes: usize,
}

impl Ahead {
    pub(super) fn of<S>(numbers: &[S]) -> Self {
        let bytes = size_of_val(numbers);
        Self {
            first: numbers.as_ptr().cast(),
            bytes: if bytes > LONGEST { 0 } else { bytes },
        }
    }

    pub(super) fn nothing() -> Self {
        Self::of::<i8>(&[])
    }

    /// Fetches what the next row has at the place of a block.
    #[inline(always)]
    pub(super) fn fetch<A>(self, step: usize) {
        let block = LANES * size_of::<A>();
        let from = step * block;
        if from < self.bytes {
            for line in 0..block / LINE {
                fetch(self.first.wrapping_add(from + line * LINE));
            }
        }
    }
}

/// A hint to the processor: it reads nothing, whatever the address is.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn fetch(address: *const i8) {
    if let Some(sse) = pulp::core_arch::x86::Sse::try_new() {
        sse._mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address);
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn fetch(_address: *const i8) {}
