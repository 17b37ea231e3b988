//! Rounds in which contenders take short turns: while one runs, the others are idle.

use std::thread;
use std::time::Duration;

use serde::Serialize;

/// The pause between two turns, in which the threads of the last one fall asleep. PyTorch's threads spin for
/// longer, and its own side waits for them.
const HANDOVER: Duration = Duration::from_millis(5);
const MOST_REPETITIONS: usize = 10_000;
const FIRST_REPETITIONS: usize = 3;
/// A try that takes more than this share of the quickest time before it does not count as quicker.
const SETTLED: f64 = 0.9;

/// Something to time.
pub trait Contender {
    /// One untimed repetition, then the seconds of each of `repetitions`.
    fn turn(&mut self, repetitions: usize) -> Result<Vec<f64>, String>;
}

/// The amount of measuring for each entry.
#[derive(clap::Args, Clone, Copy)]
pub struct Plan {
    /// Rounds per row of a table; in each round every side has one turn.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = at_least_one)]
    pub rounds: usize,

    /// Milliseconds that a turn should take. It has as many repetitions as fit.
    #[arg(long, value_name = "MS", default_value_t = 200)]
    pub turn: u64,

    /// Fewest repetitions of a turn.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least_one)]
    pub repetitions: usize,
}

pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1 is needed".to_string()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

impl Plan {
    /// Warms up for about the time of a turn, and on until a try is not quicker than the one before: at first
    /// a device compiles kernels and tries variants of them. Returns how many repetitions fit into a turn.
    fn warm_up(&self, contender: &mut dyn Contender) -> Result<usize, String> {
        let turn_seconds = self.turn as f64 / 1e3;
        let mut repetitions = FIRST_REPETITIONS;
        let mut quickest = f64::INFINITY;
        loop {
            let seconds = turn(contender, repetitions)?;
            let is_long = seconds.iter().sum::<f64>() >= turn_seconds / 2.0;
            let median = Spread::of(seconds).median;
            let is_settled = median >= SETTLED * quickest;
            quickest = quickest.min(median);
            if is_long && is_settled || repetitions >= MOST_REPETITIONS {
                break;
            }
            if !is_long {
                repetitions *= 4;
            }
        }
        let fitting = (turn_seconds / quickest.max(1e-9)) as usize;
        Ok(fitting.clamp(self.repetitions, self.repetitions.max(MOST_REPETITIONS)))
    }

    /// The times of each contender, over all rounds.
    pub fn measure(&self, contenders: &mut [&mut dyn Contender]) -> Result<Vec<Spread>, String> {
        let mut repetitions = Vec::new();
        for contender in contenders.iter_mut() {
            repetitions.push(self.warm_up(*contender)?);
        }
        let mut seconds = vec![Vec::new(); contenders.len()];
        for _ in 0..self.rounds {
            for (index, contender) in contenders.iter_mut().enumerate() {
                seconds[index].extend(turn(*contender, repetitions[index])?);
            }
        }
        Ok(seconds.into_iter().map(Spread::of).collect())
    }
}

fn turn(contender: &mut dyn Contender, repetitions: usize) -> Result<Vec<f64>, String> {
    let seconds = contender.turn(repetitions)?;
    thread::sleep(HANDOVER);
    Ok(seconds)
}

/// The median of the times, between the quartiles.
#[derive(Clone, Copy, Serialize)]
pub struct Spread {
    pub lower: f64,
    pub median: f64,
    pub upper: f64,
}

impl Spread {
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self {
            lower: quantile(&values, 0.25),
            median: quantile(&values, 0.5),
            upper: quantile(&values, 0.75),
        }
    }
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[position as usize], sorted[position.ceil() as usize]);
    below + (above - below) * position.fract()
}
