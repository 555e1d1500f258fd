//! Layers of all shapes.

use super::*;

/// Every shape that is out of the ordinary, on its own.
#[test]
fn layers_of_all_shapes() {
    let device = device();
    let specs = [
        Spec::new(8, 72, 0, 0),
        Spec::new(8, 72, 32, 8).bias(),
        Spec::new(130, 77, 32, 0),
        Spec::new(64, 128, 64, 16).m3(),
        Spec::new(200, 264, 64, 0).bias(),
        Spec::new(256, 512, 128, 40),
        Spec::new(384, 576, 128, 8).bias().m3(),
        Spec::new(136, 640, 256, 16).e3m0(),
        Spec::new(5, 1000, 0, 40).bias(),
        Spec::new(500, 1536, 128, 0).bias(),
        Spec::new(128, 2048, 512, 24).m3(),
        Spec::new(72, 4104, 32, 16).bias().e3m0(),
        Spec::new(40, 16_520, 128, 16).m3(),
        Spec::new(8, 72, 32, 8).bias().lut4(),
        Spec::new(130, 77, 0, 0).lut4(),
        Spec::new(384, 576, 64, 8).lut4(),
        Spec::new(200, 1000, 128, 16).bias().lut4(),
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
        Spec::new(192, 576, 0, 8).m3(),
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
