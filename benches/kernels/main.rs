//! One step of every representative case of the loss on CUDA, for `scripts/kernel-table`, which shows
//! what the kernels look like without a GPU.
//!
//! The script puts a driver that computes nothing in the place of NVIDIA's (`driver.c`, which keeps
//! the code of every kernel and a line for every launch), starts this program once for each
//! architecture, and makes tables of what the two have left (`table.py`).
//!
//! - `cases.rs`: which steps are made.
//! - `launches.rs`: which kernels each of them has launched, as the driver noted it.
//! - `times.rs`: what the host needs for a step where the kernels take no time.

mod cases;
mod launches;
mod times;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use burn::tensor::Device;
use clap::Parser;
use serde::Serialize;

use crate::cases::cases;
use crate::launches::{Launch, Log};
use crate::times::{HostTime, host_times};

/// Makes one step of every case and writes down which kernels it launched, or with --times measures
/// what the host needs for a step. `scripts/kernel-table` starts it.
#[derive(Parser)]
#[command(name = "kernels")]
struct Arguments {
    /// The JSON file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Only the cases whose name contains this, for example `8192x1000 index bf16`.
    #[arg(long, value_name = "SUBSTRING", default_value = "")]
    only: String,

    /// Measures the host's times in place of the cases.
    #[arg(long)]
    times: bool,
}

/// What a step of a case was made of.
#[derive(Serialize)]
struct Made {
    name: String,
    rows: usize,
    classes: usize,
    dtype: &'static str,
    launches: Vec<Launch>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Cases(Vec<Made>),
    Times(Vec<HostTime>),
}

/// Under `cargo test`, which starts every target that it has built, there is neither a driver nor
/// anything to do.
fn main() -> ExitCode {
    if !env::args().any(|argument| ["--out", "--help", "-h"].contains(&argument.as_str())) {
        println!("Nothing is compiled without `--out`: scripts/kernel-table starts this program");
        return ExitCode::SUCCESS;
    }
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let device = Device::cuda(0);
    let report = match arguments.times {
        true => Report::Times(host_times(&device)?),
        false => Report::Cases(made(&device, &arguments.only)?),
    };
    let json = serde_json::to_string_pretty(&report).expect("it has names and numbers only");
    let out = &arguments.out;
    fs::write(out, json).map_err(|error| format!("{} cannot be written: {error}", out.display()))
}

fn made(device: &Device, only: &str) -> Result<Vec<Made>, String> {
    let mut log = Log::of_driver()?;
    let chosen = cases()
        .into_iter()
        .filter(|case| case.name().contains(only));
    let mut made = Vec::new();
    for case in chosen {
        let step = case.prepared(device)?;
        // What the tensors were made with.
        log.launches()?;
        let results = step();
        sync(device)?;
        drop(results);
        made.push(Made {
            name: case.name(),
            rows: case.rows(),
            classes: case.classes(),
            dtype: case.dtype.name(),
            launches: log.launches()?,
        });
    }
    match made.is_empty() {
        true => Err(format!("no case has `{only}` in its name")),
        false => Ok(made),
    }
}

/// Waits until the driver has been given everything.
pub fn sync(device: &Device) -> Result<(), String> {
    let done = device.sync();
    done.map_err(|error| format!("the driver failed: {error}"))
}
