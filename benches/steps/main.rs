//! Times whole training steps with `burn::nn`'s loss and with this crate's, in turns on the same machine.
//!
//! `cargo bench --bench steps` prints a table in markdown for Flex; with `--features wgpu` and `--device
//! wgpu` one for a device. `--help` explains the options.
//!
//! - **Step**: forward pass of the model, loss, backward pass, Adam's step, and the metric: how many rows are
//!   predicted right. The clock stops when loss and metric are read and the device is idle. The order, the
//!   logits that are kept for the metric, and the model that is cloned for the optimizer are burn-train's.
//! - **`burn::nn`**: `CrossEntropyLoss::forward(logits.clone(), targets)`; the metric takes the largest of the
//!   kept logits. It takes rows of classes only, so the classes of pixels are moved to the end first.
//! - **Here**: this crate's `CrossEntropyLoss` in its place, and no other change but that it takes the logits
//!   of pixels as they are.
//! - **Here, with its output**: `forward_with_output`, from which the metric is. Nothing else holds the logits,
//!   so the gradient is written over them; where a linear layer makes them, the loss takes the layer, and no
//!   tensor of logits exists.
//! - **Models**: `models/`; layers, dropout and activations as Burn has them by default. Data is random and
//!   fixed, weights and dropout are the same on all sides.
//! - **Check**: before a model is timed, the losses of three steps must agree.
//! - **Turns**: as in `compare`: medians over rounds in which each side has one turn.
//! - **Memory**: on Flex and Linux, the most that a process of its own holds during three steps, with weights,
//!   optimizer and data, less what it held before them.
//! - **Memory over many steps**: `--memory-over 50` trains instead of timing, and says what each step takes
//!   (`growth/`).

#[path = "../../examples/common/canvas.rs"]
mod canvas;
#[path = "../compare/command.rs"]
mod command;
mod data;
mod growth;
#[path = "../compare/device/hardware.rs"]
mod hardware;
#[allow(dead_code)] // No work is divided among the cores here.
#[path = "../compare/machine.rs"]
mod machine;
#[path = "../compare/memory.rs"]
mod memory;
mod models;
mod peak;
#[allow(dead_code)] // Every row is timed here.
#[path = "../compare/report.rs"]
mod report;
mod results;
#[path = "../compare/rounds.rs"]
mod rounds;
#[path = "../compare/device/runtimes.rs"]
mod runtimes;
mod side;
#[path = "../../examples/common/start.rs"]
mod start;
#[path = "../compare/table.rs"]
mod table;
mod training;

use std::env;
use std::fmt::Display;
use std::process::ExitCode;

use burn::tensor::{Device, Tensor};
use clap::Parser;
use indicatif::ProgressBar;

use crate::command::{command, is_to_measure};
use crate::data::SEED;
use crate::growth::Growth;
use crate::hardware::Hardware;
use crate::machine::{cores, processor, warn_if_busy};
use crate::models::Task;
use crate::report::{Files, Report, Row};
use crate::results::{Measured, head};
use crate::rounds::{Contender, Plan, at_least_one};
use crate::runtimes::Runtime;
use crate::side::Side;
use crate::start::started;
use crate::table::mebibytes;
use crate::training::{Steps, check};

const COMMAND: &str = "cargo bench --bench steps --";
const EXAMPLES: &str = "\
Examples:
  cargo bench --bench steps
  cargo bench --bench steps -- --only language --only segmentation --rounds 3
  cargo bench --bench steps -- --memory-over 50 --memory-picture memory.png
  cargo bench --bench steps --features wgpu -- --device wgpu";

/// Times whole training steps with burn::nn's loss and with this crate's, in turns on the same machine, and
/// prints a markdown table of the medians, their ratios and the peak memory.
///
/// Before a model is timed, all sides must have the same losses over three steps; otherwise the run ends with
/// an error. A ratio `burn::nn / here` above 1 means that the step with this crate is faster.
///
/// The models: classifier, text classifier, character transformer, language model, segmentation.
#[derive(Parser)]
#[command(name = "steps", bin_name = COMMAND, after_help = EXAMPLES)]
struct Arguments {
    /// Device to train on: flex, cpu, wgpu, vulkan, metal, webgpu, cuda or rocm. The build must have the Cargo
    /// feature of that name.
    ///
    /// The runtime takes its default one of several devices; the environment variables
    /// CUBECL_WGPU_DEFAULT_DEVICE (for example `DiscreteGpu(1)`) and CUDA_VISIBLE_DEVICES choose another.
    /// Memory is measured on flex only.
    #[arg(long, value_name = "RUNTIME", value_parser = runtime, default_value = FLEX)]
    device: Runtime,

    /// Times only the models whose name contains this; may be given several times.
    #[arg(long, value_name = "SUBSTRING")]
    only: Vec<String>,

    /// Threads of flex [default: all cores].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,

    #[command(flatten)]
    plan: Plan,

    /// Prints each time with its quartiles.
    #[arg(long)]
    quartiles: bool,

    #[command(flatten)]
    growth: Growth,

    #[command(flatten)]
    files: Files,

    /// Only makes the steps of one side and prints the bytes of memory that they take. The program starts
    /// itself with this.
    #[arg(long, num_args = 2, value_names = ["MODEL", "SIDE"], hide = true)]
    memory_of: Option<Vec<String>>,

    /// The option that `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

const FLEX: &str = "flex";

fn runtime(name: &str) -> Result<Runtime, String> {
    match name {
        FLEX => Ok(Runtime {
            name: FLEX,
            open: Device::flex,
            needs: "a processor",
        }),
        _ => Runtime::named(name),
    }
}

fn main() -> ExitCode {
    if !is_to_measure(COMMAND) {
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
    if let Some(names) = &arguments.memory_of {
        let task = Task::named(&names[0]).ok_or("there is no such model")?;
        let side = Side::titled(&names[1]).ok_or("there is no such side")?;
        return peak::print(task, side);
    }
    if let Some(made) = arguments.growth.of_this_process() {
        return made;
    }
    let tasks = chosen(&arguments.only)?;
    let threads = arguments.threads.unwrap_or_else(cores);
    // SAFETY: no other thread has been started.
    unsafe { env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
    if let Some(steps) = arguments.growth.memory_over {
        let introduction = introduction(&on_flex(threads), "Made by", "");
        return arguments.growth.run(steps, &introduction, &arguments.files);
    }
    warn_if_busy();
    let device = opened(arguments.device)?;
    let name = arguments.device.name;
    let (hardware, features) = match name {
        FLEX => (on_flex(threads), String::new()),
        _ => {
            let hardware = Hardware::of(&device);
            (hardware.to_string(), format!(" --features {name}"))
        }
    };
    let introduction = introduction(&hardware, "Medians of", &features);
    let mut report = Report::new(&introduction, &arguments.files)?;
    let bar = report.bar();
    report.table(&head(name == FLEX), &tasks, |&task| {
        let row = row(task, arguments, &device, &bar);
        row.map_err(|error| format!("{task} is not timed, because {error}"))
    })?;
    if name == FLEX && tasks.contains(&Task::LanguageModel) {
        report.note(owners(Task::LanguageModel))?;
    }
    report.close()
}

fn on_flex(threads: usize) -> String {
    format!("{}, threads: {threads}", processor())
}

/// The first line: the machine, the crate, and what the command of this run `made`.
fn introduction(hardware: &str, made: &str, features: &str) -> String {
    format!(
        "{hardware}. {} {}. {made} `{}`.",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION"),
        command("steps", features),
    )
}

/// The models whose name contains one of the parts; all of them if there is no part.
fn chosen(parts: &[String]) -> Result<Vec<Task>, String> {
    let names = Task::ALL.map(|task| task.to_string());
    for part in parts {
        if !names.iter().any(|name| name.contains(part)) {
            return Err(format!(
                "no model's name contains {part:?}; the models are\n{}",
                names.join("\n")
            ));
        }
    }
    let is_chosen = |task: &Task| {
        let name = task.to_string();
        parts.is_empty() || parts.iter().any(|part| name.contains(part))
    };
    Ok(Task::ALL.into_iter().filter(is_chosen).collect())
}

/// Returns the device once it has answered.
fn opened(runtime: Runtime) -> Result<Device, String> {
    let Runtime { name, open, needs } = runtime;
    let opened = started(|| {
        let device = open();
        let answer = Tensor::<1>::zeros([1], &device).try_into_data();
        answer.map(|_| device).map_err(|error| error.to_string())
    });
    opened.map_err(|reason| {
        format!("{name} finds no device that it can use here. It needs {needs}. It says: {reason}.")
    })
}

/// Checks, times and weighs the sides of a model.
fn row(
    task: Task,
    arguments: &Arguments,
    device: &Device,
    bar: &ProgressBar,
) -> Result<Row, String> {
    let device = device.clone().autodiff();
    device.seed(SEED);
    let start = task.start(&device);
    show(bar, task, "checks that the losses agree");
    check(task, &start, &device)?;
    show(bar, task, "times steps in turns");
    let mut steps = Side::ALL.map(|side| Steps(start(side)));
    let mut contenders = Vec::from_iter(steps.iter_mut().map(|steps| steps as &mut dyn Contender));
    let seconds = arguments.plan.measure(&mut contenders)?;
    let memory = match arguments.device.name {
        FLEX => {
            show(bar, task, "measures memory");
            let peaks = Side::ALL.map(|side| peak::of_own_process(task, side));
            let [burn_nn, here, with_output] = peaks;
            Some([burn_nn?, here?, with_output?])
        }
        _ => None,
    };
    Ok(Measured { seconds, memory }.row(task, arguments.quartiles))
}

/// Says on stderr what goes on, on a terminal beside the bar.
fn show(bar: &ProgressBar, entry: impl Display, what: &str) {
    match bar.is_hidden() {
        true => eprintln!("{entry}: {what}"),
        false => bar.set_message(format!("{entry}: {what}")),
    }
}

/// Says which tensors of logits exist on each side of a projection, as an allocator that counts them says.
fn owners(task: Task) -> String {
    let logits = task.logits().iter().product::<usize>() * size_of::<f32>();
    let logits = mebibytes(Some(logits as u64));
    format!(
        "The logits of the {task} take {logits} MiB. With `burn::nn` up to four tensors of that size exist at \
         one time, in the backward pass: the logits, kept for the metric, their exponentials, kept for the \
         backward pass, and two of gradients. Here there are the logits and one gradient. Its memory stays for \
         the next step unless the system needs it, and counts while the linear layer of that step has its \
         product and the sum with the bias. Here, with its output, there is none: the loss makes up to 64 MiB \
         of logits at a time."
    )
}
