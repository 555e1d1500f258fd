//! The place of each element by the formulas of `docs/package.md`, not by the packer's code.

use half::bf16;
use zqc_formats::Scales;
use zqc_kernels::LayerParts;

use crate::parts::{PLAIN, Random, Shape, layer, package};

/// A layer of [`PLAIN`]'s shape that is zero everywhere, with step 0.
fn zero(rank: usize) -> LayerParts {
    let mut parts = layer("zero", Shape { rank, ..PLAIN }, &mut Random(1));
    parts.matrix.codes.fill(0);
    if let Scales::Shifted { rows, shifts, .. } = &mut parts.matrix.scales {
        shifts.fill(0);
        rows.fill(32.0); // the unit of the ladder: packed as 1
    }
    if let Some(branch) = &mut parts.low_rank {
        let (up, down) = factors(branch);
        up.fill(0);
        down.fill(0);
        branch.scales.fill(1.0);
    }
    parts
}

fn factors(branch: &mut zqc_formats::LowRank) -> (&mut Vec<u8>, &mut Vec<u8>) {
    match &mut branch.factors {
        zqc_formats::Factors::E4M3 { up, down } => (up, down),
        zqc_formats::Factors::Bf16 { .. } => unreachable!(),
    }
}

/// The bytes that are not zero, with their places.
fn nonzero(bytes: &[u8]) -> Vec<(usize, u8)> {
    bytes.iter().copied().enumerate().filter(|&(_, byte)| byte != 0).collect()
}

#[test]
fn single_weights_lie_where_the_formulas_put_them() {
    let mut parts = zero(0);
    // Panel 0, tile 1, row 13 = 8 + 5 of warp 0: h = 1. Block 1, column 45 = 32 + 12 + 1: j = 1, q = 12, i = 1. So thread
    // 4 * 5 + 3 = 23, word at 16 * 23 + 8 + 4 = 380. Blocks of 4096 + 64 bytes, four of
    // them in a block of columns: 4 * 1 + 2 * 0 + 1 = 5 are before this one.
    parts.matrix.codes[77 * 300 + 173] = 0xd;
    // Panel 1, tile 0 (2 * 1 are before), row 2: h = 0. Block 0, column 20 = 16 + 4: j = 0, q = 4, i = 4. So thread
    // 4 * 2 + 1 = 9, word at 16 * 9 = 144.
    parts.matrix.codes[130 * 300 + 20] = 0xe;
    // Panel 1, tile 1, row 7 of warp 0. Block 2, column 43 = 32 + 8 + 3: j = 1, q = 8, i = 3. Thread 4 * 7 + 2 = 30.
    parts.matrix.codes[199 * 300 + 299] = 0x9;
    let package = package(&[vec![parts]]);
    let expected = [
        (2 * 4160 + 144, 0x08),
        (2 * 4160 + 146, 0x06),
        (5 * 4160 + 380, 0x50),
        (5 * 4160 + 381, 0x80),
        (11 * 4160 + 16 * 30 + 8 + 1, 0x10),
        (11 * 4160 + 16 * 30 + 8 + 3, 0x80),
    ];
    assert_eq!(nonzero(package.layer("zero").unwrap().weights), expected);
}

#[test]
fn single_steps_lie_where_the_formulas_put_them() {
    let mut parts = zero(0);
    let Scales::Shifted { shifts, .. } = &mut parts.matrix.scales else { unreachable!() };
    // Five groups of 64. Row 77 is row 13 of tile 1: pair 5, high nibble. Group 2 is the first of block 1.
    shifts[77 * 5 + 2] = 11;
    // Row 66 is row 2 of tile 1: pair 2, low nibble. Group 3 is the second of block 1.
    shifts[66 * 5 + 3] = 7;
    // Row 40 of tile 0 is 8 of warp 2: pair 16, high nibble. Group 4 is the first of block 2.
    shifts[40 * 5 + 4] = 15;
    let package = package(&[vec![parts]]);
    let expected = [
        (5 * 4160 + 4096 + 2 * 2 + 1, 0x07),
        (5 * 4160 + 4096 + 5 * 2, 0xb0),
        (8 * 4160 + 4096 + 16 * 2, 0xf0),
    ];
    assert_eq!(nonzero(package.layer("zero").unwrap().weights), expected);
}

#[test]
fn single_low_rank_values_lie_where_the_formulas_put_them() {
    let (first, mut second) = (zero(8), LayerParts { name: "second".to_string(), ..zero(40) });
    let (up, down) = factors(second.low_rank.as_mut().unwrap());
    let one = 0x38; // 1.0 in E4M3
    // Rank 37 of row 77: low-rank block 1, which is block 4, of tile 1; slice 0, rank 5 = 4 + 1: l % 4 = 2, second of the
    // pair. Row 13 = 8 + 5: thread 4 * 5 + 2 = 22, second word.
    up[77 * 40 + 37] = one;
    // Rank 26 of row 130: low-rank block 0, which is block 3, of tile 0 of panel 1; slice 1, rank 10 = 8 + 2: l % 4 = 1,
    // first of the pair. Row 2: thread 9, third word.
    up[130 * 40 + 26] = one;
    // Stacked row 16 + 37 = 53, block 1, column 45: chunk 2 ^ (53 % 8) = 7, byte 13.
    down[37 * 300 + 173] = one;
    let package = package(&[vec![first, second]]);
    let layer = package.layer("second").unwrap();
    let [low, high] = bf16::ONE.to_le_bytes();
    let (at, earlier) = ((4 * 4 + 1) * 4160 + 16 * 22 + 4 + 2, (4 * 3 + 2) * 4160 + 2048 + 16 * 9 + 8);
    assert_eq!(nonzero(layer.weights), [(earlier, low), (earlier + 1, high), (at, low), (at + 1, high)]);
    assert_eq!((layer.manifest.rank, layer.manifest.rank_offset), (40, 16));
    let activation = package.activation(layer.manifest.activation).unwrap();
    assert_eq!(activation.manifest.rank, 16 + 48);
    let down = activation.down.unwrap();
    assert_eq!(down.len(), 3 * 64 * 128);
    assert_eq!(nonzero(down), [(64 * 128 + 53 * 128 + 7 * 16 + 13, one)]);
}

/// Walks the words of every thread as the specification lists them, and looks the codes up in the matrix.
#[test]
fn every_thread_finds_the_codes_that_it_owns() {
    let shape = Shape { n: 130, k: 200, group_size: 32, ..PLAIN };
    let parts = layer("layer", shape, &mut Random(7));
    let Scales::Shifted { shifts, .. } = parts.matrix.scales.clone() else { unreachable!() };
    let package = package(&[vec![parts.clone()]]);
    let weights = package.layer("layer").unwrap().weights;
    let (blocks, block_bytes) = (2, 4096 + 32 * 4);
    assert_eq!(weights.len(), 2 * blocks * 2 * block_bytes);
    let mut seen = 0;
    for (at, block) in weights.chunks(block_bytes).enumerate() {
        let (block_index, panel, tile) = (at / 4, at / 2 % 2, at % 2);
        let first_row = 128 * panel + 64 * tile;
        for thread in 0..128 {
            let (lane, warp) = (thread % 32, thread / 32);
            let q = 4 * (lane % 4);
            for (j, h) in (0..4).flat_map(|j| [(j, 0), (j, 1)]) {
                let row = first_row + 16 * warp + lane / 4 + 8 * h;
                let offset = 2048 * (j / 2) + 16 * thread + 8 * (j % 2) + 4 * h;
                let word = u32::from_le_bytes(block[offset..offset + 4].try_into().unwrap());
                for i in 0..8 {
                    let within = if i < 4 { 32 * j + q + i } else { 32 * j + 16 + q + (i - 4) };
                    let column = 128 * block_index + within;
                    let sign = [7, 15, 23, 31, 3, 11, 19, 27][i];
                    let code = (word >> (4 * i) & 7 | (word >> sign & 1) << 3) as u8;
                    let expected =
                        if row < 130 && column < 200 { parts.matrix.codes[row * 200 + column] } else { 0 };
                    assert_eq!(code, expected, "row {row}, column {column}");
                    seen += 1;
                }
            }
            if lane % 4 == 0 {
                for s in 0..4 {
                    let byte = block[4096 + 4 * (8 * warp + lane / 4) + s];
                    for (row, step) in [(0, byte & 0xf), (8, byte >> 4)] {
                        let row = first_row + 16 * warp + lane / 4 + row;
                        let group = 4 * block_index + s;
                        let expected = if row < 130 && group < 7 { shifts[row * 7 + group] } else { 0 };
                        assert_eq!(step, expected, "row {row}, group {group}");
                    }
                }
            }
        }
    }
    assert_eq!(seen, 256 * 256);
}

#[test]
fn the_scale_of_a_row_is_divided_by_the_unit_of_the_ladder() {
    let mut parts = zero(0);
    let Scales::Shifted { rows, .. } = &mut parts.matrix.scales else { unreachable!() };
    rows[199] = 3.0;
    parts.bias = Some((0..200).map(|row| row as f32).collect());
    let package = package(&[vec![parts]]);
    let layer = package.layer("zero").unwrap();
    let values = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    };
    let (scales, bias) = (values(layer.row_scales), values(layer.bias.unwrap()));
    assert_eq!((scales.len(), bias.len()), (256, 256));
    assert_eq!(scales[198..202], [1.0, 3.0 / 32.0, 0.0, 0.0]);
    assert_eq!(bias[198..202], [198.0, 199.0, 0.0, 0.0]);
}
