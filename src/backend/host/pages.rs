//! Memory of large tensors that a call fills: huge pages, which an earlier step may have given back.
//!
//! The system provides a page when it is first written. In pages of 4 KiB that takes longer than a loss and its
//! gradient take to compute, in huge ones a third or a quarter of it, and nothing where the pages are there
//! (docs/performance.md, "Fresh pages"). So memory of 512 KiB and more is mapped here, asks for huge
//! pages, and is kept for the next step when its tensor is dropped. While it is kept the system may take its pages
//! back, when it needs them. Batches of other lengths have gradients of other sizes: memory of up to twice the size is
//! taken too, and what has become too small is given back when something larger takes its place.
//!
//! Other systems than Linux, and smaller tensors, have the memory that the backend gives them.

use std::env;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use burn::tensor::Bytes;
use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty};
use memmap2::{Advice, MmapMut, UncheckedAdvice};

/// Least number of bytes that are mapped here.
const LEAST: usize = 1 << 19;
const HUGE_PAGE: usize = 2 << 20;
/// Mappings that are kept: tensors that one step holds at one time.
const MOST_KEPT: usize = 4;
/// Name of the variable of the environment that turns this off with the value 0.
const SWITCH: &str = "BURN_CROSS_ENTROPY_HUGE_PAGES";

/// Mappings whose tensors were dropped, the last one at the end.
static KEPT: Mutex<Vec<Mapping>> = Mutex::new(Vec::new());

static IS_ON: LazyLock<AtomicBool> =
    LazyLock::new(|| AtomicBool::new(env::var(SWITCH).as_deref() != Ok("0")));

/// Turns this on or off from now on, and returns whether it was on.
pub(crate) fn turn(on: bool) -> bool {
    IS_ON.swap(on, Relaxed)
}

/// Gives memory that was kept for the next step back to the system.
pub(crate) fn release() {
    // The mappings are dropped behind the lock.
    let kept = std::mem::take(&mut *kept());
    drop(kept);
}

/// Memory for `length` bytes, which hold any numbers; `None` where the backend has to provide it.
pub(crate) fn bytes(length: usize) -> Option<Bytes> {
    if length < LEAST || !IS_ON.load(Relaxed) {
        return None;
    }
    let mapping = Mapping::taken(length).or_else(|| Mapping::new(length))?;
    let pages = Pages {
        mapping: Some(mapping),
        length,
    };
    // SAFETY: the controller has `length` bytes, and the system has initialised what it maps.
    Some(unsafe { Bytes::from_controller(Box::new(pages), length) })
}

fn kept() -> MutexGuard<'static, Vec<Mapping>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory of the system, with whole huge pages in `range`.
struct Mapping {
    memory: MmapMut,
    range: Range<usize>,
}

impl Mapping {
    fn new(length: usize) -> Option<Self> {
        let size = size_of_pages(length)?;
        let memory = MmapMut::map_anon(size.checked_add(HUGE_PAGE)?).ok()?;
        let start = memory.as_ptr().align_offset(HUGE_PAGE);
        // A system without huge pages gives others.
        let _ = memory.advise_range(Advice::HugePage, start, size);
        Some(Self {
            memory,
            range: start..start + size,
        })
    }

    /// The smallest mapping that was kept with room for this length, unless it is more than twice as large.
    ///
    /// Without such, the largest that is smaller is given back, unless it is less than half as large: the gradients of a
    /// step have outgrown it. Else batches of many lengths would keep one mapping for each.
    fn taken(length: usize) -> Option<Self> {
        let size = size_of_pages(length)?;
        let mut kept = kept();
        let sizes = || kept.iter().map(|mapping| mapping.range.len()).enumerate();
        let fitting = sizes().filter(|(_, of)| (size..=size.saturating_mul(2)).contains(of));
        if let Some((at, _)) = fitting.min_by_key(|(_, of)| *of) {
            return Some(kept.remove(at));
        }
        let outgrown = sizes().filter(|(_, of)| (size.div_ceil(2)..size).contains(of));
        let outgrown = outgrown.max_by_key(|(_, of)| *of).map(|(at, _)| at);
        let outgrown = outgrown.map(|at| kept.remove(at));
        drop(kept);
        drop(outgrown);
        None
    }

    fn keep(self) {
        let Range { start, end } = self.range;
        // SAFETY: nothing holds the numbers any more, and whoever takes the mapping next takes any numbers.
        let is_free = unsafe {
            let length = end - start;
            self.memory
                .unchecked_advise_range(UncheckedAdvice::Free, start, length)
        };
        if is_free.is_err() {
            return;
        }
        let mut kept = kept();
        kept.push(self);
        let oldest = (kept.len() > MOST_KEPT).then(|| kept.remove(0));
        drop(kept);
        drop(oldest);
    }
}

/// Bytes of the huge pages for so many bytes.
fn size_of_pages(length: usize) -> Option<usize> {
    length.checked_next_multiple_of(HUGE_PAGE)
}

/// Memory of one tensor.
struct Pages {
    /// `None` only while it is dropped.
    mapping: Option<Mapping>,
    length: usize,
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Some(mapping) = self.mapping.take() {
            mapping.keep();
        }
    }
}

impl Pages {
    fn mapping(&self) -> &Mapping {
        self.mapping
            .as_ref()
            .expect("it is taken out by drop alone")
    }
}

impl AllocationController for Pages {
    fn alloc_align(&self) -> usize {
        // Burn copies memory with its own alignment, and asserts that it is no more than this.
        align_of::<u128>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(
        &mut self,
        _: AccessPolicy,
    ) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let length = self.length;
        let mapping = self
            .mapping
            .as_mut()
            .expect("it is taken out by drop alone");
        let bytes = &mut mapping.memory[mapping.range.start..][..length];
        // SAFETY: the same bytes under a type of the same layout, borrowed as long. The caller promises to write
        // initialised bytes only.
        Ok(unsafe { slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), length) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let mapping = self.mapping();
        let bytes = &mapping.memory[mapping.range.start..][..self.length];
        // SAFETY: the same bytes under a type of the same layout, borrowed as long.
        Ok(unsafe { slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tests count what is kept, so they run one after the other.
    fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(bytes: &Bytes) -> *const u8 {
        bytes.as_ptr()
    }

    #[test]
    fn small_tensors_are_left_to_the_backend() {
        assert!(bytes(LEAST - 1).is_none());
        assert!(bytes(usize::MAX).is_none());
    }

    #[test]
    fn memory_begins_with_a_huge_page_and_can_be_written_to_its_end() {
        let _alone = alone();
        for length in [LEAST, LEAST + 1, 3 * HUGE_PAGE - 1] {
            let mut bytes = bytes(length).expect("the system has memory");
            assert_eq!(bytes.len(), length);
            assert_eq!(place(&bytes).addr() % HUGE_PAGE, 0);
            bytes.fill(7);
            assert!(bytes.iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn memory_that_was_given_back_is_taken_again_by_its_size() {
        let _alone = alone();
        release();
        let first = bytes(LEAST + 5).unwrap();
        let at = place(&first);
        drop(first);
        let other = bytes(LEAST + 3 * HUGE_PAGE).unwrap();
        assert_ne!(place(&other), at);
        let second = bytes(LEAST + 9).unwrap();
        assert_eq!(place(&second), at);
        // What is in use is not taken by others.
        let third = bytes(LEAST + 9).unwrap();
        assert_ne!(place(&third), at);
    }

    #[test]
    fn memory_serves_batches_of_other_lengths() {
        let _alone = alone();
        release();
        let sizes = || Vec::from_iter(kept().iter().map(|mapping| mapping.range.len()));
        let of_step = |pages: usize| {
            let bytes = bytes(pages * HUGE_PAGE).unwrap();
            place(&bytes)
        };
        let at = of_step(8);
        assert_eq!(of_step(5), at);
        assert_eq!(sizes(), [8 * HUGE_PAGE]);
        // Less than half is not worth the whole.
        of_step(3);
        assert_eq!(sizes(), [8 * HUGE_PAGE, 3 * HUGE_PAGE]);
        // More takes the place of what it has outgrown, and of nothing that is far smaller.
        of_step(10);
        assert_eq!(sizes(), [3 * HUGE_PAGE, 10 * HUGE_PAGE]);
        release();
    }

    #[test]
    fn a_bounded_number_is_kept_until_it_is_released() {
        let _alone = alone();
        release();
        let held: Vec<_> = (0..MOST_KEPT + 2)
            .map(|at| bytes(LEAST + at * HUGE_PAGE).unwrap())
            .collect();
        drop(held);
        let sizes: Vec<usize> = kept().iter().map(|mapping| mapping.range.len()).collect();
        let expected: Vec<usize> = (2..MOST_KEPT + 2).map(|at| (at + 1) * HUGE_PAGE).collect();
        assert_eq!(sizes, expected);
        release();
        assert!(kept().is_empty());
    }

    #[test]
    fn a_copy_has_memory_of_its_own() {
        let _alone = alone();
        let mut bytes = bytes(LEAST).unwrap();
        bytes.fill(1);
        let copy = bytes.clone();
        bytes.fill(2);
        assert!(copy.iter().all(|byte| *byte == 1));
    }
}
