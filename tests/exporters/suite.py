"""Exports small random-weight models, compiles them with zqc, runs both in ONNX Runtime, and writes docs/models.md.

suite.py ZQC FOLDER [ARCHITECTURE ...]: FOLDER takes the models, ZQC is the program. Needs torch, transformers, onnx,
onnxscript and onnxruntime (requirements.txt). Weights are random: the errors say that the graph is right, not how good
a trained model would be.
"""
import contextlib
import io
import json
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import transformers

from architectures import ARCHITECTURES, build

EXPORTERS = ["dynamo", "legacy"]
METHODS = ["gptq", "rtn"]
SAMPLES = 8
DOCUMENT = Path(__file__).parents[2] / "docs/models.md"


def export(name, exporter, path):
    model, inputs = build(name)
    example = inputs(torch.Generator().manual_seed(0))
    common = dict(input_names=list(example), output_names=["output"])
    dynamic = {key: [axis for axis in range(min(value.dim(), 2)) if value.dim() == 2 or axis == 0]
               for key, value in example.items()}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if exporter == "dynamo":
            axes = tuple({axis: torch.export.Dim.DYNAMIC for axis in dynamic[key]} for key in example)
            torch.onnx.export(model, tuple(example.values()), str(path), dynamo=True, verbose=False,
                              dynamic_shapes=(axes,), **common)
        else:
            axes = {key: {axis: f"{key}_{axis}" for axis in dynamic[key]} for key in example}
            torch.onnx.export(model, tuple(example.values()), str(path), dynamo=False, opset_version=17,
                              dynamic_axes=axes, **common)
    return inputs


def feeds(inputs, seed):
    return {key: value.numpy() for key, value in inputs(torch.Generator().manual_seed(seed)).items()}


def run(path, samples):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    known = {spec.name for spec in session.get_inputs()}
    return [session.run(None, {key: value for key, value in sample.items() if key in known})[0] for sample in samples]


def compile_model(zqc, path, method, calibration):
    output, report = path.with_suffix(f".{method}.onnx"), path.with_suffix(f".{method}.json")
    command = [zqc, path, "-o", output, "--group-size", "32", "--method", method, "--report", report]
    if method == "gptq":
        command += ["--calibration", *calibration]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return output, json.loads(report.read_text())


def entry(zqc, folder, name, exporter):
    """One row of the table."""
    row = {"model": name, "exporter": exporter}
    path = folder / f"{name}.{exporter}.onnx"
    try:
        inputs = export(name, exporter, path)
        row["opset"] = next(o.version for o in onnx.load(path, load_external_data=False).opset_import if not o.domain)
        wanted = {spec.name for spec in onnx.load(path, load_external_data=False).graph.input}
        test = [feeds(inputs, seed) for seed in range(1000, 1004)]
        expected = run(path, test)
    except Exception as error:  # whatever the exporter raises is a row of the table
        reason = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines() or [type(error).__name__]
        return row | {"result": f"the exporter fails: {reason[0][:160]}"}
    calibration = []
    for seed in range(SAMPLES):
        calibration.append(path.with_suffix(f".{seed}.npz"))
        np.savez(calibration[-1], **{k: v for k, v in feeds(inputs, seed).items() if k in wanted})
    for method in METHODS:
        try:
            output, report = compile_model(zqc, path, method, calibration)
            found = np.concatenate([array.ravel() for array in run(output, test)])
        except Exception as error:
            return row | {"result": f"{method}: {str(error).strip().splitlines()[0][:200]}"}
        reference = np.concatenate([array.ravel() for array in expected])
        row[method] = float(np.linalg.norm(found - reference) / np.linalg.norm(reference))
    reasons = {}
    for kept in report["kept"]:
        reasons.setdefault(kept["reason"], []).append(kept["layer"])
    return row | {"quantized": len(report["layers"]), "kept": reasons, "result": "runs"}


def document(rows):
    versions = f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}, " \
               f"ONNX Runtime {onnxruntime.__version__}"
    lines = [
        "# Exported models that were tried", "",
        "Written by `python tests/exporters/suite.py target/release/zqc FOLDER`; do not edit.", "",
        f"{versions}. Small models with random weights, float32; groups of 32, else the default options; GPTQ on "
        f"{SAMPLES} made-up samples. `quantized` counts distinct weights. The error is `|y - y'| / |y|` of the first output "
        "on 4 other samples, both models run by ONNX Runtime on the CPU: with random weights it says that the graph is "
        "right, not how good a trained model would be.", "",
        "| model | exporter | opset | quantized | stays in float | error, GPTQ | error, RTN | result |",
        "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        kept = "; ".join(f"{len(layers)}: {reason}" for reason, layers in row.get("kept", {}).items()) or "-"
        error = [f"{100 * row[method]:.1f} %" if method in row else "-" for method in METHODS]
        cells = [row["model"], row["exporter"], row.get("opset", "-"), row.get("quantized", "-"), kept, *error,
                 row["result"]]
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    zqc, folder, *names = sys.argv[1:]
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in names or ARCHITECTURES:
        for exporter in EXPORTERS:
            rows.append(entry(zqc, folder, name, exporter))
            print(json.dumps(rows[-1]), flush=True)
    if not names:
        DOCUMENT.write_text(document(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
