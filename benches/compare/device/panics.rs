//! Burn panics where a device refuses. Such a panic ends a row, not the run.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The message of the first panic on any thread. A device's own thread knows the reason; threads that wait
/// for it panic later, because it is gone.
static FIRST: Mutex<Option<String>> = Mutex::new(None);

fn first() -> MutexGuard<'static, Option<String>> {
    FIRST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records the messages of panics, and still prints them.
pub fn listen() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let words = panic.payload_as_str().unwrap_or("a panic without words");
        first().get_or_insert_with(|| words.to_string());
        print(panic);
    }));
}

/// Runs the work and returns its result, or the reason of its failure. After a panic on another thread the
/// work only reports missing results; the panic says why.
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
