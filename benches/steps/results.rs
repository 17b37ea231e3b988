//! The table: its columns, and the row of a model.

use crate::models::Task;
use crate::report::{Figures, Row};
use crate::rounds::Spread;
use crate::side::Side;
use crate::table::{line, mebibytes, three_digits, time, titled};

const TIMES: [&str; 7] = [
    "model",
    "logits",
    "burn::nn",
    "here",
    "here, with its output",
    "burn::nn / here",
    "burn::nn / here, with its output",
];
const MEMORY: [&str; 3] = [
    "memory burn::nn",
    "memory here",
    "memory here, with its output",
];

pub fn head(has_memory: bool) -> String {
    let title = "A training step";
    match has_memory {
        true => titled(
            &format!("{title}, and peak memory of the process in MiB"),
            &[&TIMES[..], &MEMORY].concat(),
        ),
        false => titled(title, &TIMES),
    }
}

/// What was measured of a model, side by side.
pub struct Measured {
    pub seconds: Vec<Spread>,
    /// Bytes, where memory is measured and the system reports it.
    pub memory: Option<[Option<u64>; 3]>,
}

impl Measured {
    pub fn row(&self, task: Task, quartiles: bool) -> Row {
        let shape: Vec<String> = task.logits().iter().map(usize::to_string).collect();
        let mut cells = vec![task.to_string(), shape.join(" x ")];
        let times = self.seconds.iter();
        cells.extend(times.map(|spread| time(spread, quartiles)));
        let burn_nn = self.seconds[0].median;
        let here = self.seconds[1..].iter();
        cells.extend(here.map(|here| three_digits(burn_nn / here.median)));
        cells.extend(self.memory.iter().flatten().copied().map(mebibytes));
        Row {
            line: line(cells),
            figures: self.figures(task),
        }
    }

    fn figures(&self, task: Task) -> Figures {
        let titles = Side::ALL.map(Side::title);
        let seconds = titles.into_iter().zip(self.seconds.iter().copied());
        let memory = titles.into_iter().zip(self.memory.into_iter().flatten());
        let known = memory.filter_map(|(title, bytes)| Some((title, bytes?)));
        Figures::new(&task, seconds).with_memory(known)
    }
}
