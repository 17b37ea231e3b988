//! The checkpoints of burn-train, and the one from which a run can continue.

use std::fs;
use std::path::{Path, PathBuf};

use burn::optim::OptimizerRecord;
use burn::optim::lr_scheduler::LrSchedulerRecord;
use burn::store::ModuleRecord;
use burn::train::checkpoint::{Checkpointer, FileCheckpointer};

use crate::files::{make_folder, replace_file};
use crate::training::Settings;

/// The parts of a checkpoint, as burn-train names their files: `model-3.bpk` after epoch 3.
const PARTS: [&str; 3] = ["model", "optim", "scheduler"];

/// The checkpoints of an output folder, and the settings of the run that made them.
pub struct Checkpoints {
    folder: PathBuf,
    settings: PathBuf,
}

impl Checkpoints {
    pub fn in_folder(output: &Path) -> Self {
        Self {
            folder: output.join("checkpoint"),
            settings: output.join("settings.json"),
        }
    }

    /// Refuses a folder that has checkpoints, because a new run would remove them.
    pub fn must_not_exist(&self) -> Result<(), String> {
        if self.epochs().is_empty() {
            return Ok(());
        }
        Err(format!(
            "{} has the checkpoints of an earlier run; --resume continues that run, --overwrite replaces it, \
             and another --output leaves it alone",
            self.folder.display()
        ))
    }

    /// Removes the checkpoints of an earlier run, and saves the settings of the new one.
    pub fn start(&self, settings: &Settings) -> Result<(), String> {
        make_folder(&self.folder)?;
        for epoch in self.epochs() {
            for part in PARTS {
                // A file that is missing is already out of the way.
                fs::remove_file(self.file(part, epoch)).ok();
            }
        }
        if let Some(epoch) = self.epochs().first() {
            return Err(format!(
                "the checkpoint of epoch {epoch} of an earlier run in {} cannot be removed; name \
                 another --output",
                self.folder.display()
            ));
        }
        replace_file(&self.settings, |path| {
            let json = serde_json::to_string_pretty(settings).map_err(|error| error.to_string())?;
            fs::write(path, json).map_err(|error| error.to_string())
        })
    }

    /// The last epoch whose checkpoint can be read, if a run with these settings made it.
    pub fn last_epoch(&self, settings: &Settings) -> Result<usize, String> {
        let saved = self.saved_settings()?;
        let same = Settings {
            epochs: settings.epochs,
            ..saved
        };
        if *settings != same {
            return Err(format!(
                "the run to resume has --batch-size {} --learning-rate {} --label-smoothing {} \
                 --seed {}; repeat these, or start anew with --overwrite in place of --resume",
                saved.batch_size, saved.learning_rate, saved.label_smoothing, saved.seed
            ));
        }
        let mut epochs = self.epochs();
        epochs.sort_unstable();
        epochs
            .into_iter()
            .rev()
            .find(|epoch| self.is_whole(*epoch))
            .ok_or_else(|| {
                format!(
                    "there is no whole checkpoint in {} to resume; start without --resume",
                    self.folder.display()
                )
            })
    }

    /// The newest epoch with a checkpoint; 0 without any.
    pub fn newest_epoch(&self) -> usize {
        self.epochs().into_iter().max().unwrap_or(0)
    }

    fn saved_settings(&self) -> Result<Settings, String> {
        let json = fs::read_to_string(&self.settings).map_err(|error| {
            format!(
                "there is no run to resume, {} cannot be read ({error}); start without --resume",
                self.settings.display()
            )
        })?;
        serde_json::from_str(&json)
            .map_err(|error| format!("{} is damaged: {error}", self.settings.display()))
    }

    fn epochs(&self) -> Vec<usize> {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let epoch = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let (_, epoch) = name.strip_suffix(".bpk")?.split_once("model-")?;
            epoch.parse().ok()
        };
        entries.flatten().filter_map(epoch).collect()
    }

    fn is_whole(&self, epoch: usize) -> bool {
        let [model, optimizer, scheduler] =
            PARTS.map(|part| FileCheckpointer::new(&self.folder, part));
        Checkpointer::<ModuleRecord>::restore(&model, epoch).is_ok()
            && Checkpointer::<OptimizerRecord>::restore(&optimizer, epoch).is_ok()
            && Checkpointer::<LrSchedulerRecord>::restore(&scheduler, epoch).is_ok()
    }

    fn file(&self, part: &str, epoch: usize) -> PathBuf {
        self.folder.join(format!("{part}-{epoch}.bpk"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::TestFolder;

    #[test]
    fn checkpoints_are_not_removed_without_being_asked_for() {
        let output = TestFolder::new("earlier-run");
        let checkpoints = Checkpoints::in_folder(&output.0);
        // A run that ended in its first epoch leaves its settings, which may be replaced.
        fs::write(&checkpoints.settings, "{}").unwrap();
        assert_eq!(checkpoints.must_not_exist(), Ok(()));
        fs::create_dir(&checkpoints.folder).unwrap();
        fs::write(checkpoints.file("model", 3), "").unwrap();
        let error = checkpoints.must_not_exist().unwrap_err();
        let folder = checkpoints.folder.display().to_string();
        for part in [&folder, "--resume", "--overwrite", "--output"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
