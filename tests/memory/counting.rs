//! An allocator that counts what it passes on to the system's. The example `language_model` uses it too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

/// Bytes that all threads allocated while something ran.
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    /// All allocations added up, whether freed since or not.
    pub allocated: usize,
    /// The most at one time, beyond what there was before.
    pub peak: usize,
    /// The bytes that are still held afterwards, beyond what there was before.
    pub held: usize,
}

/// Runs without huge pages, which are mapped past the allocator.
pub fn count<T>(run: impl FnOnce() -> T) -> (T, Bytes) {
    let had_huge_pages = burn_cross_entropy::use_huge_pages(false);
    let (allocated, live) = (ALLOCATED.load(Relaxed), LIVE.load(Relaxed));
    PEAK.store(live, Relaxed);
    let result = run();
    let bytes = Bytes {
        allocated: ALLOCATED.load(Relaxed) - allocated,
        peak: PEAK.load(Relaxed).saturating_sub(live),
        held: LIVE.load(Relaxed).saturating_sub(live),
    };
    burn_cross_entropy::use_huge_pages(had_huge_pages);
    (result, bytes)
}

fn add(bytes: usize) {
    ALLOCATED.fetch_add(bytes, Relaxed);
    PEAK.fetch_max(LIVE.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: every call passes to `System` with its own arguments, so what holds for `System` holds here. The
// counting touches no memory but its own and does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise about `layout` is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise about `layout` is the one that `System` asks for.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `memory` came from `System`, by one of the functions here, with `layout`.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // A block that grows counts by the difference.
        if size > layout.size() {
            add(size - layout.size());
        } else {
            LIVE.fetch_sub(layout.size() - size, Relaxed);
        }
        // SAFETY: `memory` came from `System` with `layout`, and `size` is as the caller promised.
        unsafe { System.realloc(memory, layout, size) }
    }
}
