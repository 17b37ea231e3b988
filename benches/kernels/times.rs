//! Measures what the host needs for a step. It is all of the step's time, because the driver computes
//! nothing.

use std::time::Instant;

use burn::tensor::Device;
use serde::Serialize;

use crate::cases::{Case, Step, small_cases};

/// Steps after which nothing is compiled or allocated any more.
const WARM_UP: usize = 200;
const STEPS: usize = 2000;

#[derive(Serialize)]
pub struct HostTime {
    name: String,
    here: Time,
    /// `burn::nn`'s loss on the same tensors, where it has the targets.
    burn_nn: Option<Time>,
}

/// Medians: until the calls of the step return, and until the device has nothing left to do.
#[derive(Serialize)]
struct Time {
    microseconds_of_calls: f64,
    microseconds: f64,
}

pub fn host_times(device: &Device) -> Result<Vec<HostTime>, String> {
    let time_of = |case: &Case| {
        let here = timed(device, || case.prepared(device).map(Some))?;
        Ok(HostTime {
            name: case.name(),
            here: here.expect("this crate has every case"),
            burn_nn: timed(device, || case.prepared_with_burn(device))?,
        })
    };
    small_cases().iter().map(time_of).collect()
}

/// Times of a step; none where there is no such step.
fn timed(
    device: &Device,
    prepared: impl Fn() -> Result<Option<Step>, String>,
) -> Result<Option<Time>, String> {
    let (mut of_calls, mut in_all) = (Vec::new(), Vec::new());
    for at in 0..WARM_UP + STEPS {
        let Some(step) = prepared()? else {
            return Ok(None);
        };
        let start = Instant::now();
        let results = step();
        let calls = start.elapsed();
        crate::sync(device)?;
        let all = start.elapsed();
        drop(results);
        if at >= WARM_UP {
            of_calls.push(calls.as_secs_f64() * 1e6);
            in_all.push(all.as_secs_f64() * 1e6);
        }
    }
    Ok(Some(Time {
        microseconds_of_calls: median(of_calls),
        microseconds: median(in_all),
    }))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
