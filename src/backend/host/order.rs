//! Order of a tensor's numbers in memory: in the order of its dimensions, or with the classes behind all others.
//!
//! A model that puts out `[N, T, C]` and a loss that wants `[N, C, T]` meet in a view with two dimensions swapped.
//! Its classes lie side by side, and its rows in the order of the targets, so it is read as the tensor that it
//! is a view of, and the gradient is such a view too. Any other view is copied.

use burn::backend::tensor::FloatTensor;

use super::tensor::{HostBackend, HostTensor};

/// Tensor in row-major order, with the classes where they were or moved to the end.
#[derive(Clone)]
pub(super) struct Ordered<H> {
    pub(super) host: H,
    /// Dimension of the classes in it.
    pub(super) class_dim: usize,
}

/// Opens a tensor in its own order of memory, or copies it. The classes may move only where `may_move`.
pub(super) fn ordered<B: HostBackend>(
    tensor: FloatTensor<B>,
    class_dim: usize,
    may_move: bool,
) -> Ordered<B::Host> {
    let host = B::open(tensor);
    let last = host.shape().num_dims() - 1;
    if host.is_row_major() || class_dim == last || !may_move {
        return Ordered {
            host: host.row_major(),
            class_dim,
        };
    }
    let moved = B::open(B::float_permute(
        B::close(host),
        &to_the_end(class_dim, last),
    ));
    if moved.is_row_major() {
        return Ordered {
            host: moved,
            class_dim: last,
        };
    }
    let host = B::open(moved_back::<B>(moved, last, class_dim));
    Ordered {
        host: host.row_major(),
        class_dim,
    }
}

impl<H> Ordered<H> {
    /// The tensor with its classes in dimension `class_dim` again.
    pub(super) fn close<B: HostBackend<Host = H>>(self, class_dim: usize) -> FloatTensor<B> {
        moved_back::<B>(self.host, self.class_dim, class_dim)
    }
}

fn moved_back<B: HostBackend>(host: B::Host, from: usize, class_dim: usize) -> FloatTensor<B> {
    let tensor = B::close(host);
    match from == class_dim {
        true => tensor,
        false => B::float_permute(tensor, &from_the_end(class_dim, from)),
    }
}

fn to_the_end(class_dim: usize, last: usize) -> Vec<usize> {
    let others = (0..=last).filter(|dim| *dim != class_dim);
    others.chain([class_dim]).collect()
}

fn from_the_end(class_dim: usize, last: usize) -> Vec<usize> {
    let mut dims: Vec<usize> = (0..last).collect();
    dims.insert(class_dim, last);
    dims
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_permutation_undoes_the_other() {
        for last in 0..5 {
            for class_dim in 0..=last {
                let there = to_the_end(class_dim, last);
                let back: Vec<usize> = from_the_end(class_dim, last)
                    .into_iter()
                    .map(|dim| there[dim])
                    .collect();
                assert_eq!(back, Vec::from_iter(0..=last));
            }
        }
    }
}
