//! Burn panics where a device refuses; that is the end of a row, not of the run.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the first panic said, on whichever thread. A device's own thread knows the reason; those
/// that wait for it panic after it, because it is gone.
static FIRST: Mutex<Option<String>> = Mutex::new(None);

fn first() -> MutexGuard<'static, Option<String>> {
    FIRST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has panics heard, and still printed.
pub fn listen() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let words = panic.payload_as_str().unwrap_or("a panic without words");
        first().get_or_insert_with(|| words.to_string());
        print(panic);
    }));
}

/// The work, or the reason of a panic in it.
pub fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    *first() = None;
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let words = first().take();
        Err(words.unwrap_or_else(|| "a panic that nobody heard".to_string()))
    })
}
