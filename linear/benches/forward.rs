//! Speed of a layer, by shape, tokens and instruction set: one thread, weights that no cache holds any more; and of quantization.
//!
//! `cargo bench -p zqc-linear --bench forward -- [ISA ...] [TOKENS ...]`

use std::hint::black_box;
use std::time::{Duration, Instant};

use zqc_formats::{ActivationFormat, FactorFormat, Format, Ladder};
use zqc_linear::{
    Activations, Extra, Isa, Layer, Layout, LowRank, Output, PackedLinear, Serial, Tokens, quantize_tokens,
};

const SHAPES: [(usize, usize, Weight); 8] = [
    (576, 1536, Weight::Fp4),
    (576, 1536, Weight::Fp4InSixteens),
    (2048, 2048, Weight::Fp4),
    (2048, 2048, Weight::Fp4InSixteens),
    (2048, 2048, Weight::Lut4),
    (4096, 4096, Weight::Fp4),
    (576, 49152, Weight::E4M3),
    (2048, 2048, Weight::E4M3),
];
const TOKENS: [usize; 10] = [1, 2, 3, 4, 6, 8, 12, 16, 32, 128];
const RANK: usize = 8;
/// What is spent on a figure, at most.
const TIME: Duration = Duration::from_millis(300);
/// Bytes of weights that are gone through before one is read again.
const COLD: usize = 400 << 20;

#[derive(Clone, Copy, PartialEq)]
enum Weight {
    /// E2M1 in groups of 64 under M3, and a low-rank branch.
    Fp4,
    /// The same in groups of 16, without a branch.
    Fp4InSixteens,
    /// In groups of 64 with a branch, by the table without zero, under M8.
    Lut4,
    /// A head in FP8: one scale a row.
    E4M3,
}

fn bytes(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Without the codes of NaN.
        (state >> 56) as u8 & 0xBF
    };
    (0..len).map(|_| next()).collect()
}

fn main() {
    let arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let (counts, names): (Vec<String>, Vec<String>) =
        arguments.partition(|argument| argument.parse::<usize>().is_ok());
    let tokens: Vec<usize> = match &counts[..] {
        [] => TOKENS.to_vec(),
        counts => counts.iter().filter_map(|count| count.parse().ok()).collect(),
    };
    let chosen = |isa: &Isa| names.is_empty() || names.iter().any(|name| name == isa.name());
    let sets: Vec<Isa> =
        Isa::available().filter(|&isa| isa != Isa::Scalar || !names.is_empty()).filter(chosen).collect();
    sets.iter().for_each(|&isa| quantization(isa));
    println!(
        "{:>14} {:>8} {:>5} {:>8} {:>11} {:>9} {:>12}",
        "K x N", "weight", "M", "isa", "us", "GFLOP/s", "GB/s codes"
    );
    for (k, n, weight) in SHAPES {
        let (format, ladder, group_size) = match weight {
            Weight::Fp4 => (Format::E2M1, Some(Ladder::M3), 64),
            Weight::Fp4InSixteens => (Format::E2M1, Some(Ladder::M3), 16),
            Weight::Lut4 => (Format::Lut4, Some(Ladder::M8), 64),
            Weight::E4M3 => (Format::E4M3, None, k),
        };
        let groups = k.div_ceil(group_size);
        let name = format!("{format}/{group_size}");
        let codes = bytes(k * n * format.bits() as usize / 8);
        let (shifts, down, up) = (bytes(groups * n / 2), bytes(k * RANK), bytes(RANK * n));
        let (scales, rank_scales) = (vec![0.01; n], vec![0.001; RANK]);
        let branch =
            LowRank { rank: RANK, format: FactorFormat::E4M3, down: &down, up: &up, scales: &rank_scales };
        let layer = Layer {
            k,
            n,
            group_size,
            layout: Layout::InputMajor,
            format,
            codes: &codes,
            scales: &scales,
            extra: ladder.map_or(Extra::None, |ladder| Extra::Shifts(ladder, &shifts)),
            low_rank: (group_size == 64).then_some(branch),
            bias: None,
        };
        let copies = COLD.div_ceil(codes.len()).min(64);
        for &isa in &sets {
            let start = thread_time();
            let packed: Vec<PackedLinear> =
                (0..copies).map(|_| PackedLinear::pack(&layer, isa).expect("a sound layer")).collect();
            let each = (thread_time() - start) / copies as f64;
            println!("{:>14} {:>8} packed in {:.1} ms", format!("{k} x {n}"), name, each * 1e3);
            for &m in &tokens {
                let best = fastest(&packed, m, k, n);
                let products = 2.0 * (m * k * n) as f64;
                println!(
                    "{:>14} {:>8} {m:>5} {:>8} {:>11.1} {:>9.1} {:>12.2}",
                    format!("{k} x {n}"),
                    &name,
                    isa.name(),
                    best * 1e6,
                    products / best * 1e-9,
                    codes.len() as f64 / best * 1e-9,
                );
            }
        }
    }
}

/// Prints the microseconds that the quantization of a token takes, by format and width.
fn quantization(isa: Isa) {
    for format in ActivationFormat::ALL {
        for k in [576, 4096] {
            let x: Vec<f32> = bytes(k).into_iter().map(|byte| f32::from(byte) - 96.5).collect();
            let (mut codes, mut scale, mut zero_point) = (vec![0; k], [0.0], [0]);
            let zero_point = if format.float().is_some() { &mut [][..] } else { &mut zero_point[..] };
            let best = (0..2000).fold(f64::INFINITY, |best, _| {
                let start = thread_time();
                let x = Activations::F32(&x);
                quantize_tokens(isa, format, x, k, &mut codes, &mut scale, zero_point)
                    .expect("shapes that fit");
                black_box(&codes);
                best.min(thread_time() - start)
            });
            println!(
                "quantization of {k:>5} values to {format:<5} {:>8} {:>11.2} us",
                isa.name(),
                best * 1e6
            );
        }
    }
}

/// Seconds of the fastest call.
fn fastest(layers: &[PackedLinear], m: usize, k: usize, n: usize) -> f64 {
    let format = ActivationFormat::E4M3;
    let (mut codes, mut scales) = (vec![0; m * k], vec![0.0; m]);
    // Normally distributed, nearly: how many sums are exact depends on it.
    let x: Vec<f32> =
        bytes(12 * m * k).chunks(12).map(|x| x.iter().map(|&x| f32::from(x) - 95.5).sum()).collect();
    quantize_tokens(Isa::best(), format, Activations::F32(&x), k, &mut codes, &mut scales, &mut [])
        .expect("shapes that fit");
    let tokens = Tokens::Quantized { format, codes: &codes, scales: &scales, zero_points: &[] };
    let mut y = vec![0.0; m * n];
    let (begin, mut best, mut calls) = (Instant::now(), f64::INFINITY, 0);
    while calls < 3 || begin.elapsed() < TIME {
        let layer = &layers[calls % layers.len()];
        let start = thread_time();
        layer.forward(tokens, Output::F32(&mut y), &Serial).expect("shapes that fit");
        best = best.min(thread_time() - start);
        black_box(&y);
        calls += 1;
    }
    best
}

/// Seconds that this thread has been running, which others on the machine do not lengthen as much.
#[cfg(unix)]
fn thread_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value that lives as long as the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Seconds since the first call.
#[cfg(not(unix))]
fn thread_time() -> f64 {
    static BEGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    BEGIN.get_or_init(Instant::now).elapsed().as_secs_f64()
}
