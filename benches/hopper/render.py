"""From the times of bench.py: the dispatch table, and tables and plot of docs/kernels.md. python benches/hopper/render.py docs/kernels/h200.json"""
import datetime
import json
import math
import pathlib
import re
import sys

from costs import costs

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Measured on an H200: bytes a microsecond of a kernel that only reads, what it costs besides, and the tensor cores' sustained rate
# for FP8 with one operand in registers, in operations a microsecond.
READ, LAUNCH, PEAK = 4.54e6, 1.9, 1682e6


def floor(row, rank):
    """Microseconds that no kernel of this format can go below: reading everything once and writing the output, or multiplying."""
    n, k, m = row["n"], row["k"], row["m"]
    moved = n * k / 2 + n * k / 128 / 2 + n * (4 + 2 * rank) + m * (k + 4 + 2 * rank) + 2 * m * n
    return max(moved / READ + LAUNCH, 2 * m * n * k / PEAK)


def dispatch(results):
    lines = ["# Which kernel a shape gets: the fastest of those measured, up to m_max tokens each. Other shapes get the one that costs least",
             "# by src/dispatch/cost.rs. n is 0 in rows of quantize, which hold for the nearest k: all layers of k columns share it.",
             f"# {results['card']}, {datetime.date.today()}: benches/hopper/bench.py --json FILE, benches/hopper/render.py FILE",
             "# n\tk\tm_max\tkernel\ttokens\tcluster\tblocks_per_sm"]
    limit = lambda m: max(8, m)
    line = lambda *columns: lines.append("\t".join(map(str, columns)))
    for row in results["rows"]:
        line(row["n"], row["k"], limit(row["m"]), row["kernel"], row["tile"], row["cluster"], row["per_sm"])
    # Of the layers that share an activation, the one whose choice took the least time by itself.
    quantized = {}
    for row in sorted(results["rows"], key=lambda row: row["quantize"]):
        quantized.setdefault((row["k"], limit(row["m"])), (row["quantize_kernel"], row["quantize_tile"], row["quantize_cluster"]))
    for (k, m), variant in sorted(quantized.items()):
        line(0, k, m, *variant, 1)
    line("# cost", "kernel", "tokens", "cluster", "blocks_per_sm", "resident", "fixed", "round", "block")
    for variant, (resident, coefficients) in sorted(costs(results).items()):
        line("cost", *variant, resident, *(f"{value:.4f}" for value in coefficients))
    (ROOT / "cuda/dispatch.tsv").write_text("\n".join(lines) + "\n")


def optional(time):
    return "" if time is None else f"{time:.1f}"


def table(results):
    lines = ["| N x K | M | kernel | alone | chained | floor | quantize + LoRC | with the kernel | FP8 per tensor | FP8 per row | PyTorch's quantize | "
             "bf16 | TFLOP/s |", "|---" * 13 + "|"]
    for row in results["rows"]:
        rate = 2 * row["m"] * row["n"] * row["k"] / row["alone"] * 1e-6
        lines.append(f"| {row['n']} x {row['k']} | {row['m']} | {row['kernel']} {row['tile']} x {row['cluster']} x {row['per_sm']} | {row['alone']:.1f} | "
                     f"{row['chained']:.1f} | {floor(row, results['rank']):.1f} | {row['quantize']:.1f} | {row['step']:.1f} | "
                     f"{row['per_tensor']:.1f} | {row['per_row']:.1f} | {optional(row.get('torch_quantize'))} | {row['bf16']:.1f} | {rate:.0f} |")
    return "\n".join(lines)


# Microseconds that would be ahead of every public kernel measured, by N, K and tokens.
GOALS = {(4096, 4096): {1: 4.7, 16: 5.1, 32: 6.2, 64: 7.0, 128: 9.5, 256: 12.5, 512: 15.2, 2048: 47.5, 4096: 95.5},
         (11008, 4096): {1: 9.2, 16: 9.4, 32: 10.5, 64: 11.5, 128: 14, 256: 22, 512: 34.5, 2048: 134, 4096: 256},
         (4096, 11008): {1: 9.3, 16: 9.6, 32: 10.7, 64: 11.5, 128: 14, 256: 22, 512: 32.8, 2048: 121, 4096: 260},
         (8192, 8192): {1: 12.3, 16: 12.6, 32: 13.5, 64: 15, 128: 16, 256: 29, 512: 46.5, 2048: 191, 4096: 390},
         (28672, 8192): {1: 33, 16: 34, 32: 36, 64: 38, 128: 45, 256: 84, 512: 172, 2048: 688, 4096: 1380}}


def goals(results):
    """Chained times, and how far they are from the goals."""
    times = {(row["n"], row["k"], row["m"]): row["chained"] for row in results["rows"]}
    columns = list(next(iter(GOALS.values())))
    lines = ["| N x K | " + " | ".join(f"M = {m}" for m in columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for (n, k), goal in GOALS.items():
        cells = [f"{times[n, k, m]:.1f} for {goal[m]} ({times[n, k, m] / goal[m] - 1:+.0%})" for m in columns]
        lines.append(f"| {n} x {k} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(results):
    """Roofline: achieved rate over operations a byte of FP4 weights and FP8 tokens, as SVG."""
    x = lambda intensity: 70 + 150 * math.log10(intensity / 1)
    y = lambda rate: 360 - 85 * math.log10(rate / 1)
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 440" font-family="sans-serif" font-size="13">',
             '<rect width="760" height="440" fill="#fff"/>', f'<text x="70" y="24">Rate over arithmetic intensity, {results["card"]}</text>',
             '<path d="M70 40V360H730" fill="none" stroke="#000"/>']
    for power in range(4):
        parts.append(f'<text x="62" y="{y(10 ** power) + 4:.0f}" text-anchor="end">{10 ** power}</text>')
    for power in range(5):
        parts.append(f'<text x="{x(10 ** power):.0f}" y="378" text-anchor="middle">{10 ** power}</text>')
    ridge = PEAK / READ
    parts.append(f'<path d="M{x(1):.1f} {y(READ * 1e-6):.1f}L{x(ridge):.1f} {y(PEAK * 1e-6):.1f}H730" fill="none" stroke="#000" stroke-dasharray="5 4"/>')
    for row in results["rows"]:
        n, k, m = row["n"], row["k"], row["m"]
        operations = 2 * m * n * k
        for name, moved, shape in (("chained", n * k / 2 + m * k + 2 * m * n, "ours"), ("per_tensor", n * k + m * k + 2 * m * n, "fp8")):
            at = f"{x(operations / moved):.1f}", f"{y(operations / row[name] * 1e-6):.1f}"
            title = f"<title>{n} x {k}, M = {m}: {row[name]:.1f} us</title>"
            parts.append(f'<circle cx="{at[0]}" cy="{at[1]}" r="5" fill="none" stroke="#000" stroke-width="2">{title}</circle>' if shape == "ours"
                         else f'<path d="M{float(at[0]) - 4:.1f} {float(at[1]) - 4:.1f}l8 8m0 -8l-8 8" stroke="#777" stroke-width="2">{title}</path>')
    parts.append('<text x="400" y="400" text-anchor="middle">operations a byte moved</text><text x="70" y="428">TFLOP/s; circles: ours, chained; '
                 'crosses: torch._scaled_mm per tensor, which reads twice the weight bytes; dashes: ceilings of the card</text></svg>')
    (ROOT / "docs/kernels/roofline.svg").write_text("\n".join(parts) + "\n")


def main():
    results = json.loads(pathlib.Path(sys.argv[1]).read_text())
    dispatch(results)
    plot(results)
    page = ROOT / "docs/kernels.md"
    text = page.read_text()
    for mark, lines in (("table", table(results)), ("goals", goals(results))):
        marked = re.compile(f"<!-- {mark} -->.*?<!-- /{mark} -->", re.S)
        text = marked.sub(lambda _: f"<!-- {mark} -->\n{lines}\n<!-- /{mark} -->", text)
    page.write_text(text)


if __name__ == "__main__":
    main()
