"""Checks that a native model yields the logits of the portable one, both by ONNX's reference implementation.

native.py NATIVE PORTABLE VOCABULARY TOLERANCE: differences are measured against the largest logit.
"""
import sys

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

native, portable, vocabulary, tolerance = sys.argv[1:]
ids = np.random.default_rng(0).integers(0, int(vocabulary), (2, 8))


def logits(path):
    model = onnx.load(path)
    [given] = model.graph.input
    return ReferenceEvaluator(model).run(None, {given.name: ids})[0]


expected, scores = logits(portable), logits(native)
assert scores.shape == (2, 8, int(vocabulary)), scores.shape
difference = np.abs(scores - expected).max() / np.abs(expected).max()
assert difference < float(tolerance), difference
print("ok")
