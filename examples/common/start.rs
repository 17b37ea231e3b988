//! Explains why a device does not start: Burn panics, on this thread or on one of the device's, and the user
//! gets a sentence.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, PoisonError};

/// Returns what `open` returns, or the message of the first panic: later panics on other threads only say
/// that the device's thread is gone. The panic is not printed, because a missing device is not a fault of the
/// program, and the place in the code does not help the user.
pub fn started<T>(open: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let first = Arc::new(Mutex::new(None));
    let heard = first.clone();
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let words = panic.payload_as_str().unwrap_or("a panic without words");
        let mut first = heard.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| without_names(words));
    }));
    let started = panic::catch_unwind(AssertUnwindSafe(open));
    panic::set_hook(print);
    let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (started, first) {
        (Ok(Ok(value)), _) => Ok(value),
        (_, Some(words)) => Err(words),
        (Ok(Err(reason)), None) => Err(reason),
        (Err(_), None) => Err("a panic that nobody heard".to_string()),
    }
}

/// Removes the list of about thirty file names that the loader searched for.
fn without_names(words: &str) -> String {
    let words = words.split(" - searched for").next().unwrap_or(words);
    words.trim_end_matches('.').to_string()
}
