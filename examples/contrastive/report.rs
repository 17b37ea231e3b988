//! What a run achieved: the table on the screen, the metrics as CSV, the pictures.

use std::path::Path;

use crate::evaluate::{Accuracy, DRAWS, LABELLED_PER_CLASS, NEIGHBOURS};
use crate::files::replace_file;
use crate::pictures;
use crate::train::Epoch;

/// What the trained encoder has to beat.
pub struct Baselines {
    pub raw_pixels: Accuracy,
    /// The untrained encoder at its best layer, before the projection head.
    pub untrained_features: Accuracy,
    /// The untrained encoder at the layer that is best after the training.
    pub untrained: Accuracy,
}

/// The results of a run, finished or not.
pub struct Report<'a> {
    pub baselines: &'a Baselines,
    pub trained: Accuracy,
    pub history: &'a [Epoch],
    /// Of the held-out images.
    pub embeddings: Vec<Vec<f32>>,
    /// The digits of the held-out images.
    pub labels: &'a [usize],
}

impl Report<'_> {
    /// Writes all files into the folder.
    pub fn write(&self, folder: &Path) -> Result<(), String> {
        replace_file(&folder.join("metrics.csv"), |path| self.write_metrics(path))?;
        replace_file(&folder.join("summary.csv"), |path| self.write_summary(path))?;
        replace_file(&folder.join("curves.png"), |path| {
            pictures::draw_curves(self, path)
        })?;
        replace_file(&folder.join("embeddings.png"), |path| {
            pictures::draw_embeddings(self, path)
        })
    }

    /// Prints the accuracies beside each other.
    pub fn print(&self) {
        println!();
        println!(
            "Accuracy on {} held-out images: {NEIGHBOURS} nearest neighbours, {LABELLED_PER_CLASS} \
             labelled images per class,",
            self.labels.len()
        );
        println!("mean and standard deviation of {DRAWS} draws of the labelled images:");
        println!();
        for (name, accuracy) in self.rows() {
            println!(
                "  {name:<30}  {:.4}  +- {:.4}",
                accuracy.mean, accuracy.deviation
            );
        }
        println!();
    }

    fn rows(&self) -> [(&'static str, Accuracy); 4] {
        [
            ("raw pixels", self.baselines.raw_pixels),
            (
                "untrained encoder, features",
                self.baselines.untrained_features,
            ),
            ("untrained encoder, embeddings", self.baselines.untrained),
            ("trained encoder, embeddings", self.trained),
        ]
    }

    fn write_metrics(&self, path: &Path) -> Result<(), String> {
        let epochs = self
            .history
            .iter()
            .zip(1..)
            .map(|(epoch, number): (&Epoch, usize)| {
                let accuracy = epoch.accuracy.map(|share| format!("{share:.4}"));
                [
                    number.to_string(),
                    format!("{:.6}", epoch.loss),
                    accuracy.unwrap_or_default(),
                ]
            });
        write_csv(path, ["epoch", "loss", "accuracy"], epochs)
    }

    fn write_summary(&self, path: &Path) -> Result<(), String> {
        let rows = self.rows().map(|(name, accuracy)| {
            [
                name.to_string(),
                format!("{:.4}", accuracy.mean),
                format!("{:.4}", accuracy.deviation),
            ]
        });
        write_csv(
            path,
            ["representation", "accuracy", "standard_deviation"],
            rows,
        )
    }
}

fn write_csv(
    path: &Path,
    header: [&str; 3],
    rows: impl IntoIterator<Item = [String; 3]>,
) -> Result<(), String> {
    let write = || -> Result<(), csv::Error> {
        let mut writer = csv::Writer::from_path(path)?;
        writer.write_record(header)?;
        for row in rows {
            writer.write_record(row)?;
        }
        Ok(writer.flush()?)
    };
    write().map_err(|error| format!("{} cannot be written: {error}", path.display()))
}
