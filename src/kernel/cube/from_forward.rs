//! What the backward has from the forward: a few numbers per row, the divisors, and the upstream gradient.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::spec::{Factor, Spec};
use crate::operation::RowValue;

/// Inputs of the backward from the forward, and the upstream gradient.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct FromForward<A: Float> {
    /// `[statistics, rows]`.
    pub(crate) statistics: ComptimeOption<Box<[A]>>,
    /// Divisors of the losses and of the z-losses.
    pub(crate) divisors: ComptimeOption<Box<[A]>>,
    /// Upstream gradient: one number, or without divisors one per row; absent where it is 1.
    pub(crate) upstream: ComptimeOption<Box<[A]>>,
}

/// What the forward knows of a row.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Statistics<A: Float> {
    pub(crate) maximum: A,
    pub(crate) others: A,
    /// Sums of the spread shares.
    pub(crate) at_maximum: A,
    pub(crate) elsewhere: A,
    /// Of a row factor, and what it adds to the target's share.
    pub(crate) factor: A,
    pub(crate) at_target: A,
    pub(crate) entropy: A,
}

#[cube]
impl<A: Float> Statistics<A> {
    /// Reads the numbers of a row that the call needs; the others are 0.
    pub(crate) fn read(
        statistics: &[A],
        row: usize,
        rows: usize,
        #[comptime] spec: &Spec,
    ) -> Statistics<A> {
        let zero = A::new(0.0);
        let mut read = Statistics::<A> {
            maximum: statistics[row],
            others: statistics[rows + row],
            at_maximum: zero,
            elsewhere: zero,
            factor: zero,
            at_target: zero,
            entropy: zero,
        };
        let line = comptime!(spec.line_of_factor());
        if comptime!(spec.is_spread) {
            read.at_maximum = statistics[2 * rows + row];
            read.elsewhere = statistics[3 * rows + row];
        }
        if comptime!(spec.factor != Factor::None) {
            read.factor = statistics[line * rows + row];
            read.at_target = statistics[(line + 1) * rows + row];
        }
        if comptime!(spec.value == RowValue::Entropy) {
            read.entropy = statistics[line * rows + row];
        }
        read
    }
}

#[cube]
impl<A: Float> FromForward<A> {
    /// Factor of the gradient of a row's loss (`term` 0) or z-loss (1); 0 where the divisor is 0.
    pub(crate) fn scale_of_row(&self, row: usize, #[comptime] term: usize) -> A {
        #[comptime]
        match &self.divisors {
            ComptimeOption::Some(divisors) => {
                let total = divisors[term];
                let mut scale = A::new(0.0);
                if total != A::new(0.0) {
                    scale = self.upstream_of(0usize.runtime()) / total;
                }
                scale
            }
            ComptimeOption::None => self.upstream_of(row),
        }
    }

    fn upstream_of(&self, at: usize) -> A {
        #[comptime]
        match &self.upstream {
            ComptimeOption::Some(upstream) => upstream[at],
            ComptimeOption::None => A::new(1.0),
        }
    }
}
