//! The columns of the comparison on a device.

use crate::entries::{Entry, Phase};
use crate::phases::{NAMES, names};
use crate::report::{Figures, Row};
use crate::rounds::Spread;
use crate::table::{line, three_digits, time};

const FORWARD_BACKWARD: [&str; 12] = [
    "logits",
    "kind",
    "here, gradient over the logits",
    "here, logits kept",
    "burn::nn",
    "copy",
    "burn::nn / here, over the logits",
    "burn::nn / here, kept",
    "here, over the logits / copy",
    "of the copy's bandwidth, over the logits",
    "of the copy's bandwidth, kept",
    "bandwidth of the copy",
];
const FORWARD: [&str; 9] = [
    "logits",
    "kind",
    "here",
    "burn::nn",
    "copy",
    "burn::nn / here",
    "here / copy",
    "of the copy's bandwidth",
    "bandwidth of the copy",
];

pub fn columns(phase: Phase) -> &'static [&'static str] {
    match phase {
        Phase::ForwardBackward => &FORWARD_BACKWARD,
        Phase::Forward => &FORWARD,
    }
}

/// The row of an entry that was not timed, with the first line of the reason, because a cell has one line.
pub fn without_times(entry: &Entry, reason: &str) -> Row {
    let mut cells = names(entry);
    let first = match reason.split_once('\n') {
        Some((first, _)) => format!("{first} (more below)"),
        None => reason.to_string(),
    };
    cells.push(format!("not timed: {}", first.replace('|', "/")));
    cells.resize(columns(entry.phase).len(), String::new());
    Row {
        line: line(cells),
        figures: Figures::without_times(entry, reason),
    }
}

/// The times of this crate in each of its ways, of `burn::nn` if its results are right, and of the copy.
pub struct Times {
    pub here: Vec<Spread>,
    pub burn_nn: Option<Spread>,
    pub copy: Spread,
}

impl Times {
    pub fn row(&self, entry: &Entry, quartiles: bool) -> Row {
        Row {
            line: self.line(entry, quartiles),
            figures: Figures::new(entry, self.titled(entry.phase)),
        }
    }

    /// The sides with the titles of their columns, which follow the columns of the names.
    fn titled(&self, phase: Phase) -> impl Iterator<Item = (&'static str, Spread)> {
        let here = self.here.iter().copied().map(Some);
        let spreads = here.chain([self.burn_nn, Some(self.copy)]);
        let titles = columns(phase)[NAMES..].iter().copied();
        titles
            .zip(spreads)
            .filter_map(|(title, spread)| Some((title, spread?)))
    }

    fn line(&self, entry: &Entry, quartiles: bool) -> String {
        let time = |spread: &Spread| time(spread, quartiles);
        let mut cells = names(entry);
        cells.extend(self.here.iter().map(time));
        cells.push(match &self.burn_nn {
            Some(burn_nn) => time(burn_nn),
            None => "not timed".to_string(),
        });
        cells.push(time(&self.copy));
        let ratio = |here: &Spread| match &self.burn_nn {
            Some(burn_nn) => three_digits(burn_nn.median / here.median),
            None => String::new(),
        };
        cells.extend(self.here.iter().map(ratio));
        cells.push(three_digits(self.here[0].median / self.copy.median));
        let share = |here: &Spread| {
            let share = moved(entry.phase) / here.median * self.copy.median / COPIED;
            format!("{:.0} %", 100.0 * share)
        };
        cells.extend(self.here.iter().map(share));
        let bandwidth = COPIED * entry.bytes() as f64 / self.copy.median;
        cells.push(format!("{} GB/s", three_digits(bandwidth / 1e9)));
        line(cells)
    }
}

/// Passes of a copy over the bytes of the logits: one read, one write.
const COPIED: f64 = 2.0;

/// Passes of a loss over the bytes of the logits, at least: the forward reads them; the backward reads them
/// again and writes the gradient.
fn moved(phase: Phase) -> f64 {
    match phase {
        Phase::Forward => 1.0,
        Phase::ForwardBackward => 3.0,
    }
}
