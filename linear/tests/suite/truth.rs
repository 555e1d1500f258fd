//! The definition against sums in double precision of the values that `zqc-formats` gives to the codes.

use zqc_formats::{Format, Ladder, unpack_nibbles};
use zqc_linear::{Layout, reference};

use crate::layers::{ACTIVATIONS, Activations, ExtraKind, Kind, Operands, OutputKind, output, weight_kinds};
use crate::noise::Noise;

use zqc_formats::FactorFormat::{Bf16, E4M3};

/// The matrix `[rows, n]` of codes or shifts, unpacked and with `n` along the rows.
fn unpacked(bytes: &[u8], bits: u32, layout: Layout, rows: usize, n: usize) -> Vec<u8> {
    let (outer, inner) = if layout == Layout::InputMajor { (rows, n) } else { (n, rows) };
    let rows_of = bytes.chunks_exact(if bits == 4 { inner.div_ceil(2) } else { inner });
    let lines: Vec<Vec<u8>> =
        rows_of.map(|row| if bits == 4 { unpack_nibbles(row, inner) } else { row.to_vec() }).collect();
    assert_eq!(lines.len(), outer);
    match layout {
        Layout::InputMajor => lines.concat(),
        Layout::OutputMajor => (0..rows).flat_map(|row| lines.iter().map(move |line| line[row])).collect(),
    }
}

/// The weight `[K, N]`.
fn weight(operands: &Operands) -> Vec<f64> {
    let Kind { k, n, group_size, layout, format, extra, .. } = operands.kind;
    let groups = k.div_ceil(group_size);
    let codes = unpacked(&operands.codes, format.bits(), layout, k, n);
    let at = |g: usize, n_at: usize| match layout {
        Layout::InputMajor => g * n + n_at,
        Layout::OutputMajor => n_at * groups + g,
    };
    let shifts = match extra {
        ExtraKind::Shifts(_) => unpacked(&operands.shifts, 4, layout, groups, n),
        _ => Vec::new(),
    };
    (0..k * n)
        .map(|i| {
            let (g, column) = (i / n / group_size, i % n);
            let value = f64::from(format.decode(codes[i]));
            match extra {
                ExtraKind::None => value * f64::from(operands.scales[at(g, column)]),
                ExtraKind::ZeroPoints => {
                    let centred = value - f64::from(operands.zero_points[at(g, column)]);
                    centred * f64::from(operands.scales[at(g, column)])
                }
                ExtraKind::Shifts(Ladder::M8) => {
                    let code = Format::E4M3.encode(value as f32) - shifts[g * n + column];
                    f64::from(Format::E4M3.decode(code)) * f64::from(operands.scales[column])
                }
                ExtraKind::Shifts(ladder) => {
                    let factor = f64::from(ladder.factor(shifts[g * n + column]));
                    value * factor * f64::from(operands.scales[column])
                }
            }
        })
        .collect()
}

/// The values `[K]` of a token.
fn token(activations: &Activations, at: usize, k: usize) -> Vec<f64> {
    let row = at * k..(at + 1) * k;
    match activations {
        Activations::Quantized { format, codes, scales, zero_points } => {
            let value = |code: u8| match format.float() {
                Some(float) => f64::from(float.decode(code)),
                None => f64::from(code) - f64::from(zero_points[at]),
            };
            codes[row].iter().map(|&code| value(code) * f64::from(scales[at])).collect()
        }
        Activations::F32(x) => x[row].iter().map(|&x| x.into()).collect(),
        Activations::F16(x) => x[row].iter().map(|x| x.to_f64()).collect(),
        Activations::Bf16(x) => x[row].iter().map(|x| x.to_f64()).collect(),
    }
}

/// The values of a factor.
fn factor(operands: &Operands, factor: &[u8]) -> Vec<f64> {
    match operands.kind.low_rank {
        Some((_, E4M3)) => factor.iter().map(|&code| Format::E4M3.decode(code).into()).collect(),
        Some((_, Bf16)) => {
            factor.as_chunks().0.iter().map(|&pair| half::bf16::from_le_bytes(pair).to_f64()).collect()
        }
        None => Vec::new(),
    }
}

#[test]
fn the_definition_is_near_the_truth() {
    let noise = &mut Noise::new(8);
    for (format, extra) in weight_kinds() {
        for activation in ACTIVATIONS {
            for layout in [Layout::InputMajor, Layout::OutputMajor] {
                let low_rank = noise.choose(&[None, Some((4, E4M3)), Some((5, Bf16))]);
                let kind = Kind { k: 75, n: 9, group_size: 32, layout, format, extra, low_rank, bias: true };
                let operands = Operands::random(kind, noise);
                let (m, rank) = (3, low_rank.map_or(0, |(rank, _)| rank));
                let activations = Activations::random(activation, m, kind.k, noise);
                let y = output(OutputKind::F32, m * kind.n, |y| {
                    reference::forward(&operands.layer(), activations.tokens(), y).expect("shapes that fit");
                });
                let weight = weight(&operands);
                let (down, up) = (factor(&operands, &operands.down), factor(&operands, &operands.up));
                for at in 0..m {
                    let x = token(&activations, at, kind.k);
                    for n in 0..kind.n {
                        // What the products of magnitudes add up to bounds the roundings.
                        let (mut sum, mut bound) = (f64::from(operands.bias[n]), 1e-30);
                        for (k, x) in x.iter().enumerate() {
                            let branch: f64 = (0..rank)
                                .map(|r| {
                                    down[k * rank + r]
                                        * f64::from(operands.rank_scales[r])
                                        * up[r * kind.n + n]
                                })
                                .sum();
                            sum += x * (weight[k * kind.n + n] + branch);
                            bound += (x * weight[k * kind.n + n]).abs();
                            bound += (0..rank)
                                .map(|r| {
                                    let scale = f64::from(operands.rank_scales[r]);
                                    (x * down[k * rank + r] * scale * up[r * kind.n + n]).abs()
                                })
                                .sum::<f64>();
                        }
                        let actual = f64::from(f32::from_bits(y[at * kind.n + n]));
                        let error = (actual - sum).abs();
                        assert!(
                            error < 1e-6 * (bound + sum.abs() + 1.0),
                            "{kind:?} {activation:?}: {actual} {sum}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn ladders_are_factors_of_the_row_scale() {
    // One weight of 1 in each of two groups, at steps 0 and 4 of M3.
    let kind = Kind {
        k: 2,
        n: 1,
        group_size: 1,
        layout: Layout::InputMajor,
        format: Format::E2M1,
        extra: ExtraKind::Shifts(Ladder::M3),
        low_rank: None,
        bias: false,
    };
    let mut operands = Operands::random(kind, &mut Noise::new(9));
    (operands.codes, operands.scales, operands.shifts) = (vec![2, 2], vec![8.0], vec![0, 4]);
    let y = output(OutputKind::F32, 1, |y| {
        reference::forward(&operands.layer(), zqc_linear::Tokens::F32(&[1.0, 100.0]), y)
            .expect("shapes that fit");
    });
    assert_eq!(f32::from_bits(y[0]), 8.0 * (1.5 + 100.0 * 0.625));
}
