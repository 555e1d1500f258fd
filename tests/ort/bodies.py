"""The bundled model with layers in bodies: bodies.py MODEL OUTPUT.

Of every block, `gate_proj` goes into the branches of an `If`, `up_proj` into an `If` inside a `Loop`, and `down_proj` into a
`Scan` over the tokens, last to first. The model computes what it did.
"""
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def value(name, dims, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, dims)


def node(op_type, inputs, outputs, **attributes):
    return helper.make_node(op_type, inputs, outputs, name=f"{op_type}:{outputs[0]}", **attributes)


def branches(x, w, y, sign):
    """`x w` in one branch, `-(-x w)` in the other."""
    then = helper.make_graph([node("MatMul", [x, w], [f"{y}_then"])], "then", [], [value(f"{y}_then", None)])
    nodes = [node("Neg", [x], [f"{y}_x"]), node("MatMul", [f"{y}_x", w], [f"{y}_xw"]), node("Neg", [f"{y}_xw"], [f"{y}_else"])]
    other = helper.make_graph(nodes, "else", [], [value(f"{y}_else", None)])
    return node("If", [sign], [y], then_branch=then, else_branch=other)


def in_branch(x, w, y):
    return [node("Cast", ["input_ids_length"], [f"{y}_long"], to=TensorProto.BOOL), branches(x, w, y, f"{y}_long")]


def in_loop(x, w, y):
    """The mean of three turns, of which the first takes the other branch."""
    nodes = [node("Cast", [f"{y}_turn"], [f"{y}_later"], to=TensorProto.BOOL), branches(x, w, f"{y}_part", f"{y}_later"),
             node("Identity", [f"{y}_going"], [f"{y}_on"])]
    body = helper.make_graph(nodes, "turn", [value(f"{y}_turn", [], TensorProto.INT64), value(f"{y}_going", [], TensorProto.BOOL)],
                             [value(f"{y}_on", [], TensorProto.BOOL), value(f"{y}_part", None)])
    return [node("Loop", ["three", ""], [f"{y}_parts"], body=body), node("ReduceMean", [f"{y}_parts", "first"], [y], keepdims=0)]


def in_scan(x, w, y):
    body = helper.make_graph([node("MatMul", [f"{y}_now", w], [f"{y}_row"])], "token", [value(f"{y}_now", None)],
                             [value(f"{y}_row", None)])
    return [node("Scan", [x], [y], body=body, num_scan_inputs=1, scan_input_axes=[1], scan_input_directions=[1],
                 scan_output_axes=[1], scan_output_directions=[1])]


PLACES = {"gate_proj": in_branch, "up_proj": in_loop, "down_proj": in_scan}


def place(layer):
    """How a node with this metadata is to be rewritten, if it is."""
    if layer.op_type != "MatMul":
        return None
    described = " ".join(entry.value for entry in layer.metadata_props)
    return next((form for name, form in PLACES.items() if name in described), None)


model = onnx.load(sys.argv[1])
graph = model.graph
nodes = [node("Shape", ["input_ids"], ["input_ids_length"], start=1)]
for layer in graph.node:
    form = place(layer)
    nodes += form(*layer.input, *layer.output) if form else [layer]
del graph.node[:]
graph.node.extend(nodes)
graph.initializer.extend([numpy_helper.from_array(np.array(3), "three"), numpy_helper.from_array(np.array([0]), "first")])
onnx.checker.check_model(model)
onnx.save(model, sys.argv[2])
