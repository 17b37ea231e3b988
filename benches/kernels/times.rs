//! Measures what the host needs for a step. It is all of the step's time, because the driver computes
//! nothing.

use std::time::Instant;

use burn::tensor::Device;
use serde::Serialize;

use crate::cases::small_cases;

/// Steps after which nothing is compiled or allocated any more.
const WARM_UP: usize = 200;
const STEPS: usize = 2000;

#[derive(Serialize)]
pub struct HostTime {
    name: String,
    /// Medians: until the calls of the step return, and until the device has nothing left to do.
    microseconds_of_calls: f64,
    microseconds: f64,
}

pub fn host_times(device: &Device) -> Result<Vec<HostTime>, String> {
    let mut times = Vec::new();
    for case in small_cases() {
        let mut of_calls = Vec::new();
        let mut in_all = Vec::new();
        for step in 0..WARM_UP + STEPS {
            let prepared = case.prepared(device)?;
            let start = Instant::now();
            let results = prepared();
            let calls = start.elapsed();
            crate::sync(device)?;
            let all = start.elapsed();
            drop(results);
            if step >= WARM_UP {
                of_calls.push(calls.as_secs_f64() * 1e6);
                in_all.push(all.as_secs_f64() * 1e6);
            }
        }
        times.push(HostTime {
            name: case.name(),
            microseconds_of_calls: median(of_calls),
            microseconds: median(in_all),
        });
    }
    Ok(times)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
