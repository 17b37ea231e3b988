//! Memory that is read next, fetched into the cache meanwhile: exponentials wait for the arithmetic alone, the
//! maxima of the rows that come next for the memory alone.

/// Bytes that are fetched at once.
const LINE: usize = 64;
/// Lines that are fetched with every block of logits.
const LINES: usize = 4;
/// Longest row in bytes that is fetched: half of a small cache of the first level.
const LONGEST: usize = 16 << 10;

/// Pieces of memory, one for each block of logits.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    first: *const i8,
    /// Bytes from one piece to the next.
    stride: usize,
    pieces: usize,
}

impl Ahead {
    pub(super) fn nothing() -> Self {
        Self {
            first: std::ptr::null(),
            stride: 0,
            pieces: 0,
        }
    }

    /// The numbers of one row.
    pub(super) fn of_row<S>(numbers: &[S]) -> Self {
        let bytes = size_of_val(numbers);
        if bytes > LONGEST {
            return Self::nothing();
        }
        Self {
            first: numbers.as_ptr().cast(),
            stride: LINES * LINE,
            pieces: bytes.div_ceil(LINES * LINE),
        }
    }

    /// Numbers that begin at `first`, and others of so many `classes` that lie `stride` numbers apart.
    pub(super) fn of_classes<S>(first: &S, stride: usize, classes: usize) -> Self {
        Self {
            first: std::ptr::from_ref(first).cast(),
            stride: stride * size_of::<S>(),
            pieces: classes,
        }
    }

    /// Fetches the piece that belongs to a block.
    #[inline(always)]
    pub(super) fn fetch(self, step: usize) {
        if step < self.pieces {
            let piece = self.first.wrapping_add(step * self.stride);
            for line in 0..LINES {
                fetch(piece.wrapping_add(line * LINE));
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
