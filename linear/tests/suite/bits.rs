//! Every instruction set, number of threads, batch and tile gives the bits of the definition.

use proptest::prelude::*;
use zqc_formats::{ActivationFormat, FactorFormat, Format, Ladder};
use zqc_linear::{Isa, Layout, PackedLinear, Pool, Serial, reference};

use crate::layers::{
    ACTIVATIONS, ActivationKind, Activations, ExtraKind, Kind, OUTPUTS, Operands, OutputKind, output,
    weight_kinds,
};
use crate::noise::Noise;

/// Threads of its own, three of them.
struct Three;

impl Pool for Three {
    fn threads(&self) -> usize {
        3
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let next = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.threads() {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        if at >= tasks {
                            break;
                        }
                        task(at);
                    }
                });
            }
        });
    }
}

/// The instruction sets here; those that are missing are named.
fn instruction_sets() -> Vec<Isa> {
    let (available, missing): (Vec<Isa>, Vec<Isa>) = Isa::ALL.into_iter().partition(|isa| isa.is_available());
    println!("instruction sets that run: {available:?}; that this machine lacks: {missing:?}");
    #[cfg(target_arch = "x86_64")]
    assert!(
        !is_x86_feature_detected!("avx2") || available.contains(&Isa::Avx2),
        "a processor with AVX2 must test more than scalar code"
    );
    available
}

/// Compares all that computes with the definition.
fn compare(sets: &[Isa], operands: &Operands, activations: &Activations, m: usize, to: OutputKind) {
    let Kind { n, .. } = operands.kind;
    let layer = operands.layer();
    let expected =
        output(to, m * n, |y| reference::forward(&layer, activations.tokens(), y).expect("shapes that fit"));
    for &isa in sets {
        let packed = PackedLinear::pack(&layer, isa).expect("a sound layer");
        for pool in [&Serial as &dyn Pool, &Three] {
            let actual = output(to, m * n, |y| {
                packed.forward(activations.tokens(), y, pool).expect("shapes that fit");
            });
            let differ = actual.iter().zip(&expected).filter(|(actual, expected)| actual != expected).count();
            let first = actual.iter().zip(&expected).position(|(actual, expected)| actual != expected);
            assert_eq!(
                differ,
                0,
                "{isa}, {m} tokens, {to:?}: {:?}, first {first:?} of {}",
                operands.kind,
                m * n
            );
        }
    }
}

#[test]
fn every_kind_on_every_instruction_set() {
    let sets = instruction_sets();
    let noise = &mut Noise::new(1);
    let branches = [None, Some((3, FactorFormat::E4M3)), Some((18, FactorFormat::Bf16))];
    let mut turn = 0;
    for (format, extra) in weight_kinds() {
        for activation in ACTIVATIONS {
            for low_rank in branches {
                turn += 1;
                let group_size = noise.choose(&[16, 32, 64, 64, 128, 1000]);
                let layout = noise.choose(&[Layout::InputMajor, Layout::OutputMajor]);
                let (k, n) = (noise.choose(&[64, 96, 200, 320]), noise.choose(&[16, 24, 48]));
                let bias = noise.below(2) == 0;
                let kind = Kind { k, n, group_size, layout, format, extra, low_rank, bias };
                let operands = Operands::random(kind, noise);
                let m = noise.choose(&[1, 2, 5, 8, 19, 33]);
                let activations = Activations::random(activation, m, k, noise);
                compare(&sets, &operands, &activations, m, OUTPUTS[turn % OUTPUTS.len()]);
            }
        }
    }
}

#[test]
fn every_number_of_tokens() {
    let sets = instruction_sets();
    let noise = &mut Noise::new(2);
    let kind = Kind {
        k: 160,
        n: 40,
        group_size: 64,
        layout: Layout::InputMajor,
        format: Format::E2M1,
        extra: ExtraKind::Shifts(Ladder::M3),
        low_rank: Some((8, FactorFormat::E4M3)),
        bias: true,
    };
    let operands = Operands::random(kind, noise);
    for m in (0..=40).chain([255, 256, 257, 290]) {
        let activations =
            Activations::random(ActivationKind::Quantized(ActivationFormat::E4M3), m, kind.k, noise);
        compare(&sets, &operands, &activations, m, OutputKind::F32);
    }
}

#[test]
fn a_batch_is_its_tokens_one_by_one() {
    let noise = &mut Noise::new(3);
    let kind = Kind {
        k: 576,
        n: 272,
        group_size: 64,
        layout: Layout::InputMajor,
        format: Format::E2M1,
        extra: ExtraKind::Shifts(Ladder::M3),
        low_rank: Some((8, FactorFormat::E4M3)),
        bias: false,
    };
    let operands = Operands::random(kind, noise);
    let m = 12;
    for activation in ACTIVATIONS {
        let activations = Activations::random(activation, m, kind.k, noise);
        for isa in instruction_sets() {
            let packed = PackedLinear::pack(&operands.layer(), isa).expect("a sound layer");
            let run = |tokens, m| {
                output(OutputKind::F32, m * kind.n, |y| {
                    packed.forward(tokens, y, &Serial).expect("shapes that fit");
                })
            };
            let single: Vec<u32> = (0..m).flat_map(|at| run(activations.token(at, kind.k), 1)).collect();
            assert_eq!(run(activations.tokens(), m), single, "{isa}, {activation:?}");
        }
    }
}

#[test]
fn a_token_that_is_not_a_number_leaves_the_others() {
    let noise = &mut Noise::new(4);
    for (format, nan) in
        [(ActivationFormat::E4M3, 0x7F), (ActivationFormat::E4M3, 0xFF), (ActivationFormat::E5M2, 0x7D)]
    {
        for (weight, extra) in weight_kinds() {
            let kind = Kind {
                k: 100,
                n: 20,
                group_size: 32,
                layout: Layout::InputMajor,
                format: weight,
                extra,
                low_rank: Some((2, FactorFormat::Bf16)),
                bias: true,
            };
            let operands = Operands::random(kind, noise);
            let mut activations = Activations::random(ActivationKind::Quantized(format), 20, kind.k, noise);
            let Activations::Quantized { codes, .. } = &mut activations else {
                unreachable!("quantized above")
            };
            codes[7 * kind.k + 57] = nan;
            compare(&instruction_sets(), &operands, &activations, 20, OutputKind::F32);
            let y = output(OutputKind::F32, 20 * kind.n, |y| {
                reference::forward(&operands.layer(), activations.tokens(), y).expect("shapes that fit");
            });
            let nans = y.iter().map(|bits| f32::from_bits(*bits).is_nan());
            assert!(nans.enumerate().all(|(at, nan)| nan == (at / kind.n == 7)), "{weight}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn ragged_shapes(
        k in 1usize..150, n in 1usize..50, group_size in 1usize..160, m in 0usize..20, seed: u64,
        weight in 0usize..11, activation in 0usize..6, rank in 0usize..20, bias: bool, output_major: bool,
    ) {
        let noise = &mut Noise::new(seed);
        let (format, extra) = weight_kinds()[weight];
        let layout = if output_major { Layout::OutputMajor } else { Layout::InputMajor };
        let low_rank = noise.choose(&[None, Some((rank, FactorFormat::E4M3)), Some((rank, FactorFormat::Bf16))]);
        let kind = Kind { k, n, group_size, layout, format, extra, low_rank, bias };
        let operands = Operands::random(kind, noise);
        let activations = Activations::random(ACTIVATIONS[activation], m, k, noise);
        let sets: Vec<Isa> = Isa::available().collect();
        compare(&sets, &operands, &activations, m, noise.choose(&OUTPUTS));
    }
}
