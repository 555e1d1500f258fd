"""Compiled models in onnxruntime, run by the library `libzqc_ort`.

    session = zqc.ort.InferenceSession("model.w4a8.onnx")

Models that zqc has not compiled run as they do without it.
"""

import weakref
from pathlib import Path
from typing import Any

import onnxruntime

from zqc import _library

# Options that have the library: one that is registered twice is an error of onnxruntime's.
_registered: weakref.WeakSet[onnxruntime.SessionOptions] = weakref.WeakSet()


def library_path() -> Path:
    """The custom-op library for onnxruntime of any language: C's RegisterCustomOpsLibrary_V2, genai, Triton."""
    return _library.shipped("zqc_ort")


def session_options(options: onnxruntime.SessionOptions | None = None) -> onnxruntime.SessionOptions:
    """These options, or new ones, with the library registered."""
    options = options or onnxruntime.SessionOptions()
    if options not in _registered:
        options.register_custom_ops_library(str(library_path()))
        _registered.add(options)
    return options


class InferenceSession(onnxruntime.InferenceSession):
    """An `onnxruntime.InferenceSession` with the library."""

    def __init__(
        self,
        path_or_bytes: Any,
        sess_options: onnxruntime.SessionOptions | None = None,
        *arguments: Any,
        **keywords: Any,
    ) -> None:
        super().__init__(path_or_bytes, session_options(sess_options), *arguments, **keywords)
