//! The tables: a heading per phase, a row per entry, times and ratios with three digits.

use crate::entries::{Entry, Phase};
use crate::rounds::Spread;

const FORWARD_BACKWARD: [&str; 9] = [
    "logits",
    "kind",
    "PyTorch",
    "here, gradient over the logits",
    "here, logits kept",
    "PyTorch / here, over the logits",
    "PyTorch / here, kept",
    "copy",
    "here, over the logits / copy",
];
const FORWARD: [&str; 7] = [
    "logits",
    "kind",
    "PyTorch",
    "here",
    "PyTorch / here",
    "copy",
    "here / copy",
];

/// The title and the head of the table of a phase.
pub fn head(phase: Phase) -> String {
    let (title, columns) = match phase {
        Phase::ForwardBackward => ("Forward and backward", &FORWARD_BACKWARD[..]),
        Phase::Forward => ("Forward alone", &FORWARD[..]),
    };
    let rule = columns.iter().map(|_| "---".to_string()).collect();
    let columns = columns.iter().map(|column| column.to_string()).collect();
    format!("{title}:\n\n{}\n{}", line(columns), line(rule))
}

/// What PyTorch, this crate in each of its ways, and the copy took.
pub struct Times {
    pub pytorch: Spread,
    pub here: Vec<Spread>,
    pub copy: Spread,
}

impl Times {
    /// The row of an entry; with `quartiles` every time is followed by them.
    pub fn row(&self, entry: &Entry, quartiles: bool) -> String {
        let shape: Vec<String> = entry.shape.iter().map(usize::to_string).collect();
        let kind = format!("{}, {}", entry.kind, entry.precision);
        let time = |spread: &Spread| spread_cell(spread, quartiles);
        let mut cells = vec![shape.join(" x "), kind, time(&self.pytorch)];
        cells.extend(self.here.iter().map(time));
        let ratio = |here: &Spread| three_digits(self.pytorch.median / here.median);
        cells.extend(self.here.iter().map(ratio));
        cells.push(time(&self.copy));
        cells.push(three_digits(self.here[0].median / self.copy.median));
        line(cells)
    }
}

fn line(cells: Vec<String>) -> String {
    format!("| {} |", cells.join(" | "))
}

fn spread_cell(spread: &Spread, quartiles: bool) -> String {
    let median = duration(spread.median);
    if !quartiles {
        return median;
    }
    let (lower, upper) = (duration(spread.lower), duration(spread.upper));
    format!("{median} ({lower} to {upper})")
}

fn duration(seconds: f64) -> String {
    let (factor, unit) = match seconds {
        ..1e-6 => (1e9, "ns"),
        ..1e-3 => (1e6, "us"),
        ..1.0 => (1e3, "ms"),
        _ => (1.0, "s"),
    };
    format!("{} {unit}", three_digits(seconds * factor))
}

fn three_digits(value: f64) -> String {
    let decimals = match value {
        ..1.0 => 3,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}
