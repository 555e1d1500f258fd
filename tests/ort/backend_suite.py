"""Every model of ONNX's backend test suite goes through zqc with nothing selected and must come out protobuf-equal.

backend_suite.py ZQC: ZQC is the program. Prints {"models": n, "lost": [...], "changed": [...], "panics": [...]}: a model is
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

zqc = sys.argv[1]
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
    return model.SerializeToString(deterministic=True)


def outcome(source: Path, output: Path) -> str | None:
    run = subprocess.run(
        [zqc, source, "-o", output, "--only", "^$", "--method", "rtn"], capture_output=True, text=True
    )
    if run.returncode not in (0, 3) or "panicked" in run.stderr:
        return "panics"
    if run.returncode != 0:
        print(run.stderr.strip(), file=sys.stderr)
        return "lost"
    equal = canonical(source) == canonical(output)
    output.unlink()
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
