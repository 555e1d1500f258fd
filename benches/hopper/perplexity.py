"""Perplexity of a torch model whose linear layers come from a CUDA package (GPTQ protocol), as JSON.

perplexity.py PACKAGE MODEL TOKENS.npy [--window 1024]

MODEL is a Hugging Face folder; weights that the package holds may be missing in it. Needs the wheel of python/build.
"""
import argparse
import json

import numpy as np
import torch
import transformers
import zqc.cuda
from zqc.torch import replace_linears


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for positional in ("package", "model", "tokens"):
        parser.add_argument(positional)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--type", choices=["float32", "bfloat16", "float16"], default="float32")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, arguments.type)).cuda().eval()
    replaced = replace_linears(model, zqc.cuda.Package(arguments.package))
    ids = torch.from_numpy(np.load(arguments.tokens).astype(np.int64)).cuda()
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(ids) - arguments.window + 1, arguments.window):
            row = ids[start:start + arguments.window]
            logits = model(row[None], use_cache=False).logits[0, :-1].double()
            total += float(torch.nn.functional.cross_entropy(logits, row[1:], reduction="sum"))
            count += arguments.window - 1
    print(json.dumps({"perplexity": float(np.exp(total / count)), "tokens": count, "layers": len(replaced)}))


if __name__ == "__main__":
    main()
