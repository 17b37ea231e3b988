//! The tables as they grow: on stdout, and in the files that the user asks for. The progress is on stderr.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::entries::{Entry, Phase};
use crate::rounds::Spread;
use crate::table::head;

/// The files for the tables, besides stdout. A file is written anew with each row, so that an interrupted run
/// leaves the rows that it had.
#[derive(clap::Args, Clone)]
pub struct Files {
    /// Also writes the tables into a file, row by row. The path is relative to the current folder, which
    /// under `cargo bench` is the folder of Cargo.toml.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Also writes the figures into a file as JSON, row by row: the introduction, the notes, and for each row
    /// its name and the seconds of each side as quartiles and median. `complete` is false until the last row
    /// is there.
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
            not_timed: None,
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

    /// Adds a table for each phase; `row` makes the row of each entry.
    pub fn tables<'a>(
        &mut self,
        entries: &'a [Entry],
        columns: fn(Phase) -> &'static [&'static str],
        mut row: impl FnMut(&'a Entry) -> Result<Row, String>,
    ) -> Result<(), String> {
        self.bar.set_length(entries.len() as u64);
        let mut phase = None;
        for entry in entries {
            let is_first = phase.replace(entry.phase) != Some(entry.phase);
            let head = is_first.then(|| head(entry.phase, columns(entry.phase)));
            self.row(entry, head.as_deref(), &mut row)?;
        }
        Ok(())
    }

    /// Adds one table; `row` makes the row of each entry.
    pub fn table<T: Display>(
        &mut self,
        head: &str,
        entries: &[T],
        mut row: impl FnMut(&T) -> Result<Row, String>,
    ) -> Result<(), String> {
        self.bar.set_length(entries.len() as u64);
        self.bar.set_position(0);
        for (at, entry) in entries.iter().enumerate() {
            self.row(entry, (at == 0).then_some(head), &mut row)?;
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
