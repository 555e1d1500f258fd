//! Weights column by column, many rows abreast: the layout that the solvers' inner loops run over.

/// Output features solved together. Rows are independent of each other; a constant number of them makes the partition
/// independent of the number of threads, and the innermost loops of constant length.
pub(crate) const ROWS: usize = 128;

/// One input feature of [`ROWS`] output features.
pub(crate) type Column = [f32; ROWS];

/// The columns of at most [`ROWS`] `rows` of `cols` weights each, zero beyond the last row.
pub(crate) fn to_columns(rows: &[f32], cols: usize) -> Vec<Column> {
    let mut columns = vec![[0.0; ROWS]; cols];
    for (at, row) in rows.chunks_exact(cols).enumerate() {
        for (column, &value) in columns.iter_mut().zip(row) {
            column[at] = value;
        }
    }
    columns
}

/// Writes row after row, as many as `rows` has room for: for each of `columns`, what `value` takes from its row.
pub(crate) fn to_rows<T, C>(rows: &mut [T], columns: &[C], value: impl Fn(&C, usize) -> T) {
    for (at, row) in rows.chunks_exact_mut(columns.len()).enumerate() {
        for (out, column) in row.iter_mut().zip(columns) {
            *out = value(column, at);
        }
    }
}
