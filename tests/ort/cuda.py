"""Compiled models in ONNX Runtime's CUDA provider, with the library of kernels or without. Needs a Hopper GPU, onnxruntime-gpu and NVRTC.

cuda.py make OUT.onnx [--layers L] [--hidden H] [--inter I] [--heads A] [--kv KV] [--vocab V]
    A LLaMA-shaped model in float16 with random weights, caches and the fused attention of onnxruntime-genai's builder.
cuda.py agree MODEL LIBRARY TOKENS
    One JSON object: the outputs with the library on CUDA beside those with it on the CPU and those of stock ONNX Runtime on CUDA
    (|y - y'| / |y| of the first output, and how often the largest value is at the same place), how many of 16 runs of four threads
    gave other bits, and which provider ran the nodes.
cuda.py time MODEL LIBRARY|- PAST TOKENS [graph]
    One JSON object: milliseconds of a run of so many tokens behind so many in the caches, inputs and outputs on the device, and the
    SHA-256 of the first output; with `graph`, replayed from a CUDA graph.
"""
import argparse
import collections
import concurrent.futures
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def make(out, layers, hidden, inter, heads, kv, vocab):
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    head, half = hidden // heads, TensorProto.FLOAT16
    random = np.random.default_rng(0)
    block = random.standard_normal(1 << 22, dtype=np.float32).astype(np.float16)
    nodes, small, offset, data = [], [], 0, open(f"{out}.data", "wb")

    def weight(name, rows, columns, scale):
        nonlocal offset
        tensor = onnx.TensorProto(name=name, data_type=half, dims=(rows, columns), data_location=TensorProto.EXTERNAL)
        start, size = int(random.integers(len(block))), rows * columns
        values = np.resize(np.roll(block, start), size) * np.float16(scale)
        offset = (offset + 4095) // 4096 * 4096
        data.seek(offset)
        values.tofile(data)
        for key, value in (("location", f"{Path(out).name}.data"), ("offset", offset), ("length", 2 * size)):
            tensor.external_data.add(key=key, value=str(value))
        offset += 2 * size
        small.append(tensor)
        return name

    def constant(name, value):
        small.append(numpy_helper.from_array(value.astype(np.float16), name))
        return name

    def node(op, inputs, outputs, **attributes):
        nodes.append(helper.make_node(op, inputs, outputs, outputs[0] + "_node", **attributes))
        return outputs[0]

    def norm(x, skip, name):
        scale = constant(f"{name}.weight", np.ones(hidden))
        if skip is None:
            return x, node("SimplifiedLayerNormalization", [x, scale], [name], axis=-1, epsilon=1e-5, stash_type=1)
        outputs = [name, "", "", f"{name}.sum"]
        return outputs[3], node("SkipSimplifiedLayerNormalization", [x, skip, scale], outputs, domain="com.microsoft", epsilon=1e-5)

    angles = np.arange(4096)[:, None] * 10000.0 ** (-np.arange(0, head, 2) / head)
    cos, sin = constant("cos", np.cos(angles)), constant("sin", np.sin(angles))
    x, skip = node("Gather", [weight("embed", vocab, hidden, 0.05), "input_ids"], ["embedded"]), None
    caches, presents = [], []
    for i in range(layers):
        name = f"layers.{i}"
        x, y = norm(x, skip, f"{name}.norm1")
        q, k, v = (node("MatMul", [y, weight(f"{name}.{part}.weight", hidden, count * head, hidden ** -0.5)], [f"{name}.{part}"])
                   for part, count in (("q", heads), ("k", kv), ("v", kv)))
        past = [f"past_key_values.{i}.{part}" for part in ("key", "value")]
        present = [f"present.{i}.{part}" for part in ("key", "value")]
        caches, presents = caches + past, presents + present
        a = node("GroupQueryAttention", [q, k, v, *past, "seqlens_k", "total_sequence_length", cos, sin], [f"{name}.attn", *present],
                 domain="com.microsoft", num_heads=heads, kv_num_heads=kv, do_rotary=1)
        skip = node("MatMul", [a, weight(f"{name}.o.weight", heads * head, hidden, hidden ** -0.5)], [f"{name}.o"])
        x, y = norm(x, skip, f"{name}.norm2")
        gate, up = (node("MatMul", [y, weight(f"{name}.{part}.weight", hidden, inter, hidden ** -0.5)], [f"{name}.{part}"])
                    for part in ("gate", "up"))
        act = node("Mul", [gate, node("Sigmoid", [gate], [f"{name}.sigmoid"])], [f"{name}.act"])
        skip = node("MatMul", [node("Mul", [act, up], [f"{name}.product"]), weight(f"{name}.down.weight", inter, hidden, inter ** -0.5)],
                    [f"{name}.down"])
    _, y = norm(x, skip, "norm")
    node("MatMul", [y, weight("lm_head.weight", hidden, vocab, hidden ** -0.5)], ["logits"])
    data.close()
    value = helper.make_tensor_value_info
    inputs = [value("input_ids", TensorProto.INT64, ["batch", "tokens"]), value("seqlens_k", TensorProto.INT32, ["batch"]),
              value("total_sequence_length", TensorProto.INT32, [])]
    inputs += [value(name, half, ["batch", kv, "past", head]) for name in caches]
    outputs = [value("logits", half, ["batch", "tokens", vocab])]
    outputs += [value(name, half, ["batch", kv, "total", head]) for name in presents]
    graph = helper.make_graph(nodes, "llama", inputs, outputs, small)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    Path(out).write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def session(model, library, provider, graph=False, profile=None):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if library != "-":
        options.register_custom_ops_library(library)
    providers = {"cuda": [("CUDAExecutionProvider", {"enable_cuda_graph": "1" if graph else "0"}), "CPUExecutionProvider"],
                 "cpu": ["CPUExecutionProvider"]}
    return onnxruntime.InferenceSession(model, options, providers=providers[provider])


def feeds(model, made, past, tokens):
    """Inputs of any language model: tokens behind so many in the caches."""
    config = Path(model).with_name("genai_config.json")
    # The builder's caches may leave the size of a head open.
    head = json.loads(config.read_text())["model"]["decoder"]["head_size"] if config.exists() else None
    random, given = np.random.default_rng(2), {}
    types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float16)": np.float16, "tensor(float)": np.float32}
    for spec in made.get_inputs():
        dtype = types[spec.type]
        if spec.name == "input_ids":
            value = random.integers(1, 500, (1, tokens))
        elif spec.name == "attention_mask":
            value = np.ones((1, past + tokens))
        elif spec.name == "position_ids":
            value = np.arange(past, past + tokens)[None]
        elif spec.name == "seqlens_k":
            value = np.array([past + tokens - 1])
        elif spec.name == "total_sequence_length":
            value = np.array(past + tokens)
        else:
            value = random.standard_normal((1, spec.shape[1], past, spec.shape[3] if isinstance(spec.shape[3], int) else head))
        given[spec.name] = value.astype(dtype)
    return given


def placement(model, library, given):
    """How many nodes of each operator every provider ran."""
    with tempfile.TemporaryDirectory() as folder:
        made = session(model, library, "cuda", profile=Path(folder) / "profile")
        made.run(None, given)
        events = json.loads(Path(made.end_profiling()).read_text())
    found = collections.defaultdict(collections.Counter)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found[event["args"]["provider"]][event["args"]["op_name"]] += 1
    return {provider: dict(nodes) for provider, nodes in found.items()}


def agree(model, library, tokens):
    cpu = session(model, library, "cpu")
    given = feeds(model, cpu, 0, tokens)
    results = {"cpu": cpu.run(None, given)[0]}
    cuda = session(model, library, "cuda")
    results["cuda"] = cuda.run(None, given)[0]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        runs = list(threads.map(lambda _: cuda.run(None, given)[0], range(16)))
    results["stock"] = session(model, "-", "cuda").run(None, given)[0]
    values = {name: y.astype(np.float64) for name, y in results.items()}

    def compare(a, b):
        a, b = values[a], values[b]
        return {"apart": float(np.linalg.norm(a - b) / np.linalg.norm(b)), "same_largest": float((a.argmax(-1) == b.argmax(-1)).mean())}
    return {"cuda_to_cpu": compare("cuda", "cpu"), "cuda_to_stock": compare("cuda", "stock"), "cpu_to_stock": compare("cpu", "stock"),
            "finite": bool(np.isfinite(values["cuda"]).all()),
            "other_bits": sum(run.tobytes() != results["cuda"].tobytes() for run in runs), "placement": placement(model, library, given)}


def measure(model, library, past, tokens, graph):
    import onnxruntime
    made = session(model, library, "cuda", graph)
    binding, kept, sizes = made.io_binding(), [], {}
    given = feeds(model, made, past, tokens)
    for spec in made.get_inputs():
        sizes.update(zip(spec.shape, given[spec.name].shape))
    for name, value in given.items():
        on_device = "cpu" if name == "total_sequence_length" else "cuda"
        kept.append(onnxruntime.OrtValue.ortvalue_from_numpy(value, on_device, 0))
        binding.bind_ortvalue_input(name, kept[-1])
    for spec in made.get_outputs():
        if graph:
            # What no input has is the length of the caches with the new tokens.
            shape = [size if isinstance(size, int) else sizes.get(size, past + tokens) for size in spec.shape]
            dtype = {"tensor(float16)": np.float16, "tensor(float)": np.float32}[spec.type]
            kept.append(onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cuda", 0))
            binding.bind_ortvalue_output(spec.name, kept[-1])
        else:
            binding.bind_output(spec.name, "cuda", 0)
    begin = time.perf_counter()
    made.run_with_iobinding(binding)
    binding.synchronize_outputs()
    first = time.perf_counter() - begin
    for _ in range(5):
        made.run_with_iobinding(binding)
    binding.synchronize_outputs()
    times = []
    for _ in range(30):
        begin = time.perf_counter()
        for _ in range(4):
            made.run_with_iobinding(binding)
        binding.synchronize_outputs()
        times.append((time.perf_counter() - begin) / 4 * 1e3)
    y = binding.get_outputs()[0].numpy()
    return {"min_ms": min(times), "median_ms": sorted(times)[len(times) // 2], "first_s": first,
            "hash": hashlib.sha256(y.tobytes()).hexdigest()[:16]}


if __name__ == "__main__":
    command, path, *rest = sys.argv[1:]
    if command == "make":
        parser = argparse.ArgumentParser()
        for name, default in dict(layers=4, hidden=4096, inter=11008, heads=32, kv=8, vocab=32000).items():
            parser.add_argument(f"--{name}", type=int, default=default)
        make(path, **vars(parser.parse_args(rest)))
    elif command == "agree":
        print(json.dumps(agree(path, rest[0], int(rest[1]))))
    elif command == "time":
        print(json.dumps(measure(path, rest[0], int(rest[1]), int(rest[2]), rest[3:] == ["graph"])))
