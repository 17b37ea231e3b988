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
mod entries;
mod floor;
mod machine;
mod ours;
mod pytorch;
mod rounds;
mod table;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use crate::agreement::check;
use crate::entries::{Entry, Phase, entries};
use crate::floor::Copy;
use crate::machine::{cores, processor, warn_if_busy};
use crate::ours::{Ours, Way, workload};
use crate::pytorch::{PyTorch, Theirs};
use crate::rounds::{Contender, Plan, at_least_one};
use crate::table::{Times, head};

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
    let threads = arguments.threads.unwrap_or_else(cores);
    warn_if_busy();
    // SAFETY: no other thread has been started.
    unsafe { env::set_var("RAYON_NUM_THREADS", threads.to_string()) };

    let entries = chosen(&arguments.only)?;
    let pytorch = PyTorch::start(&arguments.python, threads)?;
    let mut comparison = Comparison {
        report: Report::new(entries.len()),
        plan: arguments.plan,
        quartiles: arguments.quartiles,
        threads,
        pytorch,
    };
    comparison.report.add(&comparison.introduction());
    comparison.run(&entries)?;
    comparison.report.close(arguments.out.as_deref())
}

fn chosen(part: &str) -> Result<Vec<Entry>, String> {
    let (chosen, others): (Vec<Entry>, Vec<Entry>) = entries()
        .into_iter()
        .partition(|entry| entry.to_string().contains(part));
    if chosen.is_empty() {
        let names: Vec<String> = others.iter().map(Entry::to_string).collect();
        return Err(format!(
            "no row's name contains {part:?}; the rows are\n{}",
            names.join("\n")
        ));
    }
    Ok(chosen)
}

struct Comparison {
    report: Report,
    plan: Plan,
    quartiles: bool,
    threads: usize,
    pytorch: PyTorch,
}

impl Comparison {
    fn introduction(&self) -> String {
        let options = env::args().skip(1).filter(|option| option != "--bench");
        let options: Vec<String> = options.map(quoted).collect();
        format!(
            "{}, threads: {}. PyTorch {}, {} {}. Medians of `{}`.",
            processor(),
            self.threads,
            self.pytorch.version,
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION"),
            format!("{COMMAND} {}", options.join(" ")).trim_end(),
        )
    }

    fn run(&mut self, entries: &[Entry]) -> Result<(), String> {
        let mut phase = None;
        for entry in entries {
            self.report.starts(entry);
            let row = self.row(entry)?;
            if phase.replace(entry.phase) != Some(entry.phase) {
                self.report.add(&format!("\n{}", head(entry.phase)));
            }
            self.report.add(&row);
            self.report.bar.inc(1);
        }
        Ok(())
    }

    fn row(&mut self, entry: &Entry) -> Result<String, String> {
        let ways = match entry.phase {
            Phase::ForwardBackward => &[Way::Owned, Way::Shared][..],
            Phase::Forward => &[Way::Untracked],
        };
        let workload = workload(entry);
        let probes = match entry.phase {
            Phase::ForwardBackward => entry.probes(),
            Phase::Forward => Vec::new(),
        };
        let theirs = self.pytorch.outcome(entry, &probes)?;
        for &way in ways {
            check(entry, way, &workload.outcome(way, &probes), &theirs)?;
        }

        let pytorch = &mut self.pytorch;
        let mut theirs = Theirs { pytorch, entry };
        let workload = &*workload;
        let mut here: Vec<Ours> = ways.iter().map(|&way| Ours { workload, way }).collect();
        let mut copy = Copy::new(entry.bytes(), self.threads);
        let mut contenders: Vec<&mut dyn Contender> = vec![&mut theirs];
        contenders.extend(here.iter_mut().map(|ours| ours as &mut dyn Contender));
        contenders.push(&mut copy);

        let spreads = self.plan.measure(&mut contenders)?;
        let times = Times {
            pytorch: spreads[0],
            here: spreads[1..=ways.len()].to_vec(),
            copy: spreads[ways.len() + 1],
        };
        Ok(times.row(entry, self.quartiles))
    }
}

/// An option as it is typed.
fn quoted(option: String) -> String {
    match option.contains(char::is_whitespace) {
        true => format!("'{option}'"),
        false => option,
    }
}

/// The text so far, which is printed as it grows, and the progress on stderr.
struct Report {
    text: String,
    bar: ProgressBar,
}

impl Report {
    fn new(rows: usize) -> Self {
        let bar = ProgressBar::new(rows as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}") {
            bar.set_style(style);
        }
        Self {
            text: String::new(),
            bar,
        }
    }

    fn starts(&self, entry: &Entry) {
        self.bar.set_message(entry.to_string());
    }

    fn add(&mut self, lines: &str) {
        self.text += lines;
        self.text += "\n";
        self.bar.suspend(|| println!("{lines}"));
    }

    fn close(self, file: Option<&Path>) -> Result<(), String> {
        self.bar.finish_and_clear();
        match file {
            Some(file) => fs::write(file, self.text)
                .map_err(|error| format!("{} cannot be written: {error}", file.display())),
            None => Ok(()),
        }
    }
}
