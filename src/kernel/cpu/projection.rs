//! Loss over the logits of a projection, in chunks of rows: `logits = hidden weight + bias`, the loss and
//! the gradient of the logits by [`Call`], and from that the gradients of the projection.
//!
//! ```text
//! d hidden = G weight^T       G the gradient of the logits
//! d weight = hidden^T G       added up over the chunks in place
//! d bias   = sum over the rows of G
//! ```
//!
//! Ignored rows are left out of the products. All chunks share one buffer for their logits, in which the
//! gradient replaces the logits.
//!
//! `portable::chunks` does the same with a backend's own matrix product. On Flex that takes 1.3 to 1.5 times
//! as long, and 4.5 to 5.4 times where three rows in four are ignored (docs/performance.md), which is why
//! the CPU backends have this file.

use std::ops::Range;

use super::call::{Buffers, Call, Reduction, Solution};
use super::halves::HalfRows;
use super::instructions::Instructions;
use super::pair_sigmoid::PairRows;
use super::pairs::{AlikeColumns, ExcludedPairs, SameIds};
use super::part::Sum;
use super::products::{Matrix, Old, Product, multiply_matrices};
use super::rows::OutputLines;
use super::targets::{Indices, RowRule, Sparse, Target, TargetRule, Targets};
use crate::operation::{Geometry, Options, Outputs, RowValue};

/// Hidden states and weights whose product is the logits.
#[derive(Clone, Copy)]
pub(crate) struct Projection<'a, A> {
    /// `[rows, features]`, in row-major order.
    pub(crate) hidden: &'a [A],
    pub(crate) features: usize,
    /// `[features, columns]`.
    pub(crate) weight: Matrix<'a, A>,
    /// `[columns]`.
    pub(crate) bias: Option<&'a [A]>,
    /// Leading logits, `[rows, lead]`: the first classes of each row, before the columns.
    pub(crate) leading: &'a [A],
    pub(crate) lead: usize,
    pub(crate) excluded: &'a ExcludedPairs<A>,
}

/// Targets that are made for the rows of a chunk at a time.
#[derive(Clone, Copy)]
pub(crate) enum MadeTargets<'a, A> {
    /// The targets are given.
    Nothing,
    /// The logits of a teacher.
    Teacher(Projection<'a, A>),
    /// Equal shares of the columns with the id of the row.
    Alike(&'a SameIds),
}

/// Places of the logits of a chunk and of gradients, in row-major order.
pub(crate) struct ProjectionBuffers<'a, A> {
    pub(crate) logits: &'a mut [A],
    /// Place of the targets of a chunk, where they are made.
    pub(crate) targets: Option<&'a mut [A]>,
    pub(crate) gradients: ProjectionGradients<'a, A>,
}

/// Places of gradients; absent where they are not wanted.
pub(crate) struct ProjectionGradients<'a, A> {
    /// Place of the hidden states' gradient. Holds zeros at first: rows that are left out are not written.
    pub(crate) hidden: Option<&'a mut [A]>,
    pub(crate) weight: Option<&'a mut [A]>,
    pub(crate) bias: Option<&'a mut [A]>,
    pub(crate) leading: Option<&'a mut [A]>,
    pub(crate) targets: Option<&'a mut [A]>,
}

impl<A> ProjectionGradients<'_, A> {
    /// Whether the gradient of the logits is needed.
    fn of_logits(&self) -> bool {
        self.hidden.is_some()
            || self.weight.is_some()
            || self.bias.is_some()
            || self.leading.is_some()
    }
}

/// Call over hidden states and weights, in slices.
pub(crate) struct ProjectedCall<'a, A> {
    pub(crate) projection: Projection<'a, A>,
    /// Targets of a chunk, where they are made.
    pub(crate) made: MadeTargets<'a, A>,
    pub(crate) rows: usize,
    pub(crate) classes: usize,
    pub(crate) rows_per_chunk: usize,
    /// The options of the loss over logits `[rows, classes]`.
    pub(crate) options: &'a Options,
    pub(crate) outputs: Outputs,
    /// Targets of all rows; distributions in the dtype of the arithmetic where they get a gradient.
    pub(crate) targets: Targets<'a>,
    /// One weight per class.
    pub(crate) weights: Option<&'a [A]>,
    /// One weight per row.
    pub(crate) row_weights: Option<&'a [A]>,
    /// The gradient of each row's loss, where there is no reduction.
    pub(crate) upstream: Option<&'a [A]>,
    pub(crate) reduction: Reduction,
}

/// The rows of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Chunk<'r> {
    Together(Range<usize>),
    Scattered(&'r [usize]),
}

impl Chunk<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Together(rows) => rows.len(),
            Self::Scattered(rows) => rows.len(),
        }
    }

    fn row(&self, at: usize) -> usize {
        match self {
            Self::Together(rows) => rows.start + at,
            Self::Scattered(rows) => rows[at],
        }
    }
}

/// Targets of rows that do not lie together.
struct ScatteredTargets<A> {
    classes: Vec<i64>,
    shares: Vec<A>,
}

/// Memory that serves every chunk.
struct Scratch<'a, A> {
    logits: &'a mut [A],
    targets: Option<&'a mut [A]>,
    /// Hidden states of rows that do not lie together, or the gradient of these.
    hidden: Vec<A>,
    /// The same of a teacher.
    teacher_hidden: Vec<A>,
    bias: Vec<f64>,
}

impl<A: HalfRows> ProjectedCall<'_, A> {
    /// Computes the loss, the outputs, and the gradients that have buffers.
    pub(crate) fn solve(&self, buffers: ProjectionBuffers<'_, A>) -> Solution<A> {
        let mut gradients = buffers.gradients;
        let whole = self.call(self.rows, self.reduction);
        let divisors = match (self.options.value, self.reduction) {
            // Pairs count in every row.
            (RowValue::PairSigmoid, Reduction::Mean) => [self.rows as f64; 2],
            _ => whole.divisors(),
        };
        let reduces = self.reduction != Reduction::PerRow;
        // A chunk contributes to the mean over all rows, so it has the divisors of all rows.
        let reduction = match reduces {
            true => Reduction::Over(divisors),
            false => Reduction::PerRow,
        };
        let of_row = self.outputs.numbers();
        let mut solution = Solution {
            losses: vec![A::ZERO; if reduces { 0 } else { self.rows }],
            outputs: OutputLines {
                numbers: vec![A::ZERO; of_row * self.rows],
                classes: vec![0; self.outputs.classes() * self.rows],
                divisors: whole.divisors_of_mean(),
            },
        };
        let bias_length = gradients.bias.as_ref().map_or(0, |bias| bias.len());
        let mut scratch = Scratch {
            logits: buffers.logits,
            targets: buffers.targets,
            hidden: Vec::new(),
            teacher_hidden: Vec::new(),
            bias: vec![0.0; bias_length],
        };
        let counted = self.rows_to_compute(gradients.targets.is_some());
        let chunks = self.chunks(counted.as_deref());
        let mut sum = 0.0;
        for (at, chunk) in chunks.iter().enumerate() {
            let part = self.losses_of(chunk, reduction, &mut gradients, &mut scratch);
            if gradients.of_logits() {
                let old = if at == 0 { Old::Replaced } else { Old::AddedTo };
                self.add_gradients(chunk, old, &mut gradients, &mut scratch);
            }
            match part.losses[..] {
                [loss] if reduces => sum += loss.to_f64(),
                _ => scatter(&part.losses, chunk, &mut solution.losses),
            }
            self.scatter_outputs(&part.outputs, chunk, &mut solution.outputs);
        }
        if chunks.is_empty() {
            if let Some(weight) = &mut gradients.weight {
                weight.fill(A::ZERO);
            }
            if reduces {
                let nothing = self.call(0, reduction);
                sum = match self.rows {
                    0 => nothing.loss_of_no_rows()[0].to_f64(),
                    // All rows are ignored, and the divisors may not be finite.
                    _ => nothing.reduced(Sum::default(), divisors),
                };
            }
        }
        if reduces {
            solution.losses.push(A::of(sum));
        }
        if let Some(bias) = gradients.bias {
            for (gradient, sum) in bias.iter_mut().zip(&scratch.bias) {
                *gradient = A::of(*sum);
            }
        }
        solution
    }

    /// Writes the outputs of a chunk's rows to their places among all rows.
    fn scatter_outputs(&self, part: &OutputLines<A>, chunk: &Chunk<'_>, all: &mut OutputLines<A>) {
        let lines = |length: usize| if length == 0 { 1 } else { length };
        let numbers = part.numbers.chunks(lines(chunk.len()));
        for (part, all) in numbers.zip(all.numbers.chunks_mut(lines(self.rows))) {
            scatter(part, chunk, all);
        }
        let classes = part.classes.chunks(lines(chunk.len()));
        for (part, all) in classes.zip(all.classes.chunks_mut(lines(self.rows))) {
            scatter(part, chunk, all);
        }
    }

    /// Number of shares of a row of sparse distributions.
    fn shares(&self, sparse: &Sparse<'_>) -> usize {
        let logits = Geometry {
            outer: self.rows,
            classes: self.classes,
            inner: 1,
        };
        sparse.geometry(&logits).classes
    }

    fn rule(&self) -> RowRule<'_, A> {
        RowRule {
            // A row of pairs counts also where it belongs to no column.
            indices: match self.options.value {
                RowValue::PairSigmoid => None,
                _ => self.targets.indices(),
            },
            rule: TargetRule::new(self.classes, self.options),
            row_weights: self.row_weights,
        }
    }

    /// Rows to compute: without outputs the rows that are not ignored. `None` means all rows.
    fn rows_to_compute(&self, has_targets_gradient: bool) -> Option<Vec<usize>> {
        if self.outputs != Outputs::None || has_targets_gradient {
            return None;
        }
        let rule = self.rule();
        let count = (0..self.rows).filter(|row| rule.is_ignored(*row)).count();
        (count > 0).then(|| {
            let mut rows = Vec::with_capacity(self.rows - count);
            rows.extend((0..self.rows).filter(|row| !rule.is_ignored(*row)));
            rows
        })
    }

    /// Chunks of the given rows, or of all rows.
    fn chunks<'r>(&self, rows: Option<&'r [usize]>) -> Vec<Chunk<'r>> {
        let chunk = |rows: &'r [usize]| match rows {
            [first, .., last] if last - first + 1 == rows.len() => {
                Chunk::Together(*first..last + 1)
            }
            _ => Chunk::Scattered(rows),
        };
        match rows {
            Some(rows) => rows.chunks(self.rows_per_chunk).map(chunk).collect(),
            None => (0..self.rows)
                .step_by(self.rows_per_chunk)
                .map(|start| Chunk::Together(start..self.rows.min(start + self.rows_per_chunk)))
                .collect(),
        }
    }

    /// Hidden states of a chunk with 0 for the rows that do not count, if there are such rows. These rows
    /// would add 0 times their numbers to the weight's gradient, NaN if the numbers are not finite. Chunks
    /// of scattered rows have no such rows.
    fn without_dropped(&self, chunk: &Chunk<'_>) -> Option<Vec<A>> {
        let Chunk::Together(rows) = chunk else {
            return None;
        };
        let rule = self.rule();
        let counts = |row: usize| rule.counts(row);
        if rows.clone().all(counts) {
            return None;
        }
        let features = self.projection.features;
        let mut counted = self.projection.hidden[self.projection.elements(rows)].to_vec();
        for (at, row) in rows.clone().enumerate() {
            if !counts(row) {
                counted[at * features..(at + 1) * features].fill(A::ZERO);
            }
        }
        Some(counted)
    }

    /// Call over the first `rows` rows. For a chunk the caller replaces `targets`, `row_weights` and `upstream`.
    fn call(&self, rows: usize, reduction: Reduction) -> Call<'_, A> {
        Call {
            geometry: Geometry {
                outer: rows,
                classes: self.classes,
                inner: 1,
            },
            options: self.options,
            outputs: self.outputs,
            targets: self.targets,
            weights: self.weights,
            row_weights: self.row_weights,
            upstream: None,
            reduction,
            instructions: Instructions::best(),
        }
    }

    /// Computes the losses of a chunk. Leaves in the scratch memory the chunk's hidden states, if they do
    /// not lie together, and the gradient of the logits in place of the logits, where it is needed.
    fn losses_of(
        &self,
        chunk: &Chunk<'_>,
        reduction: Reduction,
        gradients: &mut ProjectionGradients<'_, A>,
        scratch: &mut Scratch<'_, A>,
    ) -> Solution<A> {
        let (rows, classes) = (chunk.len(), self.classes);
        let logits = &mut scratch.logits[..rows * classes];
        self.projection.make(logits, chunk, &mut scratch.hidden);
        let of_chunk = |all: &[A]| -> Vec<A> { (0..rows).map(|at| all[chunk.row(at)]).collect() };
        let upstream = self.upstream.map(of_chunk);
        if self.options.value == RowValue::PairSigmoid {
            let scales = gradients.of_logits().then_some(upstream);
            return self.losses_of_pairs(chunk, reduction, logits, scales);
        }
        let made = match (&self.made, &mut scratch.targets) {
            (MadeTargets::Teacher(teacher), Some(logits)) => {
                let logits = &mut logits[..rows * classes];
                teacher.make(logits, chunk, &mut scratch.teacher_hidden);
                Some(&*logits)
            }
            (MadeTargets::Alike(ids), Some(shares)) => {
                let shares = &mut shares[..rows * classes];
                let alike = self.alike(ids);
                for (at, row) in shares.chunks_exact_mut(classes).enumerate() {
                    let (lead, columns) = row.split_at_mut(self.projection.lead);
                    lead.fill(A::ZERO);
                    alike.share(chunk.row(at), columns);
                }
                Some(&*shares)
            }
            _ => None,
        };

        let scattered = self.scattered_targets(chunk);
        let row_weights = self.row_weights.map(of_chunk);
        let first = chunk.row(0);
        let width = match self.targets {
            Targets::Indices(_) => 1,
            Targets::Sparse(sparse) => self.shares(&sparse),
            Targets::Distributions(_) => classes,
        };
        let of_targets = first * width..(first + rows) * width;
        let call = Call {
            targets: match made {
                Some(made) => Targets::Distributions(A::floats(made)),
                None => self.targets_of(chunk, of_targets.clone(), &scattered),
            },
            row_weights: row_weights.as_deref(),
            upstream: upstream.as_deref(),
            ..self.call(rows, reduction)
        };
        let needs_gradient = gradients.of_logits();
        let targets_gradient = gradients.targets.as_deref_mut();
        let targets_gradient =
            targets_gradient.map(|targets| A::floats_mut(&mut targets[of_targets.clone()]));
        call.solve(match needs_gradient {
            true => Buffers {
                logits: None,
                gradient: Some(A::floats_mut(logits)),
                targets_gradient,
            },
            false => Buffers {
                logits: Some(A::floats(logits)),
                gradient: None,
                targets_gradient,
            },
        })
    }

    fn alike<'s>(&'s self, ids: &'s SameIds) -> AlikeColumns<'s, A> {
        AlikeColumns {
            ids,
            excluded: self.projection.excluded,
        }
    }

    /// Columns that belong to a row.
    fn together(&self, row: usize) -> Vec<usize> {
        if let MadeTargets::Alike(ids) = self.made {
            return self.alike(ids).of(row);
        }
        let rule = TargetRule::new(self.classes, self.options);
        let (classes, of_row) = match self.targets {
            Targets::Indices(indices) => (indices, row..row + 1),
            Targets::Sparse(sparse) => {
                let count = self.shares(&sparse);
                (sparse.classes, row * count..(row + 1) * count)
            }
            Targets::Distributions(shares) => {
                let columns = 0..self.classes;
                let belongs = |column: &usize| shares.number(row * self.classes + column) != 0.0;
                return columns.filter(belongs).collect();
            }
        };
        let mut together: Vec<usize> = of_row
            .filter_map(|at| match classes.target(at, &rule) {
                Target::Class(class) => Some(class),
                Target::Ignored | Target::Bad => None,
            })
            .collect();
        together.sort_unstable();
        together.dedup();
        together
    }

    /// Losses of a chunk whose pairs have losses apart. Leaves the gradient in place of the logits where there are
    /// `scales`: the upstream gradient of each row, absent where it is 1.
    fn losses_of_pairs(
        &self,
        chunk: &Chunk<'_>,
        reduction: Reduction,
        logits: &mut [A],
        scales: Option<Option<Vec<A>>>,
    ) -> Solution<A> {
        let divisor = match reduction {
            Reduction::Over([divisor, _]) => divisor,
            Reduction::PerRow | Reduction::Mean => 1.0,
        };
        let ones = || vec![A::ONE; chunk.len()];
        let scales = scales.map(|upstream| {
            let scales = upstream.unwrap_or_else(ones).into_iter();
            let scales = scales.map(|scale| A::of(scale.to_f64() / divisor));
            scales.collect::<Vec<A>>()
        });
        let rows = PairRows {
            logits,
            columns: self.classes,
            scales: scales.as_deref(),
        };
        let losses = rows.solve(|at| self.together(chunk.row(at)));
        Solution {
            losses: match reduction {
                Reduction::PerRow => losses.into_iter().map(A::of).collect(),
                _ => vec![A::of(losses.iter().sum::<f64>() / divisor)],
            },
            outputs: OutputLines::default(),
        }
    }

    /// Targets of a chunk whose rows do not lie together.
    fn scattered_targets(&self, chunk: &Chunk<'_>) -> ScatteredTargets<A> {
        let mut scattered = ScatteredTargets {
            classes: Vec::new(),
            shares: Vec::new(),
        };
        let Chunk::Scattered(rows) = chunk else {
            return scattered;
        };
        match self.targets {
            Targets::Indices(indices) => scattered.classes = indices.gather(rows),
            Targets::Distributions(_) if !matches!(self.made, MadeTargets::Nothing) => {}
            Targets::Distributions(shares) => {
                scattered.shares = shares.gather(rows, self.classes, Instructions::best());
            }
            Targets::Sparse(sparse) => {
                let shares = self.shares(&sparse);
                let count = shares - usize::from(sparse.has_tail());
                let of_row = |row: &usize| row * count..(row + 1) * count;
                let entries: Vec<usize> = rows.iter().flat_map(of_row).collect();
                scattered.classes = sparse.classes.gather(&entries);
                scattered.shares = sparse.shares.gather(rows, shares, Instructions::best());
            }
        }
        scattered
    }

    /// Targets of a chunk: a window of all, or the scattered ones.
    fn targets_of<'t>(
        &'t self,
        chunk: &Chunk<'_>,
        window: Range<usize>,
        scattered: &'t ScatteredTargets<A>,
    ) -> Targets<'t> {
        let (classes, shares) = (
            Indices::I64(&scattered.classes),
            A::floats(&scattered.shares),
        );
        match (self.targets, chunk) {
            (Targets::Indices(indices), Chunk::Together(_)) => {
                Targets::Indices(indices.window(window))
            }
            (Targets::Indices(_), Chunk::Scattered(_)) => Targets::Indices(classes),
            (Targets::Distributions(shares), Chunk::Together(_)) => {
                Targets::Distributions(shares.window(window))
            }
            (Targets::Distributions(_), Chunk::Scattered(_)) => Targets::Distributions(shares),
            (Targets::Sparse(sparse), Chunk::Together(rows)) => {
                let count = self.shares(&sparse) - usize::from(sparse.has_tail());
                Targets::Sparse(Sparse {
                    classes: (sparse.classes).window(rows.start * count..rows.end * count),
                    shares: sparse.shares.window(window),
                })
            }
            (Targets::Sparse(_), Chunk::Scattered(_)) => {
                Targets::Sparse(Sparse { classes, shares })
            }
        }
    }

    /// Adds the gradients of the projection, computed from the gradient of a chunk's logits.
    fn add_gradients(
        &self,
        chunk: &Chunk<'_>,
        old: Old,
        gradients: &mut ProjectionGradients<'_, A>,
        scratch: &mut Scratch<'_, A>,
    ) {
        let (rows, classes) = (chunk.len(), self.classes);
        let features = self.projection.features;
        let lead = self.projection.lead;
        let logits = &scratch.logits[..rows * classes];
        let gradient = Matrix::new(&logits[lead..], [rows, classes - lead], [classes, 1]);
        if let Some(weight) = &mut gradients.weight {
            let counted = self.without_dropped(chunk);
            let hidden = match &counted {
                Some(counted) => Matrix::row_major(counted, [rows, features]),
                None => self.projection.hidden_of(chunk, &scratch.hidden),
            };
            let product = Product::row_major(weight, [features, classes - lead]);
            multiply_matrices(product, hidden.transposed(), gradient, old);
        }
        for (at, row) in logits.chunks_exact(classes).enumerate() {
            if let Some(leading) = &mut gradients.leading {
                let row_at = chunk.row(at);
                leading[row_at * lead..(row_at + 1) * lead].copy_from_slice(&row[..lead]);
            }
            for (sum, slope) in scratch.bias.iter_mut().zip(&row[lead..]) {
                *sum += slope.to_f64();
            }
        }
        let Some(of_hidden) = &mut gradients.hidden else {
            return;
        };
        let weight = self.projection.weight.transposed();
        let rule = self.rule();
        match chunk {
            Chunk::Together(rows) => {
                let place = &mut of_hidden[self.projection.elements(rows)];
                let product = Product::row_major(place, [rows.len(), features]);
                multiply_matrices(product, gradient, weight, Old::Replaced);
                // 0 times a weight that is not finite is NaN.
                for (row, place) in rows.clone().zip(place.chunks_exact_mut(features.max(1))) {
                    if rule.is_ignored(row) {
                        place.fill(A::ZERO);
                    }
                }
            }
            Chunk::Scattered(rows) => {
                scratch.hidden.resize(rows.len() * features, A::ZERO);
                let product = Product::row_major(&mut scratch.hidden, [rows.len(), features]);
                multiply_matrices(product, gradient, weight, Old::Replaced);
                let parts = scratch.hidden.chunks_exact(features.max(1));
                for (row, part) in rows.iter().zip(parts) {
                    let place = self.projection.elements(&(*row..row + 1));
                    of_hidden[place].copy_from_slice(part);
                }
            }
        }
    }
}

impl<A: HalfRows> Projection<'_, A> {
    /// Range of the hidden states' elements of consecutive rows.
    fn elements(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start * self.features..rows.end * self.features
    }

    /// Hidden states of a chunk; `scattered` holds them where they do not lie together.
    fn hidden_of<'s>(&'s self, chunk: &Chunk<'_>, scattered: &'s [A]) -> Matrix<'s, A> {
        let hidden = match chunk {
            Chunk::Together(rows) => &self.hidden[self.elements(rows)],
            Chunk::Scattered(_) => scattered,
        };
        Matrix::row_major(hidden, [chunk.len(), self.features])
    }

    /// Computes the logits of a chunk. Leaves its hidden states in `scattered`, if they do not lie together.
    fn make(&self, logits: &mut [A], chunk: &Chunk<'_>, scattered: &mut Vec<A>) {
        if let Chunk::Scattered(rows) = chunk {
            scattered.clear();
            for row in *rows {
                scattered.extend_from_slice(&self.hidden[self.elements(&(*row..row + 1))]);
            }
        }
        let hidden = self.hidden_of(chunk, scattered);
        let lead = self.lead;
        let classes = logits.len() / chunk.len();
        let old = match self.bias {
            None => Old::Replaced,
            Some(bias) => {
                for row in logits.chunks_exact_mut(classes) {
                    row[lead..].copy_from_slice(bias);
                }
                Old::AddedTo
            }
        };
        let size = [chunk.len(), classes - lead];
        let product = Product::new(&mut logits[lead..], size, classes);
        multiply_matrices(product, hidden, self.weight, old);
        for (at, row) in logits.chunks_exact_mut(classes).enumerate() {
            let row_at = chunk.row(at);
            row[..lead].copy_from_slice(&self.leading[row_at * lead..(row_at + 1) * lead]);
            self.excluded.exclude(row_at, &mut row[lead..], self.bias);
        }
    }
}

/// Writes the numbers of a chunk's rows to their places among all rows.
fn scatter<T: Copy>(part: &[T], chunk: &Chunk<'_>, all: &mut [T]) {
    for (at, number) in part.iter().enumerate() {
        all[chunk.row(at)] = *number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunks of the rows to compute, where 9 is ignored and 5 is not a class.
    fn chunks_of(targets: &[i64], outputs: Outputs) -> Vec<Vec<usize>> {
        let options = Options {
            ignore_indices: [9].as_slice().into(),
            ..Options::default()
        };
        let call = ProjectedCall::<f32> {
            projection: Projection {
                hidden: &[],
                features: 2,
                weight: Matrix::row_major(&[0.0; 10], [2, 5]),
                bias: None,
                leading: &[],
                lead: 0,
                excluded: &ExcludedPairs::default(),
            },
            made: MadeTargets::Nothing,
            rows: targets.len(),
            classes: 5,
            rows_per_chunk: 2,
            options: &options,
            outputs,
            targets: Targets::Indices(Indices::I64(targets)),
            weights: None,
            row_weights: None,
            upstream: None,
            reduction: Reduction::Mean,
        };
        let computed = call.rows_to_compute(false);
        let chunks = call.chunks(computed.as_deref());
        let rows = |chunk: &Chunk<'_>| (0..chunk.len()).map(|at| chunk.row(at)).collect();
        chunks.iter().map(rows).collect()
    }

    #[test]
    fn ignored_rows_are_in_no_chunk() {
        let of = |targets: &[i64]| chunks_of(targets, Outputs::None);
        assert_eq!(of(&[0, 1, 2, 3, 4]), [vec![0, 1], vec![2, 3], vec![4]]);
        assert_eq!(of(&[0, 9, 2, 3, 9, 9, 4]), [[0, 2], [3, 6]]);
        assert_eq!(of(&[9, 9, 2, 3]), [[2, 3]]);
        assert_eq!(of(&[9, 9, 9]), [[0; 0]; 0]);
        assert_eq!(of(&[]), [[0; 0]; 0]);
        // Row 1 has a bad target and is computed: its loss is NaN.
        assert_eq!(of(&[9, 5, 9]), [[1]]);
    }

    #[test]
    fn outputs_are_of_all_rows() {
        let found = chunks_of(&[9, 1, 9], Outputs::Rows);
        assert_eq!(found, [vec![0, 1], vec![2]]);
    }
}
