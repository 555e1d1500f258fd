"""Layers of a zqc CUDA package in place of the linear layers of a torch model.

    model = AutoModelForCausalLM.from_pretrained(..., dtype=torch.bfloat16).cuda()
    zqc.torch.fuse_llama(model, zqc.cuda.Package("model.zqcuda"))
    zqc.torch.prepare(model, 512)

`replace_linears` replaces the linear layers of any model and nothing else. `fuse_llama` does so in models that are
built as LLaMA is, and has their norms and gated activations computed by the kernels that quantize.

All memory comes from torch's allocator and every kernel is launched by an operator of torch, so models run in
`torch.cuda.graph` and in `torch.compile`, of every mode and with `fullgraph=True`. `prepare` compiles the kernels for
every number of tokens up to the one that it is given; otherwise a call compiles what it is the first to need.

Layers that the package quantizes together, such as q, k and v, share one quantization where they are fused. Where they
are not, they do when they are called one after the other with the same tensor object, but not in graphs or when compiled.
"""

from zqc.torch.linear import Linear, prepare, replace_linears
from zqc.torch.llama import GatedMlp, RmsNorm, fuse_llama

__all__ = ["GatedMlp", "Linear", "RmsNorm", "fuse_llama", "prepare", "replace_linears"]
