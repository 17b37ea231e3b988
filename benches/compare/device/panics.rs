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

/// The work, or the reason of its failure: after a panic elsewhere it is told that results are missing,
/// and the panic says why.
pub fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    *first() = None;
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    let words = first().take();
    match (result, words) {
        (Ok(Err(reason)), Some(words)) => Err(format!("{words}\nand after that: {reason}")),
        (Ok(result), _) => result,
        (Err(_), Some(words)) => Err(words),
        (Err(_), None) => Err("a panic that nobody heard".to_string()),
    }
}
