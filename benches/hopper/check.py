"""Every kernel against float64, on random and on awkward inputs: python benches/hopper/check.py

Prints a line a case and ends with status 1 if a relative error exceeds 3e-3, an output was not written or one was written too many.
"""
import concurrent.futures
import sys

import torch

import kernels
from kernels import Kernel, Layer, OUTPUTS, Tokens, apply, cubin, error, quantize, swizzle, up

LIMIT = 3e-3
# N, K, groups a block, rank, bias
SHAPES = [(4096, 4096, 1, 16, False), (1000, 712, 2, 8, True), (8, 72, 4, 0, True), (576, 1536, 2, 40, False), (4100, 1032, 1, 16, True),
          (11008, 4096, 1, 16, False), (512, 28672, 1, 16, False)]
# Tokens of a tile, cluster, blocks of a multiprocessor, M
DECODE = [(8, 8, 3, (1, 7)), (16, 8, 3, (9, 16)), (32, 8, 2, (17, 32)), (64, 8, 2, (33, 63, 64)), (8, 1, 2, (3,)), (16, 2, 2, (16,)), (16, 5, 3, (11,)), (8, 7, 2, (8,)), (32, 4, 1, (31,)),
          (32, 8, 3, (20,)), (64, 4, 1, (50,)), (64, 3, 2, (64, 90)), (32, 6, 2, (29,)), (128, 3, 1, (300,)), (64, 2, 1, (64, 200)), (96, 4, 1, (65, 96, 200)), (128, 8, 1, (128, 513)), (128, 2, 1, (100, 257)),
          (128, 1, 1, (130,))]
PREFILL = [(256, 2, 1, (65, 512, 1000)), (256, 1, 1, (300, 385)), (128, 4, 1, (129,)), (128, 2, 1, (512,)), (64, 1, 1, (65,)), (96, 2, 1, (200,)),
           (160, 2, 1, (333,)), (192, 2, 1, (384,)), (224, 1, 1, (225,))]


def tokens_of(layer, m, seed):
    g = torch.Generator(device="cuda").manual_seed(seed)
    x = torch.randn(m, layer.k, device="cuda", generator=g).bfloat16()
    x[::5] *= 1000          # huge tokens
    x[:, 3] *= 30           # an outlier channel
    if m > 2:
        x[m // 2] = 0       # a token of zeros
    return x


def check_linear(failures):
    for n, k, steps, rank, bias in SHAPES:
        layer = Layer(n, k, steps, rank, bias, seed=n + k, zero_rows=3)
        jobs = [("decode", *d) for d in DECODE] + [("prefill", *p) for p in PREFILL]
        if k > 16384:
            jobs = [job for job in jobs if job[1] <= 128]
        specs = [(*job[:4], output) for job in jobs for output in range(3)
                 if output == 0 or job[:2] in (("decode", 16), ("decode", 96), ("prefill", 128), ("prefill", 256))]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda spec: cubin(*layer.specialization(*spec)), specs))
        worst, cases = 0.0, 0
        for kind, tokens, cluster, per_sm, output in specs:
            try:
                kernel = layer.variant(kind, tokens, cluster, per_sm, output)
            except RuntimeError as failure:
                failures.append(f"{kind} {tokens}x{cluster} {n}x{k}: {failure}")
                continue
            for m in next(job[4] for job in jobs if job[:4] == (kind, tokens, cluster, per_sm)):
                x = tokens_of(layer, m, m) * (0.001 if output == 1 else 1)
                quantized = Tokens(layer, x)
                y = torch.full((m + 1, n + 9), float("nan"), dtype=OUTPUTS[output], device="cuda")
                apply(kernel, layer, quantized, y)
                torch.cuda.synchronize()
                reference = layer.reference(quantized.codes, quantized.scales, quantized.inner)
                relative = error(y[:m, :n], reference)
                again = y.clone()
                for _ in range(4):
                    again.fill_(float("nan"))
                    apply(kernel, layer, quantized, again)
                    if not torch.equal(again[:m, :n], y[:m, :n]):
                        failures.append(f"{kind} {tokens}x{cluster} N={n} K={k} M={m} output {output}: other bits on another run")
                stray = int((~torch.isnan(y[m:])).sum() + (~torch.isnan(y[:, n:])).sum())
                worst, cases = max(worst, relative if relative == relative else 9e9), cases + 1
                if not relative <= LIMIT or stray:
                    failures.append(f"{kind} {tokens}x{cluster} N={n} K={k} M={m} output {output}: error {relative:.2e}, {stray} stray")
        print(f"linear N={n} K={k} groups/block {steps} rank {rank} bias {bias}: {cases} cases, largest error {worst:.2e}", flush=True)


def check_accumulation(failures):
    """Sums of one sign, which the tensor cores' 14 bits bias, and the largest there are, which decode sends as f16."""
    # Columns and weights: the largest relative errors allowed, fast and accurate.
    limits = {(4096, "random"): (2e-3, 1e-3), (4096, "positive"): (6e-2, 1.5e-2), (8192, "random"): (3e-3, 1e-3), (8192, "positive"): (1.2e-1, 1.5e-2),
              (8192, "largest"): (3e-1, 3e-2)}
    for (k, weights), allowed in limits.items():
        layer = Layer(1024, k, rank=16, weights=weights)
        found = []
        for kind, tile, cluster, per_sm, m in (("decode", 16, 4, 2, 16), ("decode", 64, 3, 2, 64), ("decode", 128, 1, 1, 512), ("prefill", 128, 1, 1, 512)):
            x = torch.randn(m, k, device="cuda", generator=torch.Generator(device="cuda").manual_seed(m)).bfloat16()
            x = torch.full_like(x, 3) if weights == "largest" else x.abs() if weights == "positive" else x
            tokens, y = Tokens(layer, x), torch.empty(m, layer.n, dtype=torch.float32, device="cuda")
            reference = layer.reference(tokens.codes, tokens.scales, tokens.inner)
            for accurate in (0, 1):
                apply(layer.variant(kind, tile, cluster, per_sm, 2, accurate=accurate), layer, tokens, y)
                found.append(error(y, reference))
                if not found[-1] <= allowed[accurate]:
                    failures.append(f"{kind} {tile}x{cluster} K={k}, {weights} weights, accurate {accurate}: error {found[-1]:.1e}")
        print(f"accumulation K={k}, {weights} weights: largest error {max(found[::2]):.1e} fast, {max(found[1::2]):.1e} accurate", flush=True)


def check_quantize(failures):
    few = [("quantize.cu", k, rank, tokens, cluster, (1, 17, 70))
           for k, rank, tokens, cluster in ((4096, 16, 8, 8), (4096, 16, 32, 8), (4096, 48, 8, 1), (2048, 16, 16, 1), (712, 48, 8, 2), (72, 0, 8, 1), (11008, 16, 16, 8),
                                            (28672, 96, 8, 8), (576, 32, 32, 4), (1032, 16, 16, 2))]
    many = [("quantize_many.cu", k, rank, tokens, cluster, (1, 70, 3000))
            for k, rank, tokens, cluster in ((4096, 16, 8, 1), (4096, 48, 16, 2), (712, 48, 8, 1), (72, 0, 8, 1), (1001, 16, 16, 2), (11008, 32, 8, 4), (28672, 16, 8, 8),
                                             (8192, 16, 8, 2), (576, 112, 16, 1))]
    cases = [(source, k, rank, dtype, mode, tokens, cluster, m)
             for source, k, rank, tokens, cluster, ms in few + many for dtype in range(3) for mode in range(3) for m in ms]
    keys = sorted({(s, (("CLUSTER", c), ("INPUT", d), ("K", k), ("MODE", mode), ("RANK", r), ("TOKENS", t))) for s, k, r, d, mode, t, c, _ in cases})
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: cubin(*key), keys))
    worst_scale = worst_value = worst_inner = 0.0
    for source, k, rank, dtype, mode, tokens, cluster, m in cases:
        g = torch.Generator(device="cuda").manual_seed(k + m)
        kernel = Kernel(source, "zqc_quantize", K=k, RANK=rank, INPUT=dtype, MODE=mode, TOKENS=tokens, CLUSTER=cluster)
        x = (torch.randn(m, k, device="cuda", generator=g) * 3).to(OUTPUTS[dtype])
        if m > 2:
            x[m // 2] = 0
        x2 = {0: None, 1: torch.rand(k, device="cuda", generator=g).to(OUTPUTS[dtype]),
              2: torch.randn(m, k, device="cuda", generator=g).to(OUTPUTS[dtype])}[mode]
        m_pad, blocks = up(m, 8), -(-k // 128)
        v = torch.zeros(rank, blocks * 128, device="cuda")
        v[:, :k] = torch.randn(rank, k, device="cuda", generator=g)
        v = v.to(torch.float8_e4m3fn)
        down = swizzle(v.view(torch.uint8).view(rank, blocks, 128).permute(1, 0, 2).contiguous(), 7) if rank else None
        codes = torch.full((blocks, m_pad, 128), 0x7F, dtype=torch.uint8, device="cuda")
        scales = torch.full((m_pad,), float("nan"), device="cuda")
        inner = torch.full((max(rank, 16) // 16, m_pad, 16), float("nan"), dtype=torch.bfloat16, device="cuda")
        quantize(kernel, x, x2, codes, scales, inner, down, m_pad)
        torch.cuda.synchronize()
        values = x.double()
        if mode == 1:
            values = values * torch.rsqrt(values.square().mean(1, keepdim=True) + 1e-6) * x2.double()
        if mode == 2:
            values = values * torch.sigmoid(values) * x2.double()
        scale = (values.abs().amax(1) / 448).clamp(min=1e-12)
        rows = swizzle(codes, 7).permute(1, 0, 2).reshape(m_pad, -1)[:m].view(torch.float8_e4m3fn).double()
        expected = (values / scale[:, None]).clamp(-448, 448).to(torch.float32).to(torch.float8_e4m3fn).double()
        got_inner = swizzle(inner.view(torch.uint8), 1, 2).view(torch.bfloat16).permute(1, 0, 2).reshape(m_pad, -1)[:m, :rank]
        scale_error = error(scales[:m], scale)
        value_error = error(rows[:, :k], expected)
        tail = float(rows[:, k:].abs().sum())
        inner_error = error(got_inner, rows @ v.double().T) if rank else 0.0
        worst_scale, worst_value, worst_inner = max(worst_scale, scale_error), max(worst_value, value_error), max(worst_inner, inner_error)
        # A code may fall on the other side of a tie; the inner values add up in the tensor cores' 14 bits and end in bf16.
        if not (scale_error <= 1e-5 and value_error <= 1e-2 and inner_error <= 5e-3 and tail == 0):
            failures.append(f"{source} K={k} rank {rank} input {dtype} mode {mode} {tokens}x{cluster} M={m}: "
                            f"scale {scale_error:.1e}, codes {value_error:.1e}, inner {inner_error:.1e}, tail {tail}")
    print(f"quantize: {len(cases)} cases, largest errors: scale {worst_scale:.1e}, codes {worst_value:.1e}, inner {worst_inner:.1e}", flush=True)


def main():
    print(torch.cuda.get_device_name(), flush=True)
    failures = []
    check_quantize(failures)
    check_linear(failures)
    check_accumulation(failures)
    print("\n".join(failures) or "all cases passed")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
