//! How the operands of a layer lie in the graph and in the file. Ours are `[N, ...]`, row by row; the file has them
//! transposed, so that no runtime has to do it, with 4-bit codes and shifts packed two a byte along N. Those of a table stay
//! row by row, as rows are looked up.

use super::gather;
use zqc_formats::{pack_nibbles, transpose, transpose_nibbles, unpack_nibbles};
use zqc_ir::Tensor;
use zqc_ir::op::{QuantizedLinear, port};
use zqc_ir::operands::codes_dtype;
use zqc_ir::tensor::{DataType, TensorError, bits};

/// The operand at `port` of a layer as the file wants it.
///
/// # Errors
/// When the tensor cannot be read.
pub(crate) fn to_file(linear: &QuantizedLinear, at: usize, tensor: &Tensor) -> Result<Tensor, TensorError> {
    let (&QuantizedLinear { k, n, .. }, groups) = (linear, linear.groups());
    match at {
        port::WEIGHT if linear.format.bits() == 4 => {
            let codes = transpose_nibbles(&tensor.bytes()?, n, k);
            Tensor::new(DataType::Uint8, &[k, n.div_ceil(2)], codes)
        }
        port::SHIFTS => {
            let shifts = transpose(&tensor.bytes()?, n, groups);
            let packed: Vec<u8> = shifts.chunks(n).flat_map(pack_nibbles).collect();
            Tensor::new(DataType::Uint8, &[groups, n.div_ceil(2)], packed)
        }
        _ => transposed(tensor),
    }
}

/// The inverse of [`to_file`], for a tensor that has the type and the dimensions of the file.
///
/// # Errors
/// When the tensor cannot be read.
pub(crate) fn to_graph(linear: &QuantizedLinear, at: usize, tensor: &Tensor) -> Result<Tensor, TensorError> {
    let (&QuantizedLinear { k, n, .. }, groups) = (linear, linear.groups());
    match at {
        port::WEIGHT if linear.format.bits() == 4 => {
            let codes = transpose_nibbles(&tensor.bytes()?, k, n);
            Tensor::new(DataType::Uint8, &[n, k.div_ceil(2)], codes)
        }
        port::SHIFTS => {
            let packed = tensor.bytes()?;
            let shifts: Vec<u8> =
                packed.chunks(n.div_ceil(2)).flat_map(|row| unpack_nibbles(row, n)).collect();
            Tensor::new(DataType::Uint8, &[n, groups], transpose(&shifts, groups, n))
        }
        _ => transposed(tensor),
    }
}

/// The operand at `port` of a table as the file wants it: in its own order, codes in a type that rows can be looked up in.
///
/// # Errors
/// When the tensor cannot be read.
pub(crate) fn rows_to_file(
    table: &QuantizedLinear,
    at: usize,
    tensor: &Tensor,
) -> Result<Tensor, TensorError> {
    retyped(table, at, tensor, gather::codes_type(table.format))
}

/// The inverse of [`rows_to_file`], for a tensor that has the type and the dimensions of the file.
///
/// # Errors
/// When the tensor cannot be read.
pub(crate) fn rows_to_graph(
    table: &QuantizedLinear,
    at: usize,
    tensor: &Tensor,
) -> Result<Tensor, TensorError> {
    retyped(table, at, tensor, codes_dtype(table.format))
}

fn retyped(
    table: &QuantizedLinear,
    at: usize,
    tensor: &Tensor,
    codes: DataType,
) -> Result<Tensor, TensorError> {
    match at {
        port::WEIGHT => Tensor::new(codes, &[table.n, table.k], tensor.bytes()?.into_owned()),
        _ => Ok(tensor.clone()),
    }
}

/// The transpose of a matrix; a vector is its own.
fn transposed(tensor: &Tensor) -> Result<Tensor, TensorError> {
    let Some([rows, cols]) = tensor.matrix_dims() else { return Ok(tensor.clone()) };
    fn elements<const SIZE: usize>(bytes: &[u8], rows: usize, cols: usize) -> Vec<u8> {
        transpose(bytes.as_chunks::<SIZE>().0, rows, cols).into_flattened()
    }
    tensor.check()?;
    let (dtype, bytes) = (tensor.dtype()?, tensor.bytes()?);
    let bytes = match bits(dtype) {
        Some(8) => elements::<1>(&bytes, rows, cols),
        Some(16) => elements::<2>(&bytes, rows, cols),
        _ => elements::<4>(&bytes, rows, cols),
    };
    Tensor::new(dtype, &[cols, rows], bytes)
}
