"""Compiled models in onnxruntime-genai.

    zqc.compile("phi-4-mini", "phi-4-mini.w4a8", calibration="text.txt")
    zqc.genai.register("phi-4-mini.w4a8")
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

from zqc import _library

_CONFIG = "genai_config.json"


def register(folder: str | os.PathLike[str]) -> Path:
    """Copies the library for onnxruntime into the folder of a model, and names it in its configuration; its path.

    onnxruntime-genai takes libraries only from the folder of the model, so one that is installed elsewhere is copied.
    To be repeated when zqc is updated.
    """
    config = Path(folder, _CONFIG)
    content = json.loads(config.read_text("utf-8-sig"))
    try:
        decoder = content["model"]["decoder"]
    except (KeyError, TypeError):
        raise ValueError(f"{config}: it has no model.decoder") from None
    library = config.with_name(_library.shipped("zqc_ort").name)
    options = decoder.get("session_options") or {}
    decoder["session_options"] = options
    other = options.get("custom_ops_library")
    if other not in (None, library.name):
        raise ValueError(f"{config}: it registers {other} already, and onnxruntime-genai takes one library")
    _replace(library, _library.shipped("zqc_ort").read_bytes())
    if other is None:
        options["custom_ops_library"] = library.name
        _replace(config, json.dumps(content, indent=4, ensure_ascii=False).encode())
    return library


def _replace(path: Path, content: bytes) -> None:
    """Writes a file at once, or not at all; a session that has the old one mapped keeps it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        if path.exists():
            shutil.copymode(path, temporary)
        else:
            os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
