"""The bundled model in bfloat16, as exporters write one: rotary angles stay in float32.

bf16.py MODEL OUTPUT: MODEL is in float32. OUTPUT passes onnx.checker in its strictest mode.
"""
import sys

import ml_dtypes
import onnx
from onnx import TensorProto, helper, numpy_helper

IN_FLOAT = ["Cos", "Sin"]


def narrowed(tensor):
    if tensor.data_type != TensorProto.FLOAT:
        return
    values = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
    tensor.CopyFrom(TensorProto(name=tensor.name, data_type=TensorProto.BFLOAT16, dims=values.shape,
                                raw_data=values.tobytes()))


def cast(source, target, dtype):
    return helper.make_node("Cast", [source], [target], to=dtype)


source, output = sys.argv[1:]
model = onnx.load(source)
graph = model.graph
del graph.value_info[:]
for tensor in graph.initializer:
    narrowed(tensor)
for value in [*graph.input, *graph.output]:
    if value.type.tensor_type.elem_type == TensorProto.FLOAT:
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
nodes = []
for node in graph.node:
    for attribute in node.attribute:
        narrowed(attribute.t)
        if (node.op_type, attribute.name, attribute.i) == ("Cast", "to", TensorProto.FLOAT):
            attribute.i = TensorProto.BFLOAT16
    if node.op_type in IN_FLOAT:
        [angle], [result] = node.input, node.output
        node.input[0], node.output[0] = f"{result}_angle", f"{result}_float"
        nodes += [cast(angle, node.input[0], TensorProto.FLOAT), node, cast(node.output[0], result, TensorProto.BFLOAT16)]
    else:
        nodes.append(node)
del graph.node[:]
graph.node.extend(nodes)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, output)
