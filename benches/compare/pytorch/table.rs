//! The columns of the comparison with PyTorch.

use crate::entries::{Entry, Phase};
use crate::report::{Figures, Row};
use crate::rounds::Spread;
use crate::table::{NAMES, line, names, three_digits, time};

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

pub fn columns(phase: Phase) -> &'static [&'static str] {
    match phase {
        Phase::ForwardBackward => &FORWARD_BACKWARD,
        Phase::Forward => &FORWARD,
    }
}

/// The times of PyTorch, of this crate in each of its ways, and of the copy.
pub struct Times {
    pub pytorch: Spread,
    pub here: Vec<Spread>,
    pub copy: Spread,
}

impl Times {
    pub fn row(&self, entry: &Entry, quartiles: bool) -> Row {
        let pytorch_and_here = [self.pytorch].into_iter().chain(self.here.iter().copied());
        let titles = columns(entry.phase)[NAMES..].iter().copied();
        let seconds = titles.zip(pytorch_and_here).chain([("copy", self.copy)]);
        Row {
            line: self.line(entry, quartiles),
            figures: Figures::new(entry, seconds),
        }
    }

    fn line(&self, entry: &Entry, quartiles: bool) -> String {
        let time = |spread: &Spread| time(spread, quartiles);
        let mut cells = names(entry);
        cells.push(time(&self.pytorch));
        cells.extend(self.here.iter().map(time));
        let ratio = |here: &Spread| three_digits(self.pytorch.median / here.median);
        cells.extend(self.here.iter().map(ratio));
        cells.push(time(&self.copy));
        cells.push(three_digits(self.here[0].median / self.copy.median));
        line(cells)
    }
}
