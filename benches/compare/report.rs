//! The text so far, which is printed as it grows, and the progress on stderr.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};

use crate::entries::{Entry, Phase};
use crate::table::head;

pub struct Report {
    text: String,
    bar: ProgressBar,
}

impl Report {
    pub fn new(introduction: &str) -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}") {
            bar.set_style(style);
        }
        let mut report = Self {
            text: String::new(),
            bar,
        };
        report.add(introduction);
        report
    }

    /// A table for each phase, with the row that is made of each entry.
    pub fn tables<'a>(
        &mut self,
        entries: &'a [Entry],
        columns: fn(Phase) -> &'static [&'static str],
        mut row: impl FnMut(&'a Entry) -> Result<String, String>,
    ) -> Result<(), String> {
        self.bar.set_length(entries.len() as u64);
        let mut phase = None;
        for entry in entries {
            self.bar.set_message(entry.to_string());
            let row = row(entry)?;
            if phase.replace(entry.phase) != Some(entry.phase) {
                self.add(&format!("\n{}", head(entry.phase, columns(entry.phase))));
            }
            self.add(&row);
            self.bar.inc(1);
        }
        Ok(())
    }

    /// One table, with the row that is made of each entry.
    pub fn table<T: Display>(
        &mut self,
        head: &str,
        entries: &[T],
        mut row: impl FnMut(&T) -> Result<String, String>,
    ) -> Result<(), String> {
        self.bar.set_length(entries.len() as u64);
        self.bar.set_position(0);
        for (at, entry) in entries.iter().enumerate() {
            self.bar.set_message(entry.to_string());
            let row = row(entry)?;
            if at == 0 {
                self.add(&format!("\n{head}"));
            }
            self.add(&row);
            self.bar.inc(1);
        }
        Ok(())
    }

    pub fn add(&mut self, lines: &str) {
        self.text += lines;
        self.text += "\n";
        self.bar.suspend(|| println!("{lines}"));
    }

    pub fn close(self, file: Option<&Path>) -> Result<(), String> {
        self.bar.finish_and_clear();
        match file {
            Some(file) => fs::write(file, self.text)
                .map_err(|error| format!("{} cannot be written: {error}", file.display())),
            None => Ok(()),
        }
    }
}
