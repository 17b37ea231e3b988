//! The training: its settings, and the parts of burn-train that it uses.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::InMemDataset;
use burn::optim::AdamWConfig;
use burn::tensor::Device;
use burn::train::checkpoint::KeepLastNCheckpoints;
use burn::train::metric::{AccuracyMetric, TopKAccuracyMetric};
use burn::train::renderer::{MetricsRenderer, default_renderer};
use burn::train::{Interrupter, Learner, SupervisedTraining};
use burn_cross_entropy::train::RowLossMetric;
use serde::{Deserialize, Serialize};

use crate::digits::{Digits, Split};
use crate::epoch_lines::EpochLines;
use crate::model::{Batch, Classifier, DigitBatcher};
use crate::numbers::{MILLION, seed, whole};

/// Checkpoints to keep: if a power failure cuts off the last one, the one before it is left.
const KEPT_CHECKPOINTS: usize = 2;

/// The options that decide the result.
#[derive(clap::Args, Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Passes over the training images.
    #[arg(long, value_name = "N", default_value_t = 30)]
    #[arg(value_parser = whole(1..=MILLION), allow_negative_numbers = true)]
    pub epochs: usize,

    /// Images in a step.
    #[arg(long, value_name = "N", default_value_t = 32)]
    #[arg(value_parser = whole(1..=MILLION), allow_negative_numbers = true)]
    pub batch_size: usize,

    /// Step size of the optimizer, above 0.
    #[arg(long, value_name = "RATE", default_value_t = 1e-3)]
    #[arg(value_parser = learning_rate, allow_negative_numbers = true)]
    pub learning_rate: f64,

    /// Share of each target that is spread evenly over all digits, from 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    #[arg(value_parser = share, allow_negative_numbers = true)]
    pub label_smoothing: f64,

    /// Seed of the initial weights and of the order of the images.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = seed, allow_negative_numbers = true)]
    pub seed: u64,
}

fn learning_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok();
    rate.filter(|rate: &f64| rate.is_finite() && *rate > 0.0)
        .ok_or_else(|| "it must be a finite number above 0".to_string())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok();
    share
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "it must be a number from 0 to 1".to_string())
}

/// What a run needs to know besides the options that decide the result.
pub struct Course<'a> {
    pub folder: &'a Path,
    /// The epochs that are over: the training continues from their checkpoint in the folder.
    pub done: Option<usize>,
    /// Whether to show burn-train's dashboard, where the build and the terminal have it.
    pub dashboard: bool,
    pub interrupter: Interrupter,
}

/// Trains up to the last epoch or the interruption, and returns the model.
pub fn train(
    settings: &Settings,
    split: &Split,
    course: Course,
    device: &Device,
) -> Result<Classifier, String> {
    let Course { folder, done, .. } = course;
    device.seed(settings.seed);
    let model = Classifier::new(settings.label_smoothing, &device.clone().autodiff());
    // Each start of burn-train shuffles from its seed on. With the seed of the whole run, a resumed run would
    // see the images in the order of the first epochs again.
    let order = settings.seed.wrapping_add(done.unwrap_or(0) as u64);
    let loader = DataLoaderBuilder::new(DigitBatcher)
        .batch_size(settings.batch_size)
        .shuffle(order)
        .build(dataset(&split.training));
    let mut training = SupervisedTraining::new(folder, loader, held_out(&split.held_out))
        .metrics((
            RowLossMetric::new(),
            AccuracyMetric::new(),
            TopKAccuracyMetric::new(2),
        ))
        .num_epochs(settings.epochs)
        .renderer(renderer(&course))
        .with_interrupter(course.interrupter)
        // The last model is the result. Choosing the best one on the held-out images would mean learning from
        // them.
        .with_checkpointing_strategy(KeepLastNCheckpoints::new(KEPT_CHECKPOINTS))
        .with_default_checkpointers()
        .with_application_logger(None);
    if let Some(done) = done {
        training = training.checkpoint(done);
    }
    let optimizer = AdamWConfig::new().with_weight_decay(1e-4).init();
    let result = training.launch(Learner::new(model, optimizer, settings.learning_rate));
    // Dropping the dashboard restores the terminal.
    drop(result.renderer);
    match result.error {
        None => Ok(result.model),
        Some(error) => Err(format!("the training stopped: {error}")),
    }
}

/// The dashboard, if it is wanted, the build has it and stdout is a terminal; otherwise lines.
fn renderer(course: &Course) -> Box<dyn MetricsRenderer> {
    if course.dashboard && cfg!(feature = "tui") && std::io::stdout().is_terminal() {
        default_renderer(course.interrupter.clone(), course.done)
    } else {
        Box::new(EpochLines::default())
    }
}

fn held_out(digits: &Digits) -> Arc<dyn DataLoader<Batch>> {
    DataLoaderBuilder::new(DigitBatcher)
        .batch_size(digits.len())
        .build(dataset(digits))
}

fn dataset(digits: &Digits) -> InMemDataset<(crate::digits::Image, usize)> {
    let labels = digits.labels.iter().copied();
    InMemDataset::new(digits.images.iter().copied().zip(labels).collect())
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::checkpoints::Checkpoints;
    use crate::confusion::Confusion;
    use crate::files::TestFolder;

    #[test]
    fn a_run_is_resumed_after_the_last_epoch_whose_checkpoint_is_whole() {
        let mut split = crate::digits::load().unwrap();
        split.training.images.truncate(96);
        split.training.labels.truncate(96);
        let folder = TestFolder::new("resumed");
        let checkpoints = Checkpoints::in_folder(&folder.0);
        let device = Device::flex();
        let settings = |epochs| Settings {
            epochs,
            batch_size: 32,
            learning_rate: 1e-3,
            label_smoothing: 0.0,
            seed: 5,
        };
        let train = |settings: &Settings, done| {
            let course = Course {
                folder: &folder.0,
                done,
                dashboard: false,
                interrupter: Interrupter::new(),
            };
            let model = train(settings, &split, course, &device);
            let confusion = Confusion::of(&model.unwrap(), &split.held_out, &device);
            confusion.unwrap().accuracy()
        };

        checkpoints.start(&settings(2)).unwrap();
        let trained = train(&settings(2), None);
        assert_eq!(checkpoints.last_epoch(&settings(3)), Ok(2));
        assert_eq!(train(&settings(2), Some(2)), trained);

        // Burn reads a restored record when it is used, on the default device of the build.
        Device::default().sync().unwrap();
        let path = folder.0.join("checkpoint/optim-2.bpk");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(checkpoints.last_epoch(&settings(3)), Ok(1));
        train(&settings(3), Some(1));
        assert_eq!(checkpoints.newest_epoch(), 3);

        let other = Settings {
            seed: 6,
            ..settings(3)
        };
        assert!(checkpoints.last_epoch(&other).unwrap_err().contains("seed"));
        checkpoints.start(&other).unwrap();
        assert_eq!(checkpoints.newest_epoch(), 0);
    }
}
