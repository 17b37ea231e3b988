//! The columns of the comparison with PyTorch.

use crate::entries::{Entry, Phase};
use crate::phases::names;
use crate::report::{Figures, Row};
use crate::rounds::Spread;
use crate::table::{line, three_digits, time};

const EAGER: &str = "PyTorch";
const HUGE_PAGES: &str = "PyTorch, huge pages";
const COMPILED: &str = "torch.compile";
const OVER: &str = "here, gradient over the logits";
const KEPT: &str = "here, logits kept";
const HERE: &str = "here";
const COPY: &str = "copy";
const FLOOR: &str = "floor program";

const FORWARD_BACKWARD: [&str; 15] = [
    "logits",
    "kind",
    EAGER,
    HUGE_PAGES,
    COMPILED,
    OVER,
    KEPT,
    "PyTorch / here, over the logits",
    "PyTorch / here, kept",
    "with huge pages / here, kept",
    "torch.compile / here, over the logits",
    COPY,
    "here, over the logits / copy",
    FLOOR,
    "here, over the logits / floor program",
];
const FORWARD: [&str; 9] = [
    "logits",
    "kind",
    EAGER,
    COMPILED,
    HERE,
    "PyTorch / here",
    "torch.compile / here",
    COPY,
    "here / copy",
];

pub fn columns(phase: Phase) -> &'static [&'static str] {
    match phase {
        Phase::ForwardBackward => &FORWARD_BACKWARD,
        Phase::Forward => &FORWARD,
    }
}

/// The times of PyTorch, of this crate in each of its ways, and of the floors. What was not timed has none.
pub struct Times {
    pub pytorch: Spread,
    pub huge_pages: Option<Spread>,
    pub compiled: Option<Spread>,
    /// Over the logits and kept, or the forward alone.
    pub here: Vec<Spread>,
    pub copy: Spread,
    pub floor: Option<Spread>,
}

impl Times {
    pub fn row(&self, entry: &Entry, quartiles: bool) -> Row {
        let here = match entry.phase {
            Phase::ForwardBackward => [OVER, KEPT].as_slice(),
            Phase::Forward => &[HERE],
        };
        let here = here
            .iter()
            .copied()
            .zip(self.here.iter().copied().map(Some));
        let others = [
            (EAGER, Some(self.pytorch)),
            (HUGE_PAGES, self.huge_pages),
            (COMPILED, self.compiled),
            (COPY, Some(self.copy)),
            (FLOOR, self.floor),
        ];
        let seconds = here.chain(others);
        Row {
            line: self.line(entry, quartiles),
            figures: Figures::new(
                entry,
                seconds.filter_map(|(title, spread)| Some((title, spread?))),
            ),
        }
    }

    fn line(&self, entry: &Entry, quartiles: bool) -> String {
        let (pytorch, copy) = (Some(self.pytorch), Some(self.copy));
        let time = |spread: Option<Spread>| match spread {
            Some(spread) => time(&spread, quartiles),
            None => "-".to_string(),
        };
        let ratio = |one: Option<Spread>, other: Option<Spread>| match (one, other) {
            (Some(one), Some(other)) => three_digits(one.median / other.median),
            _ => "-".to_string(),
        };
        let here = Some(self.here[0]);
        let figures = match entry.phase {
            Phase::ForwardBackward => {
                let kept = Some(self.here[1]);
                vec![
                    time(pytorch),
                    time(self.huge_pages),
                    time(self.compiled),
                    time(here),
                    time(kept),
                    ratio(pytorch, here),
                    ratio(pytorch, kept),
                    ratio(self.huge_pages, kept),
                    ratio(self.compiled, here),
                    time(copy),
                    ratio(here, copy),
                    time(self.floor),
                    ratio(here, self.floor),
                ]
            }
            Phase::Forward => vec![
                time(pytorch),
                time(self.compiled),
                time(here),
                ratio(pytorch, here),
                ratio(self.compiled, here),
                time(copy),
                ratio(here, copy),
            ],
        };
        line([names(entry), figures].concat())
    }
}
