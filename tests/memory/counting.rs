//! An allocator that counts: the system's, and three numbers. The example `language_model` has it too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

/// What was allocated while something ran, by all threads.
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    /// In sum, whether freed since or not.
    pub allocated: usize,
    /// The most at one time, over what there was before.
    pub peak: usize,
    /// What there is afterwards, over what there was before.
    pub held: usize,
}

pub fn count<T>(run: impl FnOnce() -> T) -> (T, Bytes) {
    let (allocated, live) = (ALLOCATED.load(Relaxed), LIVE.load(Relaxed));
    PEAK.store(live, Relaxed);
    let result = run();
    let bytes = Bytes {
        allocated: ALLOCATED.load(Relaxed) - allocated,
        peak: PEAK.load(Relaxed).saturating_sub(live),
        held: LIVE.load(Relaxed).saturating_sub(live),
    };
    (result, bytes)
}

fn add(bytes: usize) {
    ALLOCATED.fetch_add(bytes, Relaxed);
    PEAK.fetch_max(LIVE.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: every call is handed on to `System` with the arguments it came with, so what holds for
// `System` holds here. The counting touches no memory but its own and does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise about `layout` is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `memory` came from `System`, by one of the functions here, with `layout`.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // What grows counts by how much it grows.
        if size > layout.size() {
            add(size - layout.size());
        } else {
            LIVE.fetch_sub(layout.size() - size, Relaxed);
        }
        // SAFETY: as in `dealloc`, and `size` is as the caller promised.
        unsafe { System.realloc(memory, layout, size) }
    }
}
