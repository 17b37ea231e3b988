//! Short runs: the same settings give the same result, interrupted or not.

use super::*;
use crate::data::{Dataset, Source};
use crate::files::TestFolder;

fn few_digits() -> Dataset {
    let mut dataset = data::load(&Source {
        limit: Some(96),
        ..Source::default()
    })
    .unwrap();
    dataset.held_out = dataset.held_out.of(&(0..96).collect::<Vec<_>>());
    dataset
}

fn settings(method: Method) -> Settings {
    Settings {
        source: Source::default(),
        method,
        epochs: 2,
        queue: 40,
        momentum: 0.9,
        temperature: 0.2,
        batch: 32,
        seed: 5,
    }
}

/// Trains on few digits, to the end or to the first step.
fn train(trainer: &mut Trainer, dataset: &Dataset, output: &Path, interrupted: bool) -> Ending {
    let images = &dataset.training.images;
    let interrupted = AtomicBool::new(interrupted);
    std::fs::create_dir_all(output).unwrap();
    trainer
        .train(images, &Protocol::new(dataset), output, &interrupted)
        .unwrap()
}

fn embeddings(trainer: &Trainer, dataset: &Dataset) -> Vec<Vec<f32>> {
    let images = &dataset.held_out.images;
    let represented = trainer
        .encoder
        .represent(images, dataset.size, Layer::Embedding);
    represented.unwrap()
}

fn an_interrupted_and_resumed_run_is_the_run_without_interruption(method: Method) {
    let dataset = few_digits();
    let new = || Trainer::new(settings(method), dataset.size, &Device::flex());
    let folder = TestFolder::new(&format!("resumed-{method:?}"));
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
    an_interrupted_and_resumed_run_is_the_run_without_interruption(Method::Moco);
}

#[test]
fn an_interrupted_and_resumed_run_of_simclr_is_the_run_without_interruption() {
    an_interrupted_and_resumed_run_is_the_run_without_interruption(Method::Simclr);
}

#[test]
fn the_same_seed_gives_the_same_bits_and_another_does_not() {
    let dataset = few_digits();
    let folder = TestFolder::new("seeds");
    for method in [Method::Moco, Method::Simclr] {
        let of = |seed| {
            let settings = Settings {
                seed,
                epochs: 1,
                ..settings(method)
            };
            let mut trainer = Trainer::new(settings, dataset.size, &Device::flex());
            train(&mut trainer, &dataset, &folder.0, false);
            (embeddings(&trainer, &dataset), trainer.progress.history)
        };
        let first = of(5);
        assert!(first == of(5), "{method:?}");
        assert!(first.0 != of(6).0, "{method:?}");
    }
}
