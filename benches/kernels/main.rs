//! Makes one step of every representative case of the loss on CUDA, for `scripts/kernel-table`, which shows
//! the kernels without a GPU.
//!
//! The script replaces NVIDIA's driver with one that computes nothing (`driver.c`); it keeps the code of
//! every kernel and writes a line for every launch. The script starts this program once for each
//! architecture, and `table.py` makes tables of what the two have written.
//!
//! - `cases.rs`: which steps are made.
//! - `launches.rs`: which kernels each step launched, as the driver noted it.
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

/// Makes one step of every case and writes down which kernels it launched, or with --times measures what the
/// host needs for a step. `scripts/kernel-table` starts it.
#[derive(Parser)]
#[command(name = "kernels")]
struct Arguments {
    /// The JSON file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Runs only the cases whose name contains this, for example `8192x1000 index bf16`.
    #[arg(long, value_name = "SUBSTRING", default_value = "")]
    only: String,

    /// Measures the host's times in place of the cases.
    #[arg(long)]
    times: bool,
}

/// The case of a step, and what the step launched.
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

/// Does nothing under `cargo test`, which starts every target that it builds: there is no driver then.
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
        // The launches that made the tensors are not part of the step.
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

/// Waits until the driver has received everything.
pub fn sync(device: &Device) -> Result<(), String> {
    let done = device.sync();
    done.map_err(|error| format!("the driver failed: {error}"))
}
