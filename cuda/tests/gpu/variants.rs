//! Every tile and cluster of the kernels.

use super::*;

/// Few tokens have a cluster each in quantization, many have none, and both kernels: what the table gives so many tokens.
#[test]
fn every_cluster_of_the_quantization() {
    let device = device();
    let mut random = Random(2);
    let layers = [Spec::new(24, 2056, 128, 24).layer("layer", &mut random)];
    let bench = Bench::new(&device, &[layers.to_vec()]);
    for tokens in [5, 70, 96, 128, 200, 384, 500, 700, 1056, 1100, 2000, 4500] {
        for prologue in Prologue::ALL {
            bench.check::<bf16, bf16>(&layers, tokens, prologue, &mut random);
        }
    }
}

/// Every tile and cluster of the linear kernels, whether the table names it or not.
#[test]
fn every_variant_of_the_linear_kernels() {
    check_every_variant(Accumulation::Fast);
}

#[test]
fn every_variant_that_adds_up_in_single_precision() {
    check_every_variant(Accumulation::Accurate);
}

fn check_every_variant(accumulation: Accumulation) {
    let device = device();
    let mut random = Random(3);
    let layer = Spec::new(328, 1100, 64, 24).bias().layer("layer", &mut random);
    let bench = Bench::with(&device, &[vec![layer.clone()]], accumulation);
    let kernels = [LinearKernel::Decode, LinearKernel::Prefill];
    let tiles =
        kernels.into_iter().flat_map(|kernel| (8..=256).step_by(8).map(move |tokens| (kernel, tokens)));
    let clustered = tiles.flat_map(|tile| (1..=8).map(move |cluster| (tile, cluster)));
    let all = clustered.flat_map(|((kernel, tokens), cluster)| {
        [1, 2, 3].map(|blocks_per_sm| LinearVariant { kernel, tokens, cluster, blocks_per_sm })
    });
    let variants = all.filter_map(|variant| variant.check().ok());
    let fits = |variant: &LinearVariant| {
        accumulation == Accumulation::Fast || variant.kernel == LinearKernel::Decode || variant.tokens <= 128
    };
    let variants: Vec<LinearVariant> = variants.filter(fits).collect();
    let widths = if accumulation == Accumulation::Fast { 7 } else { 3 };
    assert_eq!(variants.len(), 8 * (2 + 2 + 3 + 2 + 1 + 1) + 3 * widths);
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
                        let has_one_tile = variant.kernel == LinearKernel::Decode && variant.tokens <= 32;
                        if has_one_tile && *tokens > variant.tokens as usize {
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
