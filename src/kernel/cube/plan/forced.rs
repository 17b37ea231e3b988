//! Choices that replace those of every plan, for tests.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Strategy;

/// Choices that replace those of a plan, for tests.
#[derive(Clone, Copy, Debug)]
pub struct Forced {
    /// Units that compute a row, or a part of one.
    pub strategy: Strategy,
    /// Whether a row has several parts.
    pub in_parts: bool,
    /// Whether planes add up, even where the device does not report plane operations.
    pub planes: bool,
    /// Whether each gradient has a launch of its own, as on a device that takes few buffers.
    pub few_buffers: bool,
    /// Whether a kernel computes loss and gradient where it can.
    pub one_pass: bool,
    /// Whether rows share vectors where they can.
    pub shared_vectors: bool,
    /// Whether a row of several blocks waits in shared memory for its gradient, if it fits there.
    pub parked: bool,
}

static FORCED: Mutex<Option<Forced>> = Mutex::new(None);

/// Choices that now replace those of every plan.
pub(crate) fn forced() -> Option<Forced> {
    *locked(&FORCED)
}

/// Runs a function while `choice` replaces the choices of every plan. One such function runs at a time.
pub fn forcing<R>(choice: Forced, run: impl FnOnce() -> R) -> R {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    struct GivenBack;
    impl Drop for GivenBack {
        fn drop(&mut self) {
            *locked(&FORCED) = None;
        }
    }
    let _alone = locked(&ONE_AT_A_TIME);
    *locked(&FORCED) = Some(choice);
    let _given_back = GivenBack;
    run()
}

/// Locks a mutex, also after a panic: the value behind it is always complete.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
