"""Runs a model in stock ONNX Runtime with several batches and lengths, and checks what must hold for each.

batches.py MODEL VOCABULARY [BATCH,LENGTH ...]
"""
import sys

import numpy as np
import onnxruntime

from feeds import logits

model, vocabulary, *shapes = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
random = np.random.default_rng(0)
for batch, length in (tuple(map(int, shape.split(","))) for shape in shapes or ["1,1", "1,7", "2,37", "3,128"]):
    ids = random.integers(0, int(vocabulary), (batch, length))
    scores = logits(session, ids)
    assert scores.shape == (batch, length, int(vocabulary)), scores.shape
    assert np.isfinite(scores).all(), (batch, length)
    # Token-wise scales: a sequence's logits do not depend on its neighbours in the batch, not in the last bit. Batches of one shape
    # are added up in one order; in another order a sum may come to the other side of a boundary between two FP8 numbers.
    others = np.concatenate([random.integers(0, int(vocabulary), (batch - 1, length)), ids[-1:]])
    assert np.array_equal(scores[-1], logits(session, others)[-1]), (batch, length)
print("ok")
