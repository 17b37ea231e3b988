//! The tables of the entries: one for each phase, and the first cells of their rows.

use crate::entries::{Entry, Phase};
use crate::report::{Report, Row};
use crate::table::titled;

/// Adds a table for each phase; `row` makes the row of each entry.
pub fn tables<'a>(
    report: &mut Report,
    entries: &'a [Entry],
    columns: fn(Phase) -> &'static [&'static str],
    row: impl FnMut(&'a Entry) -> Result<Row, String>,
) -> Result<(), String> {
    let mut phase = None;
    let head_of = |entry: &Entry| {
        let is_first = phase.replace(entry.phase) != Some(entry.phase);
        is_first.then(|| head(entry.phase, columns(entry.phase)))
    };
    report.rows(entries, head_of, row)
}

/// The title and the head of the table of a phase.
fn head(phase: Phase, columns: &[&str]) -> String {
    let title = match phase {
        Phase::ForwardBackward => "Forward and backward",
        Phase::Forward => "Forward alone",
    };
    titled(title, columns)
}

/// The number of cells that `names` makes.
pub const NAMES: usize = 2;

/// The first cells of a row: shape, kind and dtype.
pub fn names(entry: &Entry) -> Vec<String> {
    let shape: Vec<String> = entry.shape.iter().map(usize::to_string).collect();
    let kind = format!("{}, {}", entry.kind, entry.precision);
    vec![shape.join(" x "), kind]
}
