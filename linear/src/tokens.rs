//! Quantization of activations, token by token.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use zqc_formats::{ActivationFormat, SCALE_FLOOR};

use crate::error::{Expected, ShapeError};
use crate::isa::Isa;

/// Activations in float, `[M, K]`.
#[derive(Clone, Copy, Debug)]
pub enum Activations<'a> {
    /// Floats.
    F32(&'a [f32]),
    /// Floats of 16 bits.
    F16(&'a [f16]),
    /// bfloat16.
    Bf16(&'a [bf16]),
}

impl Activations<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::F16(x) => x.len(),
            Self::Bf16(x) => x.len(),
        }
    }
}

/// Quantizes `x` `[M, K]`, for every token of `k` values, to `codes` `[M, K]`, `scales` `[M]` and, for integers, `zero_points` `[M]`,
/// which is empty for FP8.
///
/// In FP8 `scale = max(max|x| / largest, 1e-12)` and `code = x / scale` rounded; integers have the range of the token and 0 for
/// their 256 codes. A token that holds NaN or infinity has a scale of NaN. Ties go to even.
///
/// # Errors
/// When the slices do not fit.
pub fn quantize_tokens(
    isa: Isa,
    format: ActivationFormat,
    x: Activations<'_>,
    k: usize,
    codes: &mut [u8],
    scales: &mut [f32],
    zero_points: &mut [u8],
) -> Result<(), ShapeError> {
    if k == 0 || !x.len().is_multiple_of(k) {
        return Err(ShapeError { what: "activations", expected: Expected::MultipleOf(k), actual: x.len() });
    }
    let m = x.len() / k;
    let zeros = if format.float().is_some() { 0 } else { m };
    ShapeError::check("codes", codes.len(), x.len())?;
    ShapeError::check("scales of the tokens", scales.len(), m)?;
    ShapeError::check("zero points of the tokens", zero_points.len(), zeros)?;
    let quantize = quantizer(isa);
    let mut space = vec![0.0; if matches!(x, Activations::F32(_)) { 0 } else { k }];
    for (at, (codes, scale)) in codes.chunks_exact_mut(k).zip(scales).enumerate() {
        let row = at * k..(at + 1) * k;
        let token = match x {
            Activations::F32(x) => &x[row],
            Activations::F16(x) => {
                x[row].convert_to_f32_slice(&mut space);
                &space
            }
            Activations::Bf16(x) => {
                x[row].convert_to_f32_slice(&mut space);
                &space
            }
        };
        // SAFETY: `quantizer` yields what the processor can run.
        let (found, zero_point) = unsafe { quantize(format, token, codes) };
        *scale = found;
        if let Some(to) = zero_points.get_mut(at) {
            *to = zero_point;
        }
    }
    Ok(())
}

/// Quantizes a token, and yields its scale and its zero point.
type Quantize = unsafe fn(ActivationFormat, &[f32], &mut [u8]) -> (f32, u8);

/// The loops below for an instruction set, as far as the processor has it.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "one for all"))]
fn quantizer(isa: Isa) -> Quantize {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn avx2(format: ActivationFormat, x: &[f32], codes: &mut [u8]) -> (f32, u8) {
            quantize(format, x, codes)
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn avx512(format: ActivationFormat, x: &[f32], codes: &mut [u8]) -> (f32, u8) {
            quantize(format, x, codes)
        }
        match isa.check() {
            Ok(Isa::Avx512 | Isa::Vnni | Isa::Amx) => return avx512,
            Ok(Isa::Avx2) => return avx2,
            _ => {}
        }
    }
    quantize
}

#[inline(always)]
fn quantize(format: ActivationFormat, x: &[f32], codes: &mut [u8]) -> (f32, u8) {
    match format {
        ActivationFormat::E4M3 => to_floats::<3, -6>(448.0, 0x7F, x, codes),
        ActivationFormat::E5M2 => to_floats::<2, -14>(57344.0, 0x7E, x, codes),
        ActivationFormat::Int8 => to_integers(x, codes),
    }
}

/// The largest magnitude, as its bits, which order alike; those of infinity and NaN are larger than all others.
#[inline(always)]
fn peak_bits(x: &[f32]) -> u32 {
    x.iter().fold(0, |peak, x| peak.max(x.to_bits() & !(1 << 31)))
}

/// The bits of infinity.
const INFINITE: u32 = 0x7F80_0000;

#[inline(always)]
fn at_least_floor(scale: f32) -> f32 {
    if scale < SCALE_FLOOR { SCALE_FLOOR } else { scale }
}

/// To a format with so many bits of significand, least exponent of a normal number, largest value and code of NaN.
///
/// Adding a power of two that makes the steps of a float those of the format leaves the rounded significand in the low bits
/// of the sum.
#[inline(always)]
fn to_floats<const SIGNIFICAND: u32, const LEAST: i32>(
    largest: f32,
    nan: u8,
    x: &[f32],
    codes: &mut [u8],
) -> (f32, u8) {
    let peak = peak_bits(x);
    if peak >= INFINITE {
        codes.fill(nan);
        return (f32::NAN, 0);
    }
    let scale = at_least_floor(f32::from_bits(peak) / largest);
    let least = ((127 + LEAST) as u32) << 23;
    for (code, x) in codes.iter_mut().zip(x) {
        let scaled = (x / scale).to_bits();
        let magnitude = f32::from_bits(scaled & !(1 << 31));
        let magnitude = if magnitude > largest { largest } else { magnitude };
        let binade = (magnitude.to_bits() & INFINITE).max(least);
        let coarse = binade + ((23 - SIGNIFICAND) << 23);
        let significand = (magnitude + f32::from_bits(coarse)).to_bits() - coarse;
        let exponent = (binade - least) >> (23 - SIGNIFICAND);
        *code = ((scaled >> 24 & 0x80) | (exponent + significand)) as u8;
    }
    (scale, 0)
}

#[inline(always)]
fn to_integers(x: &[f32], codes: &mut [u8]) -> (f32, u8) {
    /// Added to a small number, it leaves that rounded to an integer in the low bits.
    const COARSE: f32 = 1.5 * (1 << 23) as f32;
    if peak_bits(x) >= INFINITE {
        codes.fill(0);
        return (f32::NAN, 0);
    }
    // Compared as the integers that order like them, which vectorizes.
    let ordered = |bits: i32| bits ^ (bits >> 31 & i32::MAX);
    let (low, high) = x.iter().fold((0, 0), |(low, high): (i32, i32), x| {
        let value = ordered(x.to_bits() as i32);
        (low.min(value), high.max(value))
    });
    let [low, high] = [low, high].map(|value| f32::from_bits(ordered(value) as u32));
    let scale = at_least_floor((high - low) / 255.0);
    let zero = (-low / scale + COARSE) - COARSE;
    for (code, x) in codes.iter_mut().zip(x) {
        let shifted = (x / scale + COARSE) - COARSE + zero;
        let clamped = if shifted < 0.0 { 0.0 } else { shifted };
        let clamped = if clamped > 255.0 { 255.0 } else { clamped };
        *code = (clamped + COARSE).to_bits() as u8;
    }
    (scale, (zero + COARSE).to_bits() as u8)
}
