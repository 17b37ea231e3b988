//! The loss and its gradients on every CubeCL runtime, over buffers with strides instead of tensors.
//!
//! | file | content |
//! |---|---|
//! | [`launch`] | from the buffers of a call to the launches of its kernels |
//! | [`forward`] | the kernel that reads the logits once and writes a loss and a few numbers per row |
//! | [`backward`], [`from_forward`] | the kernel that reads the logits once more and writes the gradient; what it has from the forward |
//! | [`one_pass`], [`upstream`] | both in one kernel, for an upstream gradient of 1; the product with another |
//! | [`totals`] | the kernels that make one number of the losses |
//! | [`scan`], [`finish`] | the forward's parts: logits into the state, the state to what is written |
//! | [`factor`] | the factor of a row's loss by its target's probability |
//! | [`state`], [`outputs`] | the sums over the classes of a row: for its loss, for its outputs |
//! | [`walk`], [`parked`] | the way of a unit through a row, in blocks of vectors; blocks in shared memory |
//! | [`classes`] | the classes of a vector's lanes |
//! | [`targets`], [`evens`] | which rows count, the classes' shares; those of label smoothing beside masked classes |
//! | [`entries`], [`tail`] | sparse distributions, before and after the kernels over the rows |
//! | [`pairs`] | a loss of each pair of a row and a column apart |
//! | [`lanes`], [`group`], [`numbers`] | numbers of a row in the lanes of a vector, in the units of a group; one of a row |
//! | [`sum`], [`elementary`] | long sums; logarithm and hyperbolic tangent |
//! | [`plan`], [`spec`], [`layout`] | who computes which rows; arguments of the kernels; places in memory |
//!
//! The kernels are generic over dtypes and sizes that a launch fills in: `F` the logits, `A` the
//! arithmetic, `P` the distributions, `I` the index targets, `K` an integer that holds every index and the
//! number of classes; `N` the logits of a vector, `M` the rows that they belong to.

mod backward;
mod classes;
mod elementary;
mod entries;
mod evens;
mod factor;
mod finish;
mod forward;
mod from_forward;
mod group;
mod lanes;
mod launch;
mod layout;
mod numbers;
mod one_pass;
mod outputs;
mod pairs;
mod parked;
pub(crate) mod plan;
mod scan;
mod spec;
mod state;
mod sum;
mod tail;
mod targets;
mod totals;
mod upstream;
mod walk;

pub(crate) use entries::Entries;
pub(crate) use launch::{
    Buffer, Call, FromForwardBuffers, Full, GradientBuffer, Reduction, RowResults, Targets,
};
pub(crate) use layout::Layout;
pub(crate) use targets::{Weighed, lines};
pub(crate) use upstream::multiply_by_upstream;
