"""Every model of ONNX's backend test suite goes through zqc with nothing selected and must come out protobuf-equal.

backend_suite.py ZQC [--text]: ZQC is the program; with --text the model goes through the textual form on its way, which moves
numbers to raw_data. Prints {"models": n, "lost": [...], "changed": [...], "panics": [...]}: a model is
lost when zqc refuses it, changed when what it writes differs, external data included.
"""
import json
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
from onnx.backend.test.case import model as model_cases
from onnx.backend.test.case import node as node_cases
from onnx.external_data_helper import load_external_data_for_model

zqc, through_text = sys.argv[1], sys.argv[2:] == ["--text"]
warnings.simplefilter("ignore")


def stored():
    """The models that the wheel holds as files."""
    data = Path(onnx.__file__).parent / "backend/test/data"
    return [(str(path.relative_to(data)), path) for path in sorted(data.rglob("*.onnx"))]


def generated(folder: Path):
    """The models that are made on the spot, written to files."""
    models = []
    cases = node_cases.collect_testcases(None) + model_cases.collect_testcases()
    for number, case in enumerate(cases):
        if case.model is not None:
            path = folder / f"{number}.onnx"
            path.write_bytes(case.model.SerializeToString())
            models.append((f"{case.kind}/{case.name}", path))
    return models


def canonical(path: Path) -> bytes:
    model = onnx.load(path, load_external_data=False)
    load_external_data_for_model(model, str(path.parent))
    if through_text:
        move_to_raw_data(model)
    return model.SerializeToString(deterministic=True)


def move_to_raw_data(message):
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in value if field.is_repeated else [value]:
            move_to_raw_data(inner)
            is_typed = inner.DESCRIPTOR.name == "TensorProto" and not inner.HasField("raw_data")
            # The values of sparse tensors have no words of their own.
            if is_typed and inner.data_type != onnx.TensorProto.STRING and message.DESCRIPTOR.name != "SparseTensorProto":
                raw = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(inner)).raw_data
                for name in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                    inner.ClearField(name)
                inner.raw_data = raw


def outcome(source: Path, output: Path) -> str | None:
    text = output.with_suffix(".zir")
    steps = [(source, text, ["--emit", "ir"]), (text, output, [])] if through_text else [(source, output, [])]
    for model, result, options in steps:
        run = subprocess.run(
            [zqc, model, "-o", result, "--only", "^$", "--method", "rtn", *options], capture_output=True, text=True
        )
        if run.returncode not in (0, 3) or "panicked" in run.stderr:
            return "panics"
        if run.returncode != 0:
            print(run.stderr.strip(), file=sys.stderr)
            return "lost"
    equal = canonical(source) == canonical(output)
    for path in output.parent.glob(f"{output.stem}.*"):
        path.unlink()
    return None if equal else "changed"


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    models = stored() + generated(folder)
    jobs = [(source, folder / f"out-{number}.onnx") for number, (_, source) in enumerate(models)]
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda job: outcome(*job), jobs))
    result = {"models": len(models)}
    for kind in ("lost", "changed", "panics"):
        result[kind] = [name for (name, _), seen in zip(models, outcomes) if seen == kind]
    print(json.dumps(result))
