//! The values of a call's activations, as the kernels read them.

use half::slice::HalfFloatSliceExt;
use zqc_formats::ActivationFormat;

use crate::aligned::Aligned;
use crate::codebook::bf16_bits;
use crate::layer::flush_to_zero;
use crate::matrix::{Groups, Matrix};
use crate::operands::Tokens;
use crate::tiling::BLOCK;

/// Tokens that are prepared together, at most: the rows of a tile of AMX.
const TILE: usize = 16;

/// Elements between the rows of tokens, so that one element of several does not fall on one set of a cache.
const GAP: usize = 32;

/// What kernels read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `f32`, row by row.
    Rows,
    /// `f32` and integers of 16 bits, row by row, and the units of these, block by block.
    Integers,
    /// bfloat16, in tiles of some tokens by one block.
    Tiles,
}

impl Form {
    /// Tokens that are in work at once: a block of their values stays in a first-level cache, or all that AMX reads and its sums
    /// in a second-level one.
    pub(crate) fn chunk(self) -> usize {
        match self {
            Self::Rows | Self::Integers => 128,
            Self::Tiles => 256,
        }
    }
}

/// How the values of tokens lie: every group is filled up with 0 to whole blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrangement {
    pub form: Form,
    pub groups: Groups,
    /// Tokens of a tile.
    pub tile: usize,
    /// Largest over least magnitude of the weights, which bounds what sums are exact.
    pub span: f32,
}

impl Arrangement {
    /// For some tokens, which are divided into tiles of about one size.
    pub(crate) fn new(form: Form, matrix: &Matrix, tokens: usize) -> Self {
        let tile = tokens.div_ceil(tokens.div_ceil(TILE).max(1)).max(1);
        Self { form, groups: matrix.groups, tile, span: matrix.span() }
    }

    /// Elements between tokens of [`Form::Rows`].
    pub(crate) fn stride(self) -> usize {
        self.groups.blocks * BLOCK + GAP
    }

    fn row_elements(self) -> usize {
        match self.form {
            Form::Rows | Form::Integers => self.stride(),
            Form::Tiles => 0,
        }
    }

    fn half_elements(self) -> usize {
        match self.form {
            Form::Rows => 0,
            Form::Integers => self.stride(),
            Form::Tiles => self.groups.blocks * BLOCK,
        }
    }

    fn unit_elements(self) -> usize {
        match self.form {
            Form::Integers => self.groups.blocks,
            Form::Rows | Form::Tiles => 0,
        }
    }
}

/// Values of tokens.
pub(crate) struct Values {
    pub arrangement: Arrangement,
    rows: Aligned<f32>,
    halves: Aligned<u16>,
    units: Vec<f32>,
}

/// Values of some tokens, to be written.
pub(crate) struct ValuesMut<'a> {
    arrangement: Arrangement,
    rows: &'a mut [f32],
    halves: &'a mut [u16],
    units: &'a mut [f32],
}

/// Values of some tokens, the first of them the first of a tile.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub arrangement: Arrangement,
    pub tokens: usize,
    rows: &'a [f32],
    halves: &'a [u16],
    units: &'a [f32],
}

impl Values {
    pub(crate) fn new(arrangement: Arrangement, tokens: usize) -> Self {
        let padded = tokens.next_multiple_of(arrangement.tile);
        Self {
            arrangement,
            rows: Aligned::new(tokens * arrangement.row_elements()),
            halves: Aligned::new(padded * arrangement.half_elements()),
            units: vec![0.0; tokens * arrangement.unit_elements()],
        }
    }

    /// Tile by tile.
    pub(crate) fn tiles(&mut self) -> impl Iterator<Item = ValuesMut<'_>> {
        let arrangement = self.arrangement;
        let elements = |of_token: usize| (arrangement.tile * of_token).max(1);
        let mut rows = self.rows.chunks_mut(elements(arrangement.row_elements()));
        let mut halves = self.halves.chunks_mut(elements(arrangement.half_elements()));
        let mut units = self.units.chunks_mut(elements(arrangement.unit_elements()));
        std::iter::from_fn(move || {
            let tile = (rows.next(), halves.next(), units.next());
            let (rows, halves, units) = match tile {
                (None, None, _) => return None,
                (rows, halves, units) => {
                    (rows.unwrap_or_default(), halves.unwrap_or_default(), units.unwrap_or_default())
                }
            };
            Some(ValuesMut { arrangement, rows, halves, units })
        })
    }

    pub(crate) fn view(&self, tokens: usize) -> View<'_> {
        let Self { arrangement, rows, halves, units } = self;
        View { arrangement: *arrangement, tokens, rows, halves, units }
    }
}

impl ValuesMut<'_> {
    pub(crate) fn view(&self, tokens: usize) -> View<'_> {
        let Self { arrangement, rows, halves, units } = self;
        View { arrangement: *arrangement, tokens, rows, halves, units }
    }

    /// Puts the values `x` `[K]` of token `token` of the tile in their place.
    #[inline(always)]
    fn put(&mut self, token: usize, x: &[f32]) {
        let Arrangement { groups, .. } = self.arrangement;
        let padded = groups.blocks_each * BLOCK;
        match self.arrangement.form {
            Form::Rows => {
                let stride = self.arrangement.stride();
                let row = self.rows[token * stride..(token + 1) * stride].chunks_mut(padded);
                for (to, from) in row.zip(x.chunks(groups.size)) {
                    to[..from.len()].copy_from_slice(from);
                }
            }
            Form::Integers => {
                let stride = self.arrangement.stride();
                let row = token * stride..(token + 1) * stride;
                let rows = self.rows[row.clone()].chunks_mut(padded);
                let halves = self.halves[row].chunks_mut(padded);
                let units =
                    self.units[token * groups.blocks..][..groups.blocks].chunks_mut(groups.blocks_each);
                for (((row, halves), units), from) in rows.zip(halves).zip(units).zip(x.chunks(groups.size)) {
                    row[..from.len()].copy_from_slice(from);
                    let blocks = row.chunks_exact(BLOCK).zip(halves.chunks_exact_mut(BLOCK));
                    for ((x, to), unit) in blocks.zip(units) {
                        *unit = integers(x, self.arrangement.span, to);
                    }
                }
            }
            Form::Tiles => {
                let tile = self.arrangement.tile;
                let of_group = self.halves.chunks_mut(tile * padded).zip(x.chunks(groups.size));
                for (blocks, x) in of_group {
                    for (block, x) in blocks.chunks_exact_mut(tile * BLOCK).zip(x.chunks(BLOCK)) {
                        let row = &mut block[token * BLOCK..(token + 1) * BLOCK];
                        row.iter_mut().zip(x).for_each(|(to, from)| *to = bf16_bits(*from));
                    }
                }
            }
        }
    }
}

impl<'a> View<'a> {
    /// The row of a token.
    #[inline(always)]
    pub(crate) fn row(&self, token: usize) -> &'a [f32] {
        let stride = self.arrangement.stride();
        &self.rows[token * stride..(token + 1) * stride]
    }

    /// The row of a token in integers.
    #[inline(always)]
    pub(crate) fn integers(&self, token: usize) -> &'a [u16] {
        let stride = self.arrangement.stride();
        &self.halves[token * stride..(token + 1) * stride]
    }

    /// The unit of the integers of a block, 0 where sums of the block are not known to be exact.
    #[inline(always)]
    pub(crate) fn unit(&self, token: usize, block: usize) -> f32 {
        self.units[token * self.arrangement.groups.blocks + block]
    }

    /// A tile of tokens, `[block][token][32]`.
    #[inline(always)]
    pub(crate) fn tile(&self, tile: usize) -> &'a [u16] {
        let elements = self.arrangement.tile * self.arrangement.groups.blocks * BLOCK;
        &self.halves[tile * elements..(tile + 1) * elements]
    }
}

/// Writes a block in integers of 16 bits, and yields their unit, a power of two; or 0 where they do not fit, or where a sum of the
/// products with weights, in any order, could have more than the 24 bits of a float. `span` is the largest magnitude of a weight
/// over the lowest bit of all.
#[inline(always)]
fn integers(x: &[f32], span: f32, to: &mut [u16]) -> f32 {
    /// The least unit: that of E4M3.
    const LEAST: f32 = 1.0 / 512.0;
    /// Of sums: half of what a float holds, since their bound is rounded.
    const MOST: f32 = (1 << 23) as f32;
    let mut fixed = [0i32; BLOCK];
    let mut fit = true;
    for (to, x) in fixed.iter_mut().zip(x) {
        let scaled = x * (1.0 / LEAST);
        *to = scaled as i32;
        fit &= *to as f32 == scaled && scaled.abs() < (1 << 24) as f32;
    }
    let (bits, sum) =
        fixed.iter().fold((0, 0), |(bits, sum), x| (bits | x.unsigned_abs(), sum + x.unsigned_abs()));
    let shift = bits.trailing_zeros().min(31);
    if !fit || bits >> shift >= 1 << 15 || (sum >> shift) as f32 * span >= MOST {
        return 0.0;
    }
    for (to, x) in to.iter_mut().zip(fixed) {
        *to = (x >> shift) as u16;
    }
    f32::from_bits(LEAST.to_bits() + (shift << 23))
}

/// Reads token `token`, puts its values where the kernels read them, and yields its scale, 1 for floats. `x` is space for them.
#[inline(always)]
pub(crate) fn prepare(
    tokens: &Tokens<'_>,
    token: usize,
    x: &mut [f32],
    row: usize,
    to: [Option<&mut ValuesMut<'_>>; 2],
) -> f32 {
    read(tokens, token, x);
    for to in to.into_iter().flatten() {
        to.put(row, x);
    }
    tokens.scale(token)
}

/// Reads the values of token `token`.
#[inline(always)]
fn read(tokens: &Tokens<'_>, token: usize, x: &mut [f32]) {
    let row = token * x.len()..(token + 1) * x.len();
    match *tokens {
        Tokens::Quantized { format, codes, zero_points, .. } => {
            let codes = x.iter_mut().zip(&codes[row]);
            match format {
                ActivationFormat::E4M3 => codes.for_each(|(to, code)| *to = e4m3(*code)),
                ActivationFormat::E5M2 => codes.for_each(|(to, code)| *to = e5m2(*code)),
                ActivationFormat::Int8 => {
                    let zero_point = f32::from(zero_points[token]);
                    codes.for_each(|(to, code)| *to = f32::from(*code) - zero_point);
                }
            }
        }
        Tokens::F32(from) => x.copy_from_slice(&from[row]),
        Tokens::F16(from) => from[row].convert_to_f32_slice(x),
        Tokens::Bf16(from) => {
            from[row].convert_to_f32_slice(x);
            x.iter_mut().for_each(|x| *x = flush_to_zero(*x));
        }
    }
}

/// The value of a code of E4M3, by operations that vectors have.
#[inline(always)]
fn e4m3(code: u8) -> f32 {
    // Subnormal numbers are normal ones of the least exponent, less the leading 1.
    let magnitude = u32::from(code & 0x7F) << 20;
    let least = f32::from_bits((127 - 6) << 23);
    let normal = f32::from_bits(magnitude + ((127 - 7) << 23));
    let subnormal = f32::from_bits(magnitude | least.to_bits()) - least;
    let value = if magnitude < 1 << 23 { subnormal } else { normal };
    let value = if magnitude == 0x7F << 20 { f32::NAN } else { value };
    f32::from_bits(value.to_bits() | u32::from(code & 0x80) << 24)
}

/// The value of a code of E5M2, by operations that vectors have.
#[inline(always)]
fn e5m2(code: u8) -> f32 {
    let magnitude = u32::from(code & 0x7F) << 21;
    let least = f32::from_bits((127 - 14) << 23);
    let normal = f32::from_bits(magnitude + ((127 - 15) << 23));
    let subnormal = f32::from_bits(magnitude | least.to_bits()) - least;
    let value = if magnitude < 1 << 23 { subnormal } else { normal };
    // Infinity and NaN have the largest exponent, here as there.
    let value = if magnitude >= 0x7C << 21 { f32::from_bits(magnitude | 0x7F80_0000) } else { value };
    f32::from_bits(value.to_bits() | u32::from(code & 0x80) << 24)
}

#[cfg(test)]
mod tests {
    use zqc_formats::Format;

    use super::*;

    #[test]
    fn codes_have_the_values_of_their_format() {
        for code in 0..=u8::MAX {
            for (format, value) in [(Format::E4M3, e4m3(code)), (Format::E5M2, e5m2(code))] {
                let expected = format.decode(code);
                assert!(value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan());
            }
        }
    }
}
