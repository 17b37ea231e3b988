//! Arguments of the kernels: constants that are compiled in, and numbers that are not.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::layout::Strides;
use super::plan::Tile;
use crate::operation::{Outputs, RowFactor, RowValue};

/// Meaning of the input's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Values {
    /// Logits as they are.
    Logits,
    /// Logits with a factor.
    Scaled,
    /// Logits with a factor and a softcap.
    Capped,
    Probabilities,
}

/// Place of a row's z-loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ZLoss {
    /// The loss has no z-loss.
    Off,
    /// The z-loss is added to the row's loss.
    Added,
    /// The z-losses follow the losses in their buffer, because a mean has another divisor for them.
    Apart,
}

/// Factor of a row's loss by the probability of its target, see [`RowFactor`]. Its
/// number is not compiled in, but for the multiplications of a power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Factor {
    None,
    Focal { whole: u32, has_rest: bool },
    Poly,
    TargetProbability,
}

impl Factor {
    /// A factor, with its number and what the multiplications of a power leave of it.
    pub(crate) fn of(factor: RowFactor) -> (Self, [f64; 2]) {
        match factor {
            RowFactor::None => (Self::None, [0.0; 2]),
            RowFactor::Focal { gamma } => {
                let (whole, rest) = RowFactor::steps_of_power(gamma);
                let has_rest = rest != 0.0;
                (Self::Focal { whole, has_rest }, [gamma, rest])
            }
            RowFactor::Poly { epsilon } => (Self::Poly, [epsilon, 0.0]),
            RowFactor::TargetProbability => (Self::TargetProbability, [0.0; 2]),
        }
    }
}

/// Constants that are compiled into the kernels over the rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Spec {
    pub(crate) tile: Tile,
    pub(crate) values: Values,
    /// What is computed of each row.
    pub(crate) value: RowValue,
    /// Whether classes besides an index target have a share.
    pub(crate) is_spread: bool,
    /// Whether the targets are distributions.
    pub(crate) has_distributions: bool,
    pub(crate) has_row_weights: bool,
    /// Whether the index targets stand for the entries of sparse distributions.
    pub(crate) has_entries: bool,
    /// Whether these have a tail.
    pub(crate) has_tail: bool,
    pub(crate) outputs: Outputs,
    /// Whether the target is behind equal scores; of no meaning without outputs.
    pub(crate) target_loses: bool,
    pub(crate) z_loss: ZLoss,
    pub(crate) factor: Factor,
}

impl Spec {
    /// Count of numbers per row that a part leaves to the kernel that merges the parts.
    pub(crate) fn fields_of_part(&self) -> usize {
        let outputs = match self.outputs {
            Outputs::None => 0,
            Outputs::Rows | Outputs::RowsAndEntropy => 8,
        };
        self.fields_of_sums() + outputs
    }

    /// Whether there may be rows that do not count.
    pub(crate) fn may_drop_rows(&self) -> bool {
        !self.has_distributions || self.has_row_weights
    }

    /// Whether a row's sums take in any class but the target.
    pub(crate) fn adds_anything(&self) -> bool {
        self.values != Values::Probabilities || self.is_spread || self.outputs != Outputs::None
    }

    /// Line of the statistics that the numbers of a factor begin with, or the entropy of a row stands in.
    pub(crate) fn line_of_factor(&self) -> usize {
        if self.is_spread { 4 } else { 2 }
    }

    /// Count of numbers per row that a part leaves for the losses, without outputs.
    pub(crate) fn fields_of_sums(&self) -> usize {
        if self.is_spread { 6 } else { 3 }
    }
}

/// Numbers of a call, in the dtype of the arithmetic.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Numbers {
    /// `1 - e`, with `e` the label smoothing.
    pub(crate) remaining: InputScalar,
    /// `e / C`; `e` where rows have even shares of their own.
    pub(crate) even: InputScalar,
    /// Factor of the logits.
    pub(crate) scale: InputScalar,
    /// Steps of the scale, see [`ScaleSteps`](crate::operation::ScaleSteps).
    pub(crate) before: InputScalar,
    pub(crate) after: InputScalar,
    /// The same of the scale of a teacher.
    pub(crate) before_of_teacher: InputScalar,
    pub(crate) after_of_teacher: InputScalar,
    /// Bound of the softcap.
    pub(crate) cap: InputScalar,
    /// `scale / cap`.
    pub(crate) bend: InputScalar,
    /// Factor of the squared log-sum-exp.
    pub(crate) z_loss: InputScalar,
    /// Number of the row factor, and what the multiplications of a power leave of it.
    pub(crate) factor: InputScalar,
    pub(crate) rest_of_factor: InputScalar,
    /// The least finite number.
    pub(crate) least_finite: InputScalar,
    /// Minus infinity: shader languages have no literal for it.
    pub(crate) lowest: InputScalar,
    /// Rounding that lowers the score of a target that loses ties, as a share of the score, and at least; see
    /// [`Slack`](crate::operation::Slack).
    pub(crate) slack: InputScalar,
    pub(crate) least_slack: InputScalar,
    /// NaN: shader languages have no literal for it.
    pub(crate) nan: InputScalar,
}

/// Sizes of a call.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Extent {
    pub(crate) rows: usize,
    pub(crate) classes: usize,
    /// Number of rows, or of vectors of rows.
    pub(crate) slots: usize,
    /// Number of slots side by side behind the class dimension.
    pub(crate) inner: usize,
    /// Number of vectors (or rows of them) from the first to the last class.
    pub(crate) steps: usize,
    /// Number of cubes that share a row.
    pub(crate) parts: usize,
    pub(crate) logits: Strides,
    /// Strides of the distributions.
    pub(crate) targets: Strides,
    /// Strides of the logits' gradient.
    pub(crate) gradient: Strides,
    /// Strides of the distributions' gradient.
    pub(crate) targets_gradient: Strides,
}

/// Arguments of a call that all units share.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Uniforms {
    pub(crate) numbers: Numbers,
    pub(crate) extent: Extent,
}

/// Share of a row's classes that a unit visits.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Span {
    /// The row, or vector of rows.
    pub(crate) slot: usize,
    /// Whether the slot exists. Cubes of the last rows may have more units than rows.
    pub(crate) exists: bool,
    /// Index of this cube among the cubes that share the row.
    pub(crate) part: usize,
    /// Index of this unit among the units of the cube that share the row.
    pub(crate) unit: usize,
    /// First step of this cube. All units of a group loop from here equally often, each over its own steps:
    /// plane operations need units that leave the loop together.
    pub(crate) begin: usize,
    /// Step behind the last step of this cube.
    pub(crate) end: usize,
}

/// Span of this unit.
#[cube]
pub(crate) fn span(extent: &Extent, #[comptime] tile: Tile) -> Span {
    let group = (UNIT_POS / tile.units) as usize;
    let unit = (UNIT_POS % tile.units) as usize;
    let rows = comptime!(tile.rows as usize);
    if comptime!(tile.in_parts) {
        let slot = CUBE_POS / extent.parts * rows + group;
        let part = CUBE_POS % extent.parts;
        let length = extent.steps.div_ceil(extent.parts);
        let begin = (part * length).min(extent.steps);
        Span {
            slot: slot.min(extent.slots - 1),
            exists: slot < extent.slots,
            part,
            unit,
            begin,
            end: (begin + length).min(extent.steps),
        }
    } else {
        let slot = CUBE_POS * rows + group;
        Span {
            slot: slot.min(extent.slots - 1),
            exists: slot < extent.slots,
            part: 0usize.runtime(),
            unit,
            begin: 0usize.runtime(),
            end: extent.steps,
        }
    }
}
