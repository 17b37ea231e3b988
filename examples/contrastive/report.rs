//! The results of a run: the table on the screen and as CSV, the pictures, and the story in words.

use std::path::Path;

use crate::data::{Part, Size};
use crate::evaluate::{DRAWS, LABELLED_PER_CLASS, Measured, NEIGHBOURS, Represented, nearest};
use crate::files::replace_file;
use crate::method::Method;
use crate::pictures;
use crate::train::Epoch;

/// Neighbours in the picture, and in the measured share that has the class of the query.
pub const SHOWN_NEIGHBOURS: usize = 8;
const SUMMARY: &str = "summary.csv";

/// The results that the trained encoder must beat.
pub struct Baselines {
    pub raw_pixels: Measured,
    /// The untrained encoder before its projection head, where it is best.
    pub untrained_features: Measured,
    /// The untrained encoder at the layer that is best after training.
    pub untrained: Measured,
    /// The logits of a few images by the untrained encoder.
    pub similarities: Vec<Vec<f32>>,
}

/// The results of a run, finished or not.
pub struct Report<'a> {
    pub method: Method,
    /// What was learnt besides the encoder, in words.
    pub learnt: Option<String>,
    pub baselines: &'a Baselines,
    pub trained_features: Measured,
    pub trained: Measured,
    pub similarities: Vec<Vec<f32>>,
    pub history: &'a [Epoch],
    /// Embeddings by the trained encoder.
    pub embeddings: Represented,
    /// The share of neighbours that have the class of their query.
    pub same_class: f64,
    pub labelled: &'a Part,
    pub held_out: &'a Part,
    pub classes: &'a [String],
    pub size: Size,
}

/// The share of the nearest labelled images that have the class of the held-out image.
pub fn same_class(embeddings: &Represented, labelled: &Part, held_out: &Part) -> f64 {
    let mut same = 0;
    let mut all = 0;
    for (query, class) in embeddings.held_out.iter().zip(&held_out.labels) {
        let neighbours = nearest(&embeddings.labelled, query, SHOWN_NEIGHBOURS);
        all += neighbours.len();
        let labels = neighbours
            .iter()
            .map(|neighbour| labelled.labels[*neighbour]);
        same += labels.filter(|label| label == class).count();
    }
    same as f64 / all as f64
}

impl Report<'_> {
    /// Writes all files into the folder.
    pub fn write(&self, folder: &Path) -> Result<(), String> {
        replace_file(&folder.join(SUMMARY), |path| self.write_summary(path))?;
        pictures::draw(self, folder)
    }

    /// Prints the accuracies side by side.
    pub fn print_table(&self) {
        println!();
        println!("Accuracy on {} held-out images:", self.held_out.len());
        println!();
        println!(
            "  {:<30}  {:^16}  {:^12}",
            "",
            format!("{NEIGHBOURS} neighbours"),
            "linear probe"
        );
        for (name, measured) in self.rows() {
            let neighbours = measured.neighbours;
            println!(
                "  {name:<30}  {:.4} +- {:.4}  {:^12.4}",
                neighbours.mean, neighbours.deviation, measured.probe
            );
        }
        println!();
        println!(
            "  {NEIGHBOURS} neighbours: votes of the nearest of {LABELLED_PER_CLASS} labelled images per class, \
             mean and deviation of {DRAWS} draws."
        );
        println!(
            "  linear probe: a linear classifier that {} labelled images trained.",
            self.labelled.len()
        );
        println!();
    }

    /// Prints in words what was learned, and where the files are.
    pub fn print_story(&self, folder: &Path) {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let of = |measured: Measured| measured.neighbours.mean;
        let trained = of(self.trained);
        let best = of(self.baselines.raw_pixels).max(of(self.baselines.untrained_features));
        let found = if trained > best && self.method.sees_labels() {
            "Having seen the labels of all training images, the encoder places images of one class near each other"
        } else if trained > best {
            "Without having seen a label, the encoder places images of one class near each other"
        } else {
            "The encoder is not better than both the pixels and the untrained encoder; a longer run may help"
        };
        println!(
            "{found}: given {LABELLED_PER_CLASS} labelled images per class, the nearest neighbours name {} of \
             the held-out images rightly, by their pixels {}, by the features of the untrained encoder {}. Of the \
             {SHOWN_NEIGHBOURS} nearest training images, {} are of the class of the image.",
            percent(trained),
            percent(of(self.baselines.raw_pixels)),
            percent(of(self.baselines.untrained_features)),
            percent(self.same_class),
        );
        if let Some(learnt) = &self.learnt {
            println!("Learnt with the encoder: {learnt}.");
        }
        println!();
        let others = [
            (SUMMARY, "the table above"),
            ("metrics.csv", "the log of the training, an epoch per line"),
            (
                "checkpoint/",
                "the encoder (encoder.bpk), and what --resume needs",
            ),
        ];
        println!("In {}:", folder.display());
        for (name, what) in pictures::PICTURES.into_iter().chain(others) {
            println!("  {name:<15}  {what}");
        }
    }

    fn rows(&self) -> [(&'static str, Measured); 5] {
        let baselines = self.baselines;
        [
            ("raw pixels", baselines.raw_pixels),
            ("untrained encoder, features", baselines.untrained_features),
            ("untrained encoder, embeddings", baselines.untrained),
            ("trained encoder, features", self.trained_features),
            ("trained encoder, embeddings", self.trained),
        ]
    }

    fn write_summary(&self, path: &Path) -> Result<(), String> {
        let write = || -> Result<(), csv::Error> {
            let mut writer = csv::Writer::from_path(path)?;
            writer.write_record([
                "representation",
                "accuracy",
                "standard_deviation",
                "linear_probe",
            ])?;
            for (name, measured) in self.rows() {
                writer.write_record([
                    name.to_string(),
                    format!("{:.4}", measured.neighbours.mean),
                    format!("{:.4}", measured.neighbours.deviation),
                    format!("{:.4}", measured.probe),
                ])?;
            }
            Ok(writer.flush()?)
        };
        write().map_err(|error| format!("{} cannot be written: {error}", path.display()))
    }
}
