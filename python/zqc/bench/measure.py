"""One model in a process of its own: `python -m zqc.bench.measure` takes the question as JSON, and prints the answer."""

import json
import sys
import time
from typing import Any

from zqc.bench.inputs import Inputs

# A number of tokens is run at least as often, and as long.
_LEAST_RUNS = 3
_LEAST_SECONDS = 0.5


def memory() -> dict[str, int]:
    """Memory of the process in bytes, where the system tells: `resident`, `private` (anonymous) and the `peak` of the first."""
    names = {"VmRSS": "resident", "RssAnon": "private", "VmHWM": "peak"}
    try:
        with open("/proc/self/status", encoding="utf-8") as status:
            lines = [line.split(":") for line in status]
    except OSError:
        return {}
    return {names[name]: 1024 * int(value.split()[0]) for name, value in lines if name in names}


def measure(model: str, library: bool, threads: int, prompt: int, tokens: int) -> dict[str, Any]:
    """Times in seconds and memory in bytes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if library:
        from zqc import ort

        options = ort.session_options(options)
    before = memory()
    started = time.perf_counter()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    load = time.perf_counter() - started
    loaded = memory()
    inputs = Inputs(session, model)
    prefill, results = _best(session, inputs.feeds(prompt))
    if inputs.has_caches:
        started = time.perf_counter()
        for step in range(tokens):
            results = session.run(None, inputs.feeds(1, prompt + step, results))
        decode = (time.perf_counter() - started) / tokens
    else:
        decode, _ = _best(session, inputs.feeds(prompt + 1))
    return {
        "onnxruntime": onnxruntime.__version__,
        "caches": inputs.has_caches,
        "load_seconds": load,
        "prefill_tokens_per_second": prompt / prefill,
        "decode_tokens_per_second": 1 / decode,
        "memory": {"before": before, "loaded": loaded, "after": memory()},
    }


def _best(session: Any, feeds: dict[str, Any]) -> tuple[float, list[Any]]:
    """The time of the fastest run, and its results."""
    best, runs, begin = float("inf"), 0, time.perf_counter()
    while runs < _LEAST_RUNS or time.perf_counter() - begin < _LEAST_SECONDS:
        started = time.perf_counter()
        results = session.run(None, feeds)
        best = min(best, time.perf_counter() - started)
        runs += 1
    return best, results


if __name__ == "__main__":
    print(json.dumps(measure(**json.load(sys.stdin))))
