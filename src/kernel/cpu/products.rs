//! Matrix products on slices, by the `gemm` crate, on the threads of rayon. `gemm` uses AVX-512 or AVX2 where
//! the processor has them. Its features apply to all products of the program, those of Flex too.
//!
//! `gemm` takes pointers: its call is unsafe code.

use super::float::Float;

/// Matrix that is only read, with any strides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a, A> {
    numbers: &'a [A],
    size: [usize; 2],
    strides: [usize; 2],
}

impl<'a, A> Matrix<'a, A> {
    /// Matrix over `numbers`, whose first number is row 0 and column 0.
    pub(crate) fn new(numbers: &'a [A], size: [usize; 2], strides: [usize; 2]) -> Self {
        if size[0] > 0 && size[1] > 0 {
            let last = last_of(size, strides);
            let is_within = last.is_some_and(|last| last < numbers.len());
            assert!(is_within, "the matrix ends behind its numbers");
        }
        Self {
            numbers,
            size,
            strides,
        }
    }

    pub(crate) fn row_major(numbers: &'a [A], size: [usize; 2]) -> Self {
        Self::new(numbers, size, [size[1], 1])
    }

    pub(crate) fn transposed(self) -> Self {
        let [rows, columns] = self.size;
        let [row_stride, column_stride] = self.strides;
        Self {
            numbers: self.numbers,
            size: [columns, rows],
            strides: [column_stride, row_stride],
        }
    }
}

/// Place of a product; the numbers of a row lie side by side.
pub(crate) struct Product<'a, A> {
    numbers: &'a mut [A],
    size: [usize; 2],
    row_stride: usize,
}

impl<'a, A> Product<'a, A> {
    pub(crate) fn new(numbers: &'a mut [A], size: [usize; 2], row_stride: usize) -> Self {
        let [rows, columns] = size;
        if rows > 0 && columns > 0 {
            assert!(columns <= row_stride, "the rows of the product overlap");
            let last = last_of(size, [row_stride, 1]);
            let is_within = last.is_some_and(|last| last < numbers.len());
            assert!(is_within, "the product ends behind its numbers");
        }
        Self {
            numbers,
            size,
            row_stride,
        }
    }

    pub(crate) fn row_major(numbers: &'a mut [A], size: [usize; 2]) -> Self {
        Self::new(numbers, size, size[1])
    }
}

/// Place of the last number of a matrix that is not empty; `None` if the place overflows.
fn last_of(size: [usize; 2], strides: [usize; 2]) -> Option<usize> {
    let [row, column] = [0, 1].map(|dim| (size[dim] - 1).checked_mul(strides[dim]));
    row?.checked_add(column?)
}

/// Fate of the old numbers in the place of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Old {
    Replaced,
    AddedTo,
}

/// Writes the product of two matrices into its place.
pub(crate) fn multiply_matrices<A: Float>(
    product: Product<'_, A>,
    left: Matrix<'_, A>,
    right: Matrix<'_, A>,
    old: Old,
) {
    let [rows, inner] = left.size;
    let [right_rows, columns] = right.size;
    assert_eq!(inner, right_rows, "the matrices do not fit each other");
    assert_eq!(
        product.size,
        [rows, columns],
        "the product has another size"
    );
    if rows == 0 || columns == 0 {
        return;
    }
    if inner == 0 {
        if old == Old::Replaced {
            for row in product.numbers.chunks_mut(product.row_stride) {
                row[..columns].fill(A::ZERO);
            }
        }
        return;
    }
    let signed = |stride: usize| isize::try_from(stride).expect("a stride is within a slice");
    let [left_rows, left_columns] = left.strides.map(signed);
    let [right_rows, right_columns] = right.strides.map(signed);
    let adds = old == Old::AddedTo;
    // SAFETY: every element that the sizes and strides name lies within its slice. `Matrix::new` has
    // checked this for the operands, `Product::new` for the product, which nothing else refers to.
    // `A` is f32 or f64, for which gemm has kernels.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            product.numbers.as_mut_ptr(),
            1,
            signed(product.row_stride),
            adds,
            left.numbers.as_ptr(),
            left_columns,
            left_rows,
            right.numbers.as_ptr(),
            right_columns,
            right_rows,
            if adds { A::ONE } else { A::ZERO },
            A::ONE,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f64> {
        (0..count)
            .map(|at| ((at * 7919 + seed) % 101) as f64 / 50.0 - 1.0)
            .collect()
    }

    fn by_definition(left: &[f64], right: &[f64], [rows, inner, columns]: [usize; 3]) -> Vec<f64> {
        let entry = |at: usize| {
            let (row, column) = (at / columns, at % columns);
            let term = |k: usize| left[row * inner + k] * right[k * columns + column];
            (0..inner).map(term).sum()
        };
        (0..rows * columns).map(entry).collect()
    }

    fn transposed(numbers: &[f64], [rows, columns]: [usize; 2]) -> Vec<f64> {
        let entry = |at: usize| numbers[at % rows * columns + at / rows];
        (0..rows * columns).map(entry).collect()
    }

    #[test]
    fn products_are_those_of_the_definition_in_every_order_of_memory() {
        for size in [[1, 1, 1], [3, 5, 7], [17, 33, 65], [64, 2, 19], [4, 0, 3]] {
            let [rows, inner, columns] = size;
            let left = numbers(rows * inner, 1);
            let right = numbers(inner * columns, 2);
            let expected = by_definition(&left, &right, size);
            let left_columns = transposed(&left, [rows, inner]);
            let right_columns = transposed(&right, [inner, columns]);
            let lefts = [
                Matrix::row_major(&left, [rows, inner]),
                Matrix::row_major(&left_columns, [inner, rows]).transposed(),
            ];
            let rights = [
                Matrix::row_major(&right, [inner, columns]),
                Matrix::row_major(&right_columns, [columns, inner]).transposed(),
            ];
            for left in lefts {
                for right in rights {
                    // The first column does not belong to the product.
                    let mut numbers = vec![7.0; rows * (columns + 1)];
                    for old in [Old::Replaced, Old::AddedTo] {
                        let product = Product::new(&mut numbers[1..], [rows, columns], columns + 1);
                        multiply_matrices(product, left, right, old);
                    }
                    for (at, row) in numbers.chunks_exact(columns + 1).enumerate() {
                        assert_eq!(row[0], 7.0);
                        let expected = &expected[at * columns..(at + 1) * columns];
                        for (found, expected) in row[1..].iter().zip(expected) {
                            assert!((found - 2.0 * expected).abs() < 1e-12);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_ends_with_its_numbers_is_taken() {
        Matrix::new(&[0.0f32; 12], [3, 4], [4, 1]);
        Product::new(&mut [0.0f32; 14], [3, 4], 5);
    }

    #[test]
    #[should_panic(expected = "the matrix ends behind its numbers")]
    fn a_matrix_beyond_its_numbers_is_refused() {
        Matrix::new(&[0.0f32; 11], [3, 4], [4, 1]);
    }

    #[test]
    #[should_panic(expected = "the matrix ends behind its numbers")]
    fn a_matrix_beyond_all_places_is_refused() {
        Matrix::new(&[0.0f32; 11], [3, 4], [usize::MAX / 2 + 1, 1]);
    }

    #[test]
    #[should_panic(expected = "the product ends behind its numbers")]
    fn a_product_beyond_its_numbers_is_refused() {
        Product::new(&mut [0.0f32; 13], [3, 4], 5);
    }
}
