//! This crate beside PyTorch, on the CPU, in turns on the same machine, with a copy of the logits'
//! bytes as the floor.
//!
//! `cargo bench --bench compare -- --python PYTHON` prints the tables as markdown; `--help` has the
//! options. The Python needs torch and nothing else.
//!
//! - **Data**: logits uniform in [-6, 6), a hash of the index, the same on both sides; mean over
//!   all rows, classes in dimension 1.
//! - **Check**: before an entry is timed, the loss, the sum of the gradient's absolute values and
//!   single entries of it have to agree (`agreement.rs` has the tolerances).
//! - **Turns**: in every round PyTorch, this crate and the copy have one turn each, while the others
//!   are idle; the threads of the one before are waited for until they sleep. A turn begins with
//!   an untimed repetition. The figures are medians of all repetitions.
//! - **PyTorch**: `torch.nn.functional.cross_entropy(x, y)`, then `backward()`, with `x.grad` set to
//!   `None` before the clock starts; for the forward pass alone under `torch.no_grad()`.
//! - **Here, gradient over the logits**: logits that require a gradient are moved into
//!   `loss.forward`, as those of a model are, then `backward()`. The logits of each repetition are
//!   made before the clock starts.
//! - **Here, logits kept**: a clone goes into `loss.forward`, and the gradient of the leaf is fetched
//!   after `backward()`, which is what PyTorch's side does.
//! - **Copy**: the bytes of the logits read and written once by as many threads.
//!
//! Dropping results is outside of the clock on both sides, but for what PyTorch's and Burn's
//! `backward` free themselves. The machine has to be idle otherwise.

mod agreement;
mod calls;
mod entries;
mod machine;
mod pytorch;
mod report;
mod rounds;
mod table;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::machine::warn_if_busy;
use crate::rounds::{Plan, at_least_one};

const COMMAND: &str = "cargo bench --bench compare --";

/// Times this crate and PyTorch in turns on the same machine, and prints markdown tables of the
/// medians and their ratios.
///
/// Every row is checked to give the same loss and gradient on both sides before it is timed. The
/// floor is a copy of the logits' bytes. A ratio `PyTorch / here` above 1 means that this crate is
/// faster.
#[derive(Parser)]
#[command(name = "compare", bin_name = COMMAND)]
struct Arguments {
    /// A Python that has torch, by name or path (relative to the folder of Cargo.toml).
    #[arg(long, value_name = "PYTHON", default_value = "python3")]
    python: String,

    /// Threads of this crate, of PyTorch and of the copy [default: all cores].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,

    #[command(flatten)]
    plan: Plan,

    /// Only the rows whose name contains this. A name is, for example, `512x32000 index f32
    /// forward+backward` or `4096x10 index f32 forward alone`.
    #[arg(
        long,
        value_name = "SUBSTRING",
        default_value = "",
        hide_default_value = true
    )]
    only: String,

    /// Writes each time with its quartiles.
    #[arg(long)]
    quartiles: bool,

    /// Also writes the tables into a file (relative to the folder of Cargo.toml).
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let given = |names: &[&str]| env::args().any(|argument| names.contains(&argument.as_str()));
    if !given(&["--bench", "--help", "-h"]) {
        println!("Nothing is measured without `cargo bench`: {COMMAND} --help");
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
    let entries = entries::named(entries::beside_pytorch(), &arguments.only)?;
    warn_if_busy();
    let request = pytorch::Request {
        python: &arguments.python,
        threads: arguments.threads,
        plan: arguments.plan,
        quartiles: arguments.quartiles,
        command: command(),
    };
    request.run(&entries, arguments.out.as_deref())
}

/// The command line as it was typed.
fn command() -> String {
    let options = env::args().skip(1).filter(|option| option != "--bench");
    let options: Vec<String> = options.map(quoted).collect();
    format!("{COMMAND} {}", options.join(" "))
        .trim_end()
        .to_string()
}

/// An option as it is typed.
fn quoted(option: String) -> String {
    match option.contains(char::is_whitespace) {
        true => format!("'{option}'"),
        false => option,
    }
}
