//! Rows of one part, one unit after the other: from memory into the arithmetic and back.

use std::ops::Range;

use super::ahead::Ahead;
use super::blocks::LANES;
use super::constants::Constants;
use super::float::Float;
use super::halves::HalfRows;
use super::row_value::TeacherShares;
use super::rows::{Losses, RowOutputs, Rows};
use super::shares::Shares;
use super::slots::Slots;
use super::sparse::{EntriesOfRow, SparseRows};
use super::storage::Part;
use super::tail::TailRows;
use super::targets::RowTargets;
use super::unit::Unit;
use crate::operation::{Geometry, InputValues, Outputs};

/// One part of a call's tensors.
pub(super) struct PartTask<'a, A> {
    pub(super) rows: Range<usize>,
    /// The logits, unless they lie in `output`.
    pub(super) logits: Option<Part<'a>>,
    /// Place of the gradient of the logits.
    pub(super) output: Option<Part<'a>>,
    pub(super) distributions: Option<&'a Part<'a>>,
    /// Place of the gradient of the distributions.
    pub(super) targets_gradient: Option<Part<'a>>,
    pub(super) slots: Slots<'a, A>,
}

/// Sums over the rows of a part.
#[derive(Clone, Copy, Default)]
pub(super) struct Sum {
    pub(super) main: f64,
    pub(super) penalty: f64,
}

/// Memory for the numbers of one unit, reused by the next.
pub(super) struct Scratch<A> {
    x: Vec<A>,
    spare: Vec<A>,
    distribution: Vec<A>,
    targets_gradient: Vec<A>,
    /// Gradient of the shares of sparse distributions.
    entries: Vec<A>,
    entries_of_row: EntriesOfRow<A>,
    tails: TailRows<A>,
    evens: Vec<A>,
}

impl<A: Float> Scratch<A> {
    pub(super) fn new() -> Self {
        Self {
            x: Vec::new(),
            spare: Vec::new(),
            distribution: Vec::new(),
            targets_gradient: Vec::new(),
            entries: Vec::new(),
            entries_of_row: EntriesOfRow::new(),
            tails: TailRows::new(),
            evens: Vec::new(),
        }
    }
}

fn sized<A: Float>(numbers: &mut Vec<A>, length: usize) -> &mut [A] {
    numbers.resize(length, A::ZERO);
    numbers
}

/// Least number of contiguous classes that are computed one row at a time. With fewer, most lanes of a
/// row's block would be idle.
pub(super) const MANY_CLASSES: usize = 65;

impl<A: HalfRows> Constants<'_, A> {
    pub(super) fn solve(&self, task: PartTask<'_, A>, scratch: &mut Scratch<A>) -> Sum {
        if self.geometry.inner == 1 && self.geometry.classes >= MANY_CLASSES {
            self.each_row(task, scratch)
        } else {
            self.lanes(task, scratch)
        }
    }

    fn each_row(&self, mut task: PartTask<'_, A>, scratch: &mut Scratch<A>) -> Sum {
        let mut sum = Sum::default();
        for row in task.rows.clone() {
            let resolved = self.rule.resolve::<1>(row..row + 1);
            let counts = resolved.counts[0];
            let mut losses = Losses {
                main: [A::ZERO],
                penalty: [A::ZERO],
                lse: [A::ZERO],
                log_prob: [A::ZERO],
                max_log_prob: [A::ZERO],
            };
            // The logits of a row that does not count are read for the outputs alone.
            if counts || self.outputs != Outputs::None {
                losses = self.row(row, &resolved, &mut task, scratch);
            }
            if !counts {
                let value = self.rule.value_of_dropped(row);
                let gradients = [
                    (&mut task.output, &self.geometry),
                    (&mut task.targets_gradient, self.targets_geometry()),
                ];
                for (gradient, geometry) in gradients {
                    if let Some(gradient) = gradient {
                        gradient.fill_row(geometry, row, value);
                    }
                }
                losses.main = [A::of(value)];
                losses.penalty = [A::of(value)];
            }
            self.gather(&losses, row..row + 1, &mut task, &mut sum);
        }
        sum
    }

    /// Computes one row whose classes lie together.
    fn row(
        &self,
        row: usize,
        resolved: &RowTargets<1>,
        task: &mut PartTask<'_, A>,
        scratch: &mut Scratch<A>,
    ) -> Losses<A, 1> {
        let geometry = &self.geometry;
        let Scratch {
            x,
            spare,
            distribution,
            targets_gradient,
            entries,
            entries_of_row,
            tails,
            evens,
        } = scratch;
        let has_tails = self.has_tails();
        let are_apart = !has_tails
            && self.outputs == Outputs::None
            && task.targets_gradient.is_none()
            && self.values != InputValues::Probabilities;
        let entries_of_row = match &self.sparse {
            Some(sparse) if are_apart => {
                sparse.resolve(row, &self.shares, entries_of_row);
                Some(entries_of_row)
            }
            _ => None,
        };
        let distribution = match &entries_of_row {
            None if !has_tails => self.distribution_of_row(row, task.distributions, distribution),
            _ => None,
        };
        let mut unit = Unit {
            rows: self.rows(row..row + 1, resolved),
            shares: self.shares_of(distribution),
            entries: entries_of_row,
            tails: self.resolved_tails(row..row + 1, tails),
            evens: self.evens_in(evens, geometry.classes),
            targets_gradient: (task.targets_gradient.is_some() && !has_tails)
                .then(|| sized(targets_gradient, geometry.classes)),
            wants_gradient: task.output.is_some(),
            outputs: None,
            ahead: [&task.logits, &task.output].map(|part| match part {
                Some(part) => part.row_ahead(geometry, row + 1),
                None => Ahead::nothing(),
            }),
        };
        let logits = (task.logits.as_ref(), task.output.as_mut());
        let losses = self.losses_of_row(row, &mut unit, logits, x, spare);
        if let Some(outputs) = &unit.outputs {
            self.note(outputs, &losses, row..row + 1, resolved, task);
        }
        let scale = unit.rows.scale;
        match &mut task.targets_gradient {
            Some(part) if has_tails => {
                let place = sized(entries, self.targets_geometry().classes);
                self.collect_with_tails(row..row + 1, tails, &scale, place);
                part.store_row(self.targets_geometry(), row, place, self.instructions);
            }
            Some(part) => self.store_targets_gradient_of_row(row, targets_gradient, part, entries),
            None => {}
        }
        losses
    }

    /// Whether the rows have tails.
    fn has_tails(&self) -> bool {
        self.sparse.as_ref().is_some_and(SparseRows::has_tails)
    }

    /// Entries and tails of the rows of a unit, where they have tails.
    fn resolved_tails<'s>(
        &self,
        rows: Range<usize>,
        tails: &'s mut TailRows<A>,
    ) -> Option<&'s mut TailRows<A>> {
        let sparse = self.sparse.as_ref().filter(|sparse| sparse.has_tails())?;
        sparse.resolve_with_tails(rows, tails);
        Some(tails)
    }

    /// Writes the gradients of the shares of a unit whose rows have tails.
    fn collect_with_tails<const W: usize>(
        &self,
        rows: Range<usize>,
        tails: &TailRows<A>,
        scale: &[A; W],
        place: &mut [A],
    ) {
        if let Some(sparse) = &self.sparse {
            sparse.collect_with_tails(rows, tails, scale, place, self.rule.row_weights);
        }
    }

    /// Distribution of a row, where there is one; `numbers` holds it unless it can be read where it lies.
    fn distribution_of_row<'s>(
        &self,
        row: usize,
        distributions: Option<&'s Part<'s>>,
        numbers: &'s mut Vec<A>,
    ) -> Option<&'s [A]> {
        let geometry = &self.geometry;
        if let Some(sparse) = &self.sparse {
            let numbers = sized(numbers, geometry.classes);
            sparse.spread::<A, 1>(row..row + 1, numbers);
            return Some(numbers);
        }
        let part = distributions?;
        Some(match A::runs(part) {
            Some(native) if self.teacher.is_none() => native.row(geometry, row),
            _ => {
                let numbers = sized(numbers, geometry.classes);
                part.load_row(geometry, row, numbers, self.instructions);
                self.make_shares::<1>(numbers);
                numbers
            }
        })
    }

    fn store_targets_gradient_of_row(
        &self,
        row: usize,
        gradient: &[A],
        part: &mut Part<'_>,
        entries: &mut Vec<A>,
    ) {
        let Some(sparse) = &self.sparse else {
            return part.store_row(&self.geometry, row, gradient, self.instructions);
        };
        let entries = sized(entries, sparse.geometry.classes);
        let weights = self.rule.row_weights;
        sparse.collect::<A, 1>(row..row + 1, gradient, entries, weights);
        part.store_row(&sparse.geometry, row, entries, self.instructions);
    }

    /// Losses of a row by its logits, which stand in the first part, or in the second, where their gradient
    /// goes.
    fn losses_of_row(
        &self,
        row: usize,
        unit: &mut Unit<'_, A, 1>,
        logits: (Option<&Part<'_>>, Option<&mut Part<'_>>),
        x: &mut Vec<A>,
        spare: &mut Vec<A>,
    ) -> Losses<A, 1> {
        let (geometry, instructions) = (&self.geometry, self.instructions);
        match logits {
            (logits, Some(output)) => match A::runs_mut(output) {
                Some(native) => {
                    let x = native.row_mut(geometry, row);
                    if let Some(logits) = logits {
                        logits.load_row(geometry, row, x, instructions);
                    }
                    self.write(unit, x, spare)
                }
                None => {
                    let halves = (logits, Some(&mut *output));
                    if let Some(losses) = A::losses_of_halves(self, row, unit, halves, x) {
                        return losses;
                    }
                    let x = sized(x, geometry.classes);
                    let logits = logits.unwrap_or(output);
                    logits.load_row(geometry, row, x, instructions);
                    let losses = self.write(unit, x, spare);
                    output.store_row(geometry, row, x, instructions);
                    losses
                }
            },
            (Some(logits), None) => match A::runs(logits) {
                Some(native) => self.read(unit, native.row(geometry, row), spare),
                None => {
                    let halves = (Some(logits), None);
                    if let Some(losses) = A::losses_of_halves(self, row, unit, halves, x) {
                        return losses;
                    }
                    let x = sized(x, geometry.classes);
                    logits.load_row(geometry, row, x, instructions);
                    self.read(unit, x, spare)
                }
            },
            (None, None) => unreachable!("the logits are read or written over"),
        }
    }

    /// Computes rows in the lanes of blocks. Several units are read and written together, for longer runs of
    /// memory.
    fn lanes(&self, mut task: PartTask<'_, A>, scratch: &mut Scratch<A>) -> Sum {
        const TOGETHER: usize = 1 << 14;
        let units = (TOGETHER / (self.geometry.classes * LANES)).clamp(1, 8);
        let mut sum = Sum::default();
        for first in task.rows.clone().step_by(LANES * units) {
            let rows = first..task.rows.end.min(first + LANES * units);
            self.some_lanes(rows, &mut task, scratch, &mut sum);
        }
        sum
    }

    /// What to fetch of the rows from `row` on, if the part has them.
    fn lanes_ahead(&self, row: usize, task: &PartTask<'_, A>) -> [Ahead; 2] {
        [&task.logits, &task.output].map(|part| match part {
            Some(part) if row < task.rows.end => part.lanes_ahead(&self.geometry, row),
            _ => Ahead::nothing(),
        })
    }

    fn some_lanes(
        &self,
        rows: Range<usize>,
        task: &mut PartTask<'_, A>,
        scratch: &mut Scratch<A>,
        sum: &mut Sum,
    ) {
        let (geometry, instructions) = (&self.geometry, self.instructions);
        let unit_length = geometry.classes * LANES;
        let length = rows.len().div_ceil(LANES) * unit_length;
        let Scratch {
            x,
            spare,
            distribution,
            targets_gradient,
            entries,
            tails,
            evens,
            ..
        } = scratch;
        let has_tails = self.has_tails();
        let x = sized(x, length);
        match (&task.logits, &task.output) {
            (Some(part), _) | (None, Some(part)) => {
                part.load_lanes(geometry, rows.clone(), x, instructions);
            }
            (None, None) => unreachable!("the logits are read or written over"),
        }
        let one_entry = self.sparse.as_ref().filter(|sparse| {
            let is_alone = self.outputs == Outputs::None && task.targets_gradient.is_none();
            is_alone && sparse.have_one_entry()
        });
        let has_distributions =
            task.distributions.is_some() || self.sparse.is_some() && one_entry.is_none();
        let distribution = (has_distributions && !has_tails)
            .then(|| self.distributions_in_lanes(rows.clone(), task, sized(distribution, length)));
        // With tails the gradient of the shares, else that of the distributions.
        let of_targets_of_unit = match has_tails {
            true => self.targets_geometry().classes * LANES,
            false => unit_length,
        };
        let mut targets_gradient = task
            .targets_gradient
            .is_some()
            .then(|| sized(targets_gradient, length / unit_length * of_targets_of_unit));
        let units = length / unit_length;
        for (at, first) in rows.clone().step_by(LANES).enumerate() {
            let here = at * unit_length..(at + 1) * unit_length;
            let rows = first..rows.end.min(first + LANES);
            let x = &mut x[here.clone()];
            let resolved = self.rule.resolve::<LANES>(rows.clone());
            let mut of_rows = self.rows(rows.clone(), &resolved);
            if let Some(sparse) = one_entry {
                sparse.resolve_one(rows.clone(), &self.shares, &mut of_rows);
            }
            let mut unit = Unit {
                rows: of_rows,
                shares: self.shares_of(distribution.map(|numbers| &numbers[here.clone()])),
                entries: None,
                tails: self.resolved_tails(rows.clone(), tails),
                evens: self.evens_in(evens, unit_length),
                targets_gradient: (targets_gradient.as_mut())
                    .filter(|_| !has_tails)
                    .map(|numbers| &mut numbers[here.clone()]),
                wants_gradient: task.output.is_some(),
                outputs: None,
                ahead: self.lanes_ahead(first + LANES * units, task),
            };
            let mut losses = self.write(&mut unit, x, spare);
            if let Some(outputs) = &unit.outputs {
                self.note(outputs, &losses, rows.clone(), &resolved, task);
            }
            let scale = unit.rows.scale;
            let of_targets = targets_gradient.as_mut();
            let mut of_targets =
                of_targets.map(|all| &mut all[at * of_targets_of_unit..][..of_targets_of_unit]);
            if let (true, Some(place)) = (has_tails, &mut of_targets) {
                self.collect_with_tails(rows.clone(), tails, &scale, place);
            }
            let gradients = [Some(x), of_targets];
            self.settle(rows.clone(), &resolved, gradients, &mut losses);
            self.gather(&losses, rows, task, sum);
        }
        if let Some(output) = &mut task.output {
            output.store_lanes(geometry, rows.clone(), x, instructions);
        }
        if let (Some(part), Some(gradient)) = (&mut task.targets_gradient, targets_gradient) {
            self.store_targets_gradient_in_lanes(rows, gradient, part, entries);
        }
    }

    fn store_targets_gradient_in_lanes(
        &self,
        rows: Range<usize>,
        gradient: &[A],
        part: &mut Part<'_>,
        entries: &mut Vec<A>,
    ) {
        let sparse = match &self.sparse {
            Some(sparse) if !sparse.has_tails() => sparse,
            _ => {
                return part.store_lanes(
                    self.targets_geometry(),
                    rows,
                    gradient,
                    self.instructions,
                );
            }
        };
        let length = sparse.geometry.classes * LANES;
        let units = gradient.chunks_exact(self.geometry.classes * LANES);
        let entries = sized(entries, units.len() * length);
        for (at, (gradient, first)) in units.zip(rows.clone().step_by(LANES)).enumerate() {
            let rows = first..rows.end.min(first + LANES);
            let place = &mut entries[at * length..][..length];
            sparse.collect::<A, LANES>(rows, gradient, place, self.rule.row_weights);
        }
        part.store_lanes(&sparse.geometry, rows, entries, self.instructions);
    }

    /// Distributions of rows in the lanes of blocks, unit by unit.
    fn distributions_in_lanes<'s>(
        &self,
        rows: Range<usize>,
        task: &PartTask<'_, A>,
        numbers: &'s mut [A],
    ) -> &'s [A] {
        let unit_length = self.geometry.classes * LANES;
        if let Some(part) = task.distributions {
            part.load_lanes(&self.geometry, rows.clone(), numbers, self.instructions);
        }
        for (unit, first) in numbers
            .chunks_exact_mut(unit_length)
            .zip(rows.clone().step_by(LANES))
        {
            match &self.sparse {
                None => self.make_shares::<LANES>(unit),
                Some(sparse) => {
                    let rows = first..rows.end.min(first + LANES);
                    sparse.spread::<A, LANES>(rows, unit);
                }
            }
        }
        numbers
    }

    /// Geometry of the gradient of the targets.
    fn targets_geometry(&self) -> &Geometry {
        self.sparse
            .as_ref()
            .map_or(&self.geometry, |sparse| &sparse.geometry)
    }

    /// Replaces the logits of a teacher by shares, where the distributions are such.
    fn make_shares<const W: usize>(&self, x: &mut [A]) {
        if let Some(scale) = self.teacher {
            self.instructions.run(TeacherShares::<A, W> { scale, x });
        }
    }

    /// Shares of rows with this distribution; `None` where only the target's class has a share.
    fn shares_of<'s>(&'s self, distribution: Option<&'s [A]>) -> Option<Shares<'s, A>> {
        (distribution.is_some() || self.shares.even != A::ZERO).then_some(Shares {
            distribution,
            ..self.shares
        })
    }

    /// Place of a unit's even shares, where masked classes have none.
    fn evens_in<'s>(&self, evens: &'s mut Vec<A>, length: usize) -> Option<&'s mut [A]> {
        self.over_valid.map(|_| sized(evens, length))
    }

    /// Adds the losses of rows to the sum, or writes them into their slots.
    fn gather<const W: usize>(
        &self,
        losses: &Losses<A, W>,
        rows: Range<usize>,
        task: &mut PartTask<'_, A>,
        sum: &mut Sum,
    ) {
        let has_penalty = self.z_loss != A::ZERO;
        let mut weighed;
        let losses = match self.rule.row_weights {
            None => losses,
            Some(weights) => {
                weighed = *losses;
                for (lane, &weight) in weights[rows.clone()].iter().enumerate() {
                    weighed.main[lane] = weighed.main[lane] * weight;
                    weighed.penalty[lane] = weighed.penalty[lane] * weight;
                }
                &weighed
            }
        };
        let (main, penalty) = (&losses.main[..rows.len()], &losses.penalty[..rows.len()]);
        if task.slots.losses.is_empty() {
            sum.main += sum_of(main);
            if has_penalty {
                sum.penalty += sum_of(penalty);
            }
            return;
        }
        let from = rows.start - task.rows.start;
        let slots = &mut task.slots.losses[from..from + rows.len()];
        for ((place, &main), &penalty) in slots.iter_mut().zip(main).zip(penalty) {
            *place = if has_penalty { main + penalty } else { main };
        }
    }

    /// Writes the outputs of rows into their slots.
    fn note<const W: usize>(
        &self,
        outputs: &RowOutputs<A, W>,
        losses: &Losses<A, W>,
        rows: Range<usize>,
        resolved: &RowTargets<W>,
        task: &mut PartTask<'_, A>,
    ) {
        let slots = &mut task.slots;
        let of_distribution = losses.main.map(|loss| -loss);
        let log_prob = match (&outputs.log_prob, &self.rule.indices) {
            (Some(log_prob), _) => log_prob,
            (None, Some(_)) => &losses.log_prob,
            // The loss has the shares of the distribution alone.
            (None, None) => &of_distribution,
        };
        let max_log_prob = (outputs.max_log_prob.as_ref()).unwrap_or(&losses.max_log_prob);
        let from = rows.start - task.rows.start;
        for (lane, row) in rows.enumerate() {
            let counts = resolved.counts[lane];
            let at = from + lane;
            slots.lse[at] = losses.lse[lane];
            slots.log_prob[at] = if counts {
                log_prob[lane]
            } else {
                A::of(self.rule.value_of_dropped(row))
            };
            slots.max_log_prob[at] = max_log_prob[lane];
            if let Some(entropy) = &outputs.entropy {
                slots.entropy[at] = entropy[lane];
            }
            slots.predicted[at] = outputs.predicted[lane] as i32;
            slots.rank[at] = match counts {
                false => -1,
                // A row without a log-probability has no distribution: its target is last.
                true if is_nan(log_prob[lane]) => self.geometry.classes as i32 - 1,
                true => outputs.rank[lane] as i32,
            };
            slots.target[at] = match counts {
                false => -1,
                true => outputs.target[lane] as i32,
            };
        }
    }

    fn rows<const W: usize>(&self, range: Range<usize>, resolved: &RowTargets<W>) -> Rows<A, W> {
        let mut rows = Rows {
            class: resolved.class,
            share: [A::ZERO; W],
            scale: [self.scales.main; W],
            penalty_scale: [self.scales.penalty; W],
        };
        let factors = [self.scales.per_row, self.rule.row_weights];
        for factors in factors.into_iter().flatten() {
            for (lane, &factor) in factors[range.clone()].iter().enumerate() {
                rows.scale[lane] = rows.scale[lane] * factor;
                rows.penalty_scale[lane] = rows.penalty_scale[lane] * factor;
            }
        }
        if self.rule.indices.is_some() {
            for lane in 0..W {
                let weight = match self.shares.weights {
                    Some(weights) => weights[resolved.class[lane]],
                    None => A::ONE,
                };
                let share = self.shares.remaining * weight;
                rows.share[lane] = if resolved.counts[lane] {
                    share
                } else {
                    A::ZERO
                };
            }
        }
        rows
    }

    /// Replaces the losses and gradients of ignored rows by 0, of bad rows by NaN. Assigns: a product would
    /// keep the NaN of an ignored row.
    fn settle(
        &self,
        rows: Range<usize>,
        resolved: &RowTargets<LANES>,
        mut gradients: [Option<&mut [A]>; 2],
        losses: &mut Losses<A, LANES>,
    ) {
        if resolved.counts[..rows.len()].iter().all(|&counts| counts) {
            return;
        }
        for (lane, row) in rows.enumerate() {
            if resolved.counts[lane] {
                continue;
            }
            let value = A::of(self.rule.value_of_dropped(row));
            losses.main[lane] = value;
            losses.penalty[lane] = value;
            for gradient in gradients.iter_mut().flatten() {
                for class in gradient.chunks_exact_mut(LANES) {
                    class[lane] = value;
                }
            }
        }
    }
}

/// Comparison that holds for NaN alone.
fn is_nan<A: Float>(number: A) -> bool {
    number.partial_cmp(&number).is_none()
}

/// Sum in f64, with eight partial sums: a single sum would wait for each addition.
fn sum_of<A: Float>(numbers: &[A]) -> f64 {
    let mut sums = [0.0; 8];
    for numbers in numbers.chunks(8) {
        for (sum, number) in sums.iter_mut().zip(numbers) {
            *sum += number.to_f64();
        }
    }
    sums.iter().sum()
}
