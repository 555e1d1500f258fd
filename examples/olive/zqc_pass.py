"""A pass of Olive that compiles a model to W4A8 floating point.

    PYTHONPATH=. olive run --config workflow.json --package-config package.json
"""

from pathlib import Path

from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam

import zqc


class ZqcQuantization(Pass):
    """Quantizes the linear layers of a language model by `zqc.compile`."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        return {
            "calibration": PassConfigParam(
                type_=list[str], default_value=None, description="Files of calibration data."
            ),
            "tokenizer": PassConfigParam(
                type_=str, default_value=None, description="The model's tokenizer.json, for calibration text."
            ),
            "options": PassConfigParam(
                type_=dict, default_value={}, description='Other options of zqc.compile: {"group_size": 32}.'
            ),
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        output = Path(resolve_onnx_path(output_model_path))
        output.parent.mkdir(parents=True, exist_ok=True)
        zqc.compile(
            model.model_path,
            output,
            calibration=config.calibration,
            tokenizer=config.tokenizer,
            **config.options,
        )
        return ONNXModelHandler(model_path=str(output.parent), onnx_file_name=output.name)
