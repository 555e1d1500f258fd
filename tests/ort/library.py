"""Models that consist of linear layers, run by ONNX Runtime with the library of kernels or without.

library.py make FOLDER
    layers.onnx: layers with ragged shapes one after the other, tokens along a dynamic axis; half.onnx: the same in float16;
    reshaped.onnx: the result of one has its heads apart, as attention wants them, and only the rank of the input is known, or
    not even that (unranked.onnx); branches.onnx: one in both branches of an If; layers.npz and half.npz calibrate them.
library.py run MODEL LIBRARY|- TOKENS [THREADS [LEVEL]]
    One JSON object: the SHA-256 of the outputs, how many layers kernels run, the version of ONNX Runtime, |y|, and |y - y'| / |y|
    of as many runs of one token each (`one_by_one`).
library.py kernels MODEL LIBRARY
    One JSON object: how many nodes of each operator of domain ai.zqc ONNX Runtime runs.
library.py faults MODEL LIBRARY
    One JSON object for every way to damage the model of layers, or to use the library wrongly: what ONNX Runtime says, if anything.
"""
import collections
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

SIZES = [96, 80, 150, 64, 33, 40]
LEVELS = {"none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
          "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
          "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
          "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL}


def make(folder):
    from onnx import TensorProto, helper, numpy_helper
    random = np.random.default_rng(1)

    def save(name, nodes, inputs, outputs, constants):
        initializers = [numpy_helper.from_array(value, key) for key, value in constants.items()]
        graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        (folder / f"{name}.onnx").write_bytes(made.SerializeToString())

    shapes = list(zip(SIZES, SIZES[1:]))
    weights = {f"w{i}": random.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[0])) for i, shape in enumerate(shapes)}
    biases = {f"b{i}": random.standard_normal(shape[1]).astype(np.float32) for i, shape in enumerate(shapes)}
    for name, dtype, code in (("layers", np.float32, TensorProto.FLOAT), ("half", np.float16, TensorProto.FLOAT16)):
        nodes = []
        for i in range(len(shapes)):
            nodes += [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"p{i}"], f"layer{i}"),
                      helper.make_node("Add", [f"p{i}", f"b{i}"], [f"x{i + 1}"])]
        x = helper.make_tensor_value_info("x0", code, ["batch", "tokens", SIZES[0]])
        y = helper.make_tensor_value_info(f"x{len(shapes)}", code, ["batch", "tokens", SIZES[-1]])
        save(name, nodes, [x], [y], {key: value.astype(dtype) for key, value in (weights | biases).items()})

    nodes = [helper.make_node("MatMul", ["x0", "w0"], ["h"], "layer0"), helper.make_node("Shape", ["h"], ["sizes"], end=2),
             helper.make_node("Concat", ["sizes", "heads"], ["shape"], axis=0), helper.make_node("Reshape", ["h", "shape"], ["y"])]
    for name, dims in (("reshaped", [None, None, SIZES[0]]), ("unranked", None)):
        x = helper.make_tensor_value_info("x0", TensorProto.FLOAT, dims)
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        save(name, nodes, [x], [y], {"w0": weights["w0"], "heads": np.array([4, 20])})

    def branch(name, op_type):
        nodes = [helper.make_node("MatMul", ["x0", "w0"], [f"{name}_p"], f"{name}_layer"),
                 helper.make_node(op_type, [f"{name}_p"], [f"{name}_y"])]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)])

    nodes = [helper.make_node("Shape", ["x0"], ["shape"]),
             helper.make_node("Gather", ["shape", "one"], ["tokens"], axis=0),
             helper.make_node("Equal", ["tokens", "one"], ["is_one"]),
             helper.make_node("Squeeze", ["is_one"], ["condition"]),
             helper.make_node("If", ["condition"], ["y"], then_branch=branch("then", "Identity"), else_branch=branch("else", "Neg"))]
    x = helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["batch", "tokens", SIZES[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "tokens", SIZES[1]])
    for name, dtype in (("layers", np.float32), ("half", np.float16)):
        np.savez(folder / f"{name}.npz", x0=random.standard_normal((1, 64, SIZES[0])).astype(dtype))
    save("branches", nodes, [x], [y], {"w0": weights["w0"], "one": np.array([1], np.int64)})


def session(model, library, threads, level, optimized=None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.graph_optimization_level = LEVELS[level]
    if optimized:
        options.optimized_model_filepath = str(optimized)
    if library != "-":
        options.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def kernels(model, library, threads=1, level="all"):
    """How many nodes of each operator of domain ai.zqc the graph has that ONNX Runtime arrives at: the functions are gone there."""
    import onnx
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        session(model, library, threads, level, optimized)
        graph = onnx.load(optimized, load_external_data=False).graph

    def nodes(graph):
        for node in graph.node:
            yield node
            for attribute in node.attribute:
                yield from nodes(attribute.g)

    return collections.Counter(node.op_type for node in nodes(graph) if node.domain == "ai.zqc")


def run(model, library, tokens, threads=1, level="all"):
    made = session(model, library, threads, level)
    spec = made.get_inputs()[0]
    dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16}[spec.type]
    random = np.random.default_rng(2)
    x = (random.standard_normal((1, tokens, SIZES[0])) * np.exp(random.standard_normal((1, tokens, 1)))).astype(dtype)
    y = made.run(None, {spec.name: x})[0]
    single = np.concatenate([made.run(None, {spec.name: x[:, i:i + 1]})[0] for i in range(tokens)] or [y[:, :0]], 1)
    layers = sum(count for op_type, count in kernels(model, library, threads, level).items() if "Linear" in op_type)
    norm = float(np.linalg.norm(y.astype(np.float64)))
    apart = float(np.linalg.norm(y.astype(np.float64) - single.astype(np.float64))) / (norm or 1.0)
    return {"version": onnxruntime.__version__, "hash": hashlib.sha256(y.tobytes()).hexdigest(), "type": str(y.dtype),
            "shape": list(y.shape), "norm": norm, "one_by_one": apart, "layers": layers}


def faults(path, library):
    import onnx
    from onnx import helper

    def layer(made):
        return next(node for node in made.graph.node if "Linear" in node.op_type)

    def attribute(name, value):
        def change(made):
            next(attribute for attribute in layer(made).attribute if attribute.name == name).i = value
        return change

    def codes(made):
        tensor = next(tensor for tensor in made.graph.initializer if tensor.name == layer(made).input[2])
        tensor.dims[0] //= 2
        tensor.raw_data = tensor.raw_data[:len(tensor.raw_data) // 2]

    def newer(made):
        for imports in [made.opset_import, *(function.opset_import for function in made.functions)]:
            for opset in imports:
                if opset.domain == "ai.zqc":
                    opset.version = 2

    def inputs(made):
        names = layer(made).input[2:]
        for tensor in made.graph.initializer:
            if tensor.name in names:
                made.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))

    def shapes(made):
        for value in [*made.graph.input, *made.graph.output]:
            value.type.tensor_type.ClearField("shape")

    def twice():
        options = onnxruntime.SessionOptions()
        for _ in range(2):
            options.register_custom_ops_library(library)
        onnxruntime.InferenceSession(path, options)

    def changed(change, width=SIZES[0]):
        def attempt():
            made = onnx.load(path)
            change(made)
            session(made.SerializeToString(), library, 1, "all").run(None, {"x0": np.zeros((1, 3, width), np.float32)})
        return attempt

    rows = {"group_size 0": changed(attribute("group_size", 0)), "output_type int64": changed(attribute("output_type", 7)),
            "no attributes": changed(lambda made: layer(made).ClearField("attribute")), "half of the codes": changed(codes),
            "other width": changed(shapes, 50), "registered twice": twice, "ai.zqc 2": changed(newer),
            "no functions": changed(lambda made: made.ClearField("functions")), "weights as inputs": changed(inputs),
            "no shapes": changed(shapes)}
    for fault, attempt in rows.items():
        try:
            attempt()
            error = ""
        except Exception as caught:
            error = str(caught)
        print(json.dumps({"fault": fault, "error": error}))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "make":
        make(Path(arguments[0]))
    elif command == "kernels":
        print(json.dumps(kernels(*arguments)))
    elif command == "faults":
        faults(*arguments)
    else:
        model, library, tokens, *rest = arguments
        print(json.dumps(run(model, library, int(tokens), int(rest[0]) if rest else 1, *rest[1:])))
