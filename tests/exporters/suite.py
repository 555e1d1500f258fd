"""Exports small models by the routes that people use, compiles them with zqc, runs both in ONNX Runtime, and writes docs/models.md.

suite.py ZQC FOLDER [--older PYTHON] [ROW ...]: ZQC is the program, FOLDER takes the models and is read again where they are there,
PYTHON runs the routes of requirements-older.txt, and this interpreter those of requirements.txt. A ROW is a part of a row's name;
without any, all rows run and the document is written. Weights are random: the errors say that the graph is right, not how good a
trained model would be.
"""
import argparse
import collections
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np

import checkpoints
import compare
from rows import ROWS

HERE = pathlib.Path(__file__).parent
PROJECT = HERE.parents[1]
TINY = PROJECT / "examples/tiny"
DOCUMENT = PROJECT / "docs/models.md"
PACKAGES = ["torch", "transformers", "onnxruntime", "onnxruntime-genai"]
SAMPLES = 16
LIMIT = 900  # seconds for an export
# zqc finds ONNX Runtime where the first python3 of PATH has it.
ENVIRONMENT = os.environ | {"PATH": os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])}


def clip(text, size=220):
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(text)).strip()
    return text if len(text) <= size else text[:size] + "..."


class Suite:
    def __init__(self, zqc, folder, older):
        self.zqc, self.folder, self.older = pathlib.Path(zqc).resolve(), pathlib.Path(folder).resolve(), older

    def checkpoint(self, name):
        path = self.folder / "checkpoints" / name
        if not (path / "config.json").exists():
            checkpoints.make(name, path, TINY / "tokenizer.json")
        return path

    def export(self, row):
        """The model of a row."""
        folder = self.folder / "models" / row.name.replace("/", ".").replace(" ", ".")
        model = folder / row.file
        if not model.exists():
            source = self.export(next(r for r in ROWS if r.name == row.source)) if row.source else self.checkpoint(row.checkpoint)
            python = self.older if row.older else sys.executable
            if not python:
                raise RuntimeError("it needs --older")
            done = subprocess.run([python, HERE / "export.py", row.route, source, folder, *row.arguments], capture_output=True, text=True, timeout=LIMIT)
            if done.returncode or not model.exists():
                raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
        tokenizer = model.parent / "tokenizer.json"
        if not tokenizer.exists():
            tokenizer.write_bytes((TINY / "tokenizer.json").read_bytes())
        return model

    def calibration(self, row, model):
        """Options for calibration data: text where that is enough, else arrays for every input."""
        if not row.arrays:
            return ["--calibration", TINY / "calibration.txt", "--samples", SAMPLES, "--seq-len", 64]
        inputs, files = compare.inputs(model), []
        for seed in range(8):
            files.append(model.parent / f"calibration{seed}.npz")
            np.savez(files[-1], **compare.feeds(inputs, np.random.default_rng(100 + seed), 1, 32))
        return ["--calibration", *files]

    def compile(self, row, model):
        """Compiles the row's model, or its folder if onnxruntime-genai reads it; the result and the report."""
        output = self.folder / "compiled" / row.name.replace("/", ".").replace(" ", ".")
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        is_folder = (model.parent / "genai_config.json").exists() and row.file == "model.onnx"
        source, result = (model.parent, output / "folder") if is_folder else (model, output / "model.onnx")
        report = output / "report.json"
        command = [self.zqc, source, "-o", result, "--report", report, "--no-resume", *row.options, *self.calibration(row, model)]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=ENVIRONMENT)
        if done.returncode:
            raise RuntimeError(f"zqc ends with {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
        return (result / "model.onnx" if is_folder else result), json.loads(report.read_text())

    def run(self, row):
        """What the table says of a row."""
        result = {"row": row.name}
        try:
            model = self.export(row)
        except Exception as problem:
            return result | {"result": f"the exporter fails: {clip(problem)}"}
        try:
            width = compare.head_width(model.parent)
            expected, expected_steps = compare.outputs(model, width)
        except Exception as problem:
            expected, result["float"] = None, clip(problem)
        try:
            output, report = self.compile(row, model)
        except Exception as problem:
            return result | {"result": clip(problem)}
        kept = collections.Counter(re.sub(r"\"[^\"]*\"", "..", item["reason"]) for item in report["kept"])
        rounded = len(report["uncalibrated"])
        sizes = report["totals"]
        result |= {"quantized": len(report["layers"]), "gptq": len(report["layers"]) - rounded, "rtn": rounded,
                   "uncalibrated": sorted({clip(item["reason"], 120) for item in report["uncalibrated"]}),
                   "kept": {clip(reason, 120): count for reason, count in kept.items()},
                   "verified": clip(report["verification"]), "warnings": [clip(warning) for warning in report["warnings"]],
                   "size": sizes["file_bytes_after"] / sizes["file_bytes_before"], "library": report.get("onnxruntime")}
        if expected is None:
            return result | {"result": "compiles; ONNX Runtime does not run the float model on the CPU"}
        try:
            found, found_steps = compare.outputs(output, width)
            result["error"] = compare.error(expected, found)
            if expected_steps:
                result["step"] = compare.error(expected_steps, found_steps)
        except Exception as problem:
            return result | {"result": f"ONNX Runtime: {clip(problem)}"}
        if (output.parent / "genai_config.json").exists():
            try:
                float_tokens, tokens = compare.generate(model.parent), compare.generate(output.parent)
                same = sum(a == b for a, b in zip(float_tokens, tokens))
                result["generates"] = f"{same} of {len(tokens)}"
            except Exception as problem:
                result["generates"] = clip(problem, 80)
        return result | {"result": "runs"}


def per_cent(row, key):
    return f"{100 * row[key]:.1f} %" if key in row else "-"


def document(results, folder):
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    lines = [
        "# Exported models that were tried", "",
        "Written by `python tests/exporters/suite.py target/release/zqc FOLDER --older PYTHON`; do not edit.", "",
        f"{versions}; rows marked * by the versions of `tests/exporters/requirements-older.txt`. Small models with random weights, "
        f"compiled by the default options from the exported folder or file as it came, on {SAMPLES} windows of 64 tokens of "
        "`examples/tiny/calibration.txt`, or on 8 samples of made-up arrays where a model has inputs that do not follow from tokens. "
        "GPTQ counts the layers that calibration data came to, RTN those rounded without any. The errors are `|y - y'| / |y|` of the first output on 3 other prompts, and of "
        "one decoding step after each, both models run by ONNX Runtime on the CPU: with random weights they say that the graph is "
        "right, not how good a trained model would be. The last column counts the tokens of 20 that onnxruntime-genai writes alike "
        "from the float and from the quantized folder: the logits of random weights are nearly level, so few are.", "",
        "| route and model | GPTQ | RTN | stays in float | error | step | size | result | alike |",
        "|---|---|---|---|---|---|---|---|---|"]
    for row in results:
        kept = "; ".join(f"{count}: {reason}" for reason, count in row.get("kept", {}).items()) or "-"
        said = [row["result"], *row.get("uncalibrated", []), *([f"float: {row['float']}"] if "float" in row else [])]
        cells = [row["row"], row.get("gptq", "-"), row.get("rtn", "-"), kept, per_cent(row, "error"), per_cent(row, "step"),
                 per_cent(row, "size"), "; ".join(said), row.get("generates", "-")]
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    text = "\n".join(lines) + "\n"
    # What a library says may hold paths of the machine that ran it.
    for place in (folder, sys.prefix, PROJECT):
        text = text.replace(f"{place}/", "")
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zqc")
    parser.add_argument("folder")
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--older", help="the interpreter with requirements-older.txt")
    arguments = parser.parse_intermixed_args()
    suite = Suite(arguments.zqc, arguments.folder, arguments.older)
    results = []
    for row in ROWS:
        if not arguments.rows or any(part in row.name for part in arguments.rows):
            results.append(suite.run(row))
            print(json.dumps(results[-1]), flush=True)
    if not arguments.rows:
        DOCUMENT.write_text(document(results, suite.folder), encoding="utf-8")


if __name__ == "__main__":
    main()
