//! Memory over many steps of one training, with texts of another length in each: what grows, and how much of
//! it is the loss. It trains the language model of Burn's issue 5212.
//!
//! `process.rs` trains a side in a process of its own, `picture.rs` draws the peaks.

mod picture;
mod process;

use std::path::PathBuf;

use indicatif::ProgressBar;

use crate::memory::Memory;
use crate::models::Large;
use crate::report::{Figures, Files, Report, Row};
use crate::show;
use crate::side::Side;
use crate::table::{line, mebibytes, titled};
use process::{Curve, Step};

/// The largest difference of two losses of one step, as a share: the sides round differently, and each step
/// builds on the one before.
const TOLERANCE: f64 = 1e-3;
/// Steps that a line on stderr stands for, where it is no terminal.
const QUIET: usize = 10;

#[derive(clap::Args)]
pub struct Growth {
    /// Instead of timing, trains a language model for so many steps with each side, and prints a table of the
    /// memory: that of Burn's issue 5212 (49 million weights, 50257 tokens), on flex and Linux.
    ///
    /// A batch has 4 texts: of 256 tokens in the first two steps, then of 128 to 256, another number in each
    /// step. Each side has a process of its own, and its losses must be the same in every step. 50 steps take
    /// some 10 minutes on two cores, and up to 2.5 GiB of memory.
    #[arg(
        long,
        value_name = "STEPS",
        value_parser = at_least_three,
        conflicts_with_all = ["device", "only", "rounds", "turn", "repetitions", "quartiles"]
    )]
    pub memory_over: Option<usize>,

    /// Also draws the peaks of the steps into this file, a PNG.
    #[arg(long, value_name = "FILE", requires = "memory_over")]
    memory_picture: Option<PathBuf>,

    /// Only trains one side and prints what it takes. The program starts itself with this.
    #[arg(long, value_name = "SIDE", requires = "memory_over", hide = true)]
    growth_of: Option<String>,
}

/// The first two steps have the longest texts, and the others are compared with them.
fn at_least_three(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0..3) => Err("at least 3 are needed".to_string()),
        Ok(steps) => Ok(steps),
        Err(error) => Err(format!("{error}")),
    }
}

impl Growth {
    /// Trains the one side that the program has started itself for. Returns `None` if it has not.
    pub fn of_this_process(&self) -> Option<Result<(), String>> {
        let (title, steps) = (self.growth_of.as_ref()?, self.memory_over?);
        Some(match Side::titled(title) {
            Some(side) => process::print(side, steps),
            None => Err("there is no such side".to_string()),
        })
    }

    /// Trains every side, and prints the table.
    pub fn run(&self, steps: usize, introduction: &str, files: &Files) -> Result<(), String> {
        Memory::watch().ok_or("memory is not measured: this system does not report it")?;
        if let Some(path) = &self.memory_picture {
            // A file that cannot be written is known before the training.
            picture::draw(&[], path)?;
        }
        let mut curves: Vec<Curve> = Vec::new();
        let mut report = Report::new(introduction, files)?;
        let bar = report.bar();
        report.table(&head(steps), &Side::ALL, |&side| {
            let curve = process::train(side, steps, |at, step| tell(&bar, side, at, steps, step))?;
            if let Some(first) = curves.first() {
                check(&curve, first)?;
            }
            let row = row(&curve);
            curves.push(curve);
            if let Some(path) = &self.memory_picture {
                picture::draw(&curves, path)?;
            }
            Ok(row)
        })?;
        report.note(parts(&curves[0]))?;
        report.close()
    }
}

/// Says on stderr what a step took.
fn tell(bar: &ProgressBar, side: Side, at: usize, steps: usize, step: &Step) {
    if !bar.is_hidden() || at == 1 || at.is_multiple_of(QUIET) || at == steps {
        let (loss, peak) = (step.loss, mebibytes(Some(step.peak)));
        show(
            bar,
            side,
            &format!("step {at} of {steps}, loss {loss:.3}, peak {peak} MiB"),
        );
    }
}

/// Checks that a side has the losses of another one.
fn check(curve: &Curve, expected: &Curve) -> Result<(), String> {
    for (at, (step, other)) in curve.steps.iter().zip(&expected.steps).enumerate() {
        let difference = (step.loss - other.loss).abs();
        // So that NaN is a difference.
        let is_near = difference <= TOLERANCE * other.loss.abs();
        if !is_near {
            return Err(format!(
                "{} and {} disagree in step {}: losses {} and {}",
                curve.side,
                expected.side,
                at + 1,
                step.loss,
                other.loss
            ));
        }
    }
    Ok(())
}

fn head(steps: usize) -> String {
    let later = format!("highest peak of steps 3 to {steps}");
    let rest = format!("resident after step {steps}");
    let columns = [
        "loss",
        "peak of step 1",
        "peak of step 2",
        &later,
        &rest,
        "of it free",
    ];
    let title = "Memory of the process in MiB, less what it had before";
    titled(title, &columns)
}

fn row(curve: &Curve) -> Row {
    let steps = &curve.steps;
    let later = steps[2..].iter().map(|step| step.peak).max();
    let last = &steps[steps.len() - 1];
    let bytes = [
        ("peak of step 1", steps[0].peak),
        ("peak of step 2", steps[1].peak),
        ("highest later peak", later.unwrap_or_default()),
        ("resident at the end", last.resident),
        ("of it free", last.free),
    ];
    let mut cells = vec![curve.side.to_string()];
    cells.extend(bytes.map(|(_, bytes)| mebibytes(Some(bytes))));
    Row {
        line: line(cells),
        figures: Figures::new(&curve.side, []).with_memory(bytes),
    }
}

/// Says what the parts of the memory take by arithmetic.
fn parts(curve: &Curve) -> String {
    let [rows, classes] = Large::LOGITS;
    let logits = mebibytes(Some((rows * classes * size_of::<f32>()) as u64));
    let (weights, kept) = (curve.weights, mebibytes(Some(curve.kept())));
    format!(
        "By arithmetic: {rows} x {classes} logits, those of the longest texts, take {logits} MiB. Weights, \
         gradients and Adam's two moments take {kept} MiB, four times {weights} numbers of 4 bytes. What is \
         free is memory that this crate keeps for the next step and the system may take at any time. The \
         losses of the sides are the same in every step, to {TOLERANCE} of them."
    )
}
