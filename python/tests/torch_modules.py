"""`zqc.torch` without a GPU: `python -m unittest torch_modules` in this folder, with torch and transformers.

A stand-in for the launcher keeps an input in float32 as its quantized bytes, with the prologue computed, so that models
run on the CPU and wiring, shapes and tracing are tested. Kernels and captures are not.
"""

import unittest
from unittest import mock

import torch
import transformers
import zqc.torch
from zqc import cuda
from zqc.torch import operators

FAMILIES = ["Llama", "Mistral", "Qwen2", "Qwen3"]


class StandIn:
    """A `cuda.Model` whose layers are those of a torch model."""

    def __init__(self, package, device, accumulation):
        self.layers, self.weights = package.layers, package.weights
        self.prepared, self.quantizations = [], 0

    def prepare(self, *arguments):
        self.prepared.append(arguments)


class Package:
    """The linear layers of a model but its head; those of one activation have one parent and one number of columns."""

    def __init__(self, model, keep=()):
        self.layers, self.weights, activations = [], [], {}
        for name, linear in model.named_modules():
            if isinstance(linear, torch.nn.Linear) and name != "lm_head" and not name.endswith(tuple(keep)):
                n, k = linear.weight.shape
                kind = name.rpartition(".")[2]
                group = (name.rpartition(".")[0], {"o_proj": 1, "down_proj": 2}.get(kind, 0))
                activation = activations.setdefault(group, len(activations))
                self.layers.append(cuda.Layer(len(self.layers), name, n, k, activation, 4 * k, False))
                self.weights.append(linear.weight.detach())


@torch.library.impl("zqc::quantize", "CPU")
def quantize(x, second, model, layer, token_bytes, prologue, epsilon):
    model = operators._models[model]
    model.quantizations += 1
    x = x.float()
    if prologue == cuda.RMS_NORM:
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * second.float()
    if prologue == cuda.SILU_MUL:
        x = torch.nn.functional.silu(x) * second.float()
    return x.contiguous().view(torch.uint8)


@torch.library.impl("zqc::linear", "CPU")
def linear(quantized, model, layer, n, dtype):
    x = quantized.contiguous().view(torch.float32)
    return torch.nn.functional.linear(x, operators._models[model].weights[layer].float()).to(dtype)


def tiny(family, dtype=torch.float32):
    torch.manual_seed(0)
    config = getattr(transformers, family + "Config")(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=100, max_position_embeddings=64, tie_word_embeddings=False, pad_token_id=0,
    )
    model = getattr(transformers, family + "ForCausalLM")(config).to(dtype).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


IDS = torch.arange(1, 25).view(2, 12)


@torch.no_grad()
def logits(model, **arguments):
    return model(IDS, use_cache=False, **arguments).logits


@mock.patch("zqc.cuda.Model", StandIn)
@mock.patch("zqc.torch.operators.stream", lambda tensor: 0)
@mock.patch("torch.cuda.is_current_stream_capturing", lambda: False)
class Modules(unittest.TestCase):
    def test_fused_models_compute_what_they_did(self):
        for family in FAMILIES:
            with self.subTest(family):
                model = tiny(family)
                expected = logits(model)
                fused = zqc.torch.fuse_llama(model, Package(model))
                parts = [f"model.layers.{layer}.{part}" for layer in range(2) for part in ("self_attn", "mlp")]
                self.assertEqual(fused, parts)
                torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
                loaded = model.model.layers[0].mlp.loaded
                self.assertEqual(loaded._model.quantizations, 8, "qkv, o, gate and up, down in two layers")
                generated = model.generate(IDS, max_new_tokens=4, do_sample=False)
                self.assertEqual(generated.shape, (2, 16))

    def test_replaced_models_compute_what_they_did_and_share(self):
        model = tiny("Llama")
        expected = logits(model)
        names = zqc.torch.replace_linears(model, Package(model))
        self.assertEqual(len(names), 14)
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
        self.assertEqual(model.model.layers[0].mlp.up_proj.loaded._model.quantizations, 8)

    def test_a_graph_without_breaks(self):
        for change in (zqc.torch.replace_linears, zqc.torch.fuse_llama):
            model = tiny("Llama", torch.bfloat16)
            expected = logits(model)
            change(model, Package(model))
            compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
            torch.testing.assert_close(logits(compiled), expected, rtol=0.05, atol=0.05)
            with torch.no_grad():
                self.assertEqual(compiled(IDS[:, :7], use_cache=False).logits.shape, (2, 7, 100))

    def test_what_is_not_in_the_package_stays(self):
        model = tiny("Llama")
        expected = logits(model)
        fused = zqc.torch.fuse_llama(model, Package(model, keep=["0.self_attn.k_proj", "1.mlp.down_proj"]))
        self.assertEqual(fused, ["model.layers.0.mlp", "model.layers.1.self_attn"])
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)

    def test_what_is_built_otherwise_is_not_fused(self):
        model = tiny("Gemma")
        expected = logits(model)
        with self.assertRaisesRegex(ValueError, "replace_linears"):
            zqc.torch.fuse_llama(model, Package(model))
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)

    def test_prepare_asks_for_the_prologues_that_are_there(self):
        for change, prologues in [(zqc.torch.replace_linears, {0}), (zqc.torch.fuse_llama, {0, 1, 2})]:
            model = tiny("Llama")
            change(model, Package(model))
            zqc.torch.prepare(model, 512)
            stand_in = model.model.layers[0].self_attn.o_proj.loaded._model
            self.assertEqual(stand_in.prepared, [(512, cuda.BF16, cuda.BF16, prologues)])

    def test_the_operators_are_what_their_fakes_say(self):
        model = tiny("Llama")
        zqc.torch.replace_linears(model, Package(model))
        layer = model.model.layers[0].mlp.down_proj
        number, info = layer.loaded.number, layer.layer
        x = torch.randn(3, 5, info.k)
        arguments = (x, torch.rand(info.k), number, info.index, info.token_bytes, cuda.RMS_NORM, 1e-6)
        checks = ("test_schema", "test_faketensor")
        torch.library.opcheck(operators.quantize, arguments, test_utils=checks)
        arguments = (operators.quantize(*arguments), number, info.index, info.n, torch.bfloat16)
        torch.library.opcheck(operators.linear, arguments, test_utils=checks)


if __name__ == "__main__":
    unittest.main()
