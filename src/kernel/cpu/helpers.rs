//! Threads that help the calling one.
//!
//! A thread that sleeps takes longer to wake than a small loss takes to compute: 40 us on a virtual machine.
//! `rayon`'s scopes wait until every thread has woken, even if nothing is left to do for it. Here the calling
//! thread works meanwhile, and waits for those alone that have begun. That needs a promise about lifetimes which
//! the compiler cannot check, so the unsafe code of it is in this file.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time that the calling thread looks again and again whether the others have ended, before it sleeps.
const AWAKE: Duration = Duration::from_micros(200);

/// Runs `work` on this thread, and on up to `helpers` threads of the pool if they wake in time. Each run has to
/// take what is left to do, and to return when nothing is.
pub(super) fn with_helpers(helpers: usize, work: &(dyn Fn() + Sync)) {
    // SAFETY: `Ending` ends before this function does, also by a panic. After it no thread is inside of `work`,
    // and none enters it.
    let lasting =
        unsafe { std::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(work) };
    let desk = Arc::new(Desk {
        state: Mutex::new(State {
            work: Some(lasting),
            inside: 0,
            panic: None,
        }),
        ended: Condvar::new(),
    });
    let ending = Ending(&desk);
    spawn_below(0, helpers, &desk);
    work();
    drop(ending);
    if let Some(panic) = desk.lock().panic.take() {
        resume_unwind(panic);
    }
}

/// Wakes the threads below a thread in a binary tree, so that many threads wake in a few steps and no thread has
/// to wake them all.
fn spawn_below(thread: usize, helpers: usize, desk: &Arc<Desk>) {
    for below in [2 * thread + 1, 2 * thread + 2] {
        if below <= helpers {
            let desk = Arc::clone(desk);
            rayon::spawn(move || {
                if let Some(work) = desk.enter() {
                    spawn_below(below, helpers, &desk);
                    let result = catch_unwind(AssertUnwindSafe(work));
                    desk.leave(result.err());
                }
            });
        }
    }
}

/// Place where helpers take the work and give it back.
struct Desk {
    state: Mutex<State>,
    ended: Condvar,
}

struct State {
    /// Absent when nobody may begin any more.
    work: Option<&'static (dyn Fn() + Sync)>,
    /// Number of helpers that are at work.
    inside: usize,
    panic: Option<Box<dyn Any + Send>>,
}

impl Desk {
    /// Locks the state, also after a panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self) -> Option<&'static (dyn Fn() + Sync)> {
        let mut state = self.lock();
        let work = state.work?;
        state.inside += 1;
        Some(work)
    }

    fn leave(&self, panic: Option<Box<dyn Any + Send>>) {
        let mut state = self.lock();
        state.inside -= 1;
        state.panic = state.panic.take().or(panic);
        drop(state);
        self.ended.notify_one();
    }
}

/// Lets no helper begin any more, and waits for those that have.
struct Ending<'a>(&'a Desk);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.lock().work = None;
        let begin = Instant::now();
        while begin.elapsed() < AWAKE {
            if self.0.lock().inside == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        let mut state = self.0.lock();
        while state.inside > 0 {
            state = self
                .0
                .ended
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn everything_is_done_by_whoever_comes() {
        for helpers in [0, 1, 2, 7] {
            for length in [0, 1, 1000] {
                let next = AtomicUsize::new(0);
                let done = Mutex::new(vec![]);
                with_helpers(helpers, &|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= length {
                            break;
                        }
                        done.lock().unwrap().push(at);
                    }
                });
                let mut done = done.into_inner().unwrap();
                done.sort_unstable();
                assert_eq!(done, (0..length).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn nobody_is_inside_when_the_call_returns() {
        let inside = AtomicUsize::new(0);
        for _ in 0..200 {
            with_helpers(3, &|| {
                inside.fetch_add(1, Ordering::SeqCst);
                std::thread::yield_now();
                inside.fetch_sub(1, Ordering::SeqCst);
            });
            assert_eq!(inside.load(Ordering::SeqCst), 0);
        }
    }

    #[test]
    fn the_calling_thread_waits_for_a_slow_helper_and_has_its_panic() {
        let (caller, begun) = (std::thread::current().id(), AtomicUsize::new(0));
        let work = || {
            begun.fetch_add(1, Ordering::SeqCst);
            if std::thread::current().id() == caller {
                // Until the helper has begun.
                while begun.load(Ordering::SeqCst) < 2 {
                    std::thread::yield_now();
                }
            } else {
                std::thread::sleep(2 * AWAKE);
                panic!("in the helper");
            }
        };
        let panic = catch_unwind(AssertUnwindSafe(|| with_helpers(1, &work))).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"in the helper"));
    }

    #[test]
    fn a_panic_of_the_calling_thread_leaves_no_helper_inside() {
        let (caller, inside) = (std::thread::current().id(), AtomicUsize::new(0));
        let work = || {
            if std::thread::current().id() == caller {
                panic!("in the caller");
            }
            inside.fetch_add(1, Ordering::SeqCst);
            std::thread::yield_now();
            inside.fetch_sub(1, Ordering::SeqCst);
        };
        let panic = catch_unwind(AssertUnwindSafe(|| with_helpers(3, &work))).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"in the caller"));
        assert_eq!(inside.load(Ordering::SeqCst), 0);
    }
}
