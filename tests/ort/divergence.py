"""How far a model's predictions are from those of a reference, by ONNX Runtime and NumPy, as the JSON of `zqc eval --reference`.

divergence.py MODEL REFERENCE TEXT TOKENIZER WINDOW MAX_TOKENS
"""
import json
import sys

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from feeds import logits


def log_probabilities(session, row):
    scores = logits(session, row[None])[0, :-1].astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def estimate(values):
    return {"mean": values.mean(), "error": values.std(ddof=1) / np.sqrt(len(values))}


def divergence(models, text, tokenizer, window, max_tokens):
    sessions = [onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]) for model in models]
    ids = Tokenizer.from_file(tokenizer).encode(open(text, encoding="utf-8").read(), add_special_tokens=False).ids
    ids = np.array(ids[:max_tokens], dtype=np.int64)
    nll, kl, same = [], [], []
    for start in range(0, len(ids) - window + 1, window):
        row = ids[start:start + window]
        model, reference = (log_probabilities(session, row) for session in sessions)
        right = np.arange(window - 1), row[1:]
        nll.append(-np.stack([model[right], reference[right]]))
        kl.append((np.exp(reference) * (reference - model)).sum(-1))
        same.append(model.argmax(-1) == reference.argmax(-1))
    nll, kl, same = np.concatenate(nll, 1), np.concatenate(kl), np.concatenate(same).astype(float)
    p = np.exp(-nll)
    return {
        "perplexity": np.exp(nll[1].mean()),
        "ln_ratio": estimate(nll[0] - nll[1]),
        "kl": estimate(kl) | {"median": np.median(kl), "percentile_99": np.percentile(kl, 99),
                              "percentile_99_9": np.percentile(kl, 99.9), "max": kl.max()},
        "same_top": estimate(same),
        "rms_probability_change": np.sqrt(((p[0] - p[1]) ** 2).mean()),
    }


if __name__ == "__main__":
    model, reference, text, tokenizer, window, max_tokens = sys.argv[1:]
    print(json.dumps(divergence((model, reference), text, tokenizer, int(window), int(max_tokens))))
