"""Times of the kernels beside PyTorch's, in one process: python benches/hopper/bench.py [--quick]"""
import argparse
import concurrent.futures
import json
import statistics
import sys

import torch

from kernels import Kernel, Layer, Tokens, apply, cubin, error, quantize, up


def graph_time(launch, repeats, replays=15):
    """Median microseconds of `launch(i)`, i < repeats, captured as one graph and replayed."""
    launch(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(repeats):
            launch(i)
    times = []
    for _ in range(replays + 2):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / repeats)
    return statistics.median(times[2:])


def weights_of(layer, total):
    """Copies of the layer's weights, that many that a pass over all exceeds the L2 cache."""
    count = max(2, min(64, -(-total // layer.weights.numel())))
    return [layer.weights.clone() for _ in range(count)]


def candidates(m):
    """The variants to choose from for m tokens: kernel, tokens of a tile, cluster."""
    if m <= 64:
        tile = next(tile for tile in (8, 16, 32, 64) if m <= tile)
        return [("decode", tile, cluster) for cluster in (8, 4, 2)]
    return [("prefill", tile, cluster) for tile in (128, 256) for cluster in (1, 2) if m < 2048 or tile == 256]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", nargs="+", default=["4096x4096", "11008x4096", "8192x8192", "28672x8192"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 16, 64, 512, 2048, 4096])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    results = []
    for shape in arguments.shapes:
        n, k = map(int, shape.split("x"))
        layer = Layer(n, k, 1, arguments.rank, seed=1)
        variants = {m: candidates(m) for m in arguments.tokens}
        specs = {variant for of in variants.values() for variant in of}
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda s: cubin(f"linear_{s[0]}.cu", tuple(sorted(
                {**layer.defines, "OUTPUT": 0, "TOKENS": s[1], "CLUSTER": s[2]}.items()))), specs))
        for m in arguments.tokens:
            rotated = weights_of(layer, 256 << 20 if m <= 64 else 128 << 20)
            repeats = len(rotated) if m <= 64 else max(3, len(rotated) // 4)
            x = torch.randn(m, k, device="cuda").bfloat16()
            tokens = Tokens(layer, x)
            reference = layer.reference(tokens.codes, tokens.scales, tokens.inner) if m <= 512 else None
            y = torch.full((m, n), float("nan"), dtype=torch.bfloat16, device="cuda")
            best = None
            for kind, tile, cluster in variants[m]:
                try:
                    kernel = layer.kernel(kind, tile, cluster)
                    y.fill_(float("nan"))
                    apply(kernel, layer, tokens, y, rotated[0])
                    torch.cuda.synchronize()
                    relative = error(y, reference) if reference is not None else float("nan")
                    alone = graph_time(lambda i: apply(kernel, layer, tokens, y, rotated[i % len(rotated)], False), repeats)
                    chained = graph_time(lambda i: apply(kernel, layer, tokens, y, rotated[i % len(rotated)], True), repeats)
                except RuntimeError as failure:
                    print("failed", kind, tile, cluster, failure, flush=True)
                    continue
                row = dict(n=n, k=k, m=m, kind=kind, tile=tile, cluster=cluster, alone=alone, chained=chained, error=relative,
                           clusters=kernel.clusters)
                results.append(row)
                print(f"{n}x{k} M={m} {kind} {tile}x{cluster}: alone {alone:.2f} us, chained {chained:.2f} us, "
                      f"{2 * m * n * k / alone * 1e-6:.0f} TFLOP/s, error {relative:.1e}, clusters {kernel.clusters}", flush=True)
            if arguments.peers:
                wq = layer.w.float().to(torch.float8_e4m3fn)
                copies = [wq.clone() for _ in range(max(2, min(32, (256 << 20) // wq.numel())))] if m <= 64 else [wq, wq.clone(), wq.clone()]
                one = torch.ones((), device="cuda")
                mp = max(16, up(m, 16))
                xq = torch.zeros(mp, k, device="cuda", dtype=torch.float8_e4m3fn)
                xq[:m] = tokens.codes
                per_tensor = graph_time(lambda i: torch._scaled_mm(xq, copies[i % len(copies)].t(), scale_a=one, scale_b=one,
                                                                   out_dtype=torch.bfloat16, use_fast_accum=True), max(3, len(copies) if m <= 64 else 3))
                sa, sb = torch.ones(mp, 1, device="cuda"), torch.ones(1, n, device="cuda")
                per_row = graph_time(lambda i: torch._scaled_mm(xq, copies[i % len(copies)].t(), scale_a=sa, scale_b=sb,
                                                                out_dtype=torch.bfloat16, use_fast_accum=True), max(3, len(copies) if m <= 64 else 3))
                print(f"{n}x{k} M={m} torch._scaled_mm per tensor {per_tensor:.2f} us, per row {per_row:.2f} us", flush=True)
                results.append(dict(n=n, k=k, m=m, per_tensor=per_tensor, per_row=per_row))
                del copies, wq
            del rotated
        del layer
        torch.cuda.empty_cache()
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file)


if __name__ == "__main__":
    main()
