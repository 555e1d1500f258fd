"""Perplexity by ONNX Runtime with default session options (GPTQ protocol), stock or with the library of kernels, as JSON.

perplexity.py MODEL TEXT TOKENIZER WINDOW [MAX_TOKENS [LIBRARY]]
"""
import json
import sys

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from feeds import logits


def perplexity(model, text, tokenizer, window, max_tokens=None, library=None):
    options = onnxruntime.SessionOptions()
    if library:
        options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    ids = Tokenizer.from_file(tokenizer).encode(open(text, encoding="utf-8").read(), add_special_tokens=False).ids
    ids = np.array(ids[:max_tokens], dtype=np.int64)
    total, count = 0.0, 0
    for start in range(0, len(ids) - window + 1, window):
        row = ids[start:start + window]
        scores = logits(session, row[None])[0, :-1].astype(np.float64)
        top = scores.max(-1, keepdims=True)
        normalizer = np.log(np.exp(scores - top).sum(-1)) + top[:, 0]
        total += (normalizer - scores[np.arange(window - 1), row[1:]]).sum()
        count += window - 1
    return {"perplexity": float(np.exp(total / count)), "tokens": count, "nll": total / count}


if __name__ == "__main__":
    model, text, tokenizer, window, *rest = sys.argv[1:]
    print(json.dumps(perplexity(model, text, tokenizer, int(window), *map(int, rest[:1]), *rest[1:])))
