//! Ends a run on Ctrl-C and keeps its results so far.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code of shells for a program that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;

/// Returns a flag that the first Ctrl-C raises. The second one ends the program at once, and leaves files
/// that were written before as they are.
pub fn watch() -> Result<Arc<AtomicBool>, String> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED.into());
        }
    })
    .map_err(|error| format!("Ctrl-C cannot be watched for: {error}"))?;
    Ok(interrupted)
}
