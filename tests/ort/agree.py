"""Pairs of models that read and yield the same: the largest |y - y'| / |y| of their outputs, a line a pair.

agree.py FOLDER: pair N is N.model.onnx and N.other.onnx. Line N of standard input is the JSON of the inputs that are
integers, by name; all others are random, their dimensions as the model declares them.
"""
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

TYPES = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}


def session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def error(model, other, integers):
    random = np.random.default_rng(0)
    feeds = {}
    for value in model.get_inputs():
        if value.name in integers:
            feeds[value.name] = np.array(integers[value.name], dtype=TYPES[value.type])
        else:
            feeds[value.name] = random.standard_normal(value.shape).astype(np.float32)
    pairs = list(zip(model.run(None, feeds), other.run(None, feeds), strict=True))
    assert all(a.shape == b.shape for a, b in pairs), [(a.shape, b.shape) for a, b in pairs]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(a)) for a, b in pairs)


folder = Path(sys.argv[1])
for number, line in enumerate(sys.stdin):
    print(error(*(session(folder / f"{number}.{kind}.onnx") for kind in ("model", "other")), json.loads(line)))
