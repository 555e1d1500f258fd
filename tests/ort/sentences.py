"""The least and the mean cosine between the sentence embeddings of two encoders, as JSON.

sentences.py MODEL_A MODEL_B TEXT TOKENIZER COUNT: the first COUNT sentences of 5 to 60 words, each by itself; the
embedding is the mean of the last hidden state, or the pooled output of a model that yields only that.
"""
import json
import re
import sys

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from feeds import feeds

model_a, model_b, text, tokenizer, count = sys.argv[1:]


def embedding(output):
    """[width] float64, of [length, width] or [width]."""
    return output.reshape(-1, output.shape[-1]).mean(0, dtype=np.float64)


tokenizer = Tokenizer.from_file(tokenizer)
tokenizer.no_padding()
sentences = re.split(r"(?<=[.!?])\s+", open(text, encoding="utf-8").read())
sentences = [s for s in sentences if 5 <= len(s.split()) <= 60][:int(count)]
sessions = [onnxruntime.InferenceSession(m, providers=["CPUExecutionProvider"]) for m in (model_a, model_b)]
cosines = []
for sentence in sentences:
    ids = np.array([tokenizer.encode(sentence).ids], dtype=np.int64)
    a, b = (embedding(session.run(None, feeds(session, ids))[0][0]) for session in sessions)
    cosines.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
print(json.dumps({"sentences": len(cosines), "least": min(cosines), "mean": float(np.mean(cosines))}))
