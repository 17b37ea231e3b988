//! The floor: as many bytes as the logits have, copied once by all threads.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use crate::rounds::Contender;

pub struct Copy {
    source: Vec<u8>,
    destination: Vec<u8>,
    threads: usize,
}

impl Copy {
    pub fn new(bytes: usize, threads: usize) -> Self {
        Self {
            source: vec![1; bytes],
            destination: vec![2; bytes],
            threads,
        }
    }
}

impl Contender for Copy {
    /// Seconds of the slowest thread. Threads do not begin in the same instant, and that delay is not
    /// counted, which favours the copy where it takes microseconds.
    fn turn(&mut self, repetitions: usize) -> Result<Vec<f64>, String> {
        let part = self.source.len().div_ceil(self.threads);
        let parts = self.source.chunks(part);
        let parts: Vec<_> = parts.zip(self.destination.chunks_mut(part)).collect();
        let start = Barrier::new(parts.len());
        let by_thread: Vec<Vec<f64>> = thread::scope(|scope| {
            let start = &start;
            let spawn = |(from, to)| scope.spawn(move || copies(from, to, repetitions, start));
            let threads: Vec<_> = parts.into_iter().map(spawn).collect();
            let results = threads.into_iter().map(|thread| thread.join());
            results
                .map(|times| times.expect("a copy does not panic"))
                .collect()
        });
        let slowest = |repetition: usize| {
            let times = by_thread.iter().map(|times| times[repetition]);
            times.fold(0.0, f64::max)
        };
        Ok((1..=repetitions).map(slowest).collect())
    }
}

/// Seconds of each repetition, and of one more before them, which warms up.
fn copies(from: &[u8], to: &mut [u8], repetitions: usize, start: &Barrier) -> Vec<f64> {
    let once = |_| {
        start.wait();
        let start = Instant::now();
        to.copy_from_slice(black_box(from));
        black_box(&mut *to);
        start.elapsed().as_secs_f64()
    };
    (0..=repetitions).map(once).collect()
}
