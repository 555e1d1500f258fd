//! The kernels against f64, on a Hopper GPU: `cargo test --release -p zqc-cuda --test gpu`. They are no part of the suite, as few
//! machines have one.
//!
//! The test binary needs nothing but the driver, NVRTC and a folder for temporary files.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use half::{bf16, f16};
use support::{Random, Spec};
use zqc_cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use zqc_cuda::cudarc::driver::{CudaSlice, CudaStream, CudaViewMut, DeviceRepr};
use zqc_cuda::{
    DataType, Device, Element, Error, Input, Linear, LinearKernel, LinearVariant, Model, Prologue, Scratch,
};
use zqc_kernels::LayerParts;

const TOLERANCE: f64 = 3e-3;
const EPSILON: f32 = 1e-5;

fn device() -> Device {
    Device::new(0).unwrap_or_else(|error| panic!("{error}"))
}

/// An element type with its conversions.
trait Number: Element + DeviceRepr + Copy + Unpin + Send + Sync + 'static {
    /// A value that no kernel should leave.
    const POISON: Self;
    /// Whether numbers from 1e-12 to 1e6 have a place.
    const WIDE: bool;
    fn of(value: f32) -> Self;
    fn value(self) -> f64;
}

impl Number for bf16 {
    const POISON: Self = Self::NAN;
    const WIDE: bool = true;
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn value(self) -> f64 {
        self.to_f64()
    }
}

impl Number for f16 {
    const POISON: Self = Self::NAN;
    const WIDE: bool = false;
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn value(self) -> f64 {
        self.to_f64()
    }
}

impl Number for f32 {
    const POISON: Self = Self::NAN;
    const WIDE: bool = true;
    fn of(value: f32) -> Self {
        value
    }
    fn value(self) -> f64 {
        f64::from(self)
    }
}

/// Rows of all kinds: normal, zero, huge, with one outlier, tiny, equal.
fn rows<T: Number>(tokens: usize, k: usize, wide: bool, random: &mut Random) -> Vec<T> {
    let first = random.below(2) as usize;
    let mut x = Vec::with_capacity(tokens * k);
    for token in 0..tokens {
        let kind = if token + 1 == tokens { first } else { (token + first) % 7 };
        let outlier = random.below(k as u64) as usize;
        for column in 0..k {
            let normal = random.normal();
            x.push(T::of(match kind {
                1 => 0.0,
                2 if wide => 1e5 * normal,
                3 if column == outlier => 500.0,
                4 if wide => 1e-10 * normal,
                5 => 0.25,
                _ => normal,
            }));
        }
    }
    x
}

fn values<T: Number>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| x.value()).collect()
}

/// Elements behind an output that must stay as they are.
const GUARD: usize = 64;

/// A model with a stream to run it on.
struct Bench {
    model: Model,
    stream: Arc<CudaStream>,
}

impl Bench {
    fn new(device: &Device, groups: &[Vec<LayerParts>]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = Model::load(&device, &support::package(folder.path(), groups)).unwrap();
        Self { model, stream: device.context().new_stream().unwrap() }
    }

    fn linear(&self, layer: &LayerParts) -> Linear {
        self.model.linear(&layer.name).unwrap()
    }

    /// Quantizes once, applies every layer of a group, and compares.
    fn check<T: Number, U: Number>(
        &self,
        layers: &[LayerParts],
        tokens: usize,
        prologue: Prologue,
        random: &mut Random,
    ) {
        let k = layers[0].matrix.cols;
        let wide = T::WIDE && U::WIDE && prologue == Prologue::None;
        let x: Vec<T> = rows(tokens, k, wide, random);
        let second: Vec<T> = match prologue {
            Prologue::None => Vec::new(),
            Prologue::RmsNorm => (0..k).map(|_| T::of(0.5 + random.uniform())).collect(),
            Prologue::SiluMul => rows(tokens, k, false, random),
        };
        let transformed = support::prologue(prologue, &values(&x), &values(&second), k, EPSILON);
        let quantized = support::quantized(&transformed, k);

        let (x, second) = (self.upload(&x), self.upload(&second));
        let (x, second) = (x.slice(..tokens * k), second.slice(..second.len() - GUARD));
        let input = match prologue {
            Prologue::None => Input::plain(&x),
            Prologue::RmsNorm => Input::rms_norm(&x, &second, EPSILON),
            Prologue::SiluMul => Input::silu_mul(&x, &second),
        };
        let mut scratch = self.model.scratch(tokens).unwrap();
        let activation = self.linear(&layers[0]).activation();
        self.model.quantize(activation, input, tokens, &mut scratch, &self.stream).unwrap();
        for layer in layers {
            let y = self.output::<U>(layer, tokens, |linear, y| linear.apply(&scratch, y, &self.stream));
            let what = format!("{tokens} tokens, {prologue:?}, {:?} to {:?}", T::TYPE, U::TYPE);
            compare(&what, layer, &quantized, &y);
        }
    }

    /// What `work` writes to a poisoned output: no element may stay poisoned, and none behind it be touched.
    fn output<U: Number>(
        &self,
        layer: &LayerParts,
        tokens: usize,
        work: impl FnOnce(&Linear, &mut CudaViewMut<'_, U>) -> Result<(), Error>,
    ) -> Vec<f64> {
        let linear = self.linear(layer);
        let length = tokens * linear.n();
        let mut y = self.upload(&vec![U::POISON; length]);
        work(&linear, &mut y.slice_mut(..length)).unwrap();
        let y = self.download(&y);
        let (y, guard) = y.split_at(length);
        assert!(guard.iter().all(|guard| guard.is_nan()), "{}: wrote past the end", linear.name());
        assert!(y.iter().all(|y| y.is_finite()), "{}: left an element of {tokens} tokens", linear.name());
        y.to_vec()
    }

    /// The values and poison behind them.
    fn upload<T: Number>(&self, values: &[T]) -> CudaSlice<T> {
        let guarded = [values, &[T::POISON; GUARD]].concat();
        let slice = self.stream.clone_htod(&guarded).unwrap();
        self.stream.synchronize().unwrap();
        slice
    }

    fn download<T: Number>(&self, slice: &CudaSlice<T>) -> Vec<f64> {
        let host = self.stream.clone_dtoh(slice).unwrap();
        self.stream.synchronize().unwrap();
        values(&host)
    }
}

fn compare(what: &str, layer: &LayerParts, quantized: &[f64], y: &[f64]) {
    let expected = support::multiply(layer, quantized);
    let error = support::relative_error(y, &expected, layer.matrix.rows);
    assert!(error <= TOLERANCE, "{}, {what}: relative error {error:.2e}", layer.name);
}

/// Every shape that is out of the ordinary, on its own.
#[test]
fn layers_of_all_shapes() {
    let device = device();
    let specs = [
        Spec::new(8, 72, 0, 0),
        Spec::new(8, 72, 32, 8).bias(),
        Spec::new(130, 77, 32, 0),
        Spec::new(64, 128, 64, 16).thirds(),
        Spec::new(200, 264, 64, 0).bias(),
        Spec::new(256, 512, 128, 40),
        Spec::new(384, 576, 128, 8).bias().thirds(),
        Spec::new(136, 640, 256, 16).e3m0(),
        Spec::new(5, 1000, 0, 40).bias(),
        Spec::new(500, 1536, 128, 0).bias(),
        Spec::new(128, 2048, 512, 24).thirds(),
        Spec::new(72, 4104, 32, 16).bias().e3m0(),
        Spec::new(40, 16_520, 128, 16).thirds(),
    ];
    let work = AtomicUsize::new(0);
    // Compilation is most of the time, and threads also show that a device can be shared.
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(4, |threads| threads.get()) {
            scope.spawn(|| {
                while let Some(spec) = specs.get(work.fetch_add(1, Ordering::Relaxed)) {
                    layer_of_a_shape(&device, *spec);
                }
            });
        }
    });
}

fn layer_of_a_shape(device: &Device, spec: Spec) {
    let mut random = Random(spec.n as u64 ^ (spec.k as u64) << 20);
    let layers = [spec.layer(&format!("{spec:?}"), &mut random)];
    let bench = Bench::new(device, &[layers.to_vec()]);
    for tokens in [0, 1, 2, 8, 9, 17, 32, 63, 64, 65, 130, 257] {
        bench.check::<bf16, bf16>(&layers, tokens, Prologue::None, &mut random);
    }
    for tokens in [1, 17, 65] {
        bench.check::<f16, f16>(&layers, tokens, Prologue::None, &mut random);
        bench.check::<f32, f32>(&layers, tokens, Prologue::None, &mut random);
    }
}

/// Layers of one input with ranks of their own, quantized once, after each prologue.
#[test]
fn layers_that_share_an_input() {
    let device = device();
    let mut random = Random(1);
    let specs = [
        Spec::new(256, 576, 128, 16),
        Spec::new(64, 576, 128, 40).bias(),
        Spec::new(72, 576, 64, 0),
        Spec::new(192, 576, 0, 8).thirds(),
    ];
    let mut group = |name: &str| -> Vec<LayerParts> {
        let specs = specs.iter().enumerate();
        specs.map(|(at, spec)| spec.layer(&format!("{name}.{at}"), &mut random)).collect()
    };
    let groups = [group("first"), group("second")];
    let bench = Bench::new(&device, &groups);
    for tokens in [1, 17, 63, 65, 200] {
        for prologue in Prologue::ALL {
            for group in &groups {
                bench.check::<bf16, bf16>(group, tokens, prologue, &mut random);
            }
        }
        bench.check::<f16, f32>(&groups[0], tokens, Prologue::SiluMul, &mut random);
        bench.check::<f32, f16>(&groups[1], tokens, Prologue::RmsNorm, &mut random);
    }
}

/// Few tokens have a cluster each in quantization, many have none: all of its variants.
#[test]
fn every_cluster_of_the_quantization() {
    let device = device();
    let mut random = Random(2);
    let layers = [Spec::new(24, 2056, 128, 24).layer("layer", &mut random)];
    let bench = Bench::new(&device, &[layers.to_vec()]);
    for tokens in [5, 132, 200, 400, 1056, 1100, 4500] {
        for prologue in Prologue::ALL {
            bench.check::<bf16, bf16>(&layers, tokens, prologue, &mut random);
        }
    }
}

/// Every tile and cluster of the linear kernels, whether the table names it or not.
#[test]
fn every_variant_of_the_linear_kernels() {
    let device = device();
    let mut random = Random(3);
    let layer = Spec::new(328, 1100, 64, 24).bias().layer("layer", &mut random);
    let bench = Bench::new(&device, &[vec![layer.clone()]]);
    let decode = [8, 16, 32, 64].iter().flat_map(|&tokens| {
        [1, 2, 4, 8].map(|cluster| LinearVariant { kernel: LinearKernel::Decode, tokens, cluster })
    });
    let prefill = (64..=256).step_by(32).flat_map(|tokens| {
        [1, 2, 4].map(|cluster| LinearVariant { kernel: LinearKernel::Prefill, tokens, cluster })
    });
    let variants: Vec<LinearVariant> = decode.chain(prefill).collect();
    let k = layer.matrix.cols;
    let inputs = [3, 61, 300].map(|tokens| {
        let x: Vec<bf16> = rows(tokens, k, true, &mut random);
        let quantized = support::quantized(&values(&x), k);
        let mut scratch = bench.model.scratch(tokens).unwrap();
        let x = bench.upload(&x);
        let input = x.slice(..tokens * k);
        let activation = bench.linear(&layer).activation();
        bench.model.quantize(activation, Input::plain(&input), tokens, &mut scratch, &bench.stream).unwrap();
        bench.stream.synchronize().unwrap();
        (tokens, scratch, quantized)
    });
    let work = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(4, |threads| threads.get()) {
            scope.spawn(|| {
                while let Some(&variant) = variants.get(work.fetch_add(1, Ordering::Relaxed)) {
                    for (tokens, scratch, quantized) in &inputs {
                        if variant.kernel == LinearKernel::Decode && *tokens > variant.tokens as usize {
                            continue;
                        }
                        let y = bench.output::<bf16>(&layer, *tokens, |linear, y| {
                            linear.apply_variant(variant, scratch, y, &bench.stream)
                        });
                        compare(&format!("{tokens} tokens, {variant:?}"), &layer, quantized, &y);
                    }
                }
            });
        }
    });
}

impl Bench {
    /// One call, with random tokens, against f64.
    fn check_forward(&self, layer: &LayerParts, tokens: usize, random: &mut Random) {
        let k = layer.matrix.cols;
        let x: Vec<f16> = rows(tokens, k, false, random);
        let quantized = support::quantized(&values(&x), k);
        let x = self.upload(&x);
        let x = x.slice(..tokens * k);
        let y = self.output::<f32>(layer, tokens, |linear, y| linear.forward(&x, tokens, &self.stream, y));
        compare(&format!("{tokens} tokens, forward"), layer, &quantized, &y);
    }
}

/// One call, again and again, with more and fewer tokens, from several threads: on streams of their own, and all on one, so
/// that calls of several layers meet on it.
#[test]
fn forward_from_several_threads() {
    let device = device();
    let mut random = Random(4);
    let layers = [Spec::new(96, 320, 64, 16).bias(), Spec::new(40, 72, 0, 0), Spec::new(264, 320, 32, 8)]
        .map(|spec| spec.layer(&format!("{spec:?}"), &mut random));
    let bench = Bench::new(&device, &layers.each_ref().map(|layer| vec![layer.clone()]));
    for shared in [false, true] {
        thread::scope(|scope| {
            for seed in 5..11 {
                let (layers, bench) = (&layers, &bench);
                scope.spawn(move || {
                    let own = || bench.model.device().context().new_stream().unwrap();
                    let stream = if shared { bench.stream.clone() } else { own() };
                    let (bench, mut random) = (Bench { model: bench.model.clone(), stream }, Random(seed));
                    for tokens in [3, 0, 70, 1, 200, 64] {
                        bench.check_forward(&layers[random.below(3) as usize], tokens, &mut random);
                    }
                });
            }
        });
    }
}

/// While NVRTC compiles for the first call of one stream, calls on another, whose kernels are there, go on.
#[test]
fn a_first_call_holds_up_no_other_stream() {
    let device = device();
    let mut random = Random(13);
    // A shape that no cache has seen.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as usize;
    let fresh = Spec::new(8 * (1 + now % 64), 1024 + 8 * (now / 64 % 512), 128, 16);
    let layers = [Spec::new(64, 128, 0, 0).layer("known", &mut random), fresh.layer("fresh", &mut random)];
    let bench = Bench::new(&device, &layers.each_ref().map(|layer| vec![layer.clone()]));
    bench.check_forward(&layers[0], 4, &mut random);
    let compiled = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let stream = bench.model.device().context().new_stream().unwrap();
            let bench = Bench { model: bench.model.clone(), stream };
            bench.check_forward(&layers[1], 4, &mut Random(14));
            compiled.store(true, Ordering::SeqCst);
        });
        let (mut calls, mut slowest) = (0, Duration::ZERO);
        let since = Instant::now();
        while !compiled.load(Ordering::SeqCst) {
            let before = Instant::now();
            bench.check_forward(&layers[0], 4, &mut random);
            slowest = slowest.max(before.elapsed());
            calls += 1;
        }
        let whole = since.elapsed();
        eprintln!("{calls} calls in {whole:?} of compilation, the slowest in {slowest:?}");
        assert!(calls > 1 && slowest < whole / 2, "{calls} calls in {whole:?}, one took {slowest:?}");
    });
}

/// `forward` on a stream that has its scratch allocates nothing: it can be captured, and the graph stays good when the
/// stream gets a larger scratch.
#[test]
fn forward_captured_in_a_graph() {
    let device = device();
    // SAFETY: every slice of this test is used on one stream alone.
    unsafe { device.context().disable_event_tracking() };
    let mut random = Random(15);
    let layer = Spec::new(136, 256, 64, 16).bias().layer("layer", &mut random);
    let bench = Bench::new(&device, &[vec![layer.clone()]]);
    let (stream, linear) = (&bench.stream, bench.linear(&layer));
    let (tokens, k) = (48, layer.matrix.cols);
    let mut x = bench.upload(&vec![bf16::ONE; tokens * k]);
    let mut y = bench.upload(&vec![bf16::NAN; tokens * layer.matrix.rows]);
    let call = |x: &CudaSlice<bf16>, y: &mut CudaSlice<bf16>| {
        let input = x.slice(..tokens * k);
        linear.forward(&input, tokens, stream, &mut y.slice_mut(..tokens * layer.matrix.rows)).unwrap();
    };
    call(&x, &mut y);

    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    call(&x, &mut y);
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().expect("a captured graph");

    for more in [0, 65, 500] {
        bench.check_forward(&layer, more, &mut random);
        let new: Vec<bf16> = rows(tokens, k, true, &mut random);
        stream.memcpy_htod(&new, &mut x).unwrap();
        graph.launch().unwrap();
        let quantized = support::quantized(&values(&new), k);
        let y = &bench.download(&y)[..tokens * layer.matrix.rows];
        compare(&format!("graph of forward, after {more} tokens"), &layer, &quantized, y);
    }
}

/// Halves of a common output, as a fused gate and up projection leaves them.
#[test]
fn strided_inputs() {
    let device = device();
    let mut random = Random(10);
    let layer = Spec::new(96, 384, 128, 16).layer("layer", &mut random);
    let bench = Bench::new(&device, &[vec![layer.clone()]]);
    let k = layer.matrix.cols;
    for tokens in [1, 30, 100] {
        let both: Vec<bf16> = rows(tokens, 2 * k, false, &mut random);
        let half = |first: usize| -> Vec<f64> {
            both.chunks_exact(2 * k).flat_map(|row| values(&row[first..first + k])).collect()
        };
        let transformed = support::prologue(Prologue::SiluMul, &half(0), &half(k), k, EPSILON);
        let quantized = support::quantized(&transformed, k);
        let both = bench.upload(&both);
        let (gate, up) = (both.slice(..), both.slice(k..));
        let mut scratch = bench.model.scratch(tokens).unwrap();
        let input = Input::silu_mul(&gate, &up).strided(2 * k, 2 * k);
        let activation = bench.linear(&layer).activation();
        bench.model.quantize(activation, input, tokens, &mut scratch, &bench.stream).unwrap();
        let y = bench.output::<bf16>(&layer, tokens, |linear, y| linear.apply(&scratch, y, &bench.stream));
        compare(&format!("{tokens} tokens, strided"), &layer, &quantized, &y);
    }
}

/// A graph gives what the calls gave that were captured, on new inputs too.
#[test]
fn captured_in_a_graph() {
    let device = device();
    // SAFETY: every slice of this test is used on one stream alone.
    unsafe { device.context().disable_event_tracking() };
    let mut random = Random(11);
    let layers = [
        Spec::new(256, 512, 128, 16).layer("q", &mut random),
        Spec::new(64, 512, 128, 16).bias().layer("k", &mut random),
    ];
    let bench = Bench::new(&device, &[layers.to_vec()]);
    let stream = &bench.stream;
    for tokens in [1, 33, 100] {
        let k = layers[0].matrix.cols;
        bench.model.prepare(tokens, DataType::Bf16, &[Prologue::None], DataType::Bf16).unwrap();
        let mut scratch = bench.model.scratch(tokens).unwrap();
        let mut x = bench.upload(&vec![bf16::ZERO; tokens * k]);
        let mut outputs =
            layers.each_ref().map(|layer| bench.upload(&vec![bf16::NAN; tokens * layer.matrix.rows]));

        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let input = x.slice(..tokens * k);
        let activation = bench.linear(&layers[0]).activation();
        bench.model.quantize(activation, Input::plain(&input), tokens, &mut scratch, stream).unwrap();
        for (layer, y) in layers.iter().zip(&mut outputs) {
            let mut y = y.slice_mut(..tokens * layer.matrix.rows);
            bench.linear(layer).apply(&scratch, &mut y, stream).unwrap();
        }
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).unwrap().expect("a captured graph");

        for _ in 0..3 {
            let new: Vec<bf16> = rows(tokens, k, true, &mut random);
            stream.memcpy_htod(&new, &mut x).unwrap();
            graph.launch().unwrap();
            let quantized = support::quantized(&values(&new), k);
            for (layer, y) in layers.iter().zip(&outputs) {
                let y = &bench.download(y)[..tokens * layer.matrix.rows];
                compare(&format!("{tokens} tokens, graph"), layer, &quantized, y);
            }
        }
    }
}

/// What does not fit is an error that names it, and launches nothing.
#[test]
fn misuse_is_an_error() {
    let device = device();
    let mut random = Random(12);
    let layer = Spec::new(16, 64, 0, 0).layer("layer", &mut random);
    let other = Spec::new(16, 32, 0, 0).layer("other", &mut random);
    let bench = Bench::new(&device, &[vec![layer.clone()], vec![other.clone()]]);
    let stranger = Bench::new(&device, &[vec![layer.clone()]]);
    let (linear, stream) = (bench.linear(&layer), &bench.stream);
    let mut scratch = bench.model.scratch(4).unwrap();
    let (x, mut y) = (bench.upload(&vec![bf16::ONE; 5 * 64]), bench.upload(&[bf16::ONE; 4 * 16]));
    let quantize = |columns: usize, tokens: usize, scratch: &mut Scratch| {
        let x = x.slice(..tokens * columns);
        bench.model.quantize(linear.activation(), Input::plain(&x), tokens, scratch, stream)
    };
    let message = |result: Result<(), Error>| result.unwrap_err().to_string();

    assert_eq!(bench.model.linear("none").unwrap_err().to_string(), "the model has no layer \"none\"");
    let mut y4 = y.slice_mut(..64);
    assert_eq!(
        message(linear.apply(&scratch, &mut y4, stream)),
        "the scratch does not hold the quantized input of layer \"layer\""
    );
    assert_eq!(message(quantize(63, 4, &mut scratch)), "x has 252 elements instead of 256");
    assert_eq!(message(quantize(64, 5, &mut scratch)), "5 tokens do not fit a scratch made for 4");
    let mut strange = stranger.model.scratch(4).unwrap();
    assert_eq!(message(quantize(64, 4, &mut strange)), "the scratch belongs to another model");
    quantize(64, 4, &mut scratch).unwrap();
    let mut short = y.slice_mut(..63);
    assert_eq!(message(linear.apply(&scratch, &mut short, stream)), "y has 63 elements instead of 64");
    let mut y4 = y.slice_mut(..64);
    assert_eq!(
        message(bench.linear(&other).apply(&scratch, &mut y4, stream)),
        "the scratch does not hold the quantized input of layer \"other\""
    );
    linear.apply(&scratch, &mut y4, stream).unwrap();
    let none = LinearVariant { kernel: LinearKernel::Decode, tokens: 12, cluster: 1 };
    assert_eq!(
        message(linear.apply_variant(none, &scratch, &mut y4, stream)),
        "no such kernel variant: decode of 12 tokens in clusters of 1"
    );
    let mut scratch = bench.model.scratch(9).unwrap();
    let nine = bench.upload(&[bf16::ONE; 9 * 64]);
    let input = nine.slice(..9 * 64);
    bench.model.quantize(linear.activation(), Input::plain(&input), 9, &mut scratch, stream).unwrap();
    let mut y9 = bench.upload(&[bf16::ONE; 9 * 16]);
    let eight = LinearVariant { kernel: LinearKernel::Decode, tokens: 8, cluster: 1 };
    assert_eq!(
        message(linear.apply_variant(eight, &scratch, &mut y9.slice_mut(..9 * 16), stream)),
        "no such kernel variant: decode of 8 tokens for 9"
    );
}
