//! Shows the training while it runs: a progress bar with the loss and the speed.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::train::{Epoch, Trainer};

/// The progress bar of a training, with the loss and the speed.
pub struct Display {
    bar: ProgressBar,
    batch: usize,
    start: Instant,
    first_step: u64,
}

impl Display {
    pub fn new(trainer: &Trainer, steps_per_epoch: usize) -> Self {
        let done = trainer.progress.epochs_done() * steps_per_epoch + trainer.progress.losses.len();
        let bar = ProgressBar::new((trainer.settings.epochs * steps_per_epoch) as u64);
        let template = "{bar:30} step {pos}/{len}  {msg}  {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_position(done as u64);
        bar.reset_eta();
        let batch = trainer.settings.batch_size;
        Self {
            bar,
            batch,
            start: Instant::now(),
            first_step: done as u64,
        }
    }

    pub fn step_done(&self, loss: f64) {
        self.bar.inc(1);
        let steps = self.bar.position() - self.first_step;
        let speed = (steps as usize * self.batch) as f64 / self.start.elapsed().as_secs_f64();
        self.bar
            .set_message(format!("loss {loss:.3}  {speed:.0} images/s"));
    }

    /// Prints a line that stays, also where there is no terminal for a bar.
    pub fn evaluated(&self, epoch: usize, measured: &Epoch) {
        let accuracy = measured
            .accuracy
            .map(|share| format!("  accuracy {share:.4}"));
        self.bar.suspend(|| {
            println!(
                "epoch {epoch:4}  loss {:.4}{}",
                measured.loss,
                accuracy.unwrap_or_default()
            );
        });
    }

    pub fn close(&self) {
        let steps = self.bar.position() - self.first_step;
        self.bar.finish_and_clear();
        println!(
            "{steps} steps in {:.1} s.",
            self.start.elapsed().as_secs_f64()
        );
    }
}
