"""Every output of a model that reads one matrix, as raw float32, one after the other.

outputs.py MODEL WIDTH: the matrix [rows, WIDTH] comes from standard input, raw float32 too.
"""
import sys

import numpy as np
import onnxruntime

model, width = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
x = np.frombuffer(sys.stdin.buffer.read(), dtype=np.float32).reshape(-1, int(width))
for output in session.run(None, {session.get_inputs()[0].name: x}):
    sys.stdout.buffer.write(output.astype(np.float32).tobytes())
