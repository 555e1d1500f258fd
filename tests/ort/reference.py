"""As outputs.py, by ONNX's reference implementation instead of ONNX Runtime; the model must pass onnx.checker in its
strictest mode.

reference.py MODEL WIDTH: the matrix may be of any floating-point type in the model.
"""
import sys

import numpy as np
import onnx
from onnx.helper import tensor_dtype_to_np_dtype
from onnx.reference import ReferenceEvaluator

path, width = sys.argv[1:]
model = onnx.load(path)
onnx.checker.check_model(model, full_check=True)
onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
[given] = model.graph.input
x = np.frombuffer(sys.stdin.buffer.read(), dtype=np.float32).reshape(-1, int(width))
x = x.astype(tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type))
for output in ReferenceEvaluator(model).run(None, {given.name: x}):
    sys.stdout.buffer.write(output.astype(np.float32).tobytes())
