"""Times of the kernels beside PyTorch's, in one process: python benches/hopper/bench.py --json docs/kernels/h200.json

Every entry is the median of graph replays; the graphs of a row are replayed in turn. For up to 512 tokens a graph goes through that many
copies of the weights that none stays in L2, for more through two. Each kernel's output is compared with float64 (up to 512 tokens).

  alone      the linear kernel, each launch behind the end of the one before, as every other kernel here
  chained    the linear kernel, launches overlapped by programmatic dependent launch, as the launcher does it
  step       quantization with the low-rank branch's first half, then the linear kernel, chained
  quantize   the first part of a step by itself
  per tensor, per row   torch._scaled_mm on FP8 without quantization         bf16   torch.matmul
  torch quantize        the quantization that per row needs, compiled by torch.compile
"""
import argparse
import concurrent.futures
import json
import statistics

import torch

from kernels import Kernel, Layer, Tokens, apply, cubin, error, quantize, up

SHAPES = ["4096x4096", "11008x4096", "4096x11008", "8192x8192", "28672x8192"]
# Where PyTorch's quantization is measured, too, which it compiles for every shape.
TORCH_QUANTIZE = {1, 16, 64, 512, 2048, 4096}
TOKENS = [1, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096]
# Clusters of 1 to 8 blocks that an H200 holds, with a block a multiprocessor.
RESIDENT = (132, 66, 39, 30, 22, 17, 15, 15)


def balance(variant, n, m):
    """The share of the multiprocessors that has work, on average over the rounds of a decode variant."""
    kind, tile, cluster, per_sm = variant
    slots, work = RESIDENT[cluster - 1] * per_sm, -(-n // 128) * -(-m // tile)
    return work * cluster / (-(-work // slots) * 132 * per_sm)


def variants(n, k, m):
    """What to choose from for m tokens: kernel, tokens of a tile, cluster, blocks of a multiprocessor."""
    tiles = [next(tile for tile in (8, 16, 32, 64) if m <= tile)] if m <= 64 else [tile for tile in (64, 96, 128) if tile < 1.34 * m] if m <= 512 else []
    held = {8: (2, 3), 16: (2, 3), 32: (1, 2), 64: (1, 2), 96: (1,), 128: (1,)}
    decode = []
    for tile in tiles:
        of_tile = [("decode", tile, cluster, per_sm) for cluster in range(1, min(8, k // 128) + 1) for per_sm in held[tile]]
        decode += sorted(of_tile, key=lambda variant: -balance(variant, n, m))[:12 // len(tiles)]
    if m <= 64:
        return decode
    # A tile that is a third wider than what it holds is no better than the next narrower.
    prefill = [("prefill", tile, cluster, 1) for tile in (64, 128, 192, 256) for cluster in (1, 2)
               if tile < 1.34 * m and (tile > 64 or m <= 256) and (tile > 128 or m < 2048) and (k <= 16384 or tile <= 128)]
    return decode + prefill


def quantize_variants(m, k):
    """Kernel, tokens of a tile and cluster."""
    blocks = -(-k // 128)
    few = [("quantize", tile, c) for tile in ((8,) if m <= 64 else (8, 16)) for c in (1, 2, 4, 8) if tile // 8 * -(-(-(-blocks // c)) // 2) <= 16]
    many = [("quantize_many", tile, c) for tile in (8, 16) for c in (1, 2, 4) if -(-blocks // c) <= 88] if m >= 48 else []
    return few + many


def quantize_kernel(layer, kernel, tile, cluster):
    return Kernel(f"{kernel}.cu", "zqc_quantize", K=layer.k, RANK=up(layer.rank, 16), INPUT=0, MODE=0, TOKENS=tile, CLUSTER=cluster)


@torch.compile(dynamic=False)
def torch_quantize(x):
    scales = (x.abs().amax(1, keepdim=True).float() / 448).clamp(min=1e-12)
    return (x.float() / scales).to(torch.float8_e4m3fn), scales


def graph(launch, repeats):
    launch(0)
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        for i in range(repeats):
            launch(i)
    return captured


def interleaved(launches, repeats, rounds=11):
    """Median microseconds of each of `launches`, `name: launch(i)` with i < repeats."""
    graphs = {name: graph(launch, repeats) for name, launch in launches.items()}
    times = {name: [] for name in graphs}
    for _ in range(rounds + 2):
        for name, captured in graphs.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            captured.replay()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) * 1e3 / repeats)
    return {name: statistics.median(of[2:]) for name, of in times.items()}


def measure(layer, m, results):
    n, k = layer.n, layer.k
    repeats = max(2, min(48, (256 << 20) // layer.weights.numel())) if m <= 512 else 4
    rotated = [layer.weights.clone() for _ in range(repeats if m <= 512 else 2)]
    x = torch.randn(m, k, device="cuda").bfloat16()
    tokens = Tokens(layer, x)
    reference = layer.reference(tokens.codes, tokens.scales, tokens.inner) if m <= 512 else None
    y = torch.empty(m, n, dtype=torch.bfloat16, device="cuda")
    weights = lambda i: rotated[i % len(rotated)]

    launches, errors, resident = {}, {}, {}
    for variant in variants(n, k, m):
        try:
            kernel = layer.variant(*variant)
        except RuntimeError:  # its shared memory does not fit
            continue
        y.fill_(float("nan"))
        apply(kernel, layer, tokens, y)
        torch.cuda.synchronize()
        resident[variant] = kernel.clusters
        errors[variant] = error(y, reference) if reference is not None else None
        launches[variant] = lambda i, kernel=kernel: apply(kernel, layer, tokens, y, weights(i), True)
    chained = interleaved(launches, repeats)
    best = min(chained, key=chained.get)
    kernel = layer.variant(*best)

    one, mp = torch.ones((), device="cuda"), max(16, up(m, 16))
    codes = torch.zeros(mp, k, device="cuda", dtype=torch.float8_e4m3fn)
    codes[:m] = tokens.codes
    row_scales, column_scales = torch.ones(mp, 1, device="cuda"), torch.ones(1, n, device="cuda")
    fp8 = [layer.w.float().to(torch.float8_e4m3fn) for _ in range(max(2, min(24, (256 << 20) // (n * k))) if m <= 512 else 2)]
    bf16 = [layer.w.bfloat16() for _ in range(max(2, min(12, (256 << 20) // (2 * n * k))) if m <= 512 else 2)]
    scaled = lambda i, a, b: torch._scaled_mm(codes, fp8[i % len(fp8)].t(), scale_a=a, scale_b=b, out_dtype=torch.bfloat16, use_fast_accum=True)
    launches = {
        "alone": lambda i: apply(kernel, layer, tokens, y, weights(i), False),
        "chained": lambda i: apply(kernel, layer, tokens, y, weights(i), True),
        "per_tensor": lambda i: scaled(i, one, one),
        "per_row": lambda i: scaled(i, row_scales, column_scales),
        "bf16": lambda i: torch.matmul(x, bf16[i % len(bf16)].t()),
    }
    down = layer.down()
    run_quantize = lambda q: quantize(q, x, None, tokens.code_buffer, tokens.scale_buffer, tokens.inner_buffer, down, tokens.m_pad)
    quantizers = {}
    for variant in quantize_variants(m, k):
        q = quantizers[variant] = quantize_kernel(layer, *variant)

        def step(i, q=q):
            run_quantize(q)
            apply(kernel, layer, tokens, y, weights(i), True)

        launches["step", *variant] = step
    times = interleaved(launches, repeats)
    steps = {key: time for key, time in times.items() if key[0] == "step"}
    step = min(steps, key=steps.get)
    launches = {"quantize": lambda i: run_quantize(quantizers[step[1:]])}
    if m in TORCH_QUANTIZE:
        launches["torch_quantize"] = lambda i: torch_quantize(x)
    alone = interleaved(launches, repeats)
    row = dict(n=n, k=k, m=m, kernel=best[0], tile=best[1], cluster=best[2], per_sm=best[3], error=errors[best], quantize_kernel=step[1],
               quantize_tile=step[2], quantize_cluster=step[3], step=steps[step], **alone, **{key: time for key, time in times.items() if isinstance(key, str)},
               variants={" ".join(map(str, variant)): round(time, 2) for variant, time in chained.items()},
               errors={" ".join(map(str, variant)): found for variant, found in errors.items()},
               resident={" ".join(map(str, variant)): clusters for variant, clusters in resident.items()})
    results.append(row)
    print(f"{n}x{k} M={m}: {best[0]} {best[1]}x{best[2]}x{best[3]} alone {row['alone']:.1f} chained {row['chained']:.1f} "
          f"step {row['step']:.1f} ({step[1]} {step[2]}x{step[3]}) quantize {row['quantize']:.1f} torch {row.get('torch_quantize', 0):.1f} | fp8 {row['per_tensor']:.1f} / {row['per_row']:.1f} bf16 {row['bf16']:.1f} | "
          f"{2 * m * n * k / row['alone'] * 1e-6:.0f} TFLOP/s", flush=True)


def compile_all(layer, ms):
    """Every kernel that the rows need, on all processors."""
    k = layer.k
    specs = {layer.specialization(*variant) for m in ms for variant in variants(layer.n, k, m)}
    specs |= {(f"{kernel}.cu", tuple(sorted({"K": k, "RANK": up(layer.rank, 16), "INPUT": 0, "MODE": 0, "TOKENS": tile, "CLUSTER": c}.items())))
              for m in ms for kernel, tile, c in quantize_variants(m, k)}
    def compile_one(spec):
        try:
            cubin(*spec)
        except RuntimeError:  # measure leaves it out
            pass

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(compile_one, specs))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--tokens", nargs="+", type=int, default=TOKENS)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=128, choices=[32, 64, 128])
    parser.add_argument("--json")
    arguments = parser.parse_args()
    print(torch.cuda.get_device_name(), "torch", torch.__version__, flush=True)
    torch._dynamo.config.recompile_limit = 64
    results = []
    layer_of = lambda shape: Layer(*map(int, shape.split("x")), 128 // arguments.group_size, arguments.rank, seed=1)
    for shape in arguments.shapes:
        compile_all(layer_of(shape), arguments.tokens)
    print("compiled", flush=True)
    for shape in arguments.shapes:
        layer = layer_of(shape)
        for m in arguments.tokens:
            measure(layer, m, results)
            if arguments.json:
                head = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "rank": arguments.rank}
                with open(arguments.json, "w") as file:
                    # A line a row, to be compared by line.
                    file.write(json.dumps(head)[:-1] + ', "rows": [\n' + ",\n".join(map(json.dumps, results)) + "\n]}\n")
        del layer
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
