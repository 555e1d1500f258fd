"""Writes the models of ONNX's backend test suite, and the given ones, with the types that ONNX's shape inference finds in them.

infer_types.py FOLDER [MODEL ...]: the models go to FOLDER/N.onnx.
"""
import sys
import warnings
from pathlib import Path

import onnx
from onnx.backend.test.case import model as model_cases
from onnx.backend.test.case import node as node_cases

warnings.simplefilter("ignore")
folder = Path(sys.argv[1])
data = Path(onnx.__file__).parent / "backend/test/data"
models = [onnx.load(path, load_external_data=False) for path in sorted(data.rglob("*.onnx"))]
cases = node_cases.collect_testcases(None) + model_cases.collect_testcases()
models += [case.model for case in cases if case.model is not None]
models += [onnx.load(path, load_external_data=False) for path in sys.argv[2:]]
written = 0
for model in models:
    try:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:
        continue  # what it cannot infer, or calls invalid, is compared with nothing
    (folder / f"{written}.onnx").write_bytes(model.SerializeToString())
    written += 1
