//! The loss of logits that a projection makes, in chunks of rows: `logits = input weight + bias`, the
//! loss and the gradient over them by [`Call`], and from that the gradients of the projection.
//!
//! ```text
//! d input  = G weight^T       G the gradient of the logits
//! d weight = input^T G        added up over the chunks where it lies
//! d bias   = sum over the rows of G
//! ```
//!
//! Rows that are ignored are left out: no product is made of them. One buffer for the logits of a
//! chunk serves all of them, and the gradient replaces the logits there.

use std::ops::Range;

use super::instructions::Instructions;
use super::part::Sum;
use super::products::{Matrix, Old, Product, multiply_matrices};
use super::storage::Own;
use super::targets::{Indices, Targets};
use super::{Buffers, Call, Details, Solution};
use crate::operation::{DetailsOf, Geometry, Options, RowReduction};

/// What logits are made of.
#[derive(Clone, Copy)]
pub(crate) struct Projection<'a, A> {
    /// `[rows, features]`, in row-major order.
    pub(crate) input: &'a [A],
    /// `[features, columns]`.
    pub(crate) weight: Matrix<'a, A>,
    /// `[columns]`.
    pub(crate) bias: Option<&'a [A]>,
    /// Class 0 of each row; the columns follow.
    pub(crate) own: Option<&'a [A]>,
    pub(crate) excluded: Option<&'a SameIds>,
}

/// Which columns have the id of a row.
pub(crate) struct SameIds {
    rows: Vec<i128>,
    /// Ids with their columns, in order.
    columns: Vec<(i128, usize)>,
}

impl SameIds {
    pub(crate) fn new(rows: Vec<i128>, columns: &[i128]) -> Self {
        let mut columns: Vec<(i128, usize)> = columns.iter().copied().zip(0..).collect();
        columns.sort_unstable();
        Self { rows, columns }
    }

    fn columns_of(&self, row: usize) -> impl Iterator<Item = usize> {
        let id = self.rows[row];
        let first = self.columns.partition_point(|(other, _)| *other < id);
        let same = self.columns[first..].iter();
        same.take_while(move |(other, _)| *other == id)
            .map(|(_, column)| *column)
    }
}

/// Where gradients go, in row-major order; absent where they are not wanted. That of the input holds
/// zeros.
#[derive(Default)]
pub(crate) struct LinearBuffers<'a, A> {
    pub(crate) input: Option<&'a mut [A]>,
    pub(crate) weight: Option<&'a mut [A]>,
    pub(crate) bias: Option<&'a mut [A]>,
    pub(crate) own: Option<&'a mut [A]>,
    pub(crate) targets: Option<&'a mut [A]>,
}

impl<A> LinearBuffers<'_, A> {
    fn of_logits(&self) -> bool {
        self.input.is_some() || self.weight.is_some() || self.bias.is_some() || self.own.is_some()
    }
}

/// A call, in slices.
pub(crate) struct LinearCall<'a, A> {
    pub(crate) rows: usize,
    pub(crate) features: usize,
    pub(crate) classes: usize,
    pub(crate) rows_per_chunk: usize,
    /// The options of the loss over logits `[rows, classes]`.
    pub(crate) options: &'a Options,
    /// All of them; distributions in the dtype of the arithmetic.
    pub(crate) targets: Targets<'a>,
    /// One weight per class.
    pub(crate) weights: Option<&'a [A]>,
    /// The gradient of each row's loss, where there is no reduction.
    pub(crate) upstream: Option<&'a [A]>,
    /// What [`RowReduction::Normalized`] divides by.
    pub(crate) normalizer: Option<[f64; 2]>,
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

/// Memory that serves every chunk.
struct Scratch<A> {
    logits: Vec<A>,
    /// The input of rows that do not lie together, or its gradient.
    input: Vec<A>,
    bias: Vec<f64>,
}

impl<A: Own> LinearCall<'_, A> {
    /// The loss, the details, and whatever gradients there are buffers for.
    pub(crate) fn solve(
        &self,
        projection: Projection<'_, A>,
        mut buffers: LinearBuffers<'_, A>,
    ) -> Solution<A> {
        let totals = self.whole().totals();
        let reduces = self.options.reduction != RowReduction::None;
        let options = Options {
            reduction: match reduces {
                true => RowReduction::Normalized,
                false => RowReduction::None,
            },
            class_dim: 1,
            ..self.options.clone()
        };
        let of_row = self.options.details.numbers();
        let mut solution = Solution {
            losses: vec![A::ZERO; if reduces { 0 } else { self.rows }],
            details: Details {
                numbers: vec![A::ZERO; of_row * self.rows],
                classes: vec![0; if of_row == 0 { 0 } else { 2 * self.rows }],
                totals: self.whole().totals_of_mean(),
            },
        };
        let bias_length = buffers.bias.as_ref().map_or(0, |bias| bias.len());
        let mut scratch = Scratch {
            logits: Vec::new(),
            input: Vec::new(),
            bias: vec![0.0; bias_length],
        };
        let kept = self.kept();
        let chunks = self.chunks(kept.as_deref());
        let mut sum = 0.0;
        for (at, chunk) in chunks.iter().enumerate() {
            let old = if at == 0 { Old::Replaced } else { Old::AddedTo };
            let part = self.solve_chunk(
                (chunk, old),
                &options,
                [totals.0, totals.1],
                projection,
                &mut buffers,
                &mut scratch,
            );
            match part.losses[..] {
                [loss] if reduces => sum += loss.to_f64(),
                _ => scatter(&part.losses, chunk, &mut solution.losses),
            }
            let lines = |length: usize| if length == 0 { 1 } else { length };
            let numbers = part.details.numbers.chunks(lines(chunk.len()));
            for (part, all) in numbers.zip(solution.details.numbers.chunks_mut(lines(self.rows))) {
                scatter(part, chunk, all);
            }
            let classes = part.details.classes.chunks(lines(chunk.len()));
            for (part, all) in classes.zip(solution.details.classes.chunks_mut(lines(self.rows))) {
                scatter(part, chunk, all);
            }
        }
        if chunks.is_empty() {
            if let Some(weight) = &mut buffers.weight {
                weight.fill(A::ZERO);
            }
            if reduces {
                let nothing = self.chunk_call(&options, [totals.0, totals.1], 0);
                sum = match self.rows {
                    0 => nothing.loss_of_no_rows()[0].to_f64(),
                    // All are ignored; what they are divided by may not be finite.
                    _ => nothing.reduced(Sum::default(), totals),
                };
            }
        }
        if reduces {
            solution.losses.push(A::of(sum));
        }
        if let Some(bias) = buffers.bias {
            for (gradient, sum) in bias.iter_mut().zip(&scratch.bias) {
                *gradient = A::of(*sum);
            }
        }
        solution
    }

    /// The rows that are ignored. A bad target makes a loss of NaN, and so its row is not.
    fn ignored(&self) -> impl Fn(usize) -> bool {
        let whole = self.whole();
        move |row| {
            let Targets::Indices(indices) = &whole.targets else {
                return false;
            };
            let valid = whole.valid();
            !indices.counts(row, &valid) && indices.value_of_dropped(row, &valid) == 0.0
        }
    }

    /// The rows that have to be computed, where these are not all: without details those that are not
    /// ignored.
    fn kept(&self) -> Option<Vec<usize>> {
        if self.options.details != DetailsOf::Nothing {
            return None;
        }
        let ignored = self.ignored();
        let count = (0..self.rows).filter(|row| ignored(*row)).count();
        (count > 0).then(|| {
            let mut kept = Vec::with_capacity(self.rows - count);
            kept.extend((0..self.rows).filter(|row| !ignored(*row)));
            kept
        })
    }

    /// These rows, or all, in chunks.
    fn chunks<'r>(&self, kept: Option<&'r [usize]>) -> Vec<Chunk<'r>> {
        let chunk = |rows: &'r [usize]| match rows {
            [first, .., last] if last - first + 1 == rows.len() => {
                Chunk::Together(*first..last + 1)
            }
            _ => Chunk::Scattered(rows),
        };
        match kept {
            Some(kept) => kept.chunks(self.rows_per_chunk).map(chunk).collect(),
            None => (0..self.rows)
                .step_by(self.rows_per_chunk)
                .map(|start| Chunk::Together(start..self.rows.min(start + self.rows_per_chunk)))
                .collect(),
        }
    }

    /// The input of a chunk with 0 for the rows that do not count, if there are such: to the weight's
    /// gradient they would add 0 times their own numbers, NaN if those are not finite. There are none
    /// where only rows that count were chosen.
    fn without_dropped(&self, input: &[A], chunk: &Chunk<'_>) -> Option<Vec<A>> {
        let (Targets::Indices(indices), Chunk::Together(rows)) = (&self.targets, chunk) else {
            return None;
        };
        let whole = self.whole();
        let valid = whole.valid();
        let counts = |row: usize| indices.counts(row, &valid);
        if rows.clone().all(counts) {
            return None;
        }
        let features = self.features;
        let mut counted = input[rows.start * features..rows.end * features].to_vec();
        for (at, row) in rows.clone().enumerate() {
            if !counts(row) {
                counted[at * features..(at + 1) * features].fill(A::ZERO);
            }
        }
        Some(counted)
    }

    fn whole(&self) -> Call<'_, A> {
        Call {
            normalizer: self.normalizer,
            ..self.chunk_call(self.options, [1.0, 1.0], self.rows)
        }
    }

    /// The call of the first rows' targets, before they are exchanged for those of a chunk.
    fn chunk_call<'c>(
        &'c self,
        options: &'c Options,
        normalizer: [f64; 2],
        rows: usize,
    ) -> Call<'c, A> {
        Call {
            geometry: Geometry {
                outer: rows,
                classes: self.classes,
                inner: 1,
            },
            options,
            targets: self.targets,
            weights: self.weights,
            upstream: None,
            normalizer: Some(normalizer),
            instructions: Instructions::best(),
        }
    }

    fn solve_chunk(
        &self,
        (chunk, old): (&Chunk<'_>, Old),
        options: &Options,
        normalizer: [f64; 2],
        projection: Projection<'_, A>,
        buffers: &mut LinearBuffers<'_, A>,
        scratch: &mut Scratch<A>,
    ) -> Solution<A> {
        let (rows, features, classes) = (chunk.len(), self.features, self.classes);
        let input = match chunk {
            Chunk::Together(rows) => &projection.input[rows.start * features..rows.end * features],
            Chunk::Scattered(rows) => {
                scratch.input.clear();
                for row in *rows {
                    let of_row = &projection.input[row * features..(row + 1) * features];
                    scratch.input.extend_from_slice(of_row);
                }
                &scratch.input
            }
        };
        let input = Matrix::row_major(input, [rows, features]);
        scratch.logits.resize(rows * classes, A::ZERO);
        let logits = &mut scratch.logits[..];
        projection.make(logits, input, chunk);

        let gathered;
        let upstream;
        let mut call = self.chunk_call(options, normalizer, rows);
        call.targets = match (self.targets, chunk) {
            (Targets::Indices(indices), Chunk::Together(rows)) => {
                Targets::Indices(indices.window(rows.clone()))
            }
            (Targets::Indices(indices), Chunk::Scattered(rows)) => {
                gathered = indices.gather(rows);
                Targets::Indices(Indices::I64(&gathered))
            }
            (Targets::Distributions(shares), chunk) => {
                let first = chunk.row(0);
                Targets::Distributions(shares.window(first * classes..(first + rows) * classes))
            }
        };
        if let Some(all) = self.upstream {
            upstream = (0..rows).map(|at| all[chunk.row(at)]).collect::<Vec<A>>();
            call.upstream = Some(&upstream);
        }
        let wants_logits = buffers.of_logits();
        let first = chunk.row(0);
        let targets_gradient = buffers
            .targets
            .as_deref_mut()
            .map(|targets| A::floats_mut(&mut targets[first * classes..(first + rows) * classes]));
        let solution = call.solve(if wants_logits {
            Buffers {
                logits: None,
                gradient: Some(A::floats_mut(logits)),
                targets_gradient,
            }
        } else {
            Buffers {
                logits: Some(A::floats(logits)),
                gradient: None,
                targets_gradient,
            }
        });
        if !wants_logits {
            return solution;
        }

        let lead = projection.lead();
        let gradient = Matrix::new(&logits[lead..], [rows, classes - lead], [classes, 1]);
        if let Some(weight) = &mut buffers.weight {
            let counted = self.without_dropped(projection.input, chunk);
            let input = match &counted {
                Some(counted) => Matrix::row_major(counted, [rows, features]),
                None => input,
            };
            let place = Product::row_major(weight, [features, classes - lead]);
            multiply_matrices(place, input.transposed(), gradient, old);
        }
        for (at, row) in logits.chunks_exact(classes).enumerate() {
            if let Some(own) = &mut buffers.own {
                own[chunk.row(at)] = row[0];
            }
            for (sum, slope) in scratch.bias.iter_mut().zip(&row[lead..]) {
                *sum += slope.to_f64();
            }
        }
        if let Some(of_input) = &mut buffers.input {
            let weight = projection.weight.transposed();
            match chunk {
                Chunk::Together(rows) => {
                    let place = &mut of_input[rows.start * features..rows.end * features];
                    let product = Product::row_major(place, [rows.len(), features]);
                    multiply_matrices(product, gradient, weight, Old::Replaced);
                    // 0 times a weight that is not finite.
                    let ignored = self.ignored();
                    for (row, place) in rows.clone().zip(place.chunks_exact_mut(features.max(1))) {
                        if ignored(row) {
                            place.fill(A::ZERO);
                        }
                    }
                }
                Chunk::Scattered(rows) => {
                    scratch.input.resize(rows.len() * features, A::ZERO);
                    let place = Product::row_major(&mut scratch.input, [rows.len(), features]);
                    multiply_matrices(place, gradient, weight, Old::Replaced);
                    let parts = scratch.input.chunks_exact(features.max(1));
                    for (row, part) in rows.iter().zip(parts) {
                        of_input[row * features..(row + 1) * features].copy_from_slice(part);
                    }
                }
            }
        }
        solution
    }
}

impl<A: Own> Projection<'_, A> {
    /// Where the columns begin among the classes.
    fn lead(&self) -> usize {
        usize::from(self.own.is_some())
    }

    /// The logits of a chunk, of which this is the input.
    fn make(&self, logits: &mut [A], input: Matrix<'_, A>, chunk: &Chunk<'_>) {
        let lead = self.lead();
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
        multiply_matrices(product, input, self.weight, old);
        for (at, row) in logits.chunks_exact_mut(classes).enumerate() {
            if let Some(own) = self.own {
                row[0] = own[chunk.row(at)];
            }
            for column in self
                .excluded
                .iter()
                .flat_map(|ids| ids.columns_of(chunk.row(at)))
            {
                row[lead + column] = A::of(f64::NEG_INFINITY);
            }
        }
    }
}

/// Takes the numbers of a chunk's rows to their places among all rows.
fn scatter<T: Copy>(part: &[T], chunk: &Chunk<'_>, all: &mut [T]) {
    for (at, number) in part.iter().enumerate() {
        all[chunk.row(at)] = *number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{EmptyReduction, GradientsOf, InputValues};

    /// The chunks of the rows that have to be computed, where 9 is ignored and 5 is no class.
    fn chunks_of(targets: &[i64], details: DetailsOf) -> Vec<Vec<usize>> {
        let options = Options {
            class_dim: 1,
            ignore_indices: [9].as_slice().into(),
            label_smoothing: 0.0,
            values: InputValues::Logits {
                scale: 1.0,
                softcap: None,
            },
            z_loss: 0.0,
            reduction: RowReduction::Mean,
            empty: EmptyReduction::Nan,
            gradients_of: GradientsOf::Logits,
            keep: false,
            details,
        };
        let call = LinearCall::<f32> {
            rows: targets.len(),
            features: 2,
            classes: 5,
            rows_per_chunk: 2,
            options: &options,
            targets: Targets::Indices(Indices::I64(targets)),
            weights: None,
            upstream: None,
            normalizer: None,
        };
        let kept = call.kept();
        let chunks = call.chunks(kept.as_deref());
        let rows = |chunk: &Chunk<'_>| (0..chunk.len()).map(|at| chunk.row(at)).collect();
        chunks.iter().map(rows).collect()
    }

    #[test]
    fn ignored_rows_are_in_no_chunk() {
        let of = |targets: &[i64]| chunks_of(targets, DetailsOf::Nothing);
        assert_eq!(of(&[0, 1, 2, 3, 4]), [vec![0, 1], vec![2, 3], vec![4]]);
        assert_eq!(of(&[0, 9, 2, 3, 9, 9, 4]), [[0, 2], [3, 6]]);
        assert_eq!(of(&[9, 9, 2, 3]), [[2, 3]]);
        assert_eq!(of(&[9, 9, 9]), [[0; 0]; 0]);
        assert_eq!(of(&[]), [[0; 0]; 0]);
        // A bad target makes a loss of NaN.
        assert_eq!(of(&[9, 5, 9]), [[1]]);
    }

    #[test]
    fn details_are_of_all_rows() {
        let found = chunks_of(&[9, 1, 9], DetailsOf::Target);
        assert_eq!(found, [vec![0, 1], vec![2]]);
    }
}
