//! Pairs of the rows and the columns of a projection: pairs that are excluded, and pairs that are alike.

use super::float::Float;

/// Ids of rows and columns, which tell the columns with the id of a row.
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

    pub(super) fn columns_of(&self, row: usize) -> impl Iterator<Item = usize> {
        let id = self.rows[row];
        let first = self.columns.partition_point(|(other, _)| *other < id);
        let same = self.columns[first..].iter();
        same.take_while(move |(other, _)| *other == id)
            .map(|(_, column)| *column)
    }
}

/// Pairs whose logits are excluded.
#[derive(Default)]
pub(crate) struct ExcludedPairs<A> {
    /// Pairs with the same id.
    pub(crate) ids: Option<SameIds>,
    /// Pairs with other ids.
    pub(crate) unlike: Option<SameIds>,
    /// Columns of each row, `[rows, n]`; a negative number is no column.
    pub(crate) columns: Vec<i128>,
    /// The number `n` of these.
    pub(crate) columns_of_row: usize,
    /// Number of each row: logits without their bias that are larger are excluded.
    pub(crate) above: Option<Vec<A>>,
}

impl<A: Float> ExcludedPairs<A> {
    /// Columns of a row that are excluded by an id or by themselves.
    fn columns_of(&self, row: usize) -> impl Iterator<Item = usize> {
        let of_row = row * self.columns_of_row..(row + 1) * self.columns_of_row;
        let columns = self.columns[of_row].iter();
        let columns = columns.filter_map(|column| usize::try_from(*column).ok());
        let same = self.ids.iter().flat_map(move |ids| ids.columns_of(row));
        columns.chain(same)
    }

    /// Excludes logits of a row. Some of them have a bias in them.
    pub(super) fn exclude(&self, row: usize, logits: &mut [A], bias: Option<&[A]>) {
        if let Some(above) = &self.above {
            let bound = above[row];
            for (column, logit) in logits.iter_mut().enumerate() {
                let bias = bias.map_or(A::ZERO, |bias| bias[column]);
                if *logit > bound + bias {
                    *logit = -A::INFINITY;
                }
            }
        }
        if let Some(unlike) = &self.unlike {
            let mut start = 0;
            for same in unlike.columns_of(row) {
                logits[start..same].fill(-A::INFINITY);
                start = same + 1;
            }
            logits[start..].fill(-A::INFINITY);
        }
        for column in self.columns_of(row) {
            logits[column] = -A::INFINITY;
        }
    }
}

/// Columns that are alike to the rows, and not excluded.
pub(crate) struct AlikeColumns<'a, A> {
    pub(crate) ids: &'a SameIds,
    pub(crate) excluded: &'a ExcludedPairs<A>,
}

impl<A: Float> AlikeColumns<'_, A> {
    /// Columns that are alike to a row.
    pub(super) fn of(&self, row: usize) -> Vec<usize> {
        let mut columns: Vec<usize> = self.ids.columns_of(row).collect();
        let excluded: Vec<usize> = self.excluded.columns_of(row).collect();
        if !excluded.is_empty() {
            columns.retain(|column| !excluded.contains(column));
        }
        columns
    }

    /// Weight of each of so many rows: a row without a column that is alike is ignored.
    pub(crate) fn weights(&self, rows: usize, given: Option<&[A]>) -> Vec<A> {
        let weight = |row| match self.of(row).is_empty() {
            true => A::ZERO,
            false => given.map_or(A::ONE, |given| given[row]),
        };
        (0..rows).map(weight).collect()
    }

    /// Writes equal shares of the columns that are alike to a row.
    pub(super) fn share(&self, row: usize, shares: &mut [A]) {
        shares.fill(A::ZERO);
        let columns = self.of(row);
        for &column in &columns {
            shares[column] = A::of(1.0 / columns.len() as f64);
        }
    }
}
