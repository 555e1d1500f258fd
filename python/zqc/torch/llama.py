"""Norms and gated activations of LLaMA's decoder layers within the kernels that quantize."""

import torch

from zqc import cuda
from zqc.torch.linear import Linear, replace_linears

_DECODER_LAYER = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


class RmsNorm(torch.nn.Module):
    """An RMS norm that gives the quantized input of the layers behind it, which all have one activation.

    It computes in float32 and rounds once, to the codes; a norm by itself rounds to the type of the model before.
    """

    prologue = cuda.RMS_NORM

    def __init__(self, reader, weight, epsilon):
        super().__init__()
        self.weight, self.variance_epsilon = weight, epsilon
        self.loaded, self.layer = reader.loaded, reader.layer

    def forward(self, x):
        weight = self.weight.to(x.dtype)
        return self.loaded.quantize(x, self.layer, self.prologue, weight, self.variance_epsilon)


class GatedMlp(torch.nn.Module):
    """`down(silu(gate(x)) * up(x))`; the quantization for `down` computes activation and product, in float32."""

    prologue = cuda.SILU_MUL

    def __init__(self, gate_proj, up_proj, down_proj):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate_proj, up_proj, down_proj
        self.loaded, self.layer = down_proj.loaded, down_proj.layer

    def forward(self, x):
        gate, up = self.gate_proj(x), self.up_proj(x)
        return self.down_proj(self.loaded.quantize(gate, self.layer, self.prologue, up))


def fuse_llama(module, package, device=0, accumulation=cuda.FAST):
    """Replaces linear layers as `replace_linears` does, and what is before them in LLaMA's decoder layers.

    q, k and v, and gate and up, share a quantization that computes the norm before them; that of down computes the
    activation. This is done in every decoder layer that has the parts of transformers' LlamaDecoderLayer and no
    others, as those of Mistral, Qwen2, Qwen3 and SmolLM2 have. Their `forward`, attention and caches stay what they are: what
    they hand from a norm to the layers behind it is the quantized input, a tensor of bytes.

    Returns the names of the parts that were fused. Raises ValueError as `replace_linears` does, and where there is
    nothing to fuse; linear layers stay replaced then.
    """
    replace_linears(module, package, device, accumulation)
    fused = []
    for name, layer in list(module.named_modules()):
        if _children(layer) == _DECODER_LAYER:
            fused += [f"{name}.{part}" for part in _fuse_decoder_layer(layer)]
    if not fused:
        raise ValueError("no decoder layer has the parts of LLaMA's in the package: replace_linears needs none")
    return fused


def _fuse_decoder_layer(layer):
    """Fuses what a decoder layer has in the package, and gives the names of the parts."""
    attention, mlp = layer.self_attn, layer.mlp
    readers = ("q_proj", "k_proj", "v_proj")
    if _children(attention) <= _ATTENTION and _fuse_norm(layer, "input_layernorm", attention, readers):
        yield "self_attn"
    readers = ("gate_proj", "up_proj")
    if _children(mlp) | {"act_fn"} == _MLP and _is_silu(mlp.act_fn) and _linears(mlp, (*readers, "down_proj")):
        _fuse_norm(layer, "post_attention_layernorm", mlp, readers)
        layer.mlp = GatedMlp(mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        yield "mlp"


def _fuse_norm(layer, name, part, names):
    """Makes a norm quantize for those of a part's layers that read it, if it can; whether it could."""
    norm, readers = getattr(layer, name), _linears(part, names)
    epsilon = getattr(norm, "variance_epsilon", None)
    if epsilon is None or len({reader.layer.activation for reader in readers}) != 1 or not _is_rms_norm(norm, epsilon):
        return False
    setattr(layer, name, RmsNorm(readers[0], norm.weight, epsilon))
    return True


def _linears(part, names):
    """The layers of these names, if the package has them all; else none."""
    linears = [getattr(part, name, None) for name in names]
    return linears if all(isinstance(linear, Linear) for linear in linears) else []


def _children(module):
    return {name for name, _ in module.named_children()}


# What a norm and an activation compute is asked of them: one formula has classes of many names.


@torch.no_grad()
def _is_rms_norm(norm, epsilon):
    """Whether the norm multiplies by its weight and nothing else, for tokens large and small beside its epsilon."""
    weight = norm.weight
    token = torch.linspace(-1, 1, len(weight), device=weight.device)
    tokens = torch.stack([token, token * epsilon**0.5]).to(weight.dtype)
    wide = tokens.float()
    expected = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon) * weight.float()
    return torch.allclose(norm(tokens).float(), expected, rtol=0.02, atol=1e-6)


@torch.no_grad()
def _is_silu(activation):
    x = torch.linspace(-8, 8, 65)
    return torch.allclose(activation(x), torch.nn.functional.silu(x), atol=1e-5)
