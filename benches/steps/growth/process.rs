//! The training of a side in a process of its own, which says after every step what it takes: first the number
//! of weights, then a line of JSON for each step.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::data::SEED;
use crate::memory::Memory;
use crate::models::Large;
use crate::peak::{not_started, this_program};
use crate::side::Side;

/// What a side took, step by step.
pub struct Curve {
    pub side: Side,
    pub weights: usize,
    pub steps: Vec<Step>,
}

impl Curve {
    /// Bytes of weights, gradients and Adam's two moments.
    pub fn kept(&self) -> u64 {
        (4 * self.weights * size_of::<f32>()) as u64
    }
}

/// A step, and bytes of the process beyond those at its beginning.
#[derive(Serialize, Deserialize)]
pub struct Step {
    pub loss: f64,
    /// The most during the step.
    pub peak: u64,
    /// Resident bytes after the step.
    pub resident: u64,
    /// The resident bytes that no tensor needs: the system may take them.
    pub free: u64,
}

/// Starts this program again for the steps of a side. `tell` hears of each step, which it is and what it took.
pub fn train(side: Side, steps: usize, tell: impl Fn(usize, &Step)) -> Result<Curve, String> {
    let mut command = this_program()?;
    command.args(["--memory-over", &steps.to_string()]);
    command.args(["--growth-of", side.title()]);
    let mut process = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(not_started)?;
    let output = process.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let weights = lines.next().and_then(|line| line.parse().ok());
    let mut taken = Vec::new();
    for step in lines.map_while(|line| serde_json::from_str(&line).ok()) {
        tell(taken.len() + 1, &step);
        taken.push(step);
    }
    let ended = process.wait().map_err(|error| error.to_string())?;
    match weights {
        Some(weights) if ended.success() && taken.len() == steps => Ok(Curve {
            side,
            weights,
            steps: taken,
        }),
        _ => Err(format!(
            "the steps with {side} end with {ended} after {} of {steps}",
            taken.len()
        )),
    }
}

/// Makes the steps in this process, and prints what they take: model, optimizer and data too.
pub fn print(side: Side, steps: usize) -> Result<(), String> {
    let silent = "the system does not report memory any more";
    let memory = Memory::watch().ok_or(silent)?;
    let device = Device::flex().autodiff();
    device.seed(SEED);
    let Large { weights, start } = Large::new(steps, &device);
    println!("{weights}");
    let mut training = start(side);
    // The training holds the weights alone, as a model that nobody else has.
    drop(start);
    for _ in 0..steps {
        memory.forget_peak().ok_or(silent)?;
        let loss = training.step()?.loss;
        let step = Step {
            loss,
            peak: memory.peak().ok_or(silent)?,
            resident: memory.now().ok_or(silent)?,
            free: memory.free().ok_or(silent)?,
        };
        let line = serde_json::to_string(&step).expect("its keys are strings");
        println!("{line}");
    }
    Ok(())
}
