"""Exports a checkpoint by one route: export.py ROUTE CHECKPOINT FOLDER [ARGUMENT ...]

A route runs in the environment that it needs: requirements.txt, or requirements-older.txt for `optimum` and `genai` 0.9.
"""
import json
import pathlib
import subprocess
import sys

import numpy as np
import onnx


def run(module, *arguments):
    done = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])


def genai(checkpoint, folder, precision, provider, *extra):
    """The model builder of onnxruntime-genai."""
    extra = ["--extra_options", *extra] if extra else []
    run("onnxruntime_genai.models.builder", "-i", checkpoint, "-o", folder, "-p", precision, "-e", provider,
        "-c", folder.parent / "cache", *extra)


def optimum(checkpoint, folder, task, *options):
    run("optimum.commands.optimum_cli", "export", "onnx", "--model", checkpoint, "--task", task, *options, folder)


def load(checkpoint, **options):
    import transformers
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    return getattr(transformers, config.architectures[0]).from_pretrained(checkpoint, **options).eval()


def ids(batch, length):
    import torch
    return torch.randint(3, 2000, (batch, length), generator=torch.Generator().manual_seed(0))


def is_causal(model):
    return any(kind in type(model).__name__ for kind in ("ForCausalLM", "LMHead"))


def transformers5(checkpoint, folder, fusions=None, opset=None):
    """The exporter in transformers 5, with caches; `fusions` is the provider whose fused operators it uses."""
    import torch
    from transformers.exporters import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter
    model = load(checkpoint)
    if hasattr(model.config, "image_size"):
        inputs = {"pixel_values": torch.randn(2, 3, 32, 32)}
    else:
        tokens = ids(2, 12)
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        if is_causal(model):
            with torch.no_grad():
                past = model(input_ids=tokens[:, :5], use_cache=True).past_key_values
            inputs |= {"input_ids": tokens[:, 5:], "past_key_values": past}
            model.config.use_cache = True
    config = OnnxConfig(dynamic=True, ort_fusions=fusions if fusions != "-" else None, opset_version=int(opset) if opset else None)
    OnnxExporter().export(model, inputs, config=config).save_pretrained(str(folder))


def torch_onnx(checkpoint, folder, exporter):
    """torch.onnx.export without caches."""
    import torch

    class Outputs(torch.nn.Module):
        """The first output of a model that takes its inputs by position."""

        def __init__(self, model, names):
            super().__init__()
            self.model, self.names = model, names
            self.options = {"use_cache": False} if is_causal(model) or model.config.is_encoder_decoder else {}

        def forward(self, *inputs):
            return self.model(**dict(zip(self.names, inputs)), return_dict=False, **self.options)[0]

    experts = {"experts_implementation": "batched_mm"} if "Mixtral" in str(json.loads((checkpoint / "config.json").read_text())["architectures"]) else {}
    model = load(checkpoint, attn_implementation="eager", **experts)
    tokens = ids(2, 12)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if hasattr(model.config, "image_size"):
        inputs = {"pixel_values": torch.randn(2, 3, 32, 32)}
    elif hasattr(model.config, "num_mel_bins"):
        # Without a mask the model looks for packed sequences, by an operator that the legacy exporter lacks.
        inputs = {"input_features": torch.randn(2, 80, 3000), "decoder_input_ids": tokens[:, :7],
                  "decoder_attention_mask": torch.ones_like(tokens[:, :7])}
    elif model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens[:, :7]
    folder.mkdir(parents=True, exist_ok=True)
    axes = {key: [0, 1] if value.dim() == 2 else [0] for key, value in inputs.items()}
    common = dict(input_names=list(inputs), output_names=["output"])
    model, path, values = Outputs(model, list(inputs)), str(folder / "model.onnx"), tuple(inputs.values())
    if exporter == "dynamo":
        shapes = tuple({axis: torch.export.Dim.DYNAMIC for axis in axes[key]} for key in inputs)
        torch.onnx.export(model, values, path, dynamo=True, verbose=False, dynamic_shapes=(shapes,), **common)
    else:
        shapes = {key: {axis: f"{key}_{axis}" for axis in axes[key]} for key in inputs}
        torch.onnx.export(model, values, path, dynamo=False, opset_version=17, dynamic_axes=shapes, **common)


def optimized(model, folder, kind):
    """onnxruntime.transformers' optimizer on an export of another route."""
    folder.mkdir(parents=True, exist_ok=True)
    run("onnxruntime.transformers.optimizer", "--input", model, "--output", folder / "model.onnx", "--model_type", kind,
        "--num_heads", 4, "--hidden_size", 128)


def float16(model, folder):
    """onnxruntime.transformers' conversion to float16, inputs and outputs in float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(convert_float_to_float16(onnx.load(model), keep_io_types=True), folder / "model.onnx")


def fp8(model, folder, activations="weights"):
    """Weights, and activations if asked for, in FP8 behind QuantizeLinear and DequantizeLinear, as quantizers write them."""
    from onnx import TensorProto, helper, numpy_helper
    folder.mkdir(parents=True, exist_ok=True)
    proto = onnx.load(model)
    graph, nodes = proto.graph, []
    weights = {tensor.name: tensor for tensor in graph.initializer}
    done = {}

    def scale(name, value):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
        zero = helper.make_tensor(name + "_zero", TensorProto.FLOAT8E4M3FN, [], [0.0])
        graph.initializer.append(zero)
        return name, zero.name

    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights and node.input[1] not in done:
            name = node.input[1]
            array = numpy_helper.to_array(weights[name]).astype(np.float32)
            step, zero = scale(name + "_scale", float(np.abs(array).max() / 448))
            cast = helper.make_tensor(name + "_fp8", TensorProto.FLOAT8E4M3FN, array.shape, (array / (np.abs(array).max() / 448)).ravel().tolist())
            graph.initializer.append(cast)
            nodes.append(helper.make_node("DequantizeLinear", [cast.name, step, zero], [name + "_dequantized"]))
            done[name] = name + "_dequantized"
        if node.op_type == "MatMul" and node.input[1] in done:
            node.input[1] = done[node.input[1]]
            if activations == "activations":
                x = node.input[0]
                step, zero = scale(node.name + "_x_scale", 0.05)
                nodes.append(helper.make_node("QuantizeLinear", [x, step, zero], [node.name + "_x_q"]))
                nodes.append(helper.make_node("DequantizeLinear", [node.name + "_x_q", step, zero], [node.name + "_x_dq"]))
                node.input[0] = node.name + "_x_dq"
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    for opset in proto.opset_import:
        if not opset.domain:
            opset.version = max(opset.version, 19)
    onnx.save(proto, folder / "model.onnx")


def modelopt(checkpoint, folder):
    """NVIDIA's ModelOpt: FP8 weights and activations by operators of TensorRT."""
    import modelopt.torch.quantization as quantization
    import torch

    class Logits(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, return_dict=False)[0]

    folder.mkdir(parents=True, exist_ok=True)
    model, tokens = load(checkpoint, attn_implementation="eager"), ids(2, 12)
    quantization.quantize(model, quantization.FP8_DEFAULT_CFG, lambda model: model(tokens))
    names = ["input_ids", "attention_mask"]
    torch.onnx.export(Logits(model).eval(), (tokens, torch.ones_like(tokens)), str(folder / "model.onnx"), dynamo=False,
                      opset_version=20, input_names=names, output_names=["logits"],
                      dynamic_axes={name: {0: "batch", 1: "tokens"} for name in names})


def jax(_, folder):
    """jax2onnx on a decoder of flax, whose batch and length it fixes."""
    import flax.nnx as nnx
    import jax
    import jax.numpy as jnp
    from jax2onnx import to_onnx
    width, heads = 128, 4

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
            self.q, self.k, self.v, self.o = [nnx.Linear(width, width, rngs=rngs) for _ in range(4)]
            self.up, self.down = nnx.Linear(width, 2 * width, rngs=rngs), nnx.Linear(2 * width, width, rngs=rngs)

        def __call__(self, x):
            batch, tokens, _ = x.shape
            y = self.norms[0](x)
            q, k, v = (part(y).reshape(batch, tokens, heads, -1).transpose(0, 2, 1, 3) for part in (self.q, self.k, self.v))
            scores = jnp.where(jnp.tril(jnp.ones((tokens, tokens), bool)), q @ k.transpose(0, 1, 3, 2) / (width // heads) ** 0.5, -1e9)
            x = x + self.o((jax.nn.softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(batch, tokens, width))
            return x + self.down(jax.nn.gelu(self.up(self.norms[1](x))))

    class Decoder(nnx.Module):
        def __init__(self, rngs):
            self.embedding = nnx.Embed(2048, width, rngs=rngs)
            self.blocks = nnx.List([Block(rngs) for _ in range(2)])
            self.norm, self.head = nnx.LayerNorm(width, rngs=rngs), nnx.Linear(width, 2048, rngs=rngs)

        def __call__(self, ids):
            x = self.embedding(ids)
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(to_onnx(Decoder(nnx.Rngs(0)), [jax.ShapeDtypeStruct((2, 64), jnp.int32)]), folder / "model.onnx")


ROUTES = {"genai": genai, "optimum": optimum, "transformers5": transformers5, "torch": torch_onnx, "optimized": optimized,
          "float16": float16, "fp8": fp8, "modelopt": modelopt, "jax": jax}

if __name__ == "__main__":
    route, source, folder, *arguments = sys.argv[1:]
    ROUTES[route](pathlib.Path(source), pathlib.Path(folder), *arguments)
