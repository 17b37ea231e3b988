//! The machine of the measurements: its name, its cores, work for all of them, and whether it is idle.

use std::env;
use std::fs;
use std::thread;

/// The name of the processor, where the system knows it.
pub fn processor() -> String {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = information
        .lines()
        .find(|line| line.starts_with("model name"));
    match line.and_then(|line| line.split_once(": ")) {
        Some((_, name)) => name.to_string(),
        None => env::consts::ARCH.to_string(),
    }
}

pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The length of one part, if each core gets one part of `length` elements.
pub fn part_of(length: usize) -> usize {
    length.div_ceil(cores()).max(1)
}

/// Runs the work on each part in a thread of its own, and returns the results.
pub fn together<P: Send, R: Send>(
    parts: impl Iterator<Item = P>,
    work: impl Fn(P) -> R + Sync,
) -> Vec<R> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = parts.map(|part| scope.spawn(move || work(part))).collect();
        let results = threads.into_iter().map(|thread| thread.join());
        results
            .map(|result| result.expect("no part panics"))
            .collect()
    })
}

/// Warns if the machine is busy. Threads that wait for each other lose whole time slices to other programs:
/// PyTorch's smallest rows take a thousand times as long beside a compiler.
pub fn warn_if_busy() {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let last_minute = load.split(' ').next().and_then(|load| load.parse().ok());
    let load: f64 = last_minute.unwrap_or_default();
    if load > cores() as f64 / 2.0 {
        eprintln!(
            "The machine is busy or was within the last minute (load average {load}): unless \
             nothing else runs now, the figures mean little."
        );
    }
}
