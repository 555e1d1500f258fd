//! The rows of a large float matrix.

use zqc_ir::op::{Layout, Linear};
use zqc_ir::tensor::TensorError;
use zqc_ir::{Graph, Tensor, ValueId};

use crate::token_table::TokenTable;

/// A float matrix `[N, K]`, of which a block of rows is read at a time: a table is large.
pub(crate) struct FloatRows {
    tensor: Tensor,
    layout: Layout,
    n: usize,
    k: usize,
    alpha: f32,
}

impl FloatRows {
    /// Those of a table.
    pub(crate) fn of_table(graph: &Graph, table: &TokenTable) -> Result<Self, TensorError> {
        let &TokenTable { layout, rows, columns, .. } = table;
        Ok(Self { tensor: table.tensor(graph)?, layout, n: rows, k: columns, alpha: 1.0 })
    }

    /// Those of the layer `linear`, whose weight is `value`.
    pub(crate) fn of_layer(graph: &Graph, value: ValueId, linear: &Linear) -> Result<Self, TensorError> {
        let tensor = graph.constant(value).ok_or(TensorError::NotLoaded)?.clone();
        let &Linear { layout, n, k, alpha, .. } = linear;
        Ok(Self { tensor, layout, n, k, alpha })
    }

    /// `[N, K]`.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.n, self.k]
    }

    /// Bytes of the matrix.
    pub(crate) fn bytes(&self) -> u64 {
        self.tensor.byte_len().unwrap_or(0) as u64
    }

    /// `count` rows from `first` on, with `alpha` in them.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn block(&self, first: usize, count: usize) -> Result<Vec<f32>, TensorError> {
        let &Self { ref tensor, layout, n, k, alpha } = self;
        let part = |start: usize, len: usize| tensor.part(start, &[len as i64])?.to_f32();
        let mut block = match layout {
            Layout::OutputInput => part(first * k, count * k)?,
            Layout::InputOutput => {
                let mut block = vec![0.0; count * k];
                for column in 0..k {
                    let values = part(column * n + first, count)?;
                    block.iter_mut().skip(column).step_by(k).zip(values).for_each(|(to, from)| *to = from);
                }
                block
            }
        };
        if alpha != 1.0 {
            block.iter_mut().for_each(|value| *value *= alpha);
        }
        Ok(block)
    }
}
