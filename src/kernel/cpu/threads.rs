//! The parts of a call on several threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Elements from which on the parts are handed to threads: below it, waking them costs more than
/// they save. At 33 rows of 1000 classes two threads take 13 us and one 20; half of them take 12 in
/// either case.
pub(super) const SPREAD_FROM: usize = 1 << 15;

/// Runs the parts, on several threads where `spread`, and returns their results in order.
///
/// Each thread takes the next part from a queue when it is done with one, and keeps its scratch
/// memory meanwhile: there is as much of it as there are threads. This thread is one of them, and
/// begins at once; the others join when they have woken up, and are waited for.
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
    rayon::in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| work());
        }
        work();
    });
    let mut all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    all.sort_unstable_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}

/// A thread that panicked while it held the lock is reported by the pool.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
