"""Text from a Hugging Face model on a CUDA package, and tokens per second beside bfloat16, with a CUDA graph for each batch.

    zqc MODEL.onnx -o model.zqcuda --emit cuda --calibration text.txt --tokenizer tokenizer.json
    python examples/torch_generate.py model.zqcuda HuggingFaceTB/SmolLM2-135M

The model is built as LLaMA is. Needs an H100 or H200, transformers and zqc's Python package.
"""

import argparse
import time

import torch
import zqc.cuda
import zqc.torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StaticCache


class Decoder:
    """Greedy generation for a number of sequences: a prefill, and a graph of one step that is replayed for each token."""

    @torch.inference_mode()
    def __init__(self, model, batch, length):
        self.model = model
        self.cache = StaticCache(model.config, max_cache_len=length)
        self.token = torch.zeros(batch, 1, dtype=torch.long, device=model.device)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._step(self.token)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._step(self.token)

    def _step(self, ids):
        logits = self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits
        self.token.copy_(logits[:, -1:].argmax(-1))

    @torch.inference_mode()
    def generate(self, prompt, count):
        """The next `count` tokens of every sequence, and the seconds of one after the first."""
        self.cache.reset()
        self._step(prompt)
        tokens = [self.token.clone()]
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count - 1):
            self.graph.replay()
            tokens.append(self.token.clone())
        torch.cuda.synchronize()
        return torch.cat(tokens, 1), (time.perf_counter() - start) / (count - 1)


def rates(model, prompt, batches, count):
    """Tokens per second of all sequences together, by their number, and what the first sequence went on with."""
    result = {}
    for batch in batches:
        decoder = Decoder(model, batch, prompt.shape[1] + count)
        tokens, seconds = min((decoder.generate(prompt.expand(batch, -1), count) for _ in range(3)), key=lambda run: run[1])
        result[batch] = batch / seconds
    return result, tokens[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package")
    parser.add_argument("model")
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64, 128])
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16).cuda().eval()
    prompt = tokenizer(arguments.prompt, return_tensors="pt").input_ids.cuda()

    theirs, _ = rates(model, prompt, arguments.batch, arguments.tokens)
    zqc.torch.fuse_llama(model, zqc.cuda.Package(arguments.package))
    zqc.torch.prepare(model, max(arguments.batch) * prompt.shape[1])
    ours, tokens = rates(model, prompt, arguments.batch, arguments.tokens)
    print(arguments.prompt + tokenizer.decode(tokens))
    for batch in arguments.batch:
        ratio = ours[batch] / theirs[batch]
        print(f"batch {batch:3}: {ours[batch]:8.0f} tokens/s, bfloat16 {theirs[batch]:8.0f}, {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
