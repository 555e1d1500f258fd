"""The compiler in the shape of `onnxruntime.quantization`."""

import os
import re
import warnings
from collections.abc import Sequence
from typing import Any

from zqc._commands import Result, compile

# Keywords of quantize_static and quantize_dynamic that choose among integer formats, or tell how these are found.
_WITHOUT_MEANING = {
    "quant_format",
    "op_types_to_quantize",
    "per_channel",
    "reduce_range",
    "activation_type",
    "weight_type",
    "calibrate_method",
    "calibration_providers",
    "calibration_cache_path",
    "extra_options",
}


def quantize(
    model_input: Any,
    model_output: str | os.PathLike[str],
    calibration_data_reader: Any = None,
    *,
    nodes_to_quantize: Sequence[str] | None = None,
    nodes_to_exclude: Sequence[str] | None = None,
    use_external_data_format: bool = False,
    **options: Any,
) -> Result:
    """As `onnxruntime.quantization.quantize_static`, by `zqc.compile`, whose options it takes too.

    Keywords of quantize_static that choose among integer formats have no meaning here, and a warning names them.
    """
    ignored = sorted(_WITHOUT_MEANING & options.keys())
    if ignored:
        warnings.warn(f"zqc.quantize: without meaning for W4A8 floating point: {', '.join(ignored)}", stacklevel=2)
    return compile(
        model_input,
        model_output,
        calibration=calibration_data_reader,
        only=_exactly(nodes_to_quantize),
        keep=_exactly(nodes_to_exclude),
        external_data=use_external_data_format,
        **{name: value for name, value in options.items() if name not in _WITHOUT_MEANING},
    )


def _exactly(names: Sequence[str] | None) -> list[str]:
    return [f"^{re.escape(name)}$" for name in names or []]
