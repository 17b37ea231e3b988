//! Places of a row's numbers in memory.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// Strides, in elements, of a tensor seen as `[outer, classes, inner]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) outer: usize,
    pub(crate) class: usize,
    pub(crate) inner: usize,
    /// Number of elements before the first element of the tensor.
    pub(crate) offset: usize,
}

impl Layout {
    /// Layout of a strided tensor; `None` where the dimensions before the class dimension, or those behind
    /// it, do not have one common stride.
    pub(crate) fn new(
        shape: &[usize],
        strides: &[usize],
        class_dim: usize,
        offset: usize,
    ) -> Option<Self> {
        Some(Self {
            outer: one_stride(&shape[..class_dim], &strides[..class_dim])?,
            class: strides[class_dim],
            inner: one_stride(&shape[class_dim + 1..], &strides[class_dim + 1..])?,
            offset,
        })
    }
}

/// Stride between consecutive positions of several dimensions taken as one.
fn one_stride(shape: &[usize], strides: &[usize]) -> Option<usize> {
    let mut dims = shape
        .iter()
        .zip(strides)
        .filter(|(size, _)| **size != 1)
        .rev();
    let Some((size, stride)) = dims.next() else {
        return Some(0);
    };
    let mut next = size * stride;
    for (size, outer_stride) in dims {
        if *outer_stride != next {
            return None;
        }
        next = size * outer_stride;
    }
    Some(*stride)
}

/// Strides as a kernel takes them, in vectors; where rows share vectors, in elements.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Strides {
    outer: usize,
    class: usize,
    inner: usize,
}

/// Strides in vectors of `size` elements, which run along the dimension of stride 1. All other strides
/// are multiples of `size`.
pub(crate) fn strides_in_vectors(layout: &Layout, size: usize) -> StridesLaunch {
    let vectors = |stride: usize| if stride == 1 { 1 } else { stride / size };
    StridesLaunch::new(
        vectors(layout.outer),
        vectors(layout.class),
        vectors(layout.inner),
    )
}

/// Place of a row's first element. With vectors along the positions, `row` and `inner` count vectors of
/// rows.
#[cube]
pub(crate) fn start_of_row(
    row: usize,
    inner: usize,
    strides: &Strides,
    #[comptime] has_positions: bool,
) -> usize {
    if comptime!(has_positions) {
        row / inner * strides.outer + row % inner * strides.inner
    } else {
        row * strides.outer
    }
}

/// Place of a row's class, or of the vector that holds it.
#[cube]
pub(crate) fn place_of_class(start: usize, class: usize, strides: &Strides) -> usize {
    start + class * strides.class
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_collapse_where_the_memory_is_one_run() {
        let contiguous = Layout::new(&[2, 3, 5, 7], &[105, 35, 7, 1], 1, 0);
        let expected = Layout {
            outer: 105,
            class: 35,
            inner: 1,
            offset: 0,
        };
        assert_eq!(contiguous, Some(expected));
        // Permuted: the classes come last in memory.
        let permuted = Layout::new(&[2, 3, 5, 7], &[105, 1, 21, 3], 1, 4);
        let expected = Layout {
            outer: 105,
            class: 1,
            inner: 3,
            offset: 4,
        };
        assert_eq!(permuted, Some(expected));
        // Rows cut out of longer ones.
        let cut = Layout::new(&[2, 3, 5], &[40, 8, 1], 2, 0);
        assert_eq!(cut, None);
        let padded = Layout::new(&[2, 3, 5], &[24, 8, 1], 2, 0);
        assert_eq!(padded.map(|layout| layout.outer), Some(8));
        // A dimension of size 1 has any stride.
        let single = Layout::new(&[1, 3, 1], &[99, 1, 77], 1, 0);
        assert_eq!(
            single.map(|layout| (layout.outer, layout.inner)),
            Some((0, 0))
        );
    }

    /// The functions that the kernels are made of, run here with the addresses that a tensor of
    /// 2^33 elements needs.
    #[test]
    fn places_beyond_32_bits_are_right() {
        let classes = 128_256usize;
        let rows = (1usize << 33) / classes;
        let strides = Strides {
            outer: classes,
            class: 1,
            inner: 0,
        };
        let last = rows - 1;
        let start = start_of_row(last, 1, &strides, false);
        assert_eq!(start, last * classes);
        assert!(start > u32::MAX as usize);
        let place = place_of_class(start, classes - 1, &strides);
        assert_eq!(place, rows * classes - 1);

        // [3, 21, 2^27], vectors of four along the positions.
        let inner = (1usize << 27) / 4;
        let strides = Strides {
            outer: 21 * inner,
            class: inner,
            inner: 1,
        };
        let row = 2 * inner + 5;
        let start = start_of_row(row, inner, &strides, true);
        let place = place_of_class(start, 20, &strides);
        assert_eq!(place, (2 * 21 + 20) * inner + 5);
        assert!(place * 4 > u32::MAX as usize);
    }
}
