//! Speed of the kernels that calibration and solving spend their time in.

use divan::{Bencher, black_box, counter::ItemsCount};
use zqc_formats::{ActivationFormat, FactorFormat, matmul, quantize_dequantize_tokens};
use zqc_solvers::{
    Gptq, GptqOptions, Grouping, Hessian, Metric, Order, ScaleConstraint, ScaleSearch, lorc, rtn,
};

fn main() {
    divan::main();
}

/// Values in -1..1 from a linear congruential generator.
fn noise(len: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Items are floating point operations.
#[divan::bench(args = [1024, 4096])]
fn matmul_2048_tokens(bencher: Bencher, k: usize) {
    let (t, n) = (2048, k);
    let (x, w, mut out) = (noise(t * k), noise(n * k), vec![0.0; t * n]);
    bencher.counter(ItemsCount::new(2 * t * k * n)).bench_local(|| matmul(&x, &w, &mut out, t, k, n));
}

/// Items are floating point operations, counting one triangle.
#[divan::bench(args = [576, 1536, 4096])]
fn hessian_2048_tokens(bencher: Bencher, k: usize) {
    let t = 2048;
    let x = noise(t * k);
    let mut hessian = Hessian::new(k);
    bencher.counter(ItemsCount::new(t * k * (k + 1))).bench_local(|| hessian.accumulate(black_box(&x)));
}

/// The default recipe. Items are weights.
#[divan::bench(args = [576, 1536, 4096], sample_count = 5)]
fn gptq_square(bencher: Bencher, k: usize) {
    solve_square(bencher, k, &GptqOptions::default());
}

/// The paper's recipe. Items are weights.
#[divan::bench(args = [576, 1536, 4096], sample_count = 5)]
fn gptq_square_plain(bencher: Bencher, k: usize) {
    let grouping =
        Grouping { scale_search: ScaleSearch::Max, constraint: ScaleConstraint::None, ..Grouping::default() };
    let plain = GptqOptions { grouping, order: Order::Natural, ..GptqOptions::default() };
    solve_square(bencher, k, &plain);
}

fn solve_square(bencher: Bencher, k: usize, options: &GptqOptions) {
    let mut hessian = Hessian::new(k);
    hessian.accumulate(&noise(2 * k * k));
    let weight = noise(k * k);
    bencher.counter(ItemsCount::new(k * k)).bench_local(|| {
        Gptq::new(&hessian, *options).and_then(|gptq| gptq.solve(&weight, k)).expect("well conditioned")
    });
}

/// Items are weights.
#[divan::bench(args = [1536, 4096])]
fn rtn_square(bencher: Bencher, k: usize) {
    let weight = noise(k * k);
    bencher.counter(ItemsCount::new(k * k)).bench_local(|| rtn(&weight, k, k, &Grouping::default()));
}

/// A branch of rank 8. Items are weights.
#[divan::bench(args = [576, 1536, 4096], sample_count = 5)]
fn lorc_square(bencher: Bencher, k: usize) {
    let mut hessian = Hessian::new(k);
    hessian.accumulate(&noise(2 * k * k));
    let (error, metric) = (noise(k * k), Metric::activation(&hessian));
    bencher
        .counter(ItemsCount::new(k * k))
        .bench_local(|| lorc(&error, k, k, 8, &metric, FactorFormat::E4M3).expect("finite"));
}

/// Items are activations.
#[divan::bench(args = ActivationFormat::ALL)]
fn tokens_2048x1536(bencher: Bencher, format: ActivationFormat) {
    let x = noise(2048 * 1536);
    bencher
        .counter(ItemsCount::new(x.len()))
        .with_inputs(|| x.clone())
        .bench_local_refs(|x| quantize_dequantize_tokens(x, 1536, format));
}
