"""python -m zqc.bench MODEL [--against MODEL] ...: tokens per second, load time and memory, in a table.

Every model runs in a process of its own, in turn, --rounds times; the best of each number is shown. MODEL runs with the
library of this package, those that it is held against without.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from typing import Any

from zqc import InputError, _zqc


def main() -> int:
    arguments = _arguments()
    rows = [_Row(arguments.model, not arguments.no_library)] + [_Row(model, False) for model in arguments.against]
    try:
        for round_ in range(arguments.rounds):
            for row in rows:
                print(f"round {round_ + 1} of {arguments.rounds}: {row.name}", file=sys.stderr)
                row.measure(arguments)
    except (_Failed, InputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    result = {
        "processor": _processor(),
        "threads": arguments.threads,
        "prompt": arguments.prompt,
        "tokens": arguments.tokens,
        "rounds": arguments.rounds,
        "onnxruntime": rows[0].best["onnxruntime"],
        "models": [{"model": row.name, "library": row.library, **row.best} for row in rows],
    }
    print(json.dumps(result, indent=2) if arguments.json else _table(result))
    return 0


def _arguments() -> argparse.Namespace:
    description, _, more = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser("python -m zqc.bench", description=description.split(": ", 1)[1], epilog=more)
    parser.add_argument("model", metavar="MODEL", help="an ONNX language model, or a folder with one")
    parser.add_argument("--against", metavar="MODEL", action="append", default=[], help="another, to hold it against")
    parser.add_argument("--no-library", action="store_true", help="run MODEL in stock ONNX Runtime too")
    parser.add_argument("--threads", type=_positive, default=_cores(), help="threads of a session (%(default)s)")
    parser.add_argument("--prompt", type=_positive, default=128, help="tokens of the prompt (%(default)s)")
    parser.add_argument("--tokens", type=_positive, default=32, help="tokens that are decoded (%(default)s)")
    parser.add_argument("--rounds", type=_positive, default=3, help="times that each model is measured (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON: seconds, bytes")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


class _Failed(Exception):
    """A model could not be measured."""


class _Row:
    """A model, and the best of what was measured of it."""

    def __init__(self, name: str, library: bool):
        self.name, self.library = name, library
        self.best: dict[str, Any] = {}

    def measure(self, arguments: argparse.Namespace) -> None:
        question = {
            "model": os.fspath(_zqc.find_model(self.name)),
            "library": self.library,
            "threads": arguments.threads,
            "prompt": arguments.prompt,
            "tokens": arguments.tokens,
        }
        command = [sys.executable, "-m", "zqc.bench.measure"]
        answer = subprocess.run(command, input=json.dumps(question), capture_output=True, text=True, check=False)
        if answer.returncode:
            lines = answer.stderr.strip().splitlines() or [f"it ended with {answer.returncode}"]
            raise _Failed(f"{self.name}: {lines[-1]}")
        self.best = _better(self.best, json.loads(answer.stdout))


def _better(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The better of each number: more tokens per second, else less."""
    better = dict(other)
    for name, value in one.items():
        if isinstance(value, dict):
            better[name] = _better(value, other[name])
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            better[name] = (max if name.endswith("_per_second") else min)(value, other[name])
    return better


def _table(result: dict[str, Any]) -> str:
    models = result["models"]
    processor, threads = result["processor"], _counted(result["threads"], "thread")
    runtime, prompt, rounds = result["onnxruntime"], result["prompt"], result["rounds"]
    lines = [
        f"{processor}, {threads}, ONNX Runtime {runtime}, prompt of {prompt} tokens, best of {rounds}",
        "",
        f"{'':32} {'prefill':>16} {'decode':>16} {'load':>8} {'peak':>9} {'resident':>9} {'private':>9}",
        f"{'':32} {'tokens/s':>16} {'tokens/s':>16} {'':>8} {'at load':>9} {'after':>9} {'after':>9}",
    ]
    for model in models:
        speeds = [
            _speed(model[name], models[0][name] if model is not models[0] else None)
            for name in ("prefill_tokens_per_second", "decode_tokens_per_second")
        ]
        memory = model["memory"]
        sizes = [memory["loaded"].get("peak"), memory["after"].get("resident"), memory["after"].get("private")]
        name = model["model"] if len(model["model"]) <= 32 else "..." + model["model"][-29:]
        columns = [f"{column:>16}" for column in speeds] + [f"{model['load_seconds']:6.2f} s"]
        lines.append(f"{name:32} {' '.join(columns)} {' '.join(f'{_size(size):>9}' for size in sizes)}")
    own = models[0]["memory"]["before"].get("resident")
    lines += [
        "",
        f"of the memory, {_size(own)} are Python's and ONNX Runtime's own; in brackets, how much faster the first is",
    ]
    if not all(model["caches"] for model in models):
        lines.append("without caches, every token of a text costs a run of all tokens before it: this is its decode")
    return "\n".join(lines)


def _speed(speed: float, of_first: float | None) -> str:
    return f"{speed:.1f}" if of_first is None else f"({of_first / speed:.2f} x) {speed:.1f}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _size(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.0f} MB"


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
            names = [line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
