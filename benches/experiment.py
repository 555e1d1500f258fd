"""The table of ZeroQuant-FP on a model: what each format, solver and constraint buys.

experiment.py run NAME MODEL TOKENIZER --calibration FILE --text LABEL=FILE [LABEL=FILE ...]
              [--window N] [--max-tokens N] [--group-size N] [--rows REGEX] [--zqc PATH]
              [--zqc-options "--samples 16 ..."]
experiment.py render

`run` compiles the model once a row and lets stock ONNX Runtime compute the perplexities (GPTQ protocol, default session
options). It writes docs/results/NAME.json after every row; --rows measures the rows that match again and keeps the others.
`render` puts the tables and a plot of all models into docs/results.md, between its markers.
"""
import argparse
import datetime
import json
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

import onnxruntime

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests/ort"))
from perplexity import perplexity  # noqa: E402

RESULTS = ROOT / "docs/results"

PLAIN = "--order natural --scale-search max --scale none --propagation 0"
LORC = "--lorc-rank 8 --lorc plain --lorc-rounds 1"
OFF = "--lorc-rank 0"
SEARCHED = "--order activation --scale-search hessian"

# Section, row, options. A row without options is the float model.
ROWS = [
    ("formats", "W16A16", None),
    ("formats", "W8A8 INT-INT", f"--weights int8 --activations int8 {PLAIN} {OFF}"),
    ("formats", "W8A8 INT-FP", f"--weights int8 --activations fp8 {PLAIN} {OFF}"),
    ("formats", "W8A8 FP-FP", f"--weights fp8 --activations fp8 {PLAIN} {OFF}"),
    ("formats", "W4A8 INT-INT", f"--weights int4 --activations int8 {PLAIN} {OFF}"),
    ("formats", "W4A8 INT-INT + LoRC", f"--weights int4 --activations int8 {PLAIN} {LORC}"),
    ("formats", "W4A8 INT-FP", f"--weights int4 --activations fp8 {PLAIN} {OFF}"),
    ("formats", "W4A8 INT-FP + LoRC", f"--weights int4 --activations fp8 {PLAIN} {LORC}"),
    ("formats", "W4A8 FP-FP", f"--weights fp4 --activations fp8 {PLAIN} {OFF}"),
    ("formats", "W4A8 FP-FP + LoRC", f"--weights fp4 --activations fp8 {PLAIN} {LORC}"),
    ("formats", "W4A8 E3M0-FP", f"--weights e3m0 --activations fp8 {PLAIN} {OFF}"),
    ("formats", "W4A8 FP-E5M2", f"--weights fp4 --activations e5m2 {PLAIN} {OFF}"),
    ("formats", "W4A16 FP-none", f"--weights fp4 --activations none {PLAIN} {OFF}"),
    ("formats", "W4A8 FP-FP, rounded to nearest", f"--method rtn --scale-search max --scale none {OFF}"),
    ("constraints of the paper", "M1 (ceil)", f"{PLAIN} --scale m1-ceil {OFF}"),
    ("constraints of the paper", "M1 (ceil) + LoRC", f"{PLAIN} --scale m1-ceil {LORC}"),
    ("constraints of the paper", "M2 (ceil)", f"{PLAIN} --scale m2-ceil {OFF}"),
    ("constraints of the paper", "M2 (ceil) + LoRC", f"{PLAIN} --scale m2-ceil {LORC}"),
    ("constraints of the paper", "M2 (floor)", f"{PLAIN} --scale m2-floor {OFF}"),
    ("constraints of the paper", "M2 (round)", f"{PLAIN} --scale m2-round {OFF}"),
    ("step by step", "plain GPTQ", f"{PLAIN} {OFF}"),
    ("step by step", "+ activation order", f"{PLAIN} --order activation {OFF}"),
    ("step by step", "+ scale search", f"{SEARCHED} --scale none --propagation 0 {OFF}"),
    ("step by step", "+ propagation", f"{SEARCHED} --scale none {OFF}"),
    ("step by step", "+ M3", f"--scale m3 {OFF}"),
    ("step by step", "+ LoRC 8", ""),
    ("step by step", "group 16 instead of LoRC (the default)", f"--group-size 16 {OFF}"),
    ("around group 64, LoRC 8", "Hessian of the float model", f"--scale none --hessian float {OFF}"),
    ("around group 64, LoRC 8", "propagation 1", f"--scale none --propagation 1 {OFF}"),
    ("around group 64, LoRC 8", "no constraint", "--scale none"),
    ("around group 64, LoRC 8", "M1", "--scale m1"),
    ("around group 64, LoRC 8", "M2", "--scale m2"),
    ("around group 64, LoRC 8", "M2, no LoRC, no propagation", f"--scale m2 --propagation 0 {OFF}"),
    ("around group 64, LoRC 8", "LoRC plain", "--lorc plain"),
    ("around group 64, LoRC 8", "LoRC solved once", "--lorc-rounds 1"),
    ("around group 64, LoRC 8", "LoRC in bf16", "--lorc-factors bf16"),
    ("around group 64, LoRC 8", "LoRC 4", "--lorc-rank 4"),
    ("around group 64, LoRC 8", "LoRC 16", "--lorc-rank 16"),
    ("around group 64, LoRC 8", "LoRC 32", "--lorc-rank 32"),
    ("around group 64, LoRC 8", "group 16, LoRC 16", "--group-size 16 --lorc-rank 16"),
    ("around group 64, LoRC 8", "group 32", "--group-size 32"),
    ("around group 64, LoRC 8", "group 128", "--group-size 128"),
    ("around group 64, LoRC 8", "group 256", "--group-size 256"),
    ("the table without zero", "lut4", "--weights lut4"),
    ("the table without zero", "lut4, no LoRC", f"--weights lut4 {OFF}"),
    ("the table without zero", "lut4, group 16, LoRC 16", "--weights lut4 --group-size 16 --lorc-rank 16"),
]


def measure(arguments, options):
    """Bits per weight, seconds and perplexities of one row."""
    with tempfile.TemporaryDirectory() as folder:
        model, row = arguments.model, {"bits_per_weight": None, "seconds": None}
        if options is not None:
            model, report = f"{folder}/model.onnx", f"{folder}/report.json"
            command = [arguments.zqc, arguments.model, "-o", model, "--report", report, "--head", "float", "--tokenizer", arguments.tokenizer,
                       "--calibration", arguments.calibration, *shlex.split(arguments.zqc_options)]
            # The last of two equal options counts.
            chosen = shlex.split(f"--group-size {arguments.group_size} {options}")
            merged = dict(zip(chosen[::2], chosen[1::2]))
            subprocess.run([*map(str, command), *(word for pair in merged.items() for word in pair)],
                           check=True, stderr=subprocess.PIPE, text=True)
            totals = json.loads(pathlib.Path(report).read_text())["totals"]
            row = {key: totals[key] for key in row}
        texts = dict(text.split("=", 1) for text in arguments.text)
        row["perplexity"] = {
            label: perplexity(model, text, arguments.tokenizer, arguments.window, arguments.max_tokens)["perplexity"]
            for label, text in texts.items()
        }
        return row


def run(arguments):
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{arguments.name}.json"
    results = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    results.update(
        model=pathlib.Path(arguments.model).name, window=arguments.window, max_tokens=arguments.max_tokens,
        group_size=arguments.group_size, zqc_options=arguments.zqc_options, onnxruntime=onnxruntime.__version__,
        calibration=pathlib.Path(arguments.calibration).name,
        texts={text.split("=", 1)[0]: pathlib.Path(text.split("=", 1)[1]).name for text in arguments.text})
    for section, name, options in ROWS:
        if not re.search(arguments.rows, f"{section}: {name}"):
            continue
        row = measure(arguments, options)
        results["rows"][f"{section}: {name}"] = {"date": datetime.date.today().isoformat(), **row}
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{section}: {name}", row, flush=True)


def number(value, digits):
    return "" if value is None else f"{value:.{digits}f}"


def table(results):
    """A Markdown table for each section that has rows."""
    labels = list(results["texts"])
    lines = []
    for section in dict.fromkeys(section for section, _, _ in ROWS):
        rows = [(name, options, results["rows"].get(f"{section}: {name}")) for of, name, options in ROWS if of == section]
        if not any(row for _, _, row in rows):
            continue
        lines += ["", f"| {section} | " + " | ".join(labels) + " | bits | seconds | options |",
                  "|---" * (len(labels) + 4) + "|"]
        for name, options, row in rows:
            if row is None:
                # Left out, the row after it would be credited with its step.
                lines.append(f"| {name} | " + "not measured | " * len(labels) + f"| | `{options}` |")
                continue
            scores = " | ".join(number(row["perplexity"].get(label), 2) for label in labels)
            shown = f"`{options}`" if options else ""
            lines.append(f"| {name} | {scores} | {number(row['bits_per_weight'], 3)} | {number(row['seconds'], 0)} | {shown} |")
    return "\n".join(lines)


def plot(name, results):
    """Perplexity over bits per weight, as SVG: a mark a row, for the first text."""
    label = next(iter(results["texts"]))
    points = [(row["bits_per_weight"], row["perplexity"][label], key.split(": ", 1))
              for key, row in results["rows"].items() if row["bits_per_weight"] and row["bits_per_weight"] < 6.5]
    floor = results["rows"].get("formats: W16A16")
    floor = floor and floor["perplexity"][label]
    if len(points) < 2:
        return None
    # What lies far out would press the others together.
    best = min(point[1] for point in points)
    points = [point for point in points if point[1] < 1.35 * best]
    left, right = min(p[0] for p in points) - 0.05, max(p[0] for p in points) + 0.05
    low, high = min([p[1] for p in points] + [floor or best]), max(p[1] for p in points)
    low, high = low - 0.03 * (high - low), high + 0.05 * (high - low)
    x = lambda bits: 70 + 620 * (bits - left) / (right - left)
    y = lambda score: 350 - 310 * (score - low) / (high - low)
    marks = {"formats": ("circle", "#888"), "constraints of the paper": ("square", "#888"),
             "step by step": ("circle", "#000"), "around group 64, LoRC 8": ("square", "#000"), "the table without zero": ("circle", "#b00")}
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 420" font-family="sans-serif" font-size="13">',
             '<rect width="720" height="420" fill="#fff"/>',
             f'<text x="70" y="24">{name}: perplexity on {label} over bits per weight, everything counted</text>',
             '<path d="M70 40V350H690" fill="none" stroke="#000"/>']
    for step in range(5):
        score, bits = low + (high - low) * step / 4, left + (right - left) * step / 4
        parts.append(f'<text x="64" y="{y(score) + 4:.1f}" text-anchor="end">{score:.1f}</text>')
        parts.append(f'<text x="{x(bits):.1f}" y="368" text-anchor="middle">{bits:.2f}</text>')
    if floor:
        parts.append(f'<path d="M70 {y(floor):.1f}H690" stroke="#000" stroke-dasharray="4 4"/>'
                     f'<text x="686" y="{y(floor) - 5:.1f}" text-anchor="end">float</text>')
    for bits, score, (section, row) in points:
        shape, colour = marks[section]
        at = f"{x(bits):.1f}", f"{y(score):.1f}"
        title = f"<title>{row}: {score:.2f} at {bits:.3f} bits</title>"
        if shape == "circle":
            parts.append(f'<circle cx="{at[0]}" cy="{at[1]}" r="5" fill="none" stroke="{colour}" stroke-width="2">{title}</circle>')
        else:
            parts.append(f'<rect x="{float(at[0]) - 5:.1f}" y="{float(at[1]) - 5:.1f}" width="10" height="10" fill="none" '
                         f'stroke="{colour}" stroke-width="2">{title}</rect>')
        if "default" in row or "group 16" in row or row == "plain GPTQ":
            side, anchor = (8, "start") if x(bits) < 480 else (-8, "end")
            parts.append(f'<text x="{float(at[0]) + side:.1f}" y="{float(at[1]) - 6:.1f}" text-anchor="{anchor}">{row}</text>')
    parts.append('<text x="70" y="392">grey: the paper\'s recipes (circles: formats, squares: constraints)</text>'
                 '<text x="70" y="410">black: ours (circles: step by step, squares: around group 64, LoRC 8); red: the table without zero</text></svg>')
    path = RESULTS / f"{name}.svg"
    path.write_text("\n".join(parts) + "\n")
    return path


def render(_):
    page = ROOT / "docs/results.md"
    text = page.read_text()
    for path in sorted(RESULTS.glob("*.json")):
        name, results = path.stem, json.loads(path.read_text())
        dates = sorted({row["date"] for row in results["rows"].values()})
        about = (f"`{results['model']}`, group {results['group_size']} unless the row says otherwise, `{results['zqc_options']}`, "
                 f"calibrated on `{results['calibration']}`; windows of {results['window']}, "
                 f"{results['max_tokens'] or 'all'} tokens of " + ", ".join(f"`{file}`" for file in results["texts"].values())
                 + f"; ONNX Runtime {results['onnxruntime']}; measured {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}.")
        drawn = plot(name, results)
        picture = f"\n\n![perplexity over bits per weight](results/{drawn.name})" if drawn else ""
        block = f"<!-- {name} -->\n{about}\n{table(results)}{picture}\n<!-- /{name} -->"
        marked = re.compile(rf"<!-- {re.escape(name)} -->.*?<!-- /{re.escape(name)} -->", re.S)
        if not marked.search(text):
            raise SystemExit(f"docs/results.md has no markers <!-- {name} --> and <!-- /{name} -->")
        text = marked.sub(lambda _: block, text)
    page.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.set_defaults(do=run)
    for positional in ("name", "model", "tokenizer"):
        command.add_argument(positional)
    command.add_argument("--calibration", required=True)
    command.add_argument("--text", nargs="+", required=True, metavar="LABEL=FILE")
    command.add_argument("--window", type=int, default=2048)
    command.add_argument("--max-tokens", type=int)
    command.add_argument("--group-size", type=int, default=64)
    command.add_argument("--rows", default="", metavar="REGEX")
    command.add_argument("--zqc", default=str(ROOT / "target/release/zqc"))
    command.add_argument("--zqc-options", default="", help="further options of every compilation")
    commands.add_parser("render").set_defaults(do=render)
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
