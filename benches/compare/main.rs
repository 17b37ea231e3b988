//! Times this crate beside others, in turns on the same machine: beside PyTorch on the CPU, or with
//! `--device` beside `burn::nn` on a GPU. A copy of the logits' bytes is the floor.
//!
//! `cargo bench --bench compare -- --python PYTHON` prints the tables of the CPU as markdown; the Python
//! needs only torch, and a C++ compiler for `torch.compile`. `cargo bench --bench compare --features wgpu -- --device wgpu` prints the tables of a
//! device. The program is one file, which another machine can run without cargo. `--help` explains the
//! options. `gpu.py` times PyTorch and Liger on a GPU.
//!
//! - **Data**: logits uniform in [-6, 6), a hash of the index, the same on all sides; mean over all rows,
//!   classes in dimension 1.
//! - **Check**: before an entry is timed, the sides must agree in the loss, in the sum of the gradient's
//!   absolute values and in single entries of it. The other side is PyTorch on the CPU; on a device it is f64
//!   on the host and `burn::nn`. `pytorch/tolerance.rs` and `device/sides.rs` say how closely they agree.
//! - **Turns**: in every round each side and the copy have one turn, while the others are idle; a turn starts
//!   when the threads of the one before sleep. A turn begins with an untimed repetition, and before the first
//!   round each side warms up until its times settle. The figures are medians of all repetitions.
//! - **Here, gradient over the logits**: logits that require a gradient are moved into `loss.forward`, as the
//!   logits of a model are, then `backward()`. The logits of each repetition are made before the clock
//!   starts.
//! - **Here, logits kept**: a clone goes into `loss.forward`, and the gradient of the leaf is fetched after
//!   `backward()`, as on PyTorch's and `burn::nn`'s sides.
//! - **PyTorch**: `torch.nn.functional.cross_entropy(x, y)`, then `backward()`, with `x.grad` set to `None`
//!   before the clock starts; the forward pass alone runs under `torch.no_grad()`.
//!   Two more processes of PyTorch run beside it, one with huge pages (`THP_MEM_ALLOC_ENABLE=1`) and one with
//!   `torch.compile`.
//! - **Floor program**: a loss and gradient over rows of f32 by AVX-512 without any option
//!   (`pytorch/row_floor.rs`), on as many threads.
//! - **Projection**: hidden states times a weight, and the loss of these logits, by `LinearCrossEntropyLoss`
//!   beside PyTorch's eager product and loss and its `linear_cross_entropy` in chunks. **Memory** is the peak
//!   of resident pages during one step after a first one, less the pages before it and the two gradients, on
//!   all sides. On a device it is timed beside its three matrix products alone (`device/projection.rs`).
//! - **Sigmoid pairs**: the sigmoid loss of all pairs of two views, by `SigLipLoss` beside PyTorch's plain form, which
//!   holds the matrix of pairs, and beside the three matrix products alone.
//! - **Copy**: the bytes of the logits read and written once, by as many threads or on the device.
//! - **Clock**: on a device it starts and stops when the device is idle.
//! - **Of the copy's bandwidth**: the forward pass counts as one read of the logits, forward and backward as
//!   two reads and one write, the copy as one read and one write.
//!
//! The clock does not cover dropping results, except what PyTorch's and Burn's `backward` free themselves.
//! Nothing else may run on the machine.

mod agreement;
mod calls;
mod command;
mod device;
mod entries;
mod machine;
mod memory;
mod pairs;
mod phases;
mod projections;
mod pytorch;
mod report;
mod rounds;
mod table;

use std::process::ExitCode;

use clap::Parser;

use crate::command::{command, is_to_measure};
use crate::device::{Runtime, Set, identify};
use crate::entries::{beside_pytorch, named};
use crate::machine::warn_if_busy;
use crate::pairs::pairs;
use crate::report::Files;
use crate::rounds::{Plan, at_least_one};

const COMMAND: &str = "cargo bench --bench compare --";
const EXAMPLES: &str = "\
Examples:
  cargo bench --bench compare -- --python torch-env/bin/python
  cargo bench --bench compare --features wgpu -- --device wgpu
  ./compare --device cuda --set large --only 8192x128256
      with `compare` the program of such a build, carried to another machine";

/// Times this crate beside others, in turns on the same machine, and prints markdown tables of the medians
/// and their ratios.
///
/// Without --device it runs on the CPU, beside PyTorch and a copy of the logits' bytes. With --device it runs
/// on a GPU (or another device of the runtime), beside burn::nn and a copy on the device, and needs no
/// Python.
///
/// Before a row is timed, all sides must give the same loss and gradient. A ratio `PyTorch / here` or
/// `burn::nn / here` above 1 means that this crate is faster.
#[derive(Parser)]
#[command(name = "compare", bin_name = COMMAND, after_help = EXAMPLES)]
struct Arguments {
    /// Device to time on, instead of the CPU beside PyTorch: cpu, wgpu, vulkan, metal, webgpu, cuda or rocm.
    /// The build must have the Cargo feature of that name.
    ///
    /// The runtime takes its default one of several devices; the environment variables
    /// CUBECL_WGPU_DEFAULT_DEVICE (for example `DiscreteGpu(1)`) and CUDA_VISIBLE_DEVICES choose another.
    #[arg(
        long,
        value_name = "RUNTIME",
        value_parser = Runtime::named,
        conflicts_with_all = ["python", "threads"]
    )]
    device: Option<Runtime>,

    /// Rows to time on the device; only with --device.
    #[arg(long, value_enum, default_value = "small", requires = "device")]
    set: Set,

    /// Only prints which device --device finds, and times nothing; only with --device.
    #[arg(long, requires = "device")]
    identify: bool,

    /// Python that has torch, by name or path (relative to the folder of Cargo.toml); not with --device.
    #[arg(long, value_name = "PYTHON", default_value = "python3")]
    python: String,

    /// Threads of this crate, of PyTorch and of the copy [default: all cores]; not with --device.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,

    /// Leaves torch.compile out, which needs a C++ compiler; not with --device.
    #[arg(long, conflicts_with = "device")]
    no_compile: bool,

    #[command(flatten)]
    plan: Plan,

    /// Times only the rows whose name contains this. A name is, for example, `512x32000 index f32
    /// forward+backward` or `4096x10 index f32 forward alone`; a name that does not exist lists all.
    #[arg(
        long,
        value_name = "SUBSTRING",
        default_value = "",
        hide_default_value = true
    )]
    only: String,

    /// Prints each time with its quartiles.
    #[arg(long)]
    quartiles: bool,

    #[command(flatten)]
    files: Files,

    /// The option that `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if !is_to_measure(COMMAND) {
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    if let (true, Some(runtime)) = (arguments.identify, arguments.device) {
        return identify(runtime);
    }
    let Arguments {
        plan, quartiles, ..
    } = *arguments;
    let (entries, projections, pairs) = match arguments.device {
        Some(_) => {
            let set = arguments.set;
            (set.entries(), set.projections(), Vec::new())
        }
        None => (beside_pytorch(), projections::beside_pytorch(), pairs()),
    };
    let chosen = named(entries, projections, pairs, &arguments.only)?;
    warn_if_busy();
    match arguments.device {
        Some(runtime) => {
            let request = device::Request {
                runtime,
                plan,
                quartiles,
                command: command("compare", &format!(" --features {}", runtime.name)),
            };
            request.run(&chosen, &arguments.files)
        }
        None => {
            let request = pytorch::Request {
                python: &arguments.python,
                threads: arguments.threads,
                compiles: !arguments.no_compile,
                plan,
                quartiles,
                command: command("compare", ""),
            };
            request.run(&chosen, &arguments.files)
        }
    }
}
