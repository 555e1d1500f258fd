"""Layers in ONNX Runtime on a CPU: float32, MatMulNBits with accuracy_level 4, and the same layers compiled by zqc, without the library of
kernels and with it.

    python benches/onnxruntime/layers.py ZQC LIBRARY [--size 2048] [--layers 16] [--tokens 1,4,16,128] [--threads 1] [--folder FOLDER] [--json]

All sessions live in one process and take turns; a figure is the least processor time of the thread over all rounds (with several threads,
wall time), so that what else the machine does counts little. The table has milliseconds, and how many times faster than float32 and than
MatMulNBits. Memory and load times are those of a process of its own for each.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

BLOCK = 32


def save(path, name, nodes, constants, size, domains=()):
    x, y = (helper.make_tensor_value_info(value, TensorProto.FLOAT, ["tokens", size]) for value in ("x0", name))
    graph = helper.make_graph(nodes, "layers", [x], [y], [numpy_helper.from_array(value, key) for key, value in constants.items()])
    opsets = [helper.make_opsetid("", 21), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path, save_as_external_data=True,
              location=path.name + ".data", size_threshold=1024)


def make(folder, zqc, layers, size):
    """The files: float32, MatMulNBits, compiled."""
    random = np.random.default_rng(0)
    paths = {kind: folder / f"{kind}-{layers}x{size}.onnx" for kind in ("float", "nbits", "zqc")}
    if not paths["float"].exists():
        constants = {f"w{i}": random.standard_normal((size, size), np.float32) / np.float32(np.sqrt(size)) for i in range(layers)}
        nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"], f"layer{i}") for i in range(layers)]
        save(paths["float"], f"x{layers}", nodes, constants, size)
    if not paths["nbits"].exists():
        constants, nodes = {}, []
        for i in range(layers):
            constants[f"w{i}"] = random.integers(0, 256, (size, size // BLOCK, BLOCK // 2), np.uint8)
            constants[f"s{i}"] = np.full(size * size // BLOCK, 0.25 / np.sqrt(size), np.float32)
            nodes.append(helper.make_node("MatMulNBits", [f"x{i}", f"w{i}", f"s{i}"], [f"x{i + 1}"], f"layer{i}", domain="com.microsoft",
                                          K=size, N=size, bits=4, block_size=BLOCK, accuracy_level=4))
        save(paths["nbits"], f"x{layers}", nodes, constants, size, ["com.microsoft"])
    if not paths["zqc"].exists():
        calibration = folder / "calibration.npz"
        np.savez(calibration, x0=random.standard_normal((64, size), np.float32))
        subprocess.run([zqc, paths["float"], "-o", paths["zqc"], "--calibration", calibration, "--method", "rtn", "--external-data",
                        "--no-verify"], check=True, stdout=subprocess.DEVNULL)
    return paths


def session(path, library, threads):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    if library:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def memory():
    """Private and file-backed resident memory in MB, and the peak of both together."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return [int(fields[name].split()[0]) / 1000 for name in ("RssAnon", "RssFile", "VmHWM")]


def load(path, library, size):
    """What a session costs a process of its own."""
    before = memory()
    start = time.perf_counter()
    made = session(path, library, 1)
    seconds = time.perf_counter() - start
    made.run(None, {"x0": np.ones((1, size), np.float32)})
    after = memory()
    print(json.dumps({"load": seconds, "private": after[0] - before[0], "file": after[1] - before[1], "peak": after[2] - before[2]}))


def measure(sessions, tokens, size, threads, seconds=8.0):
    """The least time of each session in milliseconds, and the median."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    x = np.random.default_rng(1).standard_normal((tokens, size)).astype(np.float32)
    times = {name: [] for name in sessions}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, made in sessions.items():
            start = clock()
            made.run(None, {"x0": x})
            times[name].append(1e3 * (clock() - start))
    return {name: (min(found), float(np.median(found))) for name, found in times.items()}


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def main():
    if sys.argv[1] == "load":
        path, library, size = sys.argv[2:]
        return load(path, library if library != "-" else None, int(size))
    parser = argparse.ArgumentParser()
    parser.add_argument("zqc", type=Path)
    parser.add_argument("library", type=Path)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--tokens", default="1,4,16,128")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each number of tokens")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        paths = make(folder, args.zqc.resolve(), args.layers, args.size)
        kinds = {"float32": (paths["float"], None), "MatMulNBits": (paths["nbits"], None), "zqc, stock": (paths["zqc"], None),
                 "zqc, library": (paths["zqc"], args.library.resolve())}
        loads = {}
        for name, (path, library) in kinds.items():
            command = [sys.executable, __file__, "load", str(path), str(library or "-"), str(args.size)]
            loads[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        sessions = {name: session(path, library, args.threads) for name, (path, library) in kinds.items()}
        rows = {int(tokens): measure(sessions, int(tokens), args.size, args.threads, args.seconds) for tokens in args.tokens.split(",")}
    weights = args.layers * args.size ** 2
    if args.json:
        print(json.dumps({"processor": processor(), "onnxruntime": onnxruntime.__version__, "threads": args.threads, "size": args.size,
                          "layers": args.layers, "cpu": os.environ.get("ZQC_CPU", ""), "loads": loads, "milliseconds": rows}))
        return
    print(f"{args.layers} layers of {args.size} x {args.size}, {args.threads} thread(s), ONNX Runtime {onnxruntime.__version__}, {processor()}")
    for name, found in loads.items():
        print(f"  {name:14} load {found['load']:6.2f} s, private {found['private']:7.1f} MB, file {found['file']:7.1f} MB, "
              f"peak {found['peak']:7.1f} MB, {8e6 * found['private'] / weights:5.2f} bits a weight private")
    print("  tokens" + "".join(f"{name:>28}" for name in sessions) + "     ms least / median, x float32, x MatMulNBits")
    for tokens, found in rows.items():
        float32, nbits = found["float32"][0], found["MatMulNBits"][0]
        cells = (f"{least:9.2f} /{median:7.2f} {float32 / least:5.2f} {nbits / least:5.2f}" for least, median in found.values())
        print(f"  {tokens:6}" + "".join(f"{cell:>28}" for cell in cells))


if __name__ == "__main__":
    main()
