//! Saves a run and resumes it.

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::OptimizerRecord;
use burn::store::{ModuleRecord, RecordError};
use serde::{Deserialize, Serialize};

use crate::encoder::Encoder;
use crate::folders;
use crate::method::Objective;
use crate::settings::Settings;
use crate::train::{Progress, Trainer};

/// The trained encoder, which is what other programs want: a record of `encoder::Encoder`.
const ENCODER: &str = "encoder.bpk";
const OBJECTIVE: &str = "objective.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const OBJECTIVE_OPTIMIZER: &str = "objective-optimizer.bpk";
const RUN: &str = "run.json";

/// The checkpoint of an output folder: a folder with one file for each part of the run.
pub struct Checkpoint {
    folder: PathBuf,
}

/// The parts of a run that Burn's records do not hold.
#[derive(Serialize, Deserialize)]
struct Run {
    settings: Settings,
    progress: Progress,
}

/// A run as it was read from its checkpoint.
pub struct Saved {
    pub settings: Settings,
    pub progress: Progress,
    pub optimizer: OptimizerRecord,
    pub objective_optimizer: OptimizerRecord,
    encoder: ModuleRecord,
    objective: ModuleRecord,
}

impl Checkpoint {
    pub fn in_folder(output: &Path) -> Self {
        Self {
            folder: output.join("checkpoint"),
        }
    }

    /// Refuses a folder that has a checkpoint, because a new run would replace it at its first evaluation or
    /// interruption.
    pub fn must_not_exist(&self) -> Result<(), String> {
        match folders::readable_folder(&self.folder) {
            None => Ok(()),
            Some(folder) => Err(format!(
                "{} is the checkpoint of an earlier run; --resume continues that run, --overwrite replaces \
                 it, and another --output leaves it alone",
                folder.display()
            )),
        }
    }

    pub fn save(&self, trainer: &Trainer) -> Result<(), String> {
        let run = Run {
            settings: trainer.settings.clone(),
            progress: trainer.progress.clone(),
        };
        folders::replace_folder(&self.folder, |folder| {
            let json = serde_json::to_string(&run).map_err(|error| error.to_string())?;
            fs::write(folder.join(RUN), json).map_err(|error| error.to_string())?;
            trainer
                .encoder
                .valid()
                .into_record()
                .save(folder.join(ENCODER))
                .map_err(in_words)?;
            trainer
                .objective
                .clone()
                .into_record()
                .save(folder.join(OBJECTIVE))
                .map_err(in_words)?;
            for (optimizer, name) in [
                (&trainer.optimizer, OPTIMIZER),
                (&trainer.objective_optimizer, OBJECTIVE_OPTIMIZER),
            ] {
                optimizer.save(folder.join(name)).map_err(in_words)?;
            }
            Ok(())
        })
        .map_err(|reason| format!("the checkpoint cannot be saved: {reason}"))
    }

    pub fn load(&self) -> Result<Saved, String> {
        let folder = folders::readable_folder(&self.folder).ok_or_else(|| {
            format!(
                "there is no {} to resume; start without --resume",
                self.folder.display()
            )
        })?;
        read(&folder).map_err(|reason| {
            format!(
                "the checkpoint {} cannot be read: {reason}",
                folder.display()
            )
        })
    }
}

fn read(folder: &Path) -> Result<Saved, String> {
    let json = fs::read_to_string(folder.join(RUN)).map_err(|error| format!("{RUN}: {error}"))?;
    let run: Run = serde_json::from_str(&json).map_err(|error| format!("{RUN}: {error}"))?;
    let module = |name| {
        ModuleRecord::load(folder.join(name))
            .map_err(|error| format!("{name}: {}", in_words(error)))
    };
    let optimizer = |name| {
        OptimizerRecord::load(folder.join(name))
            .map_err(|error| format!("{name}: {}", in_words(error)))
    };
    Ok(Saved {
        settings: run.settings,
        progress: run.progress,
        encoder: module(ENCODER)?,
        objective: module(OBJECTIVE)?,
        optimizer: optimizer(OPTIMIZER)?,
        objective_optimizer: optimizer(OBJECTIVE_OPTIMIZER)?,
    })
}

impl Saved {
    /// The encoder with the saved parameters.
    pub fn encoder(&self, encoder: Encoder) -> Result<Encoder, String> {
        encoder
            .try_load_record(self.encoder.clone())
            .map_err(does_not_fit)
    }

    /// The objective with the saved values.
    pub fn objective(&self, objective: Objective) -> Result<Objective, String> {
        objective
            .try_load_record(self.objective.clone())
            .map_err(does_not_fit)
    }
}

fn does_not_fit(error: RecordError) -> String {
    format!(
        "the checkpoint does not fit this program: {}",
        in_words(error)
    )
}

fn in_words(error: RecordError) -> String {
    match error {
        RecordError::Io(reason) | RecordError::Validation(reason) => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::TestFolder;

    #[test]
    fn a_checkpoint_is_not_replaced_without_being_asked_for() {
        let output = TestFolder::new("earlier-run");
        let checkpoint = Checkpoint::in_folder(&output.0);
        // A log without a checkpoint may be replaced.
        fs::write(output.0.join("metrics.csv"), "epoch").unwrap();
        assert_eq!(checkpoint.must_not_exist(), Ok(()));
        fs::create_dir(&checkpoint.folder).unwrap();
        let error = checkpoint.must_not_exist().unwrap_err();
        for way in ["--resume", "--overwrite", "--output"] {
            assert!(error.contains(way), "{error}");
        }
        // This is what a program leaves that ends between the two renames of a replacement.
        let previous = crate::files::sibling(&checkpoint.folder, "previous");
        fs::rename(&checkpoint.folder, previous).unwrap();
        assert!(checkpoint.must_not_exist().is_err());
    }
}
