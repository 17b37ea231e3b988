//! Constants of a call, which are the same for all rows.

use super::factor::Factor;
use super::instructions::Instructions;
use super::logits::Scale;
use super::shares::{OverValid, Shares};
use super::sparse::SparseRows;
use super::targets::RowRule;
use crate::operation::{Geometry, InputValues, Outputs, RowValue, Ties};

/// Constants of a call: rule of the rows, shares, scales, instruction set.
pub(crate) struct Constants<'a, A> {
    pub(super) geometry: Geometry,
    pub(super) rule: RowRule<'a, A>,
    /// Shares that are spread over the classes, without the distribution.
    pub(super) shares: Shares<'a, A>,
    /// Absent where the label smoothing is spread over all classes.
    pub(super) over_valid: Option<OverValid<A>>,
    pub(super) values: InputValues,
    pub(super) value: RowValue,
    /// Absent where the distributions are not sparse.
    pub(super) sparse: Option<SparseRows<'a>>,
    /// Scale of a teacher's logits, where the distributions are such.
    pub(super) teacher: Option<Scale<A>>,
    pub(super) z_loss: A,
    pub(super) factor: Factor<A>,
    pub(super) outputs: Outputs,
    pub(super) ties: Ties,
    pub(super) scales: Scales<'a, A>,
    pub(super) instructions: Instructions,
}

/// Factors of the gradients of rows.
#[derive(Clone, Copy)]
pub(super) struct Scales<'a, A> {
    pub(super) main: A,
    pub(super) penalty: A,
    /// Further factor of each row, for loss and z-loss.
    pub(super) per_row: Option<&'a [A]>,
}
