"""The options of the command line by keyword, for type checkers and editors. `zqc --help` says what they do."""

import os
from collections.abc import Sequence
from typing import Literal, TypedDict

Path = str | os.PathLike[str]
Words = str | Sequence[str]


class EvaluateOptions(TypedDict, total=False):
    """Options of `zqc.evaluate`; None is as if it were not given."""

    reference: Path | None
    window: int | None
    max_tokens: int | None
    bos: int | None
    backend: Literal["auto", "rten", "ort"] | None
    threads: int | None


class CompileOptions(TypedDict, total=False):
    """Options of `zqc.compile`; None is as if it were not given."""

    emit: Literal["onnx", "cuda", "ir"] | None
    target: Literal["portable", "native"] | None
    external_data: bool | None
    report: Path | None
    verify: bool | None
    resume: bool | None
    stop_after: str | None
    weights: Literal["fp4", "lut4", "e3m0", "fp8", "int8", "int4", "int4-sym"] | None
    activations: Literal["fp8", "e5m2", "int8", "none"] | None
    group_size: int | None
    head: Literal["int8", "fp8", "fp4", "float"] | None
    method: Literal["gptq", "rtn"] | None
    order: Literal["natural", "activation"] | None
    scale: str | None
    scale_search: Literal["max", "mse", "hessian"] | None
    hessian: Literal["quantized", "float"] | None
    token_weights: Literal["uniform", "gradient"] | None
    propagation: float | None
    lorc_rank: int | None
    lorc: Literal["plain", "activation"] | None
    lorc_factors: Literal["fp8", "bf16"] | None
    lorc_rounds: int | None
    tune: int | None
    keep: Words | None
    only: Words | None
    requantize: bool | None
    samples: int | None
    seq_len: int | None
    bos: int | None
    backend: Literal["auto", "rten", "ort"] | None
    threads: int | None
