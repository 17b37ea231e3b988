//! The text: its characters as numbers, its held-out end, and passages of it as tensors.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use flate2::read::GzDecoder;

/// Characters of a passage, which is all that the model sees at a time.
pub const LENGTH: usize = 64;
/// The target of a place that does not count.
pub const IGNORED: i32 = -100;

/// The distance of neighbouring passages of the held-out text. They overlap by half, so that all but the
/// first have a context before the first character that counts.
const STRIDE: usize = LENGTH / 2;
/// Most held-out characters that are kept, because all of them are measured again and again.
const MEASURED: usize = 20_000;

/// Reads the text of the file, or the project's documentation, which is part of the program.
pub fn read(file: Option<&Path>) -> Result<String, String> {
    let mut text = String::new();
    match file {
        Some(path) => {
            let read = std::fs::read_to_string(path);
            text = read.map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        }
        None => {
            let packed = include_bytes!("../data/documentation.txt.gz");
            let read = GzDecoder::new(packed.as_slice()).read_to_string(&mut text);
            read.map_err(|error| format!("the text cannot be unpacked: {error}"))?;
        }
    }
    Ok(text)
}

/// Every character that occurs in a text, in order; the place of a character is its class.
pub struct Vocabulary(Vec<char>);

impl Vocabulary {
    pub fn of(text: &str) -> Self {
        Self(text.chars().collect::<BTreeSet<_>>().into_iter().collect())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The classes of the characters of a text. The text is the vocabulary's own, or a part of it.
    pub fn encode(&self, text: &str) -> Vec<i32> {
        let known = text
            .chars()
            .filter_map(|one| self.0.binary_search(&one).ok());
        known.map(|class| class as i32).collect()
    }

    pub fn decode(&self, classes: &[i32]) -> String {
        classes
            .iter()
            .map(|class| self.0[*class as usize])
            .collect()
    }
}

/// The classes of a text's characters, divided; the last tenth takes no part in the training.
pub struct Split {
    pub training: Vec<i32>,
    /// The start of the last tenth.
    pub held_out: Vec<i32>,
}

impl Split {
    pub fn of(mut text: Vec<i32>) -> Result<Self, String> {
        let least = 10 * (LENGTH + 1);
        if text.len() < least {
            return Err(format!(
                "the text has {} characters; at least {least} are needed, so that its last tenth \
                 holds a passage of {LENGTH} and the character behind it",
                text.len()
            ));
        }
        let mut held_out = text.split_off(text.len() - text.len() / 10);
        held_out.truncate(MEASURED);
        // The text ends with a whole passage, so that the model and the counts are measured on the same
        // characters.
        held_out.truncate(held_out.len() - (held_out.len() - 1 - LENGTH) % STRIDE);
        Ok(Self {
            training: text,
            held_out,
        })
    }
}

/// Passages, and the character that follows each of their characters.
pub struct Batch {
    inputs: Vec<i32>,
    pub targets: Vec<i32>,
}

impl Batch {
    /// Cuts out the passages that start at these places.
    pub fn new(text: &[i32], starts: &[usize]) -> Self {
        let passages = |first: usize| {
            let passage = move |start: &usize| &text[start + first..start + first + LENGTH];
            starts.iter().flat_map(passage).copied().collect()
        };
        Self {
            inputs: passages(0),
            targets: passages(1),
        }
    }

    /// Batches of `size` passages in which every character of the text but the first is a target
    /// that counts once.
    pub fn over(text: &[i32], size: usize) -> impl Iterator<Item = Self> {
        let starts: Vec<usize> = (0..text.len() - LENGTH).step_by(STRIDE).collect();
        let batches: Vec<Vec<usize>> = starts.chunks(size).map(<[usize]>::to_vec).collect();
        batches.into_iter().map(move |starts| {
            let mut batch = Self::new(text, &starts);
            for (start, targets) in starts.iter().zip(batch.targets.chunks_mut(LENGTH)) {
                let counted_before = if *start == 0 { 0 } else { LENGTH - STRIDE };
                targets[..counted_before].fill(IGNORED);
            }
            batch
        })
    }

    /// The inputs and the targets as tensors, both of shape [passages, LENGTH].
    pub fn to_tensors(&self, device: &Device) -> (Tensor<2, Int>, Tensor<2, Int>) {
        let tensor = |classes: &[i32]| {
            let shape = [classes.len() / LENGTH, LENGTH];
            Tensor::from_data(TensorData::new(classes.to_vec(), shape), device)
        };
        (tensor(&self.inputs), tensor(&self.targets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_comes_back_from_its_classes() {
        let text = "zwölf Boxkämpfer\njagen \u{1F600} Viktor";
        let vocabulary = Vocabulary::of(text);
        assert_eq!(vocabulary.decode(&vocabulary.encode(text)), text);
        let own = read(None).unwrap();
        let vocabulary = Vocabulary::of(&own);
        assert_eq!(vocabulary.decode(&vocabulary.encode(&own)), own);
    }

    #[test]
    fn the_held_out_text_is_the_end_and_no_part_of_the_training_text() {
        let text: Vec<i32> = (0..5432).collect();
        let Split { training, held_out } = Split::of(text.clone()).unwrap();
        assert_eq!(training, text[..4889]);
        assert_eq!(held_out, text[4889..][..held_out.len()]);
        assert!((543 - STRIDE..=543).contains(&held_out.len()));
        assert!(Split::of((0..10 * LENGTH as i32).collect()).is_err());
    }

    #[test]
    fn of_a_large_text_a_part_is_measured_and_of_this_projects_own_all() {
        let Split { training, held_out } = Split::of((0..300_000).collect()).unwrap();
        assert_eq!(training.len(), 270_000);
        assert_eq!(
            held_out,
            Vec::from_iter(270_000..270_000 + held_out.len() as i32)
        );
        assert!((MEASURED - STRIDE..=MEASURED).contains(&held_out.len()));
        assert!(read(None).unwrap().chars().count() / 10 <= MEASURED);
    }

    #[test]
    fn targets_are_the_inputs_one_character_later() {
        let text: Vec<i32> = (0..500).map(|at| at * at % 89).collect();
        let batch = Batch::new(&text, &[0, 7, 400]);
        for (passage, start) in [0, 7, 400].into_iter().enumerate() {
            let part = passage * LENGTH..(passage + 1) * LENGTH;
            assert_eq!(batch.inputs[part.clone()], text[start..start + LENGTH]);
            assert_eq!(batch.targets[part], text[start + 1..start + 1 + LENGTH]);
        }
    }

    #[test]
    fn every_held_out_character_but_the_first_counts_once() {
        let held_out = Split::of((0..7777).collect()).unwrap().held_out;
        let counted: Vec<i32> = Batch::over(&held_out, 3)
            .flat_map(|batch| batch.targets)
            .filter(|target| *target != IGNORED)
            .collect();
        assert_eq!(counted, held_out[1..]);
    }
}
