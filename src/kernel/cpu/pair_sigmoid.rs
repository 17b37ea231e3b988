//! Loss of each pair of a row and a column apart, of a yes or no, with its gradient in place of the logits.
//!
//! ```text
//! loss = sum_c ln(1 + exp(x[c]))        d loss / dx[c] = sigmoid(x[c])      x negated at the pairs that belong together
//!
//! with e = exp(-|x|):   ln(1 + exp(x)) = max(x, 0) + ln(1 + e)              sigmoid(x) = (x < 0 ? e : 1) / (1 + e)
//! ```
//!
//! The logarithms of a run of classes are one: that of the product of the `1 + e`. What is kept is the product less 1,
//! so that pairs that are told apart well keep the digits of their small losses.

use super::blocks::{Block, LANES};
use super::float::Float;
use super::instructions::{Instructions, Task};
use super::threads::for_each;

/// Rows of logits, whose pairs have losses apart.
pub(super) struct PairRows<'a, A> {
    pub(super) logits: &'a mut [A],
    pub(super) columns: usize,
    /// Factor of each row's gradient; absent where the gradient is not wanted.
    pub(super) scales: Option<&'a [A]>,
}

/// Blocks whose logarithms are one: the product of as many factors, each 2 at most, stays in the range of f32.
const RUN: usize = 64;
/// Logits of a part that one thread takes.
const PART: usize = 1 << 16;

impl<A: Float> PairRows<'_, A> {
    /// Computes the loss of each row, and leaves its gradient in place of the logits. `together` tells the columns
    /// that belong to a row.
    pub(super) fn solve(self, together: impl Fn(usize) -> Vec<usize> + Sync) -> Vec<f64> {
        let columns = self.columns.max(1);
        let rows_of_part = (PART / columns).max(1);
        let is_spread = self.logits.len() > PART;
        let parts = self.logits.chunks_mut(rows_of_part * columns).enumerate();
        let parts: Vec<_> = parts.collect();
        let instructions = Instructions::best();
        let of_part = |(part, logits): (usize, &mut [A]), _: &mut ()| {
            let rows = logits.chunks_exact_mut(columns).enumerate();
            let losses = rows.map(|(at, x)| {
                let row = part * rows_of_part + at;
                let together = together(row);
                for &column in &together {
                    x[column] = -x[column];
                }
                let loss = instructions.run(Row {
                    scale: self.scales.map(|scales| scales[row]),
                    x,
                });
                for &column in &together {
                    x[column] = -x[column];
                }
                loss
            });
            losses.collect::<Vec<f64>>()
        };
        for_each(parts, is_spread, || (), of_part).concat()
    }
}

/// Task: the loss of one row of pairs that do not belong together, and its gradient in place of the logits.
struct Row<'a, A> {
    x: &'a mut [A],
    scale: Option<A>,
}

impl<A: Float> Task for Row<'_, A> {
    type Output = f64;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> f64 {
        let (blocks, rest) = self.x.as_chunks_mut::<LANES>();
        let mut loss = 0.0;
        for run in blocks.chunks_mut(RUN) {
            let mut sums = Sums::new();
            for block in run {
                let slopes = sums.add::<FMA>(block);
                if let Some(scale) = self.scale {
                    *block = slopes.map(|slope| slope * scale);
                }
            }
            loss += sums.loss::<FMA>();
        }
        if rest.is_empty() {
            return loss;
        }
        let mut last = [-A::INFINITY; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let mut sums = Sums::new();
        let slopes = sums.add::<FMA>(&last);
        if let Some(scale) = self.scale {
            for (place, slope) in rest.iter_mut().zip(slopes) {
                *place = slope * scale;
            }
        }
        loss + sums.loss::<FMA>()
    }
}

/// Sums of the losses in each lane.
struct Sums<A> {
    /// Product of the `1 + e`, less 1.
    product: Block<A>,
    /// Sum of the `max(x, 0)`.
    above: Block<A>,
}

impl<A: Float> Sums<A> {
    #[inline(always)]
    fn new() -> Self {
        Self {
            product: [A::ZERO; LANES],
            above: [A::ZERO; LANES],
        }
    }

    /// Adds the losses of a block, and returns their slopes.
    #[inline(always)]
    fn add<const FMA: bool>(&mut self, block: &Block<A>) -> Block<A> {
        let mut slopes = [A::ZERO; LANES];
        for lane in 0..LANES {
            let x = block[lane];
            let e = (-x.abs()).exp::<FMA>();
            let is_above = x > A::ZERO;
            self.above[lane] += if is_above { x } else { A::ZERO };
            self.product[lane] = self.product[lane].mul_add::<FMA>(e, self.product[lane] + e);
            let part = if is_above { A::ONE } else { e };
            slopes[lane] = part / (A::ONE + e);
        }
        slopes
    }

    #[inline(always)]
    fn loss<const FMA: bool>(self) -> f64 {
        let mut loss = 0.0;
        for lane in 0..LANES {
            loss += self.product[lane].ln_1p::<FMA>().to_f64() + self.above[lane].to_f64();
        }
        loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(x: f64) -> (f64, f64) {
        let e = (-x.abs()).exp();
        (
            x.max(0.0) + e.ln_1p(),
            if x < 0.0 { e } else { 1.0 } / (1.0 + e),
        )
    }

    #[test]
    fn losses_and_slopes_are_those_of_the_definition_also_where_pairs_are_told_apart_well() {
        let (rows, columns) = (3, 5 * LANES * RUN / 4 + 7);
        let number =
            |at: usize, row: usize| (at * 7919 % 4001) as f64 / 60.0 - 33.0 - 20.0 * row as f64;
        let of_row = |row| (0..columns).map(move |at| number(at, row) as f32);
        let mut logits: Vec<f32> = (0..rows).flat_map(of_row).collect();
        let scales = [1.0, -0.5, 3.0];
        let together = |row: usize| vec![row, columns - 1];
        let losses = PairRows {
            logits: &mut logits,
            columns,
            scales: Some(&scales),
        }
        .solve(together);
        for row in 0..rows {
            let x: Vec<f64> = of_row(row).map(f64::from).collect();
            let mut expected = 0.0;
            for (column, &x) in x.iter().enumerate() {
                let sign = if together(row).contains(&column) {
                    -1.0
                } else {
                    1.0
                };
                let (loss, slope) = definition(sign * x);
                expected += loss;
                let slope = sign * slope * f64::from(scales[row]);
                let found = f64::from(logits[row * columns + column]);
                assert!(
                    (found - slope).abs() <= 4e-7 * slope.abs(),
                    "{x}: {found} for {slope}"
                );
            }
            let off = (losses[row] - expected).abs();
            assert!(
                off <= 2e-6 * expected,
                "row {row}: {} for {expected}",
                losses[row]
            );
        }
    }

    #[test]
    fn infinite_logits_and_nan_come_out_as_what_they_are() {
        let mut logits = [f32::NEG_INFINITY, f32::INFINITY, 0.0, f32::NAN];
        let losses = PairRows {
            logits: &mut logits,
            columns: 1,
            scales: Some(&[2.0; 4]),
        }
        .solve(|_| Vec::new());
        assert_eq!(losses[..2], [0.0, f64::INFINITY]);
        assert!((losses[2] - std::f64::consts::LN_2).abs() < 1e-7 && losses[3].is_nan());
        assert_eq!(logits[..3], [0.0, 2.0, 1.0]);
        assert!(logits[3].is_nan());
    }
}
