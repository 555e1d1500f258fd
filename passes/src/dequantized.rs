//! Float constants that are stored in a low-precision type, behind `DequantizeLinear`.

use std::borrow::Cow;

use zqc_formats::{Format, unpack_nibbles};
use zqc_ir::onnx::proto::NodeProto;
use zqc_ir::operands::format_of;
use zqc_ir::tensor::{DataType, TensorError, name};
use zqc_ir::{Graph, Tensor, ValueId};

/// What a `DequantizeLinear` of constants yields: `(code - zero_point) * scale`.
pub(crate) struct Dequantized<'g> {
    codes: Cow<'g, Tensor>,
    scales: Cow<'g, Tensor>,
    zero_points: Option<Cow<'g, Tensor>>,
    sharing: Sharing,
    /// The element type of the result.
    pub dtype: DataType,
}

/// Which codes share a scale.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sharing {
    /// All.
    Tensor,
    /// Those of an index along an axis of this extent, `stride` codes from index to index.
    Axis { extent: usize, stride: usize },
    /// Blocks of `size` codes along the axis.
    Blocks { extent: usize, stride: usize, size: usize },
}

impl Sharing {
    /// How `node` shares scales of these dimensions among codes of those.
    fn of(node: &NodeProto, codes: &[i64], scales: &[i64]) -> Option<Self> {
        if scales.len() <= 1 && scales.iter().product::<i64>() == 1 {
            return Some(Self::Tensor);
        }
        let axis = node.int_or("axis", 1);
        let axis = usize::try_from(if axis < 0 { axis + codes.len() as i64 } else { axis }).ok()?;
        let (&along, inner) = codes.get(axis..)?.split_first()?;
        let extent = usize::try_from(along).ok()?;
        let stride =
            inner.iter().try_fold(1usize, |stride, &dim| stride.checked_mul(usize::try_from(dim).ok()?))?;
        match usize::try_from(node.int_or("block_size", 0)).ok()? {
            0 => (scales == [along]).then_some(Self::Axis { extent, stride }),
            size => {
                let mut blocks = codes.to_vec();
                blocks[axis] = extent.div_ceil(size) as i64;
                (scales == blocks).then_some(Self::Blocks { extent, stride, size })
            }
        }
    }

    /// The index of the scale of a code.
    fn scale(self, code: usize) -> usize {
        match self {
            Self::Tensor => 0,
            Self::Axis { extent, stride } => code / stride % extent,
            Self::Blocks { extent, stride, size } => {
                let (outer, along) = (code / stride / extent, code / stride % extent);
                (outer * extent.div_ceil(size) + along / size) * stride + code % stride
            }
        }
    }
}

impl<'g> Dequantized<'g> {
    /// The result `value` of such a node; `None` for all other values.
    pub(crate) fn of(graph: &'g Graph, value: ValueId) -> Option<Self> {
        let node = graph.node(graph.producer(value)?);
        let proto = node.op.as_standard("DequantizeLinear")?;
        node.sole_output()?;
        let (codes, scales) = (graph.literal(node.input(0)?)?, graph.literal(node.input(1)?)?);
        let zero_points = match node.input(2) {
            Some(given) => Some(graph.literal(given).filter(|zeros| zeros.dims() == scales.dims())?),
            None => None,
        };
        let dtype = match proto.int_or("output_dtype", 0) {
            0 => scales.dtype().ok()?,
            code => DataType::try_from(i32::try_from(code).ok()?).ok()?,
        };
        let sharing = Sharing::of(proto, codes.dims(), scales.dims())?;
        Some(Self { codes, scales, zero_points, sharing, dtype })
    }

    /// The dimensions of the result.
    pub(crate) fn dims(&self) -> &[i64] {
        self.codes.dims()
    }

    /// The element type of the codes, by its short name.
    pub(crate) fn stored(&self) -> &'static str {
        self.codes.dtype().map_or("?", name)
    }

    /// The size of codes, scales and zero points, in bytes.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let operands = [Some(&self.codes), Some(&self.scales), self.zero_points.as_ref()];
        operands.into_iter().flatten().map(|operand| operand.byte_len().unwrap_or(0) as u64).sum()
    }

    /// The result.
    ///
    /// # Errors
    /// When an operand cannot be read, or the codes are of a type that is not known as one of codes.
    pub(crate) fn tensor(&self) -> Result<Tensor, TensorError> {
        let scales = self.scales.to_f32()?;
        let zero_points = self.zero_points.as_deref().map(values).transpose()?;
        let zero = |scale: usize| zero_points.as_ref().map_or(0.0, |zeros| zeros[scale]);
        let mut result = values(&self.codes)?;
        for (code, value) in result.iter_mut().enumerate() {
            let scale = self.sharing.scale(code);
            *value = (*value - zero(scale)) * scales[scale];
        }
        let dims: Vec<usize> = self.dims().iter().map(|&dim| dim as usize).collect();
        Tensor::from_f32_as(self.dtype, &dims, result)
    }
}

/// The values of codes.
fn values(codes: &Tensor) -> Result<Vec<f32>, TensorError> {
    codes.check()?;
    let (bytes, elements) = (codes.bytes()?, codes.elements()?);
    let decoded = |codes: &[u8], format: Format| codes.iter().map(|&code| format.decode(code)).collect();
    let nibbles = || unpack_nibbles(&bytes, elements);
    Ok(match codes.dtype()? {
        DataType::Uint8 => bytes.iter().map(|&code| f32::from(code)).collect(),
        DataType::Int16 => bytes.as_chunks().0.iter().map(|&code| i16::from_le_bytes(code).into()).collect(),
        DataType::Uint16 => bytes.as_chunks().0.iter().map(|&code| u16::from_le_bytes(code).into()).collect(),
        DataType::Int32 => bytes.as_chunks().0.iter().map(|&code| i32::from_le_bytes(code) as f32).collect(),
        DataType::Uint4 => nibbles().into_iter().map(f32::from).collect(),
        other => match format_of(other) {
            Some(format) if format.bits() == 4 => decoded(&nibbles(), format),
            Some(format) => decoded(&bytes, format),
            None => return Err(TensorError::Kind { found: name(other), wanted: "codes" }),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zqc_ir::op::attribute::int;

    fn node(axis: i64, block_size: i64) -> NodeProto {
        NodeProto { attribute: vec![int("axis", axis), int("block_size", block_size)], ..Default::default() }
    }

    /// The scales of a matrix `[2, 3]` of codes.
    fn indices(node: &NodeProto, scales: &[i64]) -> Option<Vec<usize>> {
        let sharing = Sharing::of(node, &[2, 3], scales)?;
        Some((0..6).map(|code| sharing.scale(code)).collect())
    }

    #[test]
    fn every_code_finds_its_scale() {
        assert_eq!(indices(&node(1, 0), &[]), Some(vec![0; 6]));
        assert_eq!(indices(&node(1, 0), &[3]), Some(vec![0, 1, 2, 0, 1, 2]));
        assert_eq!(indices(&node(-2, 0), &[2]), Some(vec![0, 0, 0, 1, 1, 1]));
        assert_eq!(indices(&node(1, 2), &[2, 2]), Some(vec![0, 0, 1, 2, 2, 3]));
        assert_eq!(indices(&node(0, 2), &[1, 3]), Some(vec![0, 1, 2, 0, 1, 2]));
        for (node, scales) in [(node(1, 0), [2, 2]), (node(1, 2), [2, 3]), (node(2, 0), [1, 3])] {
            assert_eq!(indices(&node, &scales), None, "{scales:?}");
        }
    }

    #[test]
    fn codes_of_four_bits_are_read_low_nibble_first() {
        let tensor = |dtype| Tensor::new(dtype, &[3], vec![0xf1, 0x07]).unwrap();
        assert_eq!(values(&tensor(DataType::Int4)).unwrap(), [1.0, -1.0, 7.0]);
        assert_eq!(values(&tensor(DataType::Uint4)).unwrap(), [1.0, 15.0, 7.0]);
        assert_eq!(values(&tensor(DataType::Float4e2m1)).unwrap(), [0.5, -6.0, 6.0]);
    }
}
