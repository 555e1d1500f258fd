"""Compiles ONNX language models to W4A8 floating point, and runs them.

    import zqc, zqc.ort

    zqc.compile("model.onnx", "model.w4a8.onnx", calibration="text.txt", tokenizer="tokenizer.json")
    session = zqc.ort.InferenceSession("model.w4a8.onnx")

`zqc.ort` needs onnxruntime, `zqc.torch` and `zqc.cuda` a Hopper GPU; they are imported by name, as is `zqc.genai`.
"""

from zqc._commands import Result, compile, evaluate, inspect
from zqc._quantize import quantize
from zqc._zqc import InputError, InternalError, OutputError, UsageError

__all__ = [
    "InputError",
    "InternalError",
    "OutputError",
    "Result",
    "UsageError",
    "compile",
    "evaluate",
    "inspect",
    "quantize",
]
