"""The commands: compile, evaluate, inspect."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from zqc import _calibration, _keywords, _zqc
from zqc._library import use_onnxruntime

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from zqc._options import CompileOptions, EvaluateOptions

Progress = Callable[[str, int, int], Any]


class Result:
    """What a compilation gave."""

    def __init__(self, path: Path | None, report: dict[str, Any], model: Any = None):
        self.path = path
        """Where the result was written; None when it is only in memory."""
        self.report = report
        """The report, as `--report` writes it to a .json file."""
        self._model = model

    @property
    def model(self) -> Any:
        """The result as an `onnx.ModelProto`; read when it is first asked for."""
        if self._model is None and self.path is not None:
            import onnx

            self._model = onnx.load(_zqc.find_model(self.path))
        return self._model

    def __repr__(self) -> str:
        totals = self.report["totals"]
        layers, bits = len(self.report["layers"]), totals["bits_per_weight"]
        return f"<zqc.Result {str(self.path or 'in memory')!r}: {layers} layers, {bits:.3f} bits per weight>"


def compile(
    model: Any,
    output: str | os.PathLike[str] | None = None,
    *,
    calibration: Any = None,
    tokenizer: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Unpack[CompileOptions],
) -> Result:
    """Compiles a model: a file, a folder with one, or an `onnx.ModelProto`.

    Without an output, the result is in memory, `Result.model`. Calibration data is a path or several, an iterable of
    dictionaries of arrays by input name, one a run of the model, or a CalibrationDataReader of onnxruntime; at most
    `samples` are taken (by default 128). Without any, the model writes its own text. `progress(step, done, count)` hears
    how it goes. Other options are those of the command line: `group_size=32`, `keep=["lm_head"]`, `verify=False`;
    `zqc --help` lists them, with their defaults.

    Raises UsageError, InputError, OutputError or InternalError; the output is then as it was before. KeyboardInterrupt
    and what `progress` raises end the run, and the same call goes on from there.
    """
    with TemporaryDirectory(prefix="zqc-") as temporary:
        folder = Path(temporary)
        if not isinstance(model, (str, os.PathLike)):
            model = _write_model(model, folder / "model.onnx")
        if output is None:
            if options.get("emit") not in (None, "onnx"):
                raise _zqc.UsageError("output: only an ONNX model is given in memory; name a place for the output")
            # What is solved could not be found again.
            options["resume"] = False
        if calibration is not None:
            calibration = _calibration.files(calibration, options.get("samples"), folder)
        target = folder / "compiled.onnx" if output is None else Path(output)
        places = {"output": target, "calibration": calibration, "tokenizer": tokenizer}
        arguments = _keywords.arguments("compile", {**places, **options})
        use_onnxruntime()
        report = json.loads(_zqc.compile([*arguments, "--", os.fsdecode(model)], progress))
        if output is not None:
            return Result(target, report)
        import onnx

        return Result(None, report, onnx.load(target))


def evaluate(
    model: str | os.PathLike[str],
    text: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str] | None = None,
    *,
    progress: Progress | None = None,
    **options: Unpack[EvaluateOptions],
) -> dict[str, Any]:
    """Perplexity of a model on a text file: `perplexity`, `nll`, `tokens`, `window` and others.

    Options are those of `zqc eval`: `reference`, another model to compare it with, whose measures are in `comparison`; `window`,
    `max_tokens`, `bos`, `backend`, `threads`.
    """
    arguments = _keywords.arguments("evaluate", {"text": text, "tokenizer": tokenizer, **options})
    use_onnxruntime()
    return json.loads(_zqc.evaluate([*arguments, "--", os.fsdecode(model)], progress))


def inspect(model: str | os.PathLike[str]) -> dict[str, Any]:
    """Every linear layer of a model or a CUDA package: `linears`, `kept`, `weights`, `bits_per_weight` and others."""
    return json.loads(_zqc.inspect(model))


def _write_model(model: Any, path: Path) -> Path:
    """Writes a model of the program for the compiler, which reads files."""
    if not hasattr(model, "SerializeToString"):
        raise TypeError(f"model: a path or an onnx.ModelProto expected, not {type(model).__name__}")
    from google.protobuf.message import EncodeError

    try:
        path.write_bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:  # protobuf's limit of 2 GiB
        raise _zqc.InputError(f"model: {error}; give the path of a model of this size") from error
    if any(tensor.data_location == tensor.EXTERNAL for tensor in model.graph.initializer):
        raise _zqc.InputError("model: weights lie in files beside it; give its path, or load them with it")
    return path
