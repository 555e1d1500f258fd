//! Weights that ONNX Runtime's `MatMulNBits` holds in blocks of codes.

use std::borrow::Cow;

use zqc_ir::tensor::{DataType, TensorError};
use zqc_ir::{Graph, NodeId, Tensor};

use crate::constant_view::is_float;
use crate::contrib::as_microsoft;

/// The constant matrix `[N, K]` of a `MatMulNBits`: `(code - zero point) * scale`, where so many codes of a row share both.
pub(crate) struct NBits<'g> {
    codes: Cow<'g, Tensor>,
    scales: Cow<'g, Tensor>,
    zero_points: Option<Cow<'g, Tensor>>,
    bits: usize,
    block_size: usize,
    pub n: usize,
    pub k: usize,
    /// The element type in which the operator computes.
    pub dtype: DataType,
}

impl<'g> NBits<'g> {
    /// The matrix of the node; `None` for all other nodes, and where its operands are not constant, not of the sizes that its
    /// attributes say, or in an order of their own.
    pub(crate) fn of(graph: &'g Graph, id: NodeId) -> Option<Self> {
        let node = graph.node(id);
        let proto = as_microsoft(&node.op, "MatMulNBits")?;
        node.sole_output()?;
        let plain = node.input(4).is_none() && proto.int_or("weight_prepacked", 0) == 0;
        let [bits, block_size, n, k] = [("bits", 4), ("block_size", 0), ("N", 0), ("K", 0)]
            .map(|(name, default)| usize::try_from(proto.int_or(name, default)).unwrap_or(0));
        let fits =
            [2, 4, 8].contains(&bits) && block_size.is_power_of_two() && block_size >= 16 && n > 0 && k > 0;
        (plain && fits).then_some(())?;
        let (codes, scales) = (graph.literal(node.input(1)?)?, graph.literal(node.input(2)?)?);
        let zero_points = match node.input(3) {
            Some(given) => Some(graph.literal(given)?),
            None => None,
        };
        let dtype = scales.dtype().ok().filter(|&dtype| is_float(dtype))?;
        let matrix = Self { codes, scales, zero_points, bits, block_size, n, k, dtype };
        matrix.has_sizes().then_some(matrix)
    }

    /// Whether the operands have as many elements as the matrix needs.
    fn has_sizes(&self) -> bool {
        let has = |tensor: &Tensor, rows: usize| {
            self.n.checked_mul(rows).is_some_and(|size| tensor.elements() == Ok(size))
        };
        let is_bytes = |tensor: &Tensor| tensor.dtype() == Ok(DataType::Uint8);
        let blocks = self.blocks();
        let Some(row) = self.block_size.checked_mul(self.bits).and_then(|bits| blocks.checked_mul(bits / 8))
        else {
            return false;
        };
        let zero_points = self.zero_points.as_deref().is_none_or(|zeros| {
            let packed = is_bytes(zeros) && has(zeros, self.zero_bytes());
            packed || zeros.dtype().is_ok_and(is_float) && has(zeros, blocks)
        });
        is_bytes(&self.codes) && has(&self.codes, row) && has(&self.scales, blocks) && zero_points
    }

    fn blocks(&self) -> usize {
        self.k.div_ceil(self.block_size)
    }

    /// Bytes of the zero points of a row, where these are codes.
    fn zero_bytes(&self) -> usize {
        (self.blocks() * self.bits).div_ceil(8)
    }

    /// What the codes are: `u4`.
    pub(crate) fn stored(&self) -> &'static str {
        match self.bits {
            2 => "u2",
            4 => "u4",
            _ => "u8",
        }
    }

    /// The size of codes, scales and zero points, in bytes.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let operands = [Some(&self.codes), Some(&self.scales), self.zero_points.as_ref()];
        operands.into_iter().flatten().map(|operand| operand.byte_len().unwrap_or(0) as u64).sum()
    }

    /// The matrix `[N, K]`.
    ///
    /// # Errors
    /// When an operand cannot be read.
    pub(crate) fn tensor(&self) -> Result<Tensor, TensorError> {
        let (codes, scales, blocks) = (self.codes.bytes()?, self.scales.to_f32()?, self.blocks());
        self.codes.check()?;
        let zeros = self.zero_points(blocks)?;
        let row_codes = blocks * self.block_size;
        let value = |row: usize, column: usize| {
            let block = row * blocks + column / self.block_size;
            (self.code(&codes, row * row_codes + column) - zeros[block]) * scales[block]
        };
        let values = (0..self.n).flat_map(|row| (0..self.k).map(move |column| (row, column)));
        let values = values.map(|(row, column)| value(row, column)).collect();
        Tensor::from_f32_as(self.dtype, &[self.n, self.k], values)
    }

    /// Those of all blocks.
    fn zero_points(&self, blocks: usize) -> Result<Vec<f32>, TensorError> {
        let Some(zeros) = self.zero_points.as_deref() else {
            return Ok(vec![(1 << (self.bits - 1)) as f32; self.n * blocks]);
        };
        if zeros.dtype()? != DataType::Uint8 {
            return zeros.to_f32();
        }
        zeros.check()?;
        let bytes = zeros.bytes()?;
        let row_codes = self.zero_bytes() * 8 / self.bits;
        let codes = (0..self.n).flat_map(|row| (0..blocks).map(move |block| row * row_codes + block));
        Ok(codes.map(|at| self.code(&bytes, at)).collect())
    }

    /// Code `at` of packed ones, of which the first lies in the low bits of a byte.
    fn code(&self, bytes: &[u8], at: usize) -> f32 {
        let bit = at * self.bits;
        let mask = (1u16 << self.bits) - 1;
        f32::from((u16::from(bytes[bit / 8]) >> (bit % 8)) & mask)
    }
}
