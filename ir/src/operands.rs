//! The operands of a quantized layer: what the numbers of `zqc_formats` are as tensors, and back.

use zqc_formats::FormatError;
use zqc_formats::{
    FactorFormat, Factors, Format, LowRank, QuantizedMatrix, Scales, pack_nibbles, unpack_nibbles,
};

use crate::graph::{Graph, Node};
use crate::op::{QuantizedLinear, port};
use crate::patch::{ChangeBuilder, ValueRef};
use crate::tensor::{DataType, Tensor, TensorError, name};

/// Why tensors are no operands of a quantized layer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OperandError {
    /// A tensor is missing or has the wrong type or size.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The parts of the weight do not fit together.
    #[error(transparent)]
    Weight(#[from] FormatError),
    /// A row is looked up that the table does not have.
    #[error("index {index} is not within a table of {rows} rows")]
    #[allow(missing_docs)] // the message names the fields
    Row { index: i64, rows: usize },
}

/// An operand of a [`QuantizedLinear`].
#[derive(Debug, Clone, PartialEq)]
pub struct Operand {
    /// Where the layer reads it, see [`port`].
    pub port: usize,
    /// What to append to the name of the weight: `e2m1_scales`.
    pub suffix: String,
    /// Its value.
    pub tensor: Tensor,
}

/// The operands of a layer with this weight, and perhaps a low-rank branch, by port.
///
/// # Errors
/// When the parts of the weight or of the branch do not fit together.
pub fn operands(matrix: &QuantizedMatrix, low_rank: Option<&LowRank>) -> Result<Vec<Operand>, OperandError> {
    matrix.check()?;
    let &QuantizedMatrix { format, rows, cols, .. } = matrix;
    let groups = [rows, matrix.groups()];
    let operand = |port, suffix: String, tensor| Operand { port, suffix, tensor };
    let codes: Vec<u8> = match format.bits() {
        4 => matrix.codes.chunks(cols).flat_map(pack_nibbles).collect(),
        _ => matrix.codes.clone(),
    };
    let codes = Tensor::new(codes_dtype(format), &[rows, codes.len() / rows], codes)?;
    let mut operands = vec![operand(port::WEIGHT, format.to_string(), codes)];
    let suffix = format!("{format}_scales");
    match &matrix.scales {
        Scales::Grouped(scales) => {
            operands.push(operand(port::SCALES, suffix, Tensor::from_f32(&groups, scales.clone())?));
        }
        Scales::Shifted { rows: scales, shifts, .. } => {
            let shifts = Tensor::new(DataType::Uint8, &groups, shifts.clone())?;
            operands.extend([
                operand(port::SCALES, suffix, Tensor::from_f32(&[rows, 1], scales.clone())?),
                operand(port::SHIFTS, format!("{format}_shifts"), shifts),
            ]);
        }
    }
    if let Some(zero_points) = &matrix.zero_points {
        let bytes: Vec<u8> = zero_points.iter().map(|&zero| zero as u8).collect();
        let tensor = Tensor::new(DataType::Int8, &groups, bytes)?;
        operands.push(operand(port::ZERO_POINTS, format!("{format}_zero_points"), tensor));
    }
    if let Some(low_rank) = low_rank {
        low_rank.check()?;
        let &LowRank { rank, rows, cols, .. } = low_rank;
        let dtype = factor_dtype(low_rank.format());
        let (up, down) = match &low_rank.factors {
            Factors::E4M3 { up, down } => (up.clone(), down.clone()),
            Factors::Bf16 { up, down } => (little_endian(up), little_endian(down)),
        };
        let scales = Tensor::from_f32(&[rank], low_rank.scales.clone())?;
        operands.extend([
            operand(port::LOW_RANK_DOWN, "low_rank_down".into(), Tensor::new(dtype, &[rank, cols], down)?),
            operand(port::LOW_RANK_UP, "low_rank_up".into(), Tensor::new(dtype, &[rows, rank], up)?),
            operand(port::LOW_RANK_SCALES, "low_rank_scales".into(), scales),
        ]);
    }
    Ok(operands)
}

/// Adds operands to `change` as initializers, called `HINT_SUFFIX`; their values, with their ports.
pub fn add(change: &mut ChangeBuilder, hint: &str, operands: Vec<Operand>) -> Vec<(usize, ValueRef)> {
    let add = |operand: Operand| {
        (operand.port, change.constant(&format!("{hint}_{}", operand.suffix), operand.tensor))
    };
    operands.into_iter().map(add).collect()
}

/// The inputs of a layer by port: the activation, operands with their ports, and perhaps a bias.
pub fn inputs<V: Clone>(
    x: V,
    operands: impl IntoIterator<Item = (usize, V)>,
    bias: Option<V>,
) -> Vec<Option<V>> {
    let mut inputs = vec![None; port::QUANTIZED_BIAS];
    inputs[port::X] = Some(x);
    for (port, value) in operands {
        inputs[port] = Some(value);
    }
    inputs.push(bias);
    let used = inputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    inputs.truncate(used);
    inputs
}

/// The weight of the layer `linear`, which `node` is.
///
/// # Errors
/// When an operand cannot be read, or the operands do not fit together.
pub fn matrix(graph: &Graph, node: &Node, linear: &QuantizedLinear) -> Result<QuantizedMatrix, OperandError> {
    let matrix = read(graph, node, linear, None)?;
    matrix.check()?;
    Ok(matrix)
}

/// The rows at `indices` of the table `table`, which `node` looks rows up in; the codes of no other are copied.
///
/// # Errors
/// When an operand cannot be read, or there is no such row.
pub fn rows(
    graph: &Graph,
    node: &Node,
    table: &QuantizedLinear,
    indices: &[usize],
) -> Result<QuantizedMatrix, OperandError> {
    read(graph, node, table, Some(indices))
}

/// All rows of a weight, or those at some indices.
fn read(
    graph: &Graph,
    node: &Node,
    linear: &QuantizedLinear,
    indices: Option<&[usize]>,
) -> Result<QuantizedMatrix, OperandError> {
    let &QuantizedLinear { k, n, format, group_size, ladder, .. } = linear;
    let groups = linear.groups();
    let bytes = |at| Ok::<_, OperandError>(constant(graph, node, at)?.bytes()?);
    let codes = chosen(&bytes(port::WEIGHT)?, linear.row_bytes(), indices)?;
    let codes = match format.bits() {
        4 => codes.chunks_exact(linear.row_bytes().max(1)).flat_map(|row| unpack_nibbles(row, k)).collect(),
        _ => codes,
    };
    let scales = constant(graph, node, port::SCALES)?.to_f32()?;
    let scales = match ladder {
        None => Scales::Grouped(chosen(&scales, groups, indices)?),
        Some(ladder) => Scales::Shifted {
            ladder,
            rows: chosen(&scales, 1, indices)?,
            shifts: chosen(&bytes(port::SHIFTS)?, groups, indices)?,
        },
    };
    let zero_points = match node.input(port::ZERO_POINTS) {
        None => None,
        Some(_) => {
            let bytes = chosen(&bytes(port::ZERO_POINTS)?, groups, indices)?;
            Some(bytes.into_iter().map(|byte| byte as i8).collect())
        }
    };
    let rows = indices.map_or(n, <[usize]>::len);
    Ok(QuantizedMatrix { format, rows, cols: k, group_size, codes, scales, zero_points })
}

/// All rows of a matrix with rows of this length, or those at some indices.
fn chosen<T: Copy>(values: &[T], row: usize, indices: Option<&[usize]>) -> Result<Vec<T>, OperandError> {
    let Some(indices) = indices else { return Ok(values.to_vec()) };
    let missing = |index: usize| OperandError::Row { index: index as i64, rows: values.len() / row.max(1) };
    let mut chosen = Vec::with_capacity(indices.len().saturating_mul(row));
    for &index in indices {
        let start = index.saturating_mul(row);
        let found = values.get(start..start.saturating_add(row));
        chosen.extend_from_slice(found.ok_or_else(|| missing(index))?);
    }
    Ok(chosen)
}

/// The low-rank branch of the layer `linear`, which `node` is, if it has one.
///
/// # Errors
/// As [`matrix`].
pub fn low_rank(
    graph: &Graph,
    node: &Node,
    linear: &QuantizedLinear,
) -> Result<Option<LowRank>, OperandError> {
    let &QuantizedLinear { k, n, rank, .. } = linear;
    if rank == 0 {
        return Ok(None);
    }
    let down = constant(graph, node, port::LOW_RANK_DOWN)?;
    let format = factor_format(down.dtype()?)?;
    let (down, up) = (down.bytes()?, constant(graph, node, port::LOW_RANK_UP)?.bytes()?);
    let factors = match format {
        FactorFormat::E4M3 => Factors::E4M3 { up: up.into_owned(), down: down.into_owned() },
        FactorFormat::Bf16 => Factors::Bf16 { up: from_little_endian(&up), down: from_little_endian(&down) },
    };
    let scales = constant(graph, node, port::LOW_RANK_SCALES)?.to_f32()?;
    let low_rank = LowRank { rank, rows: n, cols: k, factors, scales };
    low_rank.check()?;
    Ok(Some(low_rank))
}

/// The element type of codes at [`port::WEIGHT`].
pub fn codes_dtype(format: Format) -> DataType {
    // ONNX Runtime has no operators on packed types: two codes of 4 bits are a byte.
    if format.bits() == 4 { DataType::Uint8 } else { native_dtype(format).unwrap_or(DataType::Uint8) }
}

/// ONNX's own type for codes of this format, if it has one.
pub fn native_dtype(format: Format) -> Option<DataType> {
    DataType::try_from(format.onnx_type()?).ok()
}

/// The format of codes of ONNX's own type `dtype`, if it is one of ours.
pub fn format_of(dtype: DataType) -> Option<Format> {
    Format::of_onnx_type(dtype as i32)
}

/// The element type of low-rank factors.
pub fn factor_dtype(format: FactorFormat) -> DataType {
    match format {
        FactorFormat::E4M3 => DataType::Float8e4m3fn,
        FactorFormat::Bf16 => DataType::Bfloat16,
    }
}

/// The format of low-rank factors of this element type.
///
/// # Errors
/// When factors cannot have the type.
pub fn factor_format(dtype: DataType) -> Result<FactorFormat, TensorError> {
    match dtype {
        DataType::Float8e4m3fn => Ok(FactorFormat::E4M3),
        DataType::Bfloat16 => Ok(FactorFormat::Bf16),
        other => Err(TensorError::Kind { found: name(other), wanted: "low-rank factors" }),
    }
}

fn constant<'g>(graph: &'g Graph, node: &Node, port: usize) -> Result<&'g Tensor, TensorError> {
    node.input(port).and_then(|value| graph.constant(value)).ok_or(TensorError::NotLoaded)
}

fn little_endian(codes: &[u16]) -> Vec<u8> {
    codes.iter().flat_map(|code| code.to_le_bytes()).collect()
}

fn from_little_endian(bytes: &[u8]) -> Vec<u16> {
    bytes.as_chunks().0.iter().map(|&code| u16::from_le_bytes(code)).collect()
}
