//! Parts of a call on several threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::helpers::with_helpers;
use super::part::MANY_CLASSES;
use crate::operation::Geometry;

/// Whether parts are handed to threads. Waking a thread costs more than it saves for few elements: 64 rows of
/// 1000 classes take 48 us with a second thread that slept and 27 us alone. 256 rows take 120 and 106 us, but 105
/// and 170 us behind a matrix product, whose threads are still awake.
pub(super) fn is_worth_spreading(geometry: &Geometry) -> bool {
    const LEAST: usize = 1 << 17;
    let elements = geometry.rows() * geometry.classes;
    // Rows that lie across the lanes are moved number by number, which takes four times as long.
    let is_moved = geometry.inner == 1 && geometry.classes < MANY_CLASSES;
    elements * if is_moved { 4 } else { 1 } >= LEAST
}

/// Runs the parts, with `spread` on several threads, and returns their results in order.
///
/// Each thread takes one part after the other from a queue and keeps its scratch memory meanwhile, so
/// there is one scratch memory per thread. The calling thread begins at once, and the others
/// [help](with_helpers) when they have woken up.
pub(super) fn for_each<T: Send, S, R: Send>(
    parts: Vec<T>,
    spread: bool,
    scratch: impl Fn() -> S + Sync,
    solve: impl Fn(T, &mut S) -> R + Sync,
) -> Vec<R> {
    let threads = rayon::current_num_threads().min(parts.len());
    if !spread || threads < 2 {
        let mut scratch = scratch();
        return parts
            .into_iter()
            .map(|part| solve(part, &mut scratch))
            .collect();
    }
    let all = Mutex::new(Vec::with_capacity(parts.len()));
    let queue = Mutex::new(parts.into_iter().enumerate());
    let work = || {
        let mut scratch = scratch();
        let mut done = Vec::new();
        loop {
            let next = lock(&queue).next();
            let Some((at, part)) = next else { break };
            done.push((at, solve(part, &mut scratch)));
        }
        lock(&all).extend(done);
    };
    with_helpers(threads - 1, &work);
    let mut all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    all.sort_unstable_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}

/// Locks a mutex, also after a panic: the call ends with the panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
