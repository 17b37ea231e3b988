//! Whole call: its rows in parts, and the reduction of the losses.

use super::constants::{Constants, Scales};
use super::factor::Factor;
use super::halves::HalfRows;
use super::instructions::Instructions;
use super::logits::Scale;
use super::part::{PartTask, Scratch, Sum};
use super::rows::OutputLines;
use super::shares::{OverValid, Shares};
use super::slots::Slots;
use super::sparse::SparseRows;
use super::storage::{Cut, Floats, FloatsMut, Part};
use super::targets::{RowRule, TargetRule, Targets};
use super::threads::{for_each, is_worth_spreading};
use crate::operation::{Geometry, Options, Outputs, TargetValues};

/// Call of the operation over slices.
pub(crate) struct Call<'a, A> {
    pub(crate) geometry: Geometry,
    pub(crate) options: &'a Options,
    pub(crate) outputs: Outputs,
    pub(crate) targets: Targets<'a>,
    /// One weight per class.
    pub(crate) weights: Option<&'a [A]>,
    /// One weight per row.
    pub(crate) row_weights: Option<&'a [A]>,
    /// The gradient of the loss, in its shape; absent where it is 1.
    pub(crate) upstream: Option<&'a [A]>,
    pub(crate) reduction: Reduction,
    pub(crate) instructions: Instructions,
}

/// Places of the logits and of the gradients.
pub(crate) struct Buffers<'a> {
    /// The logits, unless they lie in `gradient` and may be overwritten.
    pub(crate) logits: Option<Floats<'a>>,
    /// Absent where the gradient of the logits is not wanted.
    pub(crate) gradient: Option<FloatsMut<'a>>,
    /// Absent where the gradient of the distributions is not wanted.
    pub(crate) targets_gradient: Option<FloatsMut<'a>>,
}

/// Way from the losses of the rows to the result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reduction {
    /// One loss per row.
    PerRow,
    /// The sum, divided by the weight of the counted rows.
    Mean,
    /// The sums, divided by the divisors of the losses and of the z-losses.
    Over([f64; 2]),
}

/// Result of a call.
pub(crate) struct Solution<A> {
    /// One loss, or one per row.
    pub(crate) losses: Vec<A>,
    pub(crate) outputs: OutputLines<A>,
}

impl<A: HalfRows> Call<'_, A> {
    /// Computes the loss, the outputs, and the gradients that have buffers.
    pub(crate) fn solve(&self, buffers: Buffers<'_>) -> Solution<A> {
        let rows = self.geometry.rows();
        if rows == 0 {
            return Solution {
                losses: self.loss_of_no_rows(),
                outputs: OutputLines::default(),
            };
        }
        let divisors = self.divisors();
        let constants = self.constants(divisors);
        let per_row = self.reduction == Reduction::PerRow;
        let mut losses = vec![A::ZERO; if per_row { rows } else { 0 }];
        let distributions = match self.targets {
            Targets::Indices(_) | Targets::Sparse(_) => None,
            Targets::Distributions(distributions) => Some(distributions.whole()),
        };
        let of_row = self.outputs.numbers();
        let mut outputs = OutputLines {
            numbers: vec![A::ZERO; of_row * rows],
            classes: vec![0; self.outputs.classes() * rows],
            divisors: match of_row {
                0 => [0.0; 2],
                _ => self.divisors_of_mean(),
            },
        };
        let slots = Slots::new(&mut losses, &mut outputs, rows);
        let parts = self.cut(buffers, distributions.as_ref(), slots);
        let spread = is_worth_spreading(&self.geometry);
        let sums = for_each(parts, spread, Scratch::new, |task, scratch| {
            constants.solve(task, scratch)
        });
        if !per_row {
            let mut sum = Sum::default();
            for part in sums {
                sum.main += part.main;
                sum.penalty += part.penalty;
            }
            losses.push(A::of(self.reduced(sum, divisors)));
        }
        Solution { losses, outputs }
    }

    fn cut<'w>(
        &self,
        buffers: Buffers<'w>,
        distributions: Option<&'w Part<'w>>,
        mut slots: Slots<'w, A>,
    ) -> Vec<PartTask<'w, A>> {
        let cut = Cut::new(&self.geometry);
        let parts = |buffer: Option<FloatsMut<'w>>, geometry: &Geometry| {
            buffer
                .map(|buffer| buffer.parts(geometry, cut).into_iter())
                .into_iter()
                .flatten()
        };
        let mut gradients = parts(buffers.gradient, &self.geometry);
        let of_targets =
            (self.targets.sparse()).map_or(self.geometry, |sparse| sparse.geometry(&self.geometry));
        let mut targets_gradients = parts(buffers.targets_gradient, &of_targets);
        cut.rows(&self.geometry)
            .into_iter()
            .map(|rows| PartTask {
                slots: slots.take(rows.len()),
                rows,
                logits: buffers.logits.map(Floats::whole),
                output: gradients.next(),
                distributions,
                targets_gradient: targets_gradients.next(),
            })
            .collect()
    }

    fn rule(&self) -> RowRule<'_, A> {
        RowRule {
            indices: self.targets.indices(),
            rule: TargetRule::new(self.geometry.classes, self.options),
            row_weights: self.row_weights,
        }
    }

    /// Divisors of a mean: of the losses and of the z-losses.
    pub(super) fn divisors_of_mean(&self) -> [f64; 2] {
        let rows = self.geometry.rows();
        self.rule().divisors_of_mean(rows, self.weights)
    }

    /// Divisors of the losses and of the z-losses; 1 without a reduction.
    pub(super) fn divisors(&self) -> [f64; 2] {
        match self.reduction {
            Reduction::PerRow => [1.0, 1.0],
            Reduction::Mean => self.divisors_of_mean(),
            Reduction::Over(divisors) => divisors,
        }
    }

    fn constants(&self, divisors: [f64; 2]) -> Constants<'_, A> {
        let options = self.options;
        let per_row = self.reduction == Reduction::PerRow;
        let upstream = match self.upstream {
            Some([upstream]) if !per_row => upstream.to_f64(),
            _ => 1.0,
        };
        let share = |divisor: f64| match divisor {
            0.0 => 0.0,
            divisor => upstream / divisor,
        };
        Constants {
            geometry: self.geometry,
            rule: self.rule(),
            shares: Shares {
                remaining: A::of(1.0 - options.label_smoothing),
                even: A::of(options.label_smoothing / self.geometry.classes as f64),
                evens: None,
                distribution: None,
                weights: self.weights,
                classes: self.geometry.classes,
            },
            over_valid: options.masked().map(|masked| OverValid {
                masked: A::of(masked),
                smoothing: A::of(options.label_smoothing),
            }),
            values: options.values,
            value: options.value,
            sparse: self.targets.sparse().map(|sparse| SparseRows {
                geometry: sparse.geometry(&self.geometry),
                sparse,
                rule: TargetRule::new(self.geometry.classes, options),
            }),
            teacher: match options.targets {
                TargetValues::Shares => None,
                TargetValues::Logits { scale } => Some(Scale::new(scale)),
            },
            z_loss: A::of(options.z_loss),
            factor: Factor::new(options.row_factor),
            outputs: self.outputs,
            ties: options.ties,
            scales: Scales {
                main: A::of(share(divisors[0])),
                penalty: A::of(share(divisors[1])),
                per_row: self.upstream.filter(|_| per_row),
            },
            instructions: self.instructions,
        }
    }

    pub(super) fn reduced(&self, sum: Sum, divisors: [f64; 2]) -> f64 {
        let mean = |sum: f64, divisor: f64| {
            // The NaN of a bad target takes precedence over `empty`.
            if divisor != 0.0 || sum.is_nan() {
                sum / divisor
            } else {
                self.options.empty.value()
            }
        };
        let main = mean(sum.main, divisors[0]);
        if self.options.z_loss == 0.0 {
            main
        } else {
            main + mean(sum.penalty, divisors[1])
        }
    }

    pub(super) fn loss_of_no_rows(&self) -> Vec<A> {
        match self.reduction {
            Reduction::PerRow => Vec::new(),
            Reduction::Over([divisor, _]) if divisor != 0.0 => vec![A::ZERO],
            Reduction::Mean | Reduction::Over(_) => vec![A::of(self.options.empty.value())],
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{bf16, f16};

    use super::*;
    use crate::kernel::cpu::Indices;
    use crate::kernel::cpu::number::Number;

    fn options() -> Options {
        Options {
            ignore_indices: [-1].as_slice().into(),
            label_smoothing: 0.1,
            ..Options::default()
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

    /// Losses and gradients of logits `i / 90 - 5`, rounded to a dtype, against the definition; the gradient may
    /// be off by a share of its size.
    #[track_caller]
    fn assert_right<S: Number>(
        instructions: Instructions,
        geometry: Geometry,
        floats_mut: fn(&mut [S]) -> FloatsMut<'_>,
        allowed: f64,
    ) {
        let Geometry { classes, inner, .. } = geometry;
        let rows = geometry.rows();
        let stored: Vec<S> = (0..rows * classes)
            .map(|at| S::narrow((at * 7919 % 1013) as f32 / 90.0 - 5.0))
            .collect();
        let logits: Vec<f32> = stored.iter().map(|stored| stored.widen()).collect();
        let targets: Vec<i64> = (0..rows)
            .map(|row| (row * 31 % (classes + 1)) as i64 - 1)
            .collect();
        let mut gradient = stored;
        let Solution { losses, .. } = Call::<f32> {
            geometry,
            options: &options(),
            outputs: Outputs::None,
            targets: Targets::Indices(Indices::I64(&targets)),
            weights: None,
            row_weights: None,
            upstream: None,
            reduction: Reduction::PerRow,
            instructions,
        }
        .solve(Buffers {
            logits: None,
            gradient: Some(floats_mut(&mut gradient)),
            targets_gradient: None,
        });
        for (index, &target) in targets.iter().enumerate() {
            let (o, i) = (index / inner, index % inner);
            let at = |class| (o * classes + class) * inner + i;
            let expected = row(&logits, target, at, classes);
            let slopes = (0..classes).map(|class| gradient[at(class)].widen());
            let found = std::iter::once(losses[index]).chain(slopes);
            let allowed = std::iter::once(1e-6).chain(std::iter::repeat(allowed));
            for ((found, expected), allowed) in found.zip(expected).zip(allowed) {
                let off = (f64::from(found) - expected).abs();
                assert!(
                    off <= allowed * expected.abs().max(0.1),
                    "{instructions:?} {geometry:?} row {index}: {found} for {expected}"
                );
            }
        }
    }

    #[test]
    fn every_set_of_instructions_agrees_with_the_definition_in_every_layout() {
        for (outer, classes, inner) in [
            (5, 131, 1),
            (7, 128, 1),
            (67, 7, 1),
            (3, 9, 130),
            (2, 70, 3),
        ] {
            let geometry = Geometry {
                outer,
                classes,
                inner,
            };
            for instructions in Instructions::available() {
                assert_right::<f32>(instructions, geometry, |all| FloatsMut::F32(all), 1e-6);
                assert_right::<f16>(instructions, geometry, |all| FloatsMut::F16(all), 5e-4);
                assert_right::<bf16>(instructions, geometry, |all| FloatsMut::BF16(all), 4e-3);
            }
        }
    }
}
