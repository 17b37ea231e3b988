//! The tables as they grow: on stdout, and in the files that the user asks for. The progress is on stderr.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::rounds::Spread;

/// The files for the tables, besides stdout. A file is written anew with each row, so that an interrupted run
/// leaves the rows that it had.
#[derive(clap::Args, Clone)]
pub struct Files {
    /// Also writes the tables into a file, row by row. The path is relative to the current folder, which
    /// under `cargo bench` is the folder of Cargo.toml.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Also writes the figures into a file as JSON, row by row: the introduction, the notes, and for each row
    /// its name, the seconds of each side as quartiles and median, and the bytes of memory where they are
    /// known. `complete` is false until the last row is there.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A row of a table, as its line and as numbers.
pub struct Row {
    pub line: String,
    pub figures: Figures,
}

#[derive(Serialize)]
pub struct Figures {
    /// The name that `--only` looks at.
    row: String,
    /// The times of each side, by the titles of the columns.
    seconds: BTreeMap<&'static str, Spread>,
    /// The bytes of memory of each side, where they are measured.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    memory: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_timed: Option<String>,
}

impl Figures {
    pub fn new(
        entry: &impl Display,
        seconds: impl IntoIterator<Item = (&'static str, Spread)>,
    ) -> Self {
        Self {
            row: entry.to_string(),
            seconds: seconds.into_iter().collect(),
            memory: BTreeMap::new(),
            not_timed: None,
        }
    }

    pub fn with_memory(self, bytes: impl IntoIterator<Item = (&'static str, u64)>) -> Self {
        Self {
            memory: bytes.into_iter().collect(),
            ..self
        }
    }

    pub fn without_times(entry: &impl Display, reason: &str) -> Self {
        Self {
            not_timed: Some(reason.to_string()),
            ..Self::new(entry, [])
        }
    }
}

/// The content of the JSON file.
#[derive(Serialize)]
struct Document {
    introduction: String,
    rows: Vec<Figures>,
    notes: Vec<String>,
    complete: bool,
}

pub struct Report {
    text: String,
    document: Document,
    files: Files,
    bar: ProgressBar,
}

impl Report {
    pub fn new(introduction: &str, files: &Files) -> Result<Self, String> {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}") {
            bar.set_style(style);
        }
        let mut report = Self {
            text: String::new(),
            document: Document {
                introduction: introduction.to_string(),
                rows: Vec::new(),
                notes: Vec::new(),
                complete: false,
            },
            files: files.clone(),
            bar,
        };
        report.add(introduction)?;
        Ok(report)
    }

    /// Adds one table; `row` makes the row of each entry.
    pub fn table<T: Display>(
        &mut self,
        head: &str,
        entries: &[T],
        row: impl FnMut(&T) -> Result<Row, String>,
    ) -> Result<(), String> {
        let mut head = Some(head.to_string());
        self.rows(entries, |_| head.take(), row)
    }

    /// Adds the row of each entry, after the head of a table where `head` makes one for it.
    pub fn rows<'a, T: Display>(
        &mut self,
        entries: &'a [T],
        mut head: impl FnMut(&'a T) -> Option<String>,
        mut row: impl FnMut(&'a T) -> Result<Row, String>,
    ) -> Result<(), String> {
        self.bar.set_length(entries.len() as u64);
        self.bar.set_position(0);
        for entry in entries {
            let head = head(entry);
            self.row(entry, head.as_deref(), &mut row)?;
        }
        Ok(())
    }

    /// Adds the row of an entry, after the head of its table if it is the first row.
    fn row<'a, T: Display>(
        &mut self,
        entry: &'a T,
        head: Option<&str>,
        row: &mut impl FnMut(&'a T) -> Result<Row, String>,
    ) -> Result<(), String> {
        self.bar.set_message(entry.to_string());
        let Row { line, figures } = row(entry)?;
        self.document.rows.push(figures);
        self.add(&match head {
            Some(head) => format!("\n{head}\n{line}"),
            None => line,
        })?;
        self.bar.inc(1);
        Ok(())
    }

    /// The bar, on which a row may say what it does.
    #[allow(dead_code)] // benches/steps uses it, whose rows take longer.
    pub fn bar(&self) -> ProgressBar {
        self.bar.clone()
    }

    pub fn note(&mut self, note: String) -> Result<(), String> {
        let lines = format!("\n{note}");
        self.document.notes.push(note);
        self.add(&lines)
    }

    fn add(&mut self, lines: &str) -> Result<(), String> {
        self.text += lines;
        self.text += "\n";
        self.bar.suspend(|| println!("{lines}"));
        self.write()
    }

    fn write(&self) -> Result<(), String> {
        if let Some(file) = &self.files.out {
            replace(file, &self.text)?;
        }
        if let Some(file) = &self.files.json {
            let json = serde_json::to_string_pretty(&self.document);
            let json = json.expect("its keys are strings");
            replace(file, &format!("{json}\n"))?;
        }
        Ok(())
    }

    pub fn close(mut self) -> Result<(), String> {
        self.bar.finish_and_clear();
        self.document.complete = true;
        self.write()
    }
}

/// Writes a file so that a reader, at any time, finds all of the old text or all of the new.
fn replace(file: &Path, text: &str) -> Result<(), String> {
    let unfinished = file.with_added_extension("part");
    let written = fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, file));
    written.map_err(|error| format!("{} cannot be written: {error}", file.display()))
}
