//! Tables in markdown: a heading per phase, a row per entry, times and ratios with three digits.

use crate::entries::{Entry, Phase};
use crate::rounds::Spread;

/// The title and the head of the table of a phase.
pub fn head(phase: Phase, columns: &[&str]) -> String {
    let title = match phase {
        Phase::ForwardBackward => "Forward and backward",
        Phase::Forward => "Forward alone",
    };
    titled(title, columns)
}

/// A title and the head of a table.
pub fn titled(title: &str, columns: &[&str]) -> String {
    let rule = columns.iter().map(|_| "---".to_string()).collect();
    let columns = columns.iter().map(|column| column.to_string()).collect();
    format!("{title}:\n\n{}\n{}", line(columns), line(rule))
}

/// The number of cells that `names` makes.
pub const NAMES: usize = 2;

/// The first cells of a row: shape, kind and dtype.
pub fn names(entry: &Entry) -> Vec<String> {
    let shape: Vec<String> = entry.shape.iter().map(usize::to_string).collect();
    let kind = format!("{}, {}", entry.kind, entry.precision);
    vec![shape.join(" x "), kind]
}

pub fn line(cells: Vec<String>) -> String {
    format!("| {} |", cells.join(" | "))
}

/// The median, and the quartiles after it if `quartiles` is set.
pub fn time(spread: &Spread, quartiles: bool) -> String {
    let median = duration(spread.median);
    if !quartiles {
        return median;
    }
    let (lower, upper) = (duration(spread.lower), duration(spread.upper));
    format!("{median} ({lower} to {upper})")
}

pub fn duration(seconds: f64) -> String {
    let (factor, unit) = match seconds {
        ..1e-6 => (1e9, "ns"),
        ..1e-3 => (1e6, "us"),
        ..1.0 => (1e3, "ms"),
        _ => (1.0, "s"),
    };
    format!("{} {unit}", three_digits(seconds * factor))
}

pub fn three_digits(value: f64) -> String {
    let decimals = match value {
        ..1.0 => 3,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}
