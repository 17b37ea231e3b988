//! What the kernels are told: constants that are compiled in, numbers that are not.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::layout::Strides;
use super::plan::Tile;
use crate::operation::Outputs;

/// What the values of the input are.
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

/// What becomes of a row's z-loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ZLoss {
    /// The loss has no z-loss.
    Off,
    /// It is added to the row's loss.
    Added,
    /// It stands behind the losses, to be averaged over another number of rows.
    Apart,
}

/// What is compiled into the kernels over the rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Spec {
    pub(crate) tile: Tile,
    pub(crate) values: Values,
    /// Whether classes besides an index target have a share.
    pub(crate) is_spread: bool,
    /// Whether the targets are distributions.
    pub(crate) has_distributions: bool,
    pub(crate) outputs: Outputs,
    pub(crate) z_loss: ZLoss,
}

impl Spec {
    /// Numbers per row that a cube leaves to the kernel that brings several together.
    pub(crate) fn fields_of_part(&self) -> usize {
        let outputs = match self.outputs {
            Outputs::None => 0,
            Outputs::Rows | Outputs::RowsAndEntropy => 8,
        };
        self.fields_of_sums() + outputs
    }

    /// Whether a row's sums take in any class but the target.
    pub(crate) fn adds_anything(&self) -> bool {
        self.values != Values::Probabilities || self.is_spread || self.outputs != Outputs::None
    }

    /// Numbers per row that a part leaves for the losses alone.
    pub(crate) fn fields_of_sums(&self) -> usize {
        if self.is_spread { 6 } else { 3 }
    }
}

/// Numbers of a call, in the dtype of the arithmetic.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Numbers {
    /// `1 - e`, with `e` the label smoothing.
    pub(crate) remaining: InputScalar,
    /// `e / C`.
    pub(crate) even: InputScalar,
    /// Factor of the logits.
    pub(crate) scale: InputScalar,
    /// The bound that the softcap bends to.
    pub(crate) cap: InputScalar,
    /// `scale / cap`.
    pub(crate) bend: InputScalar,
    /// Factor of the squared log-sum-exp.
    pub(crate) z_loss: InputScalar,
    /// The least finite number.
    pub(crate) least_finite: InputScalar,
    /// Minus infinity, which shader languages have no literal for.
    pub(crate) lowest: InputScalar,
    /// NaN, likewise.
    pub(crate) nan: InputScalar,
}

/// Sizes of a call.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Extent {
    pub(crate) rows: usize,
    pub(crate) classes: usize,
    /// Rows, or vectors of rows.
    pub(crate) slots: usize,
    /// Slots side by side behind the class dimension.
    pub(crate) inner: usize,
    /// Vectors (or rows of them) from the first to the last class.
    pub(crate) steps: usize,
    /// Cubes that share a row.
    pub(crate) parts: usize,
    pub(crate) logits: Strides,
    /// Strides of the distributions.
    pub(crate) targets: Strides,
    /// Strides of the logits' gradient.
    pub(crate) gradient: Strides,
    /// Strides of the distributions' gradient.
    pub(crate) targets_gradient: Strides,
}

/// The share of the row's classes that a unit visits.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Span {
    /// The row, or vector of rows.
    pub(crate) slot: usize,
    /// Whether there is such a row; cubes of the last rows have units to spare.
    pub(crate) exists: bool,
    /// Which of the cubes that share the row.
    pub(crate) part: usize,
    /// Which of the units that share the row, in this cube.
    pub(crate) unit: usize,
    /// The first step of this cube. Every unit of a group loops from here, as often as the others,
    /// and takes the steps that are its own: planes add up when their units come out together.
    pub(crate) begin: usize,
    /// The step behind the last of this cube.
    pub(crate) end: usize,
}

/// Where this unit stands.
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
