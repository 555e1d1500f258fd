"""Writes the conversion tables that the format and token tests read.

    python formats/tests/tables/generate.py

Needs numpy, ml_dtypes (0.6.0) and onnxruntime (1.32.0) with onnx (1.23.2). A format's table holds little-endian records
(input: f32, code: u8). The inputs are every value of the format, every midpoint of two neighbours, the f32 neighbours of
both, zeros, f32 subnormals, the edges of overflow, infinities and random bit patterns.
"""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx.parser
import onnxruntime
from onnx import TensorProto

HERE = Path(__file__).parent
RNG = np.random.default_rng(0)
E3M0 = np.array([0, 0.25, 0.5, 1, 2, 4, 8, 16], np.float32)
LUT4 = np.array([0.234375, 0.75, 1.375, 1.875, 2.75, 3.5, 4.5, 6], np.float32)


def cast(dtype, low, high):
    """Saturating conversion by ml_dtypes: clip, then round to nearest even."""
    bits = np.uint8 if np.dtype(dtype).itemsize == 1 else None
    return lambda x: np.clip(x, low, high).astype(dtype).view(bits)


def cast_integer(low, high, mask):
    """Clip, round half to even, and keep the low bits."""
    return lambda x: np.rint(np.clip(x, low, high)).astype(np.int32).astype(np.uint8) & np.uint8(mask)


def cast_e3m0(x):
    """The nearest value by exhaustive search; a tie between two powers of two goes to the larger, one with 0 to 0."""
    distance = np.abs(E3M0.astype(np.float64)[None, :] - np.minimum(np.abs(x.astype(np.float64)), 16)[:, None])
    nearest = distance == distance.min(axis=1, keepdims=True)
    first, last = nearest.argmax(axis=1), 7 - nearest[:, ::-1].argmax(axis=1)
    code = np.where(first == 0, first, last)
    return (code + 8 * np.signbit(x)).astype(np.uint8)


def cast_lut4(x):
    """The nearest value by exhaustive search; a tie goes to the smaller magnitude, the sign is that of the input."""
    distance = np.abs(LUT4.astype(np.float64)[None, :] - np.minimum(np.abs(x.astype(np.float64)), 6)[:, None])
    return (distance.argmin(axis=1) + 8 * np.signbit(x)).astype(np.uint8)


FORMATS = {
    "e2m1": (ml_dtypes.float4_e2m1fn, cast(ml_dtypes.float4_e2m1fn, -6, 6)),
    "e3m0": (None, cast_e3m0),
    "e4m3": (ml_dtypes.float8_e4m3fn, cast(ml_dtypes.float8_e4m3fn, -448, 448)),
    "e5m2": (ml_dtypes.float8_e5m2, cast(ml_dtypes.float8_e5m2, -57344, 57344)),
    "int4": (ml_dtypes.int4, cast_integer(-8, 7, 0xF)),
    "int8": (np.int8, cast_integer(-128, 127, 0xFF)),
    "lut4": ("lut4", cast_lut4),
}


def finite_values(dtype):
    if dtype is None:
        values = np.concatenate([-E3M0, E3M0])
    elif dtype == "lut4":
        values = np.concatenate([-LUT4, LUT4])
    elif dtype is ml_dtypes.int4:
        values = np.arange(-8, 8)
    elif dtype is ml_dtypes.float4_e2m1fn:
        values = np.arange(16, dtype=np.uint8).view(dtype)
    else:
        values = np.arange(256, dtype=np.uint8).view(dtype)
    values = np.asarray(values).astype(np.float32)
    return np.unique(values[np.isfinite(values)])


def inputs(dtype):
    values = finite_values(dtype)
    step = values[-1] - values[-2]
    edges = np.concatenate([values, (values[1:] + values[:-1]) / 2, [values[-1] + step / 2, values[0] - step / 2]])
    edges = edges.astype(np.float32)
    below, above = np.nextafter(edges, np.float32(-np.inf)), np.nextafter(edges, np.float32(np.inf))
    tiny = np.array([0.0, -0.0, 1e-45, -1e-45, 1e-40, -1e-40, 1.2e-38], np.float32)
    huge = np.array([1e9, -1e9, 3.4e38, -3.4e38, np.inf, -np.inf], np.float32)
    patterns = RNG.integers(0, 2**32, 1000, dtype=np.uint32).view(np.float32)
    ordinary = (RNG.standard_normal(1000) * values[-1] / 3).astype(np.float32)
    return np.concatenate([edges, below, above, tiny, huge, patterns[~np.isnan(patterns)], ordinary])


def write_format(name):
    dtype, convert = FORMATS[name]
    x = inputs(dtype)
    records = np.zeros(len(x), dtype=[("input", "<f4"), ("code", "u1")])
    records["input"], records["code"] = x, convert(x)
    (HERE / f"{name}.bin").write_bytes(records.tobytes())


def write_values():
    """What every code stands for, as rows of f32 in code order."""
    for name in ("e2m1", "e4m3", "e5m2"):
        dtype = FORMATS[name][0]
        codes = np.arange(16 if name == "e2m1" else 256, dtype=np.uint8)
        (HERE / f"{name}_values.bin").write_bytes(codes.view(dtype).astype("<f4").tobytes())


FLOAT_TOKEN = """
magnitude = Abs(x)
largest = ReduceMax <keepdims=1> (magnitude, last_axis)
raw = Div(largest, max)
scale = Max(raw, floor)
scaled = Div(x, scale)
code = Cast <to={dtype}, saturate=1> (scaled)
value = Cast <to=1> (code)
y = Mul(value, scale)
"""
INTEGER_TOKEN = """
least = ReduceMin <keepdims=1> (x, last_axis)
low = Min(least, zero)
largest = ReduceMax <keepdims=1> (x, last_axis)
high = Max(largest, zero)
range = Sub(high, low)
raw = Div(range, max)
scale = Max(raw, floor)
below = Neg(low)
exact_zero_point = Div(below, scale)
zero_point = Round(exact_zero_point)
scaled = Div(x, scale)
rounded = Round(scaled)
moved = Add(rounded, zero_point)
clipped = Clip(moved, zero, max)
code = Cast <to=2> (clipped)
value = Cast <to=1> (code)
zero_code = Cast <to=2> (zero_point)
zero_value = Cast <to=1> (zero_code)
centred = Sub(value, zero_value)
y = Mul(centred, scale)
"""
TOKENS = {
    "e4m3": (448.0, FLOAT_TOKEN.format(dtype=TensorProto.FLOAT8E4M3FN)),
    "e5m2": (57344.0, FLOAT_TOKEN.format(dtype=TensorProto.FLOAT8E5M2)),
    "int8": (255.0, INTEGER_TOKEN),
}


def write_tokens():
    """24 tokens of 61 inputs, and what ONNX Runtime makes of them token-wise in each format."""
    width = 61
    x = RNG.standard_normal((24, width)) * 10.0 ** RNG.integers(-8, 9, (24, 1))
    x[3] = 0
    x[4] = RNG.standard_normal(width) * 1e-13
    x[5, 7] *= 1000
    x[6], x[7] = np.abs(x[6]), -np.abs(x[7])
    x = x.astype(np.float32)
    (HERE / "tokens.bin").write_bytes(x.astype("<f4").tobytes())
    for name, (largest, nodes) in TOKENS.items():
        text = f"""<ir_version: 9, opset_import: ["" : 19]>
        tokens (float[t, {width}] x) => (float[t, {width}] y)
        <int64[1] last_axis = {{-1}}, float zero = {{0.0}}, float max = {{{largest}}}, float floor = {{1e-12}}>
        {{ {nodes} }}"""
        model = onnx.parser.parse_model(text)
        onnx.checker.check_model(model)
        (y,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
        (HERE / f"tokens_{name}.bin").write_bytes(y.astype("<f4").tobytes())


if __name__ == "__main__":
    for format_name in FORMATS:
        write_format(format_name)
    write_values()
    write_tokens()
