"""Makes the binary inputs of the corpus anew: python fuzz/corpus/generate.py ZQC, with onnx and numpy; ZQC is the program."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

here = Path(__file__).parent
random = np.random.default_rng(0)


def weight(name, *shape, dtype=np.float32):
    return numpy_helper.from_array(random.normal(size=shape).astype(dtype), name)


def save(name, nodes, inputs, outputs, constants, folder="onnx", **more):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        name,
        [value(n, t, s) for n, t, s in inputs],
        [value(n, t, s) for n, t, s in outputs],
        constants,
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10, **more)
    (here / folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    return model


F, I, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node
x, y = [("x", F, ["n", 16])], [("y", F, ["n", 32])]
save("matmul", [node("MatMul", ["x", "w"], ["xw"]), node("Add", ["xw", "b"], ["y"])], x, y, [weight("w", 16, 32), weight("b", 32)])
save("gemm", [node("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=0.5)], x, y, [weight("w", 32, 16, dtype=np.float32), weight("b", 32)])
save("transpose", [node("Transpose", ["w"], ["t"], perm=[1, 0]), node("Identity", ["t"], ["i"]), node("MatMul", ["x", "i"], ["y"])], x, y, [weight("w", 32, 16)])
branch = lambda op: helper.make_graph([node(op, ["xw"], ["r"])], op, [], [helper.make_tensor_value_info("r", F, None)])
save("branches", [node("MatMul", ["x", "w"], ["xw"]), node("If", ["c"], ["y"], then_branch=branch("Relu"), else_branch=branch("Tanh"))], x + [("c", B, [])], y, [weight("w", 16, 32)])
body = helper.make_graph(
    [node("MatMul", ["s", "v"], ["t"]), node("Identity", ["k"], ["l"])],
    "body",
    [helper.make_tensor_value_info(n, t, None) for n, t in [("i", I), ("k", B), ("s", F)]],
    [helper.make_tensor_value_info(n, t, None) for n, t in [("l", B), ("t", F)]],
    [weight("v", 16, 16)],
)
save("loop", [node("Loop", ["m", "", "x"], ["y"], body=body)], x, [("y", F, ["n", 16])], [numpy_helper.from_array(np.int64(3), "m")])
function = helper.make_function("own", "Project", ["a", "b"], ["c"], [node("MatMul", ["a", "b"], ["c"])], [helper.make_opsetid("", 21)])
save("function", [node("Project", ["x", "w"], ["y"], domain="own")], x, y, [weight("w", 16, 32)], functions=[function])
save("head", [node("Gather", ["e", "ids"], ["h"]), node("MatMul", ["h", "head"], ["y"])], [("ids", I, ["b", "t"])], [("y", F, ["b", "t", 20])], [weight("e", 20, 16), weight("head", 16, 20)])
indices = numpy_helper.from_array(np.array([3, 5], dtype=np.int64), "")
sparse = helper.make_sparse_tensor(numpy_helper.from_array(np.ones(2, np.float32), "s"), indices, [16])
model = save("sparse", [node("Add", ["x", "s"], ["y"])], x, [("y", F, ["n", 16])], [])
model.graph.sparse_initializer.append(sparse)
(here / "onnx/sparse.onnx").write_bytes(model.SerializeToString())
half = helper.make_tensor("w", TensorProto.FLOAT16, [16, 32], np.zeros(512, np.float16))
save("typed", [node("Cast", ["w"], ["f"], to=F), node("MatMul", ["x", "f"], ["y"])], x, y, [half, helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"b"])])
save("wide", [node("MatMul", ["x", "w"], ["y"])], [("x", F, ["n", 32])], y, [weight("w", 32, 32)])
for target in ("portable", "native"):
    source, output = here / "onnx/wide.onnx", here / f"onnx/quantized-{target}.onnx"
    options = ["--method", "rtn", "--target", target, "--group-size", "8", "--lorc-rank", "2"]
    subprocess.run([sys.argv[1], source, "-o", output, *options], check=True)

tensors = []
for number, (location, offset) in enumerate([("weights.bin", 0), ("sub/weights.bin", 64), ("weights.bin", 2048)]):
    tensor = weight(f"w{number}", 16, 32)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in [("location", location), ("offset", str(offset)), ("length", "2048")]:
        tensor.external_data.add(key=key, value=value)
    tensors.append(tensor)
save("three", [node("MatMul", ["x", "w0"], ["y"])], x, y, tensors, folder="external-data")
constant = node("Constant", [], ["c"])
constant.attribute.append(helper.make_attribute("value", tensors[1]))
save("constant", [constant, node("MatMul", ["x", "c"], ["y"])], x, y, [], folder="external-data")

ids, floats = np.arange(12, dtype=np.int64).reshape(3, 4), np.ones((3, 4), np.float32)
np.savez(here / "npz/stored.npz", input_ids=ids, x=floats)
np.savez_compressed(here / "npz/deflated.npz", input_ids=ids.astype(np.int32), x=floats.astype(np.float16), labels=ids)
arrays = {"input_ids": ("I64", ids), "x": ("F32", floats)}
header, data = {}, b""
for name, (dtype, array) in arrays.items():
    header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + array.nbytes]}
    data += array.tobytes()
header = json.dumps(header).encode()
(here / "safetensors/two.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)

save("experts", [node("MatMul", ["x", "w"], ["y"])], [("x", F, [2, "n", 32])], [("y", F, [2, "n", 32])], [weight("w", 2, 32, 32)])
chosen = [("x", F, ["n", 1, 32]), ("e", I, ["n"])]
save("looked-up", [node("Gather", ["w", "e"], ["g"]), node("MatMul", ["x", "g"], ["y"])], chosen, [("y", F, ["n", 1, 32])], [weight("w", 2, 32, 32)])
last = numpy_helper.from_array(np.array([-1]), "last")
save("looked-up-left", [node("Unsqueeze", ["e", "last"], ["i"]), node("GatherND", ["w", "i"], ["g"]), node("Transpose", ["x"], ["c"], perm=[0, 2, 1]), node("MatMul", ["g", "c"], ["y"])], chosen, [("y", F, ["n", 32, 1])], [weight("w", 2, 32, 32), last])
save("convolution", [node("Conv", ["x", "w", "b"], ["y"])], [("x", F, ["n", 32, "t"])], [("y", F, ["n", 32, "t"])], [weight("w", 32, 32, 1), weight("b", 32)])
codes = numpy_helper.from_array(random.integers(-7, 8, (32, 32)).astype(np.int8), "w")
save("dequantized", [node("DequantizeLinear", ["w", "s"], ["d"], axis=0, block_size=16), node("MatMul", ["x", "d"], ["y"])], [("x", F, ["n", 32])], y, [codes, weight("s", 2, 32)])
body = helper.make_graph(
    [node("MatMul", ["s", "w"], ["t"]), node("Add", ["t", "i"], ["u"]), node("Identity", ["u"], ["o"])],
    "body",
    [helper.make_tensor_value_info(n, F, ["n", 32]) for n in ("s", "i")],
    [helper.make_tensor_value_info(n, F, ["n", 32]) for n in ("u", "o")],
)
save("scan", [node("Scan", ["x", "z"], ["y", "all"], body=body, num_scan_inputs=1)], [("x", F, ["n", 32]), ("z", F, ["t", "n", 32])], y, [weight("w", 32, 32)])
save("einsum", [node("Einsum", ["x", "w"], ["y"], equation="bsd,hkd->bhsk")], [("x", F, ["b", "n", 32])], [("y", F, None)], [weight("w", 4, 8, 32)])
