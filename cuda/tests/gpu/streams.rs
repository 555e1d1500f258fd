//! Calls from several threads, on one stream and on several.

use super::*;

impl Bench {
    /// One call, with random tokens, against f64.
    pub(super) fn check_forward(&self, layer: &LayerParts, tokens: usize, random: &mut Random) {
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
