//! Tables of 8-bit codes, row by row: look-ups, and linear layers whose weights lie so.

use std::sync::{Arc, OnceLock};

use cudarc::driver::sys::{CUdeviceptr, CUstream};

use crate::buffer::Buffer;
use crate::device::Device;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::launch::{argument, block_count, dimension, launch};
use crate::variant::{DataType, IndexType, Specialization, TableCodes, TableShape};

/// Tiles of tokens that linear layers of 8-bit weights have.
const TILES: [u32; 4] = [8, 16, 32, 64];

/// Groups that are shorter than the row are a multiple of this.
const GROUP_MULTIPLE: usize = 64;

/// A table `[rows][k]` of codes in device memory, with scales in f32: one for every row, or for every group of a row.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Address of the codes.
    pub codes: CUdeviceptr,
    /// Address of the scales.
    pub scales: CUdeviceptr,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub k: usize,
}

/// A [`Table`] that came from the host.
#[derive(Debug)]
pub struct LoadedTable {
    codes: Buffer,
    scales: Buffer,
    rows: usize,
    k: usize,
}

impl LoadedTable {
    /// Copies codes `[rows][k]` and their scales, one or several for each row, to a device.
    ///
    /// # Errors
    /// When there are not as many as that, or the device is out of memory.
    pub fn new(device: &Device, codes: &[u8], scales: &[f32], [rows, k]: [usize; 2]) -> Result<Self, Error> {
        let expected = rows.saturating_mul(k);
        if codes.len() != expected {
            return Err(Error::Length { what: "the table", expected, actual: codes.len() });
        }
        let groups = scales.len().checked_div(rows).unwrap_or(0).max(1);
        if scales.len() != rows * groups {
            return Err(Error::Length { what: "the scales", expected: rows * groups, actual: scales.len() });
        }
        let scales: Vec<u8> = scales.iter().flat_map(|scale| scale.to_ne_bytes()).collect();
        let _current = device.make_current()?;
        Ok(Self {
            codes: Buffer::copied_from(device, codes)?,
            scales: Buffer::copied_from(device, &scales)?,
            rows,
            k,
        })
    }

    /// Where it is.
    pub fn table(&self) -> Table {
        let &Self { ref codes, ref scales, rows, k } = self;
        Table { codes: codes.address(), scales: scales.address(), rows, k }
    }
}

/// Looks rows of tables up.
#[derive(Debug)]
pub struct TableGather {
    device: Device,
    codes: TableCodes,
    output: DataType,
    kernels: [OnceLock<Arc<Kernel>>; 2],
}

impl TableGather {
    /// One for tables of these codes.
    pub fn new(device: &Device, codes: TableCodes, output: DataType) -> Self {
        Self { device: device.clone(), codes, output, kernels: Default::default() }
    }

    /// Writes the rows at `number` indices to `y` `[number][k]`, put on the stream. Negative indices count from the end; a row that the
    /// table does not have is zeros.
    ///
    /// # Errors
    /// As [`RowQuantizer::quantize`](crate::RowQuantizer::quantize).
    ///
    /// # Safety
    /// As [`RowQuantizer::quantize`](crate::RowQuantizer::quantize).
    pub unsafe fn gather(
        &self,
        indices: (CUdeviceptr, IndexType),
        number: usize,
        table: Table,
        y: CUdeviceptr,
        stream: CUstream,
    ) -> Result<(), Error> {
        let (indices, index) = indices;
        let Table { codes, scales, rows, k } = table;
        let blocks = block_count("the indices", number)?;
        let (rows, k) = (rows as i64, dimension("the columns", k)?);
        let kernel = self.device.kernel_once(&self.kernels[usize::from(index == IndexType::I64)], || {
            Specialization::table_gather(self.codes, index, self.output)
        })?;
        let mut arguments = [
            argument(&indices),
            argument(&codes),
            argument(&scales),
            argument(&y),
            argument(&rows),
            argument(&k),
        ];
        // SAFETY: the arguments are those of zqc_table_gather; the caller vouches for the addresses.
        unsafe { launch(&self.device, kernel, blocks, stream, &mut arguments) }
    }
}

/// Linear layers of 8-bit weights that lie row by row.
#[derive(Debug)]
pub struct TableLinear {
    device: Device,
    codes: TableCodes,
    output: DataType,
    group_size: usize,
    /// By type of the input, by whether rows have groups, and by tile.
    kernels: [[[OnceLock<Arc<Kernel>>; TILES.len()]; 2]; DataType::ALL.len() + 1],
}

/// What a [`TableLinear`] reads: `[tokens][k]` in device memory.
#[derive(Debug, Clone, Copy)]
pub enum TableInput {
    /// Floats at an address.
    Floats(CUdeviceptr, DataType),
    /// E4M3 codes, and a scale in f32 for each token.
    Codes {
        /// Address of the codes.
        codes: CUdeviceptr,
        /// Address of the scales.
        scales: CUdeviceptr,
    },
}

impl TableLinear {
    /// One for weights of these codes, of which `group_size` along a row share a scale.
    pub fn new(device: &Device, codes: TableCodes, group_size: usize, output: DataType) -> Self {
        Self { device: device.clone(), codes, output, group_size, kernels: Default::default() }
    }

    /// Whether there are kernels for rows of `k` columns in groups of this size.
    ///
    /// # Errors
    /// [`Error::Argument`] when there are none.
    pub fn check_groups(group_size: usize, k: usize) -> Result<(), Error> {
        if group_size >= k || group_size > 0 && group_size.is_multiple_of(GROUP_MULTIPLE) {
            return Ok(());
        }
        let (what, actual) = ("the size of groups", group_size as i64);
        Err(Error::Argument { what, actual, reason: "neither whole rows nor a multiple of 64" })
    }

    /// Writes `x W^T` to `y` `[tokens][rows]`, put on the stream. `weight` has a scale for every group, `[rows][groups]`.
    ///
    /// # Errors
    /// As [`check_groups`](Self::check_groups) and [`RowQuantizer::quantize`](crate::RowQuantizer::quantize).
    ///
    /// # Safety
    /// As [`RowQuantizer::quantize`](crate::RowQuantizer::quantize).
    pub unsafe fn forward(
        &self,
        x: TableInput,
        tokens: usize,
        weight: Table,
        y: CUdeviceptr,
        stream: CUstream,
    ) -> Result<(), Error> {
        let (x, token_scales, input) = match x {
            TableInput::Floats(x, data_type) => (x, 0, Some(data_type)),
            TableInput::Codes { codes, scales } => (codes, scales, None),
        };
        let Table { codes, scales, rows, k } = weight;
        Self::check_groups(self.group_size, k)?;
        let is_grouped = self.group_size < k;
        let group_size = dimension("the size of groups", self.group_size.min(k))?;
        let (m, n) = (dimension("the tokens", tokens)?, dimension("the rows", rows)?);
        let k = dimension("the columns", k)?;
        let tile = TILES.iter().position(|&tile| tokens <= tile as usize).unwrap_or(TILES.len() - 1);
        let of_input = &self.kernels[input.map_or(DataType::ALL.len(), |input| input as usize)];
        let kernel = self.device.kernel_once(&of_input[usize::from(is_grouped)][tile], || {
            let shape = TableShape { codes: self.codes, is_grouped, input, output: self.output };
            Specialization::table_linear(shape, TILES[tile])
        })?;
        let shape = kernel.shape();
        let tiles = rows.div_ceil(shape.rows as usize).checked_mul(tokens.div_ceil(shape.tokens as usize));
        let blocks = block_count("the tiles of the output", tiles.unwrap_or(usize::MAX))?;
        let mut arguments = [
            argument(&codes),
            argument(&scales),
            argument(&x),
            argument(&token_scales),
            argument(&y),
            argument(&m),
            argument(&n),
            argument(&k),
            argument(&group_size),
        ];
        // SAFETY: the arguments are those of zqc_table_linear; the caller vouches for the addresses.
        unsafe { launch(&self.device, kernel, blocks, stream, &mut arguments) }
    }
}
