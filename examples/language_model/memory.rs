//! What a loss holds in the CPU's memory at its highest, as the allocator counts it.
//!
//! Flex's matrix product asks for a second, zeroed block of the size of its result, copies it and never
//! writes it, so that it costs no memory on most systems. That of the logits is left out here; that of
//! the embedding's gradient makes the number with a logits tensor too high by the embedding's size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_cross_entropy::{CrossEntropyLossConfig, LinearCrossEntropyLossConfig};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The system's allocator, and two numbers.
struct Counting;

fn add(bytes: usize) {
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

/// The most bytes at one time while something runs, over what there was before, in all threads.
fn peak<T>(run: impl FnOnce() -> T) -> usize {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    drop(run());
    PEAK.load(Relaxed).saturating_sub(before)
}

/// Bytes that a loss and its gradients take besides the hidden states and the embedding: with a
/// tensor of all logits, and without. Of one step over random numbers, the sizes being those of
/// rows, features and classes.
pub fn of_loss([rows, features, classes]: [usize; 3], device: &Device) -> [usize; 2] {
    let training = device.clone().autodiff();
    let random = |rows| {
        Tensor::<2>::random([rows, features], Distribution::Default, &training).require_grad()
    };
    let (hidden, embedding) = (random(rows), random(classes));
    let targets = Tensor::<1, Int>::arange(0..rows as i64, &training);
    let targets = targets.remainder_scalar(classes as i64);
    let projection = || embedding.clone().transpose();

    let whole = CrossEntropyLossConfig::new().init(device);
    let before = LIVE.load(Relaxed);
    let logits = hidden.clone().matmul(projection());
    let held = LIVE.load(Relaxed) - before;
    let with_logits = held + peak(|| whole.forward(logits, targets.clone()).backward());

    let in_chunks = LinearCrossEntropyLossConfig::new().init(device);
    let without_logits = peak(|| {
        let loss = in_chunks.forward(hidden.clone(), projection(), None, targets.clone());
        loss.backward()
    });
    [with_logits, without_logits]
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::alone;

    #[test]
    fn only_with_a_logits_tensor_all_logits_are_held() {
        let _alone = alone();
        let (rows, classes) = (1600, 20_000);
        let [with, without] = of_loss([rows, 4, classes], &Device::flex());
        let logits = 4 * rows * classes;
        assert!(with > logits, "{with}");
        // The chunk, and a little more.
        assert!((60 << 20..72 << 20).contains(&without), "{without}");
    }
}
