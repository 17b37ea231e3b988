//! The rows of one part, one unit after the other: from memory into the arithmetic and back.

use std::ops::Range;

use super::blocks::LANES;
use super::float::Float;
use super::instructions::Instructions;
use super::rows::{Losses, Rows};
use super::shares::Shares;
use super::storage::{Own, Part};
use super::targets::{Indices, Target, Valid};
use super::unit::Unit;
use crate::operation::{Geometry, InputValues};

/// What is the same for all rows of a call.
pub(super) struct Plan<'a, A> {
    pub(super) geometry: Geometry,
    pub(super) indices: Option<Indices<'a>>,
    pub(super) valid: Valid<'a>,
    /// The shares that are spread over the classes, without the distribution.
    pub(super) shares: Shares<'a, A>,
    pub(super) values: InputValues,
    pub(super) z_loss: A,
    pub(super) scales: Scales<'a, A>,
    pub(super) instructions: Instructions,
}

/// What the gradients of rows are multiplied by.
#[derive(Clone, Copy)]
pub(super) struct Scales<'a, A> {
    pub(super) main: A,
    pub(super) penalty: A,
    /// A further factor of each row, of both.
    pub(super) per_row: Option<&'a [A]>,
}

/// One part of a call's tensors.
pub(super) struct Work<'a, A> {
    pub(super) rows: Range<usize>,
    /// The logits, where they are not `output`.
    pub(super) logits: Option<Part<'a>>,
    /// Where the gradient of the logits goes.
    pub(super) output: Option<Part<'a>>,
    pub(super) distributions: Option<&'a Part<'a>>,
    /// Where the gradient of the distributions goes.
    pub(super) targets_gradient: Option<Part<'a>>,
    /// Where the losses go; empty if only their sum is wanted.
    pub(super) losses: &'a mut [A],
}

/// What the rows of a part add up to.
#[derive(Clone, Copy, Default)]
pub(super) struct Sum {
    pub(super) main: f64,
    pub(super) penalty: f64,
}

/// Numbers of one unit, kept from one to the next.
pub(super) struct Scratch<A> {
    x: Vec<A>,
    spare: Vec<A>,
    distribution: Vec<A>,
    targets_gradient: Vec<A>,
}

impl<A: Float> Scratch<A> {
    pub(super) fn new() -> Self {
        Self {
            x: Vec::new(),
            spare: Vec::new(),
            distribution: Vec::new(),
            targets_gradient: Vec::new(),
        }
    }
}

fn sized<A: Float>(numbers: &mut Vec<A>, length: usize) -> &mut [A] {
    numbers.resize(length, A::ZERO);
    numbers
}

/// Classes that lie together are computed a row at a time from here on: below, most lanes of a row's
/// own block would be idle.
const MANY_CLASSES: usize = 65;

impl<A: Own> Plan<'_, A> {
    pub(super) fn solve(&self, work: Work<'_, A>, scratch: &mut Scratch<A>) -> Sum {
        if self.geometry.inner == 1 && self.geometry.classes >= MANY_CLASSES {
            self.each_row(work, scratch)
        } else {
            self.lanes(work, scratch)
        }
    }

    fn each_row(&self, mut work: Work<'_, A>, scratch: &mut Scratch<A>) -> Sum {
        let mut sum = Sum::default();
        for row in work.rows.clone() {
            let targets = self.targets::<1>(row..row + 1);
            let losses = match targets[0] {
                Target::Class(_) => self.row(row, &targets, &mut work, scratch),
                target @ (Target::Ignored | Target::Bad) => {
                    let value = value_of(target);
                    if let Some(output) = &mut work.output {
                        output.fill_row(&self.geometry, row, value);
                    }
                    Losses {
                        main: [A::of(value)],
                        penalty: [A::of(value)],
                    }
                }
            };
            let at = row - work.rows.start;
            self.gather(&losses, 0, &mut sum, work.losses.get_mut(at));
        }
        sum
    }

    /// One row whose classes lie together.
    fn row(
        &self,
        row: usize,
        targets: &[Target; 1],
        work: &mut Work<'_, A>,
        scratch: &mut Scratch<A>,
    ) -> Losses<A, 1> {
        let (geometry, instructions) = (&self.geometry, self.instructions);
        let Scratch {
            x,
            spare,
            distribution,
            targets_gradient,
        } = scratch;
        let distribution = work.distributions.map(|part| match A::runs(part) {
            Some(own) => own.row(geometry, row),
            None => {
                let numbers = sized(distribution, geometry.classes);
                part.load_row(geometry, row, numbers, instructions);
                numbers
            }
        });
        let mut unit = Unit {
            rows: self.rows::<1>(row..row + 1, targets),
            shares: self.shares_of(distribution),
            targets_gradient: work
                .targets_gradient
                .is_some()
                .then(|| sized(targets_gradient, geometry.classes)),
        };
        let losses = match (&work.logits, &mut work.output) {
            (logits, Some(output)) => match A::runs_mut(output) {
                Some(own) => {
                    let x = own.row_mut(geometry, row);
                    if let Some(logits) = logits {
                        logits.load_row(geometry, row, x, instructions);
                    }
                    self.write(&mut unit, x, spare)
                }
                None => {
                    let x = sized(x, geometry.classes);
                    let logits = logits.as_ref().unwrap_or(output);
                    logits.load_row(geometry, row, x, instructions);
                    let losses = self.write(&mut unit, x, spare);
                    output.store_row(geometry, row, x, instructions);
                    losses
                }
            },
            (Some(logits), None) => match A::runs(logits) {
                Some(own) => self.read(&mut unit, own.row(geometry, row), spare),
                None => {
                    let x = sized(x, geometry.classes);
                    logits.load_row(geometry, row, x, instructions);
                    self.read(&mut unit, x, spare)
                }
            },
            (None, None) => unreachable!("the logits are read or written over"),
        };
        if let Some(part) = &mut work.targets_gradient {
            part.store_row(geometry, row, targets_gradient, instructions);
        }
        losses
    }

    /// Rows in the lanes of blocks.
    fn lanes(&self, mut work: Work<'_, A>, scratch: &mut Scratch<A>) -> Sum {
        let mut sum = Sum::default();
        for first in work.rows.clone().step_by(LANES) {
            let rows = first..work.rows.end.min(first + LANES);
            let losses = self.some_lanes(rows.clone(), &mut work, scratch);
            for (lane, row) in rows.enumerate() {
                let at = row - work.rows.start;
                self.gather(&losses, lane, &mut sum, work.losses.get_mut(at));
            }
        }
        sum
    }

    fn some_lanes(
        &self,
        rows: Range<usize>,
        work: &mut Work<'_, A>,
        scratch: &mut Scratch<A>,
    ) -> Losses<A, LANES> {
        let (geometry, instructions) = (&self.geometry, self.instructions);
        let length = geometry.classes * LANES;
        let Scratch {
            x,
            spare,
            distribution,
            targets_gradient,
        } = scratch;
        let targets = self.targets::<LANES>(rows.clone());
        let x = sized(x, length);
        match (&work.logits, &work.output) {
            (Some(part), _) | (None, Some(part)) => {
                part.load_lanes(geometry, rows.clone(), x, instructions);
            }
            (None, None) => unreachable!("the logits are read or written over"),
        }
        let distribution = work.distributions.map(|part| {
            let numbers = sized(distribution, length);
            part.load_lanes(geometry, rows.clone(), numbers, instructions);
            &*numbers
        });
        let mut unit = Unit {
            rows: self.rows::<LANES>(rows.clone(), &targets),
            shares: self.shares_of(distribution),
            targets_gradient: work
                .targets_gradient
                .is_some()
                .then(|| sized(targets_gradient, length)),
        };
        let mut losses = match work.output {
            Some(_) => self.write(&mut unit, x, spare),
            None => self.read(&mut unit, x, spare),
        };
        settle(&targets[..rows.len()], x, &mut losses);
        if let Some(output) = &mut work.output {
            output.store_lanes(geometry, rows.clone(), x, instructions);
        }
        if let Some(part) = &mut work.targets_gradient {
            part.store_lanes(geometry, rows, targets_gradient, instructions);
        }
        losses
    }

    /// The shares of rows with this distribution; none where only the target's class has one.
    fn shares_of<'s>(&'s self, distribution: Option<&'s [A]>) -> Option<Shares<'s, A>> {
        (distribution.is_some() || self.shares.even != A::ZERO).then_some(Shares {
            distribution,
            ..self.shares
        })
    }

    fn gather<const W: usize>(
        &self,
        losses: &Losses<A, W>,
        lane: usize,
        sum: &mut Sum,
        place: Option<&mut A>,
    ) {
        let (main, penalty) = (losses.main[lane], losses.penalty[lane]);
        sum.main += main.to_f64();
        let has_penalty = self.z_loss != A::ZERO;
        if has_penalty {
            sum.penalty += penalty.to_f64();
        }
        if let Some(place) = place {
            *place = if has_penalty { main + penalty } else { main };
        }
    }

    fn targets<const W: usize>(&self, rows: Range<usize>) -> [Target; W] {
        match &self.indices {
            Some(indices) => indices.targets(rows, &self.valid),
            None => [Target::Class(0); W],
        }
    }

    fn rows<const W: usize>(&self, range: Range<usize>, targets: &[Target; W]) -> Rows<A, W> {
        let mut rows = Rows {
            class: [0; W],
            share: [A::ZERO; W],
            scale: [self.scales.main; W],
            penalty_scale: [self.scales.penalty; W],
        };
        if let Some(per_row) = self.scales.per_row {
            for (lane, &factor) in per_row[range].iter().enumerate() {
                rows.scale[lane] = self.scales.main * factor;
                rows.penalty_scale[lane] = self.scales.penalty * factor;
            }
        }
        if self.indices.is_none() {
            return rows;
        }
        for (lane, target) in targets.iter().enumerate() {
            if let &Target::Class(class) = target {
                let weight = self.shares.weights.map_or(A::ONE, |weights| weights[class]);
                rows.class[lane] = class;
                rows.share[lane] = self.shares.kept * weight;
            }
        }
        rows
    }
}

/// Puts 0 in the place of what ignored rows came to, and NaN for bad ones. By assignment, never by
/// multiplication, which would let the NaN of an ignored row through.
fn settle<A: Float>(targets: &[Target], gradient: &mut [A], losses: &mut Losses<A, LANES>) {
    for (lane, &target) in targets.iter().enumerate() {
        if matches!(target, Target::Class(_)) {
            continue;
        }
        let value = A::of(value_of(target));
        losses.main[lane] = value;
        losses.penalty[lane] = value;
        for class in gradient.chunks_exact_mut(LANES) {
            class[lane] = value;
        }
    }
}

fn value_of(target: Target) -> f64 {
    match target {
        Target::Bad => f64::NAN,
        Target::Ignored | Target::Class(_) => 0.0,
    }
}
