//! Random layers and activations, and all kinds of them.

use half::{bf16, f16};
use zqc_formats::{ActivationFormat, FactorFormat, Format, Ladder};
use zqc_linear::{Extra, Layer, Layout, LowRank, Output, Tokens};

use crate::noise::Noise;

/// What a weight's groups have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ExtraKind {
    None,
    Shifts(Ladder),
    ZeroPoints,
}

/// What activations are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ActivationKind {
    Quantized(ActivationFormat),
    F32,
    F16,
    Bf16,
}

pub const ACTIVATIONS: [ActivationKind; 6] = [
    ActivationKind::Quantized(ActivationFormat::E4M3),
    ActivationKind::Quantized(ActivationFormat::E5M2),
    ActivationKind::Quantized(ActivationFormat::Int8),
    ActivationKind::F32,
    ActivationKind::F16,
    ActivationKind::Bf16,
];

/// The 11 kinds of weights that zqc writes.
pub fn weight_kinds() -> Vec<(Format, ExtraKind)> {
    let of_format = |format: Format| {
        let ladders = format.ladders();
        let zero_points = format.is_integer().then_some(ExtraKind::ZeroPoints);
        [ExtraKind::None].into_iter().chain(ladders.map(ExtraKind::Shifts)).chain(zero_points)
    };
    Format::ALL.into_iter().flat_map(|format| of_format(format).map(move |extra| (format, extra))).collect()
}

/// What a layer is.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub k: usize,
    pub n: usize,
    pub group_size: usize,
    pub layout: Layout,
    pub format: Format,
    pub extra: ExtraKind,
    pub low_rank: Option<(usize, FactorFormat)>,
    pub bias: bool,
}

/// The operands of a layer.
pub struct Operands {
    pub kind: Kind,
    pub codes: Vec<u8>,
    pub scales: Vec<f32>,
    pub shifts: Vec<u8>,
    pub zero_points: Vec<i8>,
    pub down: Vec<u8>,
    pub up: Vec<u8>,
    pub rank_scales: Vec<f32>,
    pub bias: Vec<f32>,
}

impl Operands {
    pub fn random(kind: Kind, noise: &mut Noise) -> Self {
        let Kind { k, n, format, .. } = kind;
        let groups = k.div_ceil(kind.group_size);
        let matrix = |rows: usize, per_byte: usize| match kind.layout {
            Layout::InputMajor => rows * n.div_ceil(per_byte),
            Layout::OutputMajor => n * rows.div_ceil(per_byte),
        };
        let finite = |noise: &mut Noise| loop {
            let code = noise.byte();
            if format.bits() == 4 || format.decode(code).is_finite() {
                return code;
            }
        };
        let codes = (0..matrix(k, if format.bits() == 4 { 2 } else { 1 })).map(|_| finite(noise)).collect();
        let shifted = matches!(kind.extra, ExtraKind::Shifts(_));
        let rank = kind.low_rank.map_or(0, |(rank, _)| rank);
        let factor = |noise: &mut Noise, len: usize| match kind.low_rank {
            Some((_, FactorFormat::E4M3)) => {
                (0..len).map(|_| Format::E4M3.encode(448.0 * noise.float())).collect()
            }
            Some((_, FactorFormat::Bf16)) => {
                // Some that are too small to count.
                let value = |noise: &mut Noise| noise.float() * noise.choose(&[1.0, 1.0, 1.0, 1e-30, 1e-38]);
                (0..len).flat_map(|_| bf16::from_f32(value(noise)).to_le_bytes()).collect()
            }
            None => Vec::new(),
        };
        Self {
            kind,
            codes,
            scales: noise.floats(if shifted { n } else { groups * n }).iter().map(|x| 0.01 * x).collect(),
            shifts: noise.bytes(if shifted { matrix(groups, 2) } else { 0 }),
            zero_points: match kind.extra {
                ExtraKind::ZeroPoints if format.bits() == 4 => {
                    (0..groups * n).map(|_| noise.below(16) as i8 - 8).collect()
                }
                ExtraKind::ZeroPoints => noise.bytes(groups * n).into_iter().map(|byte| byte as i8).collect(),
                _ => Vec::new(),
            },
            down: factor(noise, k * rank),
            up: factor(noise, rank * n),
            rank_scales: noise.floats(rank).iter().map(|x| 1e-4 * x).collect(),
            bias: if kind.bias { noise.floats(n) } else { Vec::new() },
        }
    }

    pub fn layer(&self) -> Layer<'_> {
        let Kind { k, n, group_size, layout, format, .. } = self.kind;
        Layer {
            k,
            n,
            group_size,
            layout,
            format,
            codes: &self.codes,
            scales: &self.scales,
            extra: match self.kind.extra {
                ExtraKind::None => Extra::None,
                ExtraKind::Shifts(ladder) => Extra::Shifts(ladder, &self.shifts),
                ExtraKind::ZeroPoints => Extra::ZeroPoints(&self.zero_points),
            },
            low_rank: self.kind.low_rank.map(|(rank, format)| LowRank {
                rank,
                format,
                down: &self.down,
                up: &self.up,
                scales: &self.rank_scales,
            }),
            bias: self.kind.bias.then_some(&self.bias[..]),
        }
    }
}

/// Activations that own their values.
pub enum Activations {
    Quantized { format: ActivationFormat, codes: Vec<u8>, scales: Vec<f32>, zero_points: Vec<u8> },
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Activations {
    /// Codes of all values, also such as make inexact sums, but for NaN and infinity.
    pub fn random(kind: ActivationKind, m: usize, k: usize, noise: &mut Noise) -> Self {
        // Some so small that their products are subnormal.
        let small = noise.choose(&[1.0, 1.0, 1e-36]);
        let floats =
            |noise: &mut Noise| -> Vec<f32> { noise.floats(m * k).iter().map(|x| small * x).collect() };
        match kind {
            ActivationKind::Quantized(format) => {
                // Values of about one magnitude, as activations mostly have and whose sums are exact, or any.
                let usual = noise.below(2) == 0;
                let code = |noise: &mut Noise| match format.float() {
                    Some(float) if usual => float.encode(float.max() * noise.float()),
                    Some(float) => loop {
                        let code = noise.byte();
                        if float.decode(code).is_finite() {
                            break code;
                        }
                    },
                    None => noise.byte(),
                };
                Self::Quantized {
                    format,
                    codes: (0..m * k).map(|_| code(noise)).collect(),
                    scales: (0..m).map(|_| 0.001 + 0.01 * noise.float().abs()).collect(),
                    zero_points: noise.bytes(if format.float().is_some() { 0 } else { m }),
                }
            }
            ActivationKind::F32 => Self::F32(floats(noise)),
            ActivationKind::F16 => Self::F16(floats(noise).into_iter().map(f16::from_f32).collect()),
            ActivationKind::Bf16 => {
                // Of all magnitudes up to 2^30, some of them.
                let values = floats(noise);
                let element = |(at, x): (usize, f32)| match at % 23 {
                    5 => bf16::from_bits(u16::from(noise.byte()) << 8 | u16::from(noise.byte())),
                    _ => bf16::from_f32(x),
                };
                let finite = |x: bf16| if x.to_f32().abs() < 2f32.powi(30) { x } else { bf16::ONE };
                Self::Bf16(values.into_iter().enumerate().map(element).map(finite).collect())
            }
        }
    }

    pub fn tokens(&self) -> Tokens<'_> {
        match self {
            Self::Quantized { format, codes, scales, zero_points } => {
                Tokens::Quantized { format: *format, codes, scales, zero_points }
            }
            Self::F32(x) => Tokens::F32(x),
            Self::F16(x) => Tokens::F16(x),
            Self::Bf16(x) => Tokens::Bf16(x),
        }
    }

    /// One of the tokens.
    pub fn token(&self, at: usize, k: usize) -> Tokens<'_> {
        let row = at * k..(at + 1) * k;
        match self {
            Self::Quantized { format, codes, scales, zero_points } => Tokens::Quantized {
                format: *format,
                codes: &codes[row],
                scales: &scales[at..at + 1],
                zero_points: if zero_points.is_empty() { &[] } else { &zero_points[at..at + 1] },
            },
            Self::F32(x) => Tokens::F32(&x[row]),
            Self::F16(x) => Tokens::F16(&x[row]),
            Self::Bf16(x) => Tokens::Bf16(&x[row]),
        }
    }
}

/// Types of outputs.
#[derive(Clone, Copy, Debug)]
pub enum OutputKind {
    F32,
    F16,
    Bf16,
}

pub const OUTPUTS: [OutputKind; 3] = [OutputKind::F32, OutputKind::F16, OutputKind::Bf16];

/// The bits of what `compute` writes.
pub fn output(kind: OutputKind, len: usize, compute: impl FnOnce(Output<'_>)) -> Vec<u32> {
    match kind {
        OutputKind::F32 => {
            let mut y = vec![7.0; len];
            compute(Output::F32(&mut y));
            y.into_iter().map(f32::to_bits).collect()
        }
        OutputKind::F16 => {
            let mut y = vec![f16::ONE; len];
            compute(Output::F16(&mut y));
            y.into_iter().map(|y| y.to_bits().into()).collect()
        }
        OutputKind::Bf16 => {
            let mut y = vec![bf16::ONE; len];
            compute(Output::Bf16(&mut y));
            y.into_iter().map(|y| y.to_bits().into()).collect()
        }
    }
}
