//! The log of a training: a line of CSV for each epoch, written when the epoch is over, so that other
//! programs (`tail -f`, a plot) can follow it.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::train::Epoch;

const NAME: &str = "metrics.csv";

pub struct TrainingLog {
    path: PathBuf,
    writer: csv::Writer<File>,
}

impl TrainingLog {
    /// Starts a log with the epochs that are over.
    pub fn in_folder(output: &Path, history: &[Epoch]) -> Result<Self, String> {
        let path = output.join(NAME);
        let file = File::create(&path).map_err(|error| not_written(&path, error))?;
        let mut writer = csv::Writer::from_writer(file);
        writer
            .write_record(["epoch", "loss", "learning_rate", "accuracy"])
            .map_err(|error| not_written(&path, error))?;
        let mut log = Self { path, writer };
        for (epoch, number) in history.iter().zip(1..) {
            log.write(number, epoch)?;
        }
        log.flush()?;
        Ok(log)
    }

    /// Adds an epoch, which other programs can read at once.
    pub fn add(&mut self, number: usize, epoch: &Epoch) -> Result<(), String> {
        self.write(number, epoch)?;
        self.flush()
    }

    fn write(&mut self, number: usize, epoch: &Epoch) -> Result<(), String> {
        let accuracy = epoch.accuracy.map(|share| format!("{share:.4}"));
        let fields = [
            number.to_string(),
            format!("{:.6}", epoch.loss),
            format!("{:.3e}", epoch.learning_rate),
            accuracy.unwrap_or_default(),
        ];
        self.writer
            .write_record(fields)
            .map_err(|error| not_written(&self.path, error))
    }

    fn flush(&mut self) -> Result<(), String> {
        let flushed = self.writer.flush();
        flushed.map_err(|error| not_written(&self.path, error))
    }
}

fn not_written(path: &Path, error: impl std::fmt::Display) -> String {
    format!("{} cannot be written: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_can_be_read_while_the_training_goes_on() {
        let folder = crate::files::TestFolder::new("log");
        let epoch = |loss, accuracy| Epoch {
            loss,
            learning_rate: 0.001,
            accuracy,
        };
        let mut log = TrainingLog::in_folder(&folder.0, &[epoch(1.5, None)]).unwrap();
        log.add(2, &epoch(1.25, Some(0.9))).unwrap();
        let text = std::fs::read_to_string(folder.0.join(NAME)).unwrap();
        let expected =
            "epoch,loss,learning_rate,accuracy\n1,1.500000,1.000e-3,\n2,1.250000,1.000e-3,0.9000\n";
        assert_eq!(text, expected);
    }
}
