//! The results of a run: the sample and the tables.

use std::path::Path;

use burn::tensor::Device;

use crate::counts::{Counts, LONGEST};
use crate::files::replace_file;
use crate::memory;
use crate::text::Split;

/// The name of a guesser, and the bits per character of its guesses.
pub type Guess = (String, f64);

/// The guesses that the model must beat: all characters alike, then counts, the weakest first.
pub fn baselines(split: &Split, classes: usize) -> Vec<Guess> {
    let alike = format!("all {classes} characters alike");
    let counts = Counts::of(&split.training, classes);
    let after = |before| {
        let plural = if before == 1 { "" } else { "s" };
        let name = format!("counts after {before} character{plural}");
        (name, counts.bits(&split.held_out, before))
    };
    let mut guesses = vec![(alike, (classes as f64).log2())];
    guesses.extend([1, 2, LONGEST].map(after));
    guesses
}

/// Writes and prints how the model continues the end of the training text.
pub fn show_sample(given: &str, written: &str, folder: &Path) -> Result<(), String> {
    replace_file(&folder.join("sample.txt"), |path| {
        std::fs::write(path, format!("{given}{written}\n"))
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))
    })?;
    println!("\nThe training text ends with:");
    print_indented(given);
    println!("and the model goes on:");
    print_indented(written);
    Ok(())
}

fn print_indented(text: &str) {
    for line in text.lines() {
        println!("    {line}");
    }
}

/// Prints the guesses of the model beside those that it must beat.
pub fn print_guesses(guesses: &[Guess], held_out: usize) {
    println!("\nGuessing each of {held_out} held-out characters from those before it:");
    println!("{:26}  bits per character  perplexity", "");
    for (by, bits) in guesses {
        println!("  {by:24}  {bits:18.2}  {:10.2}", bits.exp2());
    }
}

/// Measures and prints the memory of the loss, for rows, features and classes.
pub fn print_memory(sizes: &[[usize; 3]], device: &Device) {
    println!("\nMemory of the loss, forward and backward, at its highest (MB):");
    println!("  rows  features  classes  with a logits tensor  without  ratio");
    for size in sizes {
        let [rows, features, classes] = size;
        let [with, without] = memory::of_loss(*size, device).map(|bytes| bytes as f64 / 1e6);
        println!(
            "  {rows:4}  {features:8}  {classes:7}  {with:20.1}  {without:7.1}  {:5.2}",
            with / without
        );
    }
    if let Some([_, features, classes]) = sizes.last() {
        let untouched = (4 * features * classes) as f64 / 1e6;
        println!(
            "  These are the bytes that the loss asks the system for. Of those with a logits tensor, Flex"
        );
        println!(
            "  leaves 4 x features x classes untouched ({untouched:.1} MB in the last line); most systems"
        );
        println!("  give no memory for them.");
    }
}
