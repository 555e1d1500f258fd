"""Shared libraries: those of the package, and onnxruntime's."""

import importlib.util
import os
from pathlib import Path


def shipped(name: str) -> Path:
    """The library of this name in the package."""
    return Path(__file__).with_name("lib") / f"lib{name}.so"


def use_onnxruntime() -> None:
    """Names the onnxruntime of this Python for the back end `ort`, unless the user has named one."""
    package = importlib.util.find_spec("onnxruntime")
    if "ORT_DYLIB_PATH" in os.environ or package is None:
        return
    for folder in package.submodule_search_locations or []:
        for library in Path(folder, "capi").glob("libonnxruntime.so*"):
            os.environ["ORT_DYLIB_PATH"] = str(library)
            return
