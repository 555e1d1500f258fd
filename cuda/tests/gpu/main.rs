//! The kernels against f64, on a Hopper GPU: `cargo test --release -p zqc-cuda --test gpu`. They are no part of the suite, as few
//! machines have one.
//!
//! The test binary needs nothing but the driver, NVRTC and a folder for temporary files.

mod graphs;
mod inputs;
mod shapes;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod variants;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use half::{bf16, f16};
use support::{Random, Spec};
use zqc_cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use zqc_cuda::cudarc::driver::{CudaGraph, CudaSlice, CudaStream, CudaViewMut, DeviceRepr};
use zqc_cuda::{
    Accumulation, DataType, Device, Element, Error, Input, Linear, LinearKernel, LinearVariant, Model,
    Prologue, Scratch,
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

/// Held for reading by whoever captures: the first stream of a context waits for everything else in it, which no capture may see.
static CAPTURES: RwLock<()> = RwLock::new(());

fn capturing() -> RwLockReadGuard<'static, ()> {
    CAPTURES.read().unwrap_or_else(PoisonError::into_inner)
}

/// A model with a stream to run it on.
struct Bench {
    model: Model,
    stream: Arc<CudaStream>,
}

impl Bench {
    fn new(device: &Device, groups: &[Vec<LayerParts>]) -> Self {
        Self::with(device, groups, Accumulation::Fast)
    }

    fn with(device: &Device, groups: &[Vec<LayerParts>], accumulation: Accumulation) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let package = support::package(folder.path(), groups);
        let model = Model::load(device, &package, accumulation).unwrap();
        let _no_capture = CAPTURES.write().unwrap_or_else(PoisonError::into_inner);
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
