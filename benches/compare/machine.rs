//! The machine that everything runs on: its name, its cores, and whether it is idle.

use std::env;
use std::fs;
use std::thread;

/// The name of the processor where the system tells it.
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

/// Threads that wait for each other lose whole time slices to other programs: PyTorch's smallest
/// rows take a thousand times as long beside a compiler.
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
