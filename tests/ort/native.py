"""Checks that a native model computes what the portable one does, both by ONNX's reference implementation.

native.py NATIVE PORTABLE VOCABULARY: every layer yields the same from the same inputs, those of the portable model. The whole
models are compared where no activation is rounded: a last bit of a sum decides to which FP8 number a value is rounded that
lies between two, and the two forms multiply by scales before and after the sum.
"""
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

# Of the largest value. Two orders of the 480 additions of the widest layer differ by 480 * 2^-24 of the sum of magnitudes, which is
# 3e-5, at the very most, and by the root of that many as a rule. A step of FP8 is a sixteenth of a value, one of INT8 a 127th.
TOLERANCE = 1e-4

native, portable = map(onnx.load, sys.argv[1:3])
vocabulary = int(sys.argv[3])
feeds = {portable.graph.input[0].name: np.random.default_rng(0).integers(0, vocabulary, (2, 8))}


def layers(model):
    """The names of what the layers of a portable model read, in float, and yield; whether it is rounded in between."""
    producers = {name: node for node in model.graph.node for name in node.output}
    inputs, outputs, rounded = {}, [], False
    for node in model.graph.node:
        if node.domain == "ai.zqc" and "Linear" in node.op_type:
            quantizer = producers.get(node.input[0])
            if quantizer is not None and quantizer.op_type.startswith("QuantizeActivation"):
                inputs[quantizer.input[0]] = rounded = True
            else:
                inputs[node.input[0]] = True
            outputs.append(node.output[0])
    return list(inputs), outputs, rounded


def fetching(model, names):
    """The model with these values as its outputs."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.output[:]
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return made


def between(model, inputs, outputs):
    """The part of a model that computes `outputs` from `inputs`."""
    producers = {name: node for node in model.graph.node for name in node.output if name not in inputs}
    needed, wanted = set(), list(outputs)
    while wanted:
        name = wanted.pop()
        if name in producers and name not in needed:
            needed.add(name)
            wanted += producers[name].input
    part = fetching(model, outputs)
    nodes = [node for node in model.graph.node if needed.intersection(node.output)]
    for field, values in {"node": nodes, "input": [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in inputs]}.items():
        del getattr(part.graph, field)[:]
        getattr(part.graph, field).extend(values)
    return part


def run(model, feeds):
    return ReferenceEvaluator(model).run(None, feeds)


def compare(name, found, expected):
    assert found.shape == expected.shape, (name, found.shape, expected.shape)
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    assert difference < TOLERANCE, (name, difference)


inputs, outputs, rounded = layers(portable)
assert len(outputs) == 35, outputs
logits = portable.graph.output[0].name
values = dict(zip([*inputs, *outputs, logits], run(fetching(portable, [*inputs, *outputs, logits]), feeds)))
for name, found in zip(outputs, run(between(native, inputs, outputs), {name: values[name] for name in inputs})):
    compare(name, found, values[name])
[scores] = run(native, feeds)
assert scores.shape == (2, 8, vocabulary) and np.isfinite(scores).all(), scores.shape
if not rounded:
    compare(logits, scores, values[logits])
print("ok")
