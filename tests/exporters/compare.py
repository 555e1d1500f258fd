"""Runs a float model and what zqc made of it in ONNX Runtime, and says how far apart they are."""
import json
import types

import numpy as np
import onnx
import onnxruntime as ort

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(int32)": np.int32,
         "tensor(bool)": np.bool_, "tensor(double)": np.float64}
CACHES = [("input.past_key_values", "output.past_key_values"), ("past_key_values", "present"), ("past", "present")]
ENCODER = 16  # tokens of a synthesized encoder
WIDTH = 32  # of the heads of every checkpoint whose exports leave it open


def session(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def inputs(path):
    """What a model declares, in ONNX Runtime's words, whether that runs it or not."""
    graph = onnx.load(path, load_external_data=False).graph
    words = {1: "tensor(float)", 6: "tensor(int32)", 7: "tensor(int64)", 9: "tensor(bool)", 10: "tensor(float16)", 11: "tensor(double)"}
    initializers = {tensor.name for tensor in graph.initializer}
    found = []
    for value in graph.input:
        tensor = value.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in tensor.shape.dim]
        if value.name not in initializers:
            found.append(types.SimpleNamespace(name=value.name, type=words[tensor.elem_type], shape=shape))
    return found


def extent(dimension):
    """A fixed size; the exporter in transformers 5 names some as symbols that are numbers."""
    return int(dimension) if isinstance(dimension, int) or dimension and dimension.isdigit() else None


def cache(shape, batch, width):
    sizes = [extent(dimension) for dimension in shape]
    if len(shape) == 4 and sizes[2] is None:
        # A sliding cache is a ring of fixed capacity.
        capacity = 64 if shape[2] == "past_sliding_length" else 0
        return np.zeros((batch, 2 if sizes[1] is None else sizes[1], capacity, width if sizes[3] is None else sizes[3]))
    return np.zeros([batch if size is None else size for size in sizes])


def value(name, shape, rng, batch, length, before, width):
    sizes = [extent(dimension) for dimension in shape]
    if name in ("input_ids", "decoder_input_ids", "in_0"):
        return rng.integers(3, 2000, (sizes[0] or batch, sizes[1] or length))
    if name == "attention_mask" and len(shape) == 2:
        return np.ones((batch, before + length))
    if name == "decoder_attention_mask":
        return np.ones((batch, length))
    if name == "encoder_attention_mask":
        return np.ones((batch, ENCODER))
    if name == "position_ids":
        positions = np.arange(before, before + length)
        return np.broadcast_to(positions, (*[size or batch for size in sizes[:-1]], length))
    if name == "token_type_ids":
        return np.zeros((batch, length))
    if name == "use_cache_branch":
        return np.array([before > 0])
    if name == "num_logits_to_keep":
        return np.array(length)
    if "cross" in name or "encoder" in name and "past" in name:
        return rng.normal(size=[size or (batch if axis == 0 else ENCODER) for axis, size in enumerate(sizes)])
    if "past" in name or "states" in name and "encoder" not in name and "hidden" not in name:
        return cache(shape, batch, width)
    if name in ("input_features", "audio_features"):
        return rng.normal(size=(batch, 80, 3000))
    defaults = {1: 3} if len(shape) == 4 else {}
    rest = 32 if len(shape) == 4 else ENCODER if name == "encoder_hidden_states" else length
    return rng.normal(size=[size or (batch if axis == 0 else defaults.get(axis, rest)) for axis, size in enumerate(sizes)])


def feeds(inputs, rng, batch, length, past={}, before=0, width=WIDTH):
    """What a model of these inputs takes; `past` maps names of caches of `before` tokens to arrays."""
    return {i.name: np.asarray(past[i.name] if i.name in past else value(i.name, i.shape, rng, batch, length, before, width))
            .astype(TYPES[i.type]) for i in inputs}


def head_width(folder):
    """That of the heads of a model that leaves it open, by the configuration of onnxruntime-genai."""
    config = folder / "genai_config.json"
    return json.loads(config.read_text())["model"]["decoder"].get("head_size", WIDTH) if config.exists() else WIDTH


def outputs(path, width):
    """First outputs on several samples, and those of one step with the caches that came of each."""
    model = session(path)
    names = [output.name for output in model.get_outputs()]
    first, steps = [], []
    for seed, length in [(1, 48), (2, 7), (3, 48)]:
        rng = np.random.default_rng(seed)
        fed = feeds(model.get_inputs(), rng, 1, length, width=width)
        found = dict(zip(names, model.run(None, fed)))
        first.append(found[names[0]])
        present = {i.name: next(i.name.replace(a, b) for a, b in CACHES if a in i.name) for i in model.get_inputs() if "past" in i.name}
        if present and all(name in found for name in present.values()) and "use_cache_branch" not in fed:
            past = {name: found[output] for name, output in present.items()}
            steps.append(model.run(names[:1], feeds(model.get_inputs(), rng, 1, 1, past, length, width))[0])
    return first, steps


def error(expected, found):
    """The norm of the difference of all arrays relative to that of the expected ones."""
    expected, found = (np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays]) for arrays in (expected, found))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected)) if np.isfinite(found).all() else float("nan")


def generate(folder, count=20):
    """The tokens that onnxruntime-genai writes from a folder after the same prompt."""
    import onnxruntime_genai as og
    model = og.Model(str(folder))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(do_sample=False, max_length=200)
    generator = og.Generator(model, parameters)
    prompt = [403, 407, 261, 378, 300, 350, 290]
    generator.append_tokens(prompt)
    while len(generator.get_sequence(0)) < len(prompt) + count:
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][len(prompt):]
