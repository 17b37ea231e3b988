//! The memory of a side's training, in a process of its own: a process keeps memory that one side has freed,
//! and the next side would find it.

use std::env;
use std::io;
use std::process::{Command, Stdio};

use burn::tensor::Device;

use crate::memory::Memory;
use crate::models::Task;
use crate::side::Side;
use crate::training::CHECKED;

/// Starts this program again for the steps of a side. Returns the bytes, or `None` where the system does not
/// report memory.
pub fn of_own_process(task: Task, side: Side) -> Result<Option<u64>, String> {
    let mut command = this_program()?;
    command.args(["--memory-of", &task.to_string(), side.title()]);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(not_started)?;
    if !output.status.success() {
        return Err(format!("the steps with {side} end with {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse().ok())
}

/// This program, as a command that measures.
pub fn this_program() -> Result<Command, String> {
    let program = env::current_exe().map_err(|error| format!("no program to start: {error}"))?;
    let mut command = Command::new(program);
    command.arg("--bench");
    Ok(command)
}

/// The sentence for a process that does not start.
pub fn not_started(error: io::Error) -> String {
    format!("this program does not start again: {error}")
}

/// Makes the steps in this process, and prints the most bytes that it has held meanwhile: model, optimizer and
/// data too.
pub fn print(task: Task, side: Side) -> Result<(), String> {
    let memory = Memory::watch();
    let device = Device::flex().autodiff();
    let start = task.start(&device);
    let mut training = start(side);
    // The training holds the weights alone, as a model that nobody else has.
    drop(start);
    for _ in 0..CHECKED {
        training.step()?;
    }
    if let Some(peak) = memory.and_then(|memory| memory.peak()) {
        println!("{peak}");
    }
    Ok(())
}
