"""What it takes ONNX Runtime to load models, each in a process of its own: load.py MODEL ...

One JSON object a model: the peak and what stays of resident memory in MB, without that of the process before, and
seconds of processor time. `unfolded` counts what is left of the functions that dequantize weights, and of the turns in which that
is done, by operator. Linux only.
"""
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import onnxruntime


def memory(field):
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[field].split()[0]) / 1024


def session(model, **options):
    made = onnxruntime.SessionOptions()
    made.log_severity_level = 3
    made.intra_op_num_threads = 1
    for name, value in options.items():
        setattr(made, name, value)
    return onnxruntime.InferenceSession(model, made, providers=["CPUExecutionProvider"])


def load(model):
    before, began = memory("VmHWM"), time.process_time()
    kept = session(model)
    seconds = time.process_time() - began
    peak, resident = (memory(field) - before for field in ("VmHWM", "VmRSS"))
    del kept
    return {"onnxruntime": onnxruntime.__version__, "model": model, "peak": round(peak), "resident": round(resident),
            "seconds": round(seconds, 2)}


def unfolded(model):
    """What is left of them once the graph is optimized: ONNX Runtime names values after the function that they come from."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimized = str(Path(folder) / "optimized.onnx")
        level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        session(model, optimized_model_filepath=optimized, graph_optimization_level=level)
        graph = onnx.load(optimized, load_external_data=False).graph
    parts = ("_Dequantize", "_turn")
    return dict(Counter(node.op_type for node in graph.node if any(part in name for part in parts for name in node.output)))


if sys.argv[1] == "--one":
    print(json.dumps(load(sys.argv[2])))
else:
    for path in sys.argv[1:]:
        measured = subprocess.run([sys.executable, __file__, "--one", path], check=True, capture_output=True, text=True)
        print(json.dumps(json.loads(measured.stdout) | {"unfolded": unfolded(path)}))
