//! Short runs: the same settings give the same result, interrupted or not.

use burn::tensor::{DType, Int};

use super::*;
use crate::data::{Dataset, Source};
use crate::encoder::EMBEDDING;
use crate::files::TestFolder;
use crate::method::Method;

fn few_digits() -> Dataset {
    let mut dataset = data::load(&Source {
        limit: Some(96),
        ..Source::default()
    })
    .unwrap();
    dataset.held_out = dataset.held_out.of(&(0..96).collect::<Vec<_>>());
    dataset
}

/// Trains on few digits, to the end or to the first step.
fn train(trainer: &mut Trainer, dataset: &Dataset, output: &Path, interrupted: bool) -> Ending {
    let interrupted = AtomicBool::new(interrupted);
    std::fs::create_dir_all(output).unwrap();
    trainer
        .train(
            &dataset.training,
            &Protocol::new(dataset),
            output,
            &interrupted,
        )
        .unwrap()
}

fn embeddings(trainer: &Trainer, dataset: &Dataset) -> Vec<Vec<f32>> {
    let images = &dataset.held_out.images;
    let represented = trainer
        .encoder
        .represent(images, dataset.size, Layer::Embedding);
    represented.unwrap()
}

fn trainer(settings: Settings, dataset: &Dataset) -> Trainer {
    Trainer::new(settings, dataset.size, &Device::flex()).unwrap()
}

fn an_interrupted_and_resumed_run_is_the_run_without_interruption(name: &str, settings: Settings) {
    let dataset = few_digits();
    let new = || trainer(settings.clone(), &dataset);
    let folder = TestFolder::new(&format!("resumed-{name}"));
    let [whole_output, output] = ["whole", "parts"].map(|name| folder.0.join(name));

    let mut whole = new();
    assert!(train(&mut whole, &dataset, &whole_output, false) == Ending::Finished);

    let mut part = new();
    for _ in 0..4 {
        assert!(train(&mut part, &dataset, &output, true) == Ending::Interrupted);
        part = new();
        let saved = Checkpoint::in_folder(&output).load().unwrap();
        part.restore(saved).unwrap();
    }
    assert_eq!(part.progress.losses.len(), 1);
    assert!(train(&mut part, &dataset, &output, false) == Ending::Finished);

    assert!(embeddings(&part, &dataset) == embeddings(&whole, &dataset));
    assert_eq!(part.progress.history, whole.progress.history);
    let log = |output: &Path| std::fs::read_to_string(output.join("metrics.csv")).unwrap();
    assert_eq!(log(&output), log(&whole_output));
}

#[test]
fn an_interrupted_and_resumed_run_of_moco_is_the_run_without_interruption() {
    let settings = Settings::of(Method::Moco);
    an_interrupted_and_resumed_run_is_the_run_without_interruption("moco", settings);
}

#[test]
fn an_interrupted_and_resumed_run_with_growing_momentum_is_the_run_without_interruption() {
    let settings = Settings {
        momentum_schedule: Schedule::Cosine,
        ..Settings::of(Method::Moco)
    };
    an_interrupted_and_resumed_run_is_the_run_without_interruption("cosine", settings);
}

#[test]
fn an_interrupted_and_resumed_run_of_simclr_is_the_run_without_interruption() {
    let settings = Settings::of(Method::Simclr);
    an_interrupted_and_resumed_run_is_the_run_without_interruption("simclr", settings);
}

#[test]
fn an_interrupted_and_resumed_run_of_supcon_is_the_run_without_interruption() {
    let settings = Settings::of(Method::Supcon);
    an_interrupted_and_resumed_run_is_the_run_without_interruption("supcon", settings);
}

#[test]
fn an_interrupted_and_resumed_run_of_siglip_is_the_run_without_interruption() {
    let settings = Settings::of(Method::Siglip);
    an_interrupted_and_resumed_run_is_the_run_without_interruption("siglip", settings);
}

/// Scale and bias of siglip, and none for the other methods.
fn parameters_of_the_loss(trainer: &Trainer) -> Option<[f64; 2]> {
    match &trainer.objective {
        Objective::Siglip(loss) => Some([loss.scale(), loss.bias()]),
        _ => None,
    }
}

#[test]
fn the_scale_and_the_bias_of_siglip_are_trained_and_come_back_from_a_checkpoint() {
    let dataset = few_digits();
    let folder = TestFolder::new("scale");
    let new = || trainer(Settings::of(Method::Siglip), &dataset);
    let mut trained = new();
    let before = parameters_of_the_loss(&trained).unwrap();
    train(&mut trained, &dataset, &folder.0, false);
    let after = parameters_of_the_loss(&trained).unwrap();
    for (before, after) in before.iter().zip(after) {
        assert!((before - after).abs() > 1e-4, "{before} {after}");
    }
    let mut restored = new();
    restored
        .restore(Checkpoint::in_folder(&folder.0).load().unwrap())
        .unwrap();
    assert_eq!(parameters_of_the_loss(&restored), Some(after));
}

#[test]
fn the_same_seed_gives_the_same_bits_and_another_does_not() {
    let dataset = few_digits();
    let folder = TestFolder::new("seeds");
    for method in [Method::Moco, Method::Simclr, Method::Supcon, Method::Siglip] {
        let of = |seed| {
            let settings = Settings {
                seed,
                epochs: 1,
                ..Settings::of(method)
            };
            let mut trainer = trainer(settings, &dataset);
            train(&mut trainer, &dataset, &folder.0, false);
            (embeddings(&trainer, &dataset), trainer.progress.history)
        };
        let first = of(5);
        assert!(first == of(5), "{method:?}");
        assert!(first.0 != of(6).0, "{method:?}");
    }
}

#[test]
fn the_momentum_grows_to_1_over_the_whole_run_or_stays() {
    let of = |momentum_schedule| {
        let settings = Settings {
            momentum_schedule,
            ..Settings::of(Method::Moco)
        };
        let trainer = trainer(settings, &few_digits());
        // The run has 2 epochs of 4 steps.
        [0, 4, 8].map(|step| trainer.momentum(step, 4))
    };
    assert_eq!(of(Schedule::Constant), [0.9; 3]);
    let [first, middle, last] = of(Schedule::Cosine);
    assert_eq!((first, last), (0.9, 1.0));
    assert!((middle - 0.95).abs() < 1e-12);
}

/// Resumes a checkpoint of one backend on another, whose integers have another dtype.
#[test]
fn the_dtype_of_the_numbers_of_images_in_the_queue_is_kept_and_changes_nothing() {
    let dataset = few_digits();
    let folder = TestFolder::new("dtypes");
    let of = |dtype: DType| {
        let mut other = trainer(Settings::of(Method::Moco), &dataset);
        let ids = Tensor::<1, Int>::arange(0..7, &other.device).cast(dtype);
        let keys = Tensor::ones([7, EMBEDDING], &other.device);
        let Objective::Moco(side) = &mut other.objective else {
            panic!("the objective of moco has a queue");
        };
        side.queue.push_with_ids(keys, ids);
        let checkpoint = Checkpoint::in_folder(&folder.0);
        checkpoint.save(&other).unwrap();

        let mut trainer = trainer(Settings::of(Method::Moco), &dataset);
        trainer.restore(checkpoint.load().unwrap()).unwrap();
        train(&mut trainer, &dataset, &folder.0, false);
        let Objective::Moco(side) = &trainer.objective else {
            panic!("the objective of moco has a queue");
        };
        assert_eq!(side.queue.ids().unwrap().dtype(), dtype);
        trainer.progress.history
    };
    assert_eq!(of(DType::I32), of(DType::I64));
}
