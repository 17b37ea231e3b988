//! Counts, which the model must beat: they guess by how often a character followed the ones before it.

use std::collections::HashMap;

/// Most characters before a character that the counts look at.
pub const LONGEST: usize = 4;
/// Most characters that are counted, about as many as the model reads by default. Counting more takes minutes
/// and gigabytes.
const COUNTED: usize = 2_000_000;

/// Counts of each sequence of up to `LONGEST` + 1 characters in a text.
pub struct Counts<'a> {
    /// Occurrences of each sequence of characters.
    occurrences: HashMap<&'a [i32], f64>,
    /// Numbers of characters that followed each sequence, and of different ones among them.
    followers: HashMap<&'a [i32], (f64, f64)>,
    classes: usize,
}

impl<'a> Counts<'a> {
    /// Counts the sequences of a text, or of its end if it is long.
    pub fn of(text: &'a [i32], classes: usize) -> Self {
        let text = &text[text.len().saturating_sub(COUNTED)..];
        let (mut occurrences, mut followers) = (HashMap::new(), HashMap::new());
        for at in 0..text.len() {
            for start in at.saturating_sub(LONGEST)..=at {
                let occurred = occurrences.entry(&text[start..=at]).or_insert(0.0);
                let (followed, different) = followers.entry(&text[start..at]).or_insert((0.0, 0.0));
                if *occurred == 0.0 {
                    *different += 1.0;
                }
                *occurred += 1.0;
                *followed += 1.0;
            }
        }
        Self {
            occurrences,
            followers,
            classes,
        }
    }

    /// The probability of the last character of the sequence, given those before it. Each length of this
    /// context falls back on the next shorter one, the more so the more different followers it had (the
    /// interpolation of Witten and Bell, method C). The shortest one falls back on all characters alike.
    fn probability(&self, sequence: &[i32]) -> f64 {
        let mut probability = 1.0 / self.classes as f64;
        let last = sequence.len() - 1;
        for start in (0..=last).rev() {
            let Some((followed, different)) = self.followers.get(&sequence[start..last]) else {
                break;
            };
            let occurred = self.occurrences.get(&sequence[start..]).unwrap_or(&0.0);
            probability = (occurred + different * probability) / (followed + different);
        }
        probability
    }

    /// The mean bits per character of a text. Each character but the first is guessed from up to `before`
    /// earlier ones.
    pub fn bits(&self, text: &[i32], before: usize) -> f64 {
        let bits = (1..text.len()).map(|at| {
            let start = at.saturating_sub(before.min(LONGEST));
            -self.probability(&text[start..=at]).log2()
        });
        bits.sum::<f64>() / (text.len() - 1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probabilities_of_all_characters_add_up_to_one() {
        let text: Vec<i32> = (0..300).map(|at| at * at % 7).collect();
        let counts = Counts::of(&text, 9);
        for before in [&[][..], &[1], &[8], &[4, 2, 1], &[1, 4, 2, 2]] {
            let all = (0..9).map(|class| counts.probability(&[before, &[class]].concat()));
            assert!((all.sum::<f64>() - 1.0).abs() < 1e-12, "{before:?}");
        }
    }

    #[test]
    fn one_character_before_tells_what_follows_in_a_text_of_two_that_alternate() {
        let text: Vec<i32> = (0..1000).map(|at| at % 2).collect();
        let counts = Counts::of(&text, 2);
        assert!((counts.bits(&text, 0) - 1.0).abs() < 1e-3);
        assert!(counts.bits(&text, 1) < 0.01);
    }
}
