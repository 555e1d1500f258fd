#!/usr/bin/env python3
"""Write the trained weights as an ONNX model: export.py model.safetensors model.onnx

As transformers and torch.onnx.export write it: opset 20, `input_ids` [batch, sequence] int64 to `logits` [batch, sequence, vocabulary],
in fp32; the weights are those of the fp16 file, so nothing is rounded. ONNX Runtime must agree with torch to 1e-4 of the largest logit.

Needs torch, transformers, safetensors, onnx, onnxscript, onnxruntime.
"""
import argparse, pathlib
import onnx, onnxruntime, torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from train import BOS, CONFIG, CONTEXT, LlamaForCausalLM as Trained

TOLERANCE = 1e-4


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("weights", type=pathlib.Path)
    ap.add_argument("model", type=pathlib.Path)
    args = ap.parse_args()
    weights = {name: tensor.float() for name, tensor in load_file(args.weights).items()}
    model = LlamaForCausalLM(LlamaConfig(**CONFIG, bos_token_id=BOS, eos_token_id=None, pad_token_id=None, use_cache=False,
                                         attn_implementation="eager")).eval()
    model.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    trained = Trained(CONFIG).eval()
    trained.load_state_dict(weights)

    dynamic = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=CONTEXT)}
    ids = torch.randint(1, CONFIG["vocab_size"], (2, 17), generator=torch.Generator().manual_seed(1))
    torch.onnx.export(model, (), str(args.model), kwargs={"input_ids": ids}, dynamo=True, opset_version=20, input_names=["input_ids"],
                      output_names=["logits"], dynamic_shapes={"input_ids": dynamic}, external_data=False)
    proto = onnx.load(args.model)
    for node in proto.graph.node:  # stack traces name files of the machine that exported; the module names stay
        kept = [p for p in node.metadata_props if not p.key.endswith("stack_trace")]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(proto, args.model)

    session = onnxruntime.InferenceSession(str(args.model), providers=["CPUExecutionProvider"])
    ids = torch.randint(1, CONFIG["vocab_size"], (2, CONTEXT), generator=torch.Generator().manual_seed(2))
    written = torch.from_numpy(session.run(None, {"input_ids": ids.numpy()})[0])
    with torch.no_grad():
        expected = trained(ids)
    error = ((written - expected).abs().max() / expected.abs().max()).item()
    print(f"{args.model.name}: {args.model.stat().st_size} bytes, {sum(w.numel() for w in weights.values())} parameters; "
          f"largest difference between ONNX Runtime and torch: {error:.1e} of the largest logit")
    if not error < TOLERANCE:
        raise SystemExit(f"{args.model.name} differs from the model that was trained by {error:.1e}, more than {TOLERANCE:.0e}")


if __name__ == "__main__":
    main()
