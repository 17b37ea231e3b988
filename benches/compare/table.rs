//! Tables in markdown: heads, lines, times and ratios with three digits.

use crate::rounds::Spread;

/// A title and the head of a table.
pub fn titled(title: &str, columns: &[&str]) -> String {
    let rule = columns.iter().map(|_| "---".to_string()).collect();
    let columns = columns.iter().map(|column| column.to_string()).collect();
    format!("{title}:\n\n{}\n{}", line(columns), line(rule))
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

/// Whole mebibytes, or a word where the system does not report memory.
pub fn mebibytes(bytes: Option<u64>) -> String {
    match bytes {
        Some(bytes) => format!("{}", bytes >> 20),
        None => "not known".to_string(),
    }
}
