"""Small models of forms that need care, compiled by zqc and run by ONNX Runtime beside what they were made of.

forms.py ZQC FOLDER [FORM ...]: one JSON object a form, with |y - y'| / |y| over all outputs: `exact` with 8-bit weights and
float activations, which says that the graph is right, and `default` with FP4 and FP8.
"""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

random = np.random.default_rng(0)


def floats(*dims):
    return random.standard_normal(dims).astype(np.float32)


def value(name, dims, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, dims)


def model(nodes, inputs, outputs, constants, opset=20):
    initializers = [c if isinstance(c, TensorProto) else numpy_helper.from_array(c, name) for name, c in constants.items()]
    graph = helper.make_graph(nodes, "form", inputs, outputs, initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def node(op_type, inputs, output, **attributes):
    return helper.make_node(op_type, inputs.split(), output.split(), **attributes)


def experts(dims, shape, opset=20):
    """Three experts with 80 input features: the last group is short."""
    rank = max(len(dims), 3)
    nodes = [node("MatMul", "x up", "h"), node("Tanh", "h", "t"), node("MatMul", "t down", "y")]
    constants = {"up": floats(3, 80, 48) / 9, "down": floats(3, 48, 40) / 7}
    return model(nodes, [value("x", dims)], [value("y", [None] * rank)], constants, opset), {"x": floats(*shape)}


def looked_up(chosen, left):
    """A token has its expert, of three with 80 input features; -1 is the last one."""
    constants = {"up": floats(3, 80, 48) / 9, "down": floats(3, 48, 40) / 7, "last": np.array([-1])}
    if left:
        constants |= {key: np.swapaxes(constants[key], 1, 2).copy() for key in ("up", "down")}
        nodes = [node("Gather", "up e", "w"), node("Unsqueeze", "x last", "column"), node("MatMul", "w column", "h"),
                 node("Tanh", "h", "t"), node("Unsqueeze", "e last", "i"), node("GatherND", "down i", "v"),
                 node("MatMul", "v t", "product"), node("Squeeze", "product last", "y")]
    else:
        constants |= {"middle": np.array([1])}
        nodes = [node("Gather", "up e", "w"), node("Unsqueeze", "x middle", "row"), node("MatMul", "row w", "h"),
                 node("Tanh", "h", "t"), node("Gather", "down e", "v"), node("MatMul", "t v", "product"),
                 node("Squeeze", "product middle", "y")]
    inputs = [value("x", ["t", 80]), value("e", ["t"], TensorProto.INT64)]
    return model(nodes, inputs, [value("y", ["t", 40])], constants), {"x": floats(len(chosen), 80), "e": np.array(chosen)}


def convolution(spatial):
    dims = [1] * len(spatial)
    nodes = [node("Conv", "x up b", "h"), node("Relu", "h", "r"), node("Conv", "r down", "y", strides=dims)]
    constants = {"up": floats(48, 80, *dims) / 9, "b": floats(48), "down": floats(64, 48, *dims) / 7}
    sizes = [None] * len(spatial)
    return model(nodes, [value("x", ["b", 80, *sizes])], [value("y", ["b", 64, *sizes])], constants), \
        {"x": floats(2, 80, *spatial)}


def einsum(dims, shape, equations, weights):
    """Two layers in the notation of Einstein: to heads and back."""
    nodes = [node("Einsum", "x to", "h", equation=equations[0]), node("Tanh", "h", "t"),
             node("Einsum", "t from", "y", equation=equations[1])]
    constants = {name: floats(*weight) / 9 for name, weight in zip(["to", "from"], weights)}
    return model(nodes, [value("x", dims)], [value("y", [None] * 3)], constants), {"x": floats(*shape)}


def dequantized(scale, opset=21, **attributes):
    codes = random.integers(-7, 8, (80, 48)).astype(np.int8)
    dtype = TensorProto.INT4 if attributes.get("block_size") else TensorProto.INT8
    nodes = [node("DequantizeLinear", "w s", "d", **attributes), node("MatMul", "x d", "y")]
    constants = {"w": helper.make_tensor("w", dtype, codes.shape, codes.flatten()), "s": scale.astype(np.float32)}
    return model(nodes, [value("x", ["t", 80])], [value("y", ["t", 48])], constants, opset), {"x": floats(16, 80)}


def loop():
    """The layer before the loop and the one in it read one weight; the branches of an `If` in the loop another."""
    def branch(name, nodes):
        return helper.make_graph(nodes, name, [], [value(f"{name}_y", ["t", 64])])

    then = branch("then", [node("MatMul", "bent v", "then_y")])
    other = branch("other", [node("Neg", "bent", "other_x"), node("MatMul", "other_x v", "other_y")])
    body = helper.make_graph(
        [node("MatMul", "state w", "product"), node("Tanh", "product", "bent"),
         node("Equal", "turn zero", "first"), node("If", "first", "next", then_branch=then, else_branch=other),
         node("Identity", "going", "go_on"), node("Identity", "next", "seen")],
        "body", [value("turn", [], TensorProto.INT64), value("going", [], TensorProto.BOOL), value("state", ["t", 64])],
        [value("go_on", [], TensorProto.BOOL), value("next", ["t", 64]), value("seen", ["t", 64])])
    nodes = [node("MatMul", "x w", "start"), node("Loop", "turns yes start", "last all", body=body)]
    constants = {"w": floats(64, 64) / 8, "v": floats(64, 64) / 8, "turns": np.array(3), "yes": np.array(True),
                 "zero": np.array(0)}
    return model(nodes, [value("x", ["t", 64])], [value("last", ["t", 64]), value("all", [None, "t", 64])], constants), \
        {"x": floats(16, 64)}


def scan():
    """A recurrent layer."""
    body = helper.make_graph(
        [node("MatMul", "now wx", "a"), node("MatMul", "before wh", "b"), node("Add", "a b", "sum"),
         node("Tanh", "sum", "after"), node("Identity", "after", "seen")],
        "body", [value("before", ["b", 64]), value("now", ["b", 64])], [value("after", ["b", 64]), value("seen", ["b", 64])])
    nodes = [node("Scan", "h x", "last all", body=body, num_scan_inputs=1)]
    constants = {"wx": floats(64, 64) / 8, "wh": floats(64, 64) / 8}
    return model(nodes, [value("h", ["b", 64]), value("x", ["t", "b", 64])],
                 [value("last", ["b", 64]), value("all", ["t", "b", 64])], constants), \
        {"h": floats(2, 64), "x": floats(5, 2, 64)}


def unnamed_nodes():
    """A function of nodes without names, called by a function that is called twice, by nodes with names."""
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("user", 1)]
    linear = helper.make_function("user", "Linear", ["x", "w"], ["y"], [
        node("Neg", "x", "n"), node("MatMul", "n w", "p"), node("Tanh", "p", "y")], imports)
    block = helper.make_function("user", "Block", ["x", "w", "v"], ["y"], [
        node("Linear", "x w", "a", domain="user"), node("Linear", "a v", "b", domain="user"), node("Tanh", "b", "y")], imports)
    nodes = [node("Block", "x w v", "a", domain="user", name="block"),
             node("Tanh", "a", "b", name="block/Linear"),
             node("Block", "b v w", "y", domain="user", name="block/Linear_1")]
    graph = helper.make_graph(nodes, "form", [value("x", ["t", 64])], [value("y", ["t", 64])],
                              [numpy_helper.from_array(floats(64, 64) / 8, name) for name in "wv"])
    return helper.make_model(graph, opset_imports=imports, functions=[linear, block], ir_version=10), {"x": floats(16, 64)}


def imported_twice(*imports):
    """`Softmax` means something else since opset 13: the last import counts."""
    nodes = [node("MatMul", "x w", "a"), node("Reshape", "a shape", "b"), node("Softmax", "b", "y")]
    made = model(nodes, [value("x", ["t", 64])], [value("y", [None] * 3)],
                 {"w": floats(64, 64) / 8, "shape": np.array([-1, 4, 16])}, 17)
    del made.opset_import[:]
    made.opset_import.extend(helper.make_opsetid(*pair) for pair in imports)
    return made, {"x": floats(16, 64)}


def defaults():
    """Inputs that a caller may leave out: a scale, and a bias that a branch reads too."""
    branches = [helper.make_graph([node(op_type, "p b", f"{op_type}_y")], op_type, [], [value(f"{op_type}_y", ["t", 48])])
                for op_type in ("Add", "Sub")]
    nodes = [node("Mul", "x s", "a"), node("MatMul", "a w", "p"), node("ReduceMax", "x", "most", keepdims=0),
             node("Greater", "most s", "choice"), node("If", "choice", "h", then_branch=branches[0], else_branch=branches[1]),
             node("Add", "h b", "y")]
    inputs = [value("x", ["t", 64]), value("s", []), value("b", [48])]
    return model(nodes, inputs, [value("y", ["t", 48])],
                 {"w": floats(64, 48) / 8, "s": np.float32(2), "b": floats(48)}), {"x": floats(16, 64)}


def fused():
    """Products that ONNX Runtime's optimizer fused, of operands of different rank, before a layer."""
    nodes = [helper.make_node("FusedMatMul", ["x", "m"], ["a"], domain="com.microsoft", transB=1, alpha=0.5),
             node("MatMul", "a w", "b"),
             helper.make_node("FusedMatMul", ["b", "x"], ["y"], domain="com.microsoft", transA=1)]
    graph = helper.make_graph(nodes, "form", [value("x", [2, 16, 64])], [value("y", [None] * 3)],
                              [numpy_helper.from_array(floats(48, 64) / 8, "m"), numpy_helper.from_array(floats(48, 40) / 7, "w")])
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10), {"x": floats(2, 16, 64)}


def microsoft(nodes, inputs, outputs, constants):
    """A model with operators of ONNX Runtime's domain, which onnx does not check."""
    graph = helper.make_graph(nodes, "form", inputs, outputs, [numpy_helper.from_array(c, name) for name, c in constants.items()])
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def split_apart():
    """The experts of a stack, each on rows of its own, as transformers exports them; the second stack lies transposed."""
    rows, up, down = (" ".join(f"{name}{expert}" for expert in range(3)) for name in ("r", "u", "d"))
    nodes = [node("Split", "x", rows, axis=0, num_outputs=3), node("Split", "up", up, axis=0, num_outputs=3),
             node("Transpose", "down", "turned", perm=[0, 2, 1]), node("Split", "turned", down, axis=0, num_outputs=3)]
    for expert in range(3):
        nodes += [node("Squeeze", f"u{expert} first", f"up{expert}"), node("MatMul", f"r{expert} up{expert}", f"h{expert}"),
                  node("Tanh", f"h{expert}", f"t{expert}"), node("Squeeze", f"d{expert} first", f"down{expert}"),
                  node("MatMul", f"t{expert} down{expert}", f"y{expert}")]
    nodes.append(node("Concat", "y0 y1 y2", "y", axis=0))
    constants = {"up": floats(3, 80, 48) / 9, "down": floats(3, 40, 48) / 7, "first": np.array([0])}
    return model(nodes, [value("x", [36, 80])], [value("y", [36, 40])], constants), {"x": floats(36, 80)}


def mixture():
    nodes = [helper.make_node("MoE", "x router up up_bias down".split(), ["y"], domain="com.microsoft", k=2,
                              activation_type="swiglu", swiglu_fusion=1, normalize_routing_weights=1)]
    constants = {"up": floats(3, 96, 80) / 9, "up_bias": floats(3, 96), "down": floats(3, 80, 48) / 7}
    inputs = [value("x", ["t", 80]), value("router", ["t", 3])]
    return microsoft(nodes, inputs, [value("y", ["t", 80])], constants), {"x": floats(24, 80), "router": floats(24, 3)}


def attention():
    nodes = [helper.make_node("Attention", "x w b mask".split(), ["y"], domain="com.microsoft", num_heads=4)]
    constants = {"w": floats(64, 192) / 8, "b": floats(192)}
    inputs = [value("x", ["b", "t", 64]), value("mask", ["b"], TensorProto.INT32)]
    return microsoft(nodes, inputs, [value("y", ["b", "t", 64])], constants), \
        {"x": floats(2, 12, 64), "mask": np.array([12, 9], dtype=np.int32)}


def left():
    nodes = [node("MatMul", "w x", "y")]
    return model(nodes, [value("x", ["b", 80, "t"])], [value("y", ["b", 48, "t"])], {"w": floats(48, 80) / 9}), \
        {"x": floats(2, 80, 24)}


FORMS = {
    "experts": lambda: experts([3, "t", 80], [3, 24, 80]),
    "experts, opset 13": lambda: experts([3, "t", 80], [3, 24, 80], 13),
    "experts of a matrix": lambda: experts(["t", 80], [24, 80]),
    "experts of one stack": lambda: experts([1, "t", 80], [1, 24, 80]),
    "experts, batch": lambda: experts(["b", 3, "t", 80], [2, 3, 12, 80]),
    "experts, batch of one stack": lambda: experts(["b", 1, "t", 80], [2, 1, 12, 80]),
    "experts, looked up": lambda: looked_up([0, 2, 1, -1, 1, 0, 0, 2, -3, 1] * 4, False),
    "experts, looked up on the left": lambda: looked_up([0, 2, 1, -1, 1, 0, 0, 2, -3, 1] * 4, True),
    "experts, looked up but for one": lambda: looked_up([0, 2, 2, 0, -1] * 8, False),
    "experts, split apart": split_apart,
    "experts of one operator": mixture,
    "attention": attention,
    "on the left": left,
    "einsum": lambda: einsum(["b", "t", 80], [2, 12, 80], ["abc,cde->abde", "abcd,cde->abe"], [(80, 4, 12), (4, 12, 40)]),
    "einsum of other orders": lambda: einsum(["b", 80, "t"], [2, 80, 12], ["bds,hkd->bhsk", "bhsk,dhk->dbs"],
                                             [(4, 12, 80), (40, 4, 12)]),
    "convolution, 1-D": lambda: convolution([24]),
    "convolution, 2-D": lambda: convolution([4, 6]),
    "dequantized, tensor": lambda: dequantized(np.array(0.1)),
    "dequantized, axis": lambda: dequantized(np.abs(floats(48)) + 0.1, 20),
    "dequantized, blocks": lambda: dequantized(np.abs(floats(3, 48)) + 0.1, axis=0, block_size=32),
    "loop": loop,
    "scan": scan,
    "functions of unnamed nodes": unnamed_nodes,
    "opset 12 after 17": lambda: imported_twice(("", 17), ("", 12)),
    "opset 17 after 12, by its other name": lambda: imported_twice(("", 12), ("ai.onnx", 17)),
    "domains imported twice": lambda: imported_twice(("user", 1), ("", 20), ("user", 1), ("", 20)),
    "inputs with defaults": defaults,
    "fused": fused,
}
GRAPH_ALONE = ["--weights", "int8", "--activations", "none", "--lorc-rank", "0"]


def run(path, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def error(found, expected):
    assert [array.shape for array in found] == [array.shape for array in expected]
    found, expected = (np.concatenate([array.ravel() for array in arrays]) for arrays in (found, expected))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def form(zqc, folder, name):
    source, feeds = FORMS[name]()
    path = folder / f"{name}.onnx"
    onnx.save(source, path)
    # ONNX Runtime computes products with integer weights in another way than the file says.
    quantized = any(node.op_type == "DequantizeLinear" for node in source.graph.node)
    expected = ReferenceEvaluator(source).run(None, feeds) if quantized else run(path, feeds)
    sample = folder / "sample.jsonl"
    sample.write_text(json.dumps({key: array.tolist() for key, array in feeds.items()}))
    row = {"form": name}
    for kind, options in {"exact": GRAPH_ALONE, "default": []}.items():
        output, report = folder / f"{name}.{kind}.onnx", folder / "report.json"
        command = [zqc, path, "-o", output, "--calibration", sample, "--group-size", "32", "--report", report,
                   "--requantize", *options]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{name}: {done.stderr}")
        row[kind] = error(run(output, feeds), expected)
    written, report = onnx.load(output), json.loads(report.read_text())
    row |= {key: [entry["layer"] for entry in report[key]] for key in ("layers", "kept", "uncalibrated", "requantized")}
    kinds = [(i.data_type, tuple(i.dims), i.raw_data) for i in written.graph.initializer if len(i.raw_data) > 64]
    row["twice"] = len(kinds) - len(set(kinds))
    row["listed"] = len(json.loads(subprocess.check_output([zqc, "inspect", output, "--json"]))["linears"])
    return row


zqc, folder, *names = sys.argv[1:]
for name in names or FORMS:
    print(json.dumps(form(zqc, Path(folder), name)), flush=True)
