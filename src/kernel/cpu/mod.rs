//! The cross-entropy on slices, for backends whose tensors are in the host's memory.
//!
//! | File | What it is about |
//! |---|---|
//! | `mod` | a whole call: parts, threads, reduction |
//! | `part` | one part of the rows, one unit of rows after the other |
//! | `unit` | what the rows of a unit go through |
//! | `softmax`, `probabilities` | the maths |
//! | `ranks` | the order of a row's classes |
//! | `multiply` | the upstream gradient |
//! | `linear`, `products` | the projection before the loss, chunk by chunk |
//! | `blocks`, `rows`, `shares`, `targets` | what the maths is about |
//! | `storage`, `number` | layouts and dtypes |
//! | `float`, `instructions` | elementary functions, and what they are compiled for |
//!
//! A unit is one row, if its classes lie together and are many, else [`LANES`](blocks::LANES) rows
//! side by side. Its logits come from memory once, and once the gradient goes back, over the logits
//! if they may be overwritten.

// Loops over lanes read and write several arrays at the same place; zipped iterators over all of them
// hide that, and do not become vector code as surely.
#![allow(clippy::needless_range_loop)]

mod blocks;
mod float;
mod instructions;
mod linear;
mod multiply;
mod number;
mod part;
mod probabilities;
mod products;
mod ranks;
mod rows;
mod shares;
mod softmax;
mod storage;
mod targets;
mod unit;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use self::instructions::Instructions;
pub(crate) use self::linear::{LinearBuffers, LinearCall, Projection, SameIds};
pub(crate) use self::multiply::multiply;
pub(crate) use self::products::Matrix;
pub(crate) use self::storage::{Floats, FloatsMut, Own};
pub(crate) use self::targets::{Indices, Targets, Valid};

use self::part::{Places, Plan, Scales, Scratch, Sum, Work};
use self::shares::Shares;
use self::storage::{Cut, Part};
use crate::operation::{EmptyReduction, Geometry, Options, RowReduction};

/// A call, in slices.
pub(crate) struct Call<'a, A> {
    pub(crate) geometry: Geometry,
    pub(crate) options: &'a Options,
    pub(crate) targets: Targets<'a>,
    /// One weight per class.
    pub(crate) weights: Option<&'a [A]>,
    /// The gradient of the loss, in its shape; absent where it is 1.
    pub(crate) upstream: Option<&'a [A]>,
    /// What [`RowReduction::Normalized`] divides by.
    pub(crate) normalizer: Option<[f64; 2]>,
    pub(crate) instructions: Instructions,
}

/// Where the logits are and where the gradients go.
pub(crate) struct Buffers<'a> {
    /// The logits, unless they stand in `gradient` and may be overwritten.
    pub(crate) logits: Option<Floats<'a>>,
    /// Absent where the gradient of the logits is not wanted.
    pub(crate) gradient: Option<FloatsMut<'a>>,
    /// Absent where the gradient of the distributions is not wanted.
    pub(crate) targets_gradient: Option<FloatsMut<'a>>,
}

/// What a call has come to.
pub(crate) struct Solution<A> {
    /// One loss, or one per row.
    pub(crate) losses: Vec<A>,
    pub(crate) details: Details<A>,
}

/// What [`Options::details`] asks for, empty where that is nothing.
#[derive(Default)]
pub(crate) struct Details<A> {
    /// `[numbers, rows]`, see [`operation::Details`](crate::operation::Details).
    pub(crate) numbers: Vec<A>,
    /// `[2, rows]`.
    pub(crate) classes: Vec<i32>,
    /// What a mean divides the losses and the z-losses by.
    pub(crate) totals: [f64; 2],
}

/// Elements from which on the parts are handed to threads: below it, waking them costs more than
/// they save. At 33 rows of 1000 classes two threads take 13 us and one 20; half of them take 12 in
/// either case.
const SPREAD_FROM: usize = 1 << 15;

impl<A: Own> Call<'_, A> {
    /// The loss, the details, and whatever gradients there are buffers for.
    pub(crate) fn solve(&self, buffers: Buffers<'_>) -> Solution<A> {
        let rows = self.geometry.rows();
        if rows == 0 {
            return Solution {
                losses: self.loss_of_no_rows(),
                details: Details::default(),
            };
        }
        let totals = self.totals();
        let plan = self.plan(totals);
        let per_row = self.options.reduction == RowReduction::None;
        let mut losses = vec![A::ZERO; if per_row { rows } else { 0 }];
        let distributions = match self.targets {
            Targets::Indices(_) => None,
            Targets::Distributions(distributions) => Some(distributions.whole()),
        };
        let of_row = self.options.details.numbers();
        let mut details = Details {
            numbers: vec![A::ZERO; of_row * rows],
            classes: vec![0; if of_row == 0 { 0 } else { 2 * rows }],
            totals: match of_row {
                0 => [0.0; 2],
                _ => self.totals_of_mean(),
            },
        };
        let places = Places::new(&mut losses, &mut details, rows);
        let parts = self.cut(buffers, distributions.as_ref(), places);
        let spread = rows * self.geometry.classes >= SPREAD_FROM;
        let sums = for_each(parts, spread, Scratch::new, |work, scratch| {
            plan.solve(work, scratch)
        });
        if !per_row {
            let mut sum = Sum::default();
            for part in sums {
                sum.main += part.main;
                sum.penalty += part.penalty;
            }
            losses.push(A::of(self.reduced(sum, totals)));
        }
        Solution { losses, details }
    }

    fn cut<'w>(
        &self,
        buffers: Buffers<'w>,
        distributions: Option<&'w Part<'w>>,
        mut places: Places<'w, A>,
    ) -> Vec<Work<'w, A>> {
        let cut = Cut::new(&self.geometry);
        let parts = |buffer: Option<FloatsMut<'w>>| {
            buffer
                .map(|buffer| buffer.parts(&self.geometry, cut).into_iter())
                .into_iter()
                .flatten()
        };
        let mut gradients = parts(buffers.gradient);
        let mut targets_gradients = parts(buffers.targets_gradient);
        cut.rows(&self.geometry)
            .into_iter()
            .map(|rows| Work {
                places: places.take(rows.len()),
                rows,
                logits: buffers.logits.map(Floats::whole),
                output: gradients.next(),
                distributions,
                targets_gradient: targets_gradients.next(),
            })
            .collect()
    }

    fn valid(&self) -> Valid<'_> {
        Valid {
            classes: self.geometry.classes,
            ignored: &self.options.ignore_indices,
        }
    }

    /// What a mean divides the losses and the z-losses by.
    fn totals_of_mean(&self) -> [f64; 2] {
        match &self.targets {
            Targets::Indices(indices) => {
                let (total, counted) = indices.totals(self.weights, &self.valid());
                [total, counted]
            }
            Targets::Distributions(_) => [self.geometry.rows() as f64; 2],
        }
    }

    /// What the losses and the z-losses are divided by.
    fn totals(&self) -> (f64, f64) {
        match self.options.reduction {
            RowReduction::Mean => {
                let [total, counted] = self.totals_of_mean();
                (total, counted)
            }
            RowReduction::BatchMean(samples) => (samples as f64, samples as f64),
            RowReduction::Normalized => self.given(),
            RowReduction::Sum | RowReduction::None => (1.0, 1.0),
        }
    }

    fn given(&self) -> (f64, f64) {
        let [total, counted] = self
            .normalizer
            .expect("a normalised loss comes with what it is divided by");
        (total, counted)
    }

    fn plan(&self, totals: (f64, f64)) -> Plan<'_, A> {
        let options = self.options;
        let per_row = options.reduction == RowReduction::None;
        let upstream = match self.upstream {
            Some([upstream]) if !per_row => upstream.to_f64(),
            _ => 1.0,
        };
        let share = |total: f64| if total == 0.0 { 0.0 } else { upstream / total };
        Plan {
            geometry: self.geometry,
            indices: match self.targets {
                Targets::Indices(indices) => Some(indices),
                Targets::Distributions(_) => None,
            },
            valid: self.valid(),
            shares: Shares {
                kept: A::of(1.0 - options.label_smoothing),
                even: A::of(options.label_smoothing / self.geometry.classes as f64),
                distribution: None,
                weights: self.weights,
                classes: self.geometry.classes,
            },
            values: options.values,
            z_loss: A::of(options.z_loss),
            details: options.details,
            scales: Scales {
                main: A::of(share(totals.0)),
                penalty: A::of(share(totals.1)),
                per_row: self.upstream.filter(|_| per_row),
            },
            instructions: self.instructions,
        }
    }

    fn reduced(&self, sum: Sum, totals: (f64, f64)) -> f64 {
        let mean = |sum: f64, total: f64| {
            // A bad target is no empty mean.
            if total != 0.0 || sum.is_nan() {
                sum / total
            } else {
                self.empty()
            }
        };
        let main = mean(sum.main, totals.0);
        if self.options.z_loss == 0.0 {
            main
        } else {
            main + mean(sum.penalty, totals.1)
        }
    }

    fn empty(&self) -> f64 {
        match self.options.empty {
            EmptyReduction::Nan => f64::NAN,
            EmptyReduction::Zero => 0.0,
        }
    }

    fn loss_of_no_rows(&self) -> Vec<A> {
        match self.options.reduction {
            RowReduction::None => Vec::new(),
            RowReduction::Sum => vec![A::ZERO],
            RowReduction::BatchMean(samples) if samples > 0 => vec![A::ZERO],
            RowReduction::Normalized if self.given().0 != 0.0 => vec![A::ZERO],
            RowReduction::Mean | RowReduction::BatchMean(_) | RowReduction::Normalized => {
                vec![A::of(self.empty())]
            }
        }
    }
}

/// Runs the parts, on several threads where `spread`, and returns what they give in their order.
///
/// Each thread takes the next part from a queue when it is done with one, and keeps its scratch
/// memory meanwhile: there is as much of it as there are threads. This thread is one of them, and
/// begins at once; the others join when they have woken up, and are waited for.
fn for_each<T: Send, S, R: Send>(
    parts: Vec<T>,
    spread: bool,
    scratch: impl Fn() -> S + Sync,
    solve: impl Fn(T, &mut S) -> R + Sync,
) -> Vec<R> {
    let threads = rayon::current_num_threads().min(parts.len());
    if !spread || threads < 2 {
        let mut scratch = scratch();
        return parts
            .into_iter()
            .map(|part| solve(part, &mut scratch))
            .collect();
    }
    let all = Mutex::new(Vec::with_capacity(parts.len()));
    let queue = Mutex::new(parts.into_iter().enumerate());
    let work = || {
        let mut scratch = scratch();
        let mut done = Vec::new();
        loop {
            let next = lock(&queue).next();
            let Some((at, part)) = next else { break };
            done.push((at, solve(part, &mut scratch)));
        }
        lock(&all).extend(done);
    };
    rayon::in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| work());
        }
        work();
    });
    let mut all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    all.sort_unstable_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}

/// A thread that panicked while it held the lock is reported by the pool.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{DetailsOf, GradientsOf, InputValues};

    fn options() -> Options {
        Options {
            class_dim: 1,
            ignore_indices: [-1].as_slice().into(),
            label_smoothing: 0.1,
            values: InputValues::Logits {
                scale: 1.0,
                softcap: None,
            },
            z_loss: 0.0,
            reduction: RowReduction::None,
            empty: EmptyReduction::Nan,
            gradients_of: GradientsOf::Logits,
            keep: false,
            details: DetailsOf::Nothing,
        }
    }

    /// Loss and gradient of the row at `at(class)`, by the definition in f64.
    fn row(logits: &[f32], target: i64, at: impl Fn(usize) -> usize, classes: usize) -> Vec<f64> {
        let x: Vec<f64> = (0..classes).map(|c| logits[at(c)].into()).collect();
        if target < 0 {
            return vec![0.0; classes + 1];
        }
        let lse = x.iter().map(|x| x.exp()).sum::<f64>().ln();
        let share = |class: usize| {
            let one_hot = if class as i64 == target { 0.9 } else { 0.0 };
            one_hot + 0.1 / classes as f64
        };
        let loss = (0..classes).map(|c| share(c) * (lse - x[c])).sum();
        let gradient = (0..classes).map(|c| (x[c] - lse).exp() - share(c));
        std::iter::once(loss).chain(gradient).collect()
    }

    #[test]
    fn every_set_of_instructions_agrees_with_the_definition_in_every_layout() {
        for (outer, classes, inner) in [(5, 131, 1), (67, 7, 1), (3, 9, 130), (2, 70, 3)] {
            let geometry = Geometry {
                outer,
                classes,
                inner,
            };
            let rows = geometry.rows();
            let logits: Vec<f32> = (0..rows * classes)
                .map(|at| (at * 7919 % 1013) as f32 / 90.0 - 5.0)
                .collect();
            let targets: Vec<i64> = (0..rows)
                .map(|row| (row * 31 % (classes + 1)) as i64 - 1)
                .collect();
            for instructions in Instructions::available() {
                let mut gradient = logits.clone();
                let Solution { losses, .. } = Call::<f32> {
                    geometry,
                    options: &options(),
                    targets: Targets::Indices(Indices::I64(&targets)),
                    weights: None,
                    upstream: None,
                    normalizer: None,
                    instructions,
                }
                .solve(Buffers {
                    logits: None,
                    gradient: Some(FloatsMut::F32(&mut gradient)),
                    targets_gradient: None,
                });
                for (index, &target) in targets.iter().enumerate() {
                    let (o, i) = (index / inner, index % inner);
                    let at = |class| (o * classes + class) * inner + i;
                    let expected = row(&logits, target, at, classes);
                    let found = std::iter::once(losses[index])
                        .chain((0..classes).map(|class| gradient[at(class)]));
                    for (found, expected) in found.zip(expected) {
                        let off = (f64::from(found) - expected).abs();
                        let allowed = 1e-6 * expected.abs().max(0.1);
                        assert!(
                            off <= allowed,
                            "{instructions:?} {geometry:?} row {index}: {found} for {expected}"
                        );
                    }
                }
            }
        }
    }
}
